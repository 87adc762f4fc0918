"""The model card: read, applied, written again; and what contradicts the model."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

import stillframe
from stillframe.errors import CardWarning, ModelError, StillframeError, UsageError
from stillframe.models import zoo
from stillframe.models.card import ModelCard, StatedCard, card_beside, read_labels
from stillframe.models.model import Model, View
from stillframe.models.results import Detections
from stillframe.pipeline import cli
from tests import networks
from tests.answers import answering
from tests.models.forms import test_forms
from tests.models.forms.test_forms import (
    ALL,
    BOXES,
    CASES,
    CELLS,
    NAMES,
    SIZE,
    Case,
    centred,
    rows,
    scored,
)
from tests.models.forms.test_newer_forms import NEWER, shares, with_sizes

cache = test_forms.cache  # the fixture
COLUMNS = rows(CELLS, centred(ALL), scored(ALL)).transpose(0, 2, 1).copy()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A YOLOv8 of three classes."""
    return answering(tmp_path / "net.onnx", {"output0": COLUMNS}, metadata=NAMES)


def card(folder: Path, text: str, name: str = "model.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def detections(model: Model) -> Detections:
    result = model.decode([COLUMNS], View(SIZE, SIZE, (1.0, 1.0)))
    assert isinstance(result, Detections)
    return result


# --- what a card does -----------------------------------------------------------------------------


def test_a_card_beside_the_file_is_used_and_options_go_before_it(file: Path) -> None:
    card(
        file.parent,
        """
labels: [dog, cat, bird]
classes: [cat]
confidence: 0.8
iou: 0.9
size: 64x96
scale: 1/128
mean: 1
std: [2, 4, 8]
bgr: true
fit: stretch
""",
    )
    model = zoo.load(file)
    form = model.form
    assert (form.confidence, form.overlap, form.labels) == (0.8, 0.9, ("dog", "cat", "bird"))
    assert detections(model).names == ["cat"]
    fed = model.feed(np.full((*SIZE, 3), (10, 20, 30), np.uint8))[model.input_name]
    want = [(30 / 128 - 1) / 2, (20 / 128 - 1) / 4, (10 / 128 - 1) / 8]
    np.testing.assert_allclose(fed[0, :, 0, 0], want, atol=1e-6)
    other = zoo.load(file, confidence=0.3, classes=["dog", "cat"], bgr=False)
    assert detections(other).names == ["cat", "dog"]
    assert (other.form.preprocessing.order, other.form.overlap) == ("rgb", 0.9)
    assert zoo.load(file, iou=0.2).form.overlap == 0.2


def test_faint_boxes_of_other_classes_are_left_out_too(file: Path) -> None:
    model = zoo.load(file, confidence=0.8)  # the dog, 0.75, is faint
    faint = detections(model).faint
    assert faint is not None
    assert faint.names == ["dog"]
    cats = detections(zoo.load(file, confidence=0.8, classes=["cat"]))
    assert cats.names == ["cat"]
    assert cats.faint is not None
    assert len(cats.faint) == 0


def test_a_card_of_another_file_is_not_used(file: Path) -> None:
    card(file.parent, "file: other.onnx\nconfidence: 0.9\n")
    assert zoo.load(file).form.confidence == 0.25
    card(file.parent, "confidence: 0.7\n", "net.model.yaml")
    assert zoo.load(file).form.confidence == 0.7
    card(file.parent, "file: other.onnx\n", "net.model.yaml")
    with pytest.raises(ModelError, match=r"net\.model\.yaml: file: expected net\.onnx, got other"):
        zoo.load(file)


def test_an_empty_card_states_nothing(file: Path) -> None:
    card(file.parent, "")  # as a shell leaves it before `describe` writes
    assert zoo.load(file).form.confidence == 0.25
    assert card_beside(file)[0] == ModelCard()


def test_labels_may_lie_in_a_file(file: Path) -> None:
    names = card(file.parent, "hund\nkatze\nvogel\n\n", "names.txt")
    card(file.parent, "labels: names.txt\n")
    assert zoo.load(file).labels == ("hund", "katze", "vogel")
    card(file.parent, "names: {0: chien, 1: chat, 2: oiseau}\n", "data.yaml")
    assert zoo.load(file, labels=file.parent / "data.yaml").labels == ("chien", "chat", "oiseau")
    assert zoo.load(file, labels="a, b,c").labels == ("a", "b", "c")
    assert read_labels(str(names)) == ["hund", "katze", "vogel"]
    card(file.parent, "labels: {0: a, 1: b, 2: c}\n")
    assert zoo.load(file).labels == ("a", "b", "c")


def test_labels_decide_between_two_forms(tmp_path: Path) -> None:
    file = answering(tmp_path / "two.onnx", {"out": np.zeros((1, 56, CELLS), np.float32)})
    with pytest.raises(ModelError, match="may be"):
        zoo.load(file)
    assert zoo.load(file, labels=[f"n{i}" for i in range(52)]).form.name == "yolov8"
    card(tmp_path, "task: yolov8-pose\n")
    assert zoo.load(file).form.name == "yolov8-pose"


def test_a_list_of_unknown_classes_takes_any_number_of_labels(tmp_path: Path) -> None:
    file = answering(tmp_path / "nms.onnx", {"out": test_forms.listed()[None]})
    model = zoo.load(file)
    assert (len(model.labels), model.form.open_classes) == (1000, True)
    assert zoo.load(file, labels="a,b").labels == ("a", "b")


def test_constants_feed_inputs_beside_the_picture(tmp_path: Path) -> None:
    answers = {
        "labels": BOXES[None, :, 4].astype(np.int64),
        "boxes": shares(BOXES)[None],
        "scores": BOXES[None, :, 5],
    }
    file = with_sizes(tmp_path / "own.onnx", "extent", answers, "boxes")
    with pytest.raises(ModelError, match="got 'images', 'extent'; give the others constants in a"):
        zoo.load(file)
    card(tmp_path, "constants: {extent: [[width, height]]}\n")
    model = zoo.load(file)
    assert [each.name for each in onnx.load(model.path).graph.input] == ["images"]
    assert zoo.load(file, constants={"extent": [[96, 64]]}).form.task == "detection"


def test_a_layout_is_stated_where_the_file_leaves_it_open(tmp_path: Path) -> None:
    file = answering(
        tmp_path / "open.onnx", {"output0": COLUMNS}, picture=("n", "a", "b", "c"), metadata=NAMES
    )
    first, last = zoo.load(file, input_size=SIZE), zoo.load(file, input_size=SIZE, layout="nhwc")
    picture = np.zeros((*SIZE, 3), np.uint8)
    assert first.feed(picture)[first.input_name].shape == (1, 3, *SIZE)
    assert last.feed(picture)[last.input_name].shape == (1, *SIZE, 3)
    assert first.path != last.path


# --- what contradicts the model -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("labels: [a, b]", "labels: expected 3 names, one for each class of .* outputs, got 2"),
        ("classes: [dogg]", r"classes: expected labels of the model \(dog, cat, bird\), got 'dogg' "
                           r"\(did you mean 'dog'\?\)"),
        ("size: 32x32", r"size: .*expected 96x64, the only size of this model, got 32x32"),
        ("mean: [1, 2]", "mean: expected 1 or 3 numbers, got 2"),
        ("std: 0", "std: expected numbers other than 0"),
        ("task: yolov5", "task: net.onnx: --task yolov5 expects .*; it has input images 96x64"),
        ("task: yolov77", r"unknown task 'yolov77': .*did you mean 'yolov"),
        ("layout: nhwc", "layout: expected nchw, as 1x3x64x96 has its channels there, got nhwc"),
        ("constants: {size: 3}", "expected the name of an input, one of images, got 'size'"),
        ("state: {h: images}", "state: expected the name of an output, one of output0, got 'h'"),
        ("lables: [a]", r"unknown key 'lables' \(did you mean 'labels'\?\)"),
        ("iou: 2", "iou: expected at most 1, got 2"),
        ("iou: much", "iou: expected a number, got 'much'"),
        ("confidence: [0.5]", r"confidence: expected a number, got \[0.5\]"),
        ("size: large", r"size: expected HEIGHTxWIDTH such as 480x640, got 'large'"),
        ("mean: [1, a]", "mean: expected a number for each channel, got 'a'"),
        ("layout: NCHW", r"layout: expected nchw or nhwc, got 'NCHW'"),
        ("bgr: maybe", "bgr: expected true or false, got 'maybe'"),
        ("fill: 300", "fill: expected at most 255, got 300"),
        ("labels: absent.txt", "labels: .*absent.txt: no such file or directory"),
        ("- labels", "expected settings by name, got list"),
        ("a: [", "cannot be read as YAML"),
    ],
)  # fmt: skip
def test_what_contradicts_is_one_line(text: str, says: str, file: Path) -> None:
    path = card(file.parent, text + "\n")
    with pytest.raises(ModelError, match=says) as caught:
        zoo.load(file)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
    known = "yolov77", "layout: nhwc", "constants", "state"
    if not any(each in text for each in known):
        assert str(path) in str(caught.value)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert zoo.load(file, task="tensors").task == "tensors"  # always works
    assert all(issubclass(each.category, CardWarning) for each in shown)


