"""What an observer sees of the loop, and what a study changes in it."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import BorrowedBackend, ReuseBackend
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.observer import ObservedFrame
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.inference.types import (
    DETAILS,
    PARTS,
    FittedFrame,
    ProcessorStopWatch,
)
from stillframe.pipeline.media.frame import Frame
from tests import networks

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")
    return zoo.load(str(path), confidence=0.0)


@pytest.fixture
def backend(model: Model) -> Iterator[ReuseBackend]:
    reuse = ReuseBackend(model.path, 1)
    yield reuse
    reuse.close()


def scene(square: int = 0, level: int = 100) -> Image:
    image = np.full((64, 96, 3), level, np.uint8)
    image[20 : 20 + square, 30 : 30 + square] = 255
    return image


def frame(index: int, image: Image, **flags: bool) -> Frame:
    return Frame(image, index, index / 10, index, Fraction(1, 10), **flags)


class Failing:
    """A backend that fails from some run on."""

    incremental = False
    cache_bytes = 0

    def __init__(self, first: int) -> None:
        self._left = first

    def run(self, feed: Any, change: Any) -> list[NDArray[Any]]:
        self._left -= 1
        if self._left < 0:
            raise ModelError("it broke")
        box = np.array([networks.BOX], np.float32)
        return [box, np.array([0.5], np.float32), np.array([1])]

    def close(self) -> None: ...


def test_an_observer_sees_every_kind_of_frame(model: Model) -> None:
    """Whole, partial, unchanged, corrupt and skipped, in this order, once each."""
    seen: list[ObservedFrame] = []
    pictures = [scene(), scene(20), scene(20), scene(8), scene(30)]
    flags = [{}, {}, {}, {"corrupt": True}, {}]
    frames = [
        frame(n, image, **each) for n, (image, each) in enumerate(zip(pictures, flags, strict=True))
    ]
    with Runner(model, Settings("layer", threads=1), observer=seen.append) as runner:
        steps = [runner.step(each) for each in frames]
    assert [each.task.kind for each in seen] == [
        "computed", "computed", "unchanged", "corrupt", "computed",
    ]  # fmt: skip
    assert [each.task.partial for each in seen] == [False, True, False, False, True]
    assert [each.outputs is not None for each in seen] == [True, True, False, False, True]
    assert [each.result for each in seen] == steps
    assert [each.task.frame for each in seen] == frames
    assert {each.error for each in seen} == {None}
    change = seen[1].task.change
    assert change is not None
    assert change.kind == "partial"
    assert 0 < change.active == steps[1].active < 1
    assert seen[1].outputs is not None
    assert seen[1].outputs[1].shape == (1,)


def test_an_observer_sees_skipped_frames(model: Model) -> None:
    seen: list[ObservedFrame] = []
    settings = Settings("off", every=2, between="follow", threads=1)
    with Runner(model, settings, observer=seen.append) as runner:
        for n in range(4):
            runner.step(frame(n, scene(20 + n)))
    assert [each.task.kind for each in seen] == ["computed", "skipped"] * 2
    assert set(seen[1].task.stop_watch.spent_ms) == {"grey", "follow"}
    assert seen[1].outputs is None
    assert seen[1].result is not None


@pytest.mark.parametrize("fails_in", ["backend", "decoder"])
def test_an_observer_sees_a_failure_before_it_is_raised(model: Model, fails_in: str) -> None:
    seen: list[ObservedFrame] = []
    failing = Failing(1 if fails_in == "backend" else 99)
    slot = BackendSlot(lambda path: failing, incremental=False)
    runner = Runner(model, Settings(), slot=slot, observer=seen.append)
    runner.step(frame(0, scene()))
    if fails_in == "decoder":
        failing.run = lambda feed, change: [np.zeros(0, np.float32)]  # type: ignore[method-assign]
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever it is, it is what was seen
        runner.step(frame(1, scene(30)))
    assert len(seen) == 2
    assert seen[1].error is raised.value
    assert seen[1].result is None
    assert (seen[1].outputs is None) == (fails_in == "backend")


def test_an_observer_tells_apart_what_a_run_counts_together(model: Model) -> None:
    seen: list[ObservedFrame] = []
    settings = Settings("layer", between="follow", every=2, threads=1)
    with Runner(model, settings, observer=seen.append) as observed, Runner(model, settings) as run:
        for n in range(2):
            observed.step(frame(n, scene(20 * n)))
        plain = run.step(frame(0, scene()))
    assert set(seen[0].task.stop_watch.spent_ms) == {"fit", "gate", "infer", "decode", *DETAILS}
    assert set(plain.spent_ms) == {"fit", "gate", "infer", "decode"}
    assert set(DETAILS.values()) <= set(PARTS)


def test_results_are_the_same_with_and_without_an_observer(model: Model) -> None:
    pictures = [scene(20 * (n % 3), 100 + n) for n in range(8)]
    settings = Settings("layer", every=2, between="follow", threads=1)
    with Runner(model, settings, observer=lambda seen: None) as one, Runner(model, settings) as two:
        for n, image in enumerate(pictures):
            ours, theirs = (each.step(frame(n, image)) for each in (one, two))
            assert ours.kind == theirs.kind
            assert isinstance(ours.result, Detections)
            assert isinstance(theirs.result, Detections)
            np.testing.assert_array_equal(ours.result.confidence, theirs.result.confidence)
            np.testing.assert_array_equal(ours.result.xyxy, theirs.result.xyxy)


def test_a_borrowed_backend_outlives_the_runner(
    model: Model, backend: ReuseBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(backend, "close", lambda: closed.append(1))
        for _ in range(2):
            slot = BackendSlot(lambda path: BorrowedBackend(backend), incremental=True)
            with Runner(model, Settings("layer"), slot=slot) as runner:
                assert runner.step(frame(0, scene())).active == 1
                assert runner.step(frame(1, scene(20))).active < 1
    assert not closed


def test_after_a_reset_nothing_stands(model: Model) -> None:
    with Runner(model, Settings("layer", threads=1)) as runner:
        runner.step(frame(0, scene()))
        assert runner.step(frame(1, scene())).kind == "unchanged"
        runner.reset()
        again = runner.step(frame(0, scene()))  # its time may begin anew
        assert (again.kind, again.active) == ("computed", 1.0)
        assert again.result.evidence.provenance == "computed"


# --- what a study changes ------------------------------------------------------------------------


def kinds(model: Model, study: StudySettings, frames: list[Frame], **settings: Any) -> str:
    with Runner(model, Settings(**{"threads": 1, **settings}), study=study) as runner:
        return "".join(runner.step(each).kind[0] for each in frames)


def test_a_study_may_run_unchanged_frames(model: Model) -> None:
    frames = [frame(n, scene()) for n in range(3)]
    assert kinds(model, StudySettings(), frames, reuse="layer") == "cuu"
    assert kinds(model, StudySettings(run_unchanged=True), frames, reuse="layer") == "ccc"
    seen: list[ObservedFrame] = []
    study = StudySettings(run_unchanged=True)
    with Runner(model, Settings("layer", threads=1), study=study, observer=seen.append) as runner:
        for each in frames:
            runner.step(each)
        assert isinstance(runner.backend, ReuseBackend)
        assert runner.backend.session.last_stats is not None
        assert runner.backend.session.last_stats.work == 0
    assert [each.task.change.kind for each in seen if each.task.change] == [
        "all", "unchanged", "unchanged",
    ]  # fmt: skip


def test_a_study_may_know_no_cuts(model: Model) -> None:
    dark = np.random.default_rng(0).integers(0, 60, (64, 96, 3), np.uint8)
    frames = [frame(n, image) for n, image in enumerate((scene(), scene(), dark, dark))]
    assert kinds(model, StudySettings(), frames, reuse="off", every=4) == "cscs"
    assert kinds(model, StudySettings(scene_cuts=False), frames, reuse="off", every=4) == "csss"


def test_a_study_may_skip_otherwise_than_its_settings(model: Model) -> None:
    frames = [frame(n, scene(5 * n)) for n in range(4)]
    skipping = StudySettings(frame_skipping=FrameSkipping(4, "keep", 0.15))
    assert kinds(model, skipping, frames, reuse="off") == "cscs"


def test_a_study_may_take_processor_time(model: Model) -> None:
    seen: list[ObservedFrame] = []
    study = StudySettings(stop_watch=ProcessorStopWatch)
    with Runner(model, Settings("layer", threads=1), study=study, observer=seen.append) as runner:
        runner.step(frame(0, scene()))
    stop_watch = seen[0].task.stop_watch
    assert isinstance(stop_watch, ProcessorStopWatch)
    assert (
        stop_watch.cpu_ms.keys() == stop_watch.spent_ms.keys() >= {"fit", "feed", "infer", "decode"}
    )


def test_a_frame_may_be_fitted_beforehand(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is that of the frame itself, and nothing is fitted again."""
    images = [np.repeat(np.repeat(scene(side), 2, 0), 2, 1) for side in (0, 20, 24)]
    with Runner(model, Settings("layer", threads=1)) as runner:
        expected = [runner.step(frame(n, image)).result for n, image in enumerate(images)]
    fixed = model.for_source(*images[0].shape[:2])
    fitted = []
    for n, image in enumerate(images):
        picture, view = fixed.fit(image)
        plain = frame(n, np.broadcast_to(np.uint8(0), image.shape))
        fields = {name: getattr(plain, name) for name in Frame.__slots__}
        fitted.append(FittedFrame(**fields, fitted=picture, view=view))
    monkeypatch.setattr(Model, "fit", lambda *_: pytest.fail("fitted again"))
    with Runner(model, Settings("layer", threads=1)) as runner:
        results = [runner.step(each).result for each in fitted]
    for ours, theirs in zip(results, expected, strict=True):
        assert isinstance(ours, Detections)
        assert isinstance(theirs, Detections)
        np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
        np.testing.assert_array_equal(ours.confidence, theirs.confidence)
    again = replace(fitted[0], discontinuity=True)
    assert again.fitted is fitted[0].fitted
