"""Ctrl-C and SIGTERM: they end a run cleanly, and outside of a run the program at once."""

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
    block itself has precedence.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        """The signal that came, if one did."""
        self._stop: Callable[[], None] | None = None

    def by(self, stop: Callable[[], None]) -> None:
        """From here on the first signal calls `stop`."""
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
