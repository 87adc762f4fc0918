"""The one owner of the running backend: makes it, replaces it, scales its tolerance, closes it.

    preprocess: claim() ─► BackendHandle ─in the task─► infer: enter(), run()
    placement:  swap() ──┘                                  └── audit: steer()

A replacement takes effect between two frames: frames under way keep the handle that they were
decided for, and the old backend is closed when the first frame for the new one is run. The
tolerance factor belongs to the slot, so every backend that enters it gets the factor.

Threads: `claim` belongs to the thread that decides, `enter` and `run` to the thread that runs the
network; `swap` and `steer` may be called from any thread and never wait for the network. `close`
follows the last `run`.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.models.model import View
from stillframe.models.results import Result
from stillframe.pipeline.inference.backends import Backend, BackendHandle, Feed
from stillframe.pipeline.inference.importance import Map, near_map
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.types import WORKERS, Task
from stillframe.pipeline.inference.worker_clock import worker_seconds
from stillframe.reuse.gate.change_map import ChangeMap

Run = Callable[[Feed, ChangeMap | None], list[NDArray[Any]]]


@runtime_checkable
class SteerableBackend(Protocol):
    """A backend with a tolerance that can be scaled while it runs."""

    @property
    def exact(self) -> bool:
        """Whether the tolerance is 0, so that scaling it does nothing."""
        ...

    def steer(self, factor: float, lowered: bool) -> None:
        """Multiply the tolerance that the backend was made with by the factor.

        lowered: the factor is below the last one, so stored values may be too far off.
        """
        ...


@runtime_checkable
class AttentiveBackend(Protocol):
    """A backend that may be less exact where nothing of importance is near."""

    @property
    def attends(self) -> bool:
        """Whether it makes a difference to it."""
        ...

    def attend(self, near: Map | None) -> None:
        """From the next run on be exact where the map says so; None: everywhere."""
        ...


class BackendSlot(Closing):
    """Holds the backend that runs the network. The module says which thread may call what.

    make: the usual backend for a model's file, made when its first frame is run.
    incremental: whether those backends are, see `Backend`.
    """

    def __init__(self, make: Callable[[Path], Backend], *, incremental: bool) -> None:
        self._make = make
        self._incremental = incremental
        self._lock = threading.Lock()
        self._open: list[BackendHandle] = []
        """Handles whose backends are not closed yet, oldest first."""
        self._next: BackendHandle | None = None
        """What later frames are for."""
        self._claimed: BackendHandle | None = None
        """What the last frame that was decided is for."""
        self._running: BackendHandle | None = None
        """What the last frame that was run was for."""
        self._shape: tuple[int, ...] = ()
        """Of the last frame that was decided."""
        self._factor = 1.0
        self._steered = False
        """Whether the factor was set since the last run."""
        self._lowered = False
        """Whether it was lowered since then."""
        self._steerable = incremental
        self._seen: tuple[Result, View] | None = None
        """The last result, and how the model's picture lies over its frame."""
        self._attended: tuple[Result, View] | None = None
        """The one that the running backend attends to."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """A slot whose usual backends are the settings' own."""
        return cls(settings.make_backend, incremental=settings.incremental)

    @property
    def backend(self) -> Backend | None:
        """The running backend; None before the first frame and after `close`."""
        running = self._running
        return None if running is None else running.backend

    @property
    def factor(self) -> float:
        """What the running backend's own tolerance is multiplied by, if it has one."""
        return self._factor

    @property
    def steerable(self) -> bool:
        """Whether the backend that ran last has a tolerance, so that `steer` changes results."""
        return self._steerable

    @property
    def cache_bytes(self) -> int:
        """What the running backend keeps from frame to frame."""
        backend = self.backend
        return 0 if backend is None else backend.cache_bytes

    # --- any thread -----------------------------------------------------------------------------

    def swap(self, backend: Backend, path: Path) -> None:
        """Run later frames on this backend, which the slot owns from now on.

        path: the model's file that the backend was made for. When frames come to need another file
        or change their size, the slot goes back to its usual backends.
        """
        handle = BackendHandle(path, backend.incremental, backend)
        with self._lock:
            unused = self._replace(handle)
        _close(unused)

    def steer(self, factor: float, lowered: bool) -> None:
        """Multiply the tolerance of the running backend, and of every later one, by the factor.

        lowered: the factor is below the last one: stored values are then computed anew. Takes
        effect with the next frame that is run; a backend without tolerance is not affected.
        """
        with self._lock:
            self._factor, self._steered = factor, True
            self._lowered |= lowered

    def attend(self, result: Result, view: View | None) -> None:
        """Be more exact around what this result shows, from the next frame that is run on.

        view: how the model's picture lies over its frame; None: as it did last.
        """
        with self._lock:
            before = self._seen
            if view is None and before is not None:
                view = before[1]
            self._seen = None if view is None else (result, view)

    # --- the thread that decides ----------------------------------------------------------------

    def claim(self, path: Path, shape: tuple[int, ...]) -> BackendHandle:
        """The backend for the next frame; another handle than the last one knows no frame yet.

        path: the model's file at the size that suits the frame. shape: of the frame.
        """
        unused = None
        with self._lock:
            handle = self._next
            if handle is None or handle.path != path or self._shape not in ((), shape):
                handle = BackendHandle(path, self._incremental)
                unused = self._replace(handle)
            self._claimed, self._shape = handle, shape
        _close(unused)
        return handle

    # --- the thread that runs -------------------------------------------------------------------

    def enter(self, task: Task) -> Backend:
        """The task's backend, with the current factor. Raises ModelError if it cannot be made.

        Closes the backends of earlier frames: tasks come in the order in which they were decided.
        """
        handle = task.backend
        assert handle is not None
        is_new = handle is not self._running
        if is_new:
            with self._lock:
                at = self._open.index(handle) if handle in self._open else 0
                earlier, self._open = self._open[:at], self._open[at:]
            for each in earlier:
                _close(each)
            if handle.backend is None:
                self._running = None
                handle.backend = self._make(handle.path)
                handle.incremental = handle.backend.incremental
        backend = handle.backend
        assert backend is not None
        with self._lock:
            self._running = handle
            factor, lowered = self._factor, self._lowered and not is_new
            due = self._steered or is_new  # one that was lent before has its old factor
            self._steered = self._lowered = False
        if isinstance(backend, SteerableBackend):
            self._steerable = not backend.exact
            if due:
                backend.steer(factor, lowered)
        else:
            self._steerable = False
        if isinstance(backend, AttentiveBackend) and backend.attends:
            seen = self._seen
            if is_new or seen is not self._attended:
                fits = seen is not None and seen[1].size == task.model.size
                backend.attend(near_map(*seen) if seen is not None and fits else None)
                self._attended = seen
        return backend

    def run(self, task: Task) -> list[NDArray[Any]]:
        """The task's outputs, valid until the next run if the backend is incremental."""
        backend = self.enter(task)
        return timed(task, backend.run, backend)

    # --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close every backend that the slot still owns. Calling it again does nothing."""
        with self._lock:
            handles, self._open = self._open, []
            self._next = self._claimed = self._running = None
            self._shape = ()
        for handle in handles:
            _close(handle)

    def _replace(self, handle: BackendHandle) -> BackendHandle | None:
        """Make the handle the next one; -> the one before if no frame can be for it."""
        unused = self._next if self._next is not self._claimed else None
        if unused is not None:
            self._open.remove(unused)
        self._open.append(handle)
        self._next = handle
        return unused


def timed(task: Task, run: Run, backend: Backend) -> list[NDArray[Any]]:
    """Feed the task to a function of the backend; the task's stop watch takes the time."""
    assert task.fitted is not None
    task.stop_watch.start()
    feed = task.model.feed(task.fitted)
    if task.stop_watch.detailed:
        task.stop_watch.lap("feed")
    before_s = worker_seconds(backend)
    outputs = run(feed, task.change)
    task.stop_watch.lap("infer")
    after_s = worker_seconds(backend)
    if before_s is not None and after_s is not None:
        task.stop_watch.thread_ms[WORKERS] = max(0.0, after_s - before_s) * 1e3
    return outputs


def _close(handle: BackendHandle | None) -> None:
    if handle is not None and handle.backend is not None:
        handle.backend.close()
