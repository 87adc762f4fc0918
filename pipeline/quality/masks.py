"""Agreement of masks: pixel by pixel, with a margin for what hovers, and along borders.

Probabilities: a pixel is inside from INSIDE on and outside below OUTSIDE; in between it agrees with
either. Label maps: a pixel agrees if the other map has its label within RIM of it.
"""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import QualityError
from stillframe.models.results import Mask

INSIDE, OUTSIDE = 0.6, 0.4
"""Probabilities; 0.5 is the limit of strict comparison."""
RIM = 0.004
"""Share of the diagonal, at least a pixel, by which borders of label maps may differ: half of what
borders are matched within."""
NEAR = 0.008
"""Borders match within this share of the diagonal, as in the DAVIS benchmark."""
NO_LABEL = -1
"""In a label map: the pixel has no label."""

Labels = NDArray[np.int16]


@dataclass(slots=True)
class MaskAgreement:
    """Pixels over a clip, label by label, then the mean over the labels that occur.

    Strict is intersection over union. Kept is 1 less the share of the union that disagrees by the
    margin of the module's head.
    """

    kind: str = "miou"
    borders: "BorderMeter | None" = None
    """Of the place; None: not measured, which takes longer than all else."""
    _both: dict[int, int] = field(default_factory=dict)
    """Pixels of the intersection, by label."""
    _either: dict[int, int] = field(default_factory=dict)
    """Pixels of the union, by label."""
    _apart: dict[int, int] = field(default_factory=dict)
    """Pixels of the union that disagree by the margin, by label."""
    _telling: bool = False

    def add(self, result: Mask, reference: Mask) -> None:
        """Count one frame. Raises QualityError for masks of two sizes."""
        same_shape("mask", result.values, reference.values)
        ours, theirs = label_map(result), label_map(reference)
        labels = labels_of(ours, theirs)
        for label in labels:
            here, there = ours == label, theirs == label
            if result.is_probability and reference.is_probability:
                apart = _hovering_apart(result.values, reference.values)
            else:
                apart = _apart_by_rim(here, there)
            for counts, count in (
                (self._both, int(np.count_nonzero(here & there))),
                (self._either, int(np.count_nonzero(here | there))),
                (self._apart, apart),
            ):
                counts[label] = counts.get(label, 0) + count
        self._telling |= len(labels) > 1 or (reference.is_probability and len(labels) == 1)
        if self.borders is not None:
            self.borders.add(result, reference)

    def merge(self, other: "MaskAgreement") -> None:
        """Count the frames of another agreement too."""
        for counts, more in (
            (self._both, other._both), (self._either, other._either), (self._apart, other._apart)
        ):  # fmt: skip
            for label, count in more.items():
                counts[label] = counts.get(label, 0) + count
        self._telling |= other._telling

    @property
    def value(self) -> float:
        """Kept, 0..1."""
        kept = {label: each - self._apart[label] for label, each in self._either.items()}
        return _mean([kept[label] / self._either[label] for label in kept])

    @property
    def strict(self) -> float:
        """Mean intersection over union."""
        return _mean([self._both[label] / self._either[label] for label in self._either])

    @property
    def telling(self) -> bool:
        """Whether any pixel had the label of a probability, or a map more than one label."""
        return self._telling

    @property
    def place(self) -> float | None:
        """F1 of border pixels, 0..1; None: not measured."""
        return None if self.borders is None else self.borders.value


def label_map(mask: Mask) -> Labels:
    """(H, W): the label of each pixel; NO_LABEL where a probability is below 0.5."""
    if mask.is_probability:
        return np.where(mask.values >= 0.5, 0, NO_LABEL).astype(np.int16)
    return mask.values.astype(np.int16)


def labels_of(*maps: Labels) -> list[int]:
    """The labels that occur in any of the maps."""
    present = {int(label) for each in maps for label in np.unique(each)}
    return sorted(present - {NO_LABEL})


def same_shape(what: str, result: NDArray[Any], reference: NDArray[Any]) -> None:
    """Raise QualityError where the shapes differ."""
    if result.shape != reference.shape:
        raise QualityError(f"{what}: expected shape {reference.shape}, got {result.shape}")


def _hovering_apart(ours: NDArray[Any], theirs: NDArray[Any]) -> int:
    """Pixels that are inside in one map and outside in the other."""
    apart = ((ours >= INSIDE) & (theirs < OUTSIDE)) | ((theirs >= INSIDE) & (ours < OUTSIDE))
    return int(np.count_nonzero(apart))


def _apart_by_rim(here: NDArray[np.bool_], there: NDArray[np.bool_]) -> int:
    """Pixels of one mask that have none of the other within RIM."""
    radius = max(1, round(RIM * float(np.hypot(*here.shape))))
    differs = here != there
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    if not len(rows):
        return 0
    part = tuple(
        slice(max(0, int(each[0]) - radius), int(each[-1]) + radius + 1) for each in (rows, columns)
    )
    a, b = here[part], there[part]
    apart = (a & (_distance(b) > radius)) | (b & (_distance(a) > radius))
    return int(np.count_nonzero(apart))


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(H, W): pixels to the nearest one of the mask; infinity without any."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    outside = np.asarray(~mask, np.uint8)
    return np.asarray(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_5), np.float32)


def _mean(shares: list[float]) -> float:
    return sum(shares) / len(shares) if shares else 1.0


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
        for label in labels_of(ours, theirs):
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
