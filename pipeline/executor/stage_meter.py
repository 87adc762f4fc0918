"""Times of one stage, and how much of them its thread spent on a processor."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RECENT = 2048
WEIGHT = 0.1  # of the newest item in the exponential means
PERCENTILES = (50, 95, 99)


@dataclass(slots=True)
class StageMeter:
    """Measures one stage. Its own thread writes; any thread may read."""

    name: str
    items: int = 0
    """Items done."""
    wall_ms: float = 0.0
    """Exponential mean of an item's wall time."""
    cpu_ms: float = 0.0
    """Exponential mean of an item's CPU time, of the stage's own thread only."""
    wait_ms: float = 0.0
    """Exponential mean of the wait for an item."""
    wall_total_s: float = 0.0
    cpu_total_s: float = 0.0
    thread: int = 0
    """The kernel's thread id; 0 before the thread runs."""
    cores: frozenset[int] = frozenset()
    """The cores the thread is pinned to; empty: not pinned."""
    note: str = ""
    """What differs from the request, such as a pin that the kernel denied."""
    busy_since: float | None = None
    """Clock at the start of the current item; None between items."""
    deadline_since: float | None = None
    """Clock from which the current item's deadline counts; None: nothing counts now."""
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _cpu_start_s: float = 0.0
    _idle_since: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """Start an item. Called by the stage's thread."""
        self._cpu_start_s = time.thread_time()
        now = time.perf_counter()
        self.wait_ms += WEIGHT * ((now - self._idle_since) * 1e3 - self.wait_ms)
        self.busy_since = self.deadline_since = now

    def end(self) -> float:
        """Finish the item; -> its wall time in milliseconds."""
        now = time.perf_counter()
        start = now if self.busy_since is None else self.busy_since
        self.busy_since = self.deadline_since = None
        self._idle_since = now
        wall_s, cpu_s = now - start, time.thread_time() - self._cpu_start_s
        self.wall_total_s += wall_s
        self.cpu_total_s += cpu_s
        weight = max(WEIGHT, 1 / (self.items + 1))
        self.wall_ms += weight * (wall_s * 1e3 - self.wall_ms)
        self.cpu_ms += weight * (cpu_s * 1e3 - self.cpu_ms)
        self._recent.append(wall_s * 1e3)
        self.items += 1
        return wall_s * 1e3

    def reset(self) -> None:
        """Forget all times: other work runs from here on."""
        self.items, self.wall_ms, self.cpu_ms = 0, 0.0, 0.0
        self._recent.clear()

    @property
    def stolen(self) -> float:
        """Share of the items' wall time that the thread spent off the CPU, 0..1."""
        return max(0.0, 1 - self.cpu_ms / self.wall_ms) if self.wall_ms else 0.0

    def percentiles(self) -> dict[str, float]:
        """{"p50": ms, "p95": ms, "p99": ms} of recent items; zeros before the first."""
        return percentiles(self._recent)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "items": self.items,
            **{name: round(value, 3) for name, value in self.percentiles().items()},
            "mean_ms": round(self.wall_ms, 3),
            "cpu_ms": round(self.cpu_ms, 3),
            "wait_ms": round(self.wait_ms, 3),
            "stolen": round(self.stolen, 4),
            "cores": sorted(self.cores),
            "note": self.note,
        }


def percentiles(values: deque[float]) -> dict[str, float]:
    """Percentiles of milliseconds while another thread may append to them."""
    for _ in range(3):
        try:
            samples = np.array(values or [0.0])
            break
        except RuntimeError:  # appended to during the read
            samples = np.zeros(1)
    results = np.percentile(samples, PERCENTILES)
    return {f"p{at}": float(value) for at, value in zip(PERCENTILES, results, strict=True)}
