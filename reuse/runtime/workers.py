"""The threads that run a plan together: started once, pinned on request, asleep between frames."""

import os
import threading
from collections.abc import Callable, Sequence

from stillframe.errors import UsageError


class Workers:
    """Calls a function as worker 0 .. count - 1 at the same time; worker 0 is the caller.

    The function must release the GIL and must not raise. After a fork the threads are started
    again in the child at the first call. One thread at a time may call `run`.
    """

    def __init__(self, count: int, cpus: Sequence[int] = ()) -> None:
        self.count = count
        self._cpus = tuple(cpus)
        self._closed = False
        self._start_threads()

    def _start_threads(self) -> None:
        self._pid = os.getpid()
        self._running = False
        self._work: Callable[[int], None] | None = None
        self._begin = [threading.Semaphore(0) for _ in range(1, self.count)]
        self._done = threading.Semaphore(0)
        self._threads = [
            threading.Thread(
                target=self._serve, args=(worker, begin), name=f"stillframe-{worker}", daemon=True
            )
            for worker, begin in enumerate(self._begin, start=1)
        ]
        for thread in self._threads:
            thread.start()

    def _pin(self, worker: int) -> None:
        if self._cpus and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {self._cpus[worker % len(self._cpus)]})

    def _serve(self, worker: int, begin: threading.Semaphore) -> None:
        self._pin(worker)
        while True:
            begin.acquire()
            work = self._work
            if work is None:
                return
            try:
                work(worker)
            finally:
                self._done.release()

    def run(self, work: Callable[[int], None]) -> None:
        """Run `work(worker)` on every worker and return when all have, however worker 0 ends.

        Raises UsageError after `close`.
        """
        if self._closed:
            raise UsageError("the worker threads were closed before this call")
        if self.count == 1:
            work(0)
            return
        if self._pid != os.getpid():
            self._start_threads()
        self._work, self._running = work, True
        for begin in self._begin:
            begin.release()
        try:
            work(0)
        finally:  # also where a signal's handler raises in the caller
            for _ in self._begin:
                self._done.acquire()
            self._running = False
            if self._closed:  # by a signal's handler meanwhile
                self._end_threads()

    def close(self) -> None:
        """End the threads; during a run, as soon as it is done. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid() and not self._running:
            self._end_threads()

    def _end_threads(self) -> None:
        self._work = None
        for begin in self._begin:
            begin.release()
        for thread in self._threads:
            thread.join(5.0)
