"""Figures of a running pipeline: true ones, in a file, over HTTP, and in the table for people."""

import contextlib
import http.client
import io
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from stillframe.errors import UsageError
from stillframe.pipeline import cli
from stillframe.pipeline.cli import report
from stillframe.pipeline.cli.report import Report, stage_table, summary
from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.executor.stage import Stage
from stillframe.pipeline.executor.stage_meter import StageMeter
from stillframe.pipeline.inference.types import PARTS
from stillframe.pipeline.media.source import SourceState
from stillframe.pipeline.quality.audited import AuditReport
from stillframe.pipeline.telemetry import prometheus
from stillframe.pipeline.telemetry.exporter import STATES, ProcessorShare, Telemetry
from stillframe.pipeline.telemetry.prometheus import Served
from stillframe.pipeline.telemetry.run_stats import Tally
from tests import networks
from tests.hang_guard import HANGS_S, ends
from tests.hostile import media


def passed(item: int) -> int:
    return item


def telemetry(pipeline: StagePipeline) -> Telemetry:
    return Telemetry(pipeline, Tally(), cache_bytes=lambda: 1234, dropped=lambda: 5)


@dataclass
class Clocks:
    """What the clocks of `time` show; they stand still until `pass_by`. Seconds."""

    wall: float = 100.0
    processor: float = 10.0
    """Of the thread and of the process."""
    children: float = 1.0
    """Processor time of child processes that ended."""

    def pass_by(self, wall: float, processor: float = 0.0, children: float = 0.0) -> None:
        self.wall += wall
        self.processor += processor
        self.children += children


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(time, "perf_counter", lambda: clocks.wall)
    for name in ("thread_time", "process_time"):
        monkeypatch.setattr(time, name, lambda: clocks.processor)
    monkeypatch.setattr(os, "times", lambda: (0.0, 0.0, clocks.children / 2, clocks.children / 2))
    return clocks


# --- one stage -----------------------------------------------------------------------------------


def test_a_meter_tells_time_on_a_processor_from_time_without_one(clocks: Clocks) -> None:
    meter = StageMeter("busy")
    for _ in range(3):
        meter.begin()
        assert meter.busy_since == clocks.wall
        clocks.pass_by(0.010, processor=0.009)
        meter.end()
        clocks.pass_by(0.5)  # between items: not the stage's
    assert meter.busy_since is None
    assert meter.items == 3
    assert meter.cpu_total_s == pytest.approx(0.027)
    assert meter.wall_total_s == pytest.approx(0.030)
    assert (meter.wall_ms, meter.cpu_ms) == pytest.approx((10, 9))
    assert meter.stolen == pytest.approx(0.1)
    idle = StageMeter("idle")
    for _ in range(3):
        idle.begin()
        clocks.pass_by(0.010)
        idle.end()
    assert idle.stolen == 1


def test_percentiles_are_of_what_was_measured(clocks: Clocks) -> None:
    meter = StageMeter("stage")
    for milliseconds in range(1, 101):
        meter.begin()
        clocks.pass_by(milliseconds / 1e3)
        meter.end()
    percentiles = meter.percentiles()
    assert percentiles["p50"] == pytest.approx(50.5)
    assert percentiles["p95"] == pytest.approx(95.05)
    assert percentiles["p99"] == pytest.approx(99.01)
    assert meter.wall_total_s == pytest.approx(5.05)
    assert 85 < meter.wall_ms < 95  # the newest count most
    meter.reset()
    assert meter.percentiles() == {"p50": 0, "p95": 0, "p99": 0}


def test_the_share_of_processors_is_measured(clocks: Clocks) -> None:
    share = ProcessorShare(cores=2.0)
    clocks.pass_by(1.0, processor=0.5, children=0.25)
    assert share.spent_s == pytest.approx(0.75)
    assert share.whole == share.recent == pytest.approx(0.375)
    for _ in range(4):
        clocks.pass_by(1.0, processor=0.1)
        recent = share.recent
    assert recent == pytest.approx(0.05), "of the last two seconds"
    assert share.whole == pytest.approx(1.15 / 10)
    share.restart()
    clocks.pass_by(1.0)
    assert share.spent_s == share.whole == 0


# --- a pipeline ----------------------------------------------------------------------------------


