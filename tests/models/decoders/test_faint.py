"""Boxes below the confidence limit: decoded beside the others, which they leave as they are."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.models.decoders import boxes, detection, faint, picodet, pnet, text, yolo
from stillframe.models.model import Form, Sizing, View
from stillframe.models.results import Detections

SIZE = 96, 128
VIEW = View((192, 250), SIZE, (0.51, 0.5), (0.0, 0.0))
LABELS = ("cat", "dog", "eel")
LIMIT = 0.4

Outputs = list[NDArray[Any]]
Rng = np.random.Generator


def scores(rng: Rng, *shape: int) -> NDArray[np.float32]:
    """In steps, so that many are equal, and many about the limits."""
    return np.round(rng.uniform(0, 0.9, shape), 2).astype(np.float32)


def corners(rng: Rng, count: int) -> NDArray[np.float32]:
    """Crowded, so that much is suppressed."""
    low = rng.uniform(0, 60, (count, 2))
    return np.concatenate((low, low + rng.uniform(10, 40, (count, 2))), 1).astype(np.float32)


def centres(rng: Rng, count: int) -> NDArray[np.float32]:
    low, high = np.split(corners(rng, count), 2, axis=1)
    return np.concatenate(((low + high) / 2, high - low), 1)


def centerface(rng: Rng) -> Outputs:
    shape = SIZE[0] // 4, SIZE[1] // 4
    sizes, offsets, points = (rng.normal(1, 0.5, (1, n, *shape)) for n in (2, 2, 10))
    likely = scores(rng, 1, 1, *shape) * (rng.random(shape) < 0.3)
    return [each.astype(np.float32) for each in (likely, sizes, offsets, points)]


def darknet(rng: Rng) -> Outputs:
    return [
        rng.normal(0, 2, (1, 3 * 8, SIZE[0] // s, SIZE[1] // s)).astype(np.float32)
        for s in (16, 32)
    ]


def rows_v5(rng: Rng, extra: int = 0, count: int = 300) -> NDArray[np.float32]:
    classes = np.sqrt(scores(rng, count, 4))
    more = rng.normal(0, 1, (count, extra))
    return np.concatenate((centres(rng, count), classes, more), 1)[None].astype(np.float32)


def rows_v8(rng: Rng, extra: int = 0, count: int = 300) -> NDArray[np.float32]:
    more = rng.normal(50, 20, (count, extra))
    rows = np.concatenate((centres(rng, count), scores(rng, count, 3), more), 1)
    return rows.T[None].astype(np.float32)


def yolox(rng: Rng) -> Outputs:
    count = len(yolo.cells(SIZE))
    places = rng.normal(0.5, 0.7, (count, 4))
    return [np.concatenate((places, np.sqrt(scores(rng, count, 4))), 1)[None].astype(np.float32)]


def chosen(rng: Rng, extra: int = 0, count: int = 60) -> NDArray[np.float32]:
    classes = rng.integers(0, 3, (count, 1))
    more = rng.normal(50, 20, (count, extra))
    parts = (corners(rng, count), scores(rng, count, 1), classes, more)
    return np.concatenate(parts, 1)[None].astype(np.float32)


def protos(rng: Rng) -> NDArray[np.float32]:
    return rng.normal(0, 1, (1, 8, SIZE[0] // 4, SIZE[1] // 4)).astype(np.float32)


def listed(rng: Rng) -> Outputs:
    rows = chosen(rng)[0]
    order = rows[:, [0, 5, 1, 2, 3, 4]]
    return [order[:, [0, 2, 3, 4]], rows[:, 4], rows[:, 5]]


def ssd(rng: Rng) -> Outputs:
    relative = corners(rng, 300)[None] / np.array((SIZE[1], SIZE[0]) * 2, np.float32)
    return [relative, scores(rng, 1, 300, 4)]


def detection_output(rng: Rng) -> Outputs:
    rows = chosen(rng)[0]
    relative = rows[:, :4] / np.array((SIZE[1], SIZE[0]) * 2, np.float32)
    table = np.concatenate((np.zeros((60, 1)), rows[:, 5:6], rows[:, 4:5], relative), 1)
    return [table[None, None].astype(np.float32)]


def yolo_v7(rng: Rng) -> Outputs:
    rows = chosen(rng)[0]
    table = np.concatenate((np.zeros((60, 1)), rows[:, :4], rows[:, 5:6], rows[:, 4:5]), 1)
    return [table.astype(np.float32)]


PYRAMID = picodet.GeneralizedFocal(
    (picodet.PyramidLevel(8, 0, 2), picodet.PyramidLevel(16, 1, 3)), 8
)


def pyramid(rng: Rng) -> Outputs:
    counts = [SIZE[0] // s * SIZE[1] // s for s in (8, 16)]
    logits = [rng.normal(0, 2, (1, n, 32)).astype(np.float32) for n in counts]
    return [*(scores(rng, 1, n, 3) for n in counts), *logits]


def windows(rng: Rng) -> Outputs:
    probability = scores(rng, 1, 43, 59, 1) * (rng.random((1, 43, 59, 1)) < 0.2)
    offsets = rng.normal(0, 0.2, (1, 43, 59, 4)).astype(np.float32)
    return [offsets, np.concatenate((1 - probability, probability), 3).astype(np.float32)]


def page(rng: Rng) -> Outputs:
    ink = np.zeros(SIZE, np.float32)
    for left, top in zip(rng.integers(2, 100, 12), rng.integers(2, 85, 12), strict=True):
        cv2.rectangle(ink, (left, top), (left + 20, top + 6), float(rng.uniform(0.31, 0.8)), -1)
    return [ink[None, None]]


CASES: dict[str, tuple[Callable[..., Any], Callable[[Rng], Outputs]]] = {
    "centerface": (detection.centerface, centerface),
    "yolo_v3": (detection.yolo_v3, darknet),
    "yolox": (yolo.yolox, yolox),
    "yolo_v5": (yolo.yolo_v5, lambda rng: [rows_v5(rng)]),
    "yolo_v5_masks": (yolo.yolo_v5_masks, lambda rng: [rows_v5(rng, 8), protos(rng)]),
    "yolo_v8": (yolo.yolo_v8, lambda rng: [rows_v8(rng)]),
    "yolo_v8, crowded": (yolo.yolo_v8, lambda rng: [rows_v8(rng, count=9000)]),
    "yolo_v8_masks": (yolo.yolo_v8_masks, lambda rng: [rows_v8(rng, 8), protos(rng)]),
    "yolo_v8_points": (yolo.yolo_v8_points, lambda rng: [rows_v8(rng, 15)]),
    "end_to_end": (boxes.end_to_end, lambda rng: [chosen(rng)]),
    "end_to_end_masks": (boxes.end_to_end_masks, lambda rng: [chosen(rng, 8), protos(rng)]),
    "end_to_end_points": (boxes.end_to_end_points, lambda rng: [chosen(rng, 15)]),
    "yolo_v7_end_to_end": (boxes.yolo_v7_end_to_end, yolo_v7),
    "detection_output": (boxes.detection_output, detection_output),
    "named": (boxes.NamedBoxes(0, 1, 2), listed),
    "ssd": (boxes.Ssd(0, 1, background=True), ssd),
    "picodet": (PYRAMID, pyramid),
    "pnet": (pnet.pnet, windows),
    "text": (text.text_lines, page),
}
SINGLE = ("centerface", "pnet", "text")


def decode(name: str, seed: int, limit: float = LIMIT) -> Detections:
    decoder, outputs = CASES[name]
    labels = LABELS[:1] if name in SINGLE else LABELS
    form = Form("detection", decoder, Sizing(SIZE), labels=labels, confidence=limit, overlap=0.5)
    result = decoder(outputs(np.random.default_rng(seed)), VIEW, form)
    assert isinstance(result, Detections)
    return result


def without_faint(monkeypatch: pytest.MonkeyPatch, decode: Callable[[], Detections]) -> Detections:
    with monkeypatch.context() as patch:
        patch.setattr(faint, "FAINT", 1.0)
        return decode()


def same_bits(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return bool(ours.dtype == theirs.dtype and np.array_equal(ours, theirs))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", CASES)
def test_faint_boxes_leave_the_result_as_it_is(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = decode(name, seed)
    alone = without_faint(monkeypatch, partial(decode, name, seed))
    assert len(alone)
    assert result.faint is not None
    assert not alone.faint
    for part in ("xyxy", "confidence", "class_id", "landmarks", "masks"):
        assert same_bits(getattr(result, part), getattr(alone, part)), part
    assert result.to_dict() == alone.to_dict()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", [name for name in CASES if "crowded" not in name])
def test_faint_boxes_are_those_that_a_lower_limit_would_give(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faint, "MOST_FAINT", 10**6)
    result = decode(name, seed)
    lower = without_faint(monkeypatch, partial(decode, name, seed, LIMIT * 0.6))
    rest = result.faint
    assert rest is not None
    assert len(rest)
    assert (rest.confidence < result.confidence.min()).all()
    for part in ("xyxy", "confidence", "class_id", "landmarks"):
        ours, below = getattr(result, part), getattr(rest, part)
        if ours is not None:
            assert same_bits(np.concatenate((ours, below)), getattr(lower, part)), part


@pytest.mark.parametrize("seed", range(20))
def test_faint_candidates_are_suppressed_as_if_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 120))
    xyxy, likely = corners(rng, count), scores(rng, count)
    classes = rng.integers(0, 2, count) if seed % 2 else None
    strong = int(np.count_nonzero(likely > LIMIT))
    one_by_one = detection.suppress(xyxy, likely, 0.5, classes)
    assert detection.suppress(xyxy, likely, 0.5, classes, strong).tolist() == one_by_one.tolist()


def test_most_candidates_of_a_level_are_the_same_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (3, 30, 60, 90, 150, 170):  # fewer than reach the limit, and more
        monkeypatch.setattr(picodet, "MAX_PER_LEVEL", most)
        for seed in range(10):
            result = decode("picodet", seed)
            alone = without_faint(monkeypatch, partial(decode, "picodet", seed))
            assert result.to_dict() == alone.to_dict()


def test_a_crowd_of_faint_boxes_is_bounded() -> None:
    result = decode("yolo_v8, crowded", 1)
    assert result.faint is not None
    assert len(result.faint) <= faint.MOST_FAINT


def test_a_faint_row_that_is_no_box_is_left_out() -> None:
    rows = np.array(
        [[0, 0, 9, 9, 0.9, 0], [20, 20, 29, 29, 0.3, 7], [np.nan, 0, 9, 9, 0.3, 0],
         [20, 20, 29, 29, 0.3, np.nan], [40, 40, 49, 49, 0.3, 2]], np.float32,
    )  # fmt: skip
    form = Form("detection", boxes.end_to_end, Sizing(SIZE), labels=LABELS, confidence=0.4)
    result = boxes.end_to_end([rows], VIEW, form)
    assert result.faint is not None
    assert (len(result), result.faint.class_id.tolist()) == (1, [2])


def test_faint_boxes_do_not_count() -> None:
    result = decode("yolo_v8", 0)
    assert result.faint is not None
    bare = replace(result, faint=None)
    assert len(result) == len(bare)
    assert result.names == bare.names
    assert "faint" not in repr(result)
    assert result.with_evidence(result.evidence).faint is result.faint
