"""One decoded picture with its time."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture, upright, with its presentation time."""

    image: NDArray[np.uint8]
    """(H, W, 3) uint8 RGB, C-contiguous, rotation metadata already applied."""
    index: int
    """0-based; counts every frame of the source, dropped ones too."""
    time_s: float
    """Presentation time in seconds from the start of the source."""
    pts: int
    """The presentation time exactly, in ticks of `time_base`."""
    time_base: Fraction
    """Seconds per tick."""
    corrupt: bool = False
    """The decoder reported damage: later frames must not be compared with this one."""
    discontinuity: bool = False
    """First frame after a gap (reconnect, seek, time jump): caches start afresh."""
    captured_s: float | None = None
    """When a live picture was taken, by this machine's monotonic clock, as far as it can tell: its
    arrival, or earlier where it was held back or repeats the picture before it bit for bit. None:
    not live."""
    late_s: float = 0.0
    """Seconds from `captured_s` to the arrival."""
    stale: bool = False
    """It was held back, on the way or by the decoder: later frames must not rest on it."""

    @property
    def clock_s(self) -> float:
        """When the picture was taken, for differences: by the wall clock if live, else `time_s`."""
        return self.time_s if self.captured_s is None else self.captured_s
