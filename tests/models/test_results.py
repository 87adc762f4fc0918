"""Results: what is refused and in which words, what a line of JSON holds, what is shared."""

import json
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError, UsageError
from stillframe.extras import install_command
from stillframe.models.results import Detections, Evidence, Mask, Picture, Result, Tensors

LABELS = ("cat", "dog")
BOXES = np.array([[1, 2, 30.126, 40], [0, 0, 5, 5]], np.float32)


def detections(**changed: Any) -> Detections:
    fields: dict[str, Any] = {
        "xyxy": BOXES,
        "confidence": np.array([0.91234, 0.5], np.float32),
        "class_id": np.array([1, 0]),
        "labels": LABELS,
    }
    return Detections(**fields | changed)


RESULTS: list[Result] = [
    detections(),
    detections(landmarks=np.ones((2, 5, 2))),
    detections(masks=np.ones((2, 7, 9), bool)),
    Detections.none(LABELS),
    Detections.none(LABELS, points=5),
    Mask(np.zeros((7, 9), np.uint8), LABELS),
    Mask(np.full((7, 9), 0.25, np.float32), ("person",)),
    Picture(np.zeros((7, 9, 3), np.uint8)),
    Tensors({"a": np.ones((1, 3, 5), np.float32), "b": np.zeros(0), "c": np.array(["x"])}),
]

WORDS = "|".join(("detections", "mask", "image", "tensors"))


@pytest.mark.parametrize("result", RESULTS, ids=lambda r: type(r).__name__)
def test_a_result_is_strict_json_with_its_evidence_and_one_task(result: Result) -> None:
    aged = result.with_evidence(Evidence("reused", 1.25))
    line = json.loads(json.dumps(aged.to_dict(), allow_nan=False))
    assert line == aged.to_dict()
    assert line.pop("provenance") == "reused"
    assert line.pop("age_s") == 1.25
    assert len(line) == 1
    assert set(line) <= set(WORDS.split("|"))


@pytest.mark.parametrize("result", RESULTS, ids=lambda r: type(r).__name__)
def test_other_evidence_shares_the_arrays_and_leaves_the_first_as_it_was(result: Result) -> None:
    aged = result.with_evidence(Evidence("partial", 0.5))
    assert result.evidence == Evidence("computed", 0.0)
    assert aged.evidence == Evidence("partial", 0.5)
    assert type(aged) is type(result)
    for name in result.__dataclass_fields__:
        if name != "evidence":
            assert getattr(aged, name) is getattr(result, name)


def test_a_line_of_detections_is_the_documented_one() -> None:
    assert detections().to_dict() == {
        "provenance": "computed",
        "age_s": 0.0,
        "detections": {
            "xyxy": [[1.0, 2.0, 30.13, 40.0], [0.0, 0.0, 5.0, 5.0]],
            "confidence": [0.9123, 0.5],
            "class_id": [1, 0],
            "labels": ["dog", "cat"],
        },
    }


def test_landmarks_and_the_area_of_masks_are_written_when_there_are_such() -> None:
    masks = np.zeros((2, 7, 9), bool)
    masks[1, :2, :3] = True
    line = detections(landmarks=np.full((2, 1, 2), 1.005), masks=masks).to_dict()["detections"]
    assert line["landmarks"] == [[[1.0, 1.0]], [[1.0, 1.0]]]
    assert line["mask_px"] == [0, 6]


def test_masks_and_pictures_are_written_in_summary() -> None:
    values = np.zeros((4, 5), np.uint8)
    values[0] = 1
    assert Mask(values, ("sky", "road", "car")).to_dict()["mask"] == {
        "size": [4, 5],
        "share": {"sky": 0.75, "road": 0.25},
    }
    chance = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    assert Mask(chance, ("person",)).to_dict()["mask"]["share"] == {"person": 0.5}
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 1] = 10
    image[0, 0, 2] = 10
    assert Picture(image).to_dict()["image"] == {"size": [4, 5], "mean_rgb": [0.0, 10.0, 0.5]}


def test_tensors_are_written_as_figures_and_what_is_no_number_as_null() -> None:
    arrays = {"a": np.array([[1, 2]], np.int64), "b": np.array([1, np.nan]), "c": np.empty((0, 3))}
    assert Tensors(arrays).to_dict()["tensors"] == {
        "a": {"shape": [1, 2], "dtype": "int64", "mean": 1.5, "min": 1.0, "max": 2.0},
        "b": {"shape": [2], "dtype": "float64", "mean": None, "min": None, "max": None},
        "c": {"shape": [0, 3], "dtype": "float64"},
    }


