"""YOLO decoders against plain loops over rows, and against the package of the zoo's weights."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models import zoo
from stillframe.models.decoders import boxes, yolo
from stillframe.models.model import Form, Model, Sizing, View
from stillframe.models.results import Detections
from tests.packages import unpacked

SIZE = (96, 160)
# a source of 320x240 in the middle of 160x96: half its width, and margins left and right
VIEW = View(source=(192, 240), size=SIZE, scale=(0.5, 0.5), offset=(20.0, 0.0))
DDDDOCR, PILLOW = "ddddocr==1.6.1", "pillow==12.0.0"

Array = NDArray[Any]


def form(decoder: Any, classes: int, confidence: float = 0.4, overlap: float = 0.5) -> Form:
    labels = tuple(f"c{i}" for i in range(classes))
    return Form(
        "detection", decoder, Sizing(SIZE), labels=labels, confidence=confidence, overlap=overlap
    )


def overlap(a: Array, b: Array) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return float(shared / max(both - shared, 1e-9))


def plainly(
    candidates: list[tuple[Array, float, int]], most: float
) -> list[tuple[Array, float, int]]:
    """Greedy suppression within a class, one pair at a time; then source pixels."""
    left = sorted(candidates, key=lambda c: -c[1])
    chosen: list[tuple[Array, float, int]] = []
    for box, score, class_id in left:
        if all(k != class_id or overlap(box, other) < most for other, _, k in chosen):
            chosen.append((box, score, class_id))
    moved = []
    for box, score, class_id in chosen:
        x = [min(max((box[i] - 20) / 0.5, 0), 240) for i in (0, 2)]
        y = [min(max(box[i] / 0.5, 0), 192) for i in (1, 3)]
        moved.append((np.array([x[0], y[0], x[1], y[1]]), score, class_id))
    return moved


def agree(detections: Detections, want: list[tuple[Array, float, int]]) -> None:
    assert len(detections) == len(want) > 3
    for box, score, class_id, (want_box, want_score, want_class) in zip(
        detections.xyxy, detections.confidence, detections.class_id, want, strict=True
    ):
        np.testing.assert_allclose(box, want_box, atol=1e-3)
        assert (score, class_id) == (pytest.approx(want_score, abs=1e-6), want_class)


def box_of(x: float, y: float, wide: float, high: float) -> Array:
    return np.array([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2])


def answer(rng: np.random.Generator, rows: int, classes: int, with_objectness: bool) -> Array:
    """(1, rows, depth): scores that pass now and then, boxes that overlap now and then."""
    centre = rng.uniform((0, 0), (SIZE[1], SIZE[0]), (rows, 2))
    extent = rng.uniform(20, 60, (rows, 2))
    scores = rng.uniform(0, 1, (rows, classes + with_objectness)) ** (4 if with_objectness else 9)
    return np.concatenate((centre, extent, scores), 1)[None].astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_v5_agrees_with_a_plain_loop(seed: int) -> None:
    output = answer(np.random.default_rng(seed), 300, 3, True)
    candidates = []
    for row in output[0].astype(float):
        class_id = int(np.argmax(row[5:]))
        if row[4] * row[5 + class_id] > 0.4:
            candidates.append((box_of(*row[:4]), row[4] * row[5 + class_id], class_id))
    agree(yolo.yolo_v5([output], VIEW, form(yolo.yolo_v5, 3)), plainly(candidates, 0.5))


@pytest.mark.parametrize("seed", range(4))
def test_v8_agrees_with_a_plain_loop(seed: int) -> None:
    output = answer(np.random.default_rng(seed), 200, 2, False)
    candidates = []
    for row in output[0].astype(float):
        class_id = int(np.argmax(row[4:]))
        if row[4 + class_id] > 0.4:
            candidates.append((box_of(*row[:4]), row[4 + class_id], class_id))
    want = plainly(candidates, 0.5)
    agree(yolo.yolo_v8([output.transpose(0, 2, 1)], VIEW, form(yolo.yolo_v8, 2)), want)
    agree(yolo.yolo_v8([output], VIEW, form(yolo.yolo_v8, 2)), want)


@pytest.mark.parametrize("seed", range(4))
def test_yolox_agrees_with_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 12 * 20 + 6 * 10 + 3 * 5
    output = answer(rng, count, 2, True)
    output[0, :, :2] = rng.uniform(-0.5, 1.5, (count, 2))
    output[0, :, 2:4] = rng.normal(0.8, 0.5, (count, 2))
    candidates, row = [], 0
    for stride in (8, 16, 32):
        for y in range(SIZE[0] // stride):
            for x in range(SIZE[1] // stride):
                r = output[0, row].astype(float)
                class_id = int(np.argmax(r[5:]))
                if r[4] * r[5 + class_id] > 0.4:
                    centre = (r[0] + x) * stride, (r[1] + y) * stride
                    box = box_of(*centre, np.exp(r[2]) * stride, np.exp(r[3]) * stride)
                    candidates.append((box, r[4] * r[5 + class_id], class_id))
                row += 1
    agree(yolo.yolox([output], VIEW, form(yolo.yolox, 2)), plainly(candidates, 0.5))


def test_mask_is_the_positive_part_of_the_mix_inside_the_box() -> None:
    y, x = np.mgrid[: SIZE[0] // 4, : SIZE[1] // 4].astype(np.float32)
    protos = np.stack((10 - np.hypot(x - 20, y - 12), x - 20))[None]
    row = np.array([[80, 48, 60, 60, 0.9, 1, 0], [80, 48, 120, 60, 0.8, 0, 1]], np.float32)
    detections = yolo.yolo_v8_masks(
        [row[None], protos], VIEW, form(yolo.yolo_v8_masks, 1, overlap=0.9)
    )
    assert detections.masks is not None
    assert detections.masks.shape == (2, *VIEW.source)
    v, u = np.mgrid[: VIEW.source[0], : VIEW.source[1]] + 0.5  # pixel centres of the source
    model_x, model_y = u * 0.5 + 20, v * 0.5
    disc = np.hypot(model_x / 4 - 0.5 - 20, model_y / 4 - 0.5 - 12) < 10
    half = model_x / 4 - 0.5 > 20
    for mask, want, box in zip(detections.masks, (disc, half), detections.xyxy, strict=True):
        inside = (u > box[0]) & (u < box[2]) & (v > box[1]) & (v < box[3])
        wrong = np.count_nonzero(mask != (want & inside))
        assert wrong < 0.02 * mask.sum(), wrong
    areas = [int(mask.sum()) for mask in detections.masks]
    assert detections.to_dict()["detections"]["mask_px"] == areas


def test_box_that_reaches_out_of_the_picture_is_cut_off_after_suppression() -> None:
    rows = np.array([[20, 10, 60, 60, 1, 0.9], [160, 90, 100, 100, 1, 0.8]], np.float32)[None]
    detections = yolo.yolo_v5([rows], VIEW, form(yolo.yolo_v5, 1))
    np.testing.assert_allclose(detections.xyxy, [[0, 0, 60, 80], [180, 80, 240, 192]])


def test_absurd_numbers_do_not_overflow() -> None:
    rows = np.zeros((1, 315, 6), np.float32)
    rows[0, 0] = 0, 0, 1e30, 300, 1, 1
    detections = yolo.yolox([rows], VIEW, form(yolo.yolox, 1))
    np.testing.assert_array_equal(detections.xyxy, [[0, 0, 240, 192]])


def test_nothing_found_is_an_empty_result() -> None:
    for decoder, shape in ((yolo.yolox, (1, 315, 6)), (yolo.yolo_v5, (1, 9, 6))):
        assert len(decoder([np.zeros(shape, np.float32)], VIEW, form(decoder, 1))) == 0
    outputs = [np.zeros((1, 37, 315), np.float32), np.zeros((1, 32, 24, 40), np.float32)]
    detections = yolo.yolo_v8_masks(outputs, VIEW, form(yolo.yolo_v8_masks, 1))
    assert detections.masks is not None
    assert detections.masks.shape == (0, *VIEW.source)


WRONG: list[tuple[Callable[..., Any], list[tuple[int, ...]], str]] = [
    (yolo.yolox, [(1, 300, 6)], "yolox: expected 315 rows for an input of 160x96, got 300"),
    (yolo.yolox, [(1, 315, 9)], "yolox: expected outputs 1xnx6, got 1x315x9"),
    (yolo.yolo_v5, [(1, 6)], "yolov5: expected outputs 1xnx6, got 1x6"),
    (yolo.yolo_v8, [(1, 7, 300)], r"yolo: expected 5 numbers a box, got \(7, 300\)"),
    (yolo.yolo_v8_masks, [(1, 7, 300)], "yolo masks: expected boxes of rank 3 and prototypes"),
    (boxes.yolo_v7_end_to_end, [(9, 6)], "batched boxes: expected outputs nx7, got 9x6"),
    (boxes.end_to_end, [(9, 7)], "end-to-end boxes: expected outputs nx6, got 9x7"),
]


@pytest.mark.parametrize(("decoder", "shapes", "message"), WRONG)
def test_wrong_shapes_are_named(
    decoder: Callable[..., Any], shapes: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        decoder([np.zeros(s, np.float32) for s in shapes], VIEW, form(decoder, 1))


def glyphs(seed: int, size: tuple[int, int]) -> Array:
    """(H, W, 3) RGB: large letters on a coloured, uneven ground."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(40, 220, (6, 9, 3)).astype(np.uint8)
    image = cv2.resize(ground, size[::-1], interpolation=cv2.INTER_CUBIC)
    for place, letter in enumerate("QRW7K"):
        at = 30 + place * (size[1] - 60) // 5, int(rng.integers(90, size[0] - 20))
        colour = tuple(int(v) for v in rng.integers(0, 255, 3))
        cv2.putText(image, letter, at, cv2.FONT_HERSHEY_TRIPLEX, 2.0, colour, 5)
    return np.asarray(image)


