"""Decoders against plain references, one box at a time, on random outputs."""

import math
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import stillframe
from stillframe.errors import ModelError
from stillframe.models import zoo
from stillframe.models.decoders import rotated
from stillframe.models.decoders.anchors import ANCHORS, AnchoredBoxes, anchors
from stillframe.models.decoders.boxes import Ssd
from stillframe.models.decoders.centernet import CenterNet
from stillframe.models.decoders.classification import ClassScores
from stillframe.models.decoders.depth import depth_map
from stillframe.models.decoders.queries import QueryBoxes
from stillframe.models.forms.forms import recognise
from stillframe.models.model import Decoder, Form, Sizing, View
from stillframe.models.results import Classes, Depth, Detections

Array = NDArray[Any]
SIZE = (64, 96)
SOURCE = (128, 144)
VIEW = View(SOURCE, SIZE, (SIZE[1] / SOURCE[1], SIZE[0] / SOURCE[0]))
LABELS = ("a", "b", "c")


def form(decoder: Decoder, confidence: float = 0.3, overlap: float = 0.5) -> Form:
    return Form(
        "detection", decoder, Sizing(SIZE), labels=LABELS, confidence=confidence, overlap=overlap
    )


def draw(*shape: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_source(x: float, y: float) -> tuple[float, float]:
    return x * SOURCE[1] / SIZE[1], y * SOURCE[0] / SIZE[0]


def clipped(left: float, top: float, right: float, bottom: float) -> list[float]:
    """Corners in model pixels -> in source pixels, inside the source."""
    (x0, y0), (x1, y1) = in_source(left, top), in_source(right, bottom)
    xs, ys = (
        (min(max(x, 0), SOURCE[1]) for x in (x0, x1)),
        (min(max(y, 0), SOURCE[0]) for y in (y0, y1)),
    )
    (x0, x1), (y0, y1) = xs, ys
    return [x0, y0, x1, y1]


def same(result: Any, want: list[tuple[list[float], int, float]]) -> None:
    """The result is those boxes, best first: (corners, class, score)."""
    assert isinstance(result, Detections)
    want = sorted(want, key=lambda each: -each[2])
    assert want, "a reference that finds nothing tests nothing"
    assert len(result) == len(want)
    np.testing.assert_allclose(result.xyxy, [each[0] for each in want], atol=2e-3)
    assert result.class_id.tolist() == [each[1] for each in want]
    np.testing.assert_allclose(result.confidence, [each[2] for each in want], atol=1e-5)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def relative(box: Array) -> list[float]:
    """Centre and size, as shares of the input -> corners in source pixels."""
    x, y, wide, high = (float(v) for v in box)
    return clipped(
        (x - wide / 2) * SIZE[1], (y - high / 2) * SIZE[0],
        (x + wide / 2) * SIZE[1], (y + high / 2) * SIZE[0],
    )  # fmt: skip


def test_queries_with_a_sigmoid_for_each_class() -> None:
    boxes = np.random.default_rng(1).uniform(0.1, 0.6, (1, 30, 4)).astype(np.float32)
    logits = draw(1, 30, 3) * 2 - 1
    decoder = QueryBoxes(1, 0, "sigmoid")
    pairs = [
        (relative(boxes[0, q]), c, sigmoid(float(logits[0, q, c])))
        for q in range(30)
        for c in range(3)
    ]
    best = sorted(pairs, key=lambda each: -each[2])[:30]
    want = [each for each in best if each[2] > 0.3]
    assert len(want) > len({tuple(each[0]) for each in want})  # one query may be two classes
    same(decoder([logits, boxes], VIEW, form(decoder)), want)
    joined = np.concatenate((boxes, 1 / (1 + np.exp(-logits))), 2)
    one = QueryBoxes(0, 0, "none")
    same(one([joined.astype(np.float32)], VIEW, form(one)), want)


def test_queries_with_a_softmax_and_no_object() -> None:
    boxes = np.random.default_rng(2).uniform(0.1, 0.6, (1, 30, 4)).astype(np.float32)
    logits = draw(1, 30, 4) * 2
    decoder = QueryBoxes(0, 1, "softmax")
    want = []
    for q in range(30):
        weights = [math.exp(float(v)) for v in logits[0, q]]
        shares = [w / sum(weights) for w in weights][:-1]
        if max(shares) > 0.3:
            want.append((relative(boxes[0, q]), shares.index(max(shares)), max(shares)))
    same(decoder([boxes, logits], VIEW, form(decoder)), want)


def test_queries_of_another_number_of_classes_are_refused() -> None:
    decoder = QueryBoxes(0, 1, "sigmoid")
    with pytest.raises(ModelError, match="queries: expected outputs 1xnx4 1xnx3"):
        decoder([draw(1, 30, 4), draw(1, 30, 7)], VIEW, form(decoder))


@pytest.mark.parametrize("raw", [True, False])
def test_centernet_takes_peaks(raw: bool) -> None:
    centres, size, move = (
        draw(1, 3, 16, 24) * 2 - 2,
        abs(draw(1, 2, 16, 24, seed=6)) * 3,
        draw(1, 2, 16, 24, seed=7),
    )
    decoder = CenterNet(0, 1, 2, raw)
    shown = centres if raw else 1 / (1 + np.exp(-centres))
    want = []
    for c in range(3):
        for y in range(16):
            for x in range(24):
                near = centres[0, c, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                score = sigmoid(float(centres[0, c, y, x]))
                if centres[0, c, y, x] < near.max() or score <= 0.3:
                    continue
                wide, high = (float(v) * 4 for v in size[0, :, y, x])
                middle = ((x + float(move[0, 0, y, x])) * 4, (y + float(move[0, 1, y, x])) * 4)
                box = clipped(
                    middle[0] - wide / 2, middle[1] - high / 2,
                    middle[0] + wide / 2, middle[1] + high / 2,
                )  # fmt: skip
                want.append((box, c, score))
    want = sorted(want, key=lambda each: -each[2])[:100]
    same(decoder([shown.astype(np.float32), size, move], VIEW, form(decoder)), want)


def polygon_overlap(one: Array, other: Array) -> float:
    """Intersection over union of two boxes with angles, by sampling a fine grid."""
    x, y = np.meshgrid(np.arange(-10, 110, 0.1), np.arange(-10, 80, 0.1))
    inside = []
    for box in (one, other):
        dx, dy = x - box[0], y - box[1]
        along = dx * math.cos(box[4]) + dy * math.sin(box[4])
        across = -dx * math.sin(box[4]) + dy * math.cos(box[4])
        inside.append((abs(along) <= box[2] / 2) & (abs(across) <= box[3] / 2))
    return float((inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum())


def test_probabilistic_overlap_is_that_of_the_normal_distributions() -> None:
    """Against matrices: 1 - sqrt(1 - exp(-Bhattacharyya distance))."""
    boxes = np.array([[40, 30, 20, 10, 0.3], [42, 31, 18, 12, 0.5], [60, 40, 20, 10, 2.0]])

    def normal(box: Array) -> tuple[Array, Array]:
        turn = np.array(
            [[math.cos(box[4]), -math.sin(box[4])], [math.sin(box[4]), math.cos(box[4])]]
        )
        return box[:2], turn @ np.diag(box[2:4] ** 2 / 12) @ turn.T

    (m1, s1) = normal(boxes[0])
    want = []
    for other in boxes:
        m2, s2 = normal(other)
        both = (s1 + s2) / 2
        step = m2 - m1
        distance = step @ np.linalg.inv(both) @ step / 8
        distance += 0.5 * math.log(
            np.linalg.det(both) / math.sqrt(np.linalg.det(s1) * np.linalg.det(s2))
        )
        want.append(1 - math.sqrt(max(0, 1 - math.exp(-distance))))
    got = rotated.probabilistic_overlap(boxes[0], boxes)
    np.testing.assert_allclose(got, want, atol=2e-3)
    assert abs(got[1] - polygon_overlap(boxes[0], boxes[1])) < 0.15  # it stands for that


def test_oriented_boxes_are_suppressed_within_their_class() -> None:
    # Two pairs that overlap: of one class, of two classes; and one apart.
    table = np.array(
        [
            [30, 30, 20, 10, 0.9, 0.0, 0.0, 0.5],
            [31, 30, 20, 10, 0.8, 0.0, 0.0, 0.5],
            [70, 30, 20, 10, 0.0, 0.7, 0.0, 1.0],
            [70, 31, 20, 10, 0.0, 0.0, 0.6, 1.0],
            [20, 52, 20, 10, 0.5, 0.0, 0.0, 0.5 + math.pi / 2],
        ],
        np.float32,
    )
    result = rotated.yolo_v8_oriented([table.T[None]], VIEW, form(rotated.yolo_v8_oriented))
    assert isinstance(result, Detections)
    np.testing.assert_allclose(result.confidence, [0.9, 0.7, 0.6, 0.5], atol=1e-6)
    assert result.class_id.tolist() == [0, 1, 2, 0]
    assert result.landmarks is not None
    for index, row in zip(range(4), table[[0, 2, 3, 4]], strict=True):
        x, y, wide, high = (float(v) for v in row[:4])
        for corner, (across, down) in enumerate(((-1, -1), (1, -1), (1, 1), (-1, 1))):
            dx, dy = across * wide / 2, down * high / 2
            turned = (
                x + dx * math.cos(row[7]) - dy * math.sin(row[7]),
                y + dx * math.sin(row[7]) + dy * math.cos(row[7]),
            )
            np.testing.assert_allclose(
                result.landmarks[index, corner], in_source(*turned), atol=1e-3
            )
    listed = table[[0, 2, 3, 4]][:, [0, 1, 2, 3, 4, 4, 7]]
    listed[:, 4], listed[:, 5] = [0.9, 0.7, 0.6, 0.5], [0, 1, 2, 0]
    again = rotated.end_to_end_oriented([listed[None]], VIEW, form(rotated.end_to_end_oriented))
    np.testing.assert_allclose(again.landmarks, result.landmarks, atol=1e-5)
    assert again.class_id.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("name", "count"), [("ssd300", 8732), ("ssdlite320", 3234), ("mobilenet-ssd", 3000)]
)
def test_anchors_are_as_many_as_published(name: str, count: int) -> None:
    assert anchors(name).shape == (count, 4)


def test_first_and_last_anchors_of_ssd300_are_torchvisions() -> None:
    """Hand-computed: 4 pixels is the middle of the first cell, 0.07 and 0.1025 its scales."""
    table = anchors("ssd300")
    np.testing.assert_allclose(table[0], [4 / 300, 4 / 300, 0.07, 0.07], atol=1e-6)
    np.testing.assert_allclose(table[1, 2:], math.sqrt(0.07 * 0.15), atol=1e-6)
    wide = [0.07 * math.sqrt(2), 0.07 / math.sqrt(2)]
    np.testing.assert_allclose(table[2, 2:], wide, atol=1e-6)
    np.testing.assert_allclose(table[3, 2:], wide[::-1], atol=1e-6)
    np.testing.assert_allclose(table[-4], [0.5, 0.5, 0.87, 0.87], atol=1e-6)
    np.testing.assert_allclose(table[-2], [0.5, 0.5, 1.0, 0.87 / math.sqrt(2)], atol=1e-6)


def overlap_of(a: list[float], b: list[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, wide) * max(0, high)
    areas = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (a, b))
    return both / (areas - both)


def test_anchored_boxes_are_moved_stretched_and_suppressed() -> None:
    name = "ssdlite320"
    table, side = anchors(name), ANCHORS[name].sides[0]
    count = len(table)
    offsets, scores = draw(1, count, 4), draw(1, count, 4) * 1.5
    scores[..., 0] += 4
    decoder = AnchoredBoxes(0, 1, name, "softmax")
    view = View((side, side), (side, side), (1.0, 1.0))
    candidates = []
    for row in range(count):
        weights = [math.exp(float(v)) for v in scores[0, row]]
        for label in range(3):
            score = weights[1 + label] / sum(weights)
            if score <= 0.5:
                continue
            x, y, wide, high = (float(v) for v in table[row])
            x += float(offsets[0, row, 0]) * 0.1 * wide
            y += float(offsets[0, row, 1]) * 0.1 * high
            wide *= math.exp(float(offsets[0, row, 2]) * 0.2)
            high *= math.exp(float(offsets[0, row, 3]) * 0.2)
            box = [(x - wide / 2) * side, (y - high / 2) * side,
                   (x + wide / 2) * side, (y + high / 2) * side]  # fmt: skip
            candidates.append((box, label, score))
    want: list[tuple[list[float], int, float]] = []
    for each in sorted(candidates, key=lambda each: -each[2]):
        if all(o[1] != each[1] or overlap_of(o[0], each[0]) < 0.5 for o in want):
            want.append(each)
    assert len(want) < len(candidates)
    want = [([min(max(v, 0), side) for v in box], label, score) for box, label, score in want]
    same(decoder([offsets, scores], view, form(decoder, confidence=0.5)), want)


def test_corners_in_pixels_are_taken_as_they_are() -> None:
    decoder = Ssd(0, 1, background=False, unit="pixels")
    boxes = np.array([[[10, 12, 40, 50], [50, 8, 90, 40]]], np.float32)
    scores = np.array([[[0, 0.9, 0], [0.75, 0, 0]]], np.float32)
    want = [(clipped(10, 12, 40, 50), 1, 0.9), (clipped(50, 8, 90, 40), 0, 0.75)]
    same(decoder([boxes, scores], VIEW, form(decoder)), want)


def test_class_scores_are_a_softmax_where_they_are_not_yet() -> None:
    logits = draw(1, 3)
    decoder = ClassScores(raw=True)
    result = decoder([logits], VIEW, form(decoder))
    assert isinstance(result, Classes)
    weights = [math.exp(float(v)) for v in logits[0]]
    np.testing.assert_allclose(result.scores, [w / sum(weights) for w in weights], atol=1e-6)
    huge = decoder([logits * 1e5], VIEW, form(decoder))
    assert huge.scores.max() == 1
    plain = ClassScores(raw=False)
    np.testing.assert_array_equal(
        plain([np.array([[0.2, 0.7, 0.1]], np.float32)], VIEW, form(plain)).scores,
        np.array([0.2, 0.7, 0.1], np.float32),
    )
    with pytest.raises(ModelError, match="expected 3 scores, one a label, got 1x4"):
        plain([draw(1, 4)], VIEW, form(plain))


def test_depth_covers_the_source_without_the_letterbox() -> None:
    # A source of 100x100 lies in the middle of 64x96: 16 columns on either side are filling.
    view = View((100, 100), SIZE, (0.64, 0.64), (16, 0))
    values = np.zeros((1, 32, 48), np.float32)
    values[0, :, 8:40] = 5
    for shape in ((1, 32, 48), (1, 1, 32, 48), (1, 32, 48, 1)):
        result = depth_map([values.reshape(shape)], view, form(depth_map))
        assert isinstance(result, Depth)
        np.testing.assert_array_equal(result.values, np.full((100, 100), 5, np.float32))
    with pytest.raises(ModelError, match="depth: expected one value for each pixel"):
        depth_map([np.zeros((1, 3, 32, 48), np.float32)], view, form(depth_map))


# --- trained models -------------------------------------------------------------------------------


def published(name: str) -> Any:
    try:
        return zoo.load(name)
    except ModelError as error:
        pytest.skip(str(error))


def answer(model: Any, image: Array) -> Any:
    fitted, view = model.fit(image)
    session = onnxruntime.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
    return model.decode(session.run(None, model.feed(fitted)), view)


@pytest.mark.fetch
@pytest.mark.parametrize("name", ["ppocrv5-det", "ppocrv6-det"])
def test_newer_text_detectors_find_the_lines_of_the_older_one(name: str) -> None:
    try:
        with stillframe.open_source("sample:screen?seconds=1") as source:
            image = next(iter(source)).image
    except stillframe.SourceError as error:
        pytest.skip(str(error))
    older, newer = answer(published("ppocr-det"), image), answer(published(name), image)
    assert len(older) > 40
    matched = sum(
        max(overlap_of(list(box), list(other)) for other in newer.xyxy) > 0.5 for box in older.xyxy
    )
    assert matched >= 0.85 * len(older)


@pytest.mark.fetch
def test_open_nsfw_is_fed_as_its_makers_feed_it() -> None:
    model = published("open-nsfw")
    image = np.random.default_rng(3).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    fed = model.feed(model.fit(image)[0])[model.input_name]
    # The package's own: BGR, less the mean of the training set, channels last.
    want = image[None, :, :, ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    np.testing.assert_array_equal(fed, want)
    result = answer(model, image)
    assert isinstance(result, Classes)
    assert abs(float(result.scores.sum()) - 1) < 1e-4
    assert result.labels == ("safe", "not safe")
    assert recognise(zoo.original("open-nsfw")).task == "classification"
