"""Decoder of SSD (Liu et al. 2016): offsets from anchors that lie outside the graph, and classes.

An anchor set is known by its number of boxes at the model's input size. An offset moves the centre
by a share of the anchor's side and stretches the side by its exponential.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.models.decoders.boxes import relative_to_pixels
from stillframe.models.decoders.detection import expect, sigmoid
from stillframe.models.decoders.faint import faint_limit
from stillframe.models.decoders.yolo import LARGEST_EXPONENT, corners, suppressed
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """Anchors of one published SSD. Each level of the pyramid is a grid of cells."""

    sides: tuple[int, int]
    """(H, W) of the input that it belongs to, both the same."""
    grids: tuple[int, ...]
    """Cells a side, finest level first."""
    scales: tuple[float, ...]
    """Side of each level's square anchor, relative to the input; one more than levels."""
    ratios: tuple[tuple[float, ...], ...]
    """Further shapes of each level; width / height, and its inverse."""
    steps: tuple[float, ...] = ()
    """Pixels between cells of each level; () divides the input evenly."""
    clipped: bool = False
    """Whether anchors end at the border."""


def _ssdlite(levels: int = 6, low: float = 0.2, high: float = 0.95) -> tuple[float, ...]:
    """Scales in equal steps, and a last one of the whole input."""
    return (*(low + (high - low) * k / (levels - 1) for k in range(levels)), 1.0)


ANCHORS: dict[str, AnchorSet] = {
    "ssd300": AnchorSet(  # Liu's for COCO, torchvision's ssd300_vgg16
        (300, 300),
        (38, 19, 10, 5, 3, 1),
        (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
        ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
        (8, 16, 32, 64, 100, 300),
        clipped=True,
    ),
    "ssdlite320": AnchorSet(  # torchvision's ssdlite320_mobilenet_v3_large
        (320, 320), (20, 10, 5, 3, 2, 1), _ssdlite(), ((2, 3),) * 6, clipped=True
    ),
    "mobilenet-ssd": AnchorSet(  # qfgaohao's pytorch-ssd
        (300, 300),
        (19, 10, 5, 3, 2, 1),
        tuple(each / 300 for each in (60, 105, 150, 195, 240, 285, 330)),
        ((2, 3),) * 6,
        (16, 32, 64, 100, 150, 300),
        clipped=True,
    ),
}


@cache
def anchors(name: str) -> NDArray[np.float32]:
    """(n, 4): centre x, centre y, width, height of each anchor, relative to the input."""
    chosen = ANCHORS[name]
    rows = []
    for level, grid in enumerate(chosen.grids):
        scale, following = chosen.scales[level : level + 2]
        between = math.sqrt(scale * following)
        sides = [(scale, scale), (between, between)]
        for ratio in chosen.ratios[level]:
            root = math.sqrt(ratio)
            sides += [(scale * root, scale / root), (scale / root, scale * root)]
        pitch = chosen.steps[level] / chosen.sides[0] if chosen.steps else 1 / grid
        for row, column in itertools.product(range(grid), repeat=2):
            centre = ((column + 0.5) * pitch, (row + 0.5) * pitch)
            rows += [(*centre, *side) for side in sides]
    table = np.array(rows, np.float32)
    if chosen.clipped:
        table = np.clip(table, 0, 1)
    table.flags.writeable = False
    return table


def anchor_sets(count: int, size: tuple[int, int]) -> list[str]:
    """The sets that have that many anchors at an input of this size."""
    return [name for name, each in ANCHORS.items() if each.sides == size and count == _count(name)]


@cache
def _count(name: str) -> int:
    return len(anchors(name))


@dataclass(frozen=True, slots=True)
class AnchoredBoxes:
    """(1, n, 4) offsets and (1, n, 1 + classes) scores, background first."""

    boxes: int
    """Index of the output, as is scores."""
    scores: int
    anchor_set: str
    """Key of ANCHORS."""
    activation: Literal["softmax", "sigmoid", "none"]
    """Of the scores; "none": done in the graph."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Detections:
        table = anchors(self.anchor_set)
        offsets, scores = outputs[self.boxes], outputs[self.scores]
        shapes = ((1, len(table), 4), (1, len(table), 1 + len(form.labels)))
        expect((offsets, scores), shapes, "ssd-anchors")
        by_class = scores[0].astype(np.float32)
        if self.activation == "softmax":
            weight = np.exp(by_class - by_class.max(1, keepdims=True))
            by_class = weight / weight.sum(1, keepdims=True)
        elif self.activation == "sigmoid":
            by_class = sigmoid(by_class)
        row, class_id = np.nonzero(by_class[:, 1:] > faint_limit(form))
        moved, anchor = offsets[0, row].astype(np.float32), table[row]
        centre = anchor[:, :2] + moved[:, :2] * CENTRE_VARIANCE * anchor[:, 2:]
        stretch = np.minimum(moved[:, 2:] * SIZE_VARIANCE, LARGEST_EXPONENT)
        boxes = np.concatenate((centre, anchor[:, 2:] * np.exp(stretch)), 1)
        pixels = relative_to_pixels(corners(boxes), view)
        return suppressed(pixels, by_class[row, class_id + 1], class_id, view, form)[0]