def test_a_fault_of_the_card_is_reported_where_tensors_are_given_all_the_same(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    card(file.parent, "size: 32x32\n")
    with pytest.warns(CardWarning, match="size: .* the model card is left out"):
        assert zoo.load(file, task="tensors").size == SIZE
    with pytest.raises(ModelError, match=r"net\.onnx: size: "):  # stated as an option: an error
        zoo.load(file, task="tensors", input_size=(32, 32))
    assert cli.status(["explain", str(file), "--task", "tensors"]) == 0
    assert "stillframe: warning: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": ["a"]}, "net.onnx: labels: expected 3 names"),
        ({"iou": 0}, "iou: expected more than 0, got 0"),
        ({"classes": ["bat"]}, "net.onnx: classes: expected labels"),
        ({"confidence": 2}, "expected a confidence in 0..1, got 2"),
    ],
)
def test_options_are_checked_alike(options: dict[str, Any], says: str, file: Path) -> None:
    with pytest.raises(StillframeError, match=says):
        stillframe.load(file, **options)


def test_bytes_and_grey_pictures_refuse_what_does_not_apply(tmp_path: Path) -> None:
    small = answering(
        tmp_path / "bytes.onnx", {"output0": COLUMNS}, element="uint8", metadata=NAMES
    )
    with pytest.raises(ModelError, match="scale: expected none, as the model takes bytes"):
        zoo.load(small, scale=2)
    grey = answering(
        tmp_path / "grey.onnx", {"output0": COLUMNS}, picture=(1, 1, *SIZE), metadata=NAMES
    )
    with pytest.raises(ModelError, match="bgr: expected a model of 3 channels, got one of 1"):
        zoo.load(grey, bgr=True)
    assert zoo.load(grey, mean=[0.5], std=[0.5]).form.preprocessing.gains()[0] == (2 / 255, -1)


