"""The figures of a running pipeline for Prometheus, as families of metrics and on a port.

Prometheus reads them as text, from this machine only; requests whose Host header names another
machine are refused, as on the page of `--show`. A module of its own, since it takes a while to
load and few runs ask for it.
"""

import contextlib
import io
import socket
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from stillframe.errors import UsageError
from stillframe.pipeline.telemetry.exporter import STATES, Telemetry

ADDRESS = "127.0.0.1"
MAX_CONNECTIONS = 64
"""At one time; further ones are closed at once."""


def families(telemetry: Telemetry) -> Iterator[Metric]:
    """The figures as families of metrics."""
    seen = telemetry.to_dict()
    yield CounterMetricFamily("stillframe_frames", "Frames done.", value=seen["frames"])
    yield CounterMetricFamily(
        "stillframe_dropped", "Frames dropped for newer ones.", value=seen["dropped"]
    )
    yield CounterMetricFamily(
        "stillframe_replans", "Changes of the placement.", value=seen["replans"]
    )
    for name, words in GAUGES.items():
        yield GaugeMetricFamily(f"stillframe_{name}", words, value=seen[name])
    age = GaugeMetricFamily(
        "stillframe_age_seconds", "Age of frames at the sink.", labels=["quantile"]
    )
    for name, value in seen["age_ms"].items():
        age.add_metric([f"0.{name[1:]}"], value / 1e3)
    yield age
    if seen["live"] is not None:
        yield from _live_families(seen["live"])
    if seen["audit"] is not None:
        yield from _audit_families(seen["audit"])
    times = SummaryMetricFamily(
        "stillframe_stage_seconds", "Time of items in a stage.", labels=["stage"]
    )
    quantiles = GaugeMetricFamily(
        "stillframe_stage_time_seconds", "Time of recent items.", labels=["stage", "quantile"]
    )
    queues = GaugeMetricFamily("stillframe_queue", "Items waiting for a stage.", labels=["stage"])
    stolen = GaugeMetricFamily(
        "stillframe_stolen",
        "Share of a stage's time without a processor.",
        labels=["stage"],
    )
    for meter in telemetry.pipeline.meters:
        row = seen["stages"][meter.name]
        times.add_metric([meter.name], count_value=meter.items, sum_value=meter.wall_total_s)
        queues.add_metric([meter.name], row["queue"])
        stolen.add_metric([meter.name], row["stolen"])
        for name in ("p50", "p95", "p99"):
            quantiles.add_metric([meter.name, f"0.{name[1:]}"], row[name] / 1e3)
    yield from (times, quantiles, queues, stolen)


def _audit_families(audit: dict[str, Any]) -> Iterator[Metric]:
    """What is not known yet is left out."""
    for name, (key, words) in AUDIT_COUNTERS.items():
        yield CounterMetricFamily(f"stillframe_{name}", words, value=audit[key])
    for name, (key, words) in AUDIT_GAUGES.items():
        if audit[key] is not None:
            yield GaugeMetricFamily(f"stillframe_{name}", words, value=float(audit[key]))


def _live_families(live: dict[str, Any]) -> Iterator[Metric]:
    states = GaugeMetricFamily(
        "stillframe_source_state", "1 for the state of the live source.", labels=["state"]
    )
    for name in STATES:
        states.add_metric([name], float(name == live["state"]))
    yield states
    yield CounterMetricFamily(
        "stillframe_reconnects", "Connections after the first one.", value=live["reconnects"]
    )
    yield GaugeMetricFamily(
        "stillframe_last_frame_timestamp_seconds",
        "When the newest picture was taken, Unix time; 0: none yet.",
        value=live["last_frame_timestamp"] or 0.0,
    )
    yield GaugeMetricFamily(
        "stillframe_frozen",
        "1 while pictures come that repeat each other bit for bit.",
        value=float(live["frozen"]),
    )


AUDIT_COUNTERS = {
    "audits": ("telling", "Audited frames with anything to compare."),
    "audits_empty": ("empty", "Audited frames with nothing to compare."),
    "audits_failed": ("failed", "Audits that failed."),
    "quality_alarms": ("alarms", "How often quality was noticed to fall below its floor."),
}
AUDIT_GAUGES = {
    "quality_kept": ("kept", "Mean share of what computing everything finds that results kept."),
    "quality_lower": ("lower", "It is at least this, with 95 % confidence at every moment."),
    "quality_lower_now": ("lower_now", "The same of recent audits alone."),
    "quality_floor": ("floor", "The least that is to be kept."),
    "audit_share": ("share", "Share of the processor time that audits took."),
}
"""Metric -> its key in the report of audits, and what it is."""
GAUGES = {
    "frames_per_s": "Frames a second.",
    "active_share": "Share of pixels that were treated as new.",
    "reused_share": "Share of frames that the network did not process.",
    "under_way": "Frames in flight.",
    "window": "Frames that may be in flight.",
    "cache_bytes": "Bytes that persist between frames.",
    "resident_bytes": "Resident memory of the process.",
    "cpu_share": "Share of all cores taken since the start.",
    "cpu_share_recent": "Share of all cores taken in the last seconds.",
}
"""Figure -> what it is, for Prometheus."""


class Served:
    """Serves the figures to Prometheus on a port of this machine, until it is closed.

    port: 0 picks a free one. Raises UsageError where the port is taken.
    """

    def __init__(self, telemetry: Telemetry, port: int) -> None:
        registry = CollectorRegistry()
        registry.register(telemetry)
        app: Any = make_wsgi_app(registry)

        def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
            if environ.get("HTTP_HOST", "") not in self._hosts:
                start("403 Forbidden", [("Content-Type", "text/plain")])
                return [b"this answers to its own address only\n"]
            page: Iterable[bytes] = app(environ, start)
            return page

        try:
            self._server = wsgiref.simple_server.make_server(
                ADDRESS, port, guarded, _MetricsServer, _MetricsHandler
            )
        except OSError as error:
            raise UsageError(
                f"--metrics-port: cannot serve on {ADDRESS} port {port}: {error.strerror}"
            ) from error
        self.port = self._server.server_address[1]
        self._hosts = {f"{name}:{self.port}" for name in (ADDRESS, "localhost")}
        self.url = f"http://{ADDRESS}:{self.port}/metrics"
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="stillframe-metrics",
            daemon=True,
        )

    def __enter__(self) -> "Served":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its thread."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _MetricsServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    """Answers each connection in a thread. A client that misbehaves costs a slot for a while."""

    daemon_threads = False  # server_close waits for them
    request_queue_size = 64

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(*arguments, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            has_room = len(self._open) < MAX_CONNECTIONS
            if has_room:
                self._open.add(request)
        if has_room:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        with self._lock:
            idle = list(self._open)
        for each in idle:  # wakes the threads that still wait for a request
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, was too slow or sent garbage is no news."""


class _MetricsHandler(wsgiref.simple_server.WSGIRequestHandler):
    timeout = 5.0

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def get_stderr(self) -> Any:
        """Where wsgiref would print the tracebacks of broken connections."""
        return io.StringIO()
