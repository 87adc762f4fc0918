"""Decoder of PicoDet, NanoDet and other detectors with generalised focal loss (Li et al. 2020).

Each pyramid level has (1, n, classes) probabilities and (1, n, 4 * bins) logits: per side of the
box, a distribution over the distances 0, 1, ... bins - 1 strides from the cell's centre. The
predicted distance is its mean.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.decoders.faint import faint_limit, without_surplus
from stillframe.models.decoders.yolo import suppressed
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

STRIDES = (8, 16, 32, 64, 128)
KNOWN_BINS = (8, 11, 17)  # PicoDet, the first NanoDet, NanoDet with 16
MAX_PER_LEVEL = 1000
"""Boxes taken from one level, as in the published decoders."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PyramidLevel:
    """One level of the feature pyramid."""

    stride: int
    scores: int
    """Index of the output with its class probabilities."""
    distances: int
    """Index of the output with its distributions."""


@dataclass(frozen=True, slots=True)
class GeneralizedFocal:
    """Decoder of a detector trained with generalised focal loss."""

    levels: tuple[PyramidLevel, ...]
    bins: int
    """Length of each distribution."""

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
            if len(likely) > MAX_PER_LEVEL:
                order = np.argsort(-top[likely], kind="stable")
                likely = likely[order[:MAX_PER_LEVEL]]
            else:
                likely = np.flatnonzero(top > faint_limit(form))
                likely = likely[without_surplus(top[likely], top[likely] > form.confidence)]
            distance = mean_distance(numbers[likely], self.bins) * level.stride
            centre = (np.stack((likely % columns, likely // columns), 1) + 0.5) * level.stride
            each = np.concatenate((centre - distance[:, :2], centre + distance[:, 2:]), 1)
            which, class_id = np.nonzero(score[likely] > faint_limit(form))
            boxes.append(each[which].astype(np.float32))
            scores.append(score[likely[which], class_id])
            classes.append(class_id)
        return suppressed(
            np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes), view, form
        )[0]


def mean_distance(numbers: NDArray[Any], bins: int) -> NDArray[np.float32]:
    """(n, 4 * bins) logits -> (n, 4) mean of each distribution."""
    raw = numbers.reshape(len(numbers), 4, bins).astype(np.float32)
    weight = np.exp(raw - raw.max(2, keepdims=True))
    mean: NDArray[np.float32] = weight @ np.arange(bins, dtype=np.float32) / weight.sum(2)
    return mean


def match_outputs(shapes: list[Shape], size: tuple[int, int]) -> GeneralizedFocal | None:
    """The decoder for outputs of these shapes, or None if they are of another kind.

    Outputs come in any order; two of equal length are one level.
    """
    by_rows: dict[int, list[int]] = {}
    for index, shape in enumerate(shapes):
        if len(shape) != 3 or shape[0] != 1:
            return None
        by_rows.setdefault(shape[1], []).append(index)
    if len(by_rows) < 2 or any(len(indices) != 2 for indices in by_rows.values()):
        return None
    strides = {-(-size[0] // s) * -(-size[1] // s): s for s in STRIDES}
    if not set(by_rows) <= set(strides):
        return None
    for bins in KNOWN_BINS:
        levels = []
        for rows, indices in sorted(by_rows.items(), reverse=True):
            candidates = [i for i in indices if shapes[i][2] == 4 * bins]
            if not candidates:
                break
            distances = candidates[-1]  # with 4 * bins classes: published exports put these last
            scores = indices[0] if indices[1] == distances else indices[1]
            levels.append(PyramidLevel(strides[rows], scores, distances))
        else:
            if len({shapes[level.scores][2] for level in levels}) == 1:
                return GeneralizedFocal(tuple(levels), bins)
    return None