def run(model: Model, image: Array) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model.path), options)
    fitted, view = model.fit(image)
    return model.decode(session.run(None, model.feed(fitted)), view)


@pytest.mark.slow
@pytest.mark.fetch
def test_glyphs_are_where_ddddocr_finds_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    folders = [unpacked(release, base) for release in (DDDDOCR, PILLOW)]
    # they cut a fitted side down where we round it, so only a square comes out the same
    sizes = {(416, 416): 1.01, (300, 500): 2.5}  # they drop the part behind the point: up to 1 px
    pictures = {base / f"{size[0]}.png": glyphs(1, size) for size in sizes}
    for file, image in pictures.items():
        cv2.imwrite(str(file), image[:, :, ::-1])
    program = (
        "import json, sys; from ddddocr.core.detection_engine import DetectionEngine\n"
        "engine = DetectionEngine()\n"
        "print(json.dumps([engine.get_bbox(open(p, 'rb').read()) for p in sys.argv[1:]]))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program, *map(str, pictures)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        check=True,
    )
    try:
        model = zoo.load("yolox-tiny")
    except ModelError as e:
        pytest.skip(str(e))
    answers = zip(json.loads(completed.stdout), pictures.values(), sizes.values(), strict=True)
    for theirs, image, most in answers:
        ours = run(model, image).xyxy
        assert len(ours) == len(theirs) >= 4
        by_left = ours[np.argsort(ours[:, 0])]
        np.testing.assert_allclose(by_left, sorted(theirs), atol=most)
