"""The controller: what it takes, what it leaves, and that a run under it begins at once."""

import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stillframe.cache_dir import SECTIONS
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections, Evidence
from stillframe.pipeline.inference.backends import (
    DenseStepBackend,
    OnnxRuntimeBackend,
    ReuseBackend,
)
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.steering import FrameSetting
from stillframe.pipeline.inference.types import Kind, StepResult, StopWatch, Task
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.quality.audited import Audited
from stillframe.pipeline.quality.auto import preparation, warm_up
from stillframe.pipeline.quality.auto.controller import (
    PAUSE_S,
    TRIED,
    AutoChoice,
    AutoController,
    kept_share,
)
from stillframe.pipeline.quality.auto.dense_contest import TRYING_SHARE
from stillframe.pipeline.quality.auto.evidence import MOST_EVERY
from stillframe.pipeline.quality.auto.runner import SteeredRunner
from stillframe.reuse import disk_cache
from tests import networks
from tests.reuse.test_session import net

FRAME_S = 1 / 30


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Outputs of unknown meaning; the engine runs all of it."""
    where = tmp_path_factory.mktemp("raw") / "net.onnx"
    where.write_bytes(net((1, 3, 96, 128), gate=True))
    return zoo.load(str(where), task="tensors")


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return zoo.load(str(networks.brightness(tmp_path_factory.mktemp("detector") / "net.onnx")))


MAY_PREPARE = threading.Event()


@pytest.fixture(autouse=True)
def _compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of its own for each test; what that does has a test below. The engine is not ready
    before the first frame is through."""
    MAY_PREPARE.clear()
    monkeypatch.setattr(preparation, "is_warm", lambda *_, **__: MAY_PREPARE.wait(0.2) or True)


def frame(index: int, image: np.ndarray | None = None) -> Frame:
    if image is None:
        image = np.full((96, 128, 3), 90, np.uint8)
        image[20:60, 3 * (index % 24) : 3 * (index % 24) + 40] = 210
    return Frame(image, index, index * FRAME_S, index, Fraction(1, 30))


def step(
    index: int,
    setting: FrameSetting,
    cost_ms: float,
    kind: Kind = "computed",
    time_s: float | None = None,
) -> StepResult:
    """A finished frame of which only costs and setting matter."""
    provenance = "computed" if setting.tolerance is None else "partial"
    result = Detections.none(("a",)).with_evidence(Evidence(provenance))  # type: ignore[arg-type]
    spent = {"infer" if kind == "computed" else "follow": cost_ms}
    picture = frame(index)
    if time_s is not None:
        picture = replace(picture, time_s=time_s)
    return StepResult(picture, result, kind, 1.0, None, None, spent, setting, spent)


@pytest.fixture
def controller(detector: Model) -> Iterator[AutoController]:
    with AutoController(detector, Settings("auto", threads=1)) as steered:
        steered.adapt(detector)
        steered.note_spread(0.1)
        yield steered


def prepared(controller: AutoController) -> None:
    """Wait until the reuse engine is ready."""
    assert controller._preparation is not None
    MAY_PREPARE.set()
    controller._preparation.join()


def takes_over(controller: AutoController, dense_ms: float = 100.0) -> None:
    """A dense frame, and one after which the reuse engine is ready."""
    controller.note_spread(0.1)
    controller.delivered(step(0, controller.setting(0), dense_ms))
    assert controller.choice.tolerance is None
    prepared(controller)
    controller.delivered(step(1, controller.setting(0), dense_ms))


def test_a_run_begins_on_onnx_runtime_and_goes_over_to_the_engine(raw: Model) -> None:
    settings = Settings("auto", threads=1, quality=0.5)
    with AutoController(raw, settings) as controller:
        runner = Runner(raw, settings, slot=controller.slot, steering=controller)
        with runner:
            first = runner.step(frame(0))
            assert first.result.evidence.provenance == "computed"
            assert first.setting == FrameSetting(None, 1, 0, "onnxruntime")
            controller.delivered(first)
            controller.delivered(runner.step(frame(1, np.full((96, 128, 3), 90, np.uint8))))
            prepared(controller)
            provenances = []
            for index in range(2, 13):
                done = runner.step(frame(index))
                controller.delivered(done)
                provenances.append(done.result.evidence.provenance)
            assert "partial" in provenances
            assert controller.why == ""


