"""The noise of a camera, measured while it runs, for each brightness.

Rows of this frame are compared with the same rows LAG frames ago; what differs there, outside
motion, is noise. They are not compared with the gate's reference: low limits take every flicker
over at once, and then nothing seems to flicker. The deviation comes from the tail of the
distribution, because the noise of a compressed video is mostly zero and now and then large.

The figure is the noise of a difference between two frames, which is what the gate compares.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.kernels.noise_histogram import BINS, LEVELS, STRETCH, deviations, tally

LAG = 32  # frames between two samples of the same row
SPACING = 4  # every fourth row is sampled
DECAY = 0.97  # factor of the histogram at each frame


@dataclass(slots=True)
class NoiseMeter:
    """The noise of one camera, of pictures (height, width, 3) uint8.

    Noise is the standard deviation of the largest of the three channel differences, in grey levels.
    """

    height: int
    width: int
    least: float
    """Lower bound of all noise that is reported."""
    most: float
    """Upper bound of all noise that is reported."""
    overall: float = field(init=False)
    """The noise of all brightnesses together."""
    sigma: NDArray[np.float64] = field(init=False)
    """(BINS,): the noise of each brightness."""
    _probe: NDArray[np.uint8] = field(init=False, repr=False)
    _means: NDArray[np.float64] = field(init=False, repr=False)
    _histogram: NDArray[np.float64] = field(init=False, repr=False)
    _every: NDArray[np.float64] = field(init=False, repr=False)
    _turn: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        rows = -(-self.height // SPACING)
        self._probe = np.zeros((rows, self.width * 3), np.uint8)
        self._means = np.zeros(-(-self.width // STRETCH) + 2)
        self._histogram = np.zeros((BINS, LEVELS))
        self._every = np.zeros(LEVELS)
        self.sigma = np.full(BINS, self.least)
        self.reset()

    def reset(self) -> None:
        """Forget everything: another camera."""
        self._histogram[...] = 0.0
        self.sigma[...] = self.least
        self.overall = self.least
        self._turn = 0

    def start(self, image: NDArray[np.uint8]) -> None:
        """Another scene: forget its rows; what was measured of the camera stays."""
        self._probe[...] = image.reshape(self.height, -1)[::SPACING]

    def learn(self, image: NDArray[np.uint8]) -> None:
        """Measure some rows of the next (height, width, 3) frame."""
        self._turn = (self._turn + 1) % LAG
        tally(
            image.reshape(self.height, -1), self._probe, self._turn * SPACING, SPACING,
            SPACING * LAG, DECAY, self._means, self._histogram,
        )  # fmt: skip
        self.overall = float(
            deviations(self._histogram, self._every, self.least, self.most, self.sigma)
        )
