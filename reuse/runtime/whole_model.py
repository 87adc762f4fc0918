"""A model that ONNX Runtime runs whole, at any shape that it takes: one session for all of them."""

import ctypes
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stillframe.endable_session import EndableSession
from stillframe.reuse.runtime.engine import StepStats

Array = NDArray[Any]
MOST_SHAPES = 8
"""Of feeds, for which the last feed and its outputs are stored."""


class WholeModel:
    """Computes everything unless a feed is the last one of its shape again. Not thread-safe.

    Nothing is compiled for a shape, so feeds may come in another one each time.
    """

    def __init__(
        self, source: Path | bytes, title: str, threads: int, providers: Sequence[Any]
    ) -> None:
        self._source = source if isinstance(source, bytes) else str(source)
        self._title, self._threads = title, threads
        self._last: OrderedDict[Any, tuple[dict[str, Array], list[Array]]] = OrderedDict()
        self._session = self._opened(providers)

    def step(
        self,
        feeds: Mapping[str, Array],
        names: Sequence[str],
        dense: bool = False,
        run_options: ort.RunOptions | None = None,
    ) -> tuple[list[Array], StepStats]:
        """The outputs of these names, and what was done. dense: run even if nothing changed."""
        key = tuple((name, array.shape) for name, array in feeds.items())
        known = self._last.get(key)
        if known is not None and not dense:
            before, outputs = known
            if all(_same(array, before[name]) for name, array in feeds.items()):
                self._last.move_to_end(key)
                return outputs, StepStats(0.0, False, 0.0, 0)
        outputs = [np.asarray(each) for each in self._session.run(names, feeds, run_options)]
        self._last[key] = ({name: np.array(array) for name, array in feeds.items()}, outputs)
        self._last.move_to_end(key)
        if len(self._last) > MOST_SHAPES:
            self._last.popitem(last=False)
        return outputs, StepStats(1.0, True, 1.0, 1)

    @property
    def stored_bytes(self) -> int:
        """Of the last feeds and their outputs."""
        arrays = (a for feeds, outputs in self._last.values() for a in (*feeds.values(), *outputs))
        return sum(array.nbytes for array in arrays)

    def reset(self) -> None:
        """Forget everything: the next step computes all of it."""
        self._last.clear()

    def set_providers(self, providers: Sequence[Any]) -> None:
        """Run on other execution providers from now on."""
        self._session = self._opened(providers)
        self.reset()

    def leave_to_parent(self) -> None:
        """In the child of a fork: never destroy the session. That would wait for threads that this
        process does not have."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))

    def end_runs(self) -> None:
        """End a run in progress, and every later one, with RunEndedError. From any thread."""
        self._session.end()

    def _opened(self, providers: Sequence[Any]) -> EndableSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # what it raises says it all
        return EndableSession(self._source, options, providers, self._title)


def _same(one: Array, two: Array) -> bool:
    return np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