def test_a_model_by_name_takes_options_but_no_card() -> None:
    stated = StatedCard.of_name("centerface", ModelCard.checked({"iou": 0.5, "labels": ["a", "b"]}))
    with pytest.raises(ModelError, match="centerface: labels: expected 1 names"):
        stated.applied(zoo.MODELS["centerface"].form)
    stated = StatedCard.of_name("centerface", ModelCard.checked({"iou": 0.5}))
    assert stated.applied(zoo.MODELS["centerface"].form).overlap == 0.5


# --- describe -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*CASES, *NEWER], ids=str)
def test_the_card_of_what_is_recognised_changes_nothing(
    case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = case.file(tmp_path)
    before = zoo.load(file)
    assert cli.status(["models", "describe", str(file)]) == 0
    text = capfd.readouterr().out
    card(tmp_path, text)
    assert yaml.safe_load(text)["task"] == case.form
    after = zoo.load(file)
    assert repr(after.form) == repr(before.form)
    assert after.path == before.path
    assert cli.status(["models", "describe", str(file)]) == 0
    assert capfd.readouterr().out == text


def test_describe_writes_a_free_size_only_where_it_is_stated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = networks.negative(tmp_path / "negative.onnx")
    assert cli.status(["models", "describe", str(file)]) == 0
    assert "size" not in yaml.safe_load(capfd.readouterr().out)
    assert cli.status(["models", "describe", str(file), "--size", "48x64"]) == 0
    assert yaml.safe_load(capfd.readouterr().out)["size"] == [48, 64]
    assert cli.status(["models", "describe", "centerface"]) == 2


def test_describe_tells_constants(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answers = {
        "labels": BOXES[None, :, 4].astype(np.int64),
        "boxes": shares(BOXES)[None],
        "scores": BOXES[None, :, 5],
    }
    file = with_sizes(tmp_path / "d.onnx", "orig_target_sizes", answers, "boxes")
    assert cli.status(["models", "describe", str(file)]) == 0
    text = capfd.readouterr().out
    assert yaml.safe_load(text)["constants"] == {"orig_target_sizes": [["width", "height"]]}
    before = zoo.load(file)
    card(tmp_path, text)
    assert zoo.load(file).path == before.path


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([[1]], "constant 'knob': expected 2, as the model declares, got 1x1"),
        (["height", "depth"], "constant 'knob': expected numbers, height, width, or lists"),
        ([1, 2, 3], "constant 'knob': expected 2, as the model declares, got 3"),
        ([[1], [1, 2]], "expected numbers, height, width, or lists of these of equal length"),
    ],
)
def test_a_constant_has_to_fit_its_input(value: Any, says: str, tmp_path: Path) -> None:
    file = answering(tmp_path / "knob.onnx", {"output0": COLUMNS}, metadata=NAMES)
    model = onnx.load(file)
    model.graph.input.append(helper.make_tensor_value_info("knob", TensorProto.FLOAT, [2]))
    onnx.save(model, file)
    with pytest.raises(ModelError, match=says):
        zoo.load(file, constants={"knob": value})
    assert zoo.load(file, constants={"knob": ["height", 1]}).input_name == "images"


def test_options_that_make_no_sense_are_usage(file: Path) -> None:
    with pytest.raises(UsageError, match="bgr: expected true or false, got 'perhaps'"):
        stillframe.load(file, bgr="perhaps")  # type: ignore[arg-type]
