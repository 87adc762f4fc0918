"""The stages of an analysis: the parts of `Runner`, each in a thread of its own.

    decode ─Frame─► preprocess ─Task─► infer ─Inferred─► postprocess ─StepResult─► draw ─► encode

What its maker will overwrite is copied before it goes to another thread, into a pool's memory: the
gate's reference and mask, and the outputs of an incremental backend.
"""

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
from stillframe.pipeline.inference.results import ResultHolder
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.split_backend import SplitBackend
from stillframe.pipeline.inference.steering import FrameSteering
from stillframe.pipeline.inference.types import StepResult, StopWatch, Task
from stillframe.pipeline.media.frame import Frame

LIVE_WINDOW = 2
"""Frames of a live source in flight: one in the network, one around it."""
NO_PIXELS = np.zeros((1, 1, 1), np.uint8)


@dataclass(frozen=True, slots=True)
class Inferred:
    """A task and the network's outputs for it."""

    task: Task
    outputs: list[NDArray[Any]] | None
    """None: an earlier result stands."""
    unfinished: SplitBackend | None = None
    """If the outputs are only the boundary tensors: the backend whose tail is still to run."""


@dataclass(frozen=True, slots=True)
class DrawnFrame:
    """A result and its picture. The frame's own pixels may be gone."""

    step: StepResult
    image: NDArray[np.uint8] | None
    """None: nothing is drawn."""


def without_pixels(frame: Frame) -> Frame:
    """The same frame with the shape of its picture, but a single zero as memory."""
    return replace(frame, image=np.broadcast_to(NO_PIXELS, frame.image.shape))


class InferenceStages:
    """The parts of a `Runner` as functions for stages, one thread each.

    keeps_pixels: whether something after the network reads the frames' pictures; else they are let
    go once fitted. in_two: whether the network has a second stage, for plans of two segments.
    slot: owns the backend, instead of one that makes the settings' own. steering: decides how each
    frame is analysed, instead of the settings.
    """

    pool: BufferPool
    slot: BackendSlot
    policy: FramePolicy

    def __init__(
        self,
        model: Model,
        settings: Settings,
        *,
        keeps_pixels: bool = True,
        in_two: bool = False,
        slot: BackendSlot | None = None,
        steering: FrameSteering | None = None,
    ) -> None:
        self.settings = settings
        self.pool = BufferPool()
        self.slot = slot or BackendSlot.of(settings)
        self.policy = FramePolicy(model, settings, self.slot, steering=steering)
        self._results = ResultHolder(steering)
        self._keeps_pixels = keeps_pixels
        self._in_two = in_two
        self._split: SplitBackend | None = None
        """What the second stage ran last."""

    @property
    def model(self) -> Model:
        """At the size that suits the last frame."""
        return self.policy.model

    @property
    def cache_bytes(self) -> int:
        """Memory for what lives from frame to frame: activations, and what stages hand on."""
        return self.slot.cache_bytes + self.pool.size_bytes

    def preprocess(self, frame: Frame) -> Task:
        """Decide what to do for the frame."""
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
        """Run the network, or only its head if it has a second stage, on tasks to be computed."""
        if task.kind != "computed":
            return Inferred(task, None)
        backend = self.slot.enter(task)
        split = backend if self._in_two and isinstance(backend, SplitBackend) else None
        outputs = timed(task, backend.run if split is None else split.head, backend)
        if backend.incremental:
            outputs = [self.pool.copy(output) for output in outputs]
        return Inferred(replace(task, fitted=None, backend=None), outputs, split)

    def infer_rest(self, done: Inferred) -> Inferred:
        """Run the tail, if the first stage ran only the head."""
        task, split = done.task, done.unfinished
        if split is None or done.outputs is None:
            return done
        self._split = split
        task.stop_watch.start()
        outputs = [self.pool.copy(each) for each in split.tail(done.outputs, task.change)]
        task.stop_watch.lap("infer")
        return Inferred(task, outputs)

    def _abandon(self) -> None:
        if self._split is not None:
            self._split.abandon()

    def postprocess(self, done: Inferred) -> StepResult:
        """Decode the outputs, or carry the last result over."""
        if done.outputs is None:
            step = self._results.carried(done.task)
        else:
            step = self._results.computed(done.task, done.outputs)
        if step.kind in ("computed", "skipped"):
            self.slot.attend(step.result, step.view)
        return step

    def stages(self) -> list[Stage]:
        """preprocess, infer (and infer-2) and postprocess, in order."""
        second = [Stage("infer-2", self.infer_rest, close=self._abandon)] if self._in_two else []
        return [
            Stage("preprocess", self.preprocess, close=self.policy.close),
            Stage("infer", self.infer, close=self.slot.close),
            *second,
            Stage("postprocess", self.postprocess, close=self._results.forget),
        ]


def drawing(
    compose: Callable[[StepResult], NDArray[np.uint8]] | None, *, keeps_pixels: bool = False
) -> Stage:
    """The stage that draws. It lets go of the frame's own pixels unless keeps_pixels."""

    def draw(step: StepResult) -> DrawnFrame:
        stop_watch = _of(step)
        image = compose(step) if compose is not None else None
        stop_watch.lap("draw")
        frame = step.frame if keeps_pixels else without_pixels(step.frame)
        return DrawnFrame(replace(step, frame=frame, changed=None), image)

    return Stage("draw", draw)


def encoding(write: Callable[[DrawnFrame], None]) -> Stage:
    """The stage that writes the drawn picture, and lets go of it."""

    def encode(drawn: DrawnFrame) -> StepResult:
        stop_watch = _of(drawn.step)
        write(drawn)
        stop_watch.lap("write")
        return drawn.step

    return Stage("encode", encode)


def _of(step: StepResult) -> StopWatch:
    """Goes on measuring the parts of a frame's way, in the thread that calls it."""
    return StopWatch(step.spent_ms, step.thread_ms)


def with_own(stages: Sequence[Stage], own: Iterable[tuple[str, Stage]]) -> list[Stage]:
    """The stages with the user's own in between.

    own: each with the name of the stage that it follows, "decode" for the source. Several after the
    same stage keep their order.
    """
    after: dict[str, list[Stage]] = {}
    for name, stage in own:
        after.setdefault(name, []).append(stage)
    chain = after.pop("decode", [])
    for stage in stages:
        chain += [stage, *after.pop(stage.name, [])]
    assert not after  # names were checked where they were read
    return chain
