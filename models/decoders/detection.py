"""Decoders of CenterFace and YOLOv3, and what all detectors share: shape check, suppression."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.decoders.faint import faint_limit, separated, without_surplus
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

MAX_CANDIDATES = 4096
"""Only this many of the best boxes go into suppression, whose time grows quadratically."""

CENTERFACE_STRIDE = 4
YOLO_ANCHORS: Mapping[int, tuple[tuple[int, int], ...]] = {
    16: ((23, 27), (37, 58), (81, 82)),
    32: ((81, 82), (135, 169), (344, 319)),
}
"""Of yolov3-tiny: stride -> (width, height) in pixels. The weights were trained with these, though
the configuration usually published with them names (10, 14), (23, 27), (37, 58) for stride 16."""


def expect(outputs: Outputs, shapes: tuple[tuple[int | str, ...], ...], what: str) -> None:
    """Raise ModelError unless the outputs have these shapes; the same letter is the same size."""
    sizes: dict[str, int] = {}
    fits = len(outputs) == len(shapes)
    for array, shape in zip(outputs, shapes, strict=False):
        fits &= array.ndim == len(shape) and all(
            got == (sizes.setdefault(expected, got) if isinstance(expected, str) else expected)
            for expected, got in zip(shape, array.shape, strict=True)
        )
    if not fits:
        expected = " ".join("x".join(map(str, s)) for s in shapes)
        got = " ".join("x".join(map(str, o.shape)) for o in outputs)
        raise ModelError(f"{what}: expected outputs {expected}, got {got}")


def suppress(
    xyxy: NDArray[Any],
    confidence: NDArray[Any],
    overlap: float,
    class_id: NDArray[Any] | None = None,
    strong: int | None = None,
) -> NDArray[np.intp]:
    """Non-maximum suppression: the indices of the boxes to keep, best first.

    A box is dropped if a better one (of its class, if classes are given) overlaps it with an
    intersection over union of `overlap` or more. Of two equal scores the later box comes first.
    strong: how many reach the limit; the faint ones after them, which are few, are compared all at
    once. None: all do.
    """
    order = np.argsort(confidence, kind="stable")[::-1][:MAX_CANDIDATES]
    boxes = np.asarray(xyxy)[order]
    classes = None if class_id is None else np.asarray(class_id)[order]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    columns = np.ascontiguousarray(boxes.T)
    alive = np.ones(len(order), bool)

    def overlapped(box: Any, others: Any) -> NDArray[np.bool_]:
        """Whether a box overlaps others: indices that broadcast."""
        left = np.maximum(columns[0][others], columns[0][box])
        top = np.maximum(columns[1][others], columns[1][box])
        right = np.minimum(columns[2][others], columns[2][box])
        bottom = np.minimum(columns[3][others], columns[3][box])
        intersection = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
        union = area[box] + area[others] - intersection
        return np.asarray(intersection >= overlap * np.maximum(union, 1e-9))

    first_faint = len(order) if strong is None else min(strong, len(order))
    for i in range(first_faint):
        if not alive[i]:
            continue
        others = np.flatnonzero(alive[i + 1 :]) + i + 1
        if classes is not None:
            others = others[classes[others] == classes[i]]
        alive[others[overlapped(i, others)]] = False
    rest = np.flatnonzero(alive[first_faint:]) + first_faint
    if len(rest) > 1:
        drops = np.triu(overlapped(rest[:, None], rest[None, :]), 1)
        if classes is not None:
            drops &= classes[rest][:, None] == classes[rest][None, :]
        for row, box in enumerate(rest):
            if alive[box]:
                alive[rest[drops[row]]] = False
    return order[alive]


def centerface(outputs: Outputs, view: View, form: Form) -> Detections:
    """Heat map, size, offset and five landmarks at stride 4 -> faces.

    A cell above the threshold is a face: its centre is the cell's plus the offset, its size is
    exp(size) cells, and its landmarks are relative to that size, from its top left corner.
    """
    expect(
        outputs,
        ((1, 1, "h", "w"), (1, 2, "h", "w"), (1, 2, "h", "w"), (1, 10, "h", "w")),
        "centerface",
    )
    heatmap, size, offset, landmark = (o[0] for o in outputs)
    ys, xs = np.nonzero(heatmap[0] > faint_limit(form))
    if not len(ys):
        return Detections.none(form.labels, points=5)
    considered = without_surplus(heatmap[0, ys, xs], heatmap[0, ys, xs] > form.confidence)
    ys, xs = ys[considered], xs[considered]
    high, wide = view.size
    extent = np.exp(size[::-1, ys, xs].T) * CENTERFACE_STRIDE  # (n, 2) width, height
    cells = np.stack((xs, ys), 1) + offset[::-1, ys, xs].T + 0.5
    corner = np.clip(cells * CENTERFACE_STRIDE - extent / 2, 0, (wide, high))
    boxes = np.concatenate((corner, np.minimum(corner + extent, (wide, high))), 1)
    boxes = boxes.astype(np.float32)
    points = landmark[:, ys, xs].T.reshape(-1, 5, 2)[..., ::-1] * extent[:, None] + corner[:, None]
    score = heatmap[0, ys, xs]
    strong = int(np.count_nonzero(score > form.confidence))
    keep = suppress(boxes, score, form.overlap, strong=strong)
    return separated(
        view.boxes(boxes[keep]),
        score[keep],
        np.zeros(len(keep), np.int64),
        form,
        int(np.count_nonzero(score[keep] > form.confidence)),
        view.points(points[keep]),
    )[0]


def yolo_v3(outputs: Outputs, view: View, form: Form) -> Detections:
    """Raw heads (1, anchors * (5 + classes), h, w) of any strides with anchors -> objects.

    The channels of one anchor are x, y, width, height, objectness, then one per class, all before
    the sigmoid. Classes are independent: one box may be reported with two of them.
    """
    boxes, scores, classes = [], [], []
    depth = 5 + len(form.labels)
    for head in outputs:
        stride = view.size[0] // head.shape[2] if head.ndim == 4 and head.shape[2] else 0
        anchors = np.array(YOLO_ANCHORS.get(stride, ()), np.float32).reshape(-1, 2)
        rows, columns = view.size[0] // max(stride, 1), view.size[1] // max(stride, 1)
        expect((head,), ((1, max(1, len(anchors)) * depth, rows, columns),), "yolo")
        cells = head[0].reshape(len(anchors), depth, rows, columns)
        anchor, ys, xs = np.nonzero(sigmoid(cells[:, 4]) > faint_limit(form))
        rows_found = cells[anchor, :, ys, xs]  # (n, depth)
        score = sigmoid(rows_found[:, 4:5]) * sigmoid(rows_found[:, 5:])  # (n, classes)
        centre = (sigmoid(rows_found[:, :2]) + np.stack((xs, ys), 1)) * stride
        half = np.exp(np.minimum(rows_found[:, 2:4], 20)) * anchors[anchor] / 2
        box, class_id = np.nonzero(score > faint_limit(form))
        boxes.append(np.concatenate((centre - half, centre + half), 1)[box])
        scores.append(score[box, class_id])
        classes.append(class_id)
    xyxy = view.boxes(np.concatenate(boxes))
    confidence, class_id = np.concatenate(scores), np.concatenate(classes)
    considered = without_surplus(confidence, confidence > form.confidence)
    xyxy, confidence = xyxy[considered], confidence[considered]
    class_id = class_id[considered]
    strong = int(np.count_nonzero(confidence > form.confidence))
    keep = suppress(xyxy, confidence, form.overlap, class_id, strong)
    strong = int(np.count_nonzero(confidence[keep] > form.confidence))
    return separated(xyxy[keep], confidence[keep], class_id[keep], form, strong)[0]


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    """Does not overflow for any finite input."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), x.dtype)
