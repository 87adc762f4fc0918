"""Chooses how a run analyses its frames: by what each way costs here, and what it loses here.

    steering  ◄── FramePolicy asks before each frame
    compare() ◄── each computed frame: what would skipping it have lost?
    delivered() ◄ each finished frame: what did it cost? now and then: an audit of the result
    slot      ──► runs the network; the controller replaces its backend

A run begins on ONNX Runtime, with every frame computed whole, while the reuse engine is made ready.
From then on the cheapest choice is taken of dense or reuse engine, tolerance and frame skipping
whose expected loss is within the allowance. The allowance is ALLOWED_SHARE of what the quality
leaves; the rest is for what changes before it is measured. Where the reuse engine costs more than
computing everything it is left, and tried again after pauses that double. Which backend computes
whole frames is found by trying, see `DenseContest`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stillframe.closing import Closing
from stillframe.models.model import Model
from stillframe.models.results import Detections, Result
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import (
    Backend,
    BorrowedBackend,
    DenseStepBackend,
    OnnxRuntimeBackend,
    OpenvinoBackend,
    ReuseBackend,
    available_threads,
)
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.steering import FrameSetting
from stillframe.pipeline.inference.types import PARTS, WORKERS, StepResult
from stillframe.pipeline.quality.agreement import agreement_with
from stillframe.pipeline.quality.audited import Audited
from stillframe.pipeline.quality.auto.costs import FrameCosts
from stillframe.pipeline.quality.auto.dense_contest import (
    ONNX_RUNTIME,
    OPENVINO,
    REUSE,
    TITLES,
    DenseContest,
)
from stillframe.pipeline.quality.auto.evidence import TOLERANCES, LossEvidence
from stillframe.pipeline.quality.auto.loading import Loading
from stillframe.pipeline.quality.auto.preparation import Preparation
from stillframe.pipeline.quality.boxes import BoxAgreement

ALLOWED_SHARE = 0.4
"""Of the loss that the quality leaves, what a setting may be expected to lose."""
WITHIN_S = 0.5
"""The longest time without the network in which things move: what appears is missed so long."""
COMPARED_SHARE = 0.02
"""Of the processor time of frames, what comparing them with what skipping them would give may take
while none is skipped."""
TRIED = 4
"""Frames that tell whether the reuse engine pays."""
HOPED_FOR = 0.2
"""Of the cost of a dense frame, what reuse is expected to cost until it was tried."""
WORTH = 0.97
"""Of the cost of a dense frame: if reuse costs more, it does not pay."""
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Until reuse is tried again: at first, and at most."""
MOVES = 0.8
"""Share of the picture's blocks: if more of them change, everything moves, and no reuse pays."""
SPREADS = 9
"""Frames whose median tells whether everything moves."""
PREPARING_MS, PREPARING_SHARE = 1000.0, 0.02
"""Processor time that preparing the reuse engine is thought to take: while everything moves it is
prepared once that is a small share of what frames took."""
EMPTY = 8
"""Frames without anything in them after which no boxes are followed in order to compare."""
HOPELESS, SELDOM = 3.0, 8
"""Times the allowance: if skipping every second frame loses more, two frames in a row out of so
many are compared."""
PROVEN = 64
"""Frames of the reuse engine after which the next pause is a short one again."""
MOST_UNCHOSEN = 8
"""Frames that were not computed, after which a choice is made in any case: time has passed."""
FIRST_TOLERANCE = 0.1
FAR = 4.0
"""Times the tolerance where the last result has nothing near, see `Tolerance.far`; of detectors.
Other results were not measured, or have no place."""
IN_FLIGHT = 64
"""Frames after which none is left that was decided for a backend that is not used any more."""
LOADING_MS = 500.0
"""Processor time that loading OpenVINO is thought to take: it is done once that is affordable."""


@dataclass(frozen=True, slots=True)
class AutoChoice:
    """How frames are analysed now."""

    tolerance: float | None = None
    """Of the reuse engine; None: a dense backend computes them whole."""
    every: int = 1
    """Frame skipping."""


