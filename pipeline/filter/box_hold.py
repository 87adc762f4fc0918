"""Where things that must stay hidden are now, also when they were not looked for or not found.

A detector loses a face for a frame or two where it turns, is blurred or half covered. Who asked
for it to be hidden expects it to stay hidden. So a box that was found once counts for a while
longer, unless a new one has taken its place, and grows meanwhile, since nobody knows where its
owner went.
"""

import math

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]

SAME = 0.3  # of the union: boxes that overlap as much are one thing
DRIFT_PER_S = 2.0  # of a box's longer side, on each side
MOST_DRIFT = 0.5


class BoxHold:
    """The memory of one stream. seconds: how long a lost box still counts; 0: not at all."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._boxes: Boxes = np.empty((0, 4), np.float32)
        self._seen_s: NDArray[np.float64] = np.empty(0)
        self._last_s = self._fresh_s = -math.inf

    def update(self, found: Boxes, time_s: float, *, fresh: bool) -> Boxes:
        """(n, 4) boxes of a frame -> (m, 4), those to hide in it.

        fresh: the boxes are known to hold for this very frame; otherwise it was not looked at, and
        they are those of an earlier frame, or where these were followed to: both places count,
        since nobody knows whether it was the thing itself that was followed.
        """
        if time_s < self._last_s:  # the times began anew: nothing before them counts
            self._boxes, self._seen_s, self._fresh_s = self._boxes[:0], self._seen_s[:0], time_s
        self._last_s = time_s
        if fresh:
            self._fresh_s = time_s
            lost = ~match_boxes(self._boxes, found)
            lost &= time_s - self._seen_s <= self._seconds
            self._boxes = np.concatenate([found, self._boxes[lost]])
            self._seen_s = np.concatenate([np.full(len(found), time_s), self._seen_s[lost]])
        elsewhere = found[~(found[:, None] == self._boxes[None]).all(axis=2).any(axis=1)]
        boxes = np.concatenate([elsewhere, self._boxes])
        since_s = np.concatenate([np.full(len(elsewhere), self._fresh_s), self._seen_s])
        return add_drift(boxes, time_s - since_s)


def match_boxes(old: Boxes, new: Boxes) -> NDArray[np.bool_]:
    """Which of the old boxes have a new one in their place; a new one stands for one old one."""
    found = np.zeros(len(old), bool)
    overlaps = box_iou(old, new)
    while overlaps.size and overlaps.max() >= SAME:
        row, column = np.unravel_index(overlaps.argmax(), overlaps.shape)
        found[row] = True
        overlaps[row] = overlaps[:, column] = 0
    return found


def box_iou(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    """(n, 4), (m, 4) -> (n, m) intersection over union."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    either = areas[0][:, None] + areas[1][None, :] - both
    return np.asarray(both / np.maximum(either, 1e-6), np.float32)


def add_drift(boxes: Boxes, age_s: NDArray[np.float64]) -> Boxes:
    """The boxes with what their owners may have moved by since."""
    side = np.max(boxes[:, 2:] - boxes[:, :2], axis=1, initial=0)
    by = side * np.minimum(MOST_DRIFT, DRIFT_PER_S * age_s)
    outward = np.array((-1, -1, 1, 1), np.float32)
    return np.asarray(boxes + by[:, None] * outward, np.float32)


def grow_boxes(boxes: Boxes, share: float) -> Boxes:
    """The boxes with that share of their width and height added on each side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(np.hstack([boxes[:, :2] - sides * share, boxes[:, 2:] + sides * share]))
