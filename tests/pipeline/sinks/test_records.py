"""Results as lines of JSON, CSV and MOT, written to files, pipes and devices."""

import contextlib
import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillframe.errors import SinkError
from stillframe.models.results import Detections, Mask
from stillframe.pipeline.media.source import SourceEvent
from stillframe.pipeline.sinks.records import CsvSink, JsonlSink, LineSink, MotSink
from tests.hostile.media import boxes, frame_of


def test_a_line_of_json_has_exactly_its_schema(tmp_path: Path) -> None:
    with JsonlSink(tmp_path / "out.jsonl") as sink:
        sink.write(frame_of(7), boxes(), None)
        sink.write(frame_of(8), None, None)
    first, second = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert first == {
        "index": 7,
        "time_s": 0.28,
        "provenance": "reused",
        "age_s": 0.25,
        "detections": {
            "xyxy": [[1.23, 2.0, 30.5, 40.0], [5.0, 6.0, 7.0, 8.0]],
            "confidence": [0.9123, 0.5],
            "class_id": [1, 0],
            "labels": ['dog, "big"', "cat"],
        },
    }
    assert list(first) == ["index", "time_s", "provenance", "age_s", "detections"]
    assert second == {"index": 8, "time_s": 0.32}


def test_json_is_strict(tmp_path: Path) -> None:
    class Odd:
        def to_dict(self) -> dict[str, Any]:
            return {"a": math.nan, "b": [math.inf, {"c": (-math.inf, 1.5)}]}

    with JsonlSink(tmp_path / "out.jsonl") as sink:
        sink.write(frame_of(0), Odd(), None)  # type: ignore[arg-type]

    def refuse(name: str) -> None:
        raise AssertionError(name)

    row = json.loads((tmp_path / "out.jsonl").read_text(), parse_constant=refuse)
    assert row == {"index": 0, "time_s": 0.0, "a": None, "b": [None, {"c": [None, 1.5]}]}


def test_each_line_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonlSink(path) as sink:
        for count in range(1, 4):
            sink.write(frame_of(count), boxes(), None)
            assert len(path.read_bytes().splitlines()) == count


def test_partial_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(io.RawIOBase):
        def write(self, data: Any) -> int:
            return file.write(data[:7])

    with JsonlSink(tmp_path / "out.jsonl") as sink, monkeypatch.context() as patch:
        file = sink._file
        patch.setattr(sink, "_file", Slow())
        sink.write(frame_of(0), boxes(), None)
    assert json.loads((tmp_path / "out.jsonl").read_text())["index"] == 0


def test_csv_has_a_row_for_each_detection(tmp_path: Path) -> None:
    with CsvSink(tmp_path / "out.csv") as sink:
        sink.write(frame_of(7), boxes(), None)
        sink.write(frame_of(8), Detections.none(("cat",)), None)
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "index": "7",
        "time_s": "0.28",
        "provenance": "reused",
        "age_s": "0.25",
        "label": 'dog, "big"',
        "class_id": "1",
        "confidence": "0.9123",
        "left": "1.23",
        "top": "2.00",
        "right": "30.50",
        "bottom": "40.00",
    }
    assert [row["label"] for row in rows] == ['dog, "big"', "cat"]


def test_mot_counts_frames_from_one(tmp_path: Path) -> None:
    with MotSink(tmp_path / "out.txt") as sink:
        sink.write(frame_of(0), boxes(), None)
    assert (tmp_path / "out.txt").read_text().splitlines() == [
        "1,-1,1.23,2.00,29.27,38.00,0.9123,-1,-1,-1",
        "1,-1,5.00,6.00,2.00,2.00,0.5000,-1,-1,-1",
    ]


@pytest.mark.parametrize("kind", [CsvSink, MotSink])
def test_tables_of_detections_refuse_other_results(kind: type[LineSink], tmp_path: Path) -> None:
    mask = Mask(np.zeros((2, 2), np.uint8), ("sky",))
    with kind(tmp_path / "out") as sink, pytest.raises(SinkError, match="gives mask; use --jsonl"):
        sink.write(frame_of(0), mask, None)


TO_STDOUT = """
import sys
from tests.hostile.media import boxes, frame_of
from stillframe.pipeline.sinks.records import JsonlSink
print("first")
with JsonlSink("-") as sink:
    try:
        for number in range(100_000):
            sink.write(frame_of(number), boxes(), None)
    except BrokenPipeError:
        print("reader left", file=sys.stderr)
"""


def test_a_reader_that_goes_away_raises_broken_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", TO_STDOUT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == b"reader left\n"
    assert process.wait(30) == 0


def test_standard_output_is_not_closed(capfd: pytest.CaptureFixture[str]) -> None:
    with JsonlSink("-") as sink:
        sink.write(frame_of(0), None, None)
    print("still open")
    assert capfd.readouterr().out == '{"index": 0, "time_s": 0.0}\nstill open\n'


def test_a_device_may_be_written_without_force() -> None:
    with JsonlSink("/dev/null") as sink:
        sink.write(frame_of(0), boxes(), None)
    with JsonlSink("/dev/full") as sink, pytest.raises(SinkError, match="no space left on device"):
        sink.write(frame_of(0), boxes(), None)


EVENT = SourceEvent("lost", 1234.5, "rtsp://camera/x", "no answer in time", "running", 60.0)


def test_an_event_is_a_line_that_readers_can_tell_by_its_key(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with JsonlSink(path) as sink:
        sink.write(frame_of(0), boxes(), None)
        sink.write_event(EVENT)
    sink.write_event(EVENT)  # too late, and no error
    record, event = (json.loads(line) for line in path.read_text().splitlines())
    assert "event" not in record
    assert event == {
        "event": "lost",
        "wall_time": 1234.5,
        "source": "rtsp://camera/x",
        "reason": "no answer in time",
        "previous": "running",
        "duration_s": 60.0,
    }


def test_only_what_may_wait_for_a_reader_suspends_a_deadline(tmp_path: Path) -> None:
    waits: list[str] = []

    def waiting(name: str) -> Callable[[], AbstractContextManager[None]]:
        @contextlib.contextmanager
        def note() -> Iterator[None]:
            waits.append(name)
            yield

        return note

    read, write = os.pipe()
    with JsonlSink(tmp_path / "a.jsonl") as file, JsonlSink(f"fd:{write}") as pipe:
        file.while_blocked, pipe.while_blocked = waiting("file"), waiting("pipe")
        file.write(frame_of(0), None, None)
        pipe.write(frame_of(0), None, None)
        assert waits == ["pipe"]
        assert os.read(read, 100).endswith(b"\n")
    os.close(read)
    os.close(write)
