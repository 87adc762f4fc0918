"""How noisy a camera is, learnt while it runs, for each brightness.

The difference between rows of this frame and the same rows LAG frames ago is mostly noise; its
median, per brightness, gives a deviation that motion does not poison. Noise of two frames adds up,
as it does between a frame and a reference, so the figure is the one that the gate needs.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.kernels.gate import deviations, tally

BINS = 16  # of brightness
LEVELS = 65  # differences 0 .. 64; larger ones are no noise
LAG = 16  # frames between two looks at the same row; also, every LAG-th row pair is looked at
DECAY = 0.95  # of the histogram, a frame


@dataclass(slots=True)
class NoiseMeter:
    """The noise of one camera. sigma (BINS,) and overall are deviations in grey levels."""

    height: int
    width: int
    least: float
    most: float
    sigma: NDArray[np.float64] = field(init=False)
    overall: float = field(init=False)
    _probe: NDArray[np.uint8] = field(init=False)
    _histogram: NDArray[np.float64] = field(init=False)
    _turn: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.sigma = np.full(BINS, self.least)
        self.overall = self.least
        self._probe = np.zeros((self.height, self.width, 3), np.uint8)
        self._histogram = np.zeros((BINS, LEVELS))

    def start(self, image: NDArray[np.uint8]) -> None:
        """Another scene: earlier rows say nothing of it, what was learnt of the camera stays."""
        self._probe[...] = image

    def learn(self, image: NDArray[np.uint8]) -> None:
        """Look at some rows of the next (H, W, 3) frame."""
        self._turn += 1
        first = self._turn % LAG * 2
        tally(image, self._probe, first, 2 * LAG, DECAY, self._histogram)
        self.overall = deviations(self._histogram, self.least, self.most, self.sigma)