class AutoController(Closing):
    """Steers one run, see the module. A `FrameSteering` for the loop; the slot is part of it.

    model: at any size. settings: of mode "auto"; what they fix stays fixed.
    make_dense, make_reuse, make_other: the backends for a model's file, instead of ONNX Runtime,
    the reuse engine and OpenVINO, which is tried on whole frames where it is installed.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings,
        *,
        make_dense: Callable[[Path], Backend] | None = None,
        make_reuse: Callable[[Path], ReuseBackend] | None = None,
        make_other: Callable[[Path], Backend] | None = None,
    ) -> None:
        self.settings = settings
        self.slot = BackendSlot(self._dense_backend, incremental=False)
        self.follows = model.task == "detection" and settings.between != "keep"
        self.choice = AutoChoice(every=settings.every or 1)
        self.why = ""
        """Why the reuse engine cannot run the model."""
        threads = settings.threads
        far = FAR if model.task == "detection" else 1.0
        self._make_dense = make_dense or (lambda path: OnnxRuntimeBackend(path, threads))
        self._make_reuse = make_reuse or (
            lambda path: ReuseBackend(path, threads, FIRST_TOLERANCE, widen=settings.widen, far=far)
        )
        if make_other is None and make_dense is None and find_spec("openvino") is not None:
            make_other = lambda path: OpenvinoBackend(path, threads)  # noqa: E731
        self._make_other = make_other
        """None: there is no further contender."""
        self._other: Backend | None = None
        self._other_is_idle, self._idle = False, 0
        """Whether it has lost, and frames since then."""
        self._loading: Loading | None = None
        self._threads = threads or available_threads()
        self._lock = threading.Lock()
        self._model = model
        self._dense: tuple[Path, Backend] | None = None
        self._reuse: ReuseBackend | None = None
        self._was_ready = False
        """Whether there ever was one."""
        self._preparation: Preparation | None = None
        self._path: Path | None = None
        """Of the model that frames are analysed with."""
        self._retired: list[Backend | Preparation | Loading] = []
        """Of earlier sizes: frames in flight may still use them."""
        self._costs = FrameCosts()
        self._contest = DenseContest(self._costs)
        self._runs = ONNX_RUNTIME
        """What whole frames are computed with now."""
        self._evidence = LossEvidence(model.task)
        self._time_s = 0.0
        """Of the last frame that was delivered."""
        self._has_news = False
        """Whether an audit came since the last choice."""
        self._unchosen = 0
        """Frames since the last choice."""
        self._tried = 0
        """Frames since the reuse engine took over."""
        self._pause_s, self._again_s = PAUSE_S, 0.0
        self._again_moving_s = 0.0
        """The same while everything moves."""
        self._spreads: deque[float] = deque(maxlen=SPREADS)
        """In how much of the picture recent frames differ from those before."""
        self._noted = 0
        """Frames of which that was noted."""
        self._hopeless = False
        """Whether skipping loses far too much now."""
        self._empty = 0
        """Frames in a row with nothing in them."""
        self._counted = 0
        """Frames."""
        self._spent_ms = self._compared_ms = 0.0
        """Processor time of all frames, and of comparisons."""
        self._allowed = ALLOWED_SHARE * (1 - settings.quality)

    def close(self) -> None:
        """Close what the slot does not own. Follows the last frame; calling it again is fine."""
        self.slot.close()
        with self._lock:
            preparation, self._preparation = self._preparation, None
            closed: list[Backend | Preparation | Loading] = [*self._retired]
            closed += [each for each in (self._reuse, self._other, self._loading) if each]
            if self._dense is not None:
                closed.append(self._dense[1])
            self._reuse, self._dense, self._retired = None, None, []
            self._other, self._loading = None, None
        if preparation is not None:
            preparation.close()
        for each in closed:
            each.close()

    # --- FrameSteering: the loop's threads -------------------------------------------------------

    def adapt(self, model: Model) -> None:
        """Start afresh for a model at another size."""
        with self._lock:
            self._model = model
            # the slot goes back to ONNX Runtime by itself
            self.choice, self._runs = replace(self.choice, tolerance=None), ONNX_RUNTIME
            if model.path == self._path:
                return
            self._path = model.path
            self._spreads.clear()
            old = (self._preparation, self._reuse, self._loading, self._other)
            self._retired += [each for each in old if each is not None]
            self._preparation = self._reuse = self._loading = self._other = None
            self._other_is_idle, self._idle = False, 0
            self._costs = FrameCosts()
            self._contest = DenseContest(self._costs)

    def frame_skipping(self) -> FrameSkipping:
        every = self.choice.every
        within_s = None if self.settings.every is not None else WITHIN_S
        return FrameSkipping(every, "follow" if self.follows else "keep", within_s)

    def note_spread(self, share: float) -> None:
        self._noted += 1
        self._spreads.append(share)

    def wants_following(self) -> bool:
        if not self.follows or self.choice.every > 1:
            return self.follows
        if self._empty >= EMPTY or not self.wants_comparison(1):
            return False
        return not self._hopeless or self._noted % SELDOM < 2

    def gates(self) -> bool:
        return self.choice.tolerance is not None

    def setting(self, distance: int) -> FrameSetting:
        choice = self.choice
        return FrameSetting(choice.tolerance, choice.every, distance, self._runs)

    def wants_comparison(self, distance: int) -> bool:
        if self.settings.every is not None:
            return False
        return distance > 1 or self._compared_ms <= COMPARED_SHARE * self._spent_ms

    def compare(self, carried: Result, computed: Result, distance: int, time_s: float) -> None:
        began_s = time.thread_time()
        kept = kept_share(carried, computed)
        with self._lock:
            self._compared_ms += (time.thread_time() - began_s) * 1e3
            if kept is not None:
                self._evidence.add_skipped(distance, 1 - kept, time_s)

    # --- finished frames -------------------------------------------------------------------------

    def delivered(self, step: StepResult) -> None:
        """Count a finished frame, and choose anew."""
        with self._lock:
            self._time_s = time_s = step.frame.clock_s
            self._count(step)
            self._take_over()
            self._unchosen += 1
            if step.kind != "computed" and not self._has_news and self._unchosen < MOST_UNCHOSEN:
                return
            self._unchosen, self._has_news = 0, False
            best = self._best(time_s)
            if best != self.choice:
                self._choose(best)
            if self.choice.tolerance is None:
                self._run_whole_frames(time_s)
            self._hopeless = self._evidence.of_skipping(2, time_s) > HOPELESS * self._allowed > 0

    def on_audit(self, audited: Audited) -> None:
        """Count an audited frame: what its tolerance lost, or skipping so many frames."""
        setting, kept = audited.step.setting, audited.kept
        if setting is None or kept is None:
            return
        with self._lock:
            self._has_news = True
            if setting.distance:
                self._evidence.add_skipped(setting.distance, 1 - kept, self._time_s)
            elif setting.tolerance is not None:
                self._evidence.add_tolerance(setting.tolerance, 1 - kept, self._time_s)

    def _count(self, step: StepResult) -> None:
        setting, spent = step.setting, step.thread_ms
        if setting is None or step.frame.corrupt:
            return
        infer_ms = spent.get("infer", 0.0)
        # where it is not known how busy the other threads were, they were as busy as the first
        network_ms = infer_ms + spent.get(WORKERS, (self._threads - 1) * infer_ms)
        result = step.result
        empty = isinstance(result, Detections) and not len(result)
        self._empty = self._empty + 1 if empty else 0
        around = sum(ms for part, ms in spent.items() if part in PARTS and part != "infer")
        self._counted += 1
        cost = around + network_ms
        self._spent_ms += cost
        self._contest.spent_ms += cost
        if step.kind == "computed" and setting.every == 1:  # following, in order to compare
            self._compared_ms += spent.get("follow", 0.0)
            around -= spent.get("follow", 0.0)
        if step.kind == "skipped":
            self._costs.skipped.append(around)
        if step.kind != "computed":
            return
        cost = around + network_ms
        if setting.tolerance is None:
            self._contest.add(setting.dense or ONNX_RUNTIME, cost)
        elif step.result.evidence.provenance == "partial" or self._tried > 0:
            self._costs.add_partial(setting.tolerance, cost)
            self._tried += 1
            if self._tried == PROVEN:
                self._pause_s = PAUSE_S
        else:  # the first one has nothing to reuse
            self._tried = 1

    def _take_over(self) -> None:
        """Begin to prepare the reuse engine once a frame is through; take it once it is ready."""
        if self._reuse is not None:
            return
        if self._preparation is None and self._path is not None and self._may_prepare():
            self._preparation = Preparation(
                self._path, self._make_reuse, self._threads, widen=self.settings.widen
            )
        preparation = self._preparation
        if preparation is None:
            return
        self._reuse = preparation.take()
        self._was_ready |= self._reuse is not None
        self.why = preparation.why
        self._tried = 0

    @property
    def _moving(self) -> bool:
        """Whether everything moves now."""
        spreads = sorted(self._spreads)
        return bool(spreads) and spreads[len(spreads) // 2] > MOVES

    def _may_prepare(self) -> bool:
        """Whether the reuse engine is worth being prepared."""
        if not self._spreads:
            return False
        return not self._moving or PREPARING_SHARE * self._spent_ms >= PREPARING_MS

    def _best(self, time_s: float) -> AutoChoice:
        """What costs least, of all that is expected to lose no more than is allowed."""
        evidence, costs = self._evidence, self._costs
        fixed = self.settings.every
        counts = [fixed] if fixed is not None else range(1, evidence.most_every(time_s) + 1)
        skipped_cost = costs.of_skipped()
        dense_cost = self._contest.cost_of_best
        if dense_cost is None:
            return self.choice
        cheapest, least = AutoChoice(), float("inf")
        for tolerance in (None, *self._tolerances(time_s)):
            lost = evidence.of_tolerance(tolerance, time_s)
            cost = dense_cost if tolerance is None else costs.of_partial(tolerance, dense_cost)
            if cost is None:  # not known: it is worth a try
                is_first = tolerance == self._first_tolerance(time_s)
                cost = HOPED_FOR * dense_cost if is_first else dense_cost
            for every in counts:
                skipped = evidence.of_skipping(every, time_s)
                if fixed is None and every > 1 and lost + skipped > self._allowed:
                    break
                if tolerance is not None and lost > self._allowed:
                    break
                mean = (cost + (every - 1) * skipped_cost) / every
                if AutoChoice(tolerance, every) == self.choice:
                    mean *= WORTH
                if mean < least:
                    cheapest, least = AutoChoice(tolerance, every), mean
        return cheapest

    def _tolerances(self, time_s: float) -> tuple[float, ...]:
        """What the reuse engine may be asked for now."""
        if self._reuse is None:
            return ()
        if self.choice.tolerance is None:
            again_s = self._again_moving_s if self._moving else self._again_s
            if time_s < again_s:
                return ()
        if self._tried < TRIED and self.choice.tolerance is not None:
            return (self.choice.tolerance,)
        return TOLERANCES

    def _first_tolerance(self, time_s: float) -> float:
        """The largest one that is expected to hold."""
        allowed = [
            each
            for each in TOLERANCES
            if each <= FIRST_TOLERANCE
            and self._evidence.of_tolerance(each, time_s) <= self._allowed
        ]
        return max(allowed, default=0.0)

    def _choose(self, choice: AutoChoice) -> None:
        """Make it the choice from the next frame on."""
        before, self.choice = self.choice, choice
        if choice.tolerance == before.tolerance:
            return
        if choice.tolerance is None:
            self._swap(self._contest.best)
            self._costs.forget_partial()
            self._again_s = self._time_s + self._pause_s
            if self._moving:
                self._again_moving_s = self._time_s + LONGEST_PAUSE_S
            self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s)
            return
        lowered = before.tolerance is not None and choice.tolerance < before.tolerance
        self.slot.steer(choice.tolerance / FIRST_TOLERANCE, lowered)
        if before.tolerance is None:
            assert self._reuse is not None
            self._tried = 0
            self.slot.swap(BorrowedBackend(self._reuse), self._model.path)

    def _run_whole_frames(self, time_s: float) -> None:
        """Compute later whole frames with the best contender, or try another one."""
        contest = self._contest
        ready = [ONNX_RUNTIME] if self._reuse is None else [ONNX_RUNTIME, REUSE]
        if self._other is not None and not self._other_is_idle:
            ready.append(OPENVINO)
        name = contest.name(ready, time_s)
        if name != self._runs:
            self._swap(name)
        if self._make_other is None or self._path is None:
            return
        if self._loading is None and contest.affords(LOADING_MS):
            self._loading = Loading(self._path, self._make_other)
        elif self._loading is not None and self._other is None:
            self._other, spent_ms = self._loading.take()
            contest.tried_ms += self._threads * spent_ms
        elif self._other is not None and contest.has_lost(OPENVINO):
            self._other_is_idle = True  # its weights are not kept
            self._idle += 1
            if self._idle == IN_FLIGHT:
                self._other.close()

    def _swap(self, name: str) -> None:
        """Compute whole frames with this contender from the next one on."""
        backend: Backend
        if name == REUSE and self._reuse is not None:
            backend = DenseStepBackend(self._reuse)
        elif name == OPENVINO and self._other is not None:
            backend = BorrowedBackend(self._other)
        else:
            name, backend = ONNX_RUNTIME, self._onnx_runtime(self._model.path)
        self.slot.swap(backend, self._model.path)
        self._runs = name

    def _dense_backend(self, path: Path) -> Backend:
        """What the slot runs by itself: at first, and when the size of the frames changes."""
        with self._lock:
            return self._onnx_runtime(path)

    def lent_onnx_runtime(self, path: Path) -> Backend:
        """ONNX Runtime for an audit: the run's own session, so that weights are in memory once."""
        with self._lock:
            own = [] if self._dense is None else [self._dense[1]]
            for each in (*own, *self._retired):
                if isinstance(each, OnnxRuntimeBackend) and each.path == path:
                    return BorrowedBackend(each)
        return OnnxRuntimeBackend(path, 1)

    def _onnx_runtime(self, path: Path) -> Backend:
        """ONNX Runtime for the model's file, lent."""
        if self._dense is not None and self._dense[0] != path:
            self._retired.append(self._dense[1])
            self._dense = None
        if self._dense is None:
            self._dense = path, self._make_dense(path)
        return BorrowedBackend(self._dense[1])

    def to_dict(self) -> dict[str, Any]:
        """What was chosen, as JSON values."""
        choice, gain, of_ort = self.choice, self.gain, self.gain_over(ONNX_RUNTIME)
        return {
            "tolerance": choice.tolerance,
            "every": choice.every,
            "times_as_fast": None if gain is None else round(gain, 3),
            "times_onnxruntime": None if of_ort is None else round(of_ort, 3),
            "dense_backend": self._contest.best,
            "dense_ms": self._costs.dense_medians(),
            "why_dense": self.why or None,
        }

    def __str__(self) -> str:
        """What was gained and how, in one line for people."""
        choice, gain, best = self.choice, self.gain, self._contest.best
        how = "frames are computed whole"
        if choice.tolerance is not None:
            how = f"tolerance {choice.tolerance:g}"
        elif best != ONNX_RUNTIME:
            how += f" by {TITLES[best]}"
        if choice.every > 1:
            between = "boxes followed" if self.follows else "results kept"
            how += f", {between} in {choice.every - 1} of {choice.every} frames that change"
        why = f"; the reuse engine cannot run it: {self.why}" if self.why else ""
        if not why and not self._was_ready and self._preparation is None and self._moving:
            why = "; everything moves, so the reuse engine was not prepared"
        elif not why and not self._was_ready:
            why = (
                "; the reuse engine was not ready yet: its kernels are compiled once, and a later "
                "run goes on from there"
            )
        if gain is None:
            return f"auto: {how}{why}"
        of_ort = self.gain_over(ONNX_RUNTIME)
        beside = ""
        if best != ONNX_RUNTIME and of_ort is not None:
            beside = f", {of_ort:.1f} times as fast as with ONNX Runtime"
        return (
            f"auto: {gain:.1f} times as fast as computing everything with {TITLES[best]}{beside} "
            f"(processor time, network and what is around it); at the end {how}{why}"
        )

    @property
    def gain(self) -> float | None:
        """Processor time of a whole frame, by the fastest backend that was tried, over that of the
        mean frame; None: not known yet."""
        return self.gain_over(self._contest.best)

    def gain_over(self, name: str) -> float | None:
        """The same against one contender."""
        with self._lock:
            dense_ms = self._costs.of_dense(name)
            if dense_ms is None or not self._spent_ms:
                return None
            return dense_ms * self._counted / self._spent_ms


def kept_share(result: Result, reference: Result) -> float | None:
    """Which share of what two results hold is kept, 0..1, by the cautious measure where there is
    one; None: there is nothing in either."""
    agreement = agreement_with(reference)
    agreement.add(result, reference)
    if not agreement.telling:
        return None
    return agreement.cautious if isinstance(agreement, BoxAgreement) else agreement.value
