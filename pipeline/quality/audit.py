"""The audit: how far results agree with computing everything, measured while a run goes on.

    audit = Audit(wanted=0.99, steer=steer)      # steer(factor, lowered) sets the tolerance
    audit.offer(step, model)                     # each step; takes one now and then
    audit.report                                 # what was measured, and the factor now

Now and then a frame is computed whole beside the run, in a thread of its own that takes at most a
tenth of one processor's time, by ONNX Runtime, so that the reuse engine's values stay as they are.
(A thread of the idle class would be worse: what it begins while it holds the interpreter's lock,
all others wait for.) Where agreement over the last audits falls short the tolerance is lowered at
once, the more the further off it is; where there is much in hand it rises slowly. Until agreement
has been seen to hold audits come sooner, and take up to half a processor. Frames that were computed
whole by the run itself agree in any case and are passed over, and so are those that were under way
while the tolerance changed.
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
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.quality.agreement import MOST_PSNR, Agreement, BoxAgreement, agreement_with

EVERY_S = 1.0  # of the stream, between two audits at least
SHARE = 0.1  # of one processor's time that audits take at most
SOONER, MORE = 0.2, 5.0  # times EVERY_S and SHARE, while agreement is not known to hold
UNDER_WAY = 8  # frames after a change of the tolerance that may have been begun before it
WINDOW = 12  # audits that count
ENOUGH_TO_LOWER, ENOUGH_TO_RAISE = 3, 8
HOPELESS, ENOUGH_IF_HOPELESS = 0.5, 2  # of what is wanted; then fewer audits are enough
LEAST_STEP, LOWER = 0.25, 0.7  # the factor falls at least to this and at most to that part
RAISE, RAISE_FAR = 1.1, 1.3  # the second far below where agreement fell short last
FAR = 0.5
LEAST, MOST = 1 / 32, 2.0
NOT_STEERED = "steering has no effect: the running backend has no tolerance"
IN_HAND = (
    0.5  # of what the wanted agreement lacks of the best: so much more lets the tolerance rise
)


@dataclass(frozen=True, slots=True)
class AuditReport:
    """audits: frames compared, and of these `telling` had anything to compare. agreement: over the
    last ones, None: none yet; kind: of quality. factor: by which the tolerance is multiplied now,
    None: the running backend has no tolerance, so steering has no effect.
    missed: audits that failed, the last one why."""

    wanted: float
    audits: int = 0
    telling: int = 0
    agreement: float | None = None
    kind: str | None = None
    factor: float | None = 1.0
    missed: int = 0
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

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
            f"frames, {self.wanted:g} is wanted{steered}{failed}"
        )


@dataclass(slots=True)
class Steering:
    """The factor that follows from what was measured. wanted: least agreement."""

    wanted: float
    factor: float = 1.0
    _window: deque[Agreement] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _fell_short: float = float("inf")  # the factor at which it did, last

    @property
    def unsure(self) -> bool:
        """Whether something was measured at this factor, and not yet that agreement holds."""
        agreement = self.agreement
        if agreement is None:
            return self._fell_short < float("inf")
        return agreement < self.wanted or len(self._window) < ENOUGH_TO_LOWER

    @property
    def agreement(self) -> float | None:
        """Over the window: of boxes with all counts summed up, else the mean."""
        if not self._window:
            return None
        boxes = [each for each in self._window if isinstance(each, BoxAgreement)]
        if boxes:
            whole = BoxAgreement()
            for each in boxes:
                whole.true += each.true
                whole.extra += each.extra
                whole.missed += each.missed
            return whole.value
        return float(np.mean([each.value for each in self._window]))

    def forget(self) -> None:
        """Another backend runs: what was measured before says nothing of it."""
        self._window.clear()

    def add(self, measured: Agreement, *, steerable: bool = True) -> float | None:
        """Take one audit in; -> the new factor, None: it stays.

        steerable: False where the tolerance has no part in what was measured.
        """
        if not telling(measured):
            return None
        self._window.append(measured)
        if not steerable:
            return None
        agreement, count = self.agreement, len(self._window)
        assert agreement is not None
        top = MOST_PSNR if measured.kind == "psnr" else 1.0
        before = self.factor
        enough = (
            ENOUGH_IF_HOPELESS if agreement < HOPELESS * self.wanted else ENOUGH_TO_LOWER
        )  # fmt: skip
        if agreement < self.wanted and count >= enough:
            self.factor = max(LEAST, before * _step(agreement, self.wanted, top))
            self._fell_short = before
        elif count >= ENOUGH_TO_RAISE and agreement >= self.wanted + IN_HAND * (top - self.wanted):
            far = before < FAR * self._fell_short < float("inf")
            self.factor = min(MOST, before * (RAISE_FAR if far else RAISE))
        if self.factor == before:
            return None
        self._window.clear()  # what was measured before says nothing of the new one
        return self.factor


def _step(agreement: float, wanted: float, top: float) -> float:
    """By what to lower the factor: errors in dB shrink as it does; of others the cube root of what
    may be lacking over what is, since counts jump where scores move a little."""
    if top == MOST_PSNR:
        part = 10 ** ((agreement - wanted) / 20)
    else:
        part = (max(top - wanted, 0.0) / (top - agreement)) ** (1 / 3)
    return float(min(LOWER, max(LEAST_STEP, part)))


def telling(measured: Agreement) -> bool:
    """Whether there was anything to compare: an empty scene tells nothing."""
    if isinstance(measured, BoxAgreement):
        return bool(measured.true or measured.extra or measured.missed)
    return True


class Audit(Closing):
    """Compares steps with the whole model's result. Close it in the end.

    steer: given the new factor, and whether it is lower than before. steerable: whether that has
    an effect now; while not, results are compared and the factor stays. in_line: compare within
    `offer`, for tests and benchmarks. Only steps whose frame still has its picture can be offered.
    """

    def __init__(
        self,
        wanted: float,
        steer: Callable[[float, bool], None],
        *,
        steerable: Callable[[], bool] = lambda: True,
        every_s: float = EVERY_S,
        in_line: bool = False,
        make: Callable[[Path], Backend] = lambda path: OnnxRuntimeBackend(path, 1),
    ) -> None:
        if not 0 < wanted <= MOST_PSNR:
            raise UsageError(f"quality: expected more than 0, for example 0.99, got {wanted:g}")
        self._steering = Steering(wanted)
        self._steer, self._every_s, self._make = steer, every_s, make
        self._steerable = steerable
        self._was_steerable = True  # at the last audit
        self._engine: Backend | None = None
        self._path: Path | None = None
        self._model: Model | None = None
        self._last_s = -float("inf")
        self._next = 0.0  # by the clock: not before
        self._pass_over = 0  # frames that the tolerance before may have made
        self._lock = threading.Lock()
        self._report = AuditReport(wanted)
        self._waiting: queue.Queue[_Sample | None] = queue.Queue(1)
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
        """Let the audit in progress end, and the thread. Calling it again does nothing."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def offer(self, step: StepResult, model: Model) -> bool:
        """Audit this step, unless the last one is too near or still being compared; -> whether."""
        frame = step.frame
        if frame.image.strides[0] == 0:
            raise ValueError("audit: expected a frame with its picture, which was let go already")
        if self._busy.is_set():  # what is read below is then written by the audit
            return False
        if self._pass_over:
            self._pass_over -= 1
            return False
        if frame.corrupt or step.result.evidence.provenance == "computed":
            return False
        if step.kind == "skipped":  # what the cadence loses no tolerance can give back
            return False
        if time.monotonic() < self._next:
            return False
        near_s = self._every_s * (SOONER if self._steering.unsure else 1.0)
        if 0 <= frame.time_s - self._last_s < near_s:
            return False
        self._last_s = frame.time_s
        fitted, view = model.fit(frame.image)
        sample = _Sample(np.array(fitted), view, step.result, model)
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
            except Exception as error:  # a run goes on without its audit, and says so
                with self._lock:
                    old = asdict(self._report)
                    told = {"missed": self._report.missed + 1, "why": str(error)}
                    self._report = AuditReport(**(old | told))
            finally:
                ended = time.monotonic()
                share = SHARE * (MORE if self._steering.unsure else 1.0)
                self._next = ended + (ended - begun) * (1 / share - 1)
                self._busy.clear()

    def _compare(self, sample: "_Sample") -> None:
        if self._engine is None or self._path != sample.model.path:
            if self._engine is not None:
                self._engine.close()
            self._engine, self._path = self._make(sample.model.path), sample.model.path
            # one of our own: the buffer that the run's model feeds from belongs to its thread
            self._model = type(sample.model).at(
                sample.model.name, sample.model.origin, sample.model.form, sample.model.size
            )
        assert self._model is not None
        outputs = self._engine.run(self._model.feed(sample.fitted), None)
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
                wanted=old.wanted,
                audits=old.audits + 1,
                telling=old.telling + telling(measured),
                agreement=old.agreement if agreement is None else agreement,
                kind=measured.kind,
                missed=old.missed,
                why=old.why,
            )
        if factor is not None:
            self._steer(factor, factor < before)
            self._pass_over = UNDER_WAY


@dataclass(frozen=True, slots=True)
class _Sample:
    fitted: NDArray[np.uint8]
    view: View
    result: Result
    model: Model
