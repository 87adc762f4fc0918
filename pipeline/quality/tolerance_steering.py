"""Steers the tolerance of the reuse engine by what audits measure: from agreement to a factor.

    steering = ToleranceSteering(0.98, slot.steer, steerable=lambda: slot.steerable)
    Audit(0.98, on_audit=[steering.on_audit])

Too little agreement over the last audits lowers the factor at once, in proportion; agreement that
is well above the goal raises it slowly. One of the ways to use audits: whatever has an `on_audit`
can take its place.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from stillframe.pipeline.quality.agreement import Agreement, BoxAgreement
from stillframe.pipeline.quality.audited import Audited

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
MARGIN = 0.5
"""The tolerance rises where agreement is this share of the way from the goal to 1."""


@dataclass(slots=True)
class ToleranceSteering:
    """The controller of the tolerance. `on_audit` belongs to the audit's thread."""

    goal: float
    """The least agreement."""
    steer: Callable[[float, bool], None] = lambda factor, lowered: None
    """Called with a new factor, and whether it is lower than before."""
    steerable: Callable[[], bool] = lambda: True
    """Whether that has an effect now; while it has not, the factor stays."""
    factor: float = 1.0
    """Multiplies the tolerance."""
    _window: deque[Agreement] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _fell_short: float = float("inf")
    """The factor at which agreement last fell short."""
    _was_steerable: bool = True
    """At the last audit."""
    _settled: int = -1
    """Index of the last frame that may have been started before the factor changed."""

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
        return float(np.mean([each.value for each in self._window]))

    def on_audit(self, audited: Audited) -> None:
        """Count an audited frame whose result the tolerance may have changed."""
        agreement, step = audited.agreement, audited.step
        if agreement is None or step.kind == "skipped" or step.frame.index <= self._settled:
            return  # no tolerance can win back what frame skipping loses
        steerable = self.steerable()
        if steerable != self._was_steerable:
            self._was_steerable = steerable
            self.forget()
        before = self.factor
        factor = self.add(agreement, steerable=steerable)
        if factor is not None:
            self.steer(factor, factor < before)
            self._settled = audited.newest + IN_FLIGHT

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
        before = self.factor
        hopeless = agreement < HOPELESS * self.goal
        enough = ENOUGH_IF_HOPELESS if hopeless else ENOUGH_TO_LOWER
        if agreement < self.goal and count >= enough:
            self.factor = max(LEAST, before * _lowering(agreement, self.goal))
            self._fell_short = before
        elif count >= ENOUGH_TO_RAISE and agreement >= self.goal + MARGIN * (1 - self.goal):
            far = before < FAR * self._fell_short < float("inf")
            self.factor = min(MOST, before * (RAISE_FAR if far else RAISE))
        if self.factor == before:
            return None
        self._window.clear()  # measurements at the old factor say nothing about the new one
        return self.factor


def _lowering(agreement: float, goal: float) -> float:
    """What to multiply the factor by: the cube root of allowed over measured loss, since counts
    jump where scores move a little."""
    part = (max(1 - goal, 0.0) / (1 - agreement)) ** (1 / 3)
    return float(min(MOST_STEP, max(LEAST_STEP, part)))
