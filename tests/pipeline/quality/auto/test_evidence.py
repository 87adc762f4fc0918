"""What is known of losses: priors, samples that fade, and what one setting tells of another."""

from collections.abc import Mapping

import pytest

from stillframe.models.model import Task
from stillframe.pipeline.quality.auto.costs import EXPIRES, WORK_OF_TOLERANCE, FrameCosts
from stillframe.pipeline.quality.auto.evidence import (
    FAR_LOSS,
    LEAST_SAMPLES,
    MOST_EVERY,
    SKIPPED_HALF_LIVES_S,
    SKIPPED_LOSS,
    TOLERANCE_LOSS,
    TOLERANCES,
    LossEstimate,
    LossEvidence,
)


def test_an_estimate_goes_from_its_prior_to_its_samples_and_back() -> None:
    estimate = LossEstimate(half_life_s=10.0, prior_samples=4.0)
    assert estimate.value(0.1, 0.0) == 0.1
    for time_s in range(40):
        estimate.add(0.5, float(time_s))
    assert estimate.value(0.1, 39.0) > 0.35
    assert estimate.value(0.1, 39.0) > estimate.value(0.1, 60.0) > 0.1
    assert estimate.value(0.1, 500.0) == pytest.approx(0.1, abs=1e-6)


def test_skipping_goes_only_as_far_as_samples_reach() -> None:
    evidence = LossEvidence("detection")
    assert evidence.most_every(0.0) == 1
    for _ in range(int(LEAST_SAMPLES) + 1):
        evidence.add_skipped(1, 0.0, 0.0)
    assert evidence.most_every(0.0) == 2
    for _ in range(int(LEAST_SAMPLES) + 1):
        evidence.add_skipped(4, 0.0, 0.0)
    assert evidence.most_every(0.0) == 5, "a frame further away tells of nearer ones"
    assert evidence.most_every(20 * SKIPPED_HALF_LIVES_S[0]) == 1, "samples fade"


def test_skipping_loses_the_mean_over_its_frames() -> None:
    evidence = LossEvidence("detection")
    slope = SKIPPED_LOSS["detection"]
    assert evidence.of_skipping(1, 0.0) == 0.0
    assert evidence.of_skipping(3, 0.0) == pytest.approx((slope + 2 * slope) / 3)
    before = evidence.of_skipping(MOST_EVERY, 0.0)
    for _ in range(50):
        evidence.add_skipped(MOST_EVERY, 0.0, 0.0)
    assert evidence.of_skipping(MOST_EVERY, 0.0) < before / 4
    for _ in range(50):
        evidence.add_skipped(2, 1.0, 0.0)
    assert evidence.of_skipping(3, 0.0) < 0.01, "no more is lost at 2 than at 8"


def test_a_loss_counts_at_once_and_is_not_forgotten_at_once() -> None:
    evidence = LossEvidence("detection")
    for index in range(300):
        evidence.add_skipped(1, 0.0, index / 30)
    for index in range(6):
        evidence.add_skipped(1, 0.5, 10 + index / 30)
    alarmed = evidence.of_skipping(2, 10.2)
    assert alarmed > 0.012, "three hundred good samples do not hide six bad ones"
    for index in range(300):
        evidence.add_skipped(1, 0.0, 11 + index / 30)
    assert evidence.of_skipping(2, 21.0) > 0.0015, "they still count ten seconds later"


def test_what_is_sampled_further_away_tells_of_a_nearer_frame_that_no_longer_is() -> None:
    """While every second frame is skipped, samples are of two frames: the one that is skipped is
    not sampled, and its good samples of long ago must not hide what the others say."""
    evidence = LossEvidence("detection")
    for index in range(40):
        evidence.add_skipped(1, 0.0, index / 30)
    before = evidence.of_skipping(2, 40.0)
    for index in range(40):
        evidence.add_skipped(2, 0.4, 40 + index / 30)
    assert evidence.of_skipping(2, 41.5) > 5 * before
    assert evidence.of_skipping(2, 41.5) <= 0.4 / 2
    for index in range(40):
        evidence.add_skipped(1, 0.0, 42 + index / 30)
    assert evidence.of_skipping(2, 43.5) < 0.02, "its own samples count more"


@pytest.mark.parametrize(
    ("task", "known"), [("detection", FAR_LOSS), ("segmentation", TOLERANCE_LOSS)]
)
def test_a_tolerance_loses_no_less_than_a_smaller_one(
    task: Task, known: Mapping[float, float]
) -> None:
    evidence = LossEvidence(task)
    assert evidence.of_tolerance(None, 0.0) == 0.0
    priors = [evidence.of_tolerance(each, 0.0) for each in TOLERANCES]
    assert priors == sorted(priors)
    assert priors[:-1] == pytest.approx([known[each] for each in TOLERANCES[:-1]])
    for _ in range(30):
        evidence.add_tolerance(0.1, 0.0, 0.0)
    loose = evidence.of_tolerance(0.2, 0.0)
    assert loose < TOLERANCE_LOSS[0.2] / 2, "what held at 0.1 makes 0.2 worth a try"
    assert evidence.of_tolerance(0.05, 0.0) <= evidence.of_tolerance(0.1, 0.0) < loose
    for _ in range(60):
        evidence.add_tolerance(0.2, 0.0, 0.0)
    assert evidence.of_tolerance(0.1, 0.0) <= evidence.of_tolerance(0.2, 0.0) < loose / 3


def test_a_tolerance_that_loses_makes_larger_ones_lose() -> None:
    evidence = LossEvidence("detection")
    for _ in range(30):
        evidence.add_tolerance(0.05, 0.5, 0.0)
    assert evidence.of_tolerance(0.2, 0.0) > 0.3
    assert evidence.of_tolerance(0.02, 0.0) <= TOLERANCE_LOSS[0.02]


def test_costs_of_a_tolerance_that_was_not_tried_follow_from_the_one_that_was() -> None:
    costs = FrameCosts()
    assert costs.of_partial(0.1, 100.0) is None
    costs.add_partial(0.1, 10.0)
    costs.add_partial(0.1, 20.0)
    assert costs.of_partial(0.1, 100.0) == 15.0
    ratio = WORK_OF_TOLERANCE[0.2] / WORK_OF_TOLERANCE[0.1]
    assert costs.of_partial(0.2, 100.0) == pytest.approx(15.0 * ratio)
    costs.add_partial(0.05, 30.0)
    assert costs.of_partial(0.05, 100.0) == 30.0
    for _ in range(EXPIRES + 1):
        costs.add_partial(0.05, 20.0)
    assert 0.1 not in costs.partial, "what was not used for long is forgotten"
    costs.forget_partial()
    assert costs.of_partial(0.05, 100.0) is None


def test_no_tolerance_helps_where_everything_moves() -> None:
    costs = FrameCosts()
    costs.add_partial(0.1, 120.0)
    assert costs.of_partial(0.2, 100.0) == 120.0
