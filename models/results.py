"""The result of a model for one frame: one validated dataclass per task.

    Result = Detections | Mask | Classes | Depth | Picture | Tensors

Every result has its evidence: whether it was computed from this frame, computed in part, or carried
over from an earlier one, and the age of the oldest frame that it rests on. All coordinates are
pixels of the source frame, x to the right, y down, (0, 0) the top left corner. The arrays are
read-only, because several frames may share a result.

`to_dict()` is the JSON of a result: `provenance`, `age_s` and one object named after the task. A
record adds the frame's index and time.
"""

import copy
import importlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillframe.errors import ModelError, UsageError
from stillframe.extras import install_command

Provenance = Literal["computed", "partial", "reused"]
PROVENANCES: tuple[Provenance, ...] = ("computed", "partial", "reused")

PIXEL_DECIMALS = 2
SCORE_DECIMALS = 4
MOST_CLASSES = 5
"""Of `Classes`, that are shown and written."""
FAINT = 0.6
"""Boxes from this share of the confidence limit on are decoded too, see `Detections.faint`."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a result comes from."""

    provenance: Provenance = "computed"
    """Computed from this frame, computed in part of it, or reused from an earlier one."""
    age_s: float = 0.0
    """Seconds since the oldest frame that the result rests on."""

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
    """Base of the results: a copy with other evidence shares the arrays."""

    __slots__ = ()
    evidence: Evidence

    def with_evidence(self, evidence: Evidence) -> Self:
        """The same result with other evidence; the arrays are shared."""
        other = copy.copy(self)
        object.__setattr__(other, "evidence", evidence)
        return other

    def _set_read_only(self, name: str, values: NDArray[Any]) -> None:
        """Set a field of this frozen instance to a read-only view."""
        view = values.view()
        view.flags.writeable = False
        object.__setattr__(self, name, view)


