"""Ctrl-C and SIGTERM: they end a run cleanly, and outside of a run the program at once.

A signal's handler runs only between two steps of Python. While the main thread is in a model's run,
a `Watchdog` ends the run; a call that cannot be ended is left behind with the whole process.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import NoReturn, Self

from stillframe.native_calls import GRACE_S, HANG_S, NativeCall, RunEndedError, native_calls
from stillframe.pipeline.cli import printing

POLL_S = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal ended the program. Not an Exception, so that nothing takes it for a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(name(signum))
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What a shell reports for it: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


def raise_at_once() -> None:
    """From here on a signal raises Interrupted wherever the program is. Main thread only."""
    for signum in SIGNALS:
        signal.signal(signum, _interrupt)


def name(signum: int) -> str:
    return signal.Signals(signum).name


class Stopping:
    """A block that a signal may end early and cleanly, once `by` was called.

    The first signal then calls `stop`, the block goes on to its end, and Interrupted is raised
    there. Before `by`, and at the second signal, Interrupted is raised at once. An error of the
    block itself has precedence, unless it is that a run was ended because of the signal.

    last_words: called with the signal, in another thread, before a process is left whose main
    thread hangs. It writes what can be written.
    """

    last_words: Callable[[int], None] | None = None

    def __init__(self) -> None:
        self.caught: int | None = None
        """The signal that came, if one did."""
        self._stop: Callable[[], None] | None = None

    def by(self, stop: Callable[[], None]) -> None:
        """From here on the first signal calls `stop`."""
        self._stop = stop

    def __enter__(self) -> Self:
        self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        _blocks.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _blocks.remove(self)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self.caught is not None and (error is None or isinstance(error, RunEndedError)):
            raise Interrupted(self.caught) from error

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._stop is None or self.caught is not None:
            _interrupt(signum, frame)
        else:
            self.caught = signum
            self._stop()


_blocks: list[Stopping] = []
"""Those that are open."""


class Watchdog:
    """A thread that sees signals even while the main thread is in native code.

    A call that the main thread has been in since the signal, for GRACE_S, is ended if it can be.
    After HANG_S the process is left at once, with the exit code of the signal. Main thread only.
    """

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._signals, self._handlers_end = socket.socketpair()
        self._handlers_end.setblocking(False)
        signal.set_wakeup_fd(self._handlers_end.fileno(), warn_on_full_buffer=False)
        if hasattr(os, "register_at_fork"):  # a child's signals are none of ours
            os.register_at_fork(after_in_child=_close_wakeup)
        threading.Thread(target=self._serve, name="stillframe-watchdog", daemon=True).start()

    def _serve(self) -> None:
        while signums := self._signals.recv(1):
            if signums[0] in SIGNALS:
                self._follow(signums[0], time.monotonic())

    def _follow(self, signum: int, signal_s: float) -> None:
        """Watch what the main thread was in at the signal, until it is in Python again."""
        before = {call for call in native_calls(self._main) if call.since_s <= signal_s}
        while calls := before.intersection(native_calls(self._main)):
            waited_s = time.monotonic() - signal_s
            if waited_s > HANG_S:
                leave_hung(signum, next(iter(calls)))
            if waited_s > GRACE_S:
                for call in calls:
                    call.end()
            time.sleep(POLL_S)


def _close_wakeup() -> None:
    signal.set_wakeup_fd(-1)


def leave_hung(signum: int, call: NativeCall) -> NoReturn:
    """The last resort: write what can be written, and leave the process and its threads."""
    try:
        printing.complaint(
            "error", f"{call.title}: no end {HANG_S:g} s after {name(signum)}; it is left behind"
        )
        for block in reversed(_blocks):
            if block.last_words is not None:
                block.last_words(signum)
    finally:
        leave(128 + signum)


def leave(code: int) -> NoReturn:
    """End the process now, whatever its threads are in; what was printed is written first."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)
