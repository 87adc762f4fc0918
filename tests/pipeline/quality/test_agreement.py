"""Agreement of results, against values worked out by hand."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from stillframe.errors import QualityError
from stillframe.models.results import Detections, Mask, Picture, Result, Tensors
from stillframe.pipeline.quality.agreement import (
    MEASURES,
    MOST_PSNR,
    Agreement,
    BoxAgreement,
    agreement_with,
    overlap,
    pair_boxes,
)

Box = tuple[float, float, float, float]


def detections(*boxes: Box, classes: list[int] | None = None, score: float = 0.9) -> Detections:
    return Detections(
        xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        confidence=np.full(len(boxes), score, np.float32),
        class_id=np.array(classes or [0] * len(boxes), np.int64),
        labels=("cat", "dog"),
    )


def agreed(*pairs: tuple[Result, Result]) -> Agreement:
    agreement = agreement_with(pairs[0][1])
    for result, reference in pairs:
        agreement.add(result, reference)
    return agreement


def test_overlap_is_intersection_over_union() -> None:
    boxes = np.array([(0, 0, 10, 10), (20, 20, 20, 30)])
    others = np.array([(0, 0, 10, 10), (5, 0, 15, 10), (50, 50, 60, 60), (20, 20, 20, 30)])
    assert overlap(boxes, others).tolist() == [[1, pytest.approx(1 / 3), 0, 0], [0, 0, 0, 0]]


ONE, HALF, FAR = (0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60)
# result, reference, true, extra, missed
FRAMES: dict[str, tuple[Detections, Detections, int, int, int]] = {
    "the same": (detections(ONE, FAR), detections(FAR, ONE), 2, 0, 0),
    "an overlap of exactly a half": (detections(HALF), detections(ONE), 1, 0, 0),
    "just less than a half": (detections((0, 0, 10, 4.99)), detections(ONE), 0, 1, 1),
    "another class": (detections(ONE, classes=[1]), detections(ONE), 0, 1, 1),
    "one too many": (detections(ONE, FAR), detections(ONE), 1, 1, 0),
    "one too few": (detections(ONE), detections(ONE, FAR), 1, 0, 1),
    "twice the same box": (detections(ONE, ONE), detections(ONE), 1, 1, 0),
    "an empty scene": (detections(), detections(), 0, 0, 0),
    "nothing found": (detections(), detections(ONE), 0, 0, 1),
}


@pytest.mark.parametrize("name", FRAMES)
def test_detections_are_counted(name: str) -> None:
    result, reference, *expected = FRAMES[name]
    agreement = BoxAgreement()
    agreement.add(result, reference)
    assert [agreement.matched, agreement.extra, agreement.missed] == expected


def test_f1_is_of_the_counts_summed_over_the_clip() -> None:
    names = ("one too many", "one too few", "the same", "an empty scene")
    agreement = agreed(*(FRAMES[name][:2] for name in names))
    assert agreement.kind == "f1"
    assert agreement.strict == pytest.approx(8 / 10)  # 2·4 / (2·4 + 1 + 1)


@pytest.mark.parametrize(("name", "expected"), [("an empty scene", 1.0), ("nothing found", 0.0)])
def test_f1_of_scenes_without_any_pair(name: str, expected: float) -> None:
    assert agreed(FRAMES[name][:2]).strict == expected


def test_scores_of_pairs_are_compared() -> None:
    agreement = BoxAgreement()
    agreement.add(detections(ONE, score=0.9), detections(ONE, score=0.5))
    agreement.add(detections(ONE, score=0.5), detections(ONE, score=0.7))
    assert agreement.mean_score_shift == pytest.approx(0.3)


def test_a_box_makes_way_for_another_that_has_no_choice() -> None:
    # The first box overlaps both by more than a half, the first best; the second only the first.
    result = detections((0, 0, 10, 10), (0, 0, 10, 9))
    reference = detections((0, 0, 10, 9.5), (0, 4, 10, 10.5))
    assert overlap(result.xyxy, reference.xyxy)[1, 1] < 0.5
    assert pair_boxes(result, reference) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("seed", range(40))
def test_no_other_choice_gives_more_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def crowd() -> Detections:
        corner = rng.uniform(0, 6, (int(rng.integers(0, 6)), 2))
        size = rng.uniform(8, 12, corner.shape)
        classes = rng.integers(0, 2, len(corner)).tolist()
        return detections(*np.hstack((corner, corner + size)).tolist(), classes=classes)

    result, reference = crowd(), crowd()
    fits = (overlap(result.xyxy, reference.xyxy) >= 0.5) & (
        result.class_id[:, None] == reference.class_id
    )
    short, long = (fits, fits.T)[:: 1 if len(result) <= len(reference) else -1]
    best = max(
        sum(short[i, j] for i, j in enumerate(order))
        for order in permutations(range(long.shape[0]), short.shape[0])
    )
    pairs = pair_boxes(result, reference)
    assert len(pairs) == best
    assert all(fits[i, j] for i, j in pairs)
    for side in zip(*pairs, strict=True):
        assert len(set(side)) == len(side)


def test_miou_sums_over_the_clip_before_it_divides() -> None:
    labels = ("ground", "person", "never there")
    first = Mask(np.array([[0, 0, 1, 1]], np.uint8), labels)
    second = Mask(np.array([[0, 1, 1, 1]], np.uint8), labels)
    agreement = agreed((first, first), (second, first))
    # ground 2+1 of 2+2, person 2+2 of 2+3; the third label is not there.
    assert agreement.kind == "miou"
    assert agreement.strict == pytest.approx((3 / 4 + 4 / 5) / 2)


def test_miou_of_a_probability_is_of_where_it_is_a_half_or_more() -> None:
    def mask(*values: float) -> Mask:
        return Mask(np.array([values], np.float32), ("person",))

    assert agreed((mask(0.5, 0.9, 0.1, 0.6), mask(1, 1, 0, 0))).strict == pytest.approx(2 / 3)
    assert agreed((mask(0.1, 0.2), mask(0.4, 0.3))).strict == 1.0
    assert agreed((mask(0.1, 0.2), mask(0.4, 0.7))).strict == 0.0


def test_psnr_is_of_the_mean_squared_error_over_the_clip() -> None:
    black, grey = (Picture(np.full((2, 2, 3), value, np.uint8)) for value in (0, 10))
    agreement = agreed((grey, black), (black, black))
    assert agreement.kind == "psnr"
    assert agreement.strict == pytest.approx(10 * np.log10(255**2 / 50))  # 31.14 dB
    assert agreed((black, black)).strict == MOST_PSNR


def test_closeness_is_of_the_worst_output() -> None:
    def tensors(scores: Any, places: Any) -> Tensors:
        return Tensors({"scores": np.array(scores, np.float32), "places": np.array(places)})

    agreement = agreed((tensors([3, 4.5], [1, 2]), tensors([3, 4], [1, 2])))
    assert agreement.kind == "closeness"
    assert agreement.value == pytest.approx(0.9)  # 1 - 0.5 / 5
    assert agreed((tensors([0, 0], [1]), tensors([0, 0], [1]))).value == 1.0
    assert agreed((tensors([0, 1], [1]), tensors([0, 0], [1]))).value == 0.0
    assert agreed((tensors([1, 1], [1]), tensors([1, 1], [1, 2]))).value == 0.0
    assert agreed((tensors([np.nan, 1], [1]), tensors([1, 1], [1]))).value == 0.0


def test_every_kind_of_result_has_a_measure_of_its_own() -> None:
    assert [row.result for row in MEASURES.values()] == list(Result.__args__)
    for kind, row in MEASURES.items():
        assert row.agreement().kind == kind
        assert row.agreement().strict == row.best
        assert row.agreement().value == 1 > row.floor


def test_sizes_that_differ_are_reported() -> None:
    small, large = (Picture(np.zeros((n, 4, 3), np.uint8)) for n in (2, 4))
    with pytest.raises(QualityError, match=r"picture: expected shape \(4, 4, 3\), got \(2, 4, 3\)"):
        agreed((small, large))
