"""How well results agree with a reference, such as computing everything: one number over a clip.

    agreement = agreement_with(reference)      # MEASURES has one row for each kind of result
    agreement.add(result, reference)           # once per frame
    agreement.value, agreement.kind            # 0.983, "f1"

More is better in each of them.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import QualityError
from stillframe.models.results import Detections, Mask, Picture, Result, Tensors

Kind = Literal["f1", "miou", "psnr", "closeness"]

SAME_BOX_IOU = 0.5
"""Boxes of one class with this intersection over union are the same box."""
MOST_PSNR = 99.0
"""dB of pictures without any difference; JSON cannot write infinity."""


class Agreement(Protocol):
    """Counts over a clip. Where nothing can disagree, the value is the best of the measure."""

    kind: Kind
    """The row of MEASURES."""

    def add(self, result: Any, reference: Any) -> None:
        """Count one frame. Both are of the type that this measures, and of the same size."""
        ...

    @property
    def value(self) -> float:
        """The agreement so far; more is better."""
        ...


@dataclass(slots=True)
class BoxAgreement:
    """Detections: F1 of boxes that are the same by SAME_BOX_IOU, counts summed over the clip."""

    kind: Kind = "f1"
    matched: int = 0
    """Boxes that are in the result and in the reference: true positives."""
    extra: int = 0
    """Boxes that are only in the result: false positives."""
    missed: int = 0
    """Boxes that are only in the reference: false negatives."""
    score_shift: float = 0.0
    """Sum over the matched boxes of the difference of their scores."""

    def add(self, result: Detections, reference: Detections) -> None:
        pairs = pair_boxes(result, reference)
        self.matched += len(pairs)
        self.extra += len(result) - len(pairs)
        self.missed += len(reference) - len(pairs)
        for ours, theirs in pairs:
            self.score_shift += abs(
                float(result.confidence[ours]) - float(reference.confidence[theirs])
            )

    @property
    def value(self) -> float:
        total = 2 * self.matched + self.extra + self.missed
        return 2 * self.matched / total if total else 1.0

    @property
    def mean_score_shift(self) -> float:
        """Mean difference of the scores of matched boxes, 0..1."""
        return self.score_shift / self.matched if self.matched else 0.0


@dataclass(slots=True)
class MaskAgreement:
    """Masks: intersection over union, summed over the clip, mean over the labels that occur."""

    kind: Kind = "miou"
    _both: dict[int, int] = field(default_factory=dict)
    _either: dict[int, int] = field(default_factory=dict)

    def add(self, result: Mask, reference: Mask) -> None:
        _same_shape("mask", result.values, reference.values)
        ours, theirs = label_map(result), label_map(reference)
        for label in np.union1d(np.unique(ours), np.unique(theirs)).tolist():
            if label == NO_LABEL:
                continue
            here, there = ours == label, theirs == label
            self._both[label] = self._both.get(label, 0) + int(np.count_nonzero(here & there))
            self._either[label] = self._either.get(label, 0) + int(np.count_nonzero(here | there))

    @property
    def value(self) -> float:
        shares = [self._both[label] / self._either[label] for label in self._either]
        return sum(shares) / len(shares) if shares else 1.0


@dataclass(slots=True)
class PictureAgreement:
    """Pictures of 0..255: dB from the mean squared error over the clip, at most MOST_PSNR."""

    kind: Kind = "psnr"
    _squares: float = 0.0
    _values: int = 0

    def add(self, result: Picture, reference: Picture) -> None:
        _same_shape("picture", result.image, reference.image)
        difference = result.image.astype(np.int32) - reference.image
        self._squares += float(np.sum(difference * difference, dtype=np.int64))
        self._values += difference.size

    @property
    def value(self) -> float:
        if not self._squares:
            return MOST_PSNR
        return min(MOST_PSNR, 10 * math.log10(255**2 * self._values / self._squares))


@dataclass(slots=True)
class TensorAgreement:
    """Outputs of unknown meaning: 1 - |result - reference| / |reference| of the worst output.

    Euclidean norms over the clip; at least 0.
    """

    kind: Kind = "closeness"
    _errors: dict[str, float] = field(default_factory=dict)
    _sizes: dict[str, float] = field(default_factory=dict)

    def add(self, result: Tensors, reference: Tensors) -> None:
        if result.arrays.keys() != reference.arrays.keys():
            raise QualityError(
                f"tensors: expected {sorted(reference.arrays)}, got {sorted(result.arrays)}"
            )
        for name, values in reference.arrays.items():
            theirs = np.asarray(values, np.float64)
            ours = np.asarray(result.arrays[name], np.float64)
            size = float(np.sum(theirs**2))
            if ours.shape != theirs.shape:  # another number of rows: nothing agrees
                error = size or 1.0
            else:
                error = float(np.sum((ours - theirs) ** 2))
            self._errors[name] = self._errors.get(name, 0.0) + error
            self._sizes[name] = self._sizes.get(name, 0.0) + size

    @property
    def value(self) -> float:
        return min((self._closeness(name) for name in self._errors), default=1.0)

    @property
    def worst_error(self) -> float | None:
        """|result - reference| / |reference| of the worst output; None: it is unbounded."""
        return max((self._error(name) for name in self._errors), default=0.0, key=_or_infinite)

    def _closeness(self, name: str) -> float:
        error = self._error(name)
        return 0.0 if error is None else max(0.0, 1 - error)

    def _error(self, name: str) -> float | None:
        error, size = self._errors[name], self._sizes[name]
        if error == 0:
            return 0.0
        if not (size > 0 and math.isfinite(error)):
            return None
        return math.sqrt(error / size)


def _or_infinite(error: float | None) -> float:
    return math.inf if error is None else error


@dataclass(frozen=True, slots=True)
class Measure:
    """How one kind of result is compared."""

    result: type[Result]
    agreement: type[Agreement]
    floor: float
    """At least this counts as the same result."""
    best: float
    """Of results without any difference."""
    label: str
    """Name or unit, for people."""


MEASURES: dict[Kind, Measure] = {
    "f1": Measure(Detections, BoxAgreement, 0.98, 1.0, "F1"),
    "miou": Measure(Mask, MaskAgreement, 0.98, 1.0, "mIoU"),
    "psnr": Measure(Picture, PictureAgreement, 45.0, MOST_PSNR, "dB"),
    "closeness": Measure(Tensors, TensorAgreement, 0.98, 1.0, ""),
}


def agreement_with(reference: Result) -> Agreement:
    """An empty agreement of the measure for this type of result."""
    return next(
        each.agreement() for each in MEASURES.values() if isinstance(reference, each.result)
    )


def pair_boxes(
    result: Detections, reference: Detections, least_overlap: float = SAME_BOX_IOU
) -> list[tuple[int, int]]:
    """Pairs (row of result, row of reference) of one class that overlap enough.

    Each box is in one pair at most; no other choice gives more pairs (maximum matching).
    """
    overlaps = overlap(result.xyxy, reference.xyxy)
    fits = (overlaps >= least_overlap) & (result.class_id[:, None] == reference.class_id[None, :])
    candidates = [
        [int(j) for j in np.argsort(-overlaps[i], kind="stable") if fits[i, j]]
        for i in range(len(result))
    ]
    return _largest_matching(candidates)


def overlap(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """(n, 4) and (m, 4) corners -> (n, m) intersection over union; 0 where both are empty."""
    a = np.asarray(boxes, np.float64)[:, None]
    b = np.asarray(others, np.float64)[None, :]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = np.prod(np.maximum(sides, 0.0), axis=-1)
    areas = [np.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (a, b)]
    union = areas[0] + areas[1] - common
    shares: NDArray[np.float64] = np.zeros_like(common)
    np.divide(common, union, out=shares, where=union > 0)
    return shares


def _largest_matching(candidates: list[list[int]]) -> list[tuple[int, int]]:
    """Maximum bipartite matching by shortest augmenting paths -> (left, right) pairs.

    candidates: for each left node the right nodes that it may be matched with, the best first.
    """
    match: dict[int, int] = {}  # right node -> left node
    for start in range(len(candidates)):
        reached_from: dict[int, int] = {}  # right node -> left node before it on the path
        matched_to: dict[int, int] = {}  # left node -> right node, of matched nodes on the path
        waiting = [start]
        while waiting:
            left = waiting.pop(0)
            fresh = [right for right in candidates[left] if right not in reached_from]
            reached_from |= dict.fromkeys(fresh, left)
            free = next((right for right in fresh if right not in match), None)
            if free is not None:
                while True:  # back along the path, each left node takes the next right node
                    left = reached_from[free]
                    match[free] = left
                    if left == start:
                        break
                    free = matched_to[left]
                break
            for right in fresh:
                matched_to[match[right]] = right
                waiting.append(match[right])
    return sorted((left, right) for right, left in match.items())


NO_LABEL = -1
"""In a label map: the pixel has no label."""


def label_map(mask: Mask) -> NDArray[np.int16]:
    """(H, W): the label of each pixel; NO_LABEL where a probability is below 0.5."""
    if mask.is_probability:
        return np.where(mask.values >= 0.5, 0, NO_LABEL).astype(np.int16)
    return mask.values.astype(np.int16)


def _same_shape(what: str, result: NDArray[Any], reference: NDArray[Any]) -> None:
    if result.shape != reference.shape:
        raise QualityError(f"{what}: expected shape {reference.shape}, got {result.shape}")
