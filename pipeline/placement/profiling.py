"""What each stage takes, measured on a source's first frames before the run begins."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import StillframeError
from stillframe.models.model import Model
from stillframe.pipeline.executor.hardware.affinity import pinned_thread
from stillframe.pipeline.executor.hardware.microbenchmark import measure_processor
from stillframe.pipeline.executor.hardware.processors import Processor
from stillframe.pipeline.executor.hardware.topology import Core
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import Backend, Feed
from stillframe.pipeline.inference.observer import ObservedFrame
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.inference.split_backend import SplitBackend, UncuttableError
from stillframe.pipeline.inference.types import ProcessorStopWatch, StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.source import Source
from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.placement.cost_model import Cost
from stillframe.reuse.gate.change_gate import ChangeMap

FRAMES = 6
LONGEST_S = 20.0
SPEED_S = 0.02

Draw = Callable[[StepResult], NDArray[np.uint8]] | None


class Replayed:
    """A source whose first frames were read already, and come again."""

    def __init__(self, frames: list[Frame], source: Source) -> None:
        self._frames, self._source = frames, source

    def __iter__(self) -> Iterator[Frame]:
        while self._frames:
            yield self._frames.pop(0)  # not kept: nobody reads them a third time
        yield from self._source

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """stages: of each but the network. infer: of each granularity, a cost for each of its stages;
    those that could not run are missing, and `notes` says why."""

    stages: dict[str, Cost]
    infer: dict[BackendChoice, tuple[Cost, ...]]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Clock:
    """Time and processor time of this process, summed over what is measured."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def timed(self, work: Callable[..., Any], *arguments: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return work(*arguments)
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu

    def add(self, watch: ProcessorStopWatch, *parts: str) -> None:
        """What the laps of these parts took."""
        self.wall_s += sum(watch.spent_ms.get(part, 0.0) for part in parts) / 1e3
        self.cpu_s += sum(watch.cpu_ms.get(part, 0.0) for part in parts) / 1e3

    def cost(self, items: int) -> Cost:
        return Cost(1e3 * self.wall_s / max(1, items), 1e3 * self.cpu_s / max(1, items))


def read(source: Source, frames: int = FRAMES) -> tuple[list[Frame], Cost]:
    """The first frames, and what decoding one takes."""
    clock, found = _Clock(), []
    items = iter(source)
    for _ in range(frames):
        frame = clock.timed(next, items, None)
        if frame is None:
            break
        found.append(frame)
    return found, clock.cost(len(found))


def probe(
    model: Model, settings: Settings, frames: list[Frame], choices: list[BackendChoice], draw: Draw
) -> MeasuredCosts:
    """Run every part on the frames, each alone. Of the time a first frame takes nothing counts."""
    fit, answer, drawing = _Clock(), _Clock(), _Clock()
    costs: dict[BackendChoice, tuple[Cost, ...]] = {}
    notes: list[str] = []
    end = time.monotonic() + LONGEST_S
    for choice in choices:
        if costs and time.monotonic() > end:
            notes.append(f"{choice} was not measured: the start had taken {LONGEST_S:g} s")
            continue
        first = not costs
        try:
            costs[choice] = _granularity(
                model, settings, frames, choice, (fit, answer, drawing) if first else None, draw
            )
        except (StillframeError, UncuttableError) as error:
            notes.append(f"{choice} cannot run it: {error}")
    rest = max(1, len(frames) - 1)
    stages = {"preprocess": fit.cost(rest), "postprocess": answer.cost(rest)}
    stages["draw"] = drawing.cost(rest)
    return MeasuredCosts(stages, costs, tuple(notes))


class _ClockedBackend:
    """Times a backend's runs, without making their input; of two halves each apart."""

    def __init__(self, backend: Backend) -> None:
        self.incremental, self.close = backend.incremental, backend.close
        self._backend = backend
        self.clocks = [_Clock(), _Clock()] if isinstance(backend, SplitBackend) else [_Clock()]

    @property
    def cache_bytes(self) -> int:
        return self._backend.cache_bytes

    def run(self, feed: Feed, change: ChangeMap | None) -> list[NDArray[Any]]:
        clocks, backend = self.clocks, self._backend
        if not isinstance(backend, SplitBackend):
            return list(clocks[0].timed(backend.run, feed, change))
        boundary = clocks[0].timed(backend.head, feed, change)
        return list(clocks[1].timed(backend.tail, boundary, change))


def _granularity(
    model: Model,
    settings: Settings,
    frames: list[Frame],
    choice: BackendChoice,
    around: tuple[_Clock, _Clock, _Clock] | None,
    draw: Draw,
) -> tuple[Cost, ...]:
    """What each stage of the network takes. around: clocks of what comes before and after it, and
    of drawing; None: they are measured already."""
    fit, answer, drawing = around or (_Clock(), _Clock(), _Clock())
    backends: list[_ClockedBackend] = []

    def make(path: Path) -> Backend:
        backends.append(_ClockedBackend(choice.make(path, settings)))
        return backends[-1]

    def observe(seen: ObservedFrame) -> None:
        watch = seen.task.watch
        assert isinstance(watch, ProcessorStopWatch)
        fit.add(watch, "grey", "fit", "gate")
        answer.add(watch, "decode", "follow")
        if draw is not None and around is not None and seen.result is not None:
            drawing.timed(draw, seen.result)
        if seen.task.frame is frames[0]:  # of which nothing counts
            for clock in (fit, answer, drawing, *backends[-1].clocks):
                clock.wall_s = clock.cpu_s = 0.0

    slot = BackendSlot(make, incremental=choice.incremental)
    study = StudySettings(stop_watch=ProcessorStopWatch)
    with Runner(model, settings, slot=slot, study=study, observer=observe) as runner:
        for frame in frames:
            runner.step(frame)
    return tuple(clock.cost(len(frames) - 1) for clock in backends[-1].clocks)


def speeds(cores: tuple[Core, ...]) -> dict[int, float]:
    """How fast each allowed core is, the fastest 1; one core of each design is measured."""
    found: dict[tuple[int | None, bool], float] = {}
    usable = [core for core in cores if core.allowed]
    for core in usable:
        design = (core.most_mhz, core.little)
        if design not in found:
            found[design] = measure_processor(Processor.on(core.number), SPEED_S).gflops
    top = max(found.values())
    return {core.number: found[core.most_mhz, core.little] / top for core in usable}


def made(choice: BackendChoice, path: Path, settings: Settings, cores: frozenset[int]) -> Backend:
    """The engine, made on these cores: the threads that it starts stay on them."""
    with pinned_thread(cores):
        return choice.make(path, settings)
