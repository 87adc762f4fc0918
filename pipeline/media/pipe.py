"""Pipes that another thread can stop waiting on."""

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


PIPE_BYTES = 1 << 20  # the most that Linux grants to unprivileged processes


def enlarge_pipe(descriptor: int) -> None:
    """Give a pipe the largest buffer that the system grants.

    Fewer context switches, and the writer can work on the next frame while this one is read.
    """
    with suppress(OSError, AttributeError):  # Linux only
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


class PipeReader:
    """An unseekable file object over a pipe's descriptor, for `av.open`.

    `read` returns whatever has arrived, so a frame can be decoded as soon as its last byte is
    there. After `interrupt`, from any thread, the waiting read and all later ones see the end.
    """

    def __init__(self, descriptor: int, *, name: str, owned: bool) -> None:
        self.name = name
        self._descriptor = descriptor
        self._owned = owned
        self._wake_read, self._wake_write = os.pipe()
        self._poll = select.poll()
        for each in (descriptor, self._wake_read):
            self._poll.register(each, select.POLLIN)
        enlarge_pipe(descriptor)
        self._lock = threading.Lock()
        self._interrupted = False
        self._closed = False
        self._unread = b""

    @property
    def interrupted(self) -> bool:
        """Whether `interrupt` was called: the end that a reader saw may not be the pipe's."""
        return self._interrupted

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, at least one; empty at the end or after `interrupt`."""
        if self._interrupted:
            return b""
        if self._unread:
            data, self._unread = self._unread[:size], self._unread[size:]
            return data
        self._poll.poll()
        if self._interrupted:
            return b""
        return os.read(self._descriptor, size)

    def read_into(self, buffer: memoryview) -> int:
        """Fill part of `buffer`; -> bytes read, at least 1; 0 at the end or after `interrupt`."""
        if self._interrupted:
            return 0
        if self._unread:
            data = self.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        self._poll.poll()
        if self._interrupted:
            return 0
        return os.readv(self._descriptor, [buffer])

    def unread(self, data: bytes) -> None:
        """Put back bytes that were read; the next `read` returns them first."""
        self._unread = data + self._unread

    def readable(self) -> bool:
        return True

    def interrupt(self) -> None:
        """Wake a waiting reader; every later read returns nothing."""
        with self._lock:
            self._interrupted = True
            if not self._closed:
                os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Close the descriptors. Call it only when no thread reads any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = self._interrupted = True
            for descriptor in (self._wake_read, self._wake_write):
                os.close(descriptor)
            if self._owned:
                os.close(self._descriptor)


def standard_input() -> PipeReader | None:
    """Standard input as a pipe; None if it is an ordinary file, which can be read by name.

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
    """A FIFO, opened without waiting for its writer. Raises SourceError if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {(error.strerror or '').lower()}") from None
    os.set_blocking(descriptor, True)
    return PipeReader(descriptor, name=path, owned=True)
