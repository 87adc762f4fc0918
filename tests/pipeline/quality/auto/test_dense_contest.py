"""The contest for whole frames: who is tried when, who wins, and what trying costs."""

import itertools

from stillframe.pipeline.quality.auto.costs import FrameCosts
from stillframe.pipeline.quality.auto.dense_contest import (
    AGAIN_S,
    APART,
    ENOUGH,
    ONNX_RUNTIME,
    REUSE,
    TRYING_SHARE,
    DenseContest,
)

FRAME_S = 1 / 30


def play(contest: DenseContest, cost_ms: dict[str, float], frames: range) -> list[str]:
    """Whole frames one after the other; -> what computed each of them."""
    names = []
    for index in frames:
        name = contest.name(list(cost_ms), index * FRAME_S)
        contest.spent_ms += cost_ms[name]
        contest.add(name, cost_ms[name])
        names.append(name)
        assert contest.tried_ms <= TRYING_SHARE * contest.spent_ms
    return names


def test_onnx_runtime_begins_and_others_are_tried_on_single_frames() -> None:
    contest = DenseContest(FrameCosts())
    names = play(contest, {ONNX_RUNTIME: 100.0, REUSE: 150.0}, range(700))
    tried = [index for index, name in enumerate(names) if name == REUSE]
    assert len(tried) == ENOUGH
    assert min(b - a for a, b in itertools.pairwise(tried)) > APART, "they are spread"
    assert contest.best == ONNX_RUNTIME


def test_the_cheapest_wins() -> None:
    contest = DenseContest(FrameCosts())
    names = play(contest, {ONNX_RUNTIME: 100.0, REUSE: 70.0}, range(400))
    assert contest.best == REUSE
    assert names[-1] == REUSE
    assert contest.cost_of_best == 70.0


def test_one_that_is_hardly_cheaper_does_not_take_over() -> None:
    contest = DenseContest(FrameCosts())
    play(contest, {ONNX_RUNTIME: 100.0, REUSE: 99.0}, range(400))
    assert contest.best == ONNX_RUNTIME


def test_a_loser_is_tried_again_after_a_pause_and_may_win_then() -> None:
    contest = DenseContest(FrameCosts())
    play(contest, {ONNX_RUNTIME: 100.0, REUSE: 150.0}, range(500))
    assert contest.has_lost(REUSE)
    later = range(500, 500 + int(3 * AGAIN_S / FRAME_S))
    names = play(contest, {ONNX_RUNTIME: 100.0, REUSE: 50.0}, later)
    assert contest.best == REUSE
    first = names.index(REUSE)
    assert first * FRAME_S > 0.4 * AGAIN_S, "not at once"
    assert ONNX_RUNTIME in contest.costs.dense, "the other one stays known, to be quoted"


def test_pauses_double() -> None:
    contest = DenseContest(FrameCosts())
    names = play(contest, {ONNX_RUNTIME: 100.0, REUSE: 120.0}, range(20000))
    tried = [index * FRAME_S for index, name in enumerate(names) if name == REUSE]
    rounds = [b - a for a, b in itertools.pairwise(tried) if b - a > 0.9 * AGAIN_S]
    assert len(rounds) >= 3
    assert all(b > 1.7 * a for a, b in itertools.pairwise(rounds))
