"""Decoders of detectors whose graph ends in boxes: already suppressed, or SSD candidates."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.models.decoders.detection import expect
from stillframe.models.decoders.faint import faint_limit, separated, without_surplus
from stillframe.models.decoders.yolo import suppressed, with_masks, with_points
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections


def end_to_end(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, n, 6) or (n, 6): left, top, right, bottom in pixels, score, class.

    YOLOv10, YOLO26, Ultralytics exports with `nms=True`.
    """
    rows = outputs[0].reshape(-1, outputs[0].shape[-1])
    expect((rows,), (("n", 6),), "end-to-end boxes")
    return chosen(rows[:, :4], rows[:, 4], rows[:, 5], view, form)[0]


def end_to_end_masks(outputs: Outputs, view: View, form: Form) -> Detections:
    """As `end_to_end` with k mask coefficients in each row, and (1, k, h, w) prototypes."""
    rows, protos = sorted(outputs, key=lambda o: o.ndim)
    expect((rows, protos), ((1, "n", 6 + protos.shape[1]), (1, "k", "h", "w")), "end-to-end masks")
    detections, extra = chosen(
        rows[0, :, :4], rows[0, :, 4], rows[0, :, 5], view, form, rows[0, :, 6:]
    )
    return with_masks(detections, extra, protos[0], view)


def end_to_end_points(outputs: Outputs, view: View, form: Form, per_point: int = 3) -> Detections:
    """As `end_to_end` with key points in each row, per_point numbers each."""
    expect(outputs, ((1, "n", "depth"),), "end-to-end key points")
    rows = outputs[0][0]
    detections, extra = chosen(rows[:, :4], rows[:, 4], rows[:, 5], view, form, rows[:, 6:])
    return with_points(detections, extra, view, per_point)


def yolo_v7_end_to_end(outputs: Outputs, view: View, form: Form) -> Detections:
    """(n, 7): batch, left, top, right, bottom in pixels, class, score. YOLOv7 `--end2end`."""
    rows = outputs[0].reshape(-1, outputs[0].shape[-1])
    expect((rows,), (("n", 7),), "batched boxes")
    return chosen(rows[:, 1:5], rows[:, 6], rows[:, 5], view, form)[0]


def paddle(outputs: Outputs, view: View, form: Form) -> Detections:
    """(n, 6): class, score, left, top, right, bottom in pixels; and the number of rows in use."""
    rows, count = outputs[0], int(np.asarray(outputs[1]).reshape(-1)[0])
    expect((rows,), (("n", 6),), "paddle boxes")
    rows = rows[: max(0, count)]
    return chosen(rows[:, 2:6], rows[:, 1], rows[:, 0], view, form)[0]


def detection_output(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, 1, n, 7): batch, class, score, relative corners (0..1); a negative batch ends the list.

    Caffe's and OpenVINO's DetectionOutput.
    """
    expect(outputs, ((1, 1, "n", 7),), "detection output")
    rows = outputs[0][0, 0]
    ends = np.flatnonzero(rows[:, 0] < 0)
    rows = rows[: ends[0]] if len(ends) else rows
    return chosen(relative_to_pixels(rows[:, 3:7], view), rows[:, 2], rows[:, 1], view, form)[0]


@dataclass(frozen=True, slots=True)
class NamedBoxes:
    """Boxes, scores, classes and perhaps their number, each in an output of its own."""

    boxes: int
    """Index of the output, as are scores, classes and count."""
    scores: int
    classes: int
    count: int | None = None
    unit: Literal["pixels", "relative"] = "pixels"
    """Of the corners: model pixels, or 0..1 of the model's input."""
    first: Literal["x", "y"] = "x"
    """Which coordinate of a corner comes first."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Detections:
        boxes = outputs[self.boxes].reshape(-1, 4).astype(np.float32)
        scores, classes = (outputs[i].reshape(-1) for i in (self.scores, self.classes))
        expect((boxes, scores, classes), (("n", 4), ("n",), ("n",)), "listed boxes")
        if self.count is not None:
            number = int(outputs[self.count].reshape(-1)[0])
            boxes, scores, classes = boxes[:number], scores[:number], classes[:number]
        if self.first == "y":
            boxes = boxes[:, [1, 0, 3, 2]]
        if self.unit == "relative":
            boxes = relative_to_pixels(boxes, view)
        return chosen(boxes, scores, classes, view, form)[0]


@dataclass(frozen=True, slots=True)
class Ssd:
    """(1, n, 4) corners and (1, n, classes) probabilities."""

    boxes: int
    """Index of the output, as is scores."""
    scores: int
    background: bool
    """The first class is the background."""
    unit: Literal["pixels", "relative"] = "relative"
    """Of the corners, as in NamedBoxes."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Detections:
        boxes, scores = outputs[self.boxes], outputs[self.scores]
        depth = len(form.labels) + self.background
        expect((boxes, scores), ((1, "n", 4), (1, "n", depth)), "ssd")
        by_class = scores[0, :, 1:] if self.background else scores[0]
        likely = np.flatnonzero(by_class.max(1) > faint_limit(form))
        class_id = by_class[likely].argmax(1)
        confidence = by_class[likely, class_id]
        boxes = boxes[0, likely].astype(np.float32)
        pixels = _ordered(boxes if self.unit == "pixels" else relative_to_pixels(boxes, view))
        return suppressed(pixels, confidence, class_id, view, form)[0]


def chosen(
    boxes: NDArray[Any],
    confidence: NDArray[Any],
    class_id: NDArray[Any],
    view: View,
    form: Form,
    extra: NDArray[Any] | None = None,
) -> tuple[Detections, NDArray[Any]]:
    """Boxes that the graph has already suppressed: those above the threshold, best first.

    Also returns their rows of `extra`; those of faint boxes come last.
    """
    strong = confidence > form.confidence
    known = (class_id > -1) & (class_id < len(form.labels))  # NaN is not
    likely = np.flatnonzero(strong | (known & (confidence > faint_limit(form))))
    likely = likely[without_surplus(confidence[likely], strong[likely])]
    order = likely[np.argsort(-confidence[likely], kind="stable")]
    detections, rows = separated(
        view.boxes(_ordered(boxes[order].astype(np.float32))),
        confidence[order].astype(np.float32),
        np.rint(class_id[order]).astype(np.int64),
        form,
        int(np.count_nonzero(strong)),
    )
    if extra is None:
        return detections, np.empty((len(rows), 0), np.float32)
    return detections, extra[order[rows]]


def relative_to_pixels(relative: NDArray[Any], view: View) -> NDArray[np.float32]:
    """(n, 4) corners relative to the model's input, 0..1 -> in its pixels."""
    height, width = view.size
    return np.asarray(relative, np.float32) * np.array((width, height) * 2, np.float32)


def _ordered(boxes: NDArray[Any]) -> NDArray[Any]:
    """The boxes with right >= left and bottom >= top."""
    return np.concatenate((boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])), 1)
