"""How close a session's outputs are to those of computing everything, steered and proven.

    quality = QualityKeeper(0.98)
    quality.draws(whole=False)                  # each step: whether it is to be audited
    quality.add_audit(partial, whole, spent_s)  # one that was
    quality.tolerance                           # what the next steps are to run at
    quality.report

A session sees tensors and no meaning, so what is measured is closeness: 1 - relative error of the
worst output, 0..1, for each audited step. Audits are drawn at random, and the certificate bounds
the mean over the steps, as in a run, see `stillframe.certificate`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.audit_clock import FIRST_GAP, START_AUDITS, STEADY, AuditBudget, AuditClock
from stillframe.certificate import Certificate, audits_text
from stillframe.errors import UsageError

FIRST, LEAST, MOST = 0.05, 0.001, 0.4
"""The tolerance at first, and its limits."""
AIM = 0.5
"""Of the loss that the quality leaves, what the tolerance aims at."""
FADING = 0.25
"""Weight of the newest audit in the loss that the tolerance follows."""
ENOUGH_TO_RAISE = 4
"""Audits at a tolerance before it rises."""
POWER, LEAST_STEP, MOST_STEP = 0.7, 0.3, 1.3
"""The tolerance is multiplied by a power of aim over loss, within these limits."""
DEAD_BAND = 1.15
"""A change by less than this factor is left out."""

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class SessionQuality:
    """How close outputs were to those of computing everything, as measured and as proven."""

    goal: float
    """The least mean closeness that was asked for."""
    kept: float | None
    """Mean closeness of the steps, 0..1: 1 - relative error of the worst output; None: nothing was
    measured."""
    lower: float | None
    """The mean is at least this, at every moment with 95 % confidence; None: nothing is proven."""
    certified: bool
    """Whether `lower` reaches the goal."""
    audits: int
    """Steps that were compared with computing everything."""
    whole: int
    """Steps in which everything was computed anyway."""
    others: int
    """Steps that audits were drawn from."""
    uncovered: int
    """Steps with a change map of the caller's: their feeds need not be whole, so none is audited,
    and nothing is claimed of them."""
    undefined: int
    """Audits in which an output was not a number."""
    tolerance: float
    """In use now; 0: outputs are bit for bit those of computing everything."""
    share: float
    """Of the processor time of steps, what audits took."""

    def __str__(self) -> str:
        """In words, on one line."""
        if not self.tolerance:
            return "exact: outputs are bit for bit those of computing everything"
        parts = [self._certificate()]
        if self.lower is not None and not self.certified:
            parts.append(f"{self.goal:g} is not proven")
        if self.uncovered:
            parts.append(f"{self.uncovered} steps with a change map are not covered")
        parts.append(
            "closeness is 1 - relative error of the worst output; what a user would miss in "
            "outputs of unknown meaning is unknown"
        )
        return "; ".join(parts)

    def _certificate(self) -> str:
        if self.undefined:
            return f"outputs are not numbers in {self.undefined} audits: no certificate"
        if self.lower is None:
            return "no step was audited: no certificate"
        proven = f"(>= {math.floor(self.lower * 1000) / 1000:.3f} at 95 %)"
        if not self.others:
            return f"each of {self.whole} steps computed everything"
        if self.kept is None:
            return f"closeness {proven}, {self.whole} steps computed everything, no audit yet"
        shown = math.floor(self.kept * 1000 + 1e-9) / 1000
        return (
            f"closeness {shown:.3f} {proven}, {audits_text(self.audits)}, "
            f"{self.share * 100:.0f} % of the work"
        )


class QualityKeeper:
    """Draws the steps to audit, steers the tolerance by them, and proves. Not thread-safe.

    goal: the least mean closeness, above 0 and at most 1; 1: the session is exact.
    """

    def __init__(self, goal: float, seed: int = 0) -> None:
        if not 0 < goal <= 1:
            raise UsageError(
                f"quality: expected more than 0 and at most 1, for example 0.98, got {goal:g}"
            )
        self.goal = goal
        self.tolerance = FIRST if goal < 1 else 0.0
        """What the next steps are to run at."""
        self._certificate = Certificate(goal)
        self._clock, self._budget = AuditClock(seed), AuditBudget()
        self._clock.start(FIRST_GAP)
        self._loss: float | None = None
        """Of recent audits at about this tolerance."""
        self._at_this = 0
        """Audits since the tolerance last changed."""
        self._audits = self._undefined = self._uncovered = 0
        self._steps, self._steps_s, self._audits_s = 0, 0.0, 0.0
        """Steps, and the processor time of steps and of audits."""

    def draws(self, *, whole: bool, covered: bool = True, spent_s: float = 0.0) -> bool:
        """Count a step; -> whether it is to be audited.

        whole: everything was computed. covered: its feed is whole, so that it can be. spent_s: its
        processor time.
        """
        self._steps += 1
        self._steps_s += spent_s
        if whole:
            self._certificate.whole += 1
            return False
        if not self.tolerance:
            return False
        if not covered:
            self._uncovered += 1
            return False
        self._certificate.others += 1
        return self._clock.tick()

    def add_audit(self, partial: Arrays, whole: Arrays, spent_s: float) -> None:
        """Count an audited step, and steer by it.

        partial: its outputs. whole: those of computing everything. spent_s: of computing them.
        """
        weight = self._clock.weight
        x = closeness(partial, whole)
        self._audits += 1
        self._audits_s += spent_s
        if x is None:
            self._undefined += 1
        first = self._certificate.audits == 0
        frame_s = self._steps_s / self._steps if self._steps else None
        self._budget.add(spent_s, frame_s, None)
        certificate = self._certificate
        short = certificate.audits < START_AUDITS or float(certificate.recent.mean) < self.goal
        gap = self._budget.gap(starting=short, certified=certificate.certified)
        if first:
            certificate.expect(max(weight, STEADY * gap))
        certificate.add(x, weight)
        self._clock.start(gap)
        if x is not None:
            self._steer(1 - x)

    def _steer(self, loss: float) -> None:
        aim = AIM * (1 - self.goal)
        self._at_this += 1
        before = self._loss
        self._loss = loss if before is None else before + FADING * (loss - before)
        worst = max(self._loss, loss if loss > 2 * aim else 0.0)
        factor = min(MOST_STEP, max(LEAST_STEP, (aim / max(worst, 1e-9)) ** POWER))
        if factor > 1 and self._at_this < ENOUGH_TO_RAISE:
            return
        tolerance = min(MOST, max(LEAST, self.tolerance * factor))
        if 1 / DEAD_BAND < tolerance / self.tolerance < DEAD_BAND:
            return
        # what was measured is scaled to the new tolerance, since the loss grows with it
        self._loss = worst * tolerance / self.tolerance
        self.tolerance, self._at_this = tolerance, 0

    @property
    def report(self) -> SessionQuality:
        """As of now."""
        certificate, proves = self._certificate, not self._undefined
        exact = not self.tolerance
        total_s = self._steps_s + self._audits_s
        return SessionQuality(
            goal=self.goal,
            kept=1.0 if exact else certificate.kept if proves else None,
            lower=1.0 if exact else certificate.lower if proves else None,
            certified=exact or (proves and certificate.certified),
            audits=self._audits,
            whole=certificate.whole,
            others=certificate.others,
            uncovered=self._uncovered,
            undefined=self._undefined,
            tolerance=self.tolerance,
            share=self._audits_s / total_s if total_s else 0.0,
        )


def closeness(outputs: Arrays, reference: Arrays) -> float | None:
    """1 - |output - reference| / |reference| of the worst output, 0..1, by Euclidean norms; an
    output of another shape is not close at all. None: a value is not a number."""
    worst = 1.0
    for mine, whole in zip(outputs, reference, strict=True):
        if mine.shape != whole.shape:
            return 0.0
        if mine.dtype.kind not in "fiub":  # texts agree or not
            worst = min(worst, float(np.array_equal(mine, whole)))
            continue
        theirs = np.asarray(whole, np.float64)
        size = float(np.linalg.norm(theirs))
        error = float(np.linalg.norm(np.asarray(mine, np.float64) - theirs))
        if not math.isfinite(size) or not math.isfinite(error):
            return None
        worst = min(worst, 1.0 - error / size if size else float(error == 0))
    return max(0.0, worst)
