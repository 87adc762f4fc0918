"""The figures of a running pipeline, for a file, for Prometheus and for people. Prints nothing."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.executor.stage_meter import percentiles
from stillframe.pipeline.inference.backends import available_threads
from stillframe.pipeline.telemetry.run_stats import Tally

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

SILENT_S = 1.0
"""A live source whose newest picture is older than this makes the age of frames grow."""
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
        import psutil

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

    def collect(self) -> "Iterator[Metric]":
        """The same for Prometheus."""
        from stillframe.pipeline.telemetry.prometheus import families

        return families(self)
