"""Native calls that may take for ever: which run now, and how another thread ends them.

    with native_call("model.onnx", end=options_terminate):      # in the thread that calls
        session.run(...)

    for call in native_calls():                                 # in any other thread
        call.end()

Python can neither interrupt a thread in native code nor run a signal's handler while the main
thread is there. So each call that can hang is listed while it runs.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stillframe.errors import UsageError

GRACE_S = 2.0
"""How long work in progress may go on after a stop before its native calls are ended."""
HANG_S = 10.0
"""How long after a stop a call that cannot be ended counts as hung."""


class RunEndedError(UsageError):
    """A run of a model was ended from another thread, before it had a result."""


@dataclass(eq=False, slots=True)
class NativeCall:
    """A call in progress."""

    title: str
    """What runs, for people."""
    _end: Callable[[], None] | None
    thread: int = field(default_factory=threading.get_ident)
    """`Thread.ident` of the caller."""
    since_s: float = field(default_factory=time.monotonic)
    """Monotonic time of its start."""
    ended: bool = False
    """Whether `end` was called."""

    @property
    def can_end(self) -> bool:
        """Whether `end` ends it."""
        return self._end is not None

    def end(self) -> bool:
        """Ask the call to end soon with an exception; -> whether it can. From any thread."""
        if self._end is None:
            return False
        self.ended = True
        self._end()
        return True


_calls: set[NativeCall] = set()
_abandoned: list[threading.Thread] = []


@contextlib.contextmanager
def native_call(title: str, end: Callable[[], None] | None = None) -> Iterator[NativeCall]:
    """A block that makes one native call. end: makes it raise soon; None: nothing can.

    end is called in other threads and takes no lock.
    """
    call = NativeCall(title, end)
    _calls.add(call)
    try:
        yield call
    finally:
        _calls.discard(call)


def native_calls(thread: int | None = None) -> list[NativeCall]:
    """The calls in progress. thread: only those of the thread with this `ident`."""
    return [call for call in list(_calls) if thread in (None, call.thread)]


def end_native_calls(thread: threading.Thread) -> bool:
    """Ask the thread's calls to end; -> whether there was one that can."""
    calls = [] if thread.ident is None else native_calls(thread.ident)
    endable = [call for call in calls if call.end()]
    return bool(endable)


def abandon(thread: threading.Thread) -> None:
    """Note that nobody waits for this thread any more, though it has not ended."""
    _abandoned[:] = [each for each in _abandoned if each.is_alive()] + [thread]


def hanging() -> bool:
    """Whether any thread is in a call that can hang, or was abandoned and has not ended.

    The interpreter must not be shut down beside such a thread: native code that it is in may abort.
    """
    here = threading.get_ident()
    return any(call.thread != here for call in native_calls()) or any(
        thread.is_alive() for thread in _abandoned
    )


def _forget() -> None:
    """In the child of a fork: the threads are the parent's."""
    _calls.clear()
    _abandoned.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
