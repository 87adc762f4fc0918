"""Decode while the network computes: a source read in its own thread, a few frames ahead."""

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
    """What can be read ahead: an iterator whose `close` unblocks it from another thread."""

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None: ...


class Prefetcher(Closing):
    """Iterates over a source that a thread of its own reads, `depth` frames ahead of the asking.

    At depth 0 a frame is read when it is asked for, as a live source wants it: what it has then is
    its newest. Frames keep their order. What the source raises is raised here, after the frames
    before it. Leaving the `with` block closes the source and ends the thread.
    """

    def __init__(self, source: ClosableFrames, depth: int) -> None:
        self._source = source
        self._asked = threading.Semaphore(depth)
        self._read = queue.SimpleQueue[Frame | None]()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="stillframe-decode", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[Frame]:
        while not self._stopped.is_set():
            self._asked.release()
            frame = self._next()
            if frame is None:
                return
            yield frame

    def stop(self) -> None:
        """Hand out no more frames. Only sets a flag, so that a signal handler may call it."""
        self._stopped.set()

    def close(self) -> None:
        """Stop, close the source and wait for the thread. Calling it again does nothing."""
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
        """Wait for a frame; None when there is none to come."""
        while not self._stopped.is_set():
            try:
                frame = self._read.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if frame is None and self._failure is not None:
                raise self._failure
            return frame
        return None

    def _work(self) -> None:
        try:
            frames = iter(self._source)
            while not self._stopped.is_set():
                if self._asked.acquire(timeout=_POLL_S):
                    self._read.put(next(frames))
        except StopIteration:
            pass
        except BaseException as error:
            self._failure = error
        self._read.put(None)