@dataclass(frozen=True, slots=True, eq=False)
class Detections(_Evident):
    """Boxes with a class and a score each, best first."""

    xyxy: NDArray[np.float32]
    """(n, 4): left, top, right, bottom in source pixels; left <= right, top <= bottom."""
    confidence: NDArray[np.float32]
    """(n,) in 0..1."""
    class_id: NDArray[np.int64]
    """(n,) indices into `labels`."""
    labels: tuple[str, ...]
    """Name of every class of the model; `names` has one per box."""
    landmarks: NDArray[np.float32] | None = None
    """(n, k, 2) points (x, y) in source pixels, such as the corners of a line of text, or None."""
    evidence: Evidence = field(default_factory=Evidence)
    masks: NDArray[np.bool_] | None = None
    """(n, H, W) of the source's size, or None."""
    faint: "Detections | None" = field(default=None, repr=False)
    """Boxes below the confidence limit, from FAINT times it on; None: not decoded.

    They are compared where quality is measured, and are no part of the result: neither counted nor
    drawn nor written. Without masks.
    """

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
        self._set_read_only("xyxy", xyxy)
        self._set_read_only("confidence", confidence)
        self._set_read_only("class_id", class_id)
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.landmarks is not None:
            shape = (count, "k", 2)
            points = _array("detections.landmarks", self.landmarks, np.float32, shape)
            self._set_read_only("landmarks", points)
        if self.masks is not None:
            masks = _array("detections.masks", self.masks, np.bool_, (count, "h", "w"))
            self._set_read_only("masks", masks)

    @classmethod
    def none(cls, labels: Sequence[str], points: int = 0) -> Self:
        """No detections. points: landmarks per box of the model, 0 without any."""
        return cls(
            xyxy=np.empty((0, 4), np.float32),
            confidence=np.empty(0, np.float32),
            class_id=np.empty(0, np.int64),
            labels=tuple(labels),
            landmarks=np.empty((0, points, 2), np.float32) if points else None,
        )

    def __len__(self) -> int:
        return len(self.xyxy)

    def rows(self, chosen: NDArray[Any] | slice) -> "Detections":
        """The boxes at these indices, or where a mask is true; `faint` stays as it is."""
        return replace(
            self,
            xyxy=self.xyxy[chosen],
            confidence=self.confidence[chosen],
            class_id=self.class_id[chosen],
            landmarks=None if self.landmarks is None else self.landmarks[chosen],
            masks=None if self.masks is None else self.masks[chosen],
        )

    @property
    def names(self) -> list[str]:
        """The label of each box."""
        return [self.labels[i] for i in self.class_id.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """As JSON; here `labels` has one name per box.

        A model with landmarks or masks adds `landmarks` and `mask_px`, the area of each mask in
        source pixels.
        """
        detections: dict[str, Any] = {
            "xyxy": _rounded(self.xyxy, PIXEL_DECIMALS),
            "confidence": _rounded(self.confidence, SCORE_DECIMALS),
            "class_id": self.class_id.tolist(),
            "labels": self.names,
        }
        if self.landmarks is not None:
            detections["landmarks"] = _rounded(self.landmarks, PIXEL_DECIMALS)
        if self.masks is not None:
            detections["mask_px"] = np.count_nonzero(self.masks, axis=(1, 2)).tolist()
        return {**self.evidence.to_dict(), "detections": detections}

    def to_supervision(self) -> Any:
        """As a `supervision.Detections`, with the names in data["class_name"]."""
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
    """The class of each source pixel, or its probability."""

    values: NDArray[np.uint8] | NDArray[np.float32]
    """(H, W) of the source's size. uint8: index into `labels`; float32: probability, 0..1."""
    labels: tuple[str, ...]
    """Class names; a single one for probabilities."""
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
        self._set_read_only("values", values)
        object.__setattr__(self, "labels", tuple(self.labels))

    @property
    def is_probability(self) -> bool:
        return self.values.dtype == np.float32

    def to_dict(self) -> dict[str, Any]:
        """A summary: `share` is the part of the frame, 0..1, of each label that occurs."""
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
class Classes(_Evident):
    """The class of the whole frame: a score for each that the model knows."""

    scores: NDArray[np.float32]
    """(n,) in 0..1."""
    labels: tuple[str, ...]
    """(n,) names."""
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        scores = _array("classes.scores", self.scores, np.float32, (len(self.labels),))
        low, high = float(scores.min(initial=0)), float(scores.max(initial=0))
        if low < 0 or high > 1:
            raise ModelError(f"classes.scores: expected values in 0..1, got {low:g}..{high:g}")
        self._set_read_only("scores", scores)
        object.__setattr__(self, "labels", tuple(self.labels))

    @property
    def best(self) -> list[int]:
        """Indices of the MOST_CLASSES likeliest classes, best first."""
        return [int(i) for i in np.argsort(-self.scores, kind="stable")[:MOST_CLASSES]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the likeliest classes, best first."""
        best = self.best
        classes = {
            "labels": [self.labels[i] for i in best],
            "class_id": best,
            "confidence": _rounded(self.scores[best], SCORE_DECIMALS),
        }
        return {**self.evidence.to_dict(), "classes": classes}


@dataclass(frozen=True, slots=True, eq=False)
class Depth(_Evident):
    """How near or far each source pixel is, in the model's own unit.

    Networks for relative depth, such as MiDaS and Depth Anything, give more to what is nearer.
    """

    values: NDArray[np.float32]
    """(H, W) of the source's size."""
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        self._set_read_only("values", _array("depth.values", self.values, np.float32, ("h", "w")))

    def to_dict(self) -> dict[str, Any]:
        """A summary: the size, and the least, mean and greatest value."""
        height, width = self.values.shape
        facts: dict[str, Any] = {"size": [height, width]}
        if self.values.size:
            exact = self.values.astype(np.float64)
            facts |= {"min": exact.min(), "mean": exact.mean(), "max": exact.max()}
            facts |= {k: round(float(facts[k]), SCORE_DECIMALS) for k in ("min", "mean", "max")}
        return {**self.evidence.to_dict(), "depth": facts}


@dataclass(frozen=True, slots=True, eq=False)
class Picture(_Evident):
    """An image that a model produced."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB, of any size."""
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        self._set_read_only("image", _array("picture.image", self.image, np.uint8, ("h", "w", 3)))

    def to_dict(self) -> dict[str, Any]:
        """A summary: the size and the mean of each channel."""
        height, width, _ = self.image.shape
        mean = _rounded(self.image.mean((0, 1)), PIXEL_DECIMALS) if self.image.size else []
        return {**self.evidence.to_dict(), "image": {"size": [height, width], "mean_rgb": mean}}


@dataclass(frozen=True, slots=True, eq=False)
class Tensors(_Evident):
    """The unchanged outputs of a model of unknown meaning."""

    arrays: dict[str, NDArray[Any]]
    """By their names in the graph."""
    evidence: Evidence = field(default_factory=Evidence)

    def __post_init__(self) -> None:
        views = {}
        for name, values in self.arrays.items():
            views[name] = np.asarray(values).view()
            views[name].flags.writeable = False
        object.__setattr__(self, "arrays", views)

    def to_dict(self) -> dict[str, Any]:
        """A summary of each output; NaN or infinite statistics are null."""
        summary = {}
        for name, values in self.arrays.items():
            facts: dict[str, Any] = {"shape": list(values.shape), "dtype": str(values.dtype)}
            if values.size and values.dtype.kind in "fiub":
                exact = values.astype(np.float64)
                statistics = {"mean": exact.mean(), "min": exact.min(), "max": exact.max()}
                facts |= {k: float(v) if np.isfinite(v) else None for k, v in statistics.items()}
            summary[name] = facts
        return {**self.evidence.to_dict(), "tensors": summary}


Result = Detections | Mask | Classes | Depth | Picture | Tensors


def with_labels(result: Result, labels: Collection[str]) -> Result:
    """The result with only these labels, all if there are none: other boxes are left out, and
    other pixels of a class map become 0."""
    if not labels:
        return result
    if isinstance(result, Detections):
        chosen = [index for index, label in enumerate(result.labels) if label in labels]
        boxes = result.rows(np.isin(result.class_id, chosen))
        if result.faint is None:
            return boxes
        faint = result.faint.rows(np.isin(result.faint.class_id, chosen))
        return replace(boxes, faint=faint)
    if isinstance(result, Mask) and not result.is_probability:
        table = np.array([n * (label in labels) for n, label in enumerate(result.labels)], np.uint8)
        return replace(result, values=table[result.values])
    return result


def _array(
    name: str, values: ArrayLike, dtype: type[np.generic], shape: tuple[int | str, ...]
) -> NDArray[Any]:
    """The values as that dtype and shape (a letter is any size); ModelError for NaN or infinity."""
    raw = np.asarray(values)
    fits = raw.ndim == len(shape) and all(
        isinstance(size, str) or size == got for size, got in zip(shape, raw.shape, strict=True)
    )
    if not fits:
        expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ModelError(f"{name}: expected shape ({expected}), got {raw.shape}")
    if not np.can_cast(raw.dtype, dtype, casting="same_kind"):
        raise ModelError(f"{name}: expected {np.dtype(dtype)}, got {raw.dtype}")
    array = np.ascontiguousarray(raw, dtype=dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ModelError(f"{name}: expected numbers, got NaN or infinity")
    return array


def _rounded(values: NDArray[Any], decimals: int) -> Any:
    """Nested lists of floats with that many decimals."""
    return np.round(values.astype(np.float64), decimals).tolist()
