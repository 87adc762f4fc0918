"""The audit: how well results agree with computing everything, measured during a run.

    audit = Audit(goal=0.99, steer=steer)      # steer(factor, lowered) sets the tolerance
    audit.offer(step, model)                     # every step; audits some of them
    audit.report                                 # what was measured, and the factor now

ONNX Runtime computes some frames whole, in a thread of its own that takes at most SHARE of one
processor, so that the reuse engine's values are not touched. (A thread of idle priority would be
worse: the others would wait for it whenever it holds the interpreter's lock.) If agreement over the
last audits is too low, the tolerance is lowered at once, in proportion; if agreement is well above
the goal, the tolerance rises slowly. Until agreement is known to hold, audits are more frequent.
Not audited are frames that the run itself computed whole, which agree in any case, and frames that
were in flight while the tolerance changed.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.errors import UsageError
from stillframe.models.model import Model, View
from stillframe.models.results import Result
from stillframe.native_calls import HANG_S, abandon, end_native_calls
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.quality.agreement import (
    MEASURES,
    MOST_PSNR,
    Agreement,
    BoxAgreement,
    Kind,
    agreement_with,
)

EVERY_S = 1.0
"""Seconds of the stream between two audits, at least."""
SHARE = 0.1
"""Of one processor's time, what audits take at most."""
UNSURE_EVERY, UNSURE_SHARE = 0.2, 5.0
"""Factors of EVERY_S and SHARE while agreement is not known to hold."""
IN_FLIGHT = 8
"""Frames after a change of the tolerance that may have been started before it."""
WINDOW = 12
"""The last audits that count."""
ENOUGH_TO_LOWER, ENOUGH_TO_RAISE = 3, 8
"""Audits in the window before the tolerance changes."""
HOPELESS, ENOUGH_IF_HOPELESS = 0.5, 2
"""Below this share of the goal so many audits are enough."""
LEAST_STEP, MOST_STEP = 0.25, 0.7
"""One lowering multiplies the factor by a number between these."""
RAISE, RAISE_FAR, FAR = 1.1, 1.3, 0.5
"""One raising multiplies by the first; below FAR of where agreement last fell short, the second."""
LEAST, MOST = 1 / 32, 2.0
"""Limits of the factor."""
NOT_STEERED = "steering has no effect: the running backend has no tolerance"
MARGIN = 0.5
"""The tolerance rises where agreement is this share of the way from the goal to the best."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the audit measured so far."""

    goal: float
    """The least agreement."""
    audits: int = 0
    """Frames that were compared."""
    telling: int = 0
    """Those of them in which there was anything to compare."""
    agreement: float | None = None
    """Over the last audits; None: none yet."""
    kind: str | None = None
    """Of the agreement, a row of `agreement.MEASURES`."""
    factor: float | None = 1.0
    """Multiplies the tolerance now; None: the running backend has no tolerance to steer."""
    missed: int = 0
    """Audits that failed."""
    why: str = ""
    """The error of the last one that failed."""

    def to_dict(self) -> dict[str, Any]:
        figures = asdict(self)
        return {"wanted": figures.pop("goal"), **figures}  # the key that summaries always had

    def __str__(self) -> str:
        failed = f"; {self.missed} failed: {self.why}" if self.missed else ""
        if self.factor is None:
            steered = f"; {NOT_STEERED}"
        elif self.agreement is None:
            steered = ""
        else:
            steered = f"; the tolerance is {self.factor:.2g} times what it was"
        if self.agreement is None:
            return f"audit: nothing to compare in {self.audits} frames{steered}{failed}"
        return (
            f"audit: agreement {self.agreement:.4g} ({self.kind}) over the last of {self.audits} "
            f"frames, {self.goal:g} is wanted{steered}{failed}"
        )


