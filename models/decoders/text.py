"""Decoder of DB text detectors: a map of text probability per pixel -> lines of text.

Differentiable Binarization (Liao et al. 2020) learns text regions shrunk towards their centre.
Decoding finds them, scores each by its mean probability, and grows it back by a distance that
follows from its area and perimeter.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.decoders.detection import expect
from stillframe.models.decoders.faint import faint_limit, separated
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

PIXEL_THRESHOLD = 0.3
GROWTH = 1.6
"""Times area / perimeter: the distance that a region grows by on every side."""
MIN_SIDE_PX = 3.0
"""Smaller regions are noise: in model pixels before growing, in source pixels after."""
MIN_GROWN_SIDE_PX = 5.0
MAX_REGIONS = 1000


def text_lines(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, 1, H, W) probability of text -> lines, each with its upright box and four corners.

    landmarks: corners of the rotated rectangle around the line, clockwise from the top left.
    """
    expect(outputs[:1], ((1, 1, *view.size),), "text map")
    probability = np.ascontiguousarray(outputs[0][0, 0], np.float32)
    bits = cv2.dilate((probability > PIXEL_THRESHOLD).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(bits, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    regions, means = [], []
    for contour in contours[:MAX_REGIONS]:
        middle, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < MIN_SIDE_PX:
            continue
        score = _mean_inside(probability, _corners((middle, (width, height), angle)))
        if score < faint_limit(form):
            continue
        growth = 2 * GROWTH * width * height / (2 * (width + height))
        if min(width, height) + growth < MIN_GROWN_SIDE_PX:
            continue
        regions.append(_corners((middle, (width + growth, height + growth), angle)))
        means.append(score)
    if not regions:
        return Detections.none(form.labels, points=4)
    quads, scores = _clockwise(view.points(np.stack(regions))), np.array(means)
    sides = np.linalg.norm(quads[:, [1, 3]] - quads[:, :1], axis=2)
    large = sides.min(axis=1) > MIN_SIDE_PX
    quads, scores = quads[large], scores[large]
    order = np.argsort(-scores, kind="stable")
    limits = np.array(view.source[::-1], np.float32)
    corners = np.clip(quads[order], np.float32(0), limits)
    return separated(
        np.concatenate((corners.min(1), corners.max(1)), 1),
        scores[order].astype(np.float32),
        np.zeros(len(order), np.int64),
        form,
        int(np.count_nonzero(scores >= form.confidence)),
        corners,
    )[0]


RotatedRect = tuple[Sequence[float], Sequence[float], float]
"""As in OpenCV: centre (x, y), (width, height), angle in degrees."""


def _corners(rectangle: RotatedRect) -> NDArray[np.float32]:
    return np.asarray(cv2.boxPoints(rectangle), np.float32)


def _mean_inside(probability: NDArray[np.float32], quad: NDArray[np.float32]) -> float:
    """The mean of the (H, W) map over the pixels inside a (4, 2) polygon."""
    last = np.array(probability.shape[::-1]) - 1
    low = np.clip(np.floor(quad.min(0)), 0, last).astype(int)
    high = np.clip(np.ceil(quad.max(0)), 0, last).astype(int)
    inside = np.zeros((high[1] - low[1] + 1, high[0] - low[0] + 1), np.uint8)
    cv2.fillPoly(inside, [(quad - low).astype(np.int32)], 1)
    part = probability[low[1] : high[1] + 1, low[0] : high[0] + 1]
    return float(cv2.mean(part, inside)[0])


def _clockwise(quads: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 4, 2) corners in the order top left, top right, bottom right, bottom left."""
    by_x = _sorted(quads, axis=0)
    left, right = _sorted(by_x[:, :2], axis=1), _sorted(by_x[:, 2:], axis=1)
    return np.stack((left[:, 0], right[:, 0], right[:, 1], left[:, 1]), axis=1)


def _sorted(points: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """(n, k, 2) points, the k of each by their x (axis 0) or y (axis 1)."""
    order = np.argsort(points[:, :, axis], axis=1, kind="stable")
    return np.take_along_axis(points, order[:, :, None], axis=1)