def test_what_waits_and_what_was_dropped_are_counted() -> None:
    go = threading.Event()

    def blocked(item: int) -> int:
        go.wait(5)
        return item

    stages = [Stage("first", passed), Stage("held", blocked, room=3)]
    with StagePipeline(range(9), stages, window=9) as pipeline:
        measurements = telemetry(pipeline)
        deadline = time.monotonic() + 5
        while measurements.to_dict()["under_way"] < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        seen = measurements.to_dict()
        assert seen["stages"]["held"]["queue"] == 3
        assert seen["under_way"] == 8  # one is held, 3 wait for it, 2 + 1 + 1 before them
        assert seen["dropped"] == 5
        assert seen["cache_bytes"] == 1234
        go.set()
        assert len(list(pipeline)) == 9
        assert seen["resident_bytes"] > 10_000_000
        seen = measurements.to_dict()
        assert seen["under_way"] == 0
        assert seen["age_ms"]["p95"] >= seen["age_ms"]["p50"] > 0
        assert {row["items"] for row in seen["stages"].values()} == {9}
    assert json.loads(json.dumps(seen)) == seen


@pytest.fixture
def served() -> Iterator[Served]:
    with StagePipeline(range(7), [Stage("infer", passed)]) as pipeline:
        list(pipeline)
        with Served(telemetry(pipeline), 0) as served:
            yield served
    assert not any(thread.name == "stillframe-metrics" for thread in threading.enumerate())


