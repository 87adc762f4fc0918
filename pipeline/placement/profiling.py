"""What each stage takes, measured on a source's first frames before the run begins."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.cores import core_count, cpu_quota
from stillframe.errors import StillframeError, UsageError
from stillframe.models.model import Model
from stillframe.pipeline.executor.hardware.contention import ContentionMeter
from stillframe.pipeline.executor.hardware.microbenchmark import measure_processor
from stillframe.pipeline.executor.hardware.processors import Processor
from stillframe.pipeline.executor.hardware.topology import Core, read_cores
from stillframe.pipeline.executor.pipeline import SOURCE
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import Backend, Feed
from stillframe.pipeline.inference.observer import ObservedFrame
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.inference.split_backend import SplitBackend, UncuttableError
from stillframe.pipeline.inference.types import ProcessorStopWatch, StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.source import Source
from stillframe.pipeline.placement.backend_choice import BackendChoice, choices
from stillframe.pipeline.placement.cost_model import Cost, StageCosts
from stillframe.reuse.gate.change_map import ChangeMap

FRAMES = 6
LONGEST_S = 20.0
"""After this no further backend is probed."""
SPEED_S = 0.02
"""For the speed of a core."""

Draw = Callable[[StepResult], NDArray[np.uint8]] | None


class Replayed:
    """A source that yields frames that were read already, and then the rest."""

    def __init__(self, frames: list[Frame], source: Source) -> None:
        self._frames, self._source = frames, source

    def __iter__(self) -> Iterator[Frame]:
        while self._frames:
            yield self._frames.pop(0)  # let go: nobody reads them a third time
        yield from self._source

    def close(self) -> None:
        self._source.close()


@dataclass(frozen=True, slots=True)
class ProbedCosts:
    """What the stages took on the first frames, as measured."""

    stages: dict[str, Cost]
    """Every stage but the network's."""
    infer: dict[BackendChoice, tuple[Cost, ...]]
    """Of each backend that could run: a cost for each of its stages."""
    notes: tuple[str, ...]
    """Why the other backends could not."""


