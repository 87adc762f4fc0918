"""Pictures and masks over a clip: structural similarity, and F1 of borders."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import QualityError
from stillframe.models.results import Mask, Picture
from stillframe.pipeline.quality.agreement import NO_LABEL, label_map

SIGMA, RADIUS = 1.5, 5
"""Of the Gaussian window, 11x11 (Wang et al., "Image quality assessment", 2004)."""
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""The paper's constants for 8 bits."""
NEAR = 0.008
"""Borders match within this share of the diagonal, as in the DAVIS benchmark."""


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


@dataclass(slots=True)
class SimilarityMeter:
    """Mean SSIM over a clip; 1 where there is no frame."""

    _sum: float = 0.0
    _frames: int = 0

    def add(self, result: Picture, reference: Picture) -> None:
        self._sum += structural_similarity(result.image, reference.image)
        self._frames += 1

    @property
    def value(self) -> float:
        return self._sum / self._frames if self._frames else 1.0


@dataclass(slots=True)
class BorderMeter:
    """F1 of border pixels that match within NEAR.

    Counts are summed over the clip, then the mean over the labels. Without any border it is 1.
    """

    _counts: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """By label: border pixels of the results, matched ones, of the references, matched ones."""

    def add(self, result: Mask, reference: Mask) -> None:
        ours, theirs = label_map(result), label_map(reference)
        radius = max(1, round(NEAR * float(np.hypot(*theirs.shape))))
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        for label in np.union1d(np.unique(ours), np.unique(theirs)).tolist():
            if label == NO_LABEL:
                continue
            a, b = border(ours == label), border(theirs == label)
            near_a, near_b = (np.asarray(cv2.dilate(each, disk), np.uint8) for each in (a, b))
            counts = [np.count_nonzero(a), np.count_nonzero(a & near_b)]
            counts += [np.count_nonzero(b), np.count_nonzero(b & near_a)]
            total = self._counts.setdefault(label, np.zeros(4, np.int64))
            total += np.array(counts, np.int64)

    @property
    def value(self) -> float:
        each = []
        for ours, ours_matched, theirs, theirs_matched in self._counts.values():
            if ours + theirs:
                precision = ours_matched / ours if ours else 0.0
                recall = theirs_matched / theirs if theirs else 0.0
                total = precision + recall
                each.append(2 * precision * recall / total if total else 0.0)
        return float(sum(each) / len(each)) if each else 1.0


def border(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(H, W) -> 1 where a pixel's right, lower, or lower right neighbour is on the other side."""
    edge = np.zeros(inside.shape, bool)
    edge[:, :-1] |= inside[:, :-1] != inside[:, 1:]
    edge[:-1] |= inside[:-1] != inside[1:]
    edge[:-1, :-1] |= inside[:-1, :-1] != inside[1:, 1:]
    return edge.view(np.uint8)
