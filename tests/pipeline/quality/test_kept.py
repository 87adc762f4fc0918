"""Kept: what a user would miss, for every kind of result, beside the strict figure."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillframe.errors import QualityError
from stillframe.models.results import (
    Classes,
    Depth,
    Detections,
    Mask,
    Picture,
    Result,
    Tensors,
)
from stillframe.pipeline.quality.agreement import (
    MEASURES,
    Agreement,
    BoxAgreement,
    against_floor,
    agreement_with,
)
from stillframe.pipeline.quality.boxes import kept_rows

Box = tuple[float, float, float, float]
ONE, FAR, THIRD = (0, 0, 10, 10), (50, 50, 60, 60), (80, 0, 90, 10)


def boxes(*strong: Box, faint: tuple[Box, ...] | None = None, points: Any = None) -> Detections:
    result = Detections(
        np.array(strong, np.float32).reshape(-1, 4), np.full(len(strong), 0.4, np.float32),
        np.zeros(len(strong), np.int64), ("cat", "dog"),
        None if points is None else np.array(points, np.float32),
    )  # fmt: skip
    return result if faint is None else replace(result, faint=boxes(*faint))


def agreed(*pairs: tuple[Result, Result]) -> Any:
    agreement = agreement_with(pairs[0][1], place=True)
    for result, reference in pairs:
        agreement.add(result, reference)
    return agreement


# result, reference, kept, strict, missed, invented
CASES: dict[str, tuple[Detections, Detections, float, float, int, int]] = {
    "the same": (boxes(ONE, FAR), boxes(FAR, ONE), 1, 1, 0, 0),
    "a score fell below the limit": (boxes(faint=(ONE,)), boxes(ONE), 1, 0, 0, 0),
    "a score rose above the limit": (boxes(ONE), boxes(faint=(ONE,)), 1, 0, 0, 0),
    "one of two hovers": (boxes(ONE, faint=(FAR,)), boxes(ONE, FAR), 1, 2 / 3, 0, 0),
    "two change places": (boxes(ONE, faint=(FAR,)), boxes(FAR, faint=(ONE,)), 1, 0, 0, 0),
    "really lost": (boxes(ONE, faint=(THIRD,)), boxes(ONE, FAR), 2 / 3, 2 / 3, 1, 0),
    "really invented": (boxes(ONE, FAR, faint=(ONE,)), boxes(ONE), 2 / 3, 2 / 3, 0, 1),
    "one faint box for two": (boxes(faint=(ONE,)), boxes(ONE, (0, 0, 10, 9)), 0.5, 0, 1, 0),
    "only faint ones differ": (boxes(faint=(ONE,)), boxes(faint=(FAR,)), 1, 1, 0, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_objects_are_lost_where_not_even_a_faint_one_is_left(name: str) -> None:
    result, reference, kept, strict, missed, invented = CASES[name]
    agreement = agreed((result, reference))
    assert (agreement.value, agreement.strict) == (pytest.approx(kept), pytest.approx(strict))
    assert (agreement.missed_objects, agreement.invented_objects) == (missed, invented)
    assert agreement.telling == (name != "only faint ones differ")


def test_another_class_does_not_keep_a_box() -> None:
    dog = replace(boxes(ONE), class_id=np.ones(1, np.int64))
    assert agreed((replace(boxes(), faint=dog), boxes(ONE))).value == 0.0


def test_counts_of_frames_add_up() -> None:
    frames = [CASES[name][:2] for name in CASES]
    whole, parts = agreed(*frames), agreement_with(boxes())
    for frame in frames:
        parts.merge(agreed(frame))
    assert parts == whole
    assert whole.value == pytest.approx(1 - 3 / (2 * whole.matched + whole.extra + whole.missed))


def test_a_stale_box_is_kept_and_its_place_tells() -> None:
    agreement = agreed((boxes((0, 0, 10, 6)), boxes(ONE)))
    assert (agreement.value, agreement.place) == (1.0, pytest.approx(0.6))
    assert agreed((boxes(), boxes())).place is None


def test_landmarks_tell_the_place_and_whether_it_is_the_same_object() -> None:
    points = [[(2, 3), (8, 3), (5, 5), (3, 8), (7, 8)]]
    ours, far = (np.array(points, np.float32) + shift for shift in (1, 2))
    near = agreed((boxes(ONE, points=ours), boxes(ONE, points=points)))
    assert near.value == 1.0
    assert near.place == pytest.approx(1 - np.sqrt(2) / 10)
    assert near.mean_iou == 1.0
    off = agreed((boxes(ONE, points=far), boxes(ONE, points=points)))
    assert (off.value, off.strict, off.missed_objects, off.invented_objects) == (0.0, 1.0, 1, 1)


def test_the_outline_of_a_line_of_text_counts_as_its_box() -> None:
    def line(right: float) -> Detections:
        corners = [[(0, 0), (right, 0), (right, 10), (0, 10)]]
        return boxes((0, 0, right, 10), points=corners)

    agreement = agreed((line(100), line(140)))
    assert agreement.value == 1.0
    assert agreement.place == pytest.approx(100 / 140)


def probability(*values: float) -> Mask:
    return Mask(np.array([values], np.float32), ("person",))


def test_pixels_that_hover_about_a_half_are_kept() -> None:
    dense = probability(0.9, 0.55, 0.45, 0.1, 0.7, 0.6)
    ours = probability(0.9, 0.39, 0.95, 0.1, 0.4, 0.39)  # the last one is lost
    agreement = agreed((ours, dense))
    assert agreement.strict == pytest.approx(1 / 5)
    assert agreement.value == pytest.approx(4 / 5)
    assert agreed((dense, ours)).value == agreement.value
    assert not agreed((probability(0.4, 0.1), probability(0.1, 0.3))).telling
    assert agreed((probability(0.4, 0.1), probability(0.1, 0.5))).telling


def square(left: int, size: int = 40) -> Mask:
    values = np.zeros((300, 400), np.uint8)  # a diagonal of 500: RIM is 2 pixels
    values[100 : 100 + size, left : left + size] = 1
    return Mask(values, ("room", "cat"))


@pytest.mark.parametrize(("shift", "kept"), [(0, True), (1, True), (2, True), (3, False)])
def test_borders_of_labels_may_move_a_little(shift: int, kept: bool) -> None:
    agreement = agreed((square(100 + shift), square(100)))
    assert (agreement.value == 1) == kept
    assert (agreement.strict == 1) == (shift == 0)
    assert agreement.place == 1.0  # within 4 pixels


def test_a_small_thing_that_is_gone_is_not_kept() -> None:
    empty = Mask(np.zeros((300, 400), np.uint8), ("room", "cat"))
    agreement = agreed((empty, square(100, size=2)))
    assert agreement.value == pytest.approx(0.5, abs=1e-4)  # all of the room, none of the cat
    assert agreed((empty, empty)).telling is False
    assert agreement.telling is True


def test_masks_of_two_sizes_are_reported() -> None:
    with pytest.raises(QualityError, match=r"mask: expected shape \(1, 2\), got \(1, 3\)"):
        agreed((probability(0, 0, 0), probability(0, 0)))


def test_a_floor_above_one_is_in_decibels() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    agreement = agreed((Picture(image + np.uint8(1)), Picture(image)))
    assert against_floor(agreement, 0.98) == (agreement.value, 0.98)
    figure, floor = against_floor(agreement, 45.0)
    assert (figure * 99, floor * 99) == (pytest.approx(48.13, abs=0.01), pytest.approx(45))
    assert agreement.strict == pytest.approx(48.13, abs=0.01)


def test_of_raw_outputs_kept_is_strict() -> None:
    ours, theirs = ({"y": np.array(each)} for each in ([3, 4.5], [3.0, 4.0]))
    agreement = agreed((Tensors(ours), Tensors(theirs)))
    assert agreement.value == agreement.strict == pytest.approx(0.9)


@st.composite
def crowds(draw: st.DrawFn) -> Detections:
    def crowd(count: int) -> Detections:
        rng = np.random.default_rng(draw(st.integers(0, 2**31)))
        corner = rng.uniform(0, 12, (count, 2))
        return replace(
            boxes(*np.hstack((corner, corner + rng.uniform(6, 12, (count, 2)))).tolist()),
            class_id=rng.integers(0, 2, count),
        )

    return replace(crowd(draw(st.integers(0, 6))), faint=crowd(draw(st.integers(0, 4))))


@settings(deadline=None, max_examples=100)
@given(crowds(), crowds())
def test_kept_is_no_less_than_strict_and_does_not_depend_on_the_side(
    result: Detections, reference: Detections
) -> None:
    ours, back = BoxAgreement(), BoxAgreement()
    ours.add(result, reference)
    back.add(reference, result)
    assert 0 <= ours.strict <= ours.value <= 1
    assert ours.value == pytest.approx(back.value)
    assert (ours.missed_objects, ours.invented_objects) == (
        back.invented_objects, back.missed_objects
    )  # fmt: skip
    kept = kept_rows(result, reference)
    assert [int((~each).sum()) for each in kept] == [ours.invented_objects, ours.missed_objects]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.booleans())
def test_kept_of_masks_is_no_less_than_strict(seed: int, likely: bool) -> None:
    rng = np.random.default_rng(seed)
    masks = [
        Mask(rng.random((12, 9), np.float32), ("a",))
        if likely
        else Mask(rng.integers(0, 3, (12, 9)).astype(np.uint8), ("a", "b", "c"))
        for _ in range(2)
    ]
    agreement: Agreement = agreement_with(masks[1])
    agreement.add(*masks)
    assert 0 <= agreement.strict <= agreement.value <= 1


def test_every_kind_keeps_within_nought_and_one() -> None:
    worst: dict[str, tuple[Result, Result]] = {
        "f1": (boxes(ONE), boxes(FAR)),
        "miou": (probability(1, 0), probability(0, 1)),
        "top1": (
            Classes(np.array([1, 0], np.float32), ("a", "b")),
            Classes(np.array([0, 1], np.float32), ("a", "b")),
        ),
        "depth": (Depth(np.full((9, 9), 4, np.float32)), Depth(np.ones((9, 9), np.float32))),
        "psnr": (
            Picture(np.zeros((9, 9, 3), np.uint8)),
            Picture(np.full((9, 9, 3), 255, np.uint8)),
        ),
        "closeness": (Tensors({"y": np.full(3, np.nan)}), Tensors({"y": np.ones(3)})),
    }
    assert worst.keys() == MEASURES.keys()
    for kind, pair in worst.items():
        agreement = agreed(pair)
        assert agreement.kind == kind
        assert 0 <= agreement.value < 0.01
        assert agreement.telling
