"""Where exactness matters, of every kind of result; and that the running backend is told."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.models import zoo
from stillframe.models.model import Model, View
from stillframe.models.results import Classes, Depth, Detections, Mask, Picture, Result, Tensors
from stillframe.pipeline.inference.importance import CELL, near_map
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.session import ReuseSession
from tests.reuse.test_session import net

HALF = View(source=(640, 960), size=(320, 480), scale=(0.5, 0.5))
BOXED = View(source=(640, 960), size=(320, 320), scale=(1 / 3, 1 / 3), offset=(0.0, 53.0))


def boxes(
    *xyxy: tuple[float, ...], faint: Detections | None = None, points: Any = None
) -> Detections:
    count = len(xyxy)
    return Detections(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.full(count, 0.9, np.float32),
        np.zeros(count, np.int64),
        ("thing",),
        landmarks=points,
        faint=faint,
    )


def at(near: NDArray[np.uint8] | None, view: View, x: float, y: float) -> int:
    """Whether a point of the source is near."""
    assert near is not None
    column, row = (
        int((value * scale + offset) // CELL)
        for value, scale, offset in zip((x, y), view.scale, view.offset, strict=True)
    )
    return int(near[row, column])


@pytest.mark.parametrize("view", [HALF, BOXED], ids=["stretched", "letterboxed"])
def test_boxes_and_what_surrounds_them_are_near(view: View) -> None:
    near = near_map(boxes((400, 200, 480, 300)), view)
    assert at(near, view, 440, 250)
    assert at(near, view, 380, 190), "a margin"
    assert not at(near, view, 700, 250)
    assert not at(near, view, 440, 600)
    assert near is not None
    assert near.shape == (-(-view.size[0] // CELL), -(-view.size[1] // CELL))


def test_faint_boxes_and_landmarks_are_near_and_an_empty_scene_is_not() -> None:
    near = near_map(boxes(faint=boxes((100, 100, 120, 120))), HALF)
    assert at(near, HALF, 110, 110)
    points = np.array([[[405, 205], [800, 500]]], np.float32)
    assert at(near_map(boxes((400, 200, 420, 220), points=points), HALF), HALF, 800, 500)
    empty = near_map(boxes(), HALF)
    assert empty is not None
    assert not empty.any()


def test_boxes_at_the_edge_of_the_picture_stay_within_the_map() -> None:
    near = near_map(boxes((0, 0, 10, 10), (950, 630, 960, 640)), HALF)
    assert at(near, HALF, 0, 0)
    assert at(near, HALF, 959, 639)
    assert not at(near, HALF, 480, 320)


def test_borders_of_masks_and_what_is_undecided_are_near() -> None:
    values = np.zeros((640, 960), np.float32)
    values[:, 480:] = 1.0
    near = near_map(Mask(values, ("person",)), HALF)
    assert at(near, HALF, 480, 320)
    assert not at(near, HALF, 100, 320)
    assert not at(near, HALF, 900, 320)
    values[:, :100] = 0.45
    assert at(near_map(Mask(values, ("person",)), HALF), HALF, 40, 320)
    labels = (values > 0.9).astype(np.uint8)
    near = near_map(Mask(labels, ("none", "person")), HALF)
    assert at(near, HALF, 480, 320)
    assert not at(near, HALF, 40, 320)


@pytest.mark.parametrize(
    "result",
    [
        Classes(np.array([0.5, 0.5], np.float32), ("a", "b")),
        Depth(np.ones((640, 960), np.float32)),
        Picture(np.zeros((640, 960, 3), np.uint8)),
        Tensors({"y": np.zeros(3)}),
    ],
    ids=lambda result: type(result).__name__,
)
def test_everything_else_matters_everywhere(result: Result) -> None:
    assert near_map(result, HALF) is None


def frame(index: int, level: int) -> Frame:
    image = np.full((96, 128, 3), 90, np.uint8)
    image[4:24, 4:24] += np.uint8(level)
    return Frame(image, index, index / 10, index, Fraction(1, 10))


@pytest.mark.parametrize("staged", [False, True], ids=["runner", "stages"])
@pytest.mark.parametrize(("far", "maps"), [(1.0, 0), (4.0, 3)])
def test_the_backend_attends_to_the_last_result(
    far: float, maps: int, staged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(net((1, 3, 96, 128)))
    attended: list[Any] = []
    monkeypatch.setattr(ReuseSession, "attend", lambda self, near: attended.append(near))
    shown = boxes((4, 4, 8, 8))
    monkeypatch.setattr(Model, "decode", lambda self, outputs, view: shown)
    settings = Settings("layer", tolerance=0.1, far=far, threads=1)
    model = zoo.load(path, task="tensors")
    frames = [frame(index, 90 * (index % 2)) for index in range(3)]
    if staged:
        stages = InferenceStages(model, settings)
        for each in frames:
            stages.postprocess(stages.infer(stages.preprocess(each)))
        stages.slot.close()
    else:
        with Runner(model, settings) as runner:
            for each in frames:
                runner.step(each)
    assert len(attended) == maps
    if maps:
        assert attended[0] is None, "nothing is known before the first result"
        expected = np.zeros((6, 8), np.uint8)
        expected[:2, :2] = 1
        assert np.array_equal(attended[1], expected)
