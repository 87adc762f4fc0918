"""How noisy a camera is, learnt while it runs, for each brightness.

The difference between rows of this frame and the same rows LAG frames ago is mostly noise; its
median, per brightness, gives a deviation that motion does not poison. Noise of two frames adds up,
as it does between a frame and a reference, so the figure is the one that the gate needs.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.kernels.jit import kernel

BINS = 16  # of brightness
LEVELS = 65  # differences 0 .. 64; larger ones are no noise
LAG = 16  # frames between two looks at the same row; also, every LAG-th row pair is looked at
DECAY = 0.95  # of the histogram, a frame
MEDIAN_OF_UNIT = 1.1503  # the 0.75 quantile of |x| for a standard normal x
QUANTILE = 0.75
ENOUGH = 500.0  # samples that a brightness needs to speak for itself


@kernel
def brightness(red, green, blue):  # type: ignore[no-untyped-def]
    """The bin of a pixel, 0 .. 15."""
    return (np.int64(red) + 2 * np.int64(green) + np.int64(blue)) >> 6


@kernel
def tally(image, probe, first, step, decay, histogram):  # type: ignore[no-untyped-def]
    # adds the differences of rows first, first + step, … to histogram (BINS, LEVELS); probe (H, W,
    # 3) then holds these rows of image
    for level in range(histogram.shape[0]):
        for difference in range(histogram.shape[1]):
            histogram[level, difference] *= decay
    for y in range(first, image.shape[0], step):
        for x in range(image.shape[1]):
            largest = 0
            for c in range(3):
                gap = abs(np.int64(image[y, x, c]) - np.int64(probe[y, x, c]))
                largest = max(largest, gap)
                probe[y, x, c] = image[y, x, c]
            if largest < histogram.shape[1]:
                level = brightness(image[y, x, 0], image[y, x, 1], image[y, x, 2])
                histogram[level, largest] += 1.0


@kernel
def quantile(counts, share):  # type: ignore[no-untyped-def]
    """The value below which `share` of the counts lie, with linear interpolation in its bin."""
    total = counts.sum()
    wanted = share * total
    below = 0.0
    for value in range(counts.shape[0]):
        if below + counts[value] >= wanted and counts[value] > 0:
            return max(0.0, value - 0.5 + (wanted - below) / counts[value])
        below += counts[value]
    return 0.0


@kernel
def deviations(histogram, least, most, sigma):  # type: ignore[no-untyped-def]
    """histogram (BINS, LEVELS) -> sigma (BINS,), each within [least, most]; -> that of all."""
    every = quantile(histogram.sum(axis=0), QUANTILE) / MEDIAN_OF_UNIT
    every = min(max(every, least), most)
    for level in range(histogram.shape[0]):
        count = histogram[level].sum()
        own = quantile(histogram[level], QUANTILE) / MEDIAN_OF_UNIT if count > 0 else every
        weight = count / (count + ENOUGH)
        sigma[level] = min(max(own * weight + every * (1.0 - weight), least), most)
    return every


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
