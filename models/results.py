"""What a model says about one frame: one validated dataclass a task.

    Result = Detections | Mask | Picture | Tensors

Every result carries its evidence: whether it was computed from this frame, computed in part, or
carried over from an earlier one, and how old the oldest frame behind it is. All coordinates are
pixels of the source frame, x to the right, y down, (0, 0) the top left corner of the picture. The
arrays are read-only: a result may be handed out for many frames.

`to_dict()` is what a line of JSON holds beside the frame's index and time: `provenance`, `age_s`
and one object named after the task.
"""

import copy
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillframe.errors import ModelError, UsageError
from stillframe.extras import install_command

Provenance = Literal["computed", "partial", "reused"]
PROVENANCES: tuple[Provenance, ...] = ("computed", "partial", "reused")

PIXEL_DECIMALS = 2
SCORE_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a result comes from. age_s: seconds since the oldest frame that it rests on."""

    provenance: Provenance = "computed"
    age_s: float = 0.0

    def __post_init__(self) -> None:
        if self.provenance not in PROVENANCES:
            raise ModelError(
                f"evidence: expected one of {', '.join(PROVENANCES)}, got {self.provenance!r}"
            )
        if not 0.0 <= self.age_s < float("inf"):
            raise ModelError(f"evidence: expected an age of 0 s or more, got {self.age_s}")

    def to_dict(self) -> dict[str, Any]:
        return {"provenance": self.provenance, "age_s": round(float(self.age_s), 6)}


class _Evident:
    """A result: it has evidence, and a copy with other evidence costs nothing."""

    __slots__ = ()
    evidence: Evidence

    def with_evidence(self, evidence: Evidence) -> Self:
        """The same result resting on other evidence; the arrays are shared."""
        other = copy.copy(self)
        object.__setattr__(other, "evidence", evidence)
        return other

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        """Set a field of a frozen instance to a read-only view."""
        view = values.view()
        view.flags.writeable = False
        object.__setattr__(self, name, view)


@dataclass(frozen=True, slots=True, eq=False)
class Detections(_Evident):
    """Boxes with a class and a score each, best first.

    xyxy: (n, 4) float32, left, top, right, bottom in source pixels; left <= right, top <= bottom.
    confidence: (n,) float32 in 0..1. class_id: (n,) int64, an index into `labels`.
    labels: the name of every class that the model knows; `names` has one for each box.
    landmarks: (n, k, 2) float32 points (x, y) in source pixels, or None: the five points of a face,
    the four corners of a line of text. masks: (n, H, W) bool of the source's size, or None.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int64]
    labels: tuple[str, ...]
    landmarks: NDArray[np.float32] | None = None
    evidence: Evidence = field(default_factory=Evidence)
    masks: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        xyxy = _array("detections.xyxy", self.xyxy, np.float32, ("n", 4))
        count = len(xyxy)
        confidence = _array("detections.confidence", self.confidence, np.float32, (count,))
        class_id = _array("detections.class_id", self.class_id, np.int64, (count,))
        if count:
            wrong = np.flatnonzero((xyxy[:, :2] > xyxy[:, 2:]).any(1))
            if wrong.size:
                raise ModelError(
                    "detections.xyxy: expected left <= right and top <= bottom, "
                    f"got {xyxy[wrong[0]].tolist()} in row {wrong[0]}"
                )
            low, high = float(confidence.min()), float(confidence.max())
            if low < 0 or high > 1:
                raise ModelError(
                    f"detections.confidence: expected values in 0..1, got {low:g}..{high:g}"
                )
            first, last = int(class_id.min()), int(class_id.max())
            if first < 0 or last >= len(self.labels):
                raise ModelError(
                    f"detections.class_id: expected an index into {len(self.labels)} labels, "
                    f"got {first if first < 0 else last}"
                )
        self._keep("xyxy", xyxy)
        self._keep("confidence", confidence)
        self._keep("class_id", class_id)
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.landmarks is not None:
            shape = (count, "k", 2)
            points = _array("detections.landmarks", self.landmarks, np.float32, shape)
            self._keep("landmarks", points)
        if self.masks is not None:
            masks = _array("detections.masks", self.masks, np.bool_, (count, "h", "w"))
            self._keep("masks", masks)

    @classmethod
    def none(cls, labels: Sequence[str], points: int = 0) -> Self:
        """No detection at all. points: how many landmarks each would have had."""
        return cls(
            xyxy=np.empty((0, 4), np.float32),
            confidence=np.empty(0, np.float32),
            class_id=np.empty(0, np.int64),
            labels=tuple(labels),
            landmarks=np.empty((0, points, 2), np.float32) if points else None,
        )

    def __len__(self) -> int:
        return len(self.xyxy)

    @property
    def names(self) -> list[str]:
        """The label of each box."""
        return [self.labels[i] for i in self.class_id.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """`labels` here has one name for each box. `landmarks` and `mask_px`, the area of
        each mask in source pixels, are there when the model has such."""
        found: dict[str, Any] = {
            "xyxy": _rounded(self.xyxy, PIXEL_DECIMALS),
            "confidence": _rounded(self.confidence, SCORE_DECIMALS),
            "class_id": self.class_id.tolist(),
            "labels": self.names,
        }
        if self.landmarks is not None:
            found["landmarks"] = _rounded(self.landmarks, PIXEL_DECIMALS)
        if self.masks is not None:
            found["mask_px"] = np.count_nonzero(self.masks, axis=(1, 2)).tolist()
        return {**self.evidence.to_dict(), "detections": found}

    def to_supervision(self) -> Any:
        """The same as a `supervision.Detections`, names under data["class_name"]."""
        try:
            supervision = importlib.import_module("supervision")
        except ImportError as e:
            raise UsageError(
                "to_supervision() needs the package supervision, which is not installed: "
                f"{install_command('supervision')}"
            ) from e
        data: dict[str, Any] = {"class_name": np.array(self.names, dtype=np.str_)}
        if self.landmarks is not None:
            data["landmarks"] = self.landmarks.copy()
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.confidence.copy(),
            class_id=self.class_id.astype(int),
            mask=None if self.masks is None else self.masks.copy(),
            data=data,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Mask(_Evident):
    """What each source pixel belongs to.

    values: (H, W) of the source's size; uint8: an index into `labels`; float32: the probability,
    0..1, of the single label.
    """

    values: NDArray[np.uint8] | NDArray[np.float32]
    labels: tuple[str, ...]
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        is_map = np.asarray(self.values).dtype == np.uint8
        values = _array("mask.values", self.values, np.uint8 if is_map else np.float32, ("h", "w"))
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        if is_map and high >= len(self.labels):
            raise ModelError(
                f"mask.values: expected an index into {len(self.labels)} labels, got {high:g}"
            )
        if not is_map and (low < 0 or high > 1):
            raise ModelError(f"mask.values: expected values in 0..1, got {low:g}..{high:g}")
        if not is_map and len(self.labels) != 1:
            raise ModelError(
                f"mask.labels: expected one label for a probability, got {len(self.labels)}"
            )
        self._keep("values", values)
        object.__setattr__(self, "labels", tuple(self.labels))

    @property
    def is_probability(self) -> bool:
        return self.values.dtype == np.float32

    def to_dict(self) -> dict[str, Any]:
        """A summary: `share` is each label's part of the picture, 0..1, where it is not zero."""
        height, width = self.values.shape
        if self.is_probability:
            counts = np.array([np.count_nonzero(self.values >= 0.5)])
        else:
            counts = np.bincount(self.values.ravel(), minlength=len(self.labels))
        share = {
            label: round(int(count) / max(1, self.values.size), SCORE_DECIMALS)
            for label, count in zip(self.labels, counts, strict=True)
            if count
        }
        return {**self.evidence.to_dict(), "mask": {"size": [height, width], "share": share}}


@dataclass(frozen=True, slots=True, eq=False)
class Picture(_Evident):
    """A picture that a model made. image: (H, W, 3) uint8 RGB, of any size."""

    image: NDArray[np.uint8]
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        self._keep("image", _array("picture.image", self.image, np.uint8, ("h", "w", 3)))

    def to_dict(self) -> dict[str, Any]:
        """A summary: the size, and the mean of each channel."""
        height, width, _ = self.image.shape
        mean = _rounded(self.image.mean((0, 1)), PIXEL_DECIMALS) if self.image.size else []
        return {**self.evidence.to_dict(), "image": {"size": [height, width], "mean_rgb": mean}}


@dataclass(frozen=True, slots=True, eq=False)
class Tensors(_Evident):
    """The outputs of a model whose meaning is not known, by their names in the graph."""

    arrays: dict[str, NDArray[Any]]
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        kept = {}
        for name, values in self.arrays.items():
            kept[name] = np.asarray(values).view()
            kept[name].flags.writeable = False
        object.__setattr__(self, "arrays", kept)

    def to_dict(self) -> dict[str, Any]:
        """A summary of each output; a mean, least or greatest that is no number is null."""
        summary = {}
        for name, values in self.arrays.items():
            told: dict[str, Any] = {"shape": list(values.shape), "dtype": str(values.dtype)}
            if values.size and values.dtype.kind in "fiub":
                exact = values.astype(np.float64)
                figures = {"mean": exact.mean(), "min": exact.min(), "max": exact.max()}
                told |= {k: float(v) if np.isfinite(v) else None for k, v in figures.items()}
            summary[name] = told
        return {**self.evidence.to_dict(), "tensors": summary}


Result = Detections | Mask | Picture | Tensors


def _array(
    name: str, values: ArrayLike, dtype: type[np.generic], shape: tuple[int | str, ...]
) -> NDArray[Any]:
    """The values as that dtype and shape (a letter stands for any size), all finite."""
    given = np.asarray(values)
    fits = given.ndim == len(shape) and all(
        isinstance(want, str) or want == have for want, have in zip(shape, given.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ModelError(f"{name}: expected shape ({wanted}), got {given.shape}")
    if not np.can_cast(given.dtype, dtype, casting="same_kind"):
        raise ModelError(f"{name}: expected {np.dtype(dtype)}, got {given.dtype}")
    array = np.ascontiguousarray(given, dtype=dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ModelError(f"{name}: expected numbers, got NaN or infinity")
    return array


def _rounded(values: NDArray[Any], decimals: int) -> Any:
    """Nested lists of floats with that many decimals."""
    return np.round(values.astype(np.float64), decimals).tolist()
