"""How noisy a camera is, learnt while it runs, for each brightness.

Rows of this frame are compared with the same rows LAG frames ago: what differs there, outside
motion, is noise. Not with the reference, for that would have two answers: where everything that
flickers is taken over at once nothing seems to flicker. And a tail, not the middle, gives the
deviation, because the noise of a compressed video is mostly zero and now and then large.

Noise of two frames adds up, as between a frame and a reference: the figure is the one that the gate
needs.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.kernels.noise_histogram import BINS, LEVELS, STRETCH, deviations, tally

LAG = 32  # frames between two looks at the same row
SPACING = 4  # every fourth row is looked at
DECAY = 0.97  # of what is known, a frame


@dataclass(slots=True)
class NoiseMeter:
    """The noise of one camera, of pictures (height, width, 3) uint8.

    sigma (BINS,) float64, by brightness, and `overall`: deviations of the largest of the three
    channel differences, in grey levels, kept within [least, most].
    """

    height: int
    width: int
    least: float
    most: float
    overall: float = field(init=False)
    sigma: NDArray[np.float64] = field(init=False)
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
        """Another camera: nothing is known of it."""
        self._histogram[...] = 0.0
        self.sigma[...] = self.least
        self.overall = self.least
        self._turn = 0

    def start(self, image: NDArray[np.uint8]) -> None:
        """Another scene: earlier rows say nothing of it, what was learnt of the camera stays."""
        self._probe[...] = image.reshape(self.height, -1)[::SPACING]

    def learn(self, image: NDArray[np.uint8]) -> None:
        """Look at some rows of the next (height, width, 3) frame."""
        self._turn = (self._turn + 1) % LAG
        tally(
            image.reshape(self.height, -1), self._probe, self._turn * SPACING, SPACING,
            SPACING * LAG, DECAY, self._means, self._histogram,
        )  # fmt: skip
        self.overall = float(
            deviations(self._histogram, self._every, self.least, self.most, self.sigma)
        )
