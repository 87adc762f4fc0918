"""Agreement of detections: which objects both results hold, and how well their places agree.

A box of one side is *kept* if the other side holds a box of that class over it, with an
intersection over union of SAME_BOX_IOU or more, even if only a faint one (`Detections.faint`). A
box of the reference that is not kept is *missed*; one of the result is *invented*.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stillframe.models.results import Detections
from stillframe.pipeline.quality.matching import largest_matching

SAME_BOX_IOU = 0.5
"""Boxes of one class with this intersection over union are the same box."""
MOST_POINT_ERROR = 0.25
"""A pair whose landmarks are further apart is not the same object: mean distance of a point from
its counterpart, as a share of the square root of the box's area. A square box that is off by so
much has an intersection over union of 0.6."""
NEAR_IOU, NEAR_POINT_ERROR = 0.65, 0.2
"""A pair that overlaps by less, or whose landmarks are further apart, nearly counts as two."""
SAME_OUTLINE_PX = 1.5
"""Four points that bound their box to within this are its outline, such as that of a line of text.
They say where the box is, as its corners do, and are not compared by themselves."""


class Rows(NamedTuple):
    """Boxes, and the faint ones after them."""

    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]
    landmarks: NDArray[np.float32] | None


@dataclass(slots=True)
class BoxAgreement:
    """Counts of boxes over a clip.

    Kept is (kept of the reference + kept of the result) / (boxes of both): the F1 score of all that
    either side holds by a clear margin. Strict is the F1 score of the pairs at the confidence
    limit, as if there were no faint boxes. Both are 1 where there is no box.
    """

    kind: str = "f1"
    matched: int = 0
    """Boxes that are in the result and in the reference, both above the limit."""
    extra: int = 0
    """Boxes of the result without such a partner."""
    missed: int = 0
    """Boxes of the reference without such a partner."""
    missed_objects: int = 0
    """Boxes of the reference that are not kept."""
    invented_objects: int = 0
    """Boxes of the result that are not kept."""
    score_shift: float = 0.0
    """Sum over the matched boxes of the difference of their scores."""
    pairs: int = 0
    """Boxes of the reference that are kept."""
    overlaps: float = 0.0
    """Sum over these pairs of their intersection over union."""
    point_errors: float = 0.0
    """Sum over these pairs of the distance of their landmarks, see MOST_POINT_ERROR."""
    near_misses: int = 0
    """Those of these pairs that nearly count as two boxes, see NEAR_IOU."""
    compares_points: bool = False
    """Whether there are landmarks to compare."""

    def add(self, result: Detections, reference: Detections) -> None:
        """Count one frame."""
        matched = pair_boxes(result, reference)
        self.matched += len(matched)
        self.extra += len(result) - len(matched)
        self.missed += len(reference) - len(matched)
        for ours, theirs in matched:
            self.score_shift += abs(
                float(result.confidence[ours]) - float(reference.confidence[theirs])
            )
        ours_all, theirs_all = _rows(result), _rows(reference)
        strong = _rows(reference, faint=False)
        pairs = _pairs(ours_all, strong)
        kept_results = len(_pairs(_rows(result, faint=False), theirs_all))
        self.missed_objects += len(reference) - len(pairs)
        self.invented_objects += len(result) - kept_results
        self.pairs += len(pairs)
        shares = overlap(ours_all.xyxy, strong.xyxy)
        self.overlaps += sum(float(shares[pair]) for pair in pairs)
        near = {pair for pair in pairs if shares[pair] < NEAR_IOU}
        if _has_points(ours_all, strong):
            self.compares_points = True
            errors = point_error(ours_all, strong)
            self.point_errors += sum(float(errors[pair]) for pair in pairs)
            near |= {pair for pair in pairs if errors[pair] > NEAR_POINT_ERROR}
        self.near_misses += len(near)

    def merge(self, other: "BoxAgreement") -> None:
        """Count the frames of another agreement too."""
        self.matched += other.matched
        self.extra += other.extra
        self.missed += other.missed
        self.missed_objects += other.missed_objects
        self.invented_objects += other.invented_objects
        self.score_shift += other.score_shift
        self.pairs += other.pairs
        self.overlaps += other.overlaps
        self.point_errors += other.point_errors
        self.near_misses += other.near_misses
        self.compares_points |= other.compares_points

    @property
    def value(self) -> float:
        """Kept, 0..1."""
        lost = self.missed_objects + self.invented_objects
        return (self._boxes - lost) / self._boxes if self._boxes else 1.0

    @property
    def cautious(self) -> float:
        """As kept, but a pair that nearly counts as two boxes is half lost.

        Where boxes come close to the limit in some frames, they will be beyond it in others: so
        fewer frames tell what is at risk. For choosing settings, not for what is reported.
        """
        return self.value - self.near_misses / self._boxes if self._boxes else 1.0

    @property
    def strict(self) -> float:
        """F1 at the confidence limit."""
        return 2 * self.matched / self._boxes if self._boxes else 1.0

    @property
    def telling(self) -> bool:
        """Whether there was any box."""
        return self._boxes > 0

    @property
    def place(self) -> float | None:
        """How well pairs agree in where they are, 0..1; None: there is none.

        The mean intersection over union of the boxes; with landmarks, 1 less the mean distance of a
        point from its counterpart, as a share of the box.
        """
        if self.pairs and self.compares_points:
            return max(0.0, 1 - self.point_errors / self.pairs)
        return self.mean_iou

    @property
    def mean_iou(self) -> float | None:
        """Mean intersection over union of the pairs; None: there is none."""
        return self.overlaps / self.pairs if self.pairs else None

    @property
    def mean_score_shift(self) -> float:
        """Mean difference of the scores of matched boxes, 0..1."""
        return self.score_shift / self.matched if self.matched else 0.0

    @property
    def objects(self) -> int:
        """Boxes of the reference."""
        return self.matched + self.missed

    @property
    def _boxes(self) -> int:
        return 2 * self.matched + self.extra + self.missed


def pair_boxes(
    result: Detections, reference: Detections, least_overlap: float = SAME_BOX_IOU
) -> list[tuple[int, int]]:
    """Pairs (row of result, row of reference) of one class that overlap enough.

    Each box is in one pair at most; no other choice gives more pairs (maximum matching).
    """
    overlaps = overlap(result.xyxy, reference.xyxy)
    fits = (overlaps >= least_overlap) & (result.class_id[:, None] == reference.class_id[None, :])
    return _matching(overlaps, fits)


def kept_rows(
    result: Detections, reference: Detections
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each box of the result, and each of the reference, is kept."""
    ours = np.zeros(len(result), bool)
    theirs = np.zeros(len(reference), bool)
    ours[[i for i, _ in _pairs(_rows(result, faint=False), _rows(reference))]] = True
    theirs[[j for _, j in _pairs(_rows(result), _rows(reference, faint=False))]] = True
    return ours, theirs