FAULTS: list[tuple[str, Callable[[], object], str]] = [
    (
        "boxes of three",
        lambda: detections(xyxy=np.zeros((2, 3))),
        r"xyxy: expected shape \(n, 4\), got",
    ),
    ("text", lambda: detections(xyxy=np.array([["a"] * 4] * 2)), "xyxy: expected float32, got <U1"),
    ("NaN", lambda: detections(xyxy=BOXES * np.nan), "xyxy: expected numbers, got NaN or infinity"),
    (
        "turned box",
        lambda: detections(xyxy=BOXES[:, [2, 1, 0, 3]]),
        r"xyxy: expected left <= right and top <= bottom, got \[30\.1.*\] in row 0",
    ),
    (
        "one score too few",
        lambda: detections(confidence=np.array([0.5], np.float32)),
        r"confidence: expected shape \(2,\), got \(1,\)",
    ),
    (
        "score above one",
        lambda: detections(confidence=np.array([0.5, 1.5])),
        r"confidence: expected values in 0\.\.1, got 0\.5\.\.1\.5",
    ),
    (
        "class out of range",
        lambda: detections(class_id=np.array([0, 2])),
        "class_id: expected an index into 2 labels, got 2",
    ),
    (
        "negative class",
        lambda: detections(class_id=np.array([0, -1])),
        "class_id: expected an index into 2 labels, got -1",
    ),
    (
        "class that is no integer",
        lambda: detections(class_id=np.array([0.0, 1.0])),
        "class_id: expected int64, got float64",
    ),
    (
        "landmarks of three numbers",
        lambda: detections(landmarks=np.zeros((2, 5, 3))),
        r"landmarks: expected shape \(2, k, 2\), got \(2, 5, 3\)",
    ),
    (
        "masks of numbers",
        lambda: detections(masks=np.zeros((2, 7, 9))),
        "masks: expected bool, got float64",
    ),
    (
        "mask with a class too many",
        lambda: Mask(np.full((4, 5), 2, np.uint8), LABELS),
        "mask.values: expected an index into 2 labels, got 2",
    ),
    (
        "probability above one",
        lambda: Mask(np.full((4, 5), 1.5, np.float32), ("person",)),
        r"mask.values: expected values in 0\.\.1, got 0\.\.1\.5",
    ),
    (
        "probability of two labels",
        lambda: Mask(np.zeros((4, 5), np.float32), LABELS),
        "mask.labels: expected one label for a probability, got 2",
    ),
    ("batch of masks", lambda: Mask(np.zeros((1, 4, 5), np.uint8), LABELS), r"shape \(h, w\)"),
    ("grey picture", lambda: Picture(np.zeros((4, 5), np.uint8)), r"expected shape \(h, w, 3\)"),
    (
        "float picture",
        lambda: Picture(np.zeros((4, 5, 3), np.float32)),
        "picture.image: expected uint8, got float32",
    ),
    ("negative age", lambda: Evidence("reused", -1), "expected an age of 0 s or more, got -1"),
    (
        "NaN age",
        lambda: Evidence("reused", float("nan")),
        "expected an age of 0 s or more, got nan",
    ),
    (
        "unknown provenance",
        lambda: Evidence("guessed"),  # type: ignore[arg-type]
        "expected one of computed, partial, reused, got 'guessed'",
    ),
]


@pytest.mark.parametrize(("make", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_is_named_in_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def arrays(result: Result) -> list[NDArray[Any]]:
    fields = [getattr(result, name) for name in result.__dataclass_fields__]
    if isinstance(result, Tensors):
        fields += result.arrays.values()
    return [f for f in fields if isinstance(f, np.ndarray)]


@pytest.mark.parametrize("result", RESULTS, ids=lambda r: type(r).__name__)
def test_the_arrays_are_read_only(result: Result) -> None:
    assert arrays(result)
    assert not any(a.flags.writeable for a in arrays(result))


def test_the_givers_own_array_stays_writeable() -> None:
    boxes = BOXES.copy()
    detections(xyxy=boxes)
    boxes[0, 0] = 0.5


def test_doubles_become_floats() -> None:
    result = detections(xyxy=BOXES.astype(np.float64), class_id=np.array([0, 1], np.int32))
    assert result.xyxy.dtype == np.float32
    assert result.class_id.dtype == np.int64


def test_without_supervision_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match=re.escape(install_command("supervision"))):
        detections().to_supervision()


def test_supervision_is_given_copies_and_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", fake)
    converted = detections(landmarks=np.ones((2, 5, 2))).to_supervision()
    np.testing.assert_array_equal(converted["xyxy"], BOXES)
    assert converted["data"]["class_name"].tolist() == ["dog", "cat"]
    assert converted["data"]["landmarks"].shape == (2, 5, 2)
    assert converted["mask"] is None
    converted["xyxy"][0, 0] = 0.5


@pytest.mark.parametrize("result", [r for r in RESULTS if isinstance(r, Detections)])
def test_supervision_itself_takes_detections(result: Detections) -> None:
    supervision = pytest.importorskip("supervision", reason="the extra [supervision]")
    converted = result.to_supervision()
    assert isinstance(converted, supervision.Detections)
    assert len(converted) == len(result)
    np.testing.assert_array_equal(converted.confidence, result.confidence)