def test_the_engine_stays_where_it_pays(controller: AutoController) -> None:
    takes_over(controller)
    assert controller.choice.tolerance == 0.05, "the largest that is expected to hold"
    for index in range(2, 2 + 2 * TRIED):
        controller.delivered(step(index, controller.setting(0), 20.0))
    assert controller.choice.tolerance is not None


def test_the_engine_is_left_where_it_costs_more_and_tried_again_after_a_pause(
    controller: AutoController,
) -> None:
    takes_over(controller)
    index = 2
    while controller.choice.tolerance is not None:
        assert index < 2 + 8 * TRIED, "it takes few frames to see"
        controller.delivered(step(index, controller.setting(0), 120.0))
        index += 1
    left_s = index * FRAME_S
    for later in (0.5 * PAUSE_S, 0.9 * PAUSE_S):
        controller.delivered(step(index, controller.setting(0), 100.0, time_s=left_s + later))
        assert controller.choice.tolerance is None
    controller.delivered(step(index, controller.setting(0), 100.0, time_s=left_s + 1.1 * PAUSE_S))
    assert controller.choice.tolerance is not None, "tried again"
    assert controller._pause_s > PAUSE_S, "the next pause is longer"


def test_frames_are_skipped_once_that_is_known_to_lose_nothing(controller: AutoController) -> None:
    takes_over(controller)
    boxes = _boxes(10.0)
    counts = []
    for index in range(2, 300):
        distance = controller.choice.every
        controller.compare(boxes, boxes, distance, index * FRAME_S)
        controller.delivered(step(index, controller.setting(0), 20.0))
        counts.append(controller.frame_skipping().every)
    assert counts[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(counts))
    assert counts[-1] == MOST_EVERY
    for index in range(300, 330):
        controller.compare(_boxes(300.0), boxes, controller.choice.every, index * FRAME_S)
        controller.delivered(step(index, controller.setting(0), 100.0))
    assert controller.frame_skipping().every < MOST_EVERY, "it comes down where objects are lost"


def test_a_tolerance_that_audits_find_lacking_is_lowered(controller: AutoController) -> None:
    takes_over(controller)
    for index in range(2, 2 + 2 * TRIED):
        controller.delivered(step(index, controller.setting(0), 20.0))
    at = controller.choice.tolerance
    assert at is not None
    lost = step(99, FrameSetting(at, 1, 0), 20.0)
    for _ in range(8):
        agreement = _agreement(_boxes(300.0), _boxes(10.0))
        controller.on_audit(Audited(lost, agreement, 99))
    controller.delivered(step(100, controller.setting(0), 20.0))
    now = controller.choice.tolerance
    assert now is None or now < at


def test_stored_values_are_dropped_when_the_tolerance_is_lowered_and_only_then(
    controller: AutoController, monkeypatch: pytest.MonkeyPatch
) -> None:
    steered: list[tuple[float, bool]] = []
    monkeypatch.setattr(controller.slot, "steer", lambda *how: steered.append(how))
    for tolerance in (0.1, 0.2, 0.05):
        controller.choice = AutoChoice(controller.choice.tolerance, 1)
        if controller._reuse is None:
            takes_over(controller)
        controller._choose(AutoChoice(tolerance, 1))
    assert steered == [(0.5, False), (1.0, False), (2.0, False), (0.5, True)]


def test_audits_of_skipped_frames_tell_of_skipping_and_not_of_tolerances(
    controller: AutoController,
) -> None:
    evidence = controller._evidence
    before = evidence.of_tolerance(0.1, 0.0), evidence.of_skipping(4, 0.0)
    skipped = step(9, FrameSetting(0.1, 4, 3), 5.0, "skipped")
    for _ in range(5):
        controller.on_audit(Audited(skipped, _agreement(_boxes(300.0), _boxes(10.0)), 9))
    assert evidence.of_tolerance(0.1, 0.0) == before[0]
    assert evidence.of_skipping(4, 0.0) > 5 * before[1]


