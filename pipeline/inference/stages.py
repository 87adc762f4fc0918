"""The stages of an analysis: what `Runner` does one after the other, each part in its own thread.

    decode ─Frame─► preprocess ─Task─► infer ─Inferred─► postprocess ─Step─► draw ─► encode

Between threads nothing is handed on that its maker writes again: the gate's reference and mask, and
an incremental engine's outputs, are copied into a pool's memory.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.pipeline.executor.stage import Stage
from stillframe.pipeline.inference.backend_slot import BackendSlot, timed
from stillframe.pipeline.inference.buffer_pool import BufferPool
from stillframe.pipeline.inference.frame_policy import FramePolicy
from stillframe.pipeline.inference.runner import ResultHolder
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.split_backend import SplitBackend
from stillframe.pipeline.inference.types import StepResult, Task
from stillframe.pipeline.media.frame import Frame

LIVE_WINDOW = 2  # frames of a live source under way: one in the network, one around it
NO_PIXELS = np.zeros((1, 1, 1), np.uint8)


@dataclass(frozen=True, slots=True)
class Inferred:
    """A task, and what the network made of it; None where an earlier result stands. rest: what is
    still to be done with it, where these are only the tensors between two segments."""

    task: Task
    outputs: list[NDArray[Any]] | None
    rest: SplitBackend | None = None


@dataclass(frozen=True, slots=True)
class DrawnFrame:
    """A step and its picture; None where nothing is drawn. The frame has no pixels any more."""

    step: StepResult
    image: NDArray[np.uint8] | None


def without_pixels(frame: Frame) -> Frame:
    """The same frame, its picture a single zero that is shown everywhere: nobody reads it."""
    return replace(frame, image=np.broadcast_to(NO_PIXELS, frame.image.shape))


class InferenceStages:
    """The parts of a `Runner` as functions for stages, one thread each.

    keeps_pixels: something after the network reads the frame's picture; else it is let go as soon
    as it has been fitted. in_two: the network has a second stage, for plans of two segments.
    slot: owns the backend, instead of one that makes the settings' own.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        *,
        keeps_pixels: bool = True,
        in_two: bool = False,
        slot: BackendSlot | None = None,
    ) -> None:
        self.settings = settings
        self.pool = BufferPool()
        self.slot = slot or BackendSlot.of(settings)
        self.policy = FramePolicy(model, settings, self.slot)
        self._results = ResultHolder()
        self._keeps_pixels = keeps_pixels
        self._in_two = in_two

    @property
    def model(self) -> Model:
        """At the size that suits the last frame."""
        return self.policy.model

    @property
    def cache_bytes(self) -> int:
        """What is kept between frames: the engine's activations, and what is handed on."""
        return self.slot.cache_bytes + self.pool.held_bytes

    def preprocess(self, frame: Frame) -> Task:
        """Fit, compare, decide."""
        task = self.policy.decide(frame)
        if not self._keeps_pixels:
            task = replace(task, frame=without_pixels(frame))
        if task.backend is None or not task.backend.incremental:
            return task
        assert task.fitted is not None
        change = task.change
        if change is not None and change.kind == "partial":
            change = replace(change, mask=self.pool.copy(change.mask))
        return replace(task, fitted=self.pool.copy(task.fitted), change=change)

    def infer(self, task: Task) -> Inferred:
        """Run the network where it is to run."""
        if task.kind != "computed":
            return Inferred(task, None)
        backend = self.slot.enter(task)
        rest = backend if self._in_two and isinstance(backend, SplitBackend) else None
        outputs = timed(task, backend.run if rest is None else rest.head)
        if backend.incremental:
            outputs = [self.pool.copy(output) for output in outputs]
        return Inferred(replace(task, fitted=None, backend=None), outputs, rest)

    def infer_rest(self, done: Inferred) -> Inferred:
        """The second segment, where the first stage ran only one."""
        if done.rest is None or done.outputs is None:
            return done
        done.task.watch.start()
        outputs = [
            self.pool.copy(output) for output in done.rest.tail(done.outputs, done.task.change)
        ]
        done.task.watch.lap("infer")
        return Inferred(done.task, outputs)

    def postprocess(self, done: Inferred) -> StepResult:
        """The result."""
        if done.outputs is None:
            return self._results.carried(done.task)
        return self._results.computed(done.task, done.outputs)

    def stages(self) -> list[Stage]:
        """preprocess, infer (and its second half) and postprocess, in order."""
        second = [Stage("infer-2", self.infer_rest)] if self._in_two else []
        return [
            Stage("preprocess", self.preprocess, close=self.policy.close),
            Stage("infer", self.infer, close=self.slot.close),
            *second,
            Stage("postprocess", self.postprocess, close=self._results.forget),
        ]


def drawing(
    compose: Callable[[StepResult], NDArray[np.uint8]] | None, *, keeps_pixels: bool = False
) -> Stage:
    """The stage that draws; the frame's own pixels end with it, unless somebody reads them later
    (keeps_pixels)."""

    def draw(step: StepResult) -> DrawnFrame:
        began = time.perf_counter()
        image = compose(step) if compose is not None else None
        step.spent_ms["draw"] = (time.perf_counter() - began) * 1e3
        frame = step.frame if keeps_pixels else without_pixels(step.frame)
        return DrawnFrame(replace(step, frame=frame, changed=None), image)

    return Stage("draw", draw)


def encoding(write: Callable[[DrawnFrame], None]) -> Stage:
    """The stage that writes; the drawn picture ends with it."""

    def encode(drawn: DrawnFrame) -> StepResult:
        began = time.perf_counter()
        write(drawn)
        drawn.step.spent_ms["write"] = (time.perf_counter() - began) * 1e3
        return drawn.step

    return Stage("encode", encode)


def with_own(stages: Sequence[Stage], own: Iterable[tuple[str, Stage]]) -> list[Stage]:
    """The stages with users' own in between: each after the stage that it names ("decode": first);
    several after the same one keep their order."""
    after: dict[str, list[Stage]] = {}
    for name, stage in own:
        after.setdefault(name, []).append(stage)
    chain = after.pop("decode", [])
    for stage in stages:
        chain += [stage, *after.pop(stage.name, [])]
    assert not after  # names were checked where they were read
    return chain
