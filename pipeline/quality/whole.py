"""Agreement of what is said of whole frames: classes, and depth pixel by pixel."""

from dataclasses import dataclass

import numpy as np

from stillframe.errors import QualityError
from stillframe.models.results import FAINT, Classes, Depth
from stillframe.pipeline.quality.masks import same_shape

NEAR = 1.25
"""A depth is kept if neither value is more than this many times the other: the usual δ < 1.25."""
FLOOR = 0.01
"""Of the reference's greatest depth: smaller values count as this much, so that ratios exist."""


@dataclass(slots=True)
class ClassAgreement:
    """Frames over a clip: whether they have the same best class.

    Kept is the share of frames in which the best class of either has at least FAINT times the best
    score of the other: two classes that are nearly as likely may change places.
    """

    kind: str = "top1"
    _frames: int = 0
    _kept: int = 0
    _same: int = 0

    def add(self, result: Classes, reference: Classes) -> None:
        """Count one frame. Raises QualityError for another number of classes."""
        if len(result.scores) != len(reference.scores):
            raise QualityError(
                f"classes: expected {len(reference.scores)} scores, got {len(result.scores)}"
            )
        self._frames += 1
        ours, theirs = int(result.scores.argmax()), int(reference.scores.argmax())
        self._same += ours == theirs
        self._kept += bool(
            result.scores[theirs] >= FAINT * result.scores[ours]
            and reference.scores[ours] >= FAINT * reference.scores[theirs]
        )

    def merge(self, other: "ClassAgreement") -> None:
        """Count the frames of another agreement too."""
        self._frames += other._frames
        self._kept += other._kept
        self._same += other._same

    @property
    def value(self) -> float:
        """Kept, 0..1."""
        return self._kept / self._frames if self._frames else 1.0

    @property
    def strict(self) -> float:
        """Share of frames with the same best class."""
        return self._same / self._frames if self._frames else 1.0

    @property
    def telling(self) -> bool:
        """Whether there was any frame."""
        return self._frames > 0

    @property
    def place(self) -> float | None:
        """Classes of a whole frame have no place."""
        return None


@dataclass(slots=True)
class DepthAgreement:
    """Depths over a clip. Kept is the share of pixels within a factor of NEAR of the reference.

    Strict is 1 - |result - reference| / |reference|, at least 0, in Euclidean norms over the clip.
    """

    kind: str = "depth"
    _pixels: int = 0
    _kept: int = 0
    _error: float = 0.0
    _size: float = 0.0

    def add(self, result: Depth, reference: Depth) -> None:
        """Count one frame. Raises QualityError for depths of two sizes."""
        same_shape("depth", result.values, reference.values)
        ours, theirs = (each.values.astype(np.float64) for each in (result, reference))
        least = max(FLOOR * float(np.abs(theirs).max(initial=0)), 1e-12)
        a, b = np.maximum(ours, least), np.maximum(theirs, least)
        self._kept += int(np.count_nonzero(np.maximum(a / b, b / a) <= NEAR))
        self._pixels += theirs.size
        self._error += float(np.sum((ours - theirs) ** 2))
        self._size += float(np.sum(theirs**2))

    def merge(self, other: "DepthAgreement") -> None:
        """Count the frames of another agreement too."""
        self._pixels += other._pixels
        self._kept += other._kept
        self._error += other._error
        self._size += other._size

    @property
    def value(self) -> float:
        """Kept, 0..1."""
        return self._kept / self._pixels if self._pixels else 1.0

    @property
    def strict(self) -> float:
        """Closeness, 0..1."""
        if not self._error:
            return 1.0
        return max(0.0, 1 - (self._error / self._size) ** 0.5) if self._size else 0.0

    @property
    def telling(self) -> bool:
        """Whether there was any pixel."""
        return self._pixels > 0

    @property
    def place(self) -> float | None:
        """Every pixel has its place."""
        return None
