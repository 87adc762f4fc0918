"""Repeatability: how well a network agrees with itself when the camera shoots the same scene again.

    noise = CameraNoise()
    noise.add(fitted)                         # each frame, at the model's size
    again = noisy(fitted, noise.level, seed)  # the same scene, with other noise

The agreement of the dense result of `again` with that of `fitted` is the ceiling of any agreement:
no floor above it can be held.
"""

import math

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.gate.noise import NoiseMeter

LEAST_LEVEL = 0.5
"""Grey levels: what rounding leaves, once in the camera's YUV and once in RGB. A compressed or
drawn clip repeats still pixels exactly, and shows less noise than its scene has."""
MOST_LEVEL = 12.0
"""Grey levels; more is taken for motion."""


class CameraNoise:
    """The noise of one stream, measured between frames. Not thread-safe.

    Unlike the noise that the change gate assumes, it is not held within the gate's limits.
    """

    def __init__(self) -> None:
        self._meter: NoiseMeter | None = None

    def add(self, fitted: NDArray[np.uint8]) -> None:
        """Measure some rows of the next (H, W, 3) frame. Another size begins afresh."""
        height, width = fitted.shape[:2]
        meter = self._meter
        if meter is None or (meter.height, meter.width) != (height, width):
            self._meter = NoiseMeter(height, width, 0.0, MOST_LEVEL * math.sqrt(2))
            self._meter.start(np.ascontiguousarray(fitted))
        else:
            meter.learn(np.ascontiguousarray(fitted))

    @property
    def level(self) -> float:
        """Standard deviation of a frame's noise, grey levels, at least LEAST_LEVEL.

        The meter has that of the difference between two frames, which is the square root of two
        times as large.
        """
        measured = 0.0 if self._meter is None else self._meter.overall / math.sqrt(2)
        return max(LEAST_LEVEL, measured)


def noisy(image: NDArray[np.uint8], level: float, seed: int | tuple[int, ...]) -> NDArray[np.uint8]:
    """The image with Gaussian noise of that standard deviation, in grey levels, in each value.

    The same seed gives the same noise.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(image.shape, np.float32)
    noise *= np.float32(level)
    noise += image
    np.rint(noise, out=noise)
    np.clip(noise, 0, 255, out=noise)
    return noise.astype(np.uint8)
