"""Forms of unknown ONNX files: each is recognised, and gives back what its example holds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models import catalog, zoo
from stillframe.models.decoders import yolo
from stillframe.models.decoders.image import ImageDecoder
from stillframe.models.decoders.segmentation import ClassMap
from stillframe.models.forms.forms import ACCEPTED, FORMS, recognise
from stillframe.models.forms.inspection import InspectedModel
from stillframe.models.model import TASKS, Form, Model, View
from stillframe.models.results import Detections, Mask, Picture, Tensors
from tests.answers import Answers, Steps, answering, painting

HIGH, WIDE = 64, 96
SIZE = HIGH, WIDE
CELLS = len(yolo.cells(SIZE))  # 8x12 + 4x6 + 2x3
# left, top, right, bottom, class, score: what the examples of detectors hold, best first
BOXES = np.array([[10, 12, 40, 50, 1, 0.9], [50, 8, 90, 40, 0, 0.75]], np.float32)
WEAKER = np.array([[11, 13, 41, 50, 1, 0.5]], np.float32)  # suppressed by the first
ALL = np.concatenate((BOXES, WEAKER))
CLASSES = 3

Array = NDArray[Any]


def centred(boxes: Array) -> Array:
    """(n, 4) corners -> centre, width, height."""
    return np.concatenate(((boxes[:, :2] + boxes[:, 2:4]) / 2, boxes[:, 2:4] - boxes[:, :2]), 1)


def scored(boxes: Array) -> Array:
    """(n, classes): the box's score at its class."""
    scores = np.zeros((len(boxes), CLASSES), np.float32)
    scores[np.arange(len(boxes)), boxes[:, 4].astype(int)] = boxes[:, 5]
    return scores


def rows(count: int, *columns: Array, filled: Array | None = None) -> Array:
    """(1, count, depth): the columns' rows spread over the list, the rest empty."""
    entries = np.concatenate(columns, 1).astype(np.float32)
    table = np.zeros((1, count, entries.shape[1]), np.float32) if filled is None else filled
    table[0, 5 : 5 + 7 * len(entries) : 7] = entries
    return np.asarray(table)


def objectness(boxes: Array) -> Array:
    """(n, 1) + (n, classes): the product is the score."""
    return np.concatenate((np.ones((len(boxes), 1)), scored(boxes)), 1)


def decoded_in_graph() -> Array:
    grid = yolo.cells(SIZE)
    table = np.zeros((1, CELLS, 5 + CLASSES), np.float32)
    table[0, :, :2] = (grid[:, :2] + 0.5) * grid[:, 2:]
    return rows(CELLS, centred(ALL), objectness(ALL), filled=table)


def in_cells() -> Array:
    table = np.zeros((1, CELLS, 5 + CLASSES), np.float32)
    table[0, :, :2] = 0.5
    for row, box, part in zip((30, 100, 124), centred(ALL), objectness(ALL), strict=True):
        x, y, stride = yolo.cells(SIZE)[row]
        table[0, row, :2] = box[:2] / stride - (x, y)
        table[0, row, 2:4] = np.log(box[2:] / stride)
        table[0, row, 4:] = part
    return table


