"""Processor time of the threads that a library starts for itself.

    with clock:                  # while they are started
        session = InferenceSession(...)
    clock.seconds                # of all of them, so far

`time.thread_time` sees the caller alone. The system's clocks of single threads are read by the
thread's number, which only Linux has (the number is made into a clock as pthread_getcpuclockid
does).
"""

import os
import threading
import time
from types import TracebackType

TASKS = "/proc/self/task"
OF_THREAD, SCHEDULED = 4, 2
"""Bits of a clock's number: that it is of a thread, and that it counts scheduled time."""


class WorkerClock:
    """Counts the threads that are started within its blocks, but for those of Python.

    A library that starts threads at the same time in another thread is counted too.
    """

    def __init__(self) -> None:
        self._before: frozenset[int] = frozenset()
        self._threads: frozenset[int] = frozenset()

    def __enter__(self) -> None:
        self._before = _threads()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ours = {each.native_id for each in threading.enumerate()}
        self._threads |= _threads() - self._before - ours

    @property
    def seconds(self) -> float | None:
        """Of the threads that have not ended; None where the system has no such clocks."""
        if not _can_measure():
            return None
        total = 0.0
        for thread in self._threads:
            try:
                total += time.clock_gettime(~thread << 3 | OF_THREAD | SCHEDULED)
            except OSError:  # it has ended
                continue
        return total


def worker_seconds(backend: object) -> float | None:
    """Processor time of the threads that a backend has started; None: it does not know."""
    clock = getattr(backend, "worker_clock", None)
    return clock.seconds if isinstance(clock, WorkerClock) else None


def _can_measure() -> bool:
    """Whether the system has clocks of single threads."""
    return os.path.isdir(TASKS)


def _threads() -> frozenset[int]:
    return frozenset(map(int, os.listdir(TASKS))) if _can_measure() else frozenset()
