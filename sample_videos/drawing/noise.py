"""What a camera's sensor adds: grain that is stronger in bright parts and partly coloured."""

import cv2
import numpy as np

from stillframe.sample_videos.drawing.texture import Field, Picture

_SPARE = 96
_FIXED = 64


class SensorNoise:
    """Grain for pictures of one size; `sigma` is its standard deviation at middle grey, 0..255.

    A larger field of grain is made once; each frame takes it from another place and side, so that
    frames are independent of each other and the cost is a few passes over the picture.
    """

    def __init__(self, width: int, height: int, sigma: float, random: np.random.Generator) -> None:
        self.sigma = sigma
        self._size = (height, width)
        rows, columns = height + _SPARE, width + _SPARE
        bright = random.standard_normal((rows, columns, 1), np.float32)
        tinted = random.standard_normal((rows, columns, 3), np.float32)
        field: Field = cv2.GaussianBlur(0.85 * bright + 0.53 * tinted, (0, 0), 0.45)
        field *= sigma * _FIXED / float(field.std())
        self._field = np.round(np.clip(field, -32000, 32000)).astype(np.int16)
        level = np.arange(256, dtype=np.float32) / 255
        gain = np.sqrt(0.25 + 0.75 * level / 0.5)
        self._gain = np.round(gain * 256).astype(np.int16)[None]

    def add(self, clean: Picture, random: np.random.Generator) -> Picture:
        """The picture with fresh grain."""
        if self.sigma == 0:
            return clean
        top, left, side = (int(n) for n in random.integers((_SPARE, _SPARE, 4)))
        grain = self._field[top : top + self._size[0], left : left + self._size[1]]
        grain = grain[:: 1 if side & 1 else -1, :: 1 if side & 2 else -1]
        strength = cv2.LUT(clean, self._gain)
        scaled = cv2.multiply(np.ascontiguousarray(grain), strength, scale=1 / (256 * _FIXED))
        return cv2.add(clean, scaled, dtype=cv2.CV_8U)
