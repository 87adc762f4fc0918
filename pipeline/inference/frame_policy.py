"""The first half of a frame's way: fit it to the model, find what changed, decide what to do.

Nothing here waits for a result: what may stand for later frames, and how old it is, is known when
the frame is looked at. So frames can be looked at while the network is still busy with others.
"""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import BackendHandle
from stillframe.pipeline.inference.box_flow import Grey, Lens
from stillframe.pipeline.inference.rolling_refresh import RollingRefresh
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.inference.types import FittedFrame, Kind, StopWatch, Task
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.frontend.fingerprint import fingerprint
from stillframe.reuse.gate.change_gate import ChangeGate, ChangeMap

LOOK_EVERY_ROWS = 16
SURE_SHARE = 0.025
SAMPLED = 16  # each of so many rows and columns tells of a cut
CUT_LEVELS, CUT_SHARE, CUT_FACTOR = 20, 0.15, 3.0


def surely_new(gate: ChangeGate, image: NDArray[np.uint8]) -> bool:
    """A twentieth of the gate's time tells that a frame has changed, where very much of it has.

    Where the whole network runs anyway, it need not be known which pixels are new. What counts
    here is above any noise that the gate may believe in.
    """
    apart = cv2.absdiff(image[::LOOK_EVERY_ROWS], gate.reference[::LOOK_EVERY_ROWS])
    levels = gate.settings.pixel * gate.settings.most_noise
    return int(np.count_nonzero(apart > levels)) > SURE_SHARE * apart.size


