"""Rolling refresh: when which rows of the picture are renewed at every layer.

A result of the reuse engine rests on values of many ages. A stripe that moves down the picture
renews them, so that none becomes older than the greatest age. A sweep takes a little less than half
of that age, since a layer's row may have been computed from rows of the sweep before. No frame is
computed whole because of its age, so every frame costs about the same.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SWEEPS = 2.2
"""In the greatest age: two, and some time for the last stripe."""
LEAST_ROWS = 16
"""Of a stripe: thinner ones cost more at their borders than they renew."""
LEAST_IN_SMALL, SMALL = 8, 16
"""In small pictures: this many rows, or height / SMALL if that is more."""


@dataclass(slots=True)
class RollingRefresh:
    """The stripes of one stream.

    Goes by the times of frames, so that a slow stream is renewed as quickly as a fast one.
    """

    height: int
    """Rows of the picture."""
    max_age_s: float
    """Infinity: nothing is renewed because of its age."""
    _next: int = 0
    """First row of the next stripe."""
    _pending: float = 0.0
    """Rows that are due."""
    _last_s: float = 0.0
    """Time of the last frame."""
    _newest: NDArray[np.float64] = field(init=False)
    """When each row was renewed last."""
    _before: NDArray[np.float64] = field(init=False)
    """When each row was renewed the time before."""

    def __post_init__(self) -> None:
        self._newest = np.zeros(self.height)
        self._before = np.zeros(self.height)

    def start(self, time_s: float) -> None:
        """Everything was computed for the frame of that time."""
        self._newest[:] = self._before[:] = self._last_s = time_s
        self._next, self._pending = 0, 0.0

    def rows(self, time_s: float) -> tuple[int, int]:
        """The rows, with exclusive end, to renew with the frame of that time; (0, 0): none yet."""
        if not 0 < self.max_age_s < float("inf"):
            return 0, 0
        elapsed_s = max(0.0, time_s - self._last_s)
        self._last_s = time_s
        self._pending += elapsed_s * self.height * SWEEPS / self.max_age_s
        least = min(LEAST_ROWS, max(LEAST_IN_SMALL, self.height // SMALL), self.height - self._next)
        if self._pending < least:
            return 0, 0
        first = self._next
        end = min(first + int(self._pending), self.height)
        self._pending -= end - first
        self._next = end % self.height
        self._before[first:end] = self._newest[first:end]
        self._newest[first:end] = time_s
        return first, end

    @property
    def since_s(self) -> float:
        """The time of the oldest frame that any value may rest on."""
        return float(self._before.min())
