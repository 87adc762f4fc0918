"""Presentation times that only rise, as close to the container's as possible."""

from fractions import Fraction

JUMP_BACK_S = 1.0
JUMP_AHEAD_S = 10.0


class TimestampNormalizer:
    """Gives each picture of one stream its time in ticks of `time_base`.

    * Rising times are kept exactly, however uneven.
    * A missing time becomes the last one plus the last picture's duration.
    * A time that repeats or steps back a little becomes the last one plus one tick.
    * A step back of more than JUMP_BACK_S is a jump: it is reported, and all later times are
      shifted so that they continue where the last picture ended.
    * A step ahead of more than JUMP_AHEAD_S beyond the last picture's duration is a jump too: it
      is reported, and its time is kept.
    """

    def __init__(self, time_base: Fraction, rate: Fraction | None) -> None:
        self._frame_ticks = max(1, round(1 / ((rate or Fraction(25)) * time_base)))
        self._back_ticks = max(1, round(Fraction(JUMP_BACK_S) / time_base))
        self._ahead_ticks = max(1, round(Fraction(JUMP_AHEAD_S) / time_base))
        self._last: int | None = None
        self._duration = 0
        self._offset = 0

    def normalize(self, pts: int | None, duration: int | None = None) -> tuple[int, bool]:
        """(time in ticks, whether it jumped) of the next picture in presentation order."""
        ticks, jumped = self._normalized(pts)
        self._last = ticks
        self._duration = duration or 0
        return ticks, jumped

    def _normalized(self, pts: int | None) -> tuple[int, bool]:
        last = self._last
        if last is None:
            return (pts or 0), False
        expected = last + (self._duration or self._frame_ticks)
        if pts is None:
            return expected, False
        ticks = pts + self._offset
        if ticks < last - self._back_ticks:
            self._offset = expected - pts
            return expected, True
        if ticks <= last:
            return last + 1, False
        return ticks, ticks > expected + self._ahead_ticks


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
        """Begin a connection whose first picture has `pts`. now_s: a monotonic clock."""
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
