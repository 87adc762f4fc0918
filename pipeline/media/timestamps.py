"""Presentation times that only rise, as close to the container's as possible."""

from fractions import Fraction

JUMP_BACK_S = 1.0
JUMP_AHEAD_S = 10.0
"""As FFmpeg's `dts_delta_threshold`, for streams and for formats whose times may start anew."""
FAR_JUMP_AHEAD_S = 3600.0
"""For files with an index or absolute times: a gap of minutes is one, a gap of a day is damage."""
LATE_S = 1.0
"""A picture that comes so long after the one before it, beyond its time stamp, was held back."""


class TimestampNormalizer:
    """Gives each picture of one stream its time in ticks of `time_base`.

    * Rising times are kept exactly, however uneven.
    * A missing time becomes the last one plus the last picture's duration.
    * A time that repeats or steps back a little becomes the last one plus one tick.
    * A step back of more than JUMP_BACK_S is a jump. It is reported and rebased: the picture
      continues where the last one ended, and all later times are shifted with it.
    * So is a step of more than `jump_ahead_s` beyond the last picture's duration. One of more than
      JUMP_AHEAD_S is reported in any case.

    A live stream passes the clock too. Where it jumps, it continues after the time that went by;
    a step that makes up for a silence is no jump.
    """

    rebased: int
    """Jumps so far that were rebased."""
    late_s: float
    """How long the last picture was held back before it came, by the clock; 0: not."""

    def __init__(
        self, time_base: Fraction, rate: Fraction | None, jump_ahead_s: float = JUMP_AHEAD_S
    ) -> None:
        self.rebased = 0
        self.late_s = 0.0
        self._time_base = time_base
        self._frame_ticks = max(1, round(1 / ((rate or Fraction(25)) * time_base)))
        self._back_ticks = max(1, round(Fraction(JUMP_BACK_S) / time_base))
        self._report_ticks = max(1, round(Fraction(JUMP_AHEAD_S) / time_base))
        self._ahead_ticks = max(1, round(Fraction(jump_ahead_s) / time_base))
        self._last: int | None = None
        self._duration = 0
        self._offset = 0
        self._last_s: float | None = None  # the clock at the last picture

    def normalize(
        self, pts: int | None, duration: int | None = None, now_s: float | None = None
    ) -> tuple[int, bool]:
        """(time in ticks, whether it jumped) of the next picture in presentation order.

        now_s: a monotonic clock when a live picture came.
        """
        waited_s = 0.0 if now_s is None or self._last_s is None else now_s - self._last_s
        ticks, jumped = self._normalized(pts, waited_s)
        if self._last is not None and now_s is not None:
            self._update_lateness(waited_s, float((ticks - self._last) * self._time_base), jumped)
        self._last, self._last_s = ticks, now_s
        self._duration = duration or 0
        return ticks, jumped

    def _normalized(self, pts: int | None, waited_s: float) -> tuple[int, bool]:
        last = self._last
        if last is None:
            return (pts or 0), False
        expected = last + (self._duration or self._frame_ticks)
        if pts is None:
            return expected, False
        ticks = pts + self._offset
        silent_ticks = round(Fraction(waited_s + self.late_s) / self._time_base)
        if ticks < last - self._back_ticks or ticks > expected + silent_ticks + self._ahead_ticks:
            continued = max(expected, last + silent_ticks)
            self._offset = continued - pts
            self.rebased += 1
            return continued, True
        if ticks <= last:
            return last + 1, False
        return ticks, ticks > expected + silent_ticks + self._report_ticks

    def _update_lateness(self, waited_s: float, step_s: float, jumped: bool) -> None:
        """A picture after a silence with the time stamp of before it was held back; those that
        come in a burst after it catch up."""
        if jumped:
            self.late_s = 0.0
        elif waited_s > step_s + LATE_S:
            self.late_s += waited_s - step_s
        elif waited_s < step_s / 2:
            self.late_s = max(0.0, self.late_s - (step_s - waited_s))
        else:
            self.late_s = 0.0
        if self.late_s < LATE_S:
            self.late_s = 0.0


class TimestampStitcher:
    """Joins the times of successive connections into one timeline, in the first's time base.

    The gap between two connections lasts as long as it lasted on the wall clock.
    """

    def __init__(self) -> None:
        self.time_base = Fraction(0)
        self._origin = Fraction(0)  # seconds at which the first connection started
        self._offset = 0
        self._last_pts = 0
        self._last_seen_s = 0.0

    def start(self, pts: int, time_base: Fraction, start: Fraction, now_s: float) -> None:
        """Begin a connection whose first picture has `pts`. now_s: a monotonic clock when the
        picture was taken."""
        if not self.time_base:
            self.time_base, self._origin = time_base, start
            return
        gap = max(1, round(Fraction(now_s - self._last_seen_s) / self.time_base))
        self._offset = self._last_pts + gap - self._ticks(pts, time_base)

    def stitch(self, pts: int, time_base: Fraction, now_s: float) -> tuple[int, float]:
        """(pts in `self.time_base`, seconds from the source's start) of the next picture."""
        self._last_pts = self._ticks(pts, time_base) + self._offset
        self._last_seen_s = now_s
        return self._last_pts, float(self._last_pts * self.time_base - self._origin)

    def _ticks(self, pts: int, time_base: Fraction) -> int:
        return pts if time_base == self.time_base else round(pts * time_base / self.time_base)
