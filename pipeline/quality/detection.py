"""Detections over a clip: average precision as COCO defines it, and a smooth loss for tuning.

    meter = PrecisionMeter()
    meter.add(result, reference)       # once per frame
    meter.at(0.5), meter.mean()        # AP at IoU 0.5, and the mean over 0.5, 0.55 … 0.95
    meter.at(0.5, by_box=True)         # classes weighted by their boxes

COCO counts the best 100 boxes of a frame and class; here all count, so that a page of text agrees
with itself.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillframe.models.results import Detections
from stillframe.pipeline.quality.boxes import overlap, pair_boxes

THRESHOLDS = tuple(float(each) for each in np.linspace(0.5, 0.95, 10))
"""IoU from which a box is right."""
RECALLS = np.linspace(0.0, 1.0, 101)
"""At which precision is sampled."""

Hits = list[tuple[float, NDArray[np.bool_]]]
"""Of each box: its score, and whether it is right at each of THRESHOLDS."""


@dataclass(slots=True)
class PrecisionMeter:
    """Average precision over a clip, class by class."""

    _hits: dict[int, Hits] = field(default_factory=lambda: defaultdict(list))
    """By class, of the results' boxes."""
    _expected: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """By class, the number of the references' boxes."""

    def add(self, result: Detections, reference: Detections) -> None:
        """Count one frame."""
        for label in np.union1d(result.class_id, reference.class_id).tolist():
            ours = np.flatnonzero(result.class_id == label)
            theirs = np.flatnonzero(reference.class_id == label)
            order = np.argsort(-result.confidence[ours], kind="stable")
            ours = ours[order]
            overlaps = overlap(result.xyxy[ours], reference.xyxy[theirs])
            right = np.stack([_greedy(overlaps, each) for each in THRESHOLDS], axis=1)
            scores = result.confidence[ours].tolist()
            self._hits[label] += list(zip(scores, right, strict=True))
            self._expected[label] += len(theirs)

    def at(self, threshold: float, *, by_box: bool = False) -> float | None:
        """AP at one of THRESHOLDS, mean over the classes of the reference; None: it has no box.

        by_box: weigh each class by its boxes in the reference, so that a class that occurs once
        counts little.
        """
        return self._average(THRESHOLDS.index(threshold), by_box)

    def mean(self) -> float | None:
        """Mean over all THRESHOLDS."""
        each = [self._average(column) for column in range(len(THRESHOLDS))]
        known = [value for value in each if value is not None]
        return sum(known) / len(known) if known else None

    def _average(self, column: int, by_box: bool = False) -> float | None:
        counts = {label: count for label, count in self._expected.items() if count}
        if not counts:
            return None
        values = [_precision(self._hits[each], counts[each], column) for each in counts]
        return float(np.average(values, weights=list(counts.values()) if by_box else None))


def _greedy(overlaps: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """(n, m) overlaps, best score first -> (n,) whether each matches a box that is still free."""
    free = np.ones(overlaps.shape[1], bool)
    right = np.zeros(len(overlaps), bool)
    for row, shares in enumerate(overlaps):
        possible = np.where(free, shares, -1.0)
        if possible.size:
            best = len(possible) - 1 - int(np.argmax(possible[::-1]))  # of equals the last
            if possible[best] >= min(threshold, 1 - 1e-10):
                free[best], right[row] = False, True
    return right


def _precision(hits: Hits, expected: int, column: int) -> float:
    """Mean over RECALLS of the best precision at that recall or a higher one."""
    if not hits:
        return 0.0
    order = np.argsort([-score for score, _ in hits], kind="stable")
    right = np.array([hits[each][1][column] for each in order])
    correct = np.cumsum(right)
    recall = correct / expected
    precision = correct / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(
        np.where(at < len(envelope), envelope[np.minimum(at, len(envelope) - 1)], 0.0).mean()
    )


def soft_loss(result: Detections, reference: Detections, least: float) -> tuple[float, float]:
    """What a frame lost, and what it could lose at most, in units of a score.

    Boxes are paired as for F1. A pair loses the difference of its scores and 1 - IoU; a box without
    a partner loses its score. Scores count from `least` on, so that a box that comes and goes there
    loses nothing. Smooth where F1 jumps, so that small changes of a tolerance can be compared.
    """
    pairs = pair_boxes(result, reference)
    weights = [np.maximum(each.confidence - least, 0.0) for each in (result, reference)]
    alone = [np.ones(len(each), bool) for each in (result, reference)]
    lost = 0.0
    for ours, theirs in pairs:
        alone[0][ours] = alone[1][theirs] = False
        shared = float(overlap(result.xyxy[[ours]], reference.xyxy[[theirs]])[0, 0])
        lost += abs(float(weights[0][ours]) - float(weights[1][theirs]))
        lost += (1 - shared) * float(weights[1][theirs])
    lost += sum(float(weights[side][alone[side]].sum()) for side in (0, 1))
    return lost, float(weights[1].sum())


def box_similarity(result: Detections, reference: Detections) -> float:
    """Of one frame, 0..1: twice the summed IoU of pairs over the boxes of both; both empty: 1."""
    count = len(result) + len(reference)
    shares = overlap(result.xyxy, reference.xyxy)
    return (
        2 * sum(float(shares[p]) for p in pair_boxes(result, reference)) / count if count else 1.0
    )
