"""A cap on this process's CPU time, and its priority beside other processes."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from stillframe.errors import UsageError

BURST_S = 0.2
"""CPU time that was left over in this time may be used later, no more."""


def share_of(text: str) -> float:
    """`50%` or `0.5` -> 0.5. Raises UsageError unless it is a share above 0 and up to 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise UsageError(f"CPU share: expected a share such as 50% or 0.5, got {text!r}")
    return value


class Pacer:
    """Returns how long to wait before the next frame, so that the measured share meets the target.

    share: of `cores` cores, 0..1. Measured by the kernel's count of CPU time for all threads of
    this process, so the frames after an expensive one wait for it.
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
        """Seconds to wait; 0 if there is CPU time left."""
        now, used = self._clock(), self._spent()
        self._credit_s += (now - self._at) * self.rate - (used - self._used)
        self._at, self._used = now, used
        self._credit_s = min(self._credit_s, BURST_S * self.rate)
        return max(0.0, -self._credit_s / self.rate)


def lower_priority(nice: int) -> str:
    """Let other processes run before every thread of this one; -> why it was denied, or "".

    Covers FFmpeg's threads, and threads that start later, which inherit it. SCHED_BATCH keeps a
    thread that wakes from preempting another one.
    """
    tasks = Path("/proc/self/task")
    for task in tasks.iterdir() if tasks.exists() else ():
        try:
            os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
            os.sched_setscheduler(int(task.name), os.SCHED_BATCH, os.sched_param(0))
        except ProcessLookupError:  # it has just ended
            continue
        except OSError as error:
            return f"priority could not be lowered: {(error.strerror or 'refused').lower()}"
    return ""