@dataclass(slots=True)
class _Clock:
    """Wall and CPU time of this process, summed over what is measured."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    def timed(self, work: Callable[..., Any], *arguments: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return work(*arguments)
        finally:
            self.wall_s += time.perf_counter() - wall
            self.cpu_s += time.process_time() - cpu

    def add(self, stop_watch: ProcessorStopWatch, *parts: str) -> None:
        """Add the laps of these parts."""
        self.wall_s += sum(stop_watch.spent_ms.get(part, 0.0) for part in parts) / 1e3
        self.cpu_s += sum(stop_watch.cpu_ms.get(part, 0.0) for part in parts) / 1e3

    def reset(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def cost(self, items: int) -> Cost:
        return Cost(1e3 * self.wall_s / max(1, items), 1e3 * self.cpu_s / max(1, items))


def read_first(source: Source, frames: int = FRAMES) -> tuple[list[Frame], Cost]:
    """The first frames, and what decoding one takes."""
    clock, first = _Clock(), []
    items = iter(source)
    for _ in range(frames):
        frame = clock.timed(next, items, None)
        if frame is None:
            break
        first.append(frame)
    return first, clock.cost(len(first))


def measure_costs(
    model: Model,
    settings: Settings,
    first: list[Frame],
    decode: Cost,
    draw: Draw,
    *,
    unmeasured: Sequence[str],
    segments: bool,
    contention: ContentionMeter,
) -> tuple[StageCosts, tuple[str, ...]]:
    """What every stage takes alone on this machine; -> also why backends could not run.

    first, decode: see `read_first`. unmeasured: stages that cannot be tried beforehand, such as
    encode; their cost is 0 until the run shows it. segments: whether the model may be cut in two.
    Raises UsageError if nothing can run the network.
    """
    others = contention.sample_mean()
    cores = tuple(core for core in read_cores() if core.allowed)
    options = [
        c
        for c in choices(settings, min(len(cores), core_count()))
        if segments or c.kind != "segments"
    ]
    probed = probe(model, settings, first, options, draw)
    if not probed.infer:
        raise UsageError(f"placement: nothing can run the network: {'; '.join(probed.notes)}")
    share = len(cores) / (len(cores) + others)
    stages = {SOURCE: decode.alone(share, True), **dict.fromkeys(unmeasured, Cost(0, 0))}
    stages |= {name: cost.alone(share, False) for name, cost in probed.stages.items()}
    infer = {
        choice: tuple(cost.alone(share, choice.threads > 1) for cost in parts)
        for choice, parts in probed.infer.items()
    }
    costs = StageCosts(
        stages=stages,
        infer=infer,
        cores=tuple(core.number for core in cores),
        speed=core_speeds(cores),
        others=contention.sample_mean(),
        capacity=cpu_quota() or 0.0,
    )
    return costs, probed.notes


def probe(
    model: Model, settings: Settings, frames: list[Frame], options: list[BackendChoice], draw: Draw
) -> ProbedCosts:
    """Run every part on the frames, each alone. The first frame warms up and does not count."""
    before, after, drawing = _Clock(), _Clock(), _Clock()
    costs: dict[BackendChoice, tuple[Cost, ...]] = {}
    notes: list[str] = []
    end = time.monotonic() + LONGEST_S
    for choice in options:
        if costs and time.monotonic() > end:
            notes.append(f"{choice} was not measured: the start had taken {LONGEST_S:g} s")
            continue
        around = None if costs else (before, after, drawing)
        try:
            costs[choice] = _probe_choice(model, settings, frames, choice, around, draw)
        except (StillframeError, UncuttableError) as error:
            notes.append(f"{choice} cannot run it: {error}")
    count = max(1, len(frames) - 1)
    stages = {"preprocess": before.cost(count), "postprocess": after.cost(count)}
    stages["draw"] = drawing.cost(count)
    return ProbedCosts(stages, costs, tuple(notes))


class _ClockedBackend:
    """Times a backend's runs without making their input; the halves of a split one apart."""

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


def _probe_choice(
    model: Model,
    settings: Settings,
    frames: list[Frame],
    choice: BackendChoice,
    around: tuple[_Clock, _Clock, _Clock] | None,
    draw: Draw,
) -> tuple[Cost, ...]:
    """What each stage of the network takes.

    around: clocks of what comes before and after the network, and of drawing; None: these are
    measured already.
    """
    before, after, drawing = around or (_Clock(), _Clock(), _Clock())
    backends: list[_ClockedBackend] = []

    def make(path: Path) -> Backend:
        backends.append(_ClockedBackend(choice.make(path, settings)))
        return backends[-1]

    def observe(seen: ObservedFrame) -> None:
        stop_watch = seen.task.stop_watch
        assert isinstance(stop_watch, ProcessorStopWatch)
        before.add(stop_watch, "grey", "fit", "gate")
        after.add(stop_watch, "decode", "follow")
        if draw is not None and around is not None and seen.result is not None:
            drawing.timed(draw, seen.result)
        if seen.task.frame is frames[0]:
            for clock in (before, after, drawing, *backends[-1].clocks):
                clock.reset()

    slot = BackendSlot(make, incremental=choice.incremental)
    study = StudySettings(stop_watch=ProcessorStopWatch)
    with Runner(model, settings, slot=slot, study=study, observer=observe) as runner:
        for frame in frames:
            runner.step(frame)
    return tuple(clock.cost(len(frames) - 1) for clock in backends[-1].clocks)


def core_speeds(cores: tuple[Core, ...]) -> dict[int, float]:
    """The speed of each allowed core, the fastest 1. One core of each design is measured."""
    gflops: dict[tuple[int | None, bool], float] = {}
    usable = [core for core in cores if core.allowed]
    for core in usable:
        design = (core.most_mhz, core.little)
        if design not in gflops:
            gflops[design] = measure_processor(Processor.on(core.number), SPEED_S).gflops
    top = max(gflops.values())
    return {core.number: gflops[core.most_mhz, core.little] / top for core in usable}
