"""All that is said of how well a clip was analysed, whatever the model's task.

    judge = ClipJudge(least=0.5)
    judge.add(result, dense, time_s)      # once a frame -> the quality in that frame
    judge.figures()                       # "quality" and "kind", then what the task has of its own

The reference is what computing everything gave, or the truth of a drawn clip. An empty scene, where
neither side has anything, agrees: quality is 1. Figures that are not defined are None.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stillframe.models.results import Detections, Mask, Picture, Result, Tensors
from stillframe.pipeline.quality.agreement import (
    MOST_PSNR,
    Agreement,
    BoxAgreement,
    TensorAgreement,
    agreement_with,
)
from stillframe.pipeline.quality.detection import PrecisionMeter, likeness, soft_loss
from stillframe.pipeline.quality.image import BorderMeter, SimilarityMeter

LOOK_BACK = 12  # earlier frames that a result may stand for
THINNED = 4  # of a picture or mask every fourth row and column tells which frame it shows
LIKELY = 1e-6  # a frame further back must be more alike than this to count as the one shown

Figures = dict[str, float | int | str | None]


@dataclass(slots=True)
class ClipJudge:
    """Compares results with references over a clip. least: confidence from which boxes count."""

    least: float = 0.0
    _whole: Agreement | None = None
    _precision: PrecisionMeter = field(default_factory=PrecisionMeter)
    _similar: SimilarityMeter = field(default_factory=SimilarityMeter)
    _borders: BorderMeter = field(default_factory=BorderMeter)
    _top: list[bool] = field(default_factory=list)
    _past: deque[tuple[float, Result]] = field(default_factory=lambda: deque(maxlen=LOOK_BACK))
    _trails: list[float] = field(default_factory=list)
    _lost: float = 0.0
    _at_stake: float = 0.0
    _times: list[float] = field(default_factory=list)

    def add(self, result: Any, reference: Any, time_s: float) -> float:
        """One frame; -> its quality alone, of the same kind as the clip's."""
        alone = agreement_with(reference)
        self._whole = self._whole or agreement_with(reference)
        for judge in (alone, self._whole):
            judge.add(result, reference)
        if isinstance(reference, Detections):
            self._precision.add(result, reference)
            lost, at_stake = soft_loss(result, reference, self.least)
            self._lost, self._at_stake = self._lost + lost, self._at_stake + at_stake
        elif isinstance(reference, Mask):
            self._borders.add(result, reference)
        elif isinstance(reference, Picture):
            self._similar.add(result, reference)
        elif isinstance(reference, Tensors):
            self._top += _same_top(result, reference)
        self._times.append(time_s)
        self._past.append((time_s, reference))
        self._trails.append(self._trailing(result, time_s))
        return alone.value

    def _trailing(self, result: Result, time_s: float) -> float:
        """Seconds between this frame and the newest one that the result is most like."""
        best, at = -1.0, time_s
        for then, reference in reversed(self._past):
            alike = LIKENESS[type(reference)](result, reference)
            if alike > best + LIKELY:
                best, at = alike, then
        return time_s - at

    @property
    def loss(self) -> float:
        """How much was lost, 0 for nothing: smooth, for tuning."""
        if self._whole is None:
            return 0.0
        if isinstance(self._whole, BoxAgreement):
            return self._lost / self._at_stake if self._at_stake else self._lost
        if self._whole.kind == "psnr":
            return float(10 ** (-self._whole.value / 20))
        return 1 - self._whole.value

    def figures(self) -> Figures:
        """quality, kind and loss; of boxes also f1, ap50, ap (means over the classes), ap50_by_box
        (each class weighs its boxes), score_shift, boxes, and how many are missed and ghosts a
        minute; of masks miou and border_f; of pictures psnr and ssim; of
        tensors closeness, relative_error and top1, the share of frames with the same best class.
        stale_s, stale_p95_s: by how much results trail, mean and 95th percentile."""
        whole = self._whole
        if whole is None:
            return {"quality": 1.0, "kind": None, "loss": 0.0}
        found: Figures = {"quality": whole.value, "kind": whole.kind, "loss": self.loss}
        found[whole.kind] = whole.value
        if isinstance(whole, BoxAgreement):
            minutes = self._seconds() / 60
            found |= {
                "ap50": self._precision.at(0.5),
                "ap50_by_box": self._precision.at(0.5, by_box=True),
                "ap": self._precision.mean(),
                "score_shift": whole.mean_score_shift,
                "boxes": whole.true + whole.missed,
                "missed_per_minute": whole.missed / minutes if minutes else None,
                "ghosts_per_minute": whole.extra / minutes if minutes else None,
            }
        elif whole.kind == "miou":
            found["border_f"] = self._borders.value
        elif whole.kind == "psnr":
            found["ssim"] = self._similar.value
        elif isinstance(whole, TensorAgreement):
            found["relative_error"] = whole.worst_error
            found["top1"] = sum(self._top) / len(self._top) if self._top else None
        found["stale_s"] = float(np.mean(self._trails))
        found["stale_p95_s"] = float(np.percentile(self._trails, 95))
        return found

    def _seconds(self) -> float:
        """The length of what was judged, the last frame shown as long as the others."""
        count = len(self._times)
        if count < 2:
            return 0.0
        return (self._times[-1] - self._times[0]) * count / (count - 1)


def _same_top(result: Tensors, reference: Tensors) -> list[bool]:
    """Of outputs that have a score a class, whether the best class is the same."""
    return [
        int(np.argmax(result.arrays[name])) == int(np.argmax(values))
        for name, values in reference.arrays.items()
        if values.ndim == 2 and values.shape[0] == 1 and values.shape[1] > 1
        and result.arrays[name].shape == values.shape
    ]  # fmt: skip


def _alike_masks(result: Any, reference: Any) -> float:
    ours, theirs = (each.values[::THINNED, ::THINNED] for each in (result, reference))
    if ours.dtype.kind == "f":
        return 1 - float(np.mean(np.abs(ours - theirs)))
    return float(np.mean(ours == theirs))


def _alike_pictures(result: Any, reference: Any) -> float:
    ours, theirs = (
        each.image[::THINNED, ::THINNED].astype(np.float32) for each in (result, reference)
    )
    square = float(np.mean(np.square(ours - theirs)))
    return 1 - min(1.0, np.sqrt(square) / 255) if square else 1.0


def _alike_tensors(result: Any, reference: Any) -> float:
    judge = TensorAgreement()
    judge.add(result, reference)
    return judge.value


LIKENESS: dict[type, Callable[[Any, Any], float]] = {
    Detections: likeness,
    Mask: _alike_masks,
    Picture: _alike_pictures,
    Tensors: _alike_tensors,
}


def as_share(quality: float, kind: str) -> float:
    """Quality on one scale for charts, 0..1: decibels count from 20 to 60."""
    return min(1.0, max(0.0, (min(quality, MOST_PSNR) - 20) / 40)) if kind == "psnr" else quality
