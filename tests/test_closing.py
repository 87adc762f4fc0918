"""The context managers' common end: `close` is always called, and the first error wins."""

import pytest

from stillframe.closing import Closing
from stillframe.errors import SourceError


class Recorder(Closing):
    """Notes what is called; `close` raises the error that it was made with."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls: list[str] = []
        self._error = error

    def finish(self) -> None:
        self.calls.append("finish")

    def close(self) -> None:
        self.calls.append("close")
        if self._error is not None:
            raise self._error


def test_a_block_that_ends_well_is_finished_and_closed() -> None:
    with Recorder() as resource:
        pass
    assert resource.calls == ["finish", "close"]


def test_a_block_that_raises_is_closed_only() -> None:
    with pytest.raises(ZeroDivisionError), Recorder() as resource:
        raise ZeroDivisionError
    assert resource.calls == ["close"]


@pytest.mark.parametrize("error", [SourceError("closing"), BrokenPipeError()])
def test_the_first_error_wins(error: BaseException) -> None:
    with pytest.raises(ZeroDivisionError), Recorder(error):
        raise ZeroDivisionError
    with pytest.raises(type(error)), Recorder(error):
        pass


def test_a_bug_in_close_is_not_hidden() -> None:
    with pytest.raises(AttributeError) as caught, Recorder(AttributeError("bug")):
        raise ZeroDivisionError
    assert isinstance(caught.value.__context__, ZeroDivisionError)
