"""Whole-frame reuse, frame by frame: what meets the network, what keeps its result, and for how
long. The network is a tiny one whose score is the picture's brightness."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe import cores
from stillframe.errors import ModelError, UsageError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections, Picture, Tensors
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend
from stillframe.pipeline.inference.frame_policy import clearly_changed
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import MODES, Reuse, Settings
from stillframe.pipeline.inference.types import KINDS, StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.gate.change_gate import ChangeGate
from stillframe.reuse.gate.change_map import ChangeMap
from tests import networks

RATE = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")
    return zoo.load(str(path), confidence=0.0)


class Counting:
    """A backend that counts its calls and records its feeds."""

    incremental = False
    cache_bytes = 0
    calls = 0

    def __init__(self, path: Path, threads: int) -> None:
        self.inner = OnnxRuntimeBackend(path, threads)
        self.fed: list[NDArray[Any]] = []
        self.closed = False

    def run(self, feed: Any, change: Any) -> list[NDArray[Any]]:
        self.fed.append(next(iter(feed.values())).copy())
        return self.inner.run(feed, change)

    def close(self) -> None:
        self.closed = True
        self.inner.close()


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[Counting]:
    """Every backend that the runners of this test made."""
    backends: list[Counting] = []

    def make(path: Path, threads: int) -> Backend:
        backends.append(Counting(path, threads))
        return backends[-1]

    monkeypatch.setattr("stillframe.pipeline.inference.settings.OnnxRuntimeBackend", make)
    return backends


def scene(brightness: int, square: int = 0) -> NDArray[np.uint8]:
    """A textured picture of 64 x 96, with a white square of that side in it."""
    noise = np.random.default_rng(3).integers(-20, 20, (64, 96, 3))
    image = np.clip(brightness + noise, 0, 255).astype(np.uint8)
    image[20 : 20 + square, 30 : 30 + square] = 255
    return image


def frame(index: int, image: NDArray[np.uint8], **flags: bool) -> Frame:
    return Frame(image, index, index / RATE, index, Fraction(1, RATE), **flags)


def play(runner: Runner, *images: NDArray[np.uint8]) -> list[StepResult]:
    return [runner.step(frame(index, image)) for index, image in enumerate(images)]


def score(step: StepResult) -> float:
    assert isinstance(step.result, Detections)
    return float(step.result.confidence[0])


def brightness_of(image: NDArray[np.uint8]) -> float:
    return float((image.astype(np.float64) / 255).mean())


def test_an_unchanged_frame_keeps_its_result_with_its_age(
    model: Model, backends: list[Counting]
) -> None:
    with Runner(model) as runner:
        steps = play(runner, *[scene(100)] * 4)
    assert [s.kind for s in steps] == ["computed", "unchanged", "unchanged", "unchanged"]
    assert len(backends[0].fed) == 1
    assert [s.result.evidence.provenance for s in steps] == ["computed"] + ["reused"] * 3
    assert [s.result.evidence.age_s for s in steps] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert {score(s) for s in steps} == {score(steps[0])}
    assert [s.active for s in steps] == [1, 0, 0, 0]


def test_a_changed_frame_is_computed_as_if_it_stood_alone(
    model: Model, backends: list[Counting]
) -> None:
    """The whole network runs, so it gets the frame itself and not the gate's reference, which lacks
    what is within the gate's tolerance: here a level more in every other pixel."""
    other = np.indices((64, 96)).sum(axis=0)[..., None] % 2
    images = [scene(100), np.where(scene(100) < 250, scene(100, square=12) + other, 255)]
    images += [images[1], scene(100, square=8)]
    images = [image.astype(np.uint8) for image in images]
    with Runner(model) as runner, Runner(model, Settings(reuse="off")) as plain:
        with_reuse, alone = play(runner, *images), play(plain, *images)
    assert [s.kind for s in with_reuse] == ["computed", "computed", "unchanged", "computed"]
    assert with_reuse[1].active < 0.5
    for some, others in zip(with_reuse, alone, strict=True):
        assert score(some) == score(others)


