"""Agreement of pictures: structural similarity, and the peak signal-to-noise ratio."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import QualityError
from stillframe.models.results import Picture

MOST_PSNR = 99.0
"""dB of pictures without any difference; JSON cannot write infinity."""
SIGMA, RADIUS = 1.5, 5
"""Of the Gaussian window, 11x11 (Wang et al., "Image quality assessment", 2004)."""
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""The paper's constants for 8 bits."""


@dataclass(slots=True)
class PictureAgreement:
    """Pictures of 0..255 over a clip.

    Kept is the mean over the frames of their structural similarity, at least 0. Strict is dB from
    the mean squared error over the clip, at most MOST_PSNR.
    """

    kind: str = "psnr"
    _squares: float = 0.0
    _values: int = 0
    _similarities: float = 0.0
    _frames: int = 0

    def add(self, result: Picture, reference: Picture) -> None:
        """Count one frame. Raises QualityError for pictures of two sizes."""
        if result.image.shape != reference.image.shape:
            raise QualityError(
                f"picture: expected shape {reference.image.shape}, got {result.image.shape}"
            )
        difference = result.image.astype(np.int32) - reference.image
        squares = float(np.sum(difference * difference, dtype=np.int64))
        self._squares += squares
        self._values += difference.size
        same = not squares
        similarity = 1.0 if same else structural_similarity(result.image, reference.image)
        self._similarities += max(0.0, similarity)
        self._frames += 1

    def merge(self, other: "PictureAgreement") -> None:
        """Count the frames of another agreement too."""
        self._squares += other._squares
        self._values += other._values
        self._similarities += other._similarities
        self._frames += other._frames

    @property
    def value(self) -> float:
        """Kept, 0..1."""
        return self._similarities / self._frames if self._frames else 1.0

    @property
    def strict(self) -> float:
        """Peak signal-to-noise ratio, dB."""
        if not self._squares:
            return MOST_PSNR
        return min(MOST_PSNR, 10 * math.log10(255**2 * self._values / self._squares))

    @property
    def telling(self) -> bool:
        """A picture always shows something."""
        return self._frames > 0

    @property
    def place(self) -> float | None:
        """Pictures have no place."""
        return None


def structural_similarity(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """SSIM of two (H, W, 3) pictures, -1..1: mean over the channels and all complete windows.

    A picture smaller than a window is one window. Raises QualityError where the sizes differ.
    """
    if image.shape != other.shape:
        raise QualityError(f"picture: expected shape {other.shape}, got {image.shape}")
    a, b = image.astype(np.float32), other.astype(np.float32)

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        size = (2 * RADIUS + 1,) * 2
        blurred = cv2.GaussianBlur(values, size, SIGMA, borderType=cv2.BORDER_REFLECT)
        return np.asarray(blurred, np.float32)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a * mean_a, mean(b * b) - mean_b * mean_b
    both = mean(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1)
    shares = light * (2 * both + C2) / (var_a + var_b + C2)
    rows, columns = (slice(RADIUS, -RADIUS) if n > 2 * RADIUS else slice(None) for n in a.shape[:2])
    return float(shares[rows, columns].mean(dtype=np.float64))
