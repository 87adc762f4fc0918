"""Decoders of the YOLO exports: boxes before suppression, with masks or key points beside them.

Everything is in pixels of the model's input until the view moves it to the source. `form.labels`
says how many classes there are; columns after the classes are mask coefficients or key points.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.decoders.detection import expect, suppress
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

STRIDES = (8, 16, 32)
STRIDES_WITH_64 = (8, 16, 32, 64)
LARGEST_EXPONENT = 20.0  # of a raw width: far beyond any picture, far from overflow


@cache
def cells(size: tuple[int, int], strides: tuple[int, ...] = STRIDES) -> NDArray[np.float32]:
    """(n, 3): column, row and stride of every cell, in the order of the exports' rows."""
    parts = []
    for stride in strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = np.mgrid[:rows, :columns]
        parts.append(np.stack((x.ravel(), y.ravel(), np.full(x.size, stride)), 1))
    grid = np.concatenate(parts).astype(np.float32)
    grid.flags.writeable = False
    return grid


def strides_of(count: int, size: tuple[int, int], anchors: int = 1) -> tuple[int, ...] | None:
    """The strides whose cells, times the anchors of each, make up that count of rows."""
    for strides in (STRIDES, STRIDES_WITH_64):
        if anchors * len(cells(size, strides)) == count:
            return strides
    return None


def corners(xywh: NDArray[Any]) -> NDArray[np.float32]:
    """(n, 4) centre, width, height -> left, top, right, bottom."""
    half = np.abs(xywh[:, 2:4]) / 2
    return np.concatenate((xywh[:, :2] - half, xywh[:, :2] + half), 1).astype(np.float32)


def best(
    boxes: NDArray[Any],
    confidence: NDArray[Any],
    class_id: NDArray[Any],
    view: View,
    form: Form,
    also: NDArray[Any] | None = None,
) -> tuple[Detections, NDArray[Any]]:
    """What is left after suppression within each class, and the rows of `also` that belong to it.

    boxes: (n, 4) in model pixels; they are cut off at the source's borders only afterwards.
    """
    keep = suppress(boxes, confidence, form.overlap, class_id)
    found = Detections(
        xyxy=view.boxes(boxes[keep]),
        confidence=np.clip(confidence[keep], 0, 1),
        class_id=class_id[keep].astype(np.int64),
        labels=form.labels,
    )
    rest = np.empty((len(keep), 0), np.float32) if also is None else also[keep]
    return found, rest


def yolox(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, n, 5 + classes), one row a cell: x, y as parts of the cell, log width and height.

    Objectness and classes are after the sigmoid. Exports that decode in the graph are `yolo_v5`'s.
    """
    expect(outputs, ((1, "n", 5 + len(form.labels)),), "yolox")
    rows = outputs[0][0]
    strides = strides_of(len(rows), view.size)
    if strides is None:
        raise ModelError(
            f"yolox: expected {len(cells(view.size))} rows for an input of "
            f"{view.size[1]}x{view.size[0]}, got {len(rows)}"
        )
    likely = np.flatnonzero(rows[:, 4] > form.confidence)
    rows, grid = rows[likely], cells(view.size, strides)[likely]
    scale = grid[:, 2:]
    centre = (rows[:, :2] + grid[:, :2]) * scale
    extent = np.exp(np.minimum(rows[:, 2:4], LARGEST_EXPONENT)) * scale
    boxes = corners(np.concatenate((centre, extent), 1))
    return _judged(boxes, rows, view, form)[0]


def yolo_v5(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, n, 5 + classes): centre, width, height in pixels, objectness, classes.

    YOLOv5, v6, v7 and YOLOX decoded in the graph.
    """
    expect(outputs, ((1, "n", 5 + len(form.labels)),), "yolov5")
    rows = outputs[0][0]
    rows = rows[rows[:, 4] > form.confidence]
    return _judged(corners(rows), rows, view, form)[0]


def yolo_v5_masks(outputs: Outputs, view: View, form: Form) -> Detections:
    """As `yolo_v5` with k mask coefficients in each row, and (1, k, h, w) prototypes."""
    rows, protos = _with_prototypes(outputs)
    rows = rows[rows[:, 4] > form.confidence]
    found, coefficients = _judged(corners(rows), rows, view, form)
    return masked(found, coefficients, protos, view)


