"""Keeps lost boxes hidden for a while.

A detector loses a face for a frame or two when it turns, blurs or is half covered; it must stay
hidden all the same. So a box remains for some time after its last detection, unless a new box
matches it. It grows meanwhile, because the face may have moved.
"""

import math

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]

MATCH_IOU = 0.3  # boxes that overlap at least this much are one object
DRIFT_PER_S = 2.0  # growth on each side, in the box's longer side per second
MAX_DRIFT = 0.5  # in the box's longer side


class BoxHold:
    """The boxes of one stream. seconds: how long a lost box stays; 0: not at all."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._boxes: Boxes = np.empty((0, 4), np.float32)
        self._seen_s: NDArray[np.float64] = np.empty(0)
        self._last_s = self._fresh_s = -math.inf

    def update(self, detected: Boxes, time_s: float, *, fresh: bool) -> Boxes:
        """(n, 4) detected boxes -> (m, 4) boxes to hide in this frame.

        fresh: the boxes were detected in this frame. Otherwise they come from an earlier frame,
        perhaps moved by optical flow. Then the old and the moved place are both hidden, because
        the flow may have followed the wrong thing.
        """
        if time_s < self._last_s:  # the times restarted: drop everything
            self._boxes, self._seen_s, self._fresh_s = self._boxes[:0], self._seen_s[:0], time_s
        self._last_s = time_s
        if fresh:
            self._fresh_s = time_s
            lost = ~match_boxes(self._boxes, detected)
            lost &= time_s - self._seen_s <= self._seconds
            self._boxes = np.concatenate([detected, self._boxes[lost]])
            self._seen_s = np.concatenate([np.full(len(detected), time_s), self._seen_s[lost]])
        moved = detected[~(detected[:, None] == self._boxes[None]).all(axis=2).any(axis=1)]
        boxes = np.concatenate([moved, self._boxes])
        since_s = np.concatenate([np.full(len(moved), self._fresh_s), self._seen_s])
        return add_drift(boxes, time_s - since_s)


def match_boxes(old: Boxes, new: Boxes) -> NDArray[np.bool_]:
    """Which old boxes match a new one. Greedy by IoU; each new box matches one old box."""
    matches = np.zeros(len(old), bool)
    overlaps = box_iou(old, new)
    while overlaps.size and overlaps.max() >= MATCH_IOU:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        matches[row] = True
        overlaps[row] = overlaps[:, column] = 0
    return matches


def box_iou(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    """(n, 4), (m, 4) -> (n, m) intersection over union."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    either = areas[0][:, None] + areas[1][None, :] - both
    return np.asarray(both / np.maximum(either, 1e-6), np.float32)


def add_drift(boxes: Boxes, age_s: NDArray[np.float64]) -> Boxes:
    """The boxes grown by how far their objects may have moved in `age_s`."""
    side = np.max(boxes[:, 2:] - boxes[:, :2], axis=1, initial=0)
    by = side * np.minimum(MAX_DRIFT, DRIFT_PER_S * age_s)
    outward = np.array((-1, -1, 1, 1), np.float32)
    return np.asarray(boxes + by[:, None] * outward, np.float32)


def grow_boxes(boxes: Boxes, share: float) -> Boxes:
    """The boxes with this share of their width and height added on each side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(np.hstack([boxes[:, :2] - sides * share, boxes[:, 2:] + sides * share]))
