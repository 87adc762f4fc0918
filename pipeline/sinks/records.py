"""Results as lines of text: JSON, CSV, MOT. Lines are not buffered."""

import contextlib
import csv
import io
import json
import math
import os
import stat
import sys
import threading
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import SinkError
from stillframe.escaping import escaped
from stillframe.models.results import Detections, Result
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.source import SourceEvent
from stillframe.pipeline.sinks.sink import Sink, create_file, reason

STDOUT = "-"
DESCRIPTOR = "fd:"
CSV_COLUMNS = (
    "index",
    "time_s",
    "provenance",
    "age_s",
    "label",
    "class_id",
    "confidence",
    "left",
    "top",
    "right",
    "bottom",
)
TIME_DECIMALS = 6
BOX_DECIMALS = 2


class LineSink(Sink):
    """Writes text lines to a file, to standard output (`-`) or to an open descriptor (`fd:3`).

    A line has left the process when `write` returns, so a crash does not lose it.
    source: where the frames come from; that file is never overwritten, not even with `force`.
    """

    def __init__(
        self, path: str | os.PathLike[str], force: bool = False, source: str | None = None
    ) -> None:
        self.while_blocked: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        """Entered around each write to a pipe, whose reader may pause for as long as it likes."""
        self._name = os.fspath(path)
        self._closed = False
        self._lock = threading.Lock()  # lines of frames and of events come from two threads
        self._file: BinaryIO
        if self._name == STDOUT:
            self._file = _standard_output()
        elif self._name.startswith(DESCRIPTOR):
            self._file = _descriptor(self._name)
        else:
            self._file = os.fdopen(create_file(Path(path), force, (source,)), "wb", buffering=0)
        self._may_block = _may_block(self._file)
        self._is_terminal = self._file.isatty()

    def write(self, frame: Frame, result: Result | None, image: NDArray[np.uint8] | None) -> None:
        text = "".join(f"{line}\n" for line in self._lines(frame, result))
        self._put(text.encode())

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._name != STDOUT:
            self._file.close()

    @abstractmethod
    def _lines(self, frame: Frame, result: Result | None) -> list[str]:
        """The lines of one frame, without line ends."""

    def _put(self, data: bytes) -> None:
        if self._is_terminal:  # labels are not to steer it; files and pipes get them as they are
            data = escaped(data.decode()).encode()
        patience = self.while_blocked if self._may_block else contextlib.nullcontext
        try:
            with patience(), self._lock:
                rest = memoryview(data)
                while rest:  # a nearly full disk may accept only a part
                    rest = rest[self._file.write(rest) :]
                self._file.flush()
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise SinkError(f"{self._name}: writing failed: {reason(error)}") from None


class JsonlSink(LineSink):
    """One JSON object per frame: index, time_s, provenance, age_s and the result.

    The JSON is strict: a number that is not finite becomes null. Changes of a live source's state,
    and audits, are lines of their own, with the key "event".
    """

    def write_event(self, event: SourceEvent) -> None:
        """Write one line; nothing once the sink is closed. Any thread may call it."""
        self.write_row(event.to_dict())

    def write_row(self, row: dict[str, Any]) -> None:
        """Write any line, as `write_event` does."""
        if not self._closed:
            self._put(f"{_json(row)}\n".encode())

    def _lines(self, frame: Frame, result: Result | None) -> list[str]:
        row: dict[str, Any] = {"index": frame.index, "time_s": round(frame.time_s, TIME_DECIMALS)}
        if result is not None:
            row |= result.to_dict()
        return [_json(row)]


class FilterJsonlSink(JsonlSink):
    """As JsonlSink, plus `hidden`: the boxes that an effect hid, in source pixels.

    They may reach beyond the picture and include boxes that the model no longer detects.
    """

    def write_filtered(
        self, index: int, time_s: float, result: Result | None, hidden: NDArray[np.float32]
    ) -> None:
        """Write one line. hidden: (n, 4) boxes as left, top, right, bottom."""
        row: dict[str, Any] = {"index": index, "time_s": round(time_s, TIME_DECIMALS)}
        if result is not None:
            row |= result.to_dict()
        row["hidden"] = np.round(hidden.astype(np.float64), BOX_DECIMALS).tolist()
        try:
            self._put(f"{_json(row)}\n".encode())
        except BrokenPipeError:  # for video output that is a normal end, for these lines an error
            raise SinkError(f"{self._name}: writing failed: its reader went away") from None


class CsvSink(LineSink):
    """A header, then one row per detection; boxes in source pixels."""

    def __init__(
        self, path: str | os.PathLike[str], force: bool = False, source: str | None = None
    ) -> None:
        super().__init__(path, force, source)
        self._put(_csv_line(CSV_COLUMNS).encode() + b"\n")

    def _lines(self, frame: Frame, result: Result | None) -> list[str]:
        lines = []
        for label, class_id, confidence, box in _boxes(result, self._name):
            assert result is not None  # it has boxes
            evidence = result.evidence
            time_s, age_s = round(frame.time_s, TIME_DECIMALS), round(evidence.age_s, TIME_DECIMALS)
            cells = (frame.index, time_s, evidence.provenance, age_s, label, class_id)
            lines.append(_csv_line((*cells, f"{confidence:.4f}", *(f"{v:.2f}" for v in box))))
        return lines


class MotSink(LineSink):
    """MOT challenge text: frame (from 1), id -1, left, top, width, height, confidence, -1, -1, -1.

    The frame number counts every frame of the source, dropped ones too.
    """

    def _lines(self, frame: Frame, result: Result | None) -> list[str]:
        return [
            f"{frame.index + 1},-1,{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f},"
            f"{confidence:.4f},-1,-1,-1"
            for _, _, confidence, (left, top, right, bottom) in _boxes(result, self._name)
        ]


def _boxes(result: Result | None, name: str) -> list[tuple[str, int, float, list[float]]]:
    """(label, class, confidence, [left, top, right, bottom]) of each detection."""
    if result is None:
        return []
    if not isinstance(result, Detections):
        raise SinkError(
            f"{name}: holds detections, and this model gives {type(result).__name__.lower()}; "
            "use --jsonl for its results"
        )
    columns = (result.names, result.class_id.tolist(), result.confidence.tolist())
    return list(zip(*columns, result.xyxy.tolist(), strict=True))


def _json(row: dict[str, Any]) -> str:
    return json.dumps(_finite(row), allow_nan=False, ensure_ascii=False)


def _csv_line(cells: tuple[object, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _may_block(file: BinaryIO) -> bool:
    """Whether a write waits for another program: a pipe, a socket, a terminal."""
    try:
        return not stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, ValueError):  # an in-memory object
        return False


def _standard_output() -> BinaryIO:
    """Standard output without a buffer: nothing is left to fail when the program ends."""
    sys.stdout.flush()
    try:
        return open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)
    except (OSError, ValueError):  # replaced by an in-memory object, as tests do
        return sys.stdout.buffer


def _descriptor(name: str) -> BinaryIO:
    """The open descriptor that a text like `fd:3` names; it stays open. Raises SinkError."""
    number = name.removeprefix(DESCRIPTOR)
    try:
        return open(int(number), "wb", buffering=0, closefd=False)
    except (OSError, ValueError, OverflowError):
        raise SinkError(
            f"{name}: expected the number of a descriptor that is open for writing, as "
            "fd:3 is with 3>FILE"
        ) from None
