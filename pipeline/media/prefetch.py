"""Decode while the model computes: a source is read in its own thread, a few frames ahead."""

import queue
import threading
from collections.abc import Iterator
from typing import Protocol, Self

from stillframe.closing import Closing
from stillframe.errors import SourceError
from stillframe.pipeline.media.frame import Frame

CLOSE_TIMEOUT_S = 5.0
_POLL_S = 0.05


class ClosableFrames(Protocol):
    """An iterator of frames whose `close` unblocks it from another thread."""

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


class Prefetcher(Closing):
    """Iterates over a source that its own thread reads, at most `depth` frames ahead.

    At depth 0 a frame is read only when it is asked for: a live source then gives its newest.
    Frames keep their order. An error of the source is raised here, after the frames before it.
    Leaving the `with` block closes the source and ends the thread.
    """

    def __init__(self, source: ClosableFrames, depth: int) -> None:
        self._source = source
        self._requests = threading.Semaphore(depth)
        self._frames = queue.SimpleQueue[Frame | None]()
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="stillframe-decode", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[Frame]:
        while not self._stopped.is_set():
            self._requests.release()
            frame = self._next()
            if frame is None:
                return
            yield frame

    def stop(self) -> None:
        """Yield no more frames. Only sets a flag, so a signal handler may call it."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, close the source and join the thread. May be called twice."""
        self.stop()
        self._source.close()
        if self._thread.ident is None:
            return
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            raise SourceError(
                f"the source did not stop reading within {CLOSE_TIMEOUT_S:g} s of being closed"
            )

    def _next(self) -> Frame | None:
        """Wait for a frame; None at the end."""
        while not self._stopped.is_set():
            try:
                frame = self._frames.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if frame is None and self._error is not None:
                raise self._error
            return frame
        return None

    def _read(self) -> None:
        """The thread: reads one frame for each request."""
        try:
            frames = iter(self._source)
            while not self._stopped.is_set():
                if self._requests.acquire(timeout=_POLL_S):
                    self._frames.put(next(frames))
        except StopIteration:
            pass
        except BaseException as error:
            self._error = error
        self._frames.put(None)
