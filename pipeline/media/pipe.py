"""Reading a pipe so that another thread can end the wait."""

import fcntl
import os
import select
import stat
import threading
from contextlib import suppress

from stillframe.errors import SourceError

PIPE_REMEDY = (
    "; a pipe cannot go back: send MPEG-TS, Matroska, y4m or fragmented MP4 "
    "(ffmpeg -movflags frag_keyframe+empty_moov), or name the file"
)


PIPE_BYTES = 1 << 20  # the most that Linux grants to anyone


def enlarge_pipe(descriptor: int) -> None:
    """Let a pipe hold more, where the system lets us: it saves switches between programs, and who
    writes can be at work on the next frame."""
    with suppress(OSError, AttributeError):  # other systems than Linux have no such call
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class PipeReader:
    """A file object over a pipe's descriptor, for `av.open`; it cannot seek.

    `read` hands on whatever has arrived, so that a frame is decoded as soon as its last byte is
    there. `interrupt`, from any thread, makes the waiting and every later `read` see the end.
    """

    def __init__(self, descriptor: int, *, name: str, owned: bool) -> None:
        self.name = name
        self._descriptor = descriptor
        self._owned = owned
        self._wake_read, self._wake_write = os.pipe()
        self._poll = select.poll()
        for watched in (descriptor, self._wake_read):
            self._poll.register(watched, select.POLLIN)
        enlarge_pipe(descriptor)
        self._lock = threading.Lock()
        self._interrupted = False
        self._closed = False
        self._returned = b""

    @property
    def interrupted(self) -> bool:
        """Whether an end that a reader saw may be no end of the pipe."""
        return self._interrupted

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, at least one; empty at the end or after `interrupt`."""
        if self._interrupted:
            return b""
        if self._returned:
            first, self._returned = self._returned[:size], self._returned[size:]
            return first
        self._poll.poll()
        if self._interrupted:
            return b""
        return os.read(self._descriptor, size)

    def read_into(self, space: memoryview) -> int:
        """Fill some of `space`, at least a byte; 0 at the end or after `interrupt`."""
        if self._interrupted:
            return 0
        if self._returned:
            first = self.read(len(space))
            space[: len(first)] = first
            return len(first)
        self._poll.poll()
        if self._interrupted:
            return 0
        return os.readv(self._descriptor, [space])

    def unread(self, data: bytes) -> None:
        """What `read` gives first: bytes that were read to see what comes."""
        self._returned = data + self._returned

    def readable(self) -> bool:
        return True

    def interrupt(self) -> None:
        """End the wait of a reader, now and from now on."""
        with self._lock:
            self._interrupted = True
            if not self._closed:
                os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Give the descriptors back; only once no thread reads any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = self._interrupted = True
            for descriptor in (self._wake_read, self._wake_write):
                os.close(descriptor)
            if self._owned:
                os.close(self._descriptor)


def standard_input() -> PipeReader | None:
    """Standard input as a pipe, or None where it is an ordinary file, which can be read as one.

    Raises SourceError when standard input is closed or a terminal.
    """
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        raise SourceError("-: standard input is closed; pipe a video into it") from None
    if os.isatty(0):
        raise SourceError("-: standard input is a terminal; pipe a video into it, or name a file")
    if stat.S_ISREG(mode):
        return None
    return PipeReader(0, name="-", owned=False)


def named_pipe(path: str) -> PipeReader:
    """A FIFO, opened without waiting for its writer. Raises SourceError if it may not be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from None
    os.set_blocking(descriptor, True)
    return PipeReader(descriptor, name=path, owned=True)
