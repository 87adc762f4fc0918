"""Context managers that are closed at the end of their `with` block."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from stillframe.errors import StillframeError


class Closing(ABC):
    """A context manager that calls `close` at the end of the block. The first error wins.

    Where the block raised, an error of `close` would only follow from the first one: a
    StillframeError or BrokenPipeError from it is dropped.
    """

    @abstractmethod
    def close(self) -> None:
        """Release everything. Calling it again does nothing."""

    def finish(self) -> None:
        """Called before `close` if the block ended without an error."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
            self.close()
        except (StillframeError, BrokenPipeError):
            if error is None:
                raise
