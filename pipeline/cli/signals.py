"""Ctrl-C and SIGTERM: outside of a run they end at once, within one they let it finish cleanly."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

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


def at_once() -> None:
    """From here on a signal raises Interrupted where the program stands. Main thread only."""
    for signum in SIGNALS:
        signal.signal(signum, _interrupt)


def name(signum: int) -> str:
    return signal.Signals(signum).name


class Stopping:
    """A block that a signal may end early and cleanly, once `by` has said how.

    The first signal then calls what `by` was given, the block goes on to its end, and Interrupted
    is raised there. Before `by`, and for the second signal, it is raised at once. What the block
    itself raises goes before it.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._stop: Callable[[], None] | None = None

    def by(self, stop: Callable[[], None]) -> None:
        self._stop = stop

    def __enter__(self) -> Self:
        self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self.caught is not None and error is None:
            raise Interrupted(self.caught)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._stop is None or self.caught is not None:
            _interrupt(signum, frame)
        else:
            self.caught = signum
            self._stop()


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)
