"""The slot of the running backend: who is closed when, and that the tolerance factor outlives it.

Frames go through `InferenceStages`, as in a run, or through handles alone with fake backends.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Evidence, Tensors
from stillframe.pipeline.cli.run_audit import RunAudit
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import OnnxRuntimeBackend, ReuseBackend
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.split_backend import SplitBackend
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.inference.types import StopWatch, Task
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.plan.tolerance import Tolerance
from tests import networks
from tests.reuse.test_session import net

SETTINGS = Settings(reuse="layer", threads=1, tolerance=0.1, max_age_s=float("inf"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    path.write_bytes(net((1, 3, 96, 128), gate=True))
    return zoo.load(str(path), task="tensors")


@pytest.fixture
def stages(model: Model) -> Iterator[InferenceStages]:
    stages = InferenceStages(model, SETTINGS)
    yield stages
    stages.slot.close()


def frame(index: int, height: int = 96, width: int = 128, square: int = 0) -> Frame:
    image = np.random.default_rng(2).integers(60, 120, (height, width, 3)).astype(np.uint8)
    image[8 : 8 + square, 8 : 8 + square] = 250
    return Frame(image, index, index / 10, index, Fraction(1, 10))


def run(stages: InferenceStages, frame: Frame) -> Any:
    return stages.postprocess(stages.infer_rest(stages.infer(stages.preprocess(frame))))


def tolerance(stages: InferenceStages) -> float:
    backend = stages.slot.backend
    assert isinstance(backend, ReuseBackend)
    return backend.session.tolerance.share


# --- the factor ----------------------------------------------------------------------------------


def test_another_frame_size_keeps_the_factor(stages: InferenceStages) -> None:
    run(stages, frame(0))
    stages.slot.steer(0.5, True)
    run(stages, frame(1, square=20))
    assert tolerance(stages) == pytest.approx(0.05)
    before = stages.slot.backend
    run(stages, frame(2, 48, 64))
    assert stages.slot.backend is not before
    assert tolerance(stages) == pytest.approx(0.05)


def test_another_backend_gets_the_factor(stages: InferenceStages) -> None:
    run(stages, frame(0))
    stages.slot.steer(0.5, True)
    run(stages, frame(1, square=20))
    path = stages.model.path
    stages.slot.swap(ReuseBackend(path, 1, 0.1), path)
    run(stages, frame(2))
    assert tolerance(stages) == pytest.approx(0.05)


def test_a_dense_backend_is_not_steered_and_the_factor_waits(stages: InferenceStages) -> None:
    path = stages.model.path
    run(stages, frame(0))
    assert stages.slot.steerable
    stages.slot.swap(OnnxRuntimeBackend(path, 1), path)
    run(stages, frame(1))
    assert not stages.slot.steerable
    stages.slot.steer(0.25, True)
    run(stages, frame(2, square=20))
    stages.slot.swap(ReuseBackend(path, 1, 0.2), path)
    run(stages, frame(3))
    assert stages.slot.steerable
    assert tolerance(stages) == pytest.approx(0.05)


def test_an_exact_backend_has_nothing_to_steer(model: Model) -> None:
    stages = InferenceStages(model, replace(SETTINGS, tolerance=0.0))
    run(stages, frame(0))
    stages.slot.steer(0.5, True)
    run(stages, frame(1, square=20))
    assert not stages.slot.steerable
    assert tolerance(stages) == 0
    stages.slot.close()


def test_both_halves_of_a_split_backend_are_steered(tmp_path: Path) -> None:
    model = zoo.load(str(networks.deep(tmp_path / "deep.onnx")), task="tensors")
    stages = InferenceStages(model, SETTINGS, in_two=True)
    backend = SplitBackend(model.path, 1, 0.2)
    stages.slot.swap(backend, model.path)
    stages.slot.steer(0.5, False)
    run(stages, frame(0, 24, 40))
    assert stages.slot.steerable
    for half in (backend._head, backend._tail):
        assert half.tolerance == Tolerance(0.1)
    stages.slot.steer(0.25, True)
    run(stages, frame(1, 24, 40, 10))
    for half in (backend._head, backend._tail):
        assert half.tolerance == Tolerance(0.05)
        assert half.last_stats is not None
        assert half.last_stats.dense  # what was stored may be too far off
    stages.slot.close()


def test_a_lowered_factor_has_everything_computed_anew(stages: InferenceStages) -> None:
    for index, (factor, lowered, dense) in enumerate([(2.0, False, False), (0.5, True, True)]):
        run(stages, frame(4 * index))
        run(stages, frame(4 * index + 1, square=10))
        stages.slot.steer(factor, lowered)
        run(stages, frame(4 * index + 2, square=14))
        backend: Any = stages.slot.backend
        assert backend.session.last_stats.dense is dense
        run(stages, frame(4 * index + 3, square=18))
        assert not backend.session.last_stats.dense  # once


# --- what the audit claims -----------------------------------------------------------------------


def test_an_audit_claims_no_factor_that_has_no_effect(model: Model) -> None:
    """A dense backend: results of unchanged frames are audited, but no tolerance made them."""
    settings = Settings(reuse="frame", threads=1)
    stages = InferenceStages(model, settings)
    slot = stages.slot
    with RunAudit(0.9, slot, lambda row: None, mean_gap=1e-9, in_line=True) as audit:
        for index in range(8):
            step = run(stages, frame(3 * index))
            wrong = Tensors({"y": np.zeros_like(step.result.arrays["y"])})
            partial = wrong.with_evidence(Evidence("partial"))
            audit.offer(replace(step, result=partial), stages.model)
        report = audit.report
        assert report.audits > 3
        assert report.kept is not None
        assert report.kept < 0.9
        assert report.factor is None
        assert report.to_dict()["factor"] is None
        assert slot.factor == 1.0
        line = "steering has no effect: the running backend has no tolerance"
        assert str(report).count(line) == 1
        assert "times what it was" not in str(report)
        slot.swap(ReuseBackend(model.path, 1, 0.1), model.path)
        run(stages, frame(30))
        assert audit.report.factor == 1.0  # nothing that the dense backend did counts against it
        assert line not in str(audit.report)
    slot.close()


# --- who is closed -------------------------------------------------------------------------------


class Fake:
    """A backend that only knows whether it was closed."""

    incremental = False
    cache_bytes = 7

    def __init__(self) -> None:
        self.closed = 0

    def run(self, feed: Any, change: Any) -> list[Any]:
        assert not self.closed
        return []

    def close(self) -> None:
        self.closed += 1


NET = Path("net.onnx")


def task(slot: BackendSlot, path: Path = NET, shape: tuple[int, ...] = (4, 4, 3)) -> Task:
    model: Any = None
    image = np.zeros(shape, np.uint8)
    handle = slot.claim(path, shape)
    return Task(
        Frame(image, 0, 0.0, 0, Fraction(1)), "computed", model, StopWatch(), backend=handle
    )


def fakes() -> tuple[BackendSlot, list[Fake]]:
    """A slot and the usual backends that it made."""
    usual: list[Fake] = []

    def make(path: Path) -> Fake:
        usual.append(Fake())
        return usual[-1]

    return BackendSlot(make, incremental=False), usual


def test_the_usual_backend_is_made_when_its_first_frame_runs() -> None:
    slot, usual = fakes()
    tasks = [task(slot) for _ in range(3)]
    assert not usual
    assert slot.backend is None
    assert slot.cache_bytes == 0
    assert [slot.enter(each) for each in tasks] == usual * 3
    assert len(usual) == 1
    assert slot.cache_bytes == 7
    slot.close()
    slot.close()
    assert usual[0].closed == 1


def test_frames_under_way_keep_the_backend_they_were_decided_for() -> None:
    slot, usual = fakes()
    under_way = [task(slot), task(slot)]
    slot.enter(under_way[0])
    other = Fake()
    slot.swap(other, NET)
    later = task(slot)
    assert slot.enter(under_way[1]) is usual[0]
    assert not usual[0].closed
    assert slot.enter(later) is other
    assert (usual[0].closed, other.closed) == (1, 0)
    slot.close()
    assert (usual[0].closed, other.closed) == (1, 1)


def test_a_backend_that_no_frame_was_decided_for_is_closed_at_the_next_swap() -> None:
    slot, usual = fakes()
    first, second = Fake(), Fake()
    slot.swap(first, NET)
    slot.swap(second, NET)
    assert (first.closed, second.closed) == (1, 0)
    assert slot.enter(task(slot)) is second
    slot.close()
    assert (first.closed, second.closed, usual) == (1, 1, [])


def test_a_swap_for_another_file_or_size_is_not_used() -> None:
    """A plan's backend may be ready only after the frames have changed their size."""
    slot, usual = fakes()
    slot.enter(task(slot))
    late = Fake()
    slot.swap(late, Path("old.onnx"))
    assert slot.enter(task(slot)) is usual[1]
    assert (usual[0].closed, late.closed) == (1, 1)
    fits = Fake()
    slot.swap(fits, NET)
    assert slot.enter(task(slot)) is fits
    assert slot.enter(task(slot, shape=(8, 8, 3))) is usual[2]
    assert fits.closed == 1
    slot.close()


