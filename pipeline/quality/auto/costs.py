"""What a frame costs: milliseconds of processor time, measured while running."""

import statistics
from collections import deque
from dataclasses import dataclass, field

RECENT = 16
"""Frames that a cost is the mean of."""
WORK_OF_TOLERANCE = {0.01: 1.7, 0.02: 1.45, 0.05: 1.2, 0.1: 1.0, 0.2: 0.75}
"""Relative to each other, what a frame costs at tolerances that were not tried: a guess."""


EXPIRES = 256
"""Partial frames after which the cost of a tolerance that was not used again is forgotten."""


@dataclass(slots=True)
class FrameCosts:
    """Costs of the frames of one model at one size."""

    dense: dict[str, deque[float]] = field(default_factory=dict)
    """Name of a dense backend -> recent costs of a whole frame."""
    partial: dict[float, deque[float]] = field(default_factory=dict)
    """Tolerance -> recent costs of a frame computed by the reuse engine."""
    skipped: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _latest: float | None = None
    """The tolerance that was used last."""
    _used: dict[float, int] = field(default_factory=dict)
    """Tolerance -> number of the last partial frame with it."""
    _frames: int = 0
    """Partial frames so far."""

    def add_dense(self, backend: str, ms: float) -> None:
        self.dense.setdefault(backend, deque(maxlen=RECENT)).append(ms)

    def add_partial(self, tolerance: float, ms: float) -> None:
        self._frames += 1
        self._latest, self._used[tolerance] = tolerance, self._frames
        self.partial.setdefault(tolerance, deque(maxlen=RECENT)).append(ms)
        for each in [t for t, last in self._used.items() if self._frames - last > EXPIRES]:
            del self.partial[each], self._used[each]

    def forget_dense(self, backend: str) -> None:
        """It is measured anew."""
        self.dense.pop(backend, None)

    def forget_partial(self) -> None:
        """Frames at other times cost something else."""
        self.partial.clear()
        self._used.clear()
        self._latest = None

    def of_dense(self, backend: str) -> float | None:
        """Median; None: not measured."""
        costs = self.dense.get(backend)
        return statistics.median(costs) if costs else None

    def dense_medians(self) -> dict[str, float]:
        """Of each backend that was tried, milliseconds."""
        return {name: round(statistics.median(ms), 3) for name, ms in list(self.dense.items())}

    def of_partial(self, tolerance: float, dense_ms: float) -> float | None:
        """Mean; of a tolerance that was not tried, a guess by the one that was used last.

        dense_ms: of a dense frame. Where everything moves no tolerance helps. None: none was tried.
        """
        if tolerance in self.partial:
            return _mean(self.partial[tolerance])
        if self._latest is None:
            return None
        latest = _mean(self.partial[self._latest])
        if latest >= dense_ms:
            return latest
        ratio = WORK_OF_TOLERANCE[tolerance] / WORK_OF_TOLERANCE[self._latest]
        return min(ratio * latest, dense_ms)

    def of_skipped(self) -> float:
        """Mean; 0: none was skipped yet."""
        return _mean(self.skipped) if self.skipped else 0.0


def _mean(costs: deque[float]) -> float:
    return sum(costs) / len(costs)
