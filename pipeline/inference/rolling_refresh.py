"""When which rows of the picture are renewed at every layer, so that no result rests on old frames.

A result of the reuse engine rests on values of many ages. A stripe that moves down the picture
renews them: a sweep takes somewhat less than half of the greatest age, since a layer's row may have
been computed from rows of the sweep before. Nothing is ever computed whole for its age, so
every frame costs about the same.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SWEEPS = 2.2  # in the greatest age: two, and some time for the last stripe
LEAST_ROWS = 16  # thinner stripes cost more at their borders than they renew
LEAST_IN_SMALL, SMALL = 8, 16  # so many rows, or this part of the height, where that is less


@dataclass(slots=True)
class RollingRefresh:
    """The stripes of one stream. height: rows. max_age_s: infinity: nothing is renewed for its age.

    Times are those of frames, so that a slow stream is renewed as quickly as a fast one.
    """

    height: int
    max_age_s: float
    _next: int = 0
    _pending: float = 0.0
    _last_s: float = 0.0
    _newest: NDArray[np.float64] = field(init=False)
    _before: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._newest = np.zeros(self.height)
        self._before = np.zeros(self.height)

    def start(self, time_s: float) -> None:
        """All was computed for the frame of that time."""
        self._newest[:] = self._before[:] = self._last_s = time_s
        self._next, self._pending = 0, 0.0

    def rows(self, time_s: float) -> tuple[int, int]:
        """The rows to renew with the frame of that time; (0, 0): none yet."""
        if not 0 < self.max_age_s < float("inf"):
            return 0, 0
        passed = max(0.0, time_s - self._last_s)
        self._last_s = time_s
        self._pending += passed * self.height * SWEEPS / self.max_age_s
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
