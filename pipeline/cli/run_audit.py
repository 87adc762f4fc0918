"""The audit of a run: what it steers, where its findings go, and whether they are enough."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from stillframe.closing import Closing
from stillframe.errors import CertificateError
from stillframe.models.model import Model
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.quality.audit import Audit, OnAudit
from stillframe.pipeline.quality.audited import NOT_STEERED, AuditReport
from stillframe.pipeline.quality.tolerance_steering import ToleranceSteering


class RunAudit(Closing):
    """Audits a run towards a goal.

    slot: its tolerance is steered; None: it is not. write: takes the line of each audit. on_audit:
    whoever else steers by it. more: of `Audit`.
    """

    def __init__(
        self,
        goal: float,
        slot: BackendSlot | None,
        write: Callable[[dict[str, Any]], None],
        on_audit: Sequence[OnAudit] = (),
        **more: Any,
    ) -> None:
        self._steering: ToleranceSteering | None = None
        on_audit = [lambda audited: write(audited.to_dict()), *on_audit]
        if slot is not None:
            steering = ToleranceSteering(goal, slot.steer, lambda: slot.steerable)
            self._steering = steering
            on_audit.append(steering.on_audit)
        self._audit = Audit(goal, on_audit, **more)

    @property
    def report(self) -> AuditReport:
        """As of now, with what was steered. Any thread may ask."""
        report, steering = self._audit.report, self._steering
        if steering is None:
            return report
        if not steering.steerable():
            return replace(report, unsteered=NOT_STEERED)
        return replace(report, factor=steering.factor)

    def offer(self, step: StepResult, model: Model) -> None:
        """Count a frame that goes out, and audit it if it is drawn."""
        self._audit.offer(step, model)

    def close(self) -> None:
        """Wait for the audit in progress."""
        self._audit.close()

    def check(self, least: float) -> None:
        """Raise CertificateError unless it is proven that at least this was kept."""
        report = self.report
        if report.lower is not None and report.lower >= least:
            return
        raise CertificateError(
            f"--fail-under {least:g} is not proven: {report}; where nothing was lost, a longer run "
            "proves more"
        )
