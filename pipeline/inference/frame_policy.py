"""Decides for each frame what to do: compute it, carry the last result over, or skip it.

Nothing here waits for a result: whether one may stand for later frames, and how old it then is, is
known when the frame is decided. So frames are decided while the network is still busy with others.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import BackendHandle
from stillframe.pipeline.inference.box_flow import Grey, Lens
from stillframe.pipeline.inference.rolling_refresh import RollingRefresh
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.inference.steering import FrameSteering
from stillframe.pipeline.inference.types import FittedFrame, Kind, StopWatch, Task
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.gate.change_map import ChangeMap

if TYPE_CHECKING:  # loads kernels: slow, and a run that computes its first frames whole needs none
    from stillframe.reuse.gate.change_gate import ChangeGate

PRECHECK_ROWS = 16
"""The pre-check samples each n-th row."""
PRECHECK_SHARE = 0.025
"""Of the samples: if more differ, the frame is new."""
CUT_SAMPLES = 16
"""Rows, and columns, that a cut is detected by."""
CUT_LEVELS, CUT_SHARE, CUT_FACTOR = 20, 0.15, 3.0
"""Grey levels that count as changed, share of the samples, and multiple of the share before."""


BLOCKS, BLOCK_SHARE = (8, 6), 0.02
"""Across and down: the blocks that motion is spread over, and the share of changed samples from
which a block counts."""


def clearly_changed(gate: "ChangeGate", image: NDArray[np.uint8]) -> bool:
    """Cheap pre-check: if clearly more than noise differs in the sampled rows, the gate is skipped.

    For backends that compute whole frames, which need not know the changed pixels. A difference
    counts if it exceeds any noise that the gate may assume.
    """
    difference = cv2.absdiff(image[::PRECHECK_ROWS], gate.reference[::PRECHECK_ROWS])
    levels = gate.settings.pixel * gate.settings.most_noise
    return int(np.count_nonzero(difference > levels)) > PRECHECK_SHARE * difference.size


def _age_s(frame: Frame, since_s: float | None) -> float:
    """How old the picture of `since_s` is when the frame comes; 0 if there is none."""
    return 0.0 if since_s is None else max(0.0, frame.clock_s + frame.late_s - since_s)


class SceneCutDetector:
    """Finds the first frame of another scene in a stream.

    A cut: many sampled pixels changed since the frame before, and several times as many as in that
    frame. Misses a dark scene that follows a dark one.
    """

    def __init__(self) -> None:
        self._before: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
        """Samples of the frame before."""
        self._share = 0.0
        """Of the samples, how many had changed in it."""
        self.spread: float | None = None
        """Share of the picture's blocks in which the last frame clearly differs from the one
        before; None: it was the first of its size."""

    def is_cut(self, image: NDArray[np.uint8]) -> bool:
        """Whether the next frame, (H, W, 3), begins another scene."""
        down, across = (min(CUT_SAMPLES, side) for side in image.shape[:2])
        samples = np.ascontiguousarray(image[down // 2 :: down, across // 2 :: across])
        before, self._before = self._before, samples
        self.spread = None
        if before.shape != samples.shape:
            self._share = 1.0  # not known: the next frame is no cut
            return False
        changed = cv2.absdiff(samples, before) > CUT_LEVELS
        marks = np.asarray(changed.any(axis=2), np.float32)
        blocks = cv2.resize(marks, BLOCKS, interpolation=cv2.INTER_AREA)
        self.spread = int(np.count_nonzero(blocks > BLOCK_SHARE)) / blocks.size
        last, self._share = self._share, int(np.count_nonzero(changed)) / changed.size
        return self._share > max(CUT_SHARE, CUT_FACTOR * last)


class FramePolicy:
    """Decides what to do for the frames of one source, in order. Not thread-safe.

    The model is set to the size that suits the frames, anew whenever their size changes. Nothing is
    carried across a gap in the source. A corrupt frame gets the previous result while that is young
    enough; then it is computed, but nothing later rests on it. So is a stale frame, which was held
    back on its way. Ages of a live source are by the wall clock.

    slot: asked for the backend of each frame. study: what differs from a run. steering: asked
    before each frame how to analyse it, instead of the settings.
    """

    model: Model
    """At the size that suits the last frame."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        slot: BackendSlot,
        study: StudySettings | None = None,
        steering: FrameSteering | None = None,
    ) -> None:
        if settings.profile is not None:  # fail now rather than at the first frame
            from stillframe.reuse.frontend.fingerprint import fingerprint

            settings.profile.check(fingerprint(model.path))
        self.model = model
        self.settings = settings
        self._slot = slot
        self._backend: BackendHandle | None = None
        """Of the last frame."""
        self._gate: ChangeGate | None = None
        self._refresh = RollingRefresh(1, settings.age_limit_s)
        self._shape: tuple[int, ...] = ()
        """Of the last frame."""
        self._since_s: float | None = None
        """Time of the oldest frame that the last result rests on; None: nothing may rest on it."""
        self._skipped = 0
        """Frames since the last one that was computed."""
        self._computed_s = 0.0
        """Time of that one."""
        self._skipping = settings.frame_skipping
        self._cuts: SceneCutDetector | None = SceneCutDetector()
        self._stop_watch: Callable[[], StopWatch] = StopWatch
        self._run_unchanged = False
        self._gated = False
        """Whether the gate was used for the last frame."""
        if study is not None:
            self._skipping = study.frame_skipping or self._skipping
            self._cuts = self._cuts if study.scene_cuts else None
            self._stop_watch, self._run_unchanged = study.stop_watch, study.run_unchanged
        self._steering = steering
        follows = self._skipping.follows if steering is None else steering.follows
        self._lens = Lens() if follows else None

    def close(self) -> None:
        """Give back the gate's memory; the next frame starts afresh."""
        self._gate, self._shape, self._since_s = None, (), None

    def forget(self) -> None:
        """Let nothing later rest on the frames so far."""
        self._since_s = None
        if self._gate is not None:
            self._gate.reset()

    def decide(self, frame: Frame) -> Task:
        """What to do for the frame. Raises ModelError if the model cannot take it."""
        self._adapt(frame)
        backend = self._slot.claim(self.model.path, frame.image.shape)
        if backend is not self._backend:
            before, self._backend = self._backend, backend
            # one that keeps values has seen no frame yet, so all of this one is new
            if before is None or before.incremental or backend.incremental:
                self.forget()
        stop_watch = self._stop_watch()
        if frame.discontinuity:
            self.forget()
        gate = self._gate_for_frame()
        since_s = self._since_s
        has_result = since_s is not None
        age_s = _age_s(frame, since_s)
        # by when the pictures were taken: one that repeats the last one exactly renews nothing
        is_young = has_result and age_s - frame.late_s <= self.settings.age_limit_s
        is_unfit = frame.corrupt or frame.stale
        carried: Kind | None = None
        skips = self._skips(frame)  # asked for each frame, since it looks for cuts between them
        if is_young and skips:
            carried = "skipped"
            self._skipped += 1
        elif is_unfit and is_young:
            carried = "corrupt"
        grey = self._grey(frame)
        if stop_watch.detailed:
            stop_watch.lap("grey")
        if carried:
            return self._carried(frame, carried, stop_watch, age_s, grey)
        if isinstance(frame, FittedFrame):
            fitted, view = frame.fitted, frame.view
        else:
            fitted, view = self.model.fit(frame.image)
        stop_watch.lap("fit")
        change = None
        if gate is not None and not is_unfit:
            change = self._change(gate, fitted, has_result, is_young, frame.clock_s)
            stop_watch.lap("gate")
            if has_result and change.kind == "unchanged" and not self._run_unchanged:
                return self._carried(frame, "unchanged", stop_watch, age_s, grey)
            if backend.incremental:
                fitted = gate.reference
            else:  # the result stands for the whole frame, so later ones are compared with it
                np.copyto(gate.reference, fitted)
        is_partial = change is not None and change.kind != "all"
        is_partial = is_partial and has_result and backend.incremental
        self._skipped, self._computed_s = 0, frame.clock_s
        if is_unfit:
            self.forget()
        elif not is_partial:
            self._since_s = frame.clock_s
            self._refresh.start(frame.clock_s)
        elif self._refreshes:
            self._since_s = self._refresh.since_s
            age_s = _age_s(frame, self._since_s)
        return Task(
            frame,
            "computed",
            self.model,
            stop_watch,
            age_s=age_s if is_partial else frame.late_s,
            fitted=fitted,
            change=change,
            view=view,
            partial=is_partial,
            reusable=is_partial or not is_unfit,
            backend=backend,
            grey=grey,
            setting=None if self._steering is None else self._steering.setting(0),
        )

    def _carried(
        self, frame: Frame, kind: Kind, stop_watch: StopWatch, age_s: float, grey: Grey | None
    ) -> Task:
        """The last result is to stand for the frame."""
        setting = None
        if self._steering is not None:
            setting = self._steering.setting(0 if kind == "unchanged" else self._skipped)
        return Task(frame, kind, self.model, stop_watch, age_s, grey=grey, setting=setting)

    def _gate_for_frame(self) -> "ChangeGate | None":
        """The gate if it is to look for changes in the next frame. After a pause it starts anew."""
        settings, gated = self.settings.gate, self._gated
        self._gated = settings is not None and (self._steering is None or self._steering.gates())
        if settings is None or not self._gated:
            return None
        if self._gate is None:
            from stillframe.reuse.gate.change_gate import ChangeGate

            self._gate = ChangeGate(*self.model.size, settings)
        elif not gated:
            self._gate.reset()
        return self._gate

    def _skips(self, frame: Frame) -> bool:
        """Whether to skip the frame. One that visibly begins another scene is not."""
        if self._steering is not None:
            self._skipping = self._steering.frame_skipping()
        if self._skipping.every == 1 and self._steering is None:
            return False
        cuts = None if frame.corrupt else self._cuts
        is_cut = cuts is not None and cuts.is_cut(frame.image)
        if self._steering is not None and cuts is not None and cuts.spread is not None:
            self._steering.note_spread(cuts.spread)
        if is_cut:
            return False
        return self._skipping.skips(self._skipped, frame.clock_s - self._computed_s)

    def _grey(self, frame: Frame) -> Grey | None:
        """What boxes are followed on; None if none are."""
        if self._lens is None or frame.corrupt:
            return None
        if self._steering is not None and not self._steering.wants_following():
            return None
        return frame.grey if isinstance(frame, FittedFrame) else self._lens.grey(frame.image)

    def _change(
        self,
        gate: "ChangeGate",
        fitted: NDArray[np.uint8],
        has_result: bool,
        is_young: bool,
        time_s: float,
    ) -> ChangeMap:
        """Which pixels are new."""
        if has_result and not self._incremental and clearly_changed(gate, fitted):
            return ChangeMap.full(*self.model.size, "far more than noise differs")
        if not is_young:
            gate.reset()
        if not (self._refreshes and is_young):
            return gate.step(fitted)
        return gate.step(fitted, renew=self._refresh.rows(time_s))

    @property
    def _incremental(self) -> bool:
        return self._backend is not None and self._backend.incremental

    @property
    def _refreshes(self) -> bool:
        """Whether the rolling refresh is needed: exact values do not age, and a backend that
        computes whole frames has no old ones."""
        return self._incremental and self._gate is not None and not self._gate.settings.exact

    def _adapt(self, frame: Frame) -> None:
        """Set model and gate to the size of the frame."""
        if frame.image.shape == self._shape:
            return
        self.close()
        height, width = frame.image.shape[:2]
        self.model = self.model.for_source(height, width)
        self._gated = False
        self._refresh = RollingRefresh(self.model.size[0], self.settings.age_limit_s)
        if self._lens is not None:
            self._lens = Lens()
        if self._steering is not None:
            self._steering.adapt(self.model)
        self._shape = frame.image.shape
