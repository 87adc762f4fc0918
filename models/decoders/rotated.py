"""Decoders of oriented boxes (OBB): YOLO exports with an angle for each box.

A box is its centre, width, height and the angle of the width, in radians, clockwise in pixels. The
result has the four corners as landmarks, beside the upright box around them.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models.decoders.detection import MAX_CANDIDATES, expect
from stillframe.models.decoders.faint import faint_limit, separated, without_surplus
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

EPSILON = 1e-7


def yolo_v8_oriented(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, 4 + classes + 1, n), or the last two exchanged: box, classes, angle.

    Suppressed within each class by `probabilistic_overlap`, as Ultralytics does.
    """
    expect(outputs, ((1, "a", "b"),), "oriented boxes")
    depth = 4 + len(form.labels) + 1
    columns = outputs[0][0] if outputs[0].shape[1] == depth else outputs[0][0].T
    expect((columns,), ((depth, "n"),), "oriented boxes")
    likely = np.flatnonzero(columns[4:-1].max(0) > faint_limit(form))
    rows = columns[:, likely].T.astype(np.float32)
    class_id = rows[:, 4:-1].argmax(1)
    confidence = rows[np.arange(len(rows)), 4 + class_id]
    considered = without_surplus(confidence, confidence > form.confidence)
    boxes = np.concatenate((rows[:, :4], rows[:, -1:]), 1)[considered]
    confidence, class_id = confidence[considered], class_id[considered]
    keep = _suppress(boxes, confidence, class_id, form.overlap)
    return _oriented(boxes[keep], confidence[keep], class_id[keep], view, form)


def end_to_end_oriented(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, n, 7): centre, width, height, score, class, angle; suppressed in the graph."""
    expect(outputs, ((1, "n", 7),), "listed oriented boxes")
    rows = outputs[0][0].astype(np.float32)
    rows = rows[rows[:, 4] > faint_limit(form)]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    boxes = rows[:, [0, 1, 2, 3, 6]]
    class_id = np.rint(rows[:, 5]).astype(np.int64)
    return _oriented(boxes, rows[:, 4], class_id, view, form)


def rotated_corners(boxes: NDArray[Any]) -> NDArray[np.float32]:
    """(n, 5) centre, width, height, angle -> (n, 4, 2) corners, in order around the box."""
    cosine, sine = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    along = np.stack((boxes[:, 2] / 2 * cosine, boxes[:, 2] / 2 * sine), 1)
    across = np.stack((-boxes[:, 3] / 2 * sine, boxes[:, 3] / 2 * cosine), 1)
    centre = boxes[:, :2]
    quads = (-along - across, along - across, along + across, -along + across)
    return np.stack([centre + each for each in quads], 1).astype(np.float32)


def probabilistic_overlap(one: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """How much a box, (5,), overlaps (n, 5) others, 0..1.

    1 minus the Hellinger distance of the normal distributions that have the boxes' variances
    (Llerena et al. 2021, "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union").
    """
    a1, b1, c1 = _covariance(one[None])
    a2, b2, c2 = _covariance(others)
    dx, dy = others[:, 0] - one[0], others[:, 1] - one[1]
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    determinant = a * b - c**2 + EPSILON
    first = (a * dy**2 + b * dx**2) / determinant / 4 - c * dx * dy / determinant / 2
    spread = np.maximum(a1 * b1 - c1**2, 0) * np.maximum(a2 * b2 - c2**2, 0)
    second = 0.5 * np.log(determinant / (4 * np.sqrt(spread) + EPSILON) + EPSILON)
    distance = np.clip(first + second, EPSILON, 100)
    return np.asarray(1 - np.sqrt(1 - np.exp(-distance) + EPSILON))


def _covariance(boxes: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Variance in x, in y, and covariance of points spread evenly over each box."""
    wide, high = boxes[:, 2] ** 2 / 12, boxes[:, 3] ** 2 / 12
    cosine, sine = np.cos(boxes[:, 4]), np.sin(boxes[:, 4])
    return (
        wide * cosine**2 + high * sine**2,
        wide * sine**2 + high * cosine**2,
        (wide - high) * cosine * sine,
    )


def _suppress(
    boxes: NDArray[Any], confidence: NDArray[Any], class_id: NDArray[Any], overlap: float
) -> NDArray[np.intp]:
    """The indices of the boxes to keep, best first; as `detection.suppress`."""
    order = np.argsort(-confidence, kind="stable")[:MAX_CANDIDATES]
    alive = np.ones(len(order), bool)
    for place, index in enumerate(order):
        if not alive[place]:
            continue
        rest = np.flatnonzero(alive[place + 1 :]) + place + 1
        rest = rest[class_id[order[rest]] == class_id[index]]
        alive[rest[probabilistic_overlap(boxes[index], boxes[order[rest]]) >= overlap]] = False
    return order[alive]


def _oriented(
    boxes: NDArray[Any],
    confidence: NDArray[Any],
    class_id: NDArray[Any],
    view: View,
    form: Form,
) -> Detections:
    """Detections of (n, 5) boxes in model pixels, best first."""
    points = view.points(rotated_corners(boxes))
    limits = np.array(view.source[::-1], np.float32)
    within = np.clip(points, np.float32(0), limits)
    strong = int(np.count_nonzero(confidence > form.confidence))
    xyxy = np.concatenate((within.min(1), within.max(1)), 1)
    detections, _ = separated(xyxy, confidence, class_id.astype(np.int64), form, strong, points)
    if detections.landmarks is None:
        return replace(detections, landmarks=np.empty((0, 4, 2), np.float32))
    return detections