def test_what_is_treated_as_new_is_reported(model: Model) -> None:
    with Runner(model) as runner:
        first, second = play(runner, scene(100), scene(100, square=12))
        assert first.changed is None
        assert first.active == 1
        assert second.changed is not None
        assert second.changed.shape == model.size
        assert second.changed[20:32, 30:42].all()
        assert not second.changed[:, 70:].any()
        assert second.active == pytest.approx(second.changed.mean(), abs=1e-3)
        assert 144 / (64 * 96) <= second.active < 0.2


def test_a_frame_that_is_clearly_changed_is_not_searched(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the camera moves, finding out which pixels are new would be for nothing."""
    searched: list[int] = []
    real = ChangeGate.step

    def step(gate: ChangeGate, image: NDArray[np.uint8]) -> ChangeMap:
        searched.append(1)
        return real(gate, image)

    monkeypatch.setattr(ChangeGate, "step", step)
    moving = [np.roll(scene(100, square=40), 9 * n, axis=1) for n in range(5)]
    with Runner(model) as runner:
        steps = play(runner, *moving, moving[-1])
    assert [s.kind for s in steps] == ["computed"] * 5 + ["unchanged"]
    assert [s.active for s in steps] == [1] * 5 + [0]
    assert len(searched) == 2  # the first one, and the last one


def test_noise_that_the_gate_may_believe_in_is_not_clearly_changed() -> None:
    gate = ChangeGate(64, 96)
    gate.step(scene(100))
    levels = int(gate.settings.pixel * gate.settings.most_noise)
    noisy = (scene(100) + levels).astype(np.uint8)
    assert noisy.max() < 255
    assert not clearly_changed(gate, noisy)
    assert clearly_changed(gate, noisy + np.uint8(1))
    assert not clearly_changed(gate, scene(100, square=10))


def test_off_computes_every_frame(model: Model, backends: list[Counting]) -> None:
    with Runner(model, Settings(reuse="off")) as runner:
        steps = play(runner, *[scene(100)] * 3)
    assert [s.kind for s in steps] == ["computed"] * 3
    assert len(backends[0].fed) == 3
    assert "gate" not in steps[0].spent_ms


def test_a_result_is_renewed_at_its_greatest_age(model: Model) -> None:
    with Runner(model, Settings(max_age_s=0.25)) as runner:
        steps = play(runner, *[scene(100)] * 7)
    assert [s.kind == "computed" for s in steps] == [True, False, False, True, False, False, True]
    assert max(s.result.evidence.age_s for s in steps) <= 0.25


def test_a_scene_cut_starts_afresh(model: Model) -> None:
    with Runner(model) as runner:
        steps = play(runner, scene(40), scene(200), scene(200), scene(40))
    assert [s.kind for s in steps] == ["computed", "computed", "unchanged", "computed"]
    assert [s.active for s in steps] == [1, 1, 0, 1]
    assert score(steps[3]) == pytest.approx(brightness_of(scene(40)), abs=1e-3)


def test_a_corrupt_frame_is_no_evidence(model: Model, backends: list[Counting]) -> None:
    """It shows the previous result, and what comes after is compared with what was before it."""
    with Runner(model) as runner:
        good = runner.step(frame(0, scene(100)))
        bad = runner.step(frame(1, scene(250), corrupt=True))
        after = runner.step(frame(2, scene(100)))
    assert (bad.kind, after.kind) == ("corrupt", "unchanged")
    assert score(bad) == score(good)
    assert bad.result.evidence.age_s == pytest.approx(0.1)
    assert after.result.evidence.age_s == pytest.approx(0.2)
    assert len(backends[0].fed) == 1


def test_a_corrupt_first_frame_is_answered_and_forgotten(model: Model) -> None:
    with Runner(model) as runner:
        bad = runner.step(frame(0, scene(250), corrupt=True))
        same = runner.step(frame(1, scene(250)))
        again = runner.step(frame(2, scene(250)))
    assert [s.kind for s in (bad, same, again)] == ["computed", "computed", "unchanged"]


def test_damage_without_end_does_not_freeze_the_result(model: Model) -> None:
    with Runner(model, Settings(max_age_s=0.25)) as runner:
        runner.step(frame(0, scene(100)))
        steps = [runner.step(frame(n, scene(200), corrupt=True)) for n in range(1, 5)]
        healed = runner.step(frame(5, scene(200)))
    assert [s.kind for s in steps] == ["corrupt", "corrupt", "computed", "computed"]
    assert score(steps[2]) == pytest.approx(brightness_of(scene(200)), abs=1e-3)
    assert healed.kind == "computed"


def test_after_a_gap_nothing_is_kept(model: Model) -> None:
    with Runner(model) as runner:
        play(runner, scene(100), scene(100))
        step = runner.step(frame(2, scene(100), discontinuity=True))
        after = runner.step(frame(3, scene(100)))
    assert (step.kind, step.active, after.kind) == ("computed", 1.0, "unchanged")


def test_every_nth_frame_is_looked_at(model: Model, backends: list[Counting]) -> None:
    images = [scene(60 + 12 * n) for n in range(7)]
    with Runner(model, Settings(every=3)) as runner:
        steps = play(runner, *images)
    assert [s.kind for s in steps] == ["computed", "skipped", "skipped"] * 2 + ["computed"]
    assert [s.result.evidence.age_s for s in steps] == pytest.approx([0, 0.1, 0.2] * 2 + [0])
    assert score(steps[5]) == score(steps[3]) != score(steps[0])
    assert len(backends[0].fed) == 3


def test_another_picture_size_starts_afresh(model: Model, backends: list[Counting]) -> None:
    """And closes the backend of the old size."""
    with Runner(model) as runner:
        play(runner, scene(100), scene(100))
        step = runner.step(frame(2, np.full((32, 48, 3), 100, np.uint8)))
    assert step.kind == "computed"
    assert len(backends) == 2
    assert backends[0].closed
    assert backends[1].closed


@pytest.mark.parametrize("reuse", MODES)
def test_results_keep_while_later_frames_are_computed(reuse: Reuse, tmp_path: Path) -> None:
    """Also where the backend overwrites its outputs."""
    path = networks.negative(tmp_path / "negative.onnx", 64, 96)
    with Runner(zoo.load(path, task="tensors"), Settings(reuse=reuse)) as runner:
        first = runner.step(frame(0, scene(50))).result
        assert isinstance(first, Tensors)
        before = first.arrays["painted"].copy()
        later = runner.step(frame(1, scene(200))).result
        assert isinstance(later, Tensors)
        assert np.array_equal(first.arrays["painted"], before)
        assert not np.array_equal(later.arrays["painted"], before)


@pytest.mark.parametrize("reuse", ["layer", "exact"])
def test_a_partly_recomputed_frame_says_so_and_how_old_it_is(reuse: Reuse, tmp_path: Path) -> None:
    path = networks.negative(tmp_path / "negative.onnx", 64, 96)
    images = [scene(100), scene(100, square=30), scene(100, square=30), scene(200)]
    with Runner(zoo.load(path), Settings(reuse=reuse)) as runner:
        steps = play(runner, *images)
    origins = [step.result.evidence for step in steps]
    assert [each.provenance for each in origins] == ["computed", "partial", "reused", "computed"]
    assert [each.age_s for each in origins] == pytest.approx([0, 0.1, 0.2, 0])
    for step, image in zip(steps, images, strict=True):
        assert isinstance(step.result, Picture)
        assert np.abs(step.result.image.astype(int) - (255 - image.astype(int))).max() <= 1


def test_time_that_runs_back_gives_no_negative_age(model: Model) -> None:
    with Runner(model) as runner:
        runner.step(frame(9, scene(100)))
        assert runner.step(frame(3, scene(100))).result.evidence.age_s == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"reuse": "some"}, "reuse: expected one of auto, off, frame, layer, exact, got 'some'"),
        ({"max_age_s": -1}, "max age: expected 0 seconds or more, got -1"),
        ({"max_age_s": float("nan")}, "max age: expected 0 seconds or more, got nan"),
        ({"every": 0}, "every: expected 1 or more, got 0"),
        ({"threads": -2}, r"threads: expected 0 \(one a CPU\) or more, got -2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Settings(**settings)


def test_kinds_add_up(model: Model) -> None:
    with Runner(model, Settings(every=2)) as runner:
        steps = play(runner, *[scene(100)] * 4)
    assert {s.kind for s in steps} <= set(KINDS)
    assert all(s.spent_ms.keys() <= {"fit", "gate", "infer", "decode"} for s in steps)


# --- the backend ---------------------------------------------------------------------------------


def test_the_engine_sleeps_while_it_waits_and_has_the_threads_it_was_given(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "most_threads", lambda: 4)
    backend = OnnxRuntimeBackend(model.path, threads=3)
    options = backend.session_options
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert OnnxRuntimeBackend(model.path).session_options.intra_op_num_threads >= 1


BROKEN: dict[str, Callable[[Path], Path]] = {
    "ONNX Runtime cannot load it: .*does ?n.t exist": lambda folder: folder / "none.onnx",
    "ONNX Runtime cannot load it: .*Protobuf parsing failed": lambda folder: _text(folder),
}


def _text(folder: Path) -> Path:
    path = folder / "text.onnx"
    path.write_text("hello")
    return path


@pytest.mark.parametrize("says", BROKEN)
def test_a_file_that_cannot_be_loaded_is_one_line(says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        OnnxRuntimeBackend(BROKEN[says](tmp_path))
    assert "\n" not in str(caught.value)


def test_a_feed_that_does_not_fit_says_what_was_wanted_and_what_came(model: Model) -> None:
    with OnnxRuntimeBackend(model.path) as backend:
        wrong = {model.input_name: np.zeros((1, 3, 4), np.float32)}
        with pytest.raises(
            ModelError, match=r"wants image .*it was given image float32 \(1, 3, 4\)"
        ):
            backend.run(wrong, None)
        feed = model.feed(np.zeros((*model.size, 3), np.uint8))
        assert len(backend.run(feed, None)) == 3  # still usable
    with pytest.raises(ModelError, match="closed before this call"):
        backend.run(feed, None)


# --- live frames: ages by the wall clock ---------------------------------------------------------


def live_frame(
    index: int, image: NDArray[np.uint8], captured_s: float, late_s: float = 0.0, **flags: bool
) -> Frame:
    """The time stamps of this camera stand still."""
    return Frame(
        image, index, 0.0, index, Fraction(1, RATE), captured_s=captured_s, late_s=late_s, **flags
    )


def test_a_live_result_ages_by_the_wall_clock(model: Model) -> None:
    with Runner(model, Settings(max_age_s=5.0)) as runner:
        steps = [runner.step(live_frame(n, scene(100), 70.0 + 2 * n)) for n in range(4)]
    assert [s.kind for s in steps] == ["computed", "unchanged", "unchanged", "computed"]
    assert [s.result.evidence.age_s for s in steps] == pytest.approx([0, 2, 4, 0])


def test_a_frozen_picture_is_carried_with_growing_age(
    model: Model, backends: list[Counting]
) -> None:
    """Each picture repeats the first one bit for bit, so computing it anew would renew nothing."""
    with Runner(model, Settings(max_age_s=5.0)) as runner:
        runner.step(live_frame(0, scene(100), 67.0))
        steps = [runner.step(live_frame(n, scene(100), 70.0, late_s=3.0 * n)) for n in range(1, 10)]
        moved = runner.step(live_frame(10, scene(100), 100.0))
    assert {s.kind for s in steps} == {"unchanged"}
    assert [s.result.evidence.age_s for s in steps] == pytest.approx(
        [3.0 + 3.0 * n for n in range(1, 10)]
    )
    assert (moved.kind, moved.result.evidence.age_s) == ("computed", 0.0)
    assert len(backends[0].fed) == 2


def test_a_stale_picture_is_no_evidence_and_never_of_age_0(
    model: Model, backends: list[Counting]
) -> None:
    with Runner(model) as runner:
        first = runner.step(live_frame(0, scene(250), 60.0, late_s=10.0, stale=True))
        good = runner.step(live_frame(1, scene(100), 71.0))
        late = runner.step(live_frame(2, scene(250), 71.1, late_s=10.0, stale=True))
        after = runner.step(live_frame(3, scene(100), 82.0))
    assert [s.kind for s in (first, good, late)] == ["computed", "computed", "corrupt"]
    assert first.result.evidence.age_s == 10.0
    assert late.result.evidence.age_s == pytest.approx(10.1)
    assert score(late) == score(good)
    assert after.kind == "computed"
