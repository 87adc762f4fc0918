"""Stages give the runner's results and allocate nothing after the first frames."""

import gc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import stillframe
from stillframe.models import zoo
from stillframe.models.results import Detections, Picture
from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.inference.buffer_pool import BufferPool
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import MODES, Reuse, Settings
from stillframe.pipeline.inference.stages import (
    DrawnFrame,
    InferenceStages,
    drawing,
    encoding,
    without_pixels,
)
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.sinks.overlay import render_step
from tests import networks
from tests.hostile import media


def scenes(count: int, **flags: Any) -> list[Frame]:
    """A textured picture in which a square moves every third frame."""
    noise = np.random.default_rng(3).integers(80, 120, (64, 96, 3)).astype(np.uint8)
    frames = []
    for index in range(count):
        image = noise.copy()
        left = 10 + 3 * (index // 3)
        image[20:36, left : left + 16] = 255
        frames.append(Frame(image, index, index / 10, index, Fraction(1, 10)))
    return frames


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.negative(tmp_path_factory.mktemp("models") / "negative.onnx", 64, 96)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")


def plainly(path: Path, settings: Settings, frames: list[Frame]) -> list[StepResult]:
    with Runner(zoo.load(path, confidence=0), settings) as runner:
        return [runner.step(frame) for frame in frames]


def value(step: StepResult) -> NDArray[Any]:
    if isinstance(step.result, Picture):
        return step.result.image
    assert isinstance(step.result, Detections)
    return step.result.confidence


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("reuse", MODES)
def test_stages_give_the_same_results_as_the_runner(
    reuse: Reuse, window: int, painter: Path, detector: Path
) -> None:
    """Bit for bit, although engine and gate overwrite their buffers while later stages read."""
    frames = scenes(24)
    frames[7] = Frame(frames[0].image, 7, 0.7, 7, Fraction(1, 10), corrupt=True)
    frames[15] = Frame(frames[15].image, 15, 1.5, 15, Fraction(1, 10), discontinuity=True)
    settings = Settings(reuse=reuse, max_age_s=0.5)
    for path in (painter, detector):
        expected = plainly(path, settings, frames)
        analysis = InferenceStages(zoo.load(path, confidence=0), settings)
        with StagePipeline(frames, analysis.stages(), window=window) as pipeline:
            steps = list(pipeline)
        assert [s.frame.index for s in steps] == list(range(24))
        for step, plain in zip(steps, expected, strict=True):
            assert step.kind == plain.kind
            assert step.active == plain.active
            assert step.result.evidence == plain.result.evidence
            assert np.array_equal(value(step), value(plain))


def test_the_change_mask_reaches_the_drawing_stage(painter: Path) -> None:
    frames, settings = scenes(12), Settings(reuse="layer")
    expected: list[NDArray[np.uint8] | None] = []
    with Runner(zoo.load(painter), settings) as runner:
        for frame in frames:
            changed = runner.step(frame).changed
            expected.append(None if changed is None else changed.copy())
    seen: list[NDArray[np.uint8] | None] = []

    def draw(step: StepResult) -> NDArray[np.uint8]:
        seen.append(None if step.changed is None else step.changed.copy())
        return render_step(step, "changed")

    written: list[DrawnFrame] = []
    stages = [*InferenceStages(zoo.load(painter), settings).stages(), drawing(draw)]
    with StagePipeline(frames, [*stages, encoding(written.append)]) as pipeline:
        steps = list(pipeline)
    assert len(written) == len(steps) == 12
    assert sum(map_ is not None for map_ in expected) >= 3
    for one, other in zip(seen, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or np.array_equal(one, other)
    for drawn in written:
        assert drawn.image is not None
        assert drawn.image.shape == (64, 96, 3)
        assert drawn.step.changed is None


def test_pixels_are_freed_once_no_stage_reads_them(detector: Path) -> None:
    analysis = InferenceStages(zoo.load(detector), Settings(), keeps_pixels=False)
    with StagePipeline(scenes(6), analysis.stages()) as pipeline:
        for step in pipeline:
            assert step.frame.image.shape == (64, 96, 3)
            assert step.frame.image.base.nbytes == 1
    bare = without_pixels(scenes(1)[0])
    assert not bare.image.any()
    assert not bare.image.flags.writeable


def test_plain_functions_on_a_file(tmp_path: Path) -> None:
    clip = media.clip(tmp_path / "clip.mp4", 12)

    def number(frame: stillframe.Frame) -> int:
        return media.number_of(frame.image)

    with stillframe.Pipeline(clip, [number, str]) as pipeline:
        assert list(pipeline) == [str(n) for n in range(12)]


def test_tensors_passed_to_the_next_stage_are_not_overwritten(painter: Path) -> None:
    analysis = InferenceStages(zoo.load(painter), Settings(reuse="exact"))
    first, second = (analysis.preprocess(frame) for frame in scenes(4)[::3])
    assert first.fitted is not None
    assert second.fitted is not None
    assert not np.array_equal(first.fitted, second.fitted)
    done = analysis.infer(first)
    assert done.outputs is not None
    before = done.outputs[0].copy()
    later = analysis.infer(second)
    assert later.outputs is not None
    assert np.array_equal(done.outputs[0], before)
    assert not np.array_equal(later.outputs[0], before)
    analysis.slot.close()


def test_nothing_is_allocated_after_the_first_frames(painter: Path) -> None:
    """Counted in the pool, which allocates everything that stages pass on."""
    analysis = InferenceStages(zoo.load(painter), Settings(reuse="exact"))
    allocated: list[int] = []
    with StagePipeline(scenes(60), analysis.stages()) as pipeline:
        for _ in pipeline:
            allocated.append(analysis.pool.allocations)
    assert allocated[-1] == allocated[30] > 0


# --- the pool ------------------------------------------------------------------------------------


def test_memory_returns_to_the_pool_with_its_last_view() -> None:
    pool = BufferPool()
    first = pool.copy(np.arange(12, dtype=np.float32).reshape(3, 4))
    view = first[1:].reshape(-1)[2:]
    expected = view.copy()
    del first
    gc.collect()
    second = pool.take((3, 4), np.float32)
    second[...] = -1
    assert np.array_equal(view, expected)
    assert pool.allocations == 2
    del view
    third = pool.take((48,), np.uint8)
    assert pool.allocations == 2
    assert third.shape == (48,)
    assert pool.size_bytes == 96


def test_spare_memory_is_bounded() -> None:
    pool = BufferPool()
    many = [pool.take((10,), np.uint8) for _ in range(50)]
    many.clear()
    assert pool.allocations == 50
    assert pool.size_bytes == 80


def test_pooled_arrays_behave_like_ordinary_ones() -> None:
    pool = BufferPool()
    taken = pool.take((2, 3, 5), np.int64)
    assert taken.flags.c_contiguous
    assert taken.flags.writeable
    assert taken.dtype == np.int64
    assert not pool.take((0, 4), np.float32).size


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()
