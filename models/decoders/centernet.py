"""Decoder of CenterNet (Zhou et al. 2019): a map of centres for each class, with sizes and offsets.

An object is a peak of its class's map. Its size and the offset of its centre within the cell are
read at the peak, in cells.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from stillframe.models.decoders.boxes import chosen
from stillframe.models.decoders.detection import expect, sigmoid
from stillframe.models.decoders.faint import faint_limit
from stillframe.models.decoders.yolo import corners
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

MOST_OBJECTS = 100
"""As in the published decoder."""
PEAK = np.ones((3, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class CenterNet:
    """(1, classes, h, w) centres, (1, 2, h, w) width and height, perhaps (1, 2, h, w) x and y."""

    centre_map: int
    """Index of the output, as are size and offset."""
    size: int
    offset: int | None
    raw: bool
    """The centres map is before the sigmoid."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Detections:
        centres, size = outputs[self.centre_map], outputs[self.size]
        offset = size if self.offset is None else outputs[self.offset]
        classes = len(form.labels)
        shapes = ((1, classes, "h", "w"), (1, 2, "h", "w"), (1, 2, "h", "w"))
        expect((centres, size, offset), shapes, "centernet")
        scores = np.asarray(sigmoid(centres[0]) if self.raw else centres[0], np.float32)
        # A peak is no less than its eight neighbours.
        highest = np.stack([cv2.dilate(np.ascontiguousarray(each), PEAK) for each in scores])
        class_id, ys, xs = np.nonzero((scores == highest) & (scores > faint_limit(form)))
        confidence = scores[class_id, ys, xs]
        best = np.argsort(-confidence, kind="stable")[:MOST_OBJECTS]
        class_id, ys, xs, confidence = class_id[best], ys[best], xs[best], confidence[best]
        centre = np.stack((xs, ys), 1).astype(np.float32)
        centre += 0.5 if self.offset is None else offset[0][:, ys, xs].T
        stride = view.size[0] / scores.shape[1], view.size[1] / scores.shape[2]
        boxes = np.concatenate((centre, size[0][:, ys, xs].T), 1)
        boxes *= np.array((stride[1], stride[0]) * 2, np.float32)
        return chosen(corners(boxes), confidence, class_id, view, form)[0]