def ask(served: Served, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=5)
    connection.request("GET", "/metrics", headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    try:
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_prometheus_reads_the_figures(served: Served) -> None:
    status, text = ask(served)
    assert status == 200
    families: dict[str, Any] = {f.name: f for f in text_string_to_metric_families(text)}
    assert families["stillframe_cache_bytes"].samples[0].value == 1234
    assert families["stillframe_dropped"].samples[0].value == 5
    counts = {
        sample.labels["stage"]: sample.value
        for sample in families["stillframe_stage_seconds"].samples
        if sample.name.endswith("_count")
    }
    assert counts == {"decode": 7, "infer": 7}
    quantiles = {s.labels["quantile"] for s in families["stillframe_stage_time_seconds"].samples}
    assert quantiles == {"0.50", "0.95", "0.99"}
    for name in ("queue", "age_seconds", "cpu_share", "replans", "active_share", "stolen"):
        assert f"stillframe_{name}" in families


def test_only_this_machine_is_answered(served: Served) -> None:
    assert served.url.startswith("http://127.0.0.1:")
    assert ask(served, "evil.example")[0] == 403
    assert ask(served, f"localhost:{served.port}")[0] == 200


def test_a_port_that_is_taken_is_one_line(served: Served) -> None:
    with (
        StagePipeline([], []) as pipeline,
        pytest.raises(UsageError, match="--metrics-port: cannot"),
    ):
        Served(telemetry(pipeline), served.port)


@dataclass
class Camera:
    """The figures of a live source."""

    state: SourceState = SourceState.RUNNING
    reconnects: int = 3
    frozen: bool = False
    captured_s: float | None = None


def test_the_age_of_a_silent_camera_grows_while_nothing_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    camera, now = Camera(SourceState.STALLED, captured_s=50.0), [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: 1000 + now[0])
    ages = []
    with StagePipeline([], []) as pipeline:
        figures = Telemetry(
            pipeline, Tally(), cache_bytes=lambda: 0, dropped=lambda: 0, live=camera
        )
        for now[0] in (50.5, 52.0, 70.0):
            families = {family.name: family for family in figures.collect()}
            ages.append(max(s.value for s in families["stillframe_age_seconds"].samples))
            stamp = families["stillframe_last_frame_timestamp_seconds"].samples[0].value
            assert stamp == pytest.approx(1050.0)
    assert ages == pytest.approx([0.0, 2.0, 20.0])
    states = {s.labels["state"]: s.value for s in families["stillframe_source_state"].samples}
    assert states.pop("stalled") == 1
    assert set(states.values()) == {0}
    assert len(states) == 5
    assert families["stillframe_reconnects"].samples[0].value == 3
    assert families["stillframe_frozen"].samples[0].value == 0


def test_each_state_has_a_row() -> None:
    assert {state.label for state in SourceState} == set(STATES)


def test_a_file_has_no_state(served: Served) -> None:
    assert "stillframe_source_state" not in ask(served)[1]


def test_prometheus_sees_what_audits_prove() -> None:
    """What is not known yet is absent: a bound of 0 would be a false alarm."""
    nearly = AuditReport(0.98, 0.97, 12, 9, 3, 0.99, 0.91239, others=200, share=0.06, failed=1)
    for audits, more in (
        (AuditReport(0.98, 0.98), {}),
        (nearly, {"quality_kept": 0.99, "quality_lower": 0.9123}),
    ):
        with StagePipeline([], []) as pipeline:
            figures = Telemetry(pipeline, Tally(), cache_bytes=lambda: 0, dropped=lambda: 0)
            assert not [f.name for f in figures.collect() if "audit" in f.name]
            figures.audit = SimpleNamespace(report=audits)
            values = {family.name: family.samples[0].value for family in figures.collect()}
        expected = {
            "quality_floor": audits.floor,
            "quality_alarms": 0,
            "audits": audits.telling,
            "audits_empty": audits.empty,
            "audits_failed": audits.failed,
            "audit_share": audits.share,
            **more,
        }
        names = [name for name in values if "quality" in name or "audit" in name]
        assert {n: values[n] for n in names} == {f"stillframe_{n}": v for n, v in expected.items()}


def test_clients_that_misbehave_leave_no_trace(
    served: Served, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus._MetricsHandler, "timeout", 0.2)
    address = ("127.0.0.1", served.port)
    idle = [socket.create_connection(address) for _ in range(20)]
    for garbage in (b"\0\xff" * 300, b"GET\r\n\r\n", b"GET / HTTP/9.9.9\r\n\r\n", b"A" * 70_000):
        with socket.create_connection(address) as client, contextlib.suppress(OSError):
            client.sendall(garbage)
            client.recv(100)
    reset = socket.create_connection(address)
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.sendall(b"GET /metrics HTTP/1.1\r\n")
    reset.close()
    for each in idle:  # the server hangs up
        each.settimeout(HANGS_S)
        assert each.recv(1) == b""
        each.close()
    assert ask(served)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_crowd_of_idle_clients_is_bounded_and_ends_with_the_server(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus._MetricsHandler, "timeout", 2 * HANGS_S)  # no help from there
    address = ("127.0.0.1", served.port)
    idle = [socket.create_connection(address, timeout=HANGS_S) for _ in range(100)]
    refused = 0
    while refused < 100 - prometheus.MAX_CONNECTIONS:
        readable, _, _ = select.select(idle, [], [], HANGS_S)
        assert readable, "those beyond the bound are hung up on"
        refused = len(readable)
    assert len(served._server._open) == prometheus.MAX_CONNECTIONS
    ends(served.close)
    assert served._server._open == set()
    for each in idle:
        each.close()


def test_people_see_a_table_on_a_terminal() -> None:
    console = Console(force_terminal=True, width=120, record=True)
    with StagePipeline(range(3), [Stage("infer", passed)]) as pipeline:
        measurements = telemetry(pipeline)
        with Report(console, 3, lambda: stage_table(measurements)) as report:
            for _ in pipeline:
                report.tick(measurements.tally)
            report._live.refresh()
    text = console.export_text()
    assert "infer" in text
    assert "age at the sink" in text


# --- the command ---------------------------------------------------------------------------------


def test_run_writes_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = networks.brightness(tmp_path / "brightness.onnx")
    clip = media.clip(tmp_path / "clip.mp4", 12)
    path = tmp_path / "metrics.json"
    arguments = ["run", str(clip), "--model", str(network), "--metrics-json", str(path)]
    assert cli.status([*arguments, "--metrics-port", "0"]) == 0
    assert "metrics at http://127.0.0.1:" in capfd.readouterr().err
    summary = json.loads(path.read_text())
    stages = ["decode", "preprocess", "infer", "postprocess", "draw", "encode"]
    assert list(summary["stages"]) == stages
    assert {row["items"] for row in summary["stages"].values()} == {12}
    assert summary["frames"] == 12
    assert cli.status(arguments) == 5
    assert "there is such a file" in capfd.readouterr().err


def test_every_part_of_a_frame_s_way_has_a_name_in_the_table() -> None:
    assert set(PARTS) <= set(report.PARTS)


def test_processor_time_of_each_part_stands_beside_its_time() -> None:
    spent_ms, thread_ms = {"fit": 4.0, "infer": 10.0}, {"fit": 3.0, "infer": 5.0, "workers": 4.0}
    frame: Any = SimpleNamespace(
        kind="computed", active=1.0, spent_ms=spent_ms, thread_ms=thread_ms
    )
    tally = Tally()
    tally.add(frame, 20.0, {"wait": 2.0})
    assert tally.to_dict()["cpu_ms"] == {"fit": 3.0, "infer": 9.0}
    text = io.StringIO()
    summary(Console(width=100, file=text), tally, "run", [])
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    assert "fit to the model's size 4.00 ms 3.00 ms CPU, mean of all frames" in lines
    assert "run the network 10.00 ms 9.00 ms CPU, mean of all frames" in lines
    assert "wait for the source 2.00 ms mean of all frames" in lines
    frame.thread_ms = {"fit": 3.0, "infer": 5.0}  # a backend that does not know its threads
    tally.add(frame, 20.0, {})
    assert tally.to_dict()["cpu_ms"] == {"fit": 3.0}
