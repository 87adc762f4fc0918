"""Detection transformers, oriented boxes, anchors, centres, classes and depth; what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stillframe.errors import ModelError
from stillframe.models import zoo
from stillframe.models.decoders.anchors import ANCHORS, anchors
from stillframe.models.forms.forms import FORMS, recognise
from stillframe.models.forms.inspection import InspectedModel
from stillframe.models.labels import COCO_CATEGORIES
from stillframe.models.model import Form, View
from stillframe.models.results import Classes, Depth, Detections, Mask, Tensors
from tests.answers import answering
from tests.models.forms import test_forms
from tests.models.forms.test_forms import (
    ALL,
    BOXES,
    CASES,
    CELLS,
    CLASSES,
    HIGH,
    NAMES,
    WIDE,
    Answers,
    Array,
    Case,
    boxed,
    centred,
    disc,
    rows,
    scored,
    shares,
)

cache = test_forms.cache  # the fixture, for the tests of this file too
QUERIES = 20


def answered(file: Path, form: Form) -> Any:
    """What the file's answer means, for a source of the input's own size."""
    model = InspectedModel.open(file)
    view = View(model.size, model.size, (1.0, 1.0))
    return form.decoder(model.sample_outputs, view, form)


def logit(scores: Array) -> Array:
    """Inverse of the sigmoid; 0 becomes very unlikely."""
    likely = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.log(likely / (1 - likely)).astype(np.float32)


def queries(no_object: bool = False) -> tuple[Array, Array]:
    """(1, n, 4) boxes and (1, n, classes) logits, in which queries 4 and 11 find the boxes."""
    boxes = np.full((1, QUERIES, 4), 0.5, np.float32)
    scores = np.zeros((1, QUERIES, CLASSES), np.float32)
    boxes[0, [11, 4]] = centred(shares(BOXES))
    scores[0, [11, 4]] = scored(BOXES)
    if not no_object:
        return boxes, logit(scores)
    rest = np.log(np.maximum(np.concatenate((scores, 1 - scores.sum(2, keepdims=True)), 2), 1e-9))
    return boxes, (rest + 5).astype(np.float32)  # a softmax does not change by what is added


def transformer(no_object: bool) -> Answers:
    boxes, logits = queries(no_object)
    return {"logits": logits, "pred_boxes": boxes}


def combined() -> Answers:
    boxes, logits = queries()
    return {"output0": np.concatenate((boxes, 1 / (1 + np.exp(-logits))), 2).astype(np.float32)}


TURN = np.pi / 6
ORIENTED = np.array([[30, 30, 20, 10, TURN, 1, 0.9], [70, 40, 16, 12, 0, 0, 0.75]], np.float32)
TURNED_AGAIN = np.array([[31, 30, 20, 10, TURN + 0.02, 1, 0.5]], np.float32)  # suppressed


def turned_corners() -> Array:
    """(2, 4, 2): the corners of ORIENTED, by turning the upright ones."""
    quads = []
    for x, y, wide, high, angle, *_ in ORIENTED:
        upright = np.array([(-wide, -high), (wide, -high), (wide, high), (-wide, high)]) / 2
        turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
        quads.append(upright @ turn.T + (x, y))
    return np.array(quads)


def oriented(result: Any) -> None:
    assert isinstance(result, Detections)
    np.testing.assert_allclose(result.landmarks, turned_corners(), atol=0.01)
    np.testing.assert_allclose(result.xyxy[:, :2], turned_corners().min(1), atol=0.01)
    np.testing.assert_allclose(result.xyxy[:, 2:], turned_corners().max(1), atol=0.01)
    np.testing.assert_allclose(result.confidence, [0.9, 0.75], atol=1e-4)
    assert result.class_id.tolist() == [1, 0]


def oriented_columns() -> Array:
    every = np.concatenate((ORIENTED, TURNED_AGAIN))
    scores = np.zeros((3, CLASSES), np.float32)
    scores[np.arange(3), every[:, 5].astype(int)] = every[:, 6]
    return rows(CELLS, every[:, :4], scores, every[:, 4:5]).transpose(0, 2, 1).copy()


def centres(offset: bool) -> Answers:
    """Peaks at the cells of the boxes' centres, with a weaker neighbour that is no peak."""
    centres = np.full((1, CLASSES, HIGH // 4, WIDE // 4), -9, np.float32)
    size, move = (np.zeros((1, 2, HIGH // 4, WIDE // 4), np.float32) for _ in range(2))
    for x, y, wide, high, label, score in np.concatenate((centred(BOXES), BOXES[:, 4:]), 1):
        column, row = int(x / 4), int(y / 4)
        centres[0, int(label), row, column] = logit(score)
        centres[0, int(label), row, column + 1] = logit(score - 0.1)
        size[0, :, row, column] = wide / 4, high / 4
        move[0, :, row, column] = x / 4 - column, y / 4 - row
    return {"hm": centres, "wh": size} | ({"reg": move} if offset else {})


def anchored(name: str) -> Answers:
    """The boxes from two of the anchors, by the inverse of the decoder's formula."""
    table = anchors(name).astype(np.float64)
    side = ANCHORS[name].sides[0]
    offsets = np.zeros((1, len(table), 4), np.float32)
    scores = np.zeros((1, len(table), 1 + CLASSES), np.float32)
    scores[..., 0] = 9
    for place, box, row in zip((40, 900), centred(BOXES) / side, BOXES, strict=True):
        anchor = table[place]
        offsets[0, place, :2] = (box[:2] - anchor[:2]) / anchor[2:] / 0.1
        offsets[0, place, 2:] = np.log(box[2:] / anchor[2:]) / 0.2
        scores[0, place] = np.log(1e-9)
        scores[0, place, 0] = np.log(1 - row[5])
        scores[0, place, 1 + int(row[4])] = np.log(row[5])
    return {"loc": offsets, "conf": scores}


def square(name: str) -> dict[str, Any]:
    return {"picture": (1, 3, *ANCHORS[name].sides)}


def cellwise() -> Answers:
    """YOLO-NAS: corners in pixels and scores, one row a cell."""
    return {"boxes": rows(CELLS, ALL[:, :4]), "scores": rows(CELLS, scored(ALL))}


def paddle() -> Answers:
    table = np.concatenate((BOXES[:, [4, 5, 0, 1, 2, 3]], np.ones((3, 6), np.float32)))
    return {"multiclass_nms3_0.tmp_0": table, "multiclass_nms3_0.tmp_2": np.array([2], np.int32)}


def classes(result: Any) -> None:
    assert isinstance(result, Classes)
    np.testing.assert_allclose(result.scores, CHANCES, atol=1e-5)
    assert result.best == [1, 0, 2]
    assert result.to_dict()["classes"]["labels"][0] == result.labels[1]


def depth(result: Any) -> None:
    assert isinstance(result, Depth)
    np.testing.assert_allclose(result.values, disc() * 7 + 1, atol=1e-5)


def opacity(result: Any) -> None:
    assert isinstance(result, Mask)
    np.testing.assert_allclose(result.values, disc(), atol=1e-5)


def vector(result: Any) -> None:
    assert isinstance(result, Tensors)
    (values,) = result.arrays.values()
    np.testing.assert_array_equal(values, VECTOR)


CHANCES = np.array([0.2, 0.7, 0.1], np.float32)
VECTOR = np.linspace(-1, 1, 16, dtype=np.float32)[None]
NEWER = [
    Case(
        "yolov8-obb",
        "metadata says so",
        lambda: {"output0": oriented_columns()},
        oriented,
        options={"metadata": NAMES | {"task": "obb"}},
    ),
    Case(
        "yolo26-obb",
        "listed, metadata says so",
        {"output0": ORIENTED[None][..., [0, 1, 2, 3, 6, 5, 4]]},
        oriented,
        options={"metadata": {"task": "obb"}},
    ),
    Case("rt-detr", "sigmoid", lambda: transformer(False), boxed(BOXES), "stretch"),
    Case("detr", "no object wins", lambda: transformer(True), boxed(BOXES), "stretch"),
    Case(
        "rf-detr",
        "dets and labels",
        lambda: {"dets": queries()[0], "labels": queries()[1]},
        boxed(BOXES),
        "stretch",
    ),
    Case(
        "rt-detr-combined",
        "Ultralytics",
        combined,
        boxed(BOXES),
        "stretch",
        options={"metadata": NAMES},
    ),
    Case("centernet", "with offsets", lambda: centres(True), boxed(BOXES), order="bgr"),
    Case(
        "centernet",
        "centres of cells",
        lambda: centres(False),
        boxed(BOXES, atol=2.01),
        order="bgr",
    ),
    *(
        Case("ssd-anchors", name, lambda name=name: anchored(name), boxed(BOXES, atol=0.05),
             "stretch", options=square(name))
        for name in ANCHORS
    ),
    Case("yolo-nas", "pixels", cellwise, boxed(BOXES)),
    Case(
        "classify",
        "Ultralytics",
        {"output0": CHANCES[None]},
        classes,
        "stretch",
        options={"metadata": NAMES | {"task": "classify"}},
    ),
    Case(
        "classify",
        "behind a softmax",
        {"scores": np.log(CHANCES)[None]},
        classes,
        "stretch",
        options={"ends": "Softmax"},
    ),
    Case(
        "classify",
        "logits of named classes",
        {"logits": np.log(CHANCES)[None, :, None, None] + 3},
        classes,
        "stretch",
        options={"metadata": NAMES},
    ),
    Case("depth-map", "rank 3", {"predicted_depth": (disc() * 7 + 1)[None]}, depth, "stretch"),
    Case("depth-map", "rank 4", {"disparity": (disc() * 7 + 1)[None, None]}, depth, "stretch"),
    Case(
        "matting",
        "RVM's names",
        {"fgr": np.ones((1, 3, HIGH, WIDE), np.float32), "pha": disc()[None, None]},
        opacity,
        "stretch",
    ),
    Case("embedding", "by name", {"image_embeds": VECTOR}, vector, "stretch"),
    Case(
        "mask",
        "U²-Net: several depths",
        {f"d{n}": disc()[None, None] for n in range(3)},
        opacity,
        "stretch",
        options={"ends": "Sigmoid"},
    ),
    Case("mask", "without channels", {"map": disc()[None]}, opacity, "stretch"),
    Case(
        "yolov5",
        "raw heads beside",
        {
            "output0": rows(3 * CELLS, centred(ALL), test_forms.objectness(ALL)),
            "head8": np.zeros((1, 3, HIGH // 8, WIDE // 8, 5 + CLASSES), np.float32),
        },
        boxed(BOXES),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", NEWER, ids=str)
def test_form_is_recognised_and_gives_back_what_it_holds(case: Case, tmp_path: Path) -> None:
    file = case.file(tmp_path)
    if case.why == "behind a softmax" or case.why.startswith("U²-Net"):
        form = recognise(file)
        assert form.task == FORMS[case.form].task
        return  # the operator changes what the answer holds
    form = recognise(file)
    assert form.task == FORMS[case.form].task
    case.check(answered(file, form))
    assert (form.preprocessing.fit, form.preprocessing.order) == (case.fit, case.order)
    assert repr(recognise(file, case.form)) == repr(form)


@pytest.mark.parametrize("case", NEWER, ids=str)
def test_no_other_form_matches_as_well(case: Case, tmp_path: Path) -> None:
    model = InspectedModel.open(case.file(tmp_path))
    strengths = {name: rule.strength(model) for name, rule in FORMS.items()}
    assert strengths.pop(case.form) > max(strengths.values())


def test_every_form_has_a_case() -> None:
    apart = {"picture", "raw", "d-fine", "paddle", "text-line"}  # these have tests of their own
    assert {c.form for c in [*CASES, *NEWER]} | apart == set(FORMS)


# --- what is refused ----------------------------------------------------------------------------

FEATURES = np.random.default_rng(4).normal(size=(1, 4, HIGH, WIDE)).astype(np.float32)
NEAR = (disc() * 7)[None, None]


@pytest.mark.parametrize(
    ("answers", "either"),
    [
        ({"out": NEAR}, ("depth-map", "mask")),
        ({"out": np.zeros((1, 56, CELLS), np.float32)}, ("yolov8-pose", "yolov8")),
        ({"out": np.zeros((1, 20, CELLS), np.float32)}, ("yolov8-obb", "yolov8")),
        ({"out": np.zeros((1, 30, 7), np.float32)}, ("yolo26-obb", "yolov7-nms")),
        (
            {
                "logits": np.zeros((1, 9, 4), np.float32),
                "pred_boxes": np.zeros((1, 9, 4), np.float32),
            },
            ("rt-detr", "detr"),
        ),
        (
            # The last column is likely, but another one wins: no sign of "no object".
            {
                "logits": np.tile(np.array([3, 0, 0, 1], np.float32), (1, 9, 1)),
                "pred_boxes": np.zeros((1, 9, 4), np.float32),
            },
            ("rt-detr", "detr"),
        ),
    ],
    ids=[
        "map",
        "56 columns",
        "20 columns",
        "seven numbers",
        "logits that do not tell",
        "a last class",
    ],
)
def test_outputs_of_two_forms_are_refused(
    answers: Answers, either: tuple[str, str], tmp_path: Path
) -> None:
    file = answering(tmp_path / "two.onnx", answers)
    with pytest.raises(ModelError) as caught:
        recognise(file)
    message = str(caught.value)
    assert message.startswith("two.onnx: its outputs may be ")
    for name in either:
        assert f"--task {name}" in message
        recognise(file, name)  # and each may be stated
    assert "or --task tensors, which gives them unchanged" in message
    assert recognise(file, "tensors").task == "tensors"


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        ({"out": FEATURES}, "class-scores"),
        ({"out": FEATURES[:, :1, :1, :1].reshape(1, 1) * np.ones((1, 10), np.float32)}, "classify"),
    ],
    ids=["four channels", "ten numbers"],
)
def test_a_shape_alone_is_not_enough(answers: Answers, name: str, tmp_path: Path) -> None:
    """A map of four channels is not a segmentation because it has four channels."""
    file = answering(tmp_path / "plain.onnx", answers)
    with pytest.raises(ModelError, match=f"not recognised: .*their shape allows .*{name}"):
        recognise(file)
    assert recognise(file, name).task == FORMS[name].task


# --- inputs beside the picture --------------------------------------------------------------------


def with_sizes(path: Path, name: str, answers: Answers, scaled: str) -> Path:
    """A file whose answer `scaled` is multiplied by a second input, (1, 2), twice over."""
    answering(path, answers)
    model = onnx.load(path)
    graph = model.graph
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["N", 2]))
    last = next(node for node in graph.node if node.output[0] == scaled)
    last.output[0] = "relative"
    graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.int64), "twice"))
    graph.node.extend(
        [
            helper.make_node("Cast", [name], ["size"], to=TensorProto.FLOAT),
            helper.make_node("Tile", ["size", "twice"], ["sides"]),
            helper.make_node("Mul", ["relative", "sides"], [scaled]),
        ]
    )
    onnx.save(model, path)
    return path


def test_d_fine_gets_its_sizes_from_us(tmp_path: Path) -> None:
    answers = {
        "labels": BOXES[None, :, 4].astype(np.int64),
        "boxes": shares(BOXES)[None],
        "scores": BOXES[None, :, 5],
    }
    file = with_sizes(tmp_path / "d-fine.onnx", "orig_target_sizes", answers, "boxes")
    model = zoo.load(file)
    assert model.input_name == "images"
    assert [each.name for each in onnx.load(model.path).graph.input] == ["images"]
    image = np.zeros((HIGH * 2, WIDE * 2, 3), np.uint8)
    _, view = model.fit(image)
    outputs = InspectedModel.open(file).sample_outputs
    result = model.decode(outputs, view)
    assert isinstance(result, Detections)
    np.testing.assert_allclose(result.xyxy, BOXES[:, :4] * 2, atol=0.01)
    assert (model.form.preprocessing.fit, model.form.preprocessing.scale) == ("stretch", 1 / 255)


def test_paddle_gets_its_scale_from_us(tmp_path: Path) -> None:
    answers = paddle()
    file = with_sizes(tmp_path / "p.onnx", "unused", answers, "multiclass_nms3_0.tmp_2")
    model = onnx.load(file)
    del model.graph.node[-3:], model.graph.input[-1:]
    for node in model.graph.node:
        if node.output[0] == "relative":
            node.output[0] = "multiclass_nms3_0.tmp_2"
    ports = {"im_shape": [1, 2], "scale_factor": [1, 2]}
    for name, dims in ports.items():
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
    onnx.save(model, file)
    form = recognise(file)
    boxed(BOXES, 1000)(answered(file, form))


def test_an_unknown_input_asks_for_a_card(tmp_path: Path) -> None:
    answers = {"out": CHANCES[None]}
    file = answering(tmp_path / "more.onnx", answers)
    model = onnx.load(file)
    model.graph.input.append(helper.make_tensor_value_info("knob", TensorProto.FLOAT, [1]))
    onnx.save(model, file)
    with pytest.raises(ModelError, match=r"got 'images', 'knob'; give the others constants in"):
        recognise(file)


def test_coco_categories_have_the_gaps_of_the_annotations() -> None:
    assert len(COCO_CATEGORIES) == 91
    assert (COCO_CATEGORIES[1], COCO_CATEGORIES[13], COCO_CATEGORIES[90]) == (
        "person",
        "stop sign",
        "toothbrush",
    )


def recogniser(path: Path, signs: int = 0, rows: int = 48) -> Path:
    """A file that leaves all sizes open and needs `rows` rows: scores of 40 signs at each place."""
    kernel = np.ones((40, 3, rows, 8), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["columns"], strides=[1, 8]),
        helper.make_node("Squeeze", ["columns", "axis"], ["places"]),
        helper.make_node("Transpose", ["places"], ["scores"], perm=[0, 2, 1]),
    ]
    sizes = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "places", 40])],
        [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(np.array([2]), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if signs:
        value = "\n".join(chr(97 + each) for each in range(signs))
        model.metadata_props.add(key="character", value=value)
    onnx.save(model, path)
    return path


def test_a_recogniser_of_lines_is_fixed_at_the_height_that_it_takes(tmp_path: Path) -> None:
    model = zoo.load(str(recogniser(tmp_path / "lines.onnx", signs=38)))
    assert model.size == (48, 320)
    assert model.task == "tensors"
    assert model.for_source(480, 640).size == (48, 320)
    assert model.form.preprocessing.order == "bgr"
    feed = model.feed(np.full((48, 320, 3), 255, np.uint8))
    assert feed[model.input_name].max() == pytest.approx(1.0)
    tall = zoo.load(str(recogniser(tmp_path / "tall.onnx", 38, rows=64)), input_size=(64, 512))
    assert tall.size == (64, 512)


def test_a_network_that_cannot_take_the_usual_size_gets_one_that_it_can(tmp_path: Path) -> None:
    path = str(recogniser(tmp_path / "unknown.onnx", rows=224))
    model = zoo.load(path, task="tensors")
    assert model.size == (224, 224)
    assert model.for_source(480, 640).size == (224, 224)
    with pytest.raises(ModelError, match="not recognised"):
        zoo.load(path)
    odd = str(recogniser(tmp_path / "odd.onnx", rows=77))
    with pytest.raises(ModelError, match=r"odd.onnx: ONNX Runtime refuses it.*--size HEIGHTxWIDTH"):
        zoo.load(odd, task="tensors")
    assert zoo.load(odd, task="tensors", input_size=(77, 160)).size == (77, 160)
