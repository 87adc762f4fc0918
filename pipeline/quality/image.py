"""Pictures and masks over a clip: structural similarity, and how well borders lie."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import QualityError
from stillframe.models.results import Mask, Picture
from stillframe.pipeline.quality.agreement import NO_LABEL, label_map

SIGMA, RADIUS = 1.5, 5  # of the window of Wang et al. 2004: 11x11
LIGHT, CONTRAST = (0.01 * 255) ** 2, (0.03 * 255) ** 2
NEAR = 0.008  # of the diagonal: borders as far apart count as met, as in the DAVIS benchmark


def structural_similarity(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """SSIM of two (H, W, 3) pictures, -1..1: mean over the channels and all whole windows.

    Pictures smaller than a window count as one.
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
    light = (2 * mean_a * mean_b + LIGHT) / (mean_a * mean_a + mean_b * mean_b + LIGHT)
    shares = light * (2 * both + CONTRAST) / (var_a + var_b + CONTRAST)
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
    """F1 of the pixels on borders, met within NEAR, counts summed over the clip; mean over the
    labels that either side shows. Without any border it is 1."""

    _counts: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def add(self, result: Mask, reference: Mask) -> None:
        ours, theirs = label_map(result), label_map(reference)
        radius = max(1, round(NEAR * float(np.hypot(*theirs.shape))))
        disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        for label in np.union1d(np.unique(ours), np.unique(theirs)).tolist():
            if label == NO_LABEL:
                continue
            a, b = border(ours == label), border(theirs == label)
            near_a, near_b = (np.asarray(cv2.dilate(each, disk), np.uint8) for each in (a, b))
            found = [np.count_nonzero(a), np.count_nonzero(a & near_b)]
            found += [np.count_nonzero(b), np.count_nonzero(b & near_a)]
            known = self._counts.setdefault(label, np.zeros(4, np.int64))
            known += np.array(found, np.int64)

    @property
    def value(self) -> float:
        each = []
        for ours, ours_met, theirs, theirs_met in self._counts.values():
            if ours + theirs:
                precision = ours_met / ours if ours else 0.0
                recall = theirs_met / theirs if theirs else 0.0
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
