"""Decoders of detectors that list their boxes: suppressed in the graph, or SSD-like."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.models.decoders.detection import expect
from stillframe.models.decoders.yolo import best, masked, with_points
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections


def end_to_end(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, n, 6) or (n, 6): left, top, right, bottom in pixels, score, class. YOLOv10, YOLO26,
    Ultralytics exports with their suppression."""
    rows = outputs[0].reshape(-1, outputs[0].shape[-1])
    expect((rows,), (("n", 6),), "end-to-end boxes")
    return _listed(rows[:, :4], rows[:, 4], rows[:, 5], view, form)[0]


def end_to_end_masks(outputs: Outputs, view: View, form: Form) -> Detections:
    """As `end_to_end` with k mask coefficients in each row, and (1, k, h, w) prototypes."""
    rows, protos = sorted(outputs, key=lambda o: o.ndim)
    expect((rows, protos), ((1, "n", 6 + protos.shape[1]), (1, "k", "h", "w")), "end-to-end masks")
    found, rest = _listed(rows[0, :, :4], rows[0, :, 4], rows[0, :, 5], view, form, rows[0, :, 6:])
    return masked(found, rest, protos[0], view)


def end_to_end_points(outputs: Outputs, view: View, form: Form, per_point: int = 3) -> Detections:
    """As `end_to_end` with key points in each row, per_point numbers each."""
    expect(outputs, ((1, "n", "depth"),), "end-to-end key points")
    rows = outputs[0][0]
    found, rest = _listed(rows[:, :4], rows[:, 4], rows[:, 5], view, form, rows[:, 6:])
    return with_points(found, rest, view, per_point)


def batched(outputs: Outputs, view: View, form: Form) -> Detections:
    """(n, 7): batch, left, top, right, bottom in pixels, class, score. YOLOv7 `--end2end`."""
    rows = outputs[0].reshape(-1, outputs[0].shape[-1])
    expect((rows,), (("n", 7),), "batched boxes")
    return _listed(rows[:, 1:5], rows[:, 6], rows[:, 5], view, form)[0]


def detection_output(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, 1, n, 7): batch, class, score, then the corners as shares of the picture; a row whose
    batch is negative ends the list. Caffe's and OpenVINO's DetectionOutput."""
    expect(outputs, ((1, 1, "n", 7),), "detection output")
    rows = outputs[0][0, 0]
    ends = np.flatnonzero(rows[:, 0] < 0)
    rows = rows[: ends[0]] if len(ends) else rows
    return _listed(_pixels(rows[:, 3:7], view), rows[:, 2], rows[:, 1], view, form)[0]


@dataclass(frozen=True, slots=True)
class Parts:
    """Boxes, scores, classes and perhaps their number, each an output of its own.

    boxes, scores, classes, count: places in the outputs. unit: of the corners. first: which
    coordinate of a corner comes first. Classes keep the numbers that the graph gives them.
    """

    boxes: int
    scores: int
    classes: int
    count: int | None = None
    unit: Literal["pixels", "shares"] = "pixels"
    first: Literal["x", "y"] = "x"

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Detections:
        boxes = outputs[self.boxes].reshape(-1, 4).astype(np.float32)
        scores, classes = (outputs[i].reshape(-1) for i in (self.scores, self.classes))
        expect((boxes, scores, classes), (("n", 4), ("n",), ("n",)), "listed boxes")
        if self.count is not None:
            number = int(outputs[self.count].reshape(-1)[0])
            boxes, scores, classes = boxes[:number], scores[:number], classes[:number]
        if self.first == "y":
            boxes = boxes[:, [1, 0, 3, 2]]
        if self.unit == "shares":
            boxes = _pixels(boxes, view)
        return _listed(boxes, scores, classes, view, form)[0]


@dataclass(frozen=True, slots=True)
class Ssd:
    """(1, n, 4) corners as shares of the picture and (1, n, classes) probabilities.

    boxes, scores: places in the outputs. background: the first class means nothing is there.
    """

    boxes: int
    scores: int
    background: bool

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Detections:
        boxes, scores = outputs[self.boxes], outputs[self.scores]
        depth = len(form.labels) + self.background
        expect((boxes, scores), ((1, "n", 4), (1, "n", depth)), "ssd")
        judged = scores[0, :, 1:] if self.background else scores[0]
        likely = np.flatnonzero(judged.max(1) > form.confidence)
        class_id = judged[likely].argmax(1)
        confidence = judged[likely, class_id]
        pixels = _ordered(_pixels(boxes[0, likely], view))
        return best(pixels, confidence, class_id, view, form)[0]


def _listed(
    boxes: NDArray[Any],
    confidence: NDArray[Any],
    class_id: NDArray[Any],
    view: View,
    form: Form,
    also: NDArray[Any] | None = None,
) -> tuple[Detections, NDArray[Any]]:
    """Boxes that the graph has chosen: the likely ones, best first, none suppressed again."""
    likely = np.flatnonzero(confidence > form.confidence)
    order = likely[np.argsort(-confidence[likely], kind="stable")]
    found = Detections(
        xyxy=view.boxes(_ordered(boxes[order].astype(np.float32))),
        confidence=np.clip(confidence[order].astype(np.float32), 0, 1),
        class_id=np.rint(class_id[order]).astype(np.int64),
        labels=form.labels,
    )
    rest = np.empty((len(order), 0), np.float32) if also is None else also[order]
    return found, rest


def _pixels(shares: NDArray[Any], view: View) -> NDArray[np.float32]:
    """(n, 4) corners as shares of the model's picture -> in its pixels."""
    height, width = view.size
    return np.asarray(shares, np.float32) * np.array((width, height) * 2, np.float32)


def _ordered(boxes: NDArray[Any]) -> NDArray[Any]:
    """The same with the right and bottom edge never before the left and top one."""
    return np.concatenate((boxes[:, :2], np.maximum(boxes[:, :2], boxes[:, 2:])), 1)
