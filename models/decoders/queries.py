"""Decoder of detection transformers: a fixed number of queries, each with a box and class scores.

DETR (Carion et al. 2020) takes the softmax over the classes and a last one, "no object". Deformable
DETR and what came after it (RT-DETR, D-FINE, DEIM, RF-DETR) take a sigmoid for each class. Nothing
is suppressed: a query was trained to be the only one for its object.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.models.decoders.boxes import chosen, relative_to_pixels
from stillframe.models.decoders.detection import expect, sigmoid
from stillframe.models.decoders.yolo import corners
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

Activation = Literal["sigmoid", "softmax", "none"]


@dataclass(frozen=True, slots=True)
class QueryBoxes:
    """(1, n, 4) centre, width, height relative to the input, and (1, n, classes) logits.

    Of a softmax the logits have one more column, of "no object". At most n boxes are reported, the
    best pairs of a query and a class.
    """

    boxes: int
    """Index of the output, as is logits; the same: one output holds the boxes, then the classes."""
    logits: int
    activation: Activation
    """Of the logits; "none": done in the graph."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Detections:
        count = len(form.labels) + (self.activation == "softmax")
        if self.boxes == self.logits:
            expect(outputs[:1], ((1, "n", 4 + count),), "queries")
            boxes, logits = outputs[0][0, :, :4], outputs[0][0, :, 4:]
        else:
            both = outputs[self.boxes], outputs[self.logits]
            expect(both, ((1, "n", 4), (1, "n", count)), "queries")
            boxes, logits = both[0][0], both[1][0]
        scores = _probabilities(logits.astype(np.float32), self.activation)
        if self.activation == "softmax":
            class_id = scores.argmax(1)
            query = np.arange(len(scores))
        else:
            best = np.argsort(-scores, axis=None, kind="stable")[: len(scores)]
            query, class_id = np.unravel_index(best, scores.shape)
        pixels = relative_to_pixels(corners(boxes[query]), view)
        return chosen(pixels, scores[query, class_id], class_id, view, form)[0]


def _probabilities(logits: NDArray[Any], activation: Activation) -> NDArray[Any]:
    """(n, classes); of a softmax without the last column."""
    if activation == "softmax":
        weight = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray((weight / weight.sum(1, keepdims=True))[:, :-1])
    return sigmoid(logits) if activation == "sigmoid" else logits
