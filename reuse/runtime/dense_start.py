"""Answers by ONNX Runtime while the engine is prepared beside it."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import onnxruntime as ort
from numpy.typing import NDArray

from stillframe.endable_session import EndableSession
from stillframe.native_calls import abandon

T = TypeVar("T")
Shapes = Mapping[str, tuple[int, ...]]


class DenseStart(Generic[T]):
    """An ONNX Runtime session until something for feeds of these shapes is ready.

    prepare: makes it, in a thread of its own; what it raises is raised by `take`. The session's
    weights are let go with this object. Raises what ONNX Runtime raises for the model.
    """

    def __init__(
        self, model: str | bytes, title: str, threads: int, prepare: Callable[[Shapes], T]
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what it raises says it all
        self._session = EndableSession(model, options, ["CPUExecutionProvider"], title)
        self._prepare = prepare
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of the feeds that it is prepared for."""
        self._outcome: list[T] = []
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def begin(self, shapes: Shapes) -> None:
        """Prepare for feeds of these shapes. Once."""
        self.shapes = dict(shapes)
        self._thread = threading.Thread(target=self._work, name="prepare", daemon=True)
        self._thread.start()

    @property
    def begun(self) -> bool:
        return self._thread is not None

    def run(
        self, feeds: Mapping[str, NDArray[Any]], run_options: ort.RunOptions | None
    ) -> list[NDArray[Any]] | None:
        """The outputs; None once `take` need not wait, or for feeds of other shapes."""
        shapes = {name: feed.shape for name, feed in feeds.items()}
        if self._thread is None:
            self.begin(shapes)
        thread = self._thread
        if thread is None or not thread.is_alive() or shapes != self.shapes:
            return None
        outputs: list[NDArray[Any]] = self._session.run(None, feeds, run_options)
        return outputs

    def take(self) -> T | None:
        """What was prepared, after waiting for it; None in a fork, which has not its thread."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._outcome[0] if self._outcome else None

    def end(self, grace_s: float) -> None:
        """End runs in progress. What is still being prepared is left behind after so long."""
        self._session.end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(grace_s)
            if thread.is_alive():
                abandon(thread)

    def _work(self) -> None:
        try:
            self._outcome.append(self._prepare(self.shapes))
        except Exception as error:  # raised where somebody waits for it
            self._error = error