def _pairs(result: Rows, reference: Rows) -> list[tuple[int, int]]:
    """As `pair_boxes`; landmarks that are too far apart make no pair."""
    if not len(result.xyxy) or not len(reference.xyxy):
        return []
    overlaps = overlap(result.xyxy, reference.xyxy)
    fits = (overlaps >= SAME_BOX_IOU) & (result.class_id[:, None] == reference.class_id[None, :])
    if _has_points(result, reference):
        fits &= point_error(result, reference) <= MOST_POINT_ERROR
    return _matching(overlaps, fits)


def _matching(overlaps: NDArray[Any], fits: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """A maximum matching of those that fit, larger overlaps first."""
    return largest_matching(
        [
            [int(j) for j in np.argsort(-overlaps[i], kind="stable") if fits[i, j]]
            for i in range(len(fits))
        ]
    )


def _rows(detections: Detections, *, faint: bool = True) -> Rows:
    rest = detections.faint if faint else None
    if rest is None or not len(rest):
        return Rows(detections.xyxy, detections.class_id, detections.landmarks)
    points = None
    if detections.landmarks is not None and rest.landmarks is not None:
        points = np.concatenate((detections.landmarks, rest.landmarks))
    return Rows(
        np.concatenate((detections.xyxy, rest.xyxy)),
        np.concatenate((detections.class_id, rest.class_id)),
        points,
    )


def _has_points(result: Rows, reference: Rows) -> bool:
    """Whether both have landmarks to compare, the same number, other than outlines."""
    ours, theirs = result.landmarks, reference.landmarks
    if ours is None or theirs is None or ours.shape[1:] != theirs.shape[1:]:
        return False
    return not (_are_outlines(result.xyxy, ours) and _are_outlines(reference.xyxy, theirs))


def _are_outlines(xyxy: NDArray[Any], points: NDArray[Any]) -> bool:
    if points.shape[1] != 4:
        return False
    bounds = np.concatenate((points.min(axis=1), points.max(axis=1)), axis=1)
    return bool((np.abs(bounds - xyxy) <= SAME_OUTLINE_PX).all())


def point_error(result: Rows, reference: Rows) -> NDArray[np.float64]:
    """(n, m): mean distance of the landmarks of two boxes, as a share of the square root of the
    area of the reference's box."""
    assert result.landmarks is not None
    assert reference.landmarks is not None
    ours = np.asarray(result.landmarks, np.float64)[:, None]
    theirs = np.asarray(reference.landmarks, np.float64)[None]
    distances = np.linalg.norm(ours - theirs, axis=-1).mean(axis=-1)
    sides = reference.xyxy[:, 2:].astype(np.float64) - reference.xyxy[:, :2]
    size = np.sqrt(np.maximum(sides.prod(axis=1), 1.0))
    return np.asarray(distances / size[None])


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
