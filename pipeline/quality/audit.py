"""The audit: how well results agree with computing everything, measured and proven during a run.

    audit = Audit(goal=0.98, on_audit=[steering.on_audit])
    audit.offer(step, model)                     # each frame that goes out; audits some of them
    audit.report                                 # what was measured, and what is proven

A frame that is drawn at random is computed whole by ONNX Runtime, in a thread of its own, so that
the reuse engine's values are not touched. (A thread of idle priority would be worse: the others
would wait for it whenever it holds the interpreter's lock.) Its result is compared with what went
out: partial, followed, unchanged and carried results alike. Frames that the run computed whole
agree in any case: they are counted, not audited. How often frames are drawn is a matter of
`AuditBudget`, what follows from the measurements of `Certificate`.

Some audits compute the frame again with other noise of the camera: how well the network agrees with
itself is the most that any run can hold, so the floor is no higher.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.audit_clock import (
    FIRST_GAP,
    START_AUDITS,
    STEADY,
    AuditBudget,
    AuditClock,
)
from stillframe.certificate import Certificate
from stillframe.closing import Closing
from stillframe.models.model import Model
from stillframe.models.results import Depth, Detections, Mask, Result, Tensors
from stillframe.native_calls import HANG_S, abandon, end_native_calls
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend
from stillframe.pipeline.inference.stages import without_pixels
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.inference.worker_clock import worker_seconds
from stillframe.pipeline.quality.agreement import Agreement, agreement_with
from stillframe.pipeline.quality.audited import Audited, AuditReport, check_quality
from stillframe.pipeline.quality.repeatability import CameraNoise, noisy

OnAudit = Callable[[Audited], None]
REPEATED_FIRST, REPEATED_EVERY = 3, 16
"""The first audits measure repeatability too, and then each n-th."""
WAITING = 3
"""Drawn frames that may wait for their audit, with their pictures."""
FINISH_S = 1.0
"""At the end of a run, how long waiting audits are begun."""
ENOUGH_REPEATED = 3
"""Measurements of repeatability before it may lower the floor."""


class Audit(Closing):
    """Compares some steps with the whole model's result.

    goal: the least agreement, above 0 and at most 1. on_audit: called with each audited frame, in
    the audit's thread. copies: whether their owner may overwrite pictures once `offer` has
    returned; audits then have copies, and noise between frames is not measured. mean_gap: frames
    between two audits; None: by their costs. in_line: compare within `offer`, for tests and
    benchmarks. make_backend: runs the whole model; the audit closes it. Only steps whose frame
    still has its picture can be offered.
    """

    def __init__(
        self,
        goal: float,
        on_audit: Sequence[OnAudit] = (),
        *,
        copies: bool = False,
        mean_gap: float | None = None,
        seed: int = 0,
        in_line: bool = False,
        make_backend: Callable[[Path], Backend] = lambda path: OnnxRuntimeBackend(path, 1),
    ) -> None:
        check_quality(goal)
        self._on_audit, self._mean_gap, self._make_backend = tuple(on_audit), mean_gap, make_backend
        self._seed, self._copies = seed, copies
        self._lock = threading.Lock()
        """Of what `report` reads."""
        self._certificate = Certificate(goal)
        self._report = AuditReport(goal, goal)
        self._total: Agreement | None = None
        """Of all audited frames."""
        self._repeated: Agreement | None = None
        """Of dense results with those of noisy frames."""
        self._repetitions = 0
        """Of them, those that told anything."""
        self._clock, self._budget = AuditClock(seed), AuditBudget()
        self._process_s = time.process_time()
        """Of this process when the audit began."""
        self._spent_s = 0.0
        """Of that, what audits took."""
        self._workers_s = 0.0
        """Of the last audit, what threads of the backend took."""
        self._rare_s = 0.0
        """Of the last audit, what loading the model and measuring repeatability took."""
        self._frames = 0
        """That went out."""
        self._newest = -1
        """Index of the last of them."""
        self._since = (0.0, 0, 0.0)
        """`_costs` at the first frame, then after the last audit."""
        self._time_s = 0.0
        """In the stream, of the last frame."""
        self._previous: NDArray[np.uint8] | None = None
        """Picture of the frame before."""
        self._backend: Backend | None = None
        self._path: Path | None = None
        """Of the model that the backend runs."""
        self._model: Model | None = None
        self._waiting: queue.Queue[_AuditSample | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._finish_s = 0.0
        """Monotonic time after which waiting samples are dropped, once closed."""
        self._gap = mean_gap
        """Mean frames from draw to draw, as of now; None: no audit has shown what it costs."""
        self._measuring = False
        """Whether the first audit is in progress, which shows it."""
        self._clock.start(mean_gap or FIRST_GAP)
        if not in_line:
            self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
            self._thread.start()

    @property
    def report(self) -> AuditReport:
        """As of now. Any thread may ask."""
        with self._lock:
            certificate, report = self._certificate, self._report
            proves = not report.undefined
            total, repeated = self._total, self._repeated
            whole_s = time.process_time() - self._process_s
            return replace(
                report,
                floor=certificate.floor,
                kept=certificate.kept if proves else None,
                empty=certificate.empty,
                lower=certificate.lower if proves else None,
                lower_now=certificate.lower_now if proves else None,
                confidence=certificate.confidence,
                certified=proves and certificate.certified,
                strict=total.strict if total is not None and total.telling else None,
                place=total.place if total is not None and total.telling else None,
                kind=None if total is None else total.kind,
                repeatability=repeated.value if repeated is not None and repeated.telling else None,
                alarms=certificate.alarms,
                uncovered=self._clock.uncovered,
                share=min(1.0, self._spent_s / whole_s) if whole_s > 0 else 0.0,
            )

    def close(self) -> None:
        """Finish what was drawn, for FINISH_S, and end the thread. Calling it again does nothing.

        An audit that takes longer than HANG_S is ended without a measurement.
        """
        if not self._closed:
            self._closed, self._finish_s = True, time.monotonic() + FINISH_S
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
        self._previous = None

    def offer(self, step: StepResult, model: Model) -> bool:
        """Count a frame that goes out, in order, and audit it if it is drawn; -> whether."""
        frame = step.frame
        if frame.image.strides[0] == 0:
            raise ValueError("audit: expected a frame with its picture, which was dropped already")
        previous, self._previous = self._previous, None if self._copies else frame.image
        self._newest, self._time_s = frame.index, frame.time_s
        whole = step.result.evidence.provenance == "computed"
        with self._lock:
            self._frames += 1
            if self._frames == 1:  # from here on, since kernels may have been compiled before
                self._since = self._costs()
            if frame.corrupt:
                self._report = replace(self._report, corrupt=self._report.corrupt + 1)
            elif whole:
                self._report = replace(self._report, whole=self._report.whole + 1)
                self._certificate.whole += _is_telling(step.result)
            else:
                self._report = replace(self._report, others=self._report.others + 1)
                self._certificate.others += 1
            blocked = self._waiting.qsize() >= WAITING or self._measuring
            eligible = not (frame.corrupt or whole or self._closed)
            if not (eligible and self._clock.tick(blocked=blocked)):
                return False
            if self._copies:
                step = replace(step, frame=replace(frame, image=frame.image.copy()))
            sample = _AuditSample(step, model, previous, self._clock.weight)
            self._measuring = self._gap is None
            self._clock.start(self._gap or FIRST_GAP)
        if self._thread is None:
            self._audit(sample)
        else:
            self._waiting.put(sample)
        return True

    def _work(self) -> None:
        while (sample := self._waiting.get()) is not None:
            if not self._closed or time.monotonic() < self._finish_s:
                self._audit(sample)

    def _audit(self, sample: "_AuditSample") -> None:
        """Audit a frame, and set the pace of those to come."""
        began_s = time.thread_time()
        agreement: Agreement | None = None
        failure: Exception | None = None
        try:
            agreement = self._compare(sample)
        except Exception as error:  # the run goes on without this audit, and reports it
            failure = error
        with self._lock:
            workers_s, self._workers_s = self._workers_s, 0.0
            gap = self._gap_after(time.thread_time() - began_s + workers_s)
            gap = self._gap = self._mean_gap or gap
            if self._measuring:
                self._measuring = False
                self._clock.restart(gap)
                self._certificate.expect(STEADY * gap)
            self._count(sample, agreement, failure)
            lower = None if self._report.undefined else self._certificate.lower
            newest = self._newest
        if failure is None:
            step = sample.step
            bare = replace(step, frame=without_pixels(step.frame), changed=None)
            audited = Audited(bare, agreement, newest, lower)
            for report in self._on_audit:
                with contextlib.suppress(Exception):  # a sink's fault meets the frames' lines too
                    report(audited)

    def _compare(self, sample: "_AuditSample") -> Agreement | None:
        """The agreement of the result with the dense one; None: that one is not a number."""
        model, backend = self._whole_model(sample.model)
        result: Any = sample.step.result
        fitted, view = model.fit(sample.step.frame.image)
        outputs = self._run(backend, model, fitted)
        if not all(map(_is_number, outputs)):
            return None
        dense: Any = model.decode(outputs, view)
        agreement = agreement_with(dense)
        agreement.add(result, dense)
        audits = self._report.audits
        repeats = self._repetitions < REPEATED_FIRST or audits % REPEATED_EVERY == 0
        if agreement.telling and repeats:
            began_s = time.thread_time() + self._workers_s
            self._repeat(sample, model, backend, fitted, view, dense)
            self._rare_s += time.thread_time() + self._workers_s - began_s
        return agreement

    def _run(self, backend: Backend, model: Model, image: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """The whole network's outputs for a picture at its size."""
        before_s = worker_seconds(backend)
        outputs = backend.run(model.feed(image), None)
        after_s = worker_seconds(backend)
        if before_s is not None and after_s is not None:
            self._workers_s += max(0.0, after_s - before_s)
        return outputs

    def _count(
        self,
        sample: "_AuditSample",
        agreement: Agreement | None,
        failure: Exception | None,
    ) -> None:
        """Count an audit. One that could not be made counts against the bounds."""
        certificate, report = self._certificate, self._report
        if failure is not None:
            self._report = replace(report, failed=report.failed + 1, why=str(failure))
            certificate.add(None, sample.weight)
            return
        telling = agreement is not None and agreement.telling
        self._report = replace(
            report,
            audits=report.audits + 1,
            telling=report.telling + telling,
            undefined=report.undefined + (agreement is None),
        )
        if agreement is None:
            certificate.add(None, sample.weight)
        elif not telling:
            certificate.empty += 1
        else:
            certificate.add(agreement.value, sample.weight)
            self._total = _merged(self._total, agreement)

    def _gap_after(self, spent_s: float) -> float:
        """Mean frames to the next audit, after one that took so much processor time."""
        self._spent_s += spent_s
        now = self._costs()
        before, self._since = self._since, now
        frame_s = stream_s = None
        frames = now[1] - before[1]
        if frames > 0:
            frame_s = (now[0] - before[0]) / frames
            stream_s = (now[2] - before[2]) / frames
        rare_s, self._rare_s = self._rare_s, 0.0
        self._budget.add(spent_s - rare_s, frame_s, stream_s if stream_s and stream_s > 0 else None)
        certificate = self._certificate
        seen = certificate.audits
        short = seen < START_AUDITS or float(certificate.recent.mean) < certificate.floor
        idle = not seen and self._report.audits >= START_AUDITS  # an empty scene
        return self._budget.gap(
            starting=short and not idle, certified=idle or certificate.certified
        )

    def _costs(self) -> tuple[float, int, float]:
        """As of now: processor time without audits, frames, time in the stream."""
        run_s = time.process_time() - self._process_s - self._spent_s
        return run_s, self._frames, self._time_s

    def _repeat(
        self,
        sample: "_AuditSample",
        model: Model,
        backend: Backend,
        fitted: NDArray[np.uint8],
        view: Any,
        dense: Any,
    ) -> None:
        """Measure how well the network agrees with itself on this frame with other noise."""
        noise = CameraNoise()
        if sample.previous is not None and sample.previous.shape == sample.step.frame.image.shape:
            noise.add(np.array(model.fit(sample.previous)[0]))
        noise.add(fitted)
        image = noisy(fitted, noise.level, (self._seed, self._report.audits))
        again: Any = model.decode(self._run(backend, model, image), view)
        agreement = agreement_with(dense)
        agreement.add(again, dense)
        if not agreement.telling:
            return
        with self._lock:
            self._repetitions += 1
            self._repeated = _merged(self._repeated, agreement)
            if self._repetitions >= ENOUGH_REPEATED:
                self._certificate.floor = min(self._report.goal, self._repeated.value)

    def _whole_model(self, model: Model) -> tuple[Model, Backend]:
        """The model and its backend, of this thread alone."""
        if self._backend is None or self._path != model.path:
            began_s = time.thread_time()
            if self._backend is not None:
                self._backend.close()
            self._backend, self._path = self._make_backend(model.path), model.path
            # a copy: the buffer of the run's own model belongs to another thread
            self._model = type(model).at(model.name, model.origin, model.form, model.size)
            self._rare_s += time.thread_time() - began_s
        assert self._model is not None
        return self._model, self._backend


@dataclass(frozen=True, slots=True)
class _AuditSample:
    """A step to be audited."""

    step: StepResult
    model: Model
    previous: NDArray[np.uint8] | None
    """Picture of the frame before."""
    weight: float
    """Frames that it stands for."""


def _merged(total: Agreement | None, agreement: Agreement) -> Agreement:
    """The agreement of all frames. The one of the frame stays as it is."""
    if total is None or total.kind != agreement.kind:
        total = type(agreement)()
    total.merge(agreement)
    return total


def _is_telling(result: Result) -> bool:
    """Whether a result that agrees in any case has something that could have been lost."""
    if isinstance(result, Detections):
        return len(result) > 0
    if isinstance(result, Mask | Depth):
        return bool(np.any(result.values != result.values.flat[0]))
    if isinstance(result, Tensors):
        return all(map(_is_number, result.arrays.values()))
    return True


def _is_number(output: NDArray[Any]) -> bool:
    """Whether no value is NaN."""
    return not (np.issubdtype(output.dtype, np.floating) and np.isnan(output).any())