class SceneCutDetector:
    """Finds the first frame of another scene in a stream, by a few of its pixels: where many have
    changed since the frame before, and several times as many as there. A dark scene that follows a
    dark one passes."""

    def __init__(self) -> None:
        self._before: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
        self._share = 0.0

    def step(self, image: NDArray[np.uint8]) -> bool:
        """Whether the next frame, (H, W, 3), begins another scene."""
        down, across = (min(SAMPLED, side) for side in image.shape[:2])
        sampled = np.ascontiguousarray(image[down // 2 :: down, across // 2 :: across])
        before, self._before = self._before, sampled
        if before.shape != sampled.shape:
            return False
        apart = cv2.absdiff(sampled, before) > CUT_LEVELS
        last, self._share = self._share, int(np.count_nonzero(apart)) / apart.size
        return self._share > max(CUT_SHARE, CUT_FACTOR * last)


class FramePolicy:
    """Looks at the frames of one source in order. Not safe to use from two threads.

    The model is fixed at the size that suits the frames, again whenever their size changes. A frame
    after a gap in the source starts afresh. A corrupt frame is answered with the previous result
    while that is young enough; after that it is computed, but nothing later rests on it.

    slot: asked for the backend of each frame. study: what differs from a run.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        slot: BackendSlot,
        study: StudySettings | None = None,
    ) -> None:
        if settings.profile is not None:  # found now, not at the first frame
            settings.profile.check(fingerprint(model.path))
        self.model = model
        self.settings = settings
        self._slot = slot
        self._backend: BackendHandle | None = None
        self._gate: ChangeGate | None = None
        self._refresh = RollingRefresh(1, settings.age_limit_s)
        self._shape: tuple[int, ...] = ()
        self._since_s: float | None = None  # the oldest frame behind what may stand for later ones
        self._passed = 0  # frames since the last one that was computed
        self._computed_s = 0.0
        self._cadence = settings.cadence
        self._cuts: SceneCutDetector | None = SceneCutDetector()
        self._stop_watch: Callable[[], StopWatch] = StopWatch
        self._run_unchanged = False
        if study is not None:
            self._cadence = study.skipping or self._cadence
            self._cuts = self._cuts if study.scene_cuts else None
            self._stop_watch, self._run_unchanged = study.stop_watch, study.run_unchanged
        self._lens = Lens() if self._cadence.follows else None

    def close(self) -> None:
        """Give back the gate's memory; the next frame starts afresh."""
        self._gate, self._shape, self._since_s = None, (), None

    def forget(self) -> None:
        """Nothing later rests on what was seen so far."""
        self._since_s = None
        if self._gate is not None:
            self._gate.reset()

    def decide(self, frame: Frame) -> Task:
        """What to do for the frame. Raises ModelError when the model cannot take it."""
        self._suit(frame)
        backend = self._slot.claim(self.model.path, frame.image.shape)
        if backend is not self._backend:  # it knows no frame yet: all of this one is new
            self._backend = backend
            self.forget()
        watch = self._stop_watch()
        if frame.discontinuity:
            self.forget()
        since_s = self._since_s
        held = since_s is not None
        age_s = max(0.0, frame.time_s - since_s) if since_s is not None else 0.0
        young = held and age_s <= self.settings.age_limit_s
        carried: Kind | None = None
        if held and young and self._passes(frame):
            carried = "skipped"
            self._passed += 1
        elif frame.corrupt and young:
            carried = "corrupt"
        grey = self._grey(frame)
        if watch.detailed:
            watch.lap("grey")
        if carried:
            return Task(frame, carried, self.model, watch, age_s, grey=grey)
        if isinstance(frame, FittedFrame):
            fitted, view = frame.fitted, frame.view
        else:
            fitted, view = self.model.fit(frame.image)
        watch.lap("fit")
        change = None
        if self._gate is not None and not frame.corrupt:
            change = self._change(self._gate, fitted, held, young, frame.time_s)
            watch.lap("gate")
            if held and change.kind == "unchanged" and not self._run_unchanged:
                return Task(frame, "unchanged", self.model, watch, age_s, grey=grey)
            if backend.incremental:
                fitted = self._gate.reference
            else:  # the result will stand for all of this frame, so later ones compare with it
                np.copyto(self._gate.reference, fitted)
        partial = held and backend.incremental and change is not None and change.kind != "all"
        self._passed, self._computed_s = 0, frame.time_s
        if frame.corrupt:
            self.forget()
        elif not partial:
            self._since_s = frame.time_s
            self._refresh.start(frame.time_s)
        elif self._rolls:
            self._since_s = self._refresh.since_s
            age_s = max(0.0, frame.time_s - self._since_s)
        task = Task(frame, "computed", self.model, watch, backend=backend, grey=grey)
        task = replace(task, fitted=fitted, change=change, view=view)
        if partial:
            return replace(task, partial=True, age_s=age_s)
        return replace(task, keeps=not frame.corrupt)

    def _passes(self, frame: Frame) -> bool:
        """Whether the network leaves this frame out. A cut that is seen it does not."""
        if self._cadence.every == 1:
            return False
        cuts = None if frame.corrupt else self._cuts
        cut = cuts is not None and cuts.step(frame.image)
        return not cut and self._cadence.passes(self._passed, frame.time_s - self._computed_s)

    def _grey(self, frame: Frame) -> Grey | None:
        """What boxes are followed on, where they are."""
        if self._lens is None or frame.corrupt:
            return None
        return frame.grey if isinstance(frame, FittedFrame) else self._lens.grey(frame.image)

    def _change(
        self, gate: ChangeGate, fitted: NDArray[np.uint8], held: bool, young: bool, time_s: float
    ) -> ChangeMap:
        if held and not self._incremental and surely_new(gate, fitted):
            return ChangeMap.full(*self.model.size, "far more than noise differs")
        if not young:
            gate.reset()
        if not (self._rolls and young):
            return gate.step(fitted)
        return gate.step(fitted, renew=self._refresh.rows(time_s))

    @property
    def _incremental(self) -> bool:
        return self._backend is not None and self._backend.incremental

    @property
    def _rolls(self) -> bool:
        """Whether stripes are renewed: what is exact, or computed whole, does not age in parts."""
        return self._incremental and self._gate is not None and not self._gate.settings.exact

    def _suit(self, frame: Frame) -> None:
        """Model and gate for frames of this size."""
        if frame.image.shape == self._shape:
            return
        self.close()
        height, width = frame.image.shape[:2]
        self.model = self.model.for_source(height, width)
        gate = self.settings.gate
        if gate is not None:
            self._gate = ChangeGate(*self.model.size, gate)
        self._refresh = RollingRefresh(self.model.size[0], self.settings.age_limit_s)
        if self._lens is not None:
            self._lens = Lens()
        self._shape = frame.image.shape
