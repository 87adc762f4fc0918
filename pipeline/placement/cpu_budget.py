"""A cap on this process's processor time: who has taken too much waits until it has not."""

import time
from collections.abc import Callable

from stillframe.errors import UsageError

BURST_S = 0.2  # what was left over in so long may be used later, no more


def share_of(text: str) -> float:
    """`50%` or `0.5` -> 0.5. Raises UsageError for what is no share above 0 and up to 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError(f"CPU share: expected a share such as 50% or 0.5, got {text!r}")
    return value


class Pacer:
    """Says how long to wait before the next frame, so that the measured share stays at the target.

    share: of `cores` cores, 0..1. What counts is the kernel's own account of all threads of this
    process, so that what one frame took too much the next ones wait for.
    """

    def __init__(
        self,
        share: float,
        cores: float,
        clock: Callable[[], float] = time.perf_counter,
        spent: Callable[[], float] = time.process_time,
    ) -> None:
        self.rate = share * cores
        self._clock, self._spent = clock, spent
        self._at, self._used = clock(), spent()
        self._credit_s = 0.0

    def __call__(self) -> float:
        """Seconds to wait, 0 when there is time to spend."""
        now, used = self._clock(), self._spent()
        self._credit_s += (now - self._at) * self.rate - (used - self._used)
        self._at, self._used = now, used
        self._credit_s = min(self._credit_s, BURST_S * self.rate)
        return max(0.0, -self._credit_s / self.rate)
