"""When frames are audited: each frame has the same chance, and audits take the share they may."""

import numpy as np
import pytest

from stillframe.audit_clock import (
    CERTIFIED_SHARE,
    FRAMES_A_SECOND,
    SHARE,
    START_SHARE,
    AuditBudget,
    AuditClock,
)
from stillframe.certificate import BettingBounds


def test_gaps_are_exponential_and_each_frame_has_the_same_chance() -> None:
    clock = AuditClock(seed=1)
    gaps, last = [], 0
    clock.start(10.0)
    for index in range(40_000):
        if clock.tick():
            gaps.append(index - last)
            last = index
            clock.start(10.0)
    assert len(gaps) == pytest.approx(4000, rel=0.05)
    assert np.std(gaps) == pytest.approx(10, rel=0.1)
    assert np.mean(np.array(gaps) > 20) == pytest.approx(np.exp(-2), abs=0.02)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.05


def test_frames_that_cannot_be_drawn_are_stood_for_by_the_next_draw() -> None:
    clock = AuditClock()
    clock.start(5.0)
    frames, weights = 0, 0.0
    for _ in range(3000):
        for at in range(1000):
            frames += 1
            if clock.tick(blocked=2 <= at < 7):
                break
        weights += clock.weight
        clock.start(5.0)
    assert weights == pytest.approx(frames, rel=0.03)
    assert clock.uncovered == 0
    assert not clock.tick(blocked=True)
    assert clock.weight == pytest.approx(1 + 1 / (1 - np.exp(-1 / 5)))


def test_bounds_are_of_the_average_of_all_frames() -> None:
    """The whole way, with a pace that changes and times at which no frame can be drawn: the bound
    at the end is at most the average over all frames, in 95 % of the runs."""
    rng, wrong, runs = np.random.default_rng(7), 0, 120
    for seed in range(runs):
        clock, bounds = AuditClock(seed), BettingBounds()
        losses = (rng.random(1500) < np.linspace(0.0, 0.4, 1500)) * rng.random(1500)
        clock.start(4.0)
        for at, loss in enumerate(losses):
            if clock.tick(blocked=at % 50 < 5):
                bounds.add(1 - loss, clock.weight)
                clock.start(4.0 if at < 500 else 9.0)
        wrong += bounds.lower() > 1 - losses.mean()
    assert wrong <= 0.05 * runs


def test_a_draw_stands_for_no_more_than_twice_the_usual() -> None:
    clock = AuditClock()
    clock.start(5.0)
    for _ in range(100):
        assert not clock.tick(blocked=True)
    assert clock.weight == pytest.approx(11.52, abs=0.5)
    assert clock.uncovered == 94
    clock.restart(50.0)
    assert clock.weight == pytest.approx(56.5, abs=0.1)


@pytest.mark.parametrize(
    ("starting", "certified", "share"),
    [(False, False, SHARE), (False, True, CERTIFIED_SHARE), (True, False, START_SHARE)],
)
def test_audits_take_their_share(starting: bool, certified: bool, share: float) -> None:
    budget = AuditBudget()
    budget.add(0.1, 0.004, None)
    gap = budget.gap(starting=starting, certified=certified)
    assert 0.1 / (0.1 + gap * 0.004) == pytest.approx(share)
    assert CERTIFIED_SHARE <= 0.06


def test_at_first_there_is_about_one_in_a_second_of_the_stream() -> None:
    """Whatever a frame costs, if an audit costs no more than a twentieth of a second."""
    budget = AuditBudget()
    budget.add(0.05, None, 1 / 25)
    assert budget.gap(starting=True, certified=False) == pytest.approx(25)
    budget.add(0.05, 0.001, 1 / 25)
    assert budget.gap(starting=True, certified=False) == pytest.approx(25)
    assert budget.gap(starting=False, certified=False) == pytest.approx(50 * (1 - SHARE) / SHARE)
    slow = AuditBudget()
    slow.add(1.0, 0.001, 1 / 25)
    assert slow.gap(starting=True, certified=False) == pytest.approx(25 * 20**0.5)


def test_a_gap_stays_until_it_is_far_off() -> None:
    """So that most audits weigh the same."""
    budget = AuditBudget()
    budget.add(0.1, 0.01, None)
    first = budget.gap(starting=False, certified=False)
    budget.add(0.2, 0.01, None)
    assert budget.gap(starting=False, certified=False) == first
    for _ in range(9):
        budget.add(0.2, 0.01, None)
    assert budget.gap(starting=False, certified=False) == pytest.approx(2 * first, rel=0.1)


def test_before_anything_is_known_a_guess_must_do() -> None:
    budget = AuditBudget()
    assert budget.gap(starting=True, certified=False) == FRAMES_A_SECOND
    budget.add(0.1, None, None)
    assert budget.gap(starting=False, certified=False) == FRAMES_A_SECOND
    budget.add(0.0, 1.0, None)
    budget.add(0.0, 1.0, None)
    assert budget.gap(starting=False, certified=False) == 1.0
