"""The figures of a run, counted frame by frame. Prints nothing."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stillframe.pipeline.inference.types import KINDS, WORKERS, StepResult

RECENT_FRAMES = 10_000
"""Frames whose times are stored, for percentiles."""
RATE_WINDOW_S = 2.0
"""Seconds over which `Tally.rate` is measured."""


@dataclass(slots=True)
class Tally:
    """Counts of one run."""

    frames: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Frames by `StepResult.kind`."""
    active: float = 0.0
    """Sum over the frames of the share of pixels that were treated as new."""
    spent_ms: Counter[str] = field(default_factory=Counter)
    """Total time by part of the work: "gate", "infer" …"""
    thread_ms: Counter[str] = field(default_factory=Counter)
    """The same in processor time, of parts of which it is known. "infer" has that of the threads
    that a backend's library started, too."""
    _workers_known: bool = True
    """Whether that is known of all frames; else that part is left out."""
    frame_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_FRAMES))
    """Of each recent frame, from asking for it until its results are written."""
    started: float = field(default_factory=time.perf_counter)
    wall_s: float = 0.0
    """From the start to the last frame."""
    _recent: deque[float] = field(default_factory=deque)
    """Times of the frames of the last RATE_WINDOW_S."""

    def start(self) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def add(self, step: StepResult, whole_ms: float, more_ms: dict[str, float]) -> None:
        """Count one frame. whole_ms: as `frame_ms`. more_ms: time outside of the step, by part."""
        now = time.perf_counter()
        self.frames += 1
        self.kinds[step.kind] += 1
        self.active += step.active
        self.spent_ms.update(step.spent_ms)
        self.spent_ms.update(more_ms)
        for part, part_ms in step.thread_ms.items():
            self.thread_ms.update({"infer" if part == WORKERS else part: part_ms})
        if "infer" in step.thread_ms and WORKERS not in step.thread_ms:
            self._workers_known = False
        self.frame_ms.append(whole_ms)
        self.wall_s = now - self.started
        self._recent.append(now)
        while now - self._recent[0] > RATE_WINDOW_S:
            self._recent.popleft()

    @property
    def rate(self) -> float:
        """Frames per second, over the last RATE_WINDOW_S."""
        span = self._recent[-1] - self._recent[0] if self._recent else 0.0
        return (len(self._recent) - 1) / span if span > 0 else 0.0

    @property
    def active_share(self) -> float:
        """Share of all pixels that were treated as new, 0..1."""
        return self.active / max(1, self.frames)

    @property
    def reused_share(self) -> float:
        """Share of the frames that the network did not process, 0..1."""
        return 1 - self.kinds["computed"] / self.frames if self.frames else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values. `spent_ms` and `cpu_ms`, the same in processor time, are means
        over all frames."""
        times = np.array(self.frame_ms or [0.0])
        half, most = np.percentile(times, (50, 95))
        return {
            "frames": self.frames,
            **{kind: self.kinds[kind] for kind in KINDS},
            "reused_share": round(self.reused_share, 4),
            "active_share": round(self.active_share, 4),
            "wall_s": round(self.wall_s, 3),
            "frames_per_s": round(self.frames / self.wall_s, 2) if self.wall_s else 0.0,
            "frame_ms": {"p50": round(float(half), 2), "p95": round(float(most), 2)},
            "spent_ms": self._means(self.spent_ms),
            "cpu_ms": self._means(self._known_thread_ms()),
        }

    def _known_thread_ms(self) -> Counter[str]:
        hidden = () if self._workers_known else ("infer",)
        return Counter({k: v for k, v in self.thread_ms.items() if k not in hidden})

    def _means(self, totals: Counter[str]) -> dict[str, float]:
        return {name: round(total / max(1, self.frames), 3) for name, total in totals.items()}