def yolo_v8(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, 4 + classes, n), or the last two exchanged: centre, width, height in pixels, classes.

    YOLOv8, v9, v11 and v12; each box has the class that suits it best.
    """
    expect(outputs, ((1, "a", "b"),), "yolov8")
    return _columns(_upright(outputs[0][0], 4 + len(form.labels)), view, form)[0]


def yolo_v8_masks(outputs: Outputs, view: View, form: Form) -> Detections:
    """As `yolo_v8` with k mask coefficients after the classes, and (1, k, h, w) prototypes."""
    rows, protos = _with_prototypes(outputs)
    found, coefficients = _columns(_upright(rows, 4 + len(form.labels) + len(protos)), view, form)
    return masked(found, coefficients, protos, view)


def yolo_v8_points(outputs: Outputs, view: View, form: Form, per_point: int = 3) -> Detections:
    """As `yolo_v8` with key points after the classes, per_point numbers each, x and y first."""
    expect(outputs, ((1, "a", "b"),), "yolov8-pose")
    columns = outputs[0][0]
    found, points = _columns(_upright(columns, min(columns.shape)), view, form)
    return with_points(found, points, view, per_point)


def masked(
    found: Detections, coefficients: NDArray[Any], protos: NDArray[Any], view: View
) -> Detections:
    """The detections with their masks: prototypes (k, h, w) mixed by (n, k) coefficients.

    A mask is where the mix is positive, inside its box.
    """
    kinds, rows, columns = protos.shape
    mixed = (coefficients @ protos.reshape(kinds, -1)).reshape(-1, rows, columns)
    masks = np.zeros((len(found), *view.source), bool)
    edges = np.concatenate((np.floor(found.xyxy[:, :2]), np.ceil(found.xyxy[:, 2:])), 1)
    for mask, mix, (left, top, right, bottom) in zip(
        masks, mixed.astype(np.float32), edges.astype(int), strict=True
    ):
        inside = slice(top, bottom), slice(left, right)
        mask[inside] = view.picture(mix)[inside] > 0
    return Detections(found.xyxy, found.confidence, found.class_id, found.labels, masks=masks)


def with_points(found: Detections, numbers: NDArray[Any], view: View, per_point: int) -> Detections:
    """The detections with (n, k * per_point) key points in model pixels as landmarks."""
    points = numbers.reshape(len(found), -1, per_point)[..., :2]
    return Detections(
        found.xyxy, found.confidence, found.class_id, found.labels, view.points(points)
    )


def _judged(
    boxes: NDArray[Any], rows: NDArray[Any], view: View, form: Form
) -> tuple[Detections, NDArray[Any]]:
    """Rows of objectness (column 4) times classes -> the best class of each likely box."""
    end = 5 + len(form.labels)
    scores = rows[:, 4:5] * rows[:, 5:end]
    class_id = scores.argmax(1)
    confidence = scores[np.arange(len(rows)), class_id]
    likely = confidence > form.confidence
    return best(boxes[likely], confidence[likely], class_id[likely], view, form, rows[likely, end:])


def _columns(columns: NDArray[Any], view: View, form: Form) -> tuple[Detections, NDArray[Any]]:
    """(4 + classes + rest, n) -> the best class of each likely box, and its rest."""
    end = 4 + len(form.labels)
    likely = np.flatnonzero(columns[4:end].max(0) > form.confidence)
    rows = columns[:, likely].T
    class_id = rows[:, 4:end].argmax(1)
    confidence = rows[np.arange(len(rows)), 4 + class_id]
    return best(corners(rows), confidence, class_id, view, form, rows[:, end:])


def _upright(values: NDArray[Any], depth: int) -> NDArray[Any]:
    """The matrix turned so that its first axis is the one of that depth."""
    if values.shape[0] == depth:
        return values
    if values.shape[1] == depth:
        return values.T
    raise ModelError(f"yolo: expected {depth} numbers a box, got {values.shape}")


def _with_prototypes(outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any]]:
    """The boxes' matrix and the prototypes, whichever comes first."""
    if len(outputs) != 2 or sorted(o.ndim for o in outputs) != [3, 4]:
        got = " ".join("x".join(map(str, o.shape)) for o in outputs)
        raise ModelError(
            f"yolo masks: expected boxes of rank 3 and prototypes of rank 4, got {got}"
        )
    rows, protos = sorted(outputs, key=lambda o: o.ndim)
    return rows[0], protos[0]
