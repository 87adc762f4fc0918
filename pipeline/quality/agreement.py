"""How far results agree with those of computing everything, as one number over a clip.

    agreement = agreement_with(reference)      # what it measures follows from the kind of result
    agreement.add(result, reference)           # once a frame
    agreement.value, agreement.kind            # 0.983, "f1"

    Detections   f1         2 TP / (2 TP + FP + FN) at IoU 0.5, counts summed over the clip
    Mask         miou       intersection over union, summed over the clip, mean over the labels
    Picture      psnr       dB, from the mean squared error over the clip
    Tensors      closeness  1 - relative error, of the output that is worst

More is better in each of them. `FLOORS` says what counts as the same.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import QualityError
from stillframe.models.results import Detections, Mask, Picture, Result, Tensors

Kind = Literal["f1", "miou", "psnr", "closeness"]

SAME_BOX = 0.5  # intersection over union
MOST_PSNR = 99.0  # dB; stands for pictures without any difference, which JSON cannot write
FLOORS: dict[Kind, float] = {"f1": 0.98, "miou": 0.98, "psnr": 45.0, "closeness": 0.98}


class Agreement(Protocol):
    """Counts over a clip. With nothing to disagree about, the value is the best there is."""

    kind: Kind

    def add(self, result: Any, reference: Any) -> None:
        """One frame. Both of the kind of result that this measures, of the same size."""
        ...

    @property
    def value(self) -> float: ...


@dataclass(slots=True)
class BoxAgreement:
    """Detections, whatever finds them: a box is found where one of its class overlaps it by half.

    true, extra, missed: counts so far. score_shift: the sum over pairs of how far the scores lie
    apart.
    """

    kind: Kind = "f1"
    true: int = 0
    extra: int = 0
    missed: int = 0
    score_shift: float = 0.0

    def add(self, result: Detections, reference: Detections) -> None:
        pairs = pair_boxes(result, reference)
        self.true += len(pairs)
        self.extra += len(result) - len(pairs)
        self.missed += len(reference) - len(pairs)
        for ours, theirs in pairs:
            self.score_shift += abs(
                float(result.confidence[ours]) - float(reference.confidence[theirs])
            )

    @property
    def value(self) -> float:
        total = 2 * self.true + self.extra + self.missed
        return 2 * self.true / total if total else 1.0

    @property
    def mean_score_shift(self) -> float:
        """How far the scores of pairs lie apart in the mean, 0..1."""
        return self.score_shift / self.true if self.true else 0.0


@dataclass(slots=True)
class MaskAgreement:
    """Masks. A label that neither side ever shows does not count."""

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
    """Pictures of 0..255. At most MOST_PSNR."""

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
    """Outputs of unknown meaning: 1 - |result - reference| / |reference|, Euclidean, at least 0."""

    kind: Kind = "closeness"
    _errors: dict[str, float] = field(default_factory=dict)
    _sizes: dict[str, float] = field(default_factory=dict)

    def add(self, result: Tensors, reference: Tensors) -> None:
        if result.arrays.keys() != reference.arrays.keys():
            raise QualityError(
                f"tensors: expected {sorted(reference.arrays)}, got {sorted(result.arrays)}"
            )
        for name, values in reference.arrays.items():
            wanted = np.asarray(values, np.float64)
            given = np.asarray(result.arrays[name], np.float64)
            if given.shape != wanted.shape:  # another count of rows: nothing of it agrees
                error, size = float(np.sum(wanted**2)) or 1.0, float(np.sum(wanted**2))
            else:
                error, size = float(np.sum((given - wanted) ** 2)), float(np.sum(wanted**2))
            self._errors[name] = self._errors.get(name, 0.0) + error
            self._sizes[name] = self._sizes.get(name, 0.0) + size

    @property
    def value(self) -> float:
        return min((self._closeness(name) for name in self._errors), default=1.0)

    @property
    def worst_error(self) -> float | None:
        """|result - reference| / |reference| of the worst output; None: it has no bound."""
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


JUDGES: dict[type, type[Agreement]] = {
    Detections: BoxAgreement,
    Mask: MaskAgreement,
    Picture: PictureAgreement,
    Tensors: TensorAgreement,
}


def agreement_with(reference: Result) -> Agreement:
    """An empty count for results of that kind."""
    return JUDGES[type(reference)]()


def pair_boxes(
    result: Detections, reference: Detections, least_overlap: float = SAME_BOX
) -> list[tuple[int, int]]:
    """Pairs (row of result, row of reference) of one class that overlap enough.

    Each box is in one pair at most, and no other choice would give more pairs.
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
    """candidates: of each left one, the right ones it may have, the best first -> pairs.

    Each left one in turn takes a free right one, where need be by moving earlier ones to others
    that they may have: the shortest such chain of moves, found breadth first.
    """
    owner: dict[int, int] = {}
    for first in range(len(candidates)):
        asked_by: dict[int, int] = {}
        held: dict[int, int] = {}  # the right one that each earlier left one holds
        waiting = [first]
        while waiting:
            left = waiting.pop(0)
            fresh = [right for right in candidates[left] if right not in asked_by]
            asked_by |= dict.fromkeys(fresh, left)
            free = next((right for right in fresh if right not in owner), None)
            if free is not None:
                while True:
                    mover = asked_by[free]
                    owner[free] = mover
                    if mover == first:
                        break
                    free = held[mover]
                break
            for right in fresh:
                held[owner[right]] = right
                waiting.append(owner[right])
    return sorted((left, right) for right, left in owner.items())


NO_LABEL = -1


def label_map(mask: Mask) -> NDArray[np.int16]:
    """The label of each pixel; NO_LABEL where a probability is below a half."""
    if mask.is_probability:
        return np.where(mask.values >= 0.5, 0, NO_LABEL).astype(np.int16)
    return mask.values.astype(np.int16)


def _same_shape(what: str, result: NDArray[Any], reference: NDArray[Any]) -> None:
    if result.shape != reference.shape:
        raise QualityError(f"{what}: expected shape {reference.shape}, got {result.shape}")
