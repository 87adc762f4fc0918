"""Where exactness matters in the next frame: around what the last result shows, or nearly shows.

    Detections: boxes and faint ones, with a margin     Mask: borders, and what is undecided
    anything else: the same everywhere

The map has a cell of `CELL` pixels of the model's picture. docs/explanation/quality.md has what two
limits save, and what margins were tried.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import View
from stillframe.models.results import Detections, Mask, Result

CELL = 16
"""Pixels of the model's picture a side."""
MARGIN = 0.5
"""Of the shorter side of a box, by which it grows to each side."""
LEAST_MARGIN = 16
"""Pixels of the model's picture."""
SAMPLES = 4
"""Of a mask, across a cell and down."""
DECIDED = 0.1
"""A probability within this of 0 or 1 hovers near no limit."""

Map = NDArray[np.uint8]


def near_map(result: Result, view: View) -> Map | None:
    """(h, w), 1 in cells of the model's picture that matter; None: they all do.

    view: how the model's picture lies over the frame of the result.
    """
    if isinstance(result, Detections):
        return _around_boxes(result, view)
    if isinstance(result, Mask):
        return _along_borders(result, view)
    return None


def _cells(view: View) -> tuple[int, int]:
    height, width = view.size
    return -(-height // CELL), -(-width // CELL)


def _around_boxes(result: Detections, view: View) -> Map:
    near = np.zeros(_cells(view), np.uint8)
    faint = result.faint
    boxes = result.xyxy if faint is None else np.concatenate((result.xyxy, faint.xyxy))
    if not len(boxes):
        return near
    corners = boxes.reshape(-1, 2, 2).astype(np.float64) * view.scale + view.offset
    if result.landmarks is not None and result.landmarks.shape[1]:
        points = result.landmarks.astype(np.float64) * view.scale + view.offset
        own = corners[: len(result)]
        own[:, 0] = np.minimum(own[:, 0], points.min(axis=1))
        own[:, 1] = np.maximum(own[:, 1], points.max(axis=1))
    sides = (corners[:, 1] - corners[:, 0]).min(axis=1)
    margin = np.maximum(MARGIN * sides, LEAST_MARGIN)[:, None]
    first = np.maximum(np.floor((corners[:, 0] - margin) / CELL), 0).astype(int)
    end = np.maximum(np.ceil((corners[:, 1] + margin) / CELL), 0).astype(int)
    for (left, top), (right, bottom) in zip(first.tolist(), end.tolist(), strict=True):
        near[top:bottom, left:right] = 1
    return near


def _along_borders(result: Mask, view: View) -> Map:
    rows, columns = _cells(view)
    step = CELL / SAMPLES
    (scale_x, scale_y), (offset_x, offset_y) = view.scale, view.offset
    y = ((np.arange(rows * SAMPLES) + 0.5) * step - offset_y) / scale_y
    x = ((np.arange(columns * SAMPLES) + 0.5) * step - offset_x) / scale_x
    height, width = result.values.shape
    y, x = np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int)
    samples = result.values[np.ix_(y, x)].reshape(rows, SAMPLES, columns, SAMPLES)
    around = np.ones((3, 3), np.uint8)  # a border may lie between two cells
    low = cv2.erode(samples.min(axis=(1, 3)), around)
    high = cv2.dilate(samples.max(axis=(1, 3)), around)
    undecided = (high > DECIDED) & (low < 1 - DECIDED)
    return np.asarray(undecided if result.is_probability else low != high, np.uint8)
