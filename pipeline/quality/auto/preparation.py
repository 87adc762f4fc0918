"""Makes the reuse engine ready beside a run that computes frames whole meanwhile."""

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from stillframe.errors import StillframeError
from stillframe.native_calls import GRACE_S, abandon
from stillframe.pipeline.inference.backends import ReuseBackend
from stillframe.pipeline.quality.auto.warm_up import (
    is_all_island,
    is_warm,
    note_all_island,
    note_warm,
    start_elsewhere,
    warm_up,
)

ALL_ISLAND = "nearly all of it is left to ONNX Runtime, so there is nothing to reuse"


class Preparation:
    """One backend for a model's file, made in a thread of its own.

    make: the backend. threads: of it, to be compiled for. widen: whether it widens, see
    `ReuseSession`. The thread has another process compile kernels that are not cached, and runs the
    backend on empty pictures, so that every kernel is loaded before the first frame needs it. There
    is no backend for a network that is all island, and once that is known nothing is done for it.
    """

    def __init__(
        self,
        path: Path,
        make: Callable[[Path], ReuseBackend],
        threads: int,
        *,
        widen: bool = False,
    ) -> None:
        self.path = path
        self.why = ""
        """Why there will be no backend."""
        self._make, self._threads, self._widen = make, threads, widen
        self._lock = threading.Lock()
        self._backend: ReuseBackend | None = None
        self._compiler: subprocess.Popen[bytes] | None = None
        self._is_dropped = False
        self._thread = threading.Thread(target=self._work, name="prepare", daemon=True)
        self._thread.start()

    def take(self) -> ReuseBackend | None:
        """The backend, once; None: it is not ready."""
        with self._lock:
            backend, self._backend = self._backend, None
        return backend

    def close(self) -> None:
        """Stop, and close the backend if nobody took it.

        A thread that compiles cannot be ended: it is left behind, and closes what it makes.
        """
        with self._lock:
            self._is_dropped = True
            if self._compiler is not None:
                self._compiler.kill()
        self._thread.join(GRACE_S)
        if self._thread.is_alive():
            abandon(self._thread)
        backend = self.take()
        if backend is not None:
            backend.close()

    def join(self) -> None:
        """Wait until the backend is ready, or will not be."""
        self._thread.join()

    def _work(self) -> None:
        try:
            key = (self.path, self._threads)
            if not is_all_island(*key, widen=self._widen):
                if not is_warm(*key, widen=self._widen):
                    self._compile_elsewhere()
                if self._is_dropped:
                    return
            if is_all_island(*key, widen=self._widen):
                self.why = ALL_ISLAND
                return
            backend = self._make(self.path)
            if not backend.incremental:
                backend.close()
                note_all_island(*key, widen=self._widen)
                self.why = ALL_ISLAND
                return
            warm_up(backend)
            note_warm(*key, widen=self._widen)
        except StillframeError as error:
            self.why = str(error)
            return
        with self._lock:
            if not self._is_dropped:
                self._backend = backend
                return
        backend.close()

    def _compile_elsewhere(self) -> None:
        """Wait for a process that compiles. What it could not do is done here, or fails here."""
        with self._lock:
            if self._is_dropped:
                return
            self._compiler = start_elsewhere(self.path, self._threads, widen=self._widen)
        if self._compiler is not None:
            self._compiler.wait()
