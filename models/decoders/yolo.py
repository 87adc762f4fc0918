"""Decoders of YOLO exports with candidate boxes, perhaps with masks or key points.

Coordinates are in pixels of the model's input until the View maps them to the source. The number of
classes is that of `form.labels`; columns after the classes are mask coefficients or key points.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.decoders.detection import expect, suppress
from stillframe.models.decoders.faint import faint_limit, separated, without_surplus
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

STRIDES = (8, 16, 32)
STRIDES_WITH_64 = (8, 16, 32, 64)
LARGEST_EXPONENT = 20.0  # of a raw width: larger than any image, without overflow


@cache
def cells(size: tuple[int, int], strides: tuple[int, ...] = STRIDES) -> NDArray[np.float32]:
    """(n, 3): column, row and stride of every cell, in the order of an export's rows."""
    parts = []
    for stride in strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        y, x = np.mgrid[:rows, :columns]
        parts.append(np.stack((x.ravel(), y.ravel(), np.full(x.size, stride)), 1))
    grid = np.concatenate(parts).astype(np.float32)
    grid.flags.writeable = False
    return grid


def strides_of(count: int, size: tuple[int, int], anchors: int = 1) -> tuple[int, ...] | None:
    """The strides at which an input of this size has `count` rows, with `anchors` per cell."""
    for strides in (STRIDES, STRIDES_WITH_64):
        if anchors * len(cells(size, strides)) == count:
            return strides
    return None


def corners(xywh: NDArray[Any]) -> NDArray[np.float32]:
    """(n, 4) centre, width, height -> left, top, right, bottom."""
    half = np.abs(xywh[:, 2:4]) / 2
    return np.concatenate((xywh[:, :2] - half, xywh[:, :2] + half), 1).astype(np.float32)


def suppressed(
    boxes: NDArray[Any],
    confidence: NDArray[Any],
    class_id: NDArray[Any],
    view: View,
    form: Form,
    extra: NDArray[Any] | None = None,
) -> tuple[Detections, NDArray[Any]]:
    """The detections after suppression within each class, and their rows of `extra`.

    boxes: (n, 4) in model pixels; they are clipped to the source only afterwards. Those above the
    limit come first in `extra`, then the faint ones.
    """
    considered = without_surplus(confidence, confidence > form.confidence)
    boxes, confidence, class_id = (each[considered] for each in (boxes, confidence, class_id))
    strong = int(np.count_nonzero(confidence > form.confidence))
    keep = suppress(boxes, confidence, form.overlap, class_id, strong)
    detections, rows = separated(
        view.boxes(boxes[keep]),
        confidence[keep],
        class_id[keep].astype(np.int64),
        form,
        int(np.count_nonzero(confidence[keep] > form.confidence)),
    )
    if extra is None:
        return detections, np.empty((len(rows), 0), np.float32)
    return detections, extra[considered[keep[rows]]]


def yolox(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, n, 5 + classes), one row per cell: x, y within the cell, log width and height.

    Objectness and classes are after the sigmoid. For exports that decode in the graph: `yolo_v5`.
    """
    expect(outputs, ((1, "n", 5 + len(form.labels)),), "yolox")
    rows = outputs[0][0]
    strides = strides_of(len(rows), view.size)
    if strides is None:
        raise ModelError(
            f"yolox: expected {len(cells(view.size))} rows for an input of "
            f"{view.size[1]}x{view.size[0]}, got {len(rows)}"
        )
    likely = np.flatnonzero(rows[:, 4] > faint_limit(form))
    rows, grid = rows[likely], cells(view.size, strides)[likely]
    scale = grid[:, 2:]
    centre = (rows[:, :2] + grid[:, :2]) * scale
    extent = np.exp(np.minimum(rows[:, 2:4], LARGEST_EXPONENT)) * scale
    boxes = corners(np.concatenate((centre, extent), 1))
    return _best_class(boxes, rows, view, form)[0]


def yolo_v5(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, n, 5 + classes): centre, width, height in pixels, objectness, classes.

    YOLOv5, v6, v7 and YOLOX decoded in the graph; further outputs are their raw heads.
    """
    expect(outputs[:1], ((1, "n", 5 + len(form.labels)),), "yolov5")
    rows = outputs[0][0]
    rows = rows[rows[:, 4] > faint_limit(form)]
    return _best_class(corners(rows), rows, view, form)[0]


def yolo_v5_masks(outputs: Outputs, view: View, form: Form) -> Detections:
    """As `yolo_v5` with k mask coefficients in each row, and (1, k, h, w) prototypes."""
    rows, protos = _with_prototypes(outputs)
    rows = rows[rows[:, 4] > faint_limit(form)]
    detections, coefficients = _best_class(corners(rows), rows, view, form)
    return with_masks(detections, coefficients, protos, view)


