"""Native calls in progress, and ONNX Runtime's runs that another thread ends."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from stillframe import native_calls
from stillframe.endable_session import EndableSession
from stillframe.native_calls import RunEndedError, abandon, end_native_calls, hanging, native_call
from tests import networks
from tests.hang_guard import ends

WHITE = {"image": np.ones((1, 3, 64, 96), np.float32)}
BLACK = {"image": np.zeros((1, 3, 64, 96), np.float32)}


@pytest.fixture
def session(tmp_path: Path) -> EndableSession:
    path = networks.endless(tmp_path / "endless.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return EndableSession(str(path), options, ["CPUExecutionProvider"], "endless")


class Running:
    """A run of the white picture in a thread of its own."""

    def __init__(
        self, session: EndableSession, options: onnxruntime.RunOptions | None = None
    ) -> None:
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._run, args=(session, options), daemon=True)
        self.thread.start()
        while not native_calls.native_calls(self.thread.ident):
            pass

    def _run(self, session: EndableSession, options: onnxruntime.RunOptions | None) -> None:
        try:
            session.run(None, WHITE, options)
        except BaseException as error:
            self.errors.append(error)

    def error(self) -> BaseException:
        ends(self.thread.join)
        return self.errors[0]


@pytest.fixture
def running(session: EndableSession) -> Iterator[Running]:
    running = Running(session)
    yield running
    session.end()
    ends(running.thread.join)


def test_an_endless_run_is_listed_and_ended(session: EndableSession, running: Running) -> None:
    (call,) = native_calls.native_calls(running.thread.ident)
    assert (call.title, call.can_end, call.thread) == ("endless", True, running.thread.ident)
    assert hanging()
    assert end_native_calls(running.thread)
    assert isinstance(running.error(), RunEndedError)
    assert not native_calls.native_calls(running.thread.ident)
    assert not end_native_calls(running.thread)
    assert len(session.run(None, BLACK)) == 3  # the session itself goes on


def test_a_session_that_was_ended_runs_no_more(session: EndableSession, running: Running) -> None:
    session.end()
    assert isinstance(running.error(), RunEndedError)
    with pytest.raises(RunEndedError, match="endless: a run was ended"):
        session.run(None, BLACK)


def test_the_caller_s_own_options_end_a_run_and_are_left_as_they_were(
    session: EndableSession,
) -> None:
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    running = Running(session, options)
    options.terminate = True
    assert isinstance(running.error(), RunEndedError)
    assert options.terminate
    options.terminate = False
    running = Running(session, options)
    end_native_calls(running.thread)
    assert isinstance(running.error(), RunEndedError)
    assert not options.terminate
    assert len(session.run(None, BLACK, options)) == 3


def test_errors_of_a_run_that_nobody_ended_are_onnx_runtime_s_own(session: EndableSession) -> None:
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT|invalid dimensions") as caught:
        session.run(None, {"image": np.ones((1, 3, 8, 8), np.float32)})
    assert not isinstance(caught.value, RunEndedError)


def test_a_call_that_cannot_be_ended_says_so() -> None:
    with native_call("it") as call:
        assert not call.can_end
        assert not call.end()
        assert not end_native_calls(threading.current_thread())
        assert not hanging()  # the caller itself is here to see it
    assert call not in native_calls.native_calls()


def test_an_abandoned_thread_hangs_until_it_ends() -> None:
    go_on = threading.Event()
    thread = threading.Thread(target=go_on.wait)
    thread.start()
    abandon(thread)
    assert hanging()
    go_on.set()
    thread.join()
    assert not hanging()
