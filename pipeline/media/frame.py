"""One decoded picture with its time."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture, upright, with the time at which it is to be shown.

    image: (H, W, 3) uint8 RGB, C-contiguous, rotation metadata already applied.
    index: 0-based count of frames that this source has delivered or dropped before this one.
    time_s: presentation time in seconds from the start of the source.
    pts, time_base: the same instant exactly, in the source's own units.
    corrupt: the decoder reported damage; the picture must not become evidence for later frames.
    discontinuity: the first frame after a gap (reconnect, seek, time jump): caches start afresh.
    """

    image: NDArray[np.uint8]
    index: int
    time_s: float
    pts: int
    time_base: Fraction
    corrupt: bool = False
    discontinuity: bool = False