KINDS = 2
PROTOTYPES = np.ones((1, KINDS, HIGH // 4, WIDE // 4), np.float32)
PROTOTYPES[:, 1, :, : 70 // 4] = -1  # the second is positive from about x = 68 on
COEFFICIENTS = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
MASKS = [(10, 12, 40, 50), (68, 8, 90, 40)]
POINTS = np.array([[12, 14, 1, 30, 40, 1], [52, 10, 1, 70, 30, 1], [0] * 6], np.float32)
POSE = {"task": "pose", "kpt_shape": "[2, 3]"}


def listed(boxes: Array = BOXES) -> Array:
    """(n, 6): corners, score, class, and a last row that is too unlikely."""
    table = np.zeros((len(boxes) + 1, 6), np.float32)
    table[:-1] = boxes[:, [0, 1, 2, 3, 5, 4]]
    table[-1, :5] = 1, 1, 9, 9, 0.01
    return table


def shares(boxes: Array) -> Array:
    return (boxes[:, :4] / (WIDE, HIGH, WIDE, HIGH)).astype(np.float32)


FOCAL_BOXES = np.array([[12, 12, 36, 52, 1, 0.9], [40, 8, 88, 56, 0, 0.75]], np.float32)


def focal(bins: int) -> Answers:
    """Three strides; the first box from cell (3, 3) of 8, the second from cell (3, 1) of 16."""
    answers = {}
    for stride in (8, 16, 32):
        high, wide = HIGH // stride, WIDE // stride
        scores = np.zeros((1, high * wide, CLASSES), np.float32)
        sides = np.zeros((1, high * wide, 4, bins), np.float32)
        if stride == 8:
            scores[0, 3 * wide + 3, 1] = 0.9
            sides[0, 3 * wide + 3, range(4), [2, 2, 1, 3]] = 60
        if stride == 16:
            scores[0, wide + 3, 0] = 0.75
            sides[0, wide + 3, range(4), [1, 1, 2, 2]] = 60
        answers[f"sides{stride}"] = sides.reshape(1, -1, 4 * bins)
        answers[f"scores{stride}"] = scores
    return answers


def ssd(background: bool) -> Answers:
    scores = scored(BOXES)
    table = np.zeros((1, 20, CLASSES + background), np.float32)
    corners = np.tile(np.array([0.1, 0.1, 0.2, 0.2], np.float32), (1, 20, 1))
    table[0, [3, 11], -CLASSES:] = scores
    corners[0, [3, 11]] = shares(BOXES)
    if background:
        table[0, :, 0] = 1 - table[0, :, 1:].sum(1)
    return {"scores": table, "boxes": corners}


def windows() -> Answers:
    """P-Net at 64x96: 27 rows of 43 windows. One face at window (10, 20), moved by an offset."""
    chances = np.zeros((1, 27, 43, 2), np.float32)
    offsets = np.zeros((1, 27, 43, 4), np.float32)
    chances[..., 0], chances[0, 10, 20] = 1, (0.1, 0.9)
    offsets[0, 10, 20] = -1 / 11, 0, 3 / 11, 5 / 11
    return {"conv2d_4": offsets, "softmax": chances}


FACE = np.array([[40, 21, 55, 37, 0, 0.9]], np.float32)


def heatmap() -> Answers:
    """CenterFace: one face around cell (6, 9), 16 by 20 pixels."""
    maps = {n: np.zeros((1, d, 16, 24), np.float32) for n, d in (("h", 1), ("s", 2), ("o", 2))}
    maps["h"][0, 0, 6, 9] = 0.9
    maps["s"][0, :, 6, 9] = np.log(20 / 4), np.log(16 / 4)
    return maps | {"l": np.zeros((1, 10, 16, 24), np.float32)}


def anchored() -> Answers:
    """Darknet heads: the box around cell (1, 2) of stride 16 with its second anchor, 37x58."""
    heads = [
        np.full((1, 3 * (5 + CLASSES), HIGH // s, WIDE // s), -9, np.float32) for s in (32, 16)
    ]
    cell = heads[1].reshape(3, 5 + CLASSES, HIGH // 16, WIDE // 16)[1, :, 1, 2]
    cell[:] = 0, 0, np.log(20 / 37), np.log(16 / 58), 9, -9, 9, -9
    return {"coarse": heads[0], "fine": heads[1]}


def disc() -> Array:
    """(H, W) 1 inside a disc, 0 outside."""
    y, x = np.mgrid[:HIGH, :WIDE]
    return np.asarray(((x - 48) ** 2 + (y - 32) ** 2 < 400).astype(np.float32))


def boxed(want: Array, classes: int = CLASSES, atol: float = 0.01) -> Callable[[Any], None]:
    """The result is exactly those boxes, best first."""

    def check(result: Any) -> None:
        assert isinstance(result, Detections)
        np.testing.assert_allclose(result.xyxy, want[:, :4], atol=atol)
        np.testing.assert_allclose(result.confidence, want[:, 5], atol=1e-3)
        assert result.class_id.tolist() == want[:, 4].astype(int).tolist()
        assert len(result.labels) == classes

    return check


def masks(result: Any) -> None:
    boxed(BOXES)(result)
    want = np.zeros((2, HIGH, WIDE), bool)
    for mask, (left, top, right, bottom) in zip(want, MASKS, strict=True):
        mask[top:bottom, left:right] = True
    np.testing.assert_array_equal(result.masks, want)


def points(result: Any) -> None:
    boxed(BOXES)(result)
    np.testing.assert_allclose(result.landmarks, POINTS[:2].reshape(2, 2, 3)[..., :2], atol=0.01)


def class_map(result: Any) -> None:
    assert isinstance(result, Mask)
    np.testing.assert_array_equal(result.values, disc() * 2)


def probability(result: Any) -> None:
    assert isinstance(result, Mask)
    np.testing.assert_allclose(result.values, disc(), atol=2e-4)
    assert result.labels == ("foreground",)


def text(result: Any) -> None:
    assert isinstance(result, Detections)
    assert result.labels == ("text",)
    assert len(result) == 1
    middle = (result.xyxy[0, :2] + result.xyxy[0, 2:]) / 2
    np.testing.assert_allclose(middle, (48, 32), atol=2)


def class_scores() -> Array:
    table = np.zeros((1, CLASSES, HIGH, WIDE), np.float32)
    table[0, 0], table[0, 2] = 0.5, disc()
    return table


NAMES = {"names": "{0: 'dog', 1: 'cat', 2: 'bird'}"}


@dataclass(frozen=True)
class Case:
    """An export of a form. check: of what its answer, decoded, must be at the input's own size.

    fit, order: of the preprocessing that its makers publish.
    """

    form: str
    why: str
    answers: Callable[[], Answers] | Answers
    check: Callable[[Any], None]
    fit: str = "letterbox"
    order: str = "rgb"
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.form}: {self.why}"

    def file(self, folder: Path) -> Path:
        answers = self.answers() if callable(self.answers) else self.answers
        return answering(folder / "example.onnx", answers, **self.options)


NHWC: dict[str, Any] = {"picture": (1, HIGH, WIDE, 3)}
CASES = [
    Case(
        "yolov5",
        "three rows a cell",
        {"output0": rows(3 * CELLS, centred(ALL), objectness(ALL))},
        boxed(BOXES),
    ),
    Case("yolov6", "pixels", lambda: {"outputs": decoded_in_graph()}, boxed(BOXES)),
    Case("yolox", "parts of a cell", lambda: {"output": in_cells()}, boxed(BOXES), order="bgr"),
    Case(
        "yolov8",
        "rows are columns",
        {"output0": rows(CELLS, centred(ALL), scored(ALL)).transpose(0, 2, 1).copy()},
        boxed(BOXES),
        options={"metadata": NAMES | {"task": "detect", "imgsz": "[64, 96]"}},
    ),
    Case(
        "yolov8",
        "one class, not transposed",
        {"output0": rows(CELLS, centred(ALL), ALL[:, 5:])},
        boxed(BOXES * (1, 1, 1, 1, 0, 1), classes=1),
    ),
    Case(
        "yolov5-seg",
        "k coefficients",
        {
            "output0": rows(3 * CELLS, centred(ALL), objectness(ALL), COEFFICIENTS),
            "output1": PROTOTYPES,
        },
        masks,
    ),
    Case(
        "yolov8-seg",
        "prototypes first",
        {
            "output1": PROTOTYPES,
            "output0": rows(CELLS, centred(ALL), scored(ALL), COEFFICIENTS)
            .transpose(0, 2, 1)
            .copy(),
        },
        masks,
    ),
    Case(
        "yolo26-seg",
        "listed",
        {
            "output0": np.concatenate((listed(), COEFFICIENTS), 1)[None],
            "output1": PROTOTYPES,
        },
        masks,
        options={"metadata": NAMES},
    ),
    Case(
        "yolov8-pose",
        "metadata says so",
        {"output0": rows(CELLS, centred(ALL), scored(ALL), POINTS).transpose(0, 2, 1).copy()},
        points,
        options={"metadata": POSE},
    ),
    Case(
        "yolo26-pose",
        "listed",
        {"output0": np.concatenate((listed(), POINTS), 1)[None]},
        points,
        options={"metadata": POSE | NAMES},
    ),
    Case("nms", "1xnx6", {"output0": listed()[None]}, boxed(BOXES, 1000)),
    Case(
        "nms",
        "nx6, n unknown",
        {"output0": listed(BOXES[::-1])},
        boxed(BOXES),
        options={"ragged": True, "metadata": {"names": "['a', 'b', 'c']"}},
    ),
    Case(
        "yolov7-nms",
        "nx7, n unknown",
        {"output": np.concatenate((np.zeros((2, 1)), BOXES), 1).astype(np.float32)},
        boxed(BOXES, 1000),
        options={"ragged": True},
    ),
    Case(
        "detection-output",
        "ends with a negative batch",
        {
            "detection_out": np.concatenate(
                (
                    np.array([[0, 1, 0.9], [0, 0, 0.75], [-1, 0, 0], [0, 2, 0.99]]),
                    np.concatenate((shares(BOXES), shares(ALL[1:]))),
                ),
                1,
            )[None, None].astype(np.float32)
        },
        boxed(BOXES, 1000),
        "stretch",
    ),
    Case(
        "nms-parts",
        "TensorFlow: y first, counted",
        {
            "detection_boxes": shares(ALL)[None][..., [1, 0, 3, 2]],
            "detection_classes": ALL[None, :, 4],
            "detection_scores": ALL[None, :, 5],
            "num_detections": np.array([2], np.float32),
        },
        boxed(BOXES, 1000),
        "stretch",
        options=NHWC | {"element": "uint8"},
    ),
    Case(
        "nms-parts",
        "EfficientNMS",
        {
            "num_dets": np.array([[2]], np.int32),
            "det_boxes": ALL[None, :, :4],
            "det_scores": ALL[None, :, 5],
            "det_classes": ALL[None, :, 4].astype(np.int32),
        },
        boxed(BOXES, 1000),
    ),
    Case(
        "nms-parts",
        "torchvision",
        {
            "boxes": BOXES[:, :4],
            "labels": BOXES[:, 4].astype(np.int64),
            "scores": BOXES[:, 5],
        },
        boxed(BOXES, 1000),
        "stretch",
    ),
    *(
        Case("picodet", f"{bins} bins", focal(bins), boxed(FOCAL_BOXES), "stretch")
        for bins in (8, 11, 17)
    ),
    Case("ssd", "background first", ssd(True), boxed(BOXES), "stretch"),
    Case("ssd", "no background", ssd(False), boxed(BOXES), "stretch"),
    Case("pnet", "channels last", windows(), boxed(FACE, 1), "stretch", options=NHWC),
    Case(
        "pnet",
        "channels first",
        {n: v.transpose(0, 3, 1, 2).copy() for n, v in windows().items()},
        boxed(FACE, 1),
        "stretch",
    ),
    Case(
        "centerface",
        "the size of its export",
        heatmap(),
        boxed(np.array([[30, 16, 46, 36, 0, 0.9]], np.float32), 1),
        "stretch",
    ),
    Case(
        "yolov3-tiny",
        "raw heads",
        anchored(),
        boxed(np.array([[30, 16, 50, 32, 1, 0.9998]], np.float32)),
    ),
    Case(
        "text",
        "PaddleOCR's names",
        {"sigmoid_0.tmp_0": disc()[None, None]},
        text,
        "stretch",
        "bgr",
        {"name": "x"},
    ),
    Case(
        "class-numbers",
        "int64",
        {"map": (disc() * 2).astype(np.int64)[None]},
        class_map,
        "stretch",
        options={"metadata": NAMES},
    ),
    Case(
        "class-numbers",
        "int32 with a channel",
        {"map": (disc() * 2).astype(np.int32)[None, None]},
        class_map,
        "stretch",
    ),
    Case(
        "class-scores",
        "named by the metadata",
        {"out": np.pad(class_scores(), ((0, 0), (0, 1), (0, 0), (0, 0)))},
        class_map,
        "stretch",
        options={"metadata": {"names": "['a', 'b', 'c', 'd']"}},
    ),
    Case(
        "class-scores",
        "behind a softmax over the classes",
        {"out": np.pad(class_scores(), ((0, 0), (0, 1), (0, 0), (0, 0))).transpose(0, 2, 3, 1)},
        class_map,
        "stretch",
        options=NHWC | {"ends": "Softmax"},
    ),
    Case(
        "class-scores",
        "a name that says so",
        {"logits": np.pad(class_scores(), ((0, 0), (0, 1), (0, 0), (0, 0)))},
        class_map,
        "stretch",
    ),
    Case(
        "class-scores",
        "as many as Pascal VOC has",
        {"out": np.pad(class_scores(), ((0, 0), (0, 18), (0, 0), (0, 0)))},
        class_map,
        "stretch",
    ),
    Case(
        "class-scores",
        "channels last, with another head",
        {
            "out": np.pad(class_scores(), ((0, 0), (0, 1), (0, 0), (0, 0))).transpose(0, 2, 3, 1),
            "aux": np.zeros((1, 8, 12, 4), np.float32),
        },
        class_map,
        "stretch",
        options=NHWC | {"metadata": {"task": "segment"}},
    ),
    Case(
        "mask",
        "sigmoid done",
        {"out": (disc() * 40 - 20)[None, None]},
        probability,
        "stretch",
        options={"ends": "Sigmoid"},
    ),
    Case(
        "mask",
        "before the sigmoid",
        {"out": (disc() * 40 - 20)[None, None]},
        probability,
        "stretch",
    ),
    Case(
        "mask", "probabilities by other means", {"out": disc()[None, None]}, probability, "stretch"
    ),
    Case(
        "mask",
        "channels last",
        {"out": disc()[None, ..., None]},
        probability,
        "stretch",
        options=NHWC,
    ),
]

CHAINS: dict[str, tuple[Steps, tuple[int, int], int]] = {
    "0..1": ([("Clip", {}, [np.array(0, np.float32), np.array(1, np.float32)])], (0, 1), 1),
    "0..255": (
        [
            ("Add", {}, [np.array(20, np.float32)]),
            ("Clip", {}, [np.array(0, np.float32), np.array(255, np.float32)]),
        ],
        (0, 255),
        1,
    ),
    "-1..1": ([("Tanh", {}, [])], (-1, 1), 1),
    "twice": (
        [
            (
                "Resize",
                {"mode": "nearest"},
                [np.empty(0, np.float32), np.array([1, 1, 2, 2], np.float32)],
            ),
            ("Clip", {}, [np.array(0, np.float32), np.array(1, np.float32)]),
        ],
        (0, 1),
        2,
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "cache"))


def answered(file: Path, form: Form) -> Any:
    """What the file's answer means, for a source of the input's own size."""
    outputs = InspectedModel.open(file).sample_outputs
    return form.decoder(outputs, View(SIZE, SIZE, (1.0, 1.0)), form)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_form_is_recognised_and_gives_back_what_it_holds(case: Case, tmp_path: Path) -> None:
    file = case.file(tmp_path)
    form = recognise(file)
    assert form.task == FORMS[case.form].task
    case.check(answered(file, form))
    assert (form.preprocessing.fit, form.preprocessing.order) == (case.fit, case.order)
    stated = recognise(file, case.form)
    assert repr(stated) == repr(form)  # partial functions have no equality


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_other_form_matches_as_well(case: Case, tmp_path: Path) -> None:
    model = InspectedModel.open(case.file(tmp_path))
    strengths = {name: rule.strength(model) for name, rule in FORMS.items()}
    assert strengths.pop(case.form) > max(strengths.values())


@pytest.mark.parametrize("name", CHAINS)
def test_picture_is_recognised_with_its_black_and_white(name: str, tmp_path: Path) -> None:
    steps, span, times = CHAINS[name]
    form = recognise(painting(tmp_path / "p.onnx", steps))
    assert form.task == "image"
    assert isinstance(form.decoder, ImageDecoder)
    assert (form.decoder.black, form.decoder.white) == span
    model = Model.at("p", tmp_path / "p.onnx", form)
    image = np.random.default_rng(1).integers(0, 200, (*SIZE, 3)).astype(np.uint8)
    fed = model.feed(model.fit(image)[0])[model.input_name]
    assert fed.min() >= span[0]
    assert fed.max() <= span[1]
    enlarged = fed.repeat(times, 2).repeat(times, 3)
    shown = form.decoder([enlarged], View(SIZE, SIZE, (1.0, 1.0)), form)
    assert isinstance(shown, Picture)
    np.testing.assert_array_equal(shown.image, image.repeat(times, 0).repeat(times, 1))


def test_file_names_its_classes_itself(tmp_path: Path) -> None:
    case = next(c for c in CASES if c.form == "yolov8")
    assert recognise(case.file(tmp_path)).labels == ("dog", "cat", "bird")


def test_eighty_classes_are_cocos(tmp_path: Path) -> None:
    file = answering(tmp_path / "v8.onnx", {"out": np.zeros((1, 84, CELLS), np.float32)})
    assert recognise(file).labels[:3] == ("person", "bicycle", "car")


def test_three_channels_are_a_picture_by_default(tmp_path: Path) -> None:
    file = answering(tmp_path / "three.onnx", {"out": class_scores()})
    assert recognise(file).task == "image"
    form = recognise(file, "segmentation")
    assert form.decoder == ClassMap("nchw")
    class_map(answered(file, form))


def test_tensors_are_given_only_when_asked_for(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32)[None]
    file = answering(tmp_path / "classifier.onnx", {"scores": values})
    with pytest.raises(ModelError) as caught:
        recognise(file)
    message = str(caught.value)
    assert "input images 96x64, outputs scores 1x10" in message
    assert f"one of {', '.join(ACCEPTED)} (tensors gives them unchanged)" in message
    result = answered(file, recognise(file, "tensors"))
    assert isinstance(result, Tensors)
    np.testing.assert_array_equal(result.arrays["scores"], values)


def test_a_requested_form_must_fit(tmp_path: Path) -> None:
    file = answering(tmp_path / "classifier.onnx", {"scores": np.zeros((1, 10), np.float32)})
    with pytest.raises(ModelError) as caught:
        recognise(file, "yolov8")
    assert str(caught.value) == (
        "classifier.onnx: --task yolov8 expects 1x(4 + classes)xcells; YOLOv9, v11, v12 and v26 "
        "without its end-to-end head too; it has input images 96x64, outputs scores 1x10"
    )


def test_unknown_task_lists_the_accepted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"unknown task 'dectection': expected one of detection, "):
        recognise(tmp_path / "absent.onnx", "dectection")
    assert set(TASKS) <= set(ACCEPTED)


def test_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"hello" * 9)
    with pytest.raises(ModelError, match="not an ONNX file"):
        recognise(tmp_path / "x.onnx")


def test_a_free_size_is_examined_at_the_size_in_the_metadata(tmp_path: Path) -> None:
    answers = {"output0": rows(CELLS, centred(ALL), scored(ALL)).transpose(0, 2, 1).copy()}
    options: dict[str, Any] = {"picture": (1, 3, "h", "w"), "metadata": {"imgsz": "[64, 96]"}}
    form = recognise(answering(tmp_path / "open.onnx", answers, **options))
    assert (form.sizing.base, form.sizing.longest, form.sizing.multiple) == ((64, 96), 96, 32)
    options["metadata"] = {"imgsz": "[64, -96]"}
    file = answering(tmp_path / "open2.onnx", answers, **options)
    with pytest.raises(ModelError, match="640x640"):
        recognise(file)
    assert recognise(file, size=SIZE).sizing.base == SIZE


LONG = "['a', 'b', 'c'" + " " * 300_000 + "]"


@pytest.mark.parametrize(
    "names", ["(" * 5000, "{1: " * 300, LONG, "{}", "None", "\0"], ids=lambda n: n[:9]
)
def test_hostile_metadata_is_not_believed(names: str, tmp_path: Path) -> None:
    answers = {"output0": np.zeros((1, 4 + CLASSES, CELLS), np.float32)}
    file = answering(tmp_path / "m.onnx", answers, metadata={"names": names, "imgsz": names})
    assert recognise(file).labels == ("class 0", "class 1", "class 2")


def test_the_coarsest_stride_decides_which_sizes_fit(tmp_path: Path) -> None:
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    down = {"kernel_shape": [3, 3], "strides": [4, 4], "pads": [1, 1, 1, 1]}
    up = [np.empty(0, np.float32), np.array([1, 1, 4, 4], np.float32)]
    mix = {"kernel_shape": [1, 1]}
    as_list, back = np.array([1, 3, 4, 6400]), np.array([1, 3, 160, 160])
    steps: Steps = [
        ("Conv", down, [kernel]),
        ("Reshape", {}, [as_list]),  # as the box heads of YOLOv8 do: not a grid of 160 pixels
        ("Conv", mix, [kernel[:, :, :1, :1]]),
        ("Reshape", {}, [back]),
        ("Resize", {"mode": "nearest"}, up),
    ]
    file = painting(tmp_path / "unet.onnx", steps, picture=(1, 3, "h", "w"))
    sizing = recognise(file).sizing
    assert (sizing.base, sizing.longest, sizing.multiple) == ((640, 640), 640, 4)


def test_loading_a_path_uses_the_requested_form(tmp_path: Path) -> None:
    file = answering(tmp_path / "three.onnx", {"out": class_scores()})
    model = zoo.load(file, task="class-scores")
    assert (model.name, model.task, model.size) == ("three", "segmentation", SIZE)
    image = np.zeros((32, 48, 3), np.uint8)
    fitted, view = model.fit(image)
    result = model.decode([class_scores()], view)
    assert isinstance(result, Mask)
    assert result.values.shape == (32, 48)
    assert fitted.shape == (*SIZE, 3)


@pytest.mark.fetch
@pytest.mark.parametrize("name", ["yolox-tiny", "layout", "centerface", "ppocr-det"])
def test_published_files_are_recognised_as_what_they_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STILLFRAME_CACHE")
    try:
        file = zoo.original(name)
    except ModelError as e:
        pytest.skip(str(e))
    form, known = recognise(file), catalog.MODELS[name].form
    assert (form.task, form.decoder) == (known.task, known.decoder)
    assert form.preprocessing == known.preprocessing
