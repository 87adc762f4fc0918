"""Loads a further backend beside a run, which must not wait for it."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from stillframe.errors import StillframeError
from stillframe.native_calls import GRACE_S, abandon
from stillframe.pipeline.inference.backends import Backend


class Loading:
    """One backend for a model's file, made in a thread of its own.

    make: the backend. A thread that loads cannot be ended: it closes what nobody takes.
    """

    def __init__(self, path: Path, make: Callable[[Path], Backend]) -> None:
        self._path, self._make = path, make
        self._lock = threading.Lock()
        self._backend: Backend | None = None
        self._spent_ms = 0.0
        self._is_dropped = False
        self._thread = threading.Thread(target=self._work, name="load", daemon=True)
        self._thread.start()

    def take(self) -> tuple[Backend | None, float]:
        """The backend, once, and the processor time it took, once, in milliseconds.

        None: it is not ready, or cannot be made.
        """
        with self._lock:
            backend, self._backend = self._backend, None
            spent_ms, self._spent_ms = self._spent_ms, 0.0
        return backend, spent_ms

    def join(self) -> None:
        """Wait until the backend is ready, or will not be."""
        self._thread.join()

    def close(self) -> None:
        """Close the backend if nobody took it."""
        with self._lock:
            self._is_dropped = True
        self._thread.join(GRACE_S)
        if self._thread.is_alive():
            abandon(self._thread)
        backend, _ = self.take()
        if backend is not None:
            backend.close()

    def _work(self) -> None:
        began_s = time.thread_time()
        backend: Backend | None = None
        with contextlib.suppress(StillframeError):
            backend = self._make(self._path)
        with self._lock:
            self._spent_ms += (time.thread_time() - began_s) * 1e3
            if not self._is_dropped:
                self._backend = backend
                return
        if backend is not None:
            backend.close()