def test_a_backend_that_comes_after_the_end_is_closed_too() -> None:
    slot, usual = fakes()
    slot.enter(task(slot))
    slot.close()
    late = Fake()
    slot.swap(late, NET)
    slot.close()
    assert (usual[0].closed, late.closed) == (1, 1)


def test_a_backend_that_cannot_be_made_is_tried_again() -> None:
    turns = iter([OSError("no memory"), Fake()])

    def make(path: Path) -> Any:
        outcome = next(turns)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    slot = BackendSlot(make, incremental=False)
    with pytest.raises(OSError, match="no memory"):
        slot.enter(task(slot))
    assert isinstance(slot.enter(task(slot)), Fake)
    slot.close()


class Steered(Fake):
    exact = False

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0
        self.threads: set[int] = set()

    def steer(self, factor: float, lowered: bool) -> None:
        assert not self.closed
        self.factor = factor
        self.threads.add(threading.get_ident())


def test_four_threads_decide_run_swap_and_steer_at_once() -> None:
    """Frames pass through a bounded queue as in a run; each backend is closed once and never runs
    afterwards, it is steered only by the thread that runs it, and the last factor holds."""
    frames, swaps = 3000, 200
    every: list[Steered] = []
    slot = BackendSlot(lambda path: every.append(Steered()) or every[-1], incremental=False)  # type: ignore[func-returns-value]
    tasks: queue.Queue[Task | None] = queue.Queue(2)
    errors: list[BaseException] = []
    factors = [1.0]

    def guarded(work: Any) -> threading.Thread:
        def body() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        return thread

    def decide() -> None:
        for index in range(frames):
            tasks.put(task(slot, shape=(4 + index // 1000, 4, 3)))
        tasks.put(None)

    runner: list[int] = []

    def infer() -> None:
        runner.append(threading.get_ident())
        while (item := tasks.get()) is not None:
            backend = slot.enter(item)
            assert slot.backend is backend
            backend.run({}, None)

    def swap() -> None:
        for _ in range(swaps):
            every.append(Steered())
            slot.swap(every[-1], NET)

    def steer() -> None:
        for index in range(1000):
            factors.append(1 / (index + 2))
            slot.steer(factors[-1], True)

    threads = [guarded(work) for work in (infer, decide, swap, steer)]
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not errors, errors
    last = slot.enter(task(slot, shape=(6, 4, 3)))
    assert isinstance(last, Steered)
    assert last.factor == factors[-1]
    assert set().union(*(each.threads for each in every)) <= {*runner, threading.get_ident()}
    slot.close()
    assert [each.closed for each in every] == [1] * len(every)
