"""Decoder of PicoDet, NanoDet and other detectors with generalised focal loss (Li et al. 2020).

Each level gives (1, n, classes) probabilities and (1, n, 4 * bins) numbers: for each side of the
box a distribution over the distances 0, 1, ... bins - 1 from the cell's centre, in strides. The
distance is its mean.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.decoders.yolo import best
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

STRIDES = (8, 16, 32, 64, 128)
USUAL_BINS = (8, 11, 17)  # PicoDet, the first NanoDet, NanoDet with 16
MOST_OF_A_LEVEL = 1000
"""Boxes taken from one level, as the published decoders do."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """One level: its stride and the places of its two outputs."""

    stride: int
    scores: int
    distances: int


@dataclass(frozen=True, slots=True)
class Focal:
    """A decoder for outputs of that arrangement. bins: numbers of each side's distribution."""

    levels: tuple[PyramidLevel, ...]
    bins: int

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Detections:
        boxes, scores, classes = [], [], []
        for level in self.levels:
            score, numbers = outputs[level.scores][0], outputs[level.distances][0]
            columns = -(-view.size[1] // level.stride)
            if len(score) != -(-view.size[0] // level.stride) * columns:
                raise ModelError(
                    f"picodet: {len(score)} rows do not cover {view.size[1]}x{view.size[0]} "
                    f"at stride {level.stride}"
                )
            top = score.max(1)
            likely = np.flatnonzero(top > form.confidence)
            if len(likely) > MOST_OF_A_LEVEL:
                order = np.argsort(-top[likely], kind="stable")
                likely = likely[order[:MOST_OF_A_LEVEL]]
            distance = mean_distance(numbers[likely], self.bins) * level.stride
            centre = (np.stack((likely % columns, likely // columns), 1) + 0.5) * level.stride
            each = np.concatenate((centre - distance[:, :2], centre + distance[:, 2:]), 1)
            which, class_id = np.nonzero(score[likely] > form.confidence)
            boxes.append(each[which].astype(np.float32))
            scores.append(score[likely[which], class_id])
            classes.append(class_id)
        return best(
            np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes), view, form
        )[0]


def mean_distance(numbers: NDArray[Any], bins: int) -> NDArray[np.float32]:
    """(n, 4 * bins) before the softmax -> (n, 4) mean of each distribution."""
    raw = numbers.reshape(len(numbers), 4, bins).astype(np.float32)
    weight = np.exp(raw - raw.max(2, keepdims=True))
    mean: NDArray[np.float32] = weight @ np.arange(bins, dtype=np.float32) / weight.sum(2)
    return mean


def arrangement(shapes: list[Shape], size: tuple[int, int]) -> Focal | None:
    """The arrangement of outputs with those shapes, or None when they are no such thing.

    Outputs come in any order; those of equal length belong together.
    """
    by_rows: dict[int, list[int]] = {}
    for place, shape in enumerate(shapes):
        if len(shape) != 3 or shape[0] != 1:
            return None
        by_rows.setdefault(shape[1], []).append(place)
    if len(by_rows) < 2 or any(len(places) != 2 for places in by_rows.values()):
        return None
    strides = {-(-size[0] // s) * -(-size[1] // s): s for s in STRIDES}
    if not set(by_rows) <= set(strides):
        return None
    for bins in USUAL_BINS:
        levels = []
        for rows, places in sorted(by_rows.items(), reverse=True):
            fits = [p for p in places if shapes[p][2] == 4 * bins]
            if not fits:
                break
            distances = fits[-1]  # where classes are as many, the published order has them first
            scores = places[0] if places[1] == distances else places[1]
            levels.append(PyramidLevel(strides[rows], scores, distances))
        else:
            if len({shapes[level.scores][2] for level in levels}) == 1:
                return Focal(tuple(levels), bins)
    return None
