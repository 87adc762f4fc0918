"""What each stage takes, measured on a source's first frames before the run begins."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from stillframe.pipeline.inference.backends import Backend
from stillframe.pipeline.inference.frame_policy import FramePolicy
from stillframe.pipeline.inference.runner import ResultHolder
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.split_backend import SplitBackend, UncuttableError
from stillframe.pipeline.inference.types import StepResult, Task
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.source import Source
from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.placement.cost_model import Cost

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


def _granularity(
    model: Model,
    settings: Settings,
    frames: list[Frame],
    choice: BackendChoice,
    around: tuple[_Clock, _Clock, _Clock] | None,
    draw: Draw,
) -> tuple[Cost, ...]:
    slot = BackendSlot(lambda path: choice.make(path, settings), incremental=choice.incremental)
    policy, answers = FramePolicy(model, settings, slot), ResultHolder()
    first = policy.decide(frames[0])  # fixes the model's size
    policy.forget()
    engine = slot.enter(first)
    parts = (_Clock(), _Clock())
    fit, answer, drawing = around or (_Clock(), _Clock(), _Clock())
    try:
        for index, frame in enumerate(frames):
            warm = index > 0
            task: Task = (fit if warm else _Clock()).timed(policy.decide, frame)
            clock = answer if warm else _Clock()
            if task.kind == "computed":
                outputs = _run(engine, task, parts if warm else (_Clock(), _Clock()))
                step: StepResult = clock.timed(
                    answers.computed, replace(task, fitted=None), outputs
                )
            else:
                step = clock.timed(answers.carried, task)
            if draw is not None and around is not None:
                (drawing if warm else _Clock()).timed(draw, step)
    finally:
        slot.close()
    used = parts if isinstance(engine, SplitBackend) else parts[:1]
    return tuple(clock.cost(len(frames) - 1) for clock in used)


def _run(engine: Any, task: Task, clocks: tuple[_Clock, _Clock]) -> list[NDArray[Any]]:
    assert task.fitted is not None
    feed = task.model.feed(task.fitted)
    if not isinstance(engine, SplitBackend):
        return list(clocks[0].timed(engine.run, feed, task.change))
    return list(clocks[1].timed(engine.tail, clocks[0].timed(engine.head, feed, task.change)))


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