def yolo_v8(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, 4 + classes, n), or the last two exchanged: centre, width, height in pixels, classes.

    YOLOv8, v9, v11 and v12; each box is reported with its best class.
    """
    expect(outputs, ((1, "a", "b"),), "yolov8")
    return _columns(_depth_first(outputs[0][0], 4 + len(form.labels)), view, form)[0]


def yolo_v8_masks(outputs: Outputs, view: View, form: Form) -> Detections:
    """As `yolo_v8` with k mask coefficients after the classes, and (1, k, h, w) prototypes."""
    rows, protos = _with_prototypes(outputs)
    detections, coefficients = _columns(
        _depth_first(rows, 4 + len(form.labels) + len(protos)), view, form
    )
    return with_masks(detections, coefficients, protos, view)


def yolo_v8_points(outputs: Outputs, view: View, form: Form, per_point: int = 3) -> Detections:
    """As `yolo_v8` with key points after the classes, per_point numbers each, x and y first."""
    expect(outputs, ((1, "a", "b"),), "yolov8-pose")
    columns = outputs[0][0]
    detections, points = _columns(_depth_first(columns, min(columns.shape)), view, form)
    return with_points(detections, points, view, per_point)


def with_masks(
    detections: Detections, coefficients: NDArray[Any], protos: NDArray[Any], view: View
) -> Detections:
    """The detections with masks: (n, k) coefficients times (k, h, w) prototypes.

    A mask is where that product is positive, inside the box. Faint boxes, whose coefficients follow
    those of the others, have none.
    """
    count, rows, columns = protos.shape
    mixed = (coefficients[: len(detections)] @ protos.reshape(count, -1)).reshape(-1, rows, columns)
    masks = np.zeros((len(detections), *view.source), bool)
    edges = np.concatenate((np.floor(detections.xyxy[:, :2]), np.ceil(detections.xyxy[:, 2:])), 1)
    for mask, mix, (left, top, right, bottom) in zip(
        masks, mixed.astype(np.float32), edges.astype(int), strict=True
    ):
        inside = slice(top, bottom), slice(left, right)
        mask[inside] = view.to_source(mix)[inside] > 0
    return replace(detections, masks=masks)


def with_points(
    detections: Detections, numbers: NDArray[Any], view: View, per_point: int
) -> Detections:
    """The detections with (n, k * per_point) key points in model pixels as landmarks.

    n: of the boxes, then of their faint ones.
    """
    points = view.points(numbers.reshape(len(numbers), -1, per_point)[..., :2])
    faint = detections.faint
    if faint is not None:
        rest = points[len(detections) :]
        valid = np.flatnonzero(np.isfinite(rest).all((1, 2)))
        faint = replace(faint.rows(valid), landmarks=rest[valid])
    return replace(detections, landmarks=points[: len(detections)], faint=faint)


def _best_class(
    boxes: NDArray[Any], rows: NDArray[Any], view: View, form: Form
) -> tuple[Detections, NDArray[Any]]:
    """Rows with objectness (column 4) and classes -> boxes with their best class."""
    end = 5 + len(form.labels)
    scores = rows[:, 4:5] * rows[:, 5:end]
    class_id = scores.argmax(1)
    confidence = scores[np.arange(len(rows)), class_id]
    likely = confidence > faint_limit(form)
    return suppressed(
        boxes[likely], confidence[likely], class_id[likely], view, form, rows[likely, end:]
    )


def _columns(columns: NDArray[Any], view: View, form: Form) -> tuple[Detections, NDArray[Any]]:
    """(4 + classes + extra, n) -> boxes with their best class, and their extra columns."""
    end = 4 + len(form.labels)
    likely = np.flatnonzero(columns[4:end].max(0) > faint_limit(form))
    rows = columns[:, likely].T
    class_id = rows[:, 4:end].argmax(1)
    confidence = rows[np.arange(len(rows)), 4 + class_id]
    return suppressed(corners(rows), confidence, class_id, view, form, rows[:, end:])


def _depth_first(values: NDArray[Any], depth: int) -> NDArray[Any]:
    """The matrix, transposed if need be, with the axis of that depth first."""
    if values.shape[0] == depth:
        return values
    if values.shape[1] == depth:
        return values.T
    raise ModelError(f"yolo: expected {depth} numbers a box, got {values.shape}")


def _with_prototypes(outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any]]:
    """The matrix of boxes and the prototypes; the outputs come in either order."""
    if len(outputs) != 2 or sorted(o.ndim for o in outputs) != [3, 4]:
        got = " ".join("x".join(map(str, o.shape)) for o in outputs)
        raise ModelError(
            f"yolo masks: expected boxes of rank 3 and prototypes of rank 4, got {got}"
        )
    rows, protos = sorted(outputs, key=lambda o: o.ndim)
    return rows[0], protos[0]
