"""What one stage was seen to do: times, and how much of them its thread really had a processor."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RECENT = 2048
WEIGHT = 0.1  # of the newest item in the running means
PERCENTILES = (50, 95, 99)


@dataclass(slots=True)
class StageMeter:
    """Written by the stage's own thread, read by any.

    items: done. wall_ms, cpu_ms: running means of an item's time, by the clock and on a processor
    (this thread's alone; threads that it lets work for it are not seen). wait_ms: of waiting for
    the item. thread: the kernel's id, 0 before it runs. busy_since: the clock at the start of the
    item at hand, None between items. note: what was not as asked.
    """

    name: str
    items: int = 0
    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    wait_ms: float = 0.0
    wall_total_s: float = 0.0
    cpu_total_s: float = 0.0
    thread: int = 0
    cores: frozenset[int] = frozenset()
    note: str = ""
    busy_since: float | None = None
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _cpu_at: float = 0.0
    _free_at: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """An item is taken up. By the stage's thread."""
        self._cpu_at = time.thread_time()
        now = time.perf_counter()
        self.wait_ms += WEIGHT * ((now - self._free_at) * 1e3 - self.wait_ms)
        self.busy_since = now

    def end(self) -> float:
        """The item is done; -> milliseconds that it took."""
        now = time.perf_counter()
        began = now if self.busy_since is None else self.busy_since
        self.busy_since, self._free_at = None, now
        wall_s, cpu_s = now - began, time.thread_time() - self._cpu_at
        self.wall_total_s += wall_s
        self.cpu_total_s += cpu_s
        weight = max(WEIGHT, 1 / (self.items + 1))
        self.wall_ms += weight * (wall_s * 1e3 - self.wall_ms)
        self.cpu_ms += weight * (cpu_s * 1e3 - self.cpu_ms)
        self._recent.append(wall_s * 1e3)
        self.items += 1
        return wall_s * 1e3

    def reset(self) -> None:
        """Forget how long items took: something else runs from here on."""
        self.items, self.wall_ms, self.cpu_ms = 0, 0.0, 0.0
        self._recent.clear()

    @property
    def stolen(self) -> float:
        """The share of its items' time in which the thread had no processor, 0..1."""
        return max(0.0, 1 - self.cpu_ms / self.wall_ms) if self.wall_ms else 0.0

    def percentiles(self) -> dict[str, float]:
        """{"p50": ms, "p95": ms, "p99": ms} of the last items; zeros before the first."""
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
    """Percentiles of milliseconds that another thread may be adding to."""
    for _ in range(3):
        try:
            seen = np.array(values or [0.0])
            break
        except RuntimeError:  # it grew while it was read
            seen = np.zeros(1)
    found = np.percentile(seen, PERCENTILES)
    return {f"p{at}": float(value) for at, value in zip(PERCENTILES, found, strict=True)}
