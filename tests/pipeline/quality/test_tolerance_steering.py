"""The controller of the tolerance: what lowers it, what raises it, and where it settles."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from stillframe.models.results import Tensors
from stillframe.pipeline.inference.types import Kind, StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.quality.agreement import BoxAgreement, TensorAgreement
from stillframe.pipeline.quality.audited import Audited
from stillframe.pipeline.quality.tolerance_steering import (
    IN_FLIGHT,
    LEAST,
    MOST,
    ToleranceSteering,
)


def boxes(true: int, missed: int = 0) -> BoxAgreement:
    return BoxAgreement(matched=true, missed=missed, missed_objects=missed)


def test_a_shortfall_lowers_the_tolerance_and_plenty_raises_it() -> None:
    steering = ToleranceSteering(0.9)
    lowered = [steering.add(boxes(3, 1)) for _ in range(3)]
    assert lowered == [None, None, pytest.approx(0.7)]
    assert steering.agreement is None
    raised = [steering.add(boxes(5)) for _ in range(8)]
    assert raised == [None] * 7 + [pytest.approx(0.77)]


def test_the_further_off_the_larger_the_step_and_the_sooner() -> None:
    steering = ToleranceSteering(0.98)
    assert [steering.add(boxes(0, 4)) for _ in range(2)] == [None, pytest.approx(0.02 ** (1 / 3))]
    steering = ToleranceSteering(0.98)
    steps = [steering.add(boxes(9, 2)) for _ in range(3)]  # F1 0.9
    assert steps == [None, None, pytest.approx(0.2 ** (1 / 3))]
    exact = ToleranceSteering(1.0)
    assert [exact.add(boxes(9, 2)) for _ in range(3)] == [None, None, 0.25]


def test_far_below_where_it_fell_short_it_rises_faster() -> None:
    steering = ToleranceSteering(0.9)
    for _ in range(2):
        steering.add(boxes(0, 1))
    low = steering.factor
    rises = [steering.add(boxes(5)) for _ in range(32)]
    seen = [each / before for before, each in pairwise([low, *filter(None, rises)])]
    assert low == pytest.approx(0.1 ** (1 / 3))
    assert seen == pytest.approx([1.3, 1.1, 1.1, 1.1])


def test_what_is_good_enough_but_not_plenty_changes_nothing() -> None:
    steering = ToleranceSteering(0.9)
    assert {steering.add(boxes(13, 2)) for _ in range(30)} == {None}  # F1 0.93
    assert steering.agreement == pytest.approx(26 / 28)


def test_counts_are_summed_before_they_are_judged() -> None:
    """One missed box of a frame with one is no reason where others have hundred."""
    steering = ToleranceSteering(0.9)
    for each in (boxes(100), boxes(0, 1), boxes(100), boxes(0, 1)):
        assert steering.add(each) is None
    assert steering.agreement == pytest.approx(400 / 402)


def test_empty_scenes_tell_nothing() -> None:
    steering = ToleranceSteering(0.9)
    assert {steering.add(boxes(0)) for _ in range(50)} == {None}
    assert (steering.agreement, steering.factor) == (None, 1.0)


def test_the_factor_keeps_within_its_bounds() -> None:
    low, high = ToleranceSteering(0.9), ToleranceSteering(0.9)
    for _ in range(200):
        low.add(boxes(0, 1))
        high.add(boxes(1))
    assert (low.factor, high.factor) == (LEAST, MOST)


@pytest.mark.parametrize("start", [0.05, 1.0])
def test_steering_settles_where_the_quality_is_what_was_asked_for(start: float) -> None:
    """A plant whose agreement falls as the factor grows: 0.98 at 0.6."""
    steering = ToleranceSteering(0.98, factor=start)
    seen = []
    for _ in range(600):
        measured = TensorAgreement()
        expected = np.ones(4)
        error = 0.02 / 0.6 * steering.factor
        measured.add(Tensors({"y": expected * (1 + error)}), Tensors({"y": expected}))
        steering.add(measured)
        seen.append(steering.factor)
    assert 0.25 < min(seen[300:]) <= max(seen[300:]) < 0.62


# --- by audits -----------------------------------------------------------------------------------


def audited(index: int, agreement: Any, kind: Kind = "computed", newest: int = 0) -> Audited:
    frame = Frame(np.zeros((1, 1, 3), np.uint8), index, index / 10, index, Fraction(1, 10))
    step = StepResult(frame, Tensors({}), kind, 0.0, None, None, {})
    return Audited(step, agreement, newest or index)


def test_what_was_under_way_while_the_tolerance_changed_is_passed_over() -> None:
    steps: list[tuple[float, bool]] = []
    steering = ToleranceSteering(0.9, lambda factor, lowered: steps.append((factor, lowered)))
    for index in range(2):
        steering.on_audit(audited(index, boxes(0, 1), newest=index + 2))
    first = (pytest.approx(0.1 ** (1 / 3)), True)
    assert steps == [first]
    for index in range(2, 3 + IN_FLIGHT + 1):
        steering.on_audit(audited(index, boxes(0, 1)))
    assert steps == [first]
    for index in (30, 31):
        steering.on_audit(audited(index, boxes(0, 1)))
    assert steps == [first, (pytest.approx(0.1 ** (2 / 3)), True)]


def test_no_tolerance_is_at_fault_for_what_frame_skipping_loses() -> None:
    steering = ToleranceSteering(0.9)
    for index in range(20):
        steering.on_audit(audited(index, boxes(0, 1), "skipped"))
        steering.on_audit(audited(index, None))
    assert (steering.factor, steering.agreement) == (1.0, None)


def test_it_waits_while_there_is_no_tolerance_and_then_begins_afresh() -> None:
    steerable = False
    steering = ToleranceSteering(0.9, steerable=lambda: steerable)
    for index in range(20):
        steering.on_audit(audited(index, boxes(0, 1)))
    assert (steering.factor, steering.agreement) == (1.0, 0.0)
    steerable = True
    steering.on_audit(audited(20, boxes(5)))
    assert (steering.factor, steering.agreement) == (1.0, 1.0)