def test_the_backend_and_the_gate_follow_the_choice(controller: AutoController) -> None:
    shape = (96, 128, 3)
    path = controller._model.path

    def claimed() -> tuple[bool, bool]:
        return controller.slot.claim(path, shape).incremental, controller.gates()

    assert claimed() == (False, False)
    controller.slot.enter(_task(controller, shape))
    takes_over(controller)
    assert claimed() == (True, True)
    for index in itertools.takewhile(lambda _: controller.gates(), range(2, 2 + 8 * TRIED)):
        controller.delivered(step(index, controller.setting(0), 120.0))
    assert claimed() == (False, False)


def test_frames_are_skipped_for_half_a_second_at_most_unless_asked_for(
    controller: AutoController, detector: Model
) -> None:
    assert controller.frame_skipping().within_s == 0.5
    with AutoController(detector, Settings("auto", every=3)) as fixed:
        assert fixed.frame_skipping().within_s is None


def test_results_stay_where_following_was_not_asked_for(detector: Model) -> None:
    for between, expected in ((None, "follow"), ("follow", "follow"), ("keep", "keep")):
        settings = Settings("auto", every=3, between=between)  # type: ignore[arg-type]
        with AutoController(detector, settings) as controller:
            assert controller.frame_skipping().between == expected
            assert controller.follows == (expected == "follow")


def test_comparing_takes_little_while_nothing_is_skipped(controller: AutoController) -> None:
    assert controller.wants_comparison(1)
    many = _boxes(*range(0, 4000, 20))
    controller.compare(many, many, 1, 0.0)
    assert not controller.wants_comparison(1)
    assert controller.wants_comparison(2), "frames that were skipped are always compared"
    for index in range(100):
        controller.delivered(step(index, FrameSetting(None, 1, 0), 1000.0))
    assert controller.wants_comparison(1)


def test_perfect_quality_leaves_nothing_to_lose(detector: Model) -> None:
    with AutoController(detector, Settings("auto", threads=1, quality=1.0)) as controller:
        controller.adapt(detector)
        takes_over(controller)
        boxes = _boxes(10.0)
        for index in range(2, 60):
            controller.compare(boxes, boxes, 1, index * FRAME_S)
            controller.delivered(step(index, controller.setting(0), 100.0))
        assert controller.choice.tolerance is None
        assert controller.choice.every == 1


def test_a_fixed_number_of_frames_stays(detector: Model) -> None:
    with AutoController(detector, Settings("auto", threads=1, every=3)) as controller:
        controller.adapt(detector)
        takes_over(controller)
        assert controller.frame_skipping().every == 3
        assert not controller.wants_comparison(3)


def test_a_network_that_the_engine_cannot_run_stays_dense(tmp_path: Path, raw: Model) -> None:
    def fails(path: Path) -> None:
        raise preparation.StillframeError("no way")

    settings = Settings("auto", threads=1)
    with AutoController(raw, settings, make_reuse=fails) as controller:  # type: ignore[arg-type]
        controller.adapt(raw)
        takes_over(controller)
        assert controller.choice.tolerance is None
        assert controller.to_dict()["why_dense"] == "no way"


def test_frames_of_another_size_start_afresh(raw: Model) -> None:
    with SteeredRunner(raw, Settings("auto", threads=1)) as runner:
        for index in range(3):
            runner.step(frame(index))
        other = np.full((64, 80, 3), 80, np.uint8)
        for index in range(3, 6):
            done = runner.step(frame(index, other))
        assert done.result.evidence.provenance in ("computed", "partial", "reused")


def test_what_closes_first_does_not_matter(raw: Model) -> None:
    runner = SteeredRunner(raw, Settings("auto", threads=1))
    runner.step(frame(0))
    runner.close()
    runner.close()


def test_another_process_compiles_what_is_not_cached(
    tmp_path: Path, raw: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "kernels_are_built", lambda: False)
    assert not warm_up.is_warm(tmp_path / "never.onnx", 1)
    command = [sys.executable, "-m", "stillframe.pipeline.quality.auto.warm_up", str(raw.path), "1"]
    subprocess.run(command, check=True, timeout=300)
    assert warm_up.is_warm(raw.path, 1)
    process = warm_up.start_elsewhere(raw.path, 1)
    assert process is not None
    assert process.wait(300) == 0