@dataclass(slots=True)
class Steering:
    """The controller of the tolerance: from measured agreement to a factor."""

    goal: float
    """The least agreement."""
    factor: float = 1.0
    """Multiplies the tolerance."""
    _window: deque[Agreement] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _fell_short: float = float("inf")
    """The factor at which agreement last fell short."""

    @property
    def unsure(self) -> bool:
        """Whether agreement at this factor is not known to hold yet."""
        agreement = self.agreement
        if agreement is None:
            return self._fell_short < float("inf")
        return agreement < self.goal or len(self._window) < ENOUGH_TO_LOWER

    @property
    def agreement(self) -> float | None:
        """Over the window: of boxes from the summed counts, else the mean."""
        if not self._window:
            return None
        boxes = [each for each in self._window if isinstance(each, BoxAgreement)]
        if boxes:
            whole = BoxAgreement()
            for each in boxes:
                whole.merge(each)
            return whole.value
        decibels = self.goal > 1
        return float(np.mean([each.strict if decibels else each.value for each in self._window]))

    def forget(self) -> None:
        """Drop the measurements: another backend runs now."""
        self._window.clear()

    def add(self, measured: Agreement, *, steerable: bool = True) -> float | None:
        """Count one audit; -> the new factor, None: it stays.

        steerable: False where the running backend has no tolerance.
        """
        if not measured.telling:
            return None
        self._window.append(measured)
        if not steerable:
            return None
        agreement, count = self.agreement, len(self._window)
        assert agreement is not None
        best = MEASURES[measured.kind].best if self.goal > 1 else 1.0
        before = self.factor
        hopeless = agreement < HOPELESS * self.goal
        enough = ENOUGH_IF_HOPELESS if hopeless else ENOUGH_TO_LOWER
        if agreement < self.goal and count >= enough:
            self.factor = max(LEAST, before * _lowering(measured.kind, agreement, self.goal))
            self._fell_short = before
        elif count >= ENOUGH_TO_RAISE and agreement >= self.goal + MARGIN * (best - self.goal):
            far = before < FAR * self._fell_short < float("inf")
            self.factor = min(MOST, before * (RAISE_FAR if far else RAISE))
        if self.factor == before:
            return None
        self._window.clear()  # measurements at the old factor say nothing about the new one
        return self.factor


def _lowering(kind: Kind, agreement: float, goal: float) -> float:
    """What to multiply the factor by. Errors in dB are proportional to it; of other measures the
    cube root of allowed over measured loss, since counts jump where scores move a little."""
    best = MEASURES[kind].best if goal > 1 else 1.0
    if kind == "psnr" and goal > 1:
        part = 10 ** ((agreement - goal) / 20)
    else:
        part = (max(best - goal, 0.0) / (best - agreement)) ** (1 / 3)
    return float(min(MOST_STEP, max(LEAST_STEP, part)))


