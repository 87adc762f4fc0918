"""The figures of a running pipeline, for a file, for Prometheus and for people. Prints nothing.

Prometheus reads them as text, from this machine only; requests whose Host header names another
machine are refused, as on the page of `--show`.
"""

import contextlib
import io
import os
import socket
import socketserver
import threading
import time
import wsgiref.simple_server
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol
from wsgiref.types import StartResponse, WSGIEnvironment

import psutil
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from stillframe.errors import UsageError
from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.executor.stage_meter import percentiles
from stillframe.pipeline.inference.backends import available_threads
from stillframe.pipeline.telemetry.run_stats import Tally

ADDRESS = "127.0.0.1"
SILENT_S = 1.0
"""A live source whose newest picture is older than this makes the age of frames grow."""
MAX_CONNECTIONS = 64
"""At one time; further ones are closed at once."""
RECENT_S = 2.0
"""Seconds over which `ProcessorShare.recent` is measured."""


class ProcessorShare:
    """How much of the machine this process takes: processor time over that of all cores.

    cores: of the machine; None: those that this process may use.
    """

    def __init__(self, cores: float | None = None) -> None:
        self.cores = cores or float(available_threads())
        self._began = self._now()
        self._recent: deque[tuple[float, float]] = deque([self._began])

    @staticmethod
    def _now() -> tuple[float, float]:
        children = os.times()[2:4]  # those that ended; counted in ticks of 10 ms
        return time.perf_counter(), time.process_time() + sum(children)

    def restart(self) -> None:
        """Measure from here on."""
        self._began = self._now()
        self._recent = deque([self._began])

    @property
    def spent_s(self) -> float:
        """Processor seconds since the start."""
        return self._now()[1] - self._began[1]

    @property
    def whole(self) -> float:
        """Share of all cores since the start, 0..1."""
        return self._between(self._began, self._now())

    @property
    def recent(self) -> float:
        """Share of all cores over about the last RECENT_S, 0..1."""
        now = self._now()
        self._recent.append(now)
        while len(self._recent) > 2 and now[0] - self._recent[1][0] > RECENT_S:
            self._recent.popleft()
        return self._between(self._recent[0], now)

    def _between(self, before: tuple[float, float], after: tuple[float, float]) -> float:
        wall_s = (after[0] - before[0]) * self.cores
        return (after[1] - before[1]) / wall_s if wall_s > 0 else 0.0


class PlacementFigures(Protocol):
    """The figures of a placement."""

    decisions: list[str]
    """In words, in order."""
    replans: int
    """Changes of the placement so far."""

    def to_dict(self) -> dict[str, Any]: ...


class LiveState(Protocol):
    """The state of a source, a row of STATES."""

    @property
    def label(self) -> str: ...


class LiveFigures(Protocol):
    """The figures of a live source."""

    reconnects: int
    frozen: bool
    captured_s: float | None
    """When its newest picture was taken, by the monotonic clock; None: it does not know."""

    @property
    def state(self) -> LiveState: ...


class AuditFigures(Protocol):
    """What audits found and proved."""

    @property
    def report(self) -> Any:
        """An `AuditReport`, see AUDIT_COUNTERS and AUDIT_GAUGES."""
        ...


STATES = ("connecting", "running", "stalled", "frozen", "lost", "ended")
"""Of a live source."""


class Telemetry:
    """The figures of a pipeline.

    cache_bytes: returns the bytes that persist between frames. dropped: returns the number of
    frames that the source replaced by newer ones. placement: None where nothing was placed. live:
    None for a source that is not live.
    """

    def __init__(
        self,
        pipeline: StagePipeline,
        tally: Tally,
        *,
        cache_bytes: Callable[[], int],
        dropped: Callable[[], int],
        placement: PlacementFigures | None = None,
        live: LiveFigures | None = None,
    ) -> None:
        self.pipeline, self.tally, self.placement = pipeline, tally, placement
        self.share = ProcessorShare()
        self._cache_bytes, self._dropped = cache_bytes, dropped
        self._live = live
        self.audit: AuditFigures | None = None
        """Of a run that is audited."""

    @property
    def live(self) -> dict[str, Any] | None:
        """The figures of the live source, as they are now; None if it is not live.

        `age_s`: of its newest picture; it grows while none comes, or none that differs.
        """
        if self._live is None:
            return None
        captured_s = self._live.captured_s
        age_s = None if captured_s is None else max(0.0, time.monotonic() - captured_s)
        return {
            "state": self._live.state.label,
            "frozen": self._live.frozen,
            "reconnects": self._live.reconnects,
            "last_frame_timestamp": None if age_s is None else round(time.time() - age_s, 3),
            "age_s": None if age_s is None else round(age_s, 3),
        }

    def _ages_ms(self, live: dict[str, Any] | None) -> dict[str, float]:
        """Percentiles of recent frames at the sink. Where no new picture comes, what was last shown
        is at least as old as the newest one."""
        least_ms = 0.0
        if live is not None and (live["age_s"] or 0.0) >= SILENT_S:
            least_ms = live["age_s"] * 1e3
        ages = percentiles(self.pipeline.ages_ms)
        return {name: round(max(value, least_ms), 3) for name, value in ages.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        depths = self.pipeline.depths
        placement, live = self.placement, self.live
        return {
            "frames": self.tally.frames,
            "frames_per_s": round(self.tally.to_dict()["frames_per_s"], 3),
            "active_share": round(self.tally.active_share, 4),
            "reused_share": round(self.tally.reused_share, 4),
            "stages": {
                meter.name: {**meter.to_dict(), "queue": depths.get(meter.name, 0)}
                for meter in self.pipeline.meters
            },
            "under_way": self.pipeline.window.in_use,
            "window": self.pipeline.window.limit,
            "age_ms": self._ages_ms(live),
            "live": live,
            "dropped": self._dropped() + self.pipeline.dropped,
            "cache_bytes": self._cache_bytes(),
            "resident_bytes": psutil.Process().memory_info().rss,
            "cpu_share": round(self.share.whole, 4),
            "cpu_share_recent": round(self.share.recent, 4),
            "replans": 0 if placement is None else placement.replans,
            "placement": None if placement is None else placement.to_dict(),
            "audit": None if self.audit is None else self.audit.report.to_dict(),
        }

    def collect(self) -> Iterator[Metric]:
        """The same for Prometheus."""
        seen = self.to_dict()
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
        queues = GaugeMetricFamily(
            "stillframe_queue", "Items waiting for a stage.", labels=["stage"]
        )
        stolen = GaugeMetricFamily(
            "stillframe_stolen",
            "Share of a stage's time without a processor.",
            labels=["stage"],
        )
        for meter in self.pipeline.meters:
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
    "quality_kept": "Mean share of what computing everything finds that results kept.",
    "quality_lower": "It is at least this, with 95 % confidence at every moment.",
    "quality_lower_now": "The same of recent audits alone.",
    "quality_floor": "The least that is to be kept.",
    "audit_share": "Share of the processor time that audits took.",
}
AUDIT_KEYS = {
    "audits": "telling",
    "audits_empty": "empty",
    "audits_failed": "failed",
    "quality_alarms": "alarms",
    "quality_kept": "kept",
    "quality_lower": "lower",
    "quality_lower_now": "lower_now",
    "quality_floor": "floor",
    "audit_share": "share",
}
"""Metric of an audit -> its key in the report."""
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