def test_a_note_about_kernels_goes_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(disk_cache, "kernels_are_built", lambda: False)
    model = tmp_path / "model.onnx"
    assert not warm_up.is_warm(model, 1)
    warm_up.note_warm(model, 1)
    assert warm_up.is_warm(model, 1)
    assert not warm_up.is_warm(model, 2)
    (note,) = tmp_path.iterdir()
    assert SECTIONS[2].pattern.fullmatch(f"kernels/{note.name}"), "`stillframe cache` clears it"
    note.unlink()
    assert not warm_up.is_warm(model, 1)
    monkeypatch.setattr(warm_up, "kernel_folder", lambda: None)
    warm_up.note_warm(model, 1)
    assert not warm_up.is_warm(model, 1)


def test_no_process_compiles_kernels_that_came_with_the_package(
    raw: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(preparation, "is_warm", warm_up.is_warm)
    monkeypatch.setattr(preparation, "start_elsewhere", lambda *facts, **_: started.append(facts))
    monkeypatch.setattr(warm_up, "kernel_folder", lambda: None)  # no note says so
    for is_built in (True, False):
        monkeypatch.setattr(disk_cache, "kernels_are_built", lambda is_built=is_built: is_built)
        prepared = preparation.Preparation(raw.path, lambda path: ReuseBackend(path, 1, 0.1), 1)
        prepared.join()
        prepared.close()
        assert bool(started) == (not is_built)


def test_closing_does_not_wait_for_a_thread_that_compiles(
    raw: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "GRACE_S", 0.01)
    may_end, begun, closed = threading.Event(), threading.Event(), threading.Event()

    class Slow(ReuseBackend):
        def close(self) -> None:
            super().close()
            closed.set()

    def compiles(path: Path) -> ReuseBackend:
        begun.set()
        assert may_end.wait(60)
        return Slow(path, 1, 0.1)

    MAY_PREPARE.set()
    slow = preparation.Preparation(raw.path, compiles, 1)
    assert begun.wait(60)
    slow.close()
    assert not closed.is_set()
    may_end.set()
    slow.join()
    assert closed.is_set(), "the thread closes what nobody will take"
    assert slow.take() is None


def test_kept_counts_both_ways_and_knows_when_there_is_nothing() -> None:
    assert kept_share(_boxes(10.0), _boxes(10.0)) == 1.0
    assert kept_share(_boxes(300.0), _boxes(10.0)) == 0.0
    assert kept_share(Detections.none(("a",)), Detections.none(("a",))) is None


def _boxes(*lefts: float) -> Detections:
    return Detections(
        xyxy=np.array([[left, 10, left + 40, 50] for left in lefts], np.float32),
        confidence=np.full(len(lefts), 0.9, np.float32),
        class_id=np.zeros(len(lefts), np.int64),
        labels=("a",),
    )


def _task(controller: AutoController, shape: tuple[int, ...]) -> Task:
    """A frame that is to be run on the backend in use."""
    model = controller._model
    backend = controller.slot.claim(model.path, shape)
    return Task(frame(0), "computed", model, StopWatch(), backend=backend)


def _agreement(result: Detections, reference: Detections):  # type: ignore[no-untyped-def]
    from stillframe.pipeline.quality.agreement import agreement_with

    agreement = agreement_with(reference)
    agreement.add(result, reference)
    return agreement


def test_a_pair_that_nearly_counts_as_two_boxes_is_half_lost_when_settings_are_chosen() -> None:
    assert kept_share(_boxes(10.0), _boxes(15.0)) == 1.0, "they overlap by 0.78"
    assert kept_share(_boxes(10.0), _boxes(20.0)) == 0.5, "by 0.6"
    assert kept_share(_boxes(10.0, 100.0), _boxes(20.0, 100.0)) == 0.75


def test_the_summary_of_a_closed_run_knows_that_the_engine_was_ready(detector: Model) -> None:
    with AutoController(detector, Settings("auto", threads=1)) as controller:
        controller.adapt(detector)
        assert "not ready yet" in str(controller)
        takes_over(controller)
    assert "not ready yet" not in str(controller)


def moves_everywhere(controller: AutoController, cost_ms: dict[str, float], count: int) -> set[str]:
    """Frames in which the reuse engine does not pay; -> what computed whole ones."""
    used = set()
    for index in range(2, 2 + count):
        setting = controller.setting(0)
        whole = setting.tolerance is None
        used |= {setting.dense} if whole else set()
        cost = cost_ms[setting.dense] if whole else 300.0
        controller.delivered(step(index, setting, cost))
    return used


def test_the_engines_dense_step_computes_whole_frames_where_it_is_cheaper(
    controller: AutoController, detector: Model
) -> None:
    takes_over(controller)
    costs = {"onnxruntime": 100.0, "reuse": 60.0}
    moves_everywhere(controller, costs, 400)
    assert controller.setting(0).dense == "reuse"
    assert not controller.gates()
    assert not controller.slot.claim(detector.path, (96, 128, 3)).incremental
    figures = controller.to_dict()
    assert figures["dense_backend"] == "reuse"
    assert figures["dense_ms"] == {"onnxruntime": 100.0, "reuse": 60.0}
    assert figures["times_onnxruntime"] == pytest.approx(figures["times_as_fast"] / 0.6, 0.01)
    assert "with the reuse engine's dense step, " in str(controller)


def test_a_dense_step_that_costs_more_is_tried_on_few_frames(controller: AutoController) -> None:
    takes_over(controller)
    costs = {"onnxruntime": 100.0, "reuse": 250.0}
    assert moves_everywhere(controller, costs, 900) == {"onnxruntime", "reuse"}
    assert controller.to_dict()["dense_backend"] == "onnxruntime"
    assert controller._contest.tried_ms <= TRYING_SHARE * controller._contest.spent_ms


def test_outputs_of_the_engines_dense_step_belong_to_the_caller(raw: Model) -> None:
    with AutoController(raw, Settings("auto", threads=1)) as controller:
        controller.adapt(raw)
        takes_over(controller)
        assert controller._reuse is not None
        backend = DenseStepBackend(controller._reuse)
        pictures = [np.full((96, 128, 3), level, np.uint8) for level in (20, 200)]
        with OnnxRuntimeBackend(raw.path, 1) as reference:
            whole = [np.array(reference.run(raw.feed(each), None)[0]) for each in pictures]
        first, second = [backend.run(raw.feed(each), None)[0] for each in pictures]
        np.testing.assert_allclose(first, whole[0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(second, whole[1], rtol=1e-4, atol=1e-4)


class Other:
    """A third backend, such as OpenVINO."""

    incremental, cache_bytes = False, 0

    def __init__(self) -> None:
        self.closed = False

    def run(self, feed: object, change: object) -> list[np.ndarray]:
        return []

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("cost_ms", "wins"), [(50.0, True), (180.0, False)])
def test_another_backend_is_loaded_once_that_is_affordable_and_closed_if_it_loses(
    detector: Model, cost_ms: float, wins: bool
) -> None:
    other = Other()
    settings = Settings("auto", threads=1)
    with AutoController(detector, settings, make_other=lambda path: other) as controller:
        controller.adapt(detector)
        takes_over(controller)
        assert controller._loading is None, "two frames do not pay for loading"
        costs = {"onnxruntime": 100.0, "reuse": 200.0, "openvino": cost_ms}
        used = moves_everywhere(controller, costs, 300)
        assert controller._loading is not None
        controller._loading.join()
        used |= moves_everywhere(controller, costs, 700)
        assert "openvino" in used
        assert (controller.to_dict()["dense_backend"] == "openvino") == wins
        assert other.closed != wins
    assert other.closed


def test_frames_of_another_size_at_the_same_model_size_go_on_with_the_engine(raw: Model) -> None:
    """The slot goes back to ONNX Runtime then; the choice must not claim otherwise."""
    with AutoController(raw, Settings("auto", threads=1, quality=0.5)) as controller:
        controller.adapt(raw)
        controller.slot.claim(raw.path, (96, 128, 3))
        takes_over(controller)
        assert controller.choice.tolerance is not None
        controller.adapt(raw)
        handle = controller.slot.claim(raw.path, (192, 256, 3))
        assert controller.setting(0).tolerance is None
        assert not handle.incremental
        controller.delivered(step(2, controller.setting(0), 100.0))
        assert controller.slot.claim(raw.path, (192, 256, 3)).incremental


def test_audits_share_the_runs_session(raw: Model) -> None:
    """Two sessions would hold the weights twice."""
    with SteeredRunner(raw, Settings("auto", threads=1, quality=0.5)) as runner:
        runner.step(frame(0))
        assert runner.controller is not None
        assert runner.controller._dense is not None
        own = runner.controller._dense[1]
        assert runner.audit is not None
        lent = runner.audit._make_backend(raw.path)
        assert lent.run.__self__ is own  # type: ignore[attr-defined]
        lent.close()
        assert runner.step(frame(1)).kind == "computed", "the run goes on with it"


def test_an_audit_of_frames_of_an_earlier_size_has_their_session(raw: Model) -> None:
    with AutoController(raw, Settings("auto", threads=1)) as controller:
        own = controller._onnx_runtime(raw.path)
        controller._onnx_runtime(Path(networks.brightness(raw.path.parent / "other.onnx")))
        assert controller.lent_onnx_runtime(raw.path).run == own.run


def test_other_threads_count_as_busy_as_the_first_only_where_nothing_is_known(
    detector: Model,
) -> None:
    with AutoController(detector, Settings("auto", threads=1)) as controller:
        controller._threads = 4
        controller.adapt(detector)
        done = step(0, controller.setting(0), 10.0)
        controller.delivered(done)
        assert controller._costs.of_dense("onnxruntime") == 40.0
        controller._costs.forget_dense("onnxruntime")
        controller.delivered(replace(done, thread_ms={"infer": 10.0, "workers": 7.0, "fit": 1.0}))
        assert controller._costs.of_dense("onnxruntime") == 18.0


def test_while_everything_moves_the_engine_is_prepared_only_once_that_is_a_small_share(
    detector: Model,
) -> None:
    with AutoController(detector, Settings("auto", threads=1)) as controller:
        controller.adapt(detector)
        controller.delivered(step(0, controller.setting(0), 100.0))
        assert controller._preparation is None, "what moves is not known yet"
        index = 1
        while controller._preparation is None:
            controller.note_spread(1.0)
            controller.delivered(step(index, controller.setting(0), 100.0))
            index += 1
        assert 0.019 < 1000 / (index * 100.0) < 0.0205
    with AutoController(detector, Settings("auto", threads=1)) as controller:
        controller.adapt(detector)
        controller.note_spread(0.3)
        controller.delivered(step(0, controller.setting(0), 100.0))
        assert controller._preparation is not None


def test_while_everything_moves_the_engine_is_not_tried_again_until_it_stops(
    controller: AutoController,
) -> None:
    takes_over(controller)
    index = 2
    for _ in range(9):
        controller.note_spread(1.0)
    while controller.choice.tolerance is not None:
        controller.delivered(step(index, controller.setting(0), 120.0))
        index += 1
    for later in range(index, index + 10 * 30):
        controller.delivered(step(later, controller.setting(0), 100.0))
        assert controller.choice.tolerance is None
    for _ in range(9):
        controller.note_spread(0.1)
    controller.delivered(step(index + 300, controller.setting(0), 100.0))
    assert controller.choice.tolerance is not None, "it stands still again"


def test_boxes_are_followed_only_while_there_are_any_to_compare(controller: AutoController) -> None:
    assert controller.wants_following()
    for index in range(8):
        controller.delivered(step(index, FrameSetting(), 100.0))  # finds nothing
    assert not controller.wants_following()
    seen = step(9, FrameSetting(), 100.0)
    controller.delivered(replace(seen, result=_boxes(10.0)))
    assert controller.wants_following()


def test_where_skipping_loses_far_too_much_it_is_seldom_compared(
    controller: AutoController,
) -> None:
    for index in range(8):
        controller.compare(_boxes(300.0), _boxes(10.0), 1, index * FRAME_S)
        controller.delivered(replace(step(index, FrameSetting(), 1000.0), result=_boxes(10.0)))
    following = []
    for _ in range(32):
        controller.note_spread(0.1)
        following.append(controller.wants_following())
    assert sum(following) == 8
    assert "TT" in "".join("T" if each else "." for each in following), "two in a row"


def test_the_summary_gives_the_reason_why_the_engine_was_not_prepared(detector: Model) -> None:
    with AutoController(detector, Settings("auto", threads=1)) as controller:
        controller.adapt(detector)
        controller.note_spread(1.0)
        controller.delivered(step(0, controller.setting(0), 100.0))
        assert "everything moves, so the reuse engine was not prepared" in str(controller)
        assert "not ready yet" not in str(controller)
