"""Detections and their faint boxes, from one decoding down to FAINT times the confidence limit.

A candidate is suppressed only by better ones. So candidates below the limit change nothing about
those above it, and what is above it comes first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Form
from stillframe.models.results import FAINT, Detections

MOST_FAINT = 200
"""Candidates below the limit that a decoder considers, the best of them."""


def faint_limit(form: Form) -> float:
    """The score from which candidates are decoded."""
    return form.confidence * FAINT


def without_surplus(confidence: NDArray[Any], strong: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(n,) scores of candidates -> the indices to consider, in order: all strong ones, and the best
    MOST_FAINT of the others."""
    others = np.flatnonzero(~strong)
    if len(others) <= MOST_FAINT:
        return np.arange(len(confidence))
    best = others[np.argpartition(-confidence[others], MOST_FAINT)[:MOST_FAINT]]
    return np.sort(np.concatenate((np.flatnonzero(strong), best)))


def separated(
    xyxy: NDArray[Any],
    confidence: NDArray[Any],
    class_id: NDArray[Any],
    form: Form,
    strong: int,
    landmarks: NDArray[Any] | None = None,
) -> tuple[Detections, NDArray[np.intp]]:
    """Detections of rows, best first: `strong` of them reach the limit, the others are faint.

    Also the indices of the rows in use. A faint row that is no valid box is left out: only what a
    user sees can be an error.
    """
    confidence = np.clip(confidence, 0, 1)
    class_id = np.asarray(class_id)
    rest = np.arange(strong, len(xyxy))
    valid = np.isfinite(xyxy[rest]).all(1) & (class_id[rest] >= 0)
    valid &= class_id[rest] < len(form.labels)
    if landmarks is not None:
        valid &= np.isfinite(landmarks[rest]).all((1, 2))
    rest = rest[valid]

    def part(rows: Any, faint: Detections | None = None) -> Detections:
        points = None if landmarks is None else landmarks[rows]
        return Detections(
            xyxy[rows], confidence[rows], class_id[rows], form.labels, points, faint=faint
        )

    return part(slice(strong), part(rest)), np.concatenate((np.arange(strong), rest))
