"""Detections over a clip: average precision as COCO counts it, and what a viewer would notice.

judge = PrecisionMeter()
judge.add(result, reference)       # once a frame; the reference's boxes are what there is to find
judge.at(0.5), judge.mean()        # AP at IoU 0.5, and the mean over 0.5, 0.55 … 0.95
judge.at(0.5, by_box=True)         # classes count by their boxes, not all alike

COCO counts the best 100 boxes of a frame and class; here all count, so that a page of text agrees
with itself.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillframe.models.results import Detections
from stillframe.pipeline.quality.agreement import overlap, pair_boxes

THRESHOLDS = tuple(float(each) for each in np.linspace(0.5, 0.95, 10))
RECALLS = np.linspace(0.0, 1.0, 101)

Marks = list[tuple[float, NDArray[np.bool_]]]  # score, and whether it is right at each threshold


@dataclass(slots=True)
class PrecisionMeter:
    """Average precision over a clip, class by class."""

    _marks: dict[int, Marks] = field(default_factory=lambda: defaultdict(list))
    _wanted: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, result: Detections, reference: Detections) -> None:
        """One frame."""
        for label in np.union1d(result.class_id, reference.class_id).tolist():
            ours = np.flatnonzero(result.class_id == label)
            theirs = np.flatnonzero(reference.class_id == label)
            order = np.argsort(-result.confidence[ours], kind="stable")
            ours = ours[order]
            overlaps = overlap(result.xyxy[ours], reference.xyxy[theirs])
            found = np.stack([_greedy(overlaps, each) for each in THRESHOLDS], axis=1)
            scores = result.confidence[ours].tolist()
            self._marks[label] += list(zip(scores, found, strict=True))
            self._wanted[label] += len(theirs)

    def at(self, threshold: float, *, by_box: bool = False) -> float | None:
        """AP at one of THRESHOLDS, mean over the classes that the reference has; None: it has no
        box at all, so there is nothing to find. by_box: each class weighs what it has of the
        reference's boxes, so that one that shows once is not as much as all the others."""
        return self._average(THRESHOLDS.index(threshold), by_box)

    def mean(self) -> float | None:
        """Mean over all THRESHOLDS."""
        each = [self._average(column) for column in range(len(THRESHOLDS))]
        known = [value for value in each if value is not None]
        return sum(known) / len(known) if known else None

    def _average(self, column: int, by_box: bool = False) -> float | None:
        counts = {label: count for label, count in self._wanted.items() if count}
        if not counts:
            return None
        values = [_precision(self._marks[each], counts[each], column) for each in counts]
        return float(np.average(values, weights=list(counts.values()) if by_box else None))


def _greedy(overlaps: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
    """(n, m), best score first -> (n,) whether each takes a box that no better one took."""
    free = np.ones(overlaps.shape[1], bool)
    right = np.zeros(len(overlaps), bool)
    for row, shares in enumerate(overlaps):
        possible = np.where(free, shares, -1.0)
        if possible.size:
            best = len(possible) - 1 - int(np.argmax(possible[::-1]))  # of equals the last
            if possible[best] >= min(threshold, 1 - 1e-10):
                free[best], right[row] = False, True
    return right


def _precision(marks: Marks, wanted: int, column: int) -> float:
    """The mean of the best precision at or above each of RECALLS."""
    if not marks:
        return 0.0
    order = np.argsort([-score for score, _ in marks], kind="stable")
    right = np.array([marks[each][1][column] for each in order])
    hits = np.cumsum(right)
    recall = hits / wanted
    precision = hits / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(
        np.where(at < len(envelope), envelope[np.minimum(at, len(envelope) - 1)], 0.0).mean()
    )


def soft_loss(result: Detections, reference: Detections, least: float) -> tuple[float, float]:
    """What a frame lost, and what there was to lose, in scores.

    Boxes are paired as for F1. A pair loses how far its scores lie apart and what its overlap lacks
    of 1, a box without a partner its score; `least` is taken off, so that one that comes and goes
    there loses nothing. Smooth where F1 jumps, so small changes of a tolerance can be judged.
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


def likeness(result: Detections, reference: Detections) -> float:
    """Of one frame, 0..1: twice the overlaps of pairs over the boxes of both; 1: both are empty."""
    count = len(result) + len(reference)
    shares = overlap(result.xyxy, reference.xyxy)
    return (
        2 * sum(float(shares[p]) for p in pair_boxes(result, reference)) / count if count else 1.0
    )
