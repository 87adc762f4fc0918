"""When frames are audited: at random, as often as a share of the processor time allows.

    clock = AuditClock(seed)
    clock.start(mean_gap)      # after each draw
    clock.tick()               # each frame that goes out; -> whether it is drawn

The gaps are drawn from the exponential distribution. So whether a frame is audited depends on
nothing that happens in it: not on its content, nor on the load while it is on its way. While too
many drawn frames wait for their audit the clock stands still; the next draw stands for the frames
of that time too, by its weight, up to twice the usual one. More are counted as not covered.
"""

import math
from dataclasses import dataclass

import numpy as np

START_SHARE, SHARE, CERTIFIED_SHARE = 0.08, 0.06, 0.045
"""Of the processor time: while agreement is not known to hold, until it is certified, and then."""
FIRST_GAP = 4.0
"""Mean frames to the first audit, which shows what an audit costs."""
FRAMES_A_SECOND = 25.0
"""Of a stream whose times are not known yet."""
START_AUDITS = 12
"""Audits that tell before agreement may be known to hold."""
START_EVERY_S, START_COST_S = 1.0, 0.05
"""While it is not known: an audit in each second of the stream, if it takes no more time than that;
for slower networks, by the square root of the time, since steering must learn soon."""
FADING = 0.3
"""Of the costs: weight of the newest measurement."""
STEADY = 1.5
"""A mean gap is changed only by more than this factor, so that most audits weigh the same."""


class AuditClock:
    """Draws the frames to audit."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._frames = 1.0
        """Mean frames to the next draw: the inverse of the chance of each."""
        self._left = 0.0
        """Frames until the next draw."""
        self._passed = 0
        """Frames since the last draw that could not be drawn, and that the next one stands for."""
        self.uncovered = 0
        """Frames that no draw stands for."""

    @property
    def weight(self) -> float:
        """Frames that the next draw stands for: those of the gap on average, and those that could
        not be drawn."""
        return self._frames + self._passed

    def start(self, mean_gap: float) -> None:
        """Begin the gap after a draw. mean_gap: in frames."""
        self._passed = 0
        self.restart(mean_gap)

    def restart(self, mean_gap: float) -> None:
        """Begin the gap anew, with another mean, before the next draw."""
        self._frames = -1 / math.expm1(-1 / mean_gap)
        self._left = self._rng.exponential(mean_gap)

    def tick(self, *, blocked: bool = False) -> bool:
        """Count a frame; -> whether it is drawn. blocked: it cannot be, whatever is in it."""
        if blocked:
            if self._passed < self._frames:
                self._passed += 1
            else:
                self.uncovered += 1
            return False
        self._left -= 1.0
        return self._left <= 0


@dataclass(slots=True)
class AuditBudget:
    """From what frames and audits cost to the mean gap between audits."""

    audit_s: float | None = None
    """Processor seconds of an audit."""
    frame_s: float | None = None
    """Processor seconds of the run for a frame, without audits."""
    stream_s: float | None = None
    """Time of the stream from frame to frame."""
    _gap: float = START_EVERY_S * FRAMES_A_SECOND

    def add(self, audit_s: float, frame_s: float | None, stream_s: float | None) -> None:
        """Count an audit, and the run since the one before; None: not known."""
        self.audit_s = _faded(self.audit_s, audit_s)
        self.frame_s = _faded(self.frame_s, frame_s)
        self.stream_s = _faded(self.stream_s, stream_s)

    def gap(self, *, starting: bool, certified: bool) -> float:
        """Mean frames from audit to audit, 1 or more."""
        share = START_SHARE if starting else CERTIFIED_SHARE if certified else SHARE
        audit_s, frame_s = self.audit_s or 0.0, self.frame_s or 0.0
        gap = audit_s * (1 - share) / (share * frame_s) if frame_s > 0 else math.inf
        if starting and self.stream_s is not None and self.stream_s > 0:
            every_s = START_EVERY_S * math.sqrt(max(1.0, audit_s / START_COST_S))
            gap = min(gap, every_s / self.stream_s)
        gap = max(1.0, gap) if gap < math.inf else self._gap
        if not 1 / STEADY < gap / self._gap < STEADY:
            self._gap = gap
        return self._gap


def _faded(before: float | None, now: float | None) -> float | None:
    if before is None or now is None:
        return before if now is None else now
    return before + FADING * (now - before)