class Audit(Closing):
    """Compares steps with the whole model's result.

    goal: the least agreement. steer: called with the new factor, and whether it is lower
    than before. steerable: whether that has an effect now; while it has not, results are compared
    and the factor stays. every_s: seconds between audits. in_line: compare within `offer`, for
    tests and benchmarks. make_backend: runs the whole model. Only steps whose frame still has its
    picture can be offered.
    """

    def __init__(
        self,
        goal: float,
        steer: Callable[[float, bool], None],
        *,
        steerable: Callable[[], bool] = lambda: True,
        every_s: float = EVERY_S,
        in_line: bool = False,
        make_backend: Callable[[Path], Backend] = lambda path: OnnxRuntimeBackend(path, 1),
    ) -> None:
        if not 0 < goal <= MOST_PSNR:
            raise UsageError(f"quality: expected more than 0, for example 0.99, got {goal:g}")
        self._steering = Steering(goal)
        self._steer, self._every_s, self._make_backend = steer, every_s, make_backend
        self._steerable = steerable
        self._was_steerable = True
        """At the last audit."""
        self._backend: Backend | None = None
        self._path: Path | None = None
        """Of the model that the backend runs."""
        self._model: Model | None = None
        self._last_s = -float("inf")
        """Time in the stream of the last audit."""
        self._not_before = 0.0
        """By the clock: the earliest start of the next audit."""
        self._in_flight = 0
        """Frames to come that may have been computed with the tolerance before."""
        self._lock = threading.Lock()
        self._report = AuditReport(goal)
        self._waiting: queue.Queue[_AuditSample | None] = queue.Queue(1)
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None
        if not in_line:
            self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
            self._thread.start()

    @property
    def report(self) -> AuditReport:
        steerable = self._steerable()
        with self._lock:
            return replace(self._report, factor=self._steering.factor if steerable else None)

    def close(self) -> None:
        """Wait for the audit in progress and end the thread. Calling it again does nothing.

        An audit that takes longer than HANG_S is ended without a measurement.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            thread.join(HANG_S)
            if thread.is_alive():
                end_native_calls(thread)
                thread.join(HANG_S)
            if thread.is_alive():
                abandon(thread)
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def offer(self, step: StepResult, model: Model) -> bool:
        """Audit this step, unless the last audit is too recent or still running; -> whether."""
        frame = step.frame
        if frame.image.strides[0] == 0:
            raise ValueError("audit: expected a frame with its picture, which was dropped already")
        if self._busy.is_set():  # the audit writes what is read below
            return False
        if self._in_flight:
            self._in_flight -= 1
            return False
        if frame.corrupt or step.result.evidence.provenance == "computed":
            return False
        if step.kind == "skipped":  # no tolerance can win back what frame skipping loses
            return False
        if time.monotonic() < self._not_before:
            return False
        every_s = self._every_s * (UNSURE_EVERY if self._steering.unsure else 1.0)
        if 0 <= frame.time_s - self._last_s < every_s:
            return False
        self._last_s = frame.time_s
        fitted, view = model.fit(frame.image)
        sample = _AuditSample(np.array(fitted), view, step.result, model)
        if self._thread is None:
            self._compare(sample)
            return True
        self._busy.set()
        self._waiting.put(sample)
        return True

    def _work(self) -> None:
        while (sample := self._waiting.get()) is not None:
            begun = time.monotonic()
            try:
                self._compare(sample)
            except Exception as error:  # the run goes on without this audit, and reports it
                with self._lock:
                    missed = self._report.missed + 1
                    self._report = replace(self._report, missed=missed, why=str(error))
            finally:
                ended = time.monotonic()
                share = SHARE * (UNSURE_SHARE if self._steering.unsure else 1.0)
                self._not_before = ended + (ended - begun) * (1 / share - 1)
                self._busy.clear()

    def _compare(self, sample: "_AuditSample") -> None:
        if self._backend is None or self._path != sample.model.path:
            if self._backend is not None:
                self._backend.close()
            self._backend, self._path = self._make_backend(sample.model.path), sample.model.path
            # a copy: the buffer of the run's own model belongs to another thread
            self._model = type(sample.model).at(
                sample.model.name, sample.model.origin, sample.model.form, sample.model.size
            )
        assert self._model is not None
        outputs = self._backend.run(self._model.feed(sample.fitted), None)
        dense = self._model.decode(outputs, sample.view)
        measured = agreement_with(dense)
        measured.add(sample.result, dense)
        before = self._steering.factor
        steerable = self._steerable()
        if steerable != self._was_steerable:
            self._was_steerable = steerable
            self._steering.forget()
        factor = self._steering.add(measured, steerable=steerable)
        with self._lock:
            old = self._report
            agreement = self._steering.agreement
            self._report = AuditReport(
                goal=old.goal,
                audits=old.audits + 1,
                telling=old.telling + measured.telling,
                agreement=old.agreement if agreement is None else agreement,
                kind=measured.kind,
                missed=old.missed,
                why=old.why,
            )
        if factor is not None:
            self._steer(factor, factor < before)
            self._in_flight = IN_FLIGHT


@dataclass(frozen=True, slots=True)
class _AuditSample:
    """A step to be audited."""

    fitted: NDArray[np.uint8]
    view: View
    result: Result
    model: Model
