"""All figures of how well a clip was analysed, whatever the model's task.

    judge = ClipJudge(least=0.5)
    judge.add(result, reference, time_s)  # once per frame -> the quality of that frame
    judge.figures()                       # "quality", which is kept, then all other figures

The reference is the result of computing everything, or the ground truth of a drawn clip. A scene
that is empty in both agrees: quality is 1. Undefined figures are None.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stillframe.models.results import Classes, Depth, Detections, Mask, Picture, Result, Tensors
from stillframe.pipeline.quality.agreement import (
    Agreement,
    BoxAgreement,
    TensorAgreement,
    agreement_with,
)
from stillframe.pipeline.quality.detection import PrecisionMeter, box_similarity, soft_loss

LOOK_BACK = 12
"""Earlier frames that a stale result may show."""
SUBSAMPLE = 4
"""Every fourth row and column of a picture or mask is enough to tell which frame it shows."""
CLEARLY = 1e-6
"""An earlier frame is the one shown only if it is more similar by this."""

Figures = dict[str, float | int | str | None]


@dataclass(slots=True)
class ClipJudge:
    """Compares results with references over a clip."""

    least: float = 0.0
    """Confidence at which a box starts to count for the loss."""
    _whole: Agreement | None = None
    """Over the clip; None before the first frame."""
    _precision: PrecisionMeter = field(default_factory=PrecisionMeter)
    _same_top: list[bool] = field(default_factory=list)
    """For each frame and output with a score per class: whether the best class is the same."""
    _past: deque[tuple[float, Result]] = field(default_factory=lambda: deque(maxlen=LOOK_BACK))
    """Time and reference of the last frames."""
    _stale_s: list[float] = field(default_factory=list)
    """By how much each result trails."""
    _lost: float = 0.0
    _at_stake: float = 0.0
    """Sums of `soft_loss`."""
    _times: list[float] = field(default_factory=list)
    _telling: int = 0
    """Frames in which there was anything to compare."""

    def add(self, result: Any, reference: Any, time_s: float) -> float:
        """Count one frame; -> what is kept in it, 0..1."""
        alone = agreement_with(reference)
        alone.add(result, reference)
        self._whole = self._whole or agreement_with(reference, place=True)
        self._whole.add(result, reference)
        self._telling += alone.telling
        if isinstance(reference, Detections):
            self._precision.add(result, reference)
            lost, at_stake = soft_loss(result, reference, self.least)
            self._lost, self._at_stake = self._lost + lost, self._at_stake + at_stake
        elif isinstance(reference, Tensors):
            self._same_top += _same_top(result, reference)
        self._times.append(time_s)
        self._past.append((time_s, reference))
        self._stale_s.append(self._staleness_s(result, time_s))
        return alone.value

    def _staleness_s(self, result: Result, time_s: float) -> float:
        """Seconds between this frame and the newest one that the result is most similar to."""
        best, shown_s = -1.0, time_s
        for past_s, reference in reversed(self._past):
            similarity = SIMILARITY[type(reference)](result, reference)
            if similarity > best + CLEARLY:
                best, shown_s = similarity, past_s
        return time_s - shown_s

    @property
    def loss(self) -> float:
        """What the results lost, 0: nothing. Smooth, for tuning."""
        if self._whole is None:
            return 0.0
        if isinstance(self._whole, BoxAgreement):
            return self._lost / self._at_stake if self._at_stake else self._lost
        if self._whole.kind == "psnr":
            return float(10 ** (-self._whole.strict / 20))
        return 1 - self._whole.strict

    def figures(self) -> Figures:
        """The figures of the clip, by name.

        Always: quality and kept (the same), strict, place, kind, telling (frames in which there was
        anything to compare), loss, and stale_s, stale_p95_s: by how much results trail, mean and
        95th percentile. Boxes: f1, mean_iou, ap50, ap (means over the classes), ap50_by_box (each
        class weighs its boxes), score_shift, boxes, missed, invented, missed_per_minute,
        invented_per_minute, also called ghosts_per_minute. Masks: miou, border_f. Pictures: psnr,
        ssim. Tensors: closeness, relative_error, top1 (share of outputs with the same best class).
        """
        whole = self._whole
        if whole is None:
            return {"quality": 1.0, "kind": None, "loss": 0.0}
        figures: Figures = {"quality": whole.value, "kind": whole.kind, "loss": self.loss}
        figures |= {"kept": whole.value, "strict": whole.strict, "place": whole.place}
        figures |= {"telling": self._telling, whole.kind: whole.strict}
        if isinstance(whole, BoxAgreement):
            minutes = self._seconds() / 60
            missed, invented = whole.missed_objects, whole.invented_objects
            figures |= {
                "mean_iou": whole.mean_iou,
                "ap50": self._precision.at(0.5),
                "ap50_by_box": self._precision.at(0.5, by_box=True),
                "ap": self._precision.mean(),
                "score_shift": whole.mean_score_shift,
                "boxes": whole.objects,
                "missed": missed,
                "invented": invented,
                "missed_per_minute": missed / minutes if minutes else None,
                "invented_per_minute": invented / minutes if minutes else None,
            }
            figures["ghosts_per_minute"] = figures["invented_per_minute"]
        elif whole.kind == "miou":
            figures["border_f"] = whole.place
        elif whole.kind == "psnr":
            figures["ssim"] = whole.value
        elif isinstance(whole, TensorAgreement):
            figures["relative_error"] = whole.worst_error
            figures["top1"] = sum(self._same_top) / len(self._same_top) if self._same_top else None
        figures["stale_s"] = float(np.mean(self._stale_s))
        figures["stale_p95_s"] = float(np.percentile(self._stale_s, 95))
        return figures

    def _seconds(self) -> float:
        """The length of the clip; the last frame lasts as long as the others on average."""
        count = len(self._times)
        if count < 2:
            return 0.0
        return (self._times[-1] - self._times[0]) * count / (count - 1)


def _same_top(result: Tensors, reference: Tensors) -> list[bool]:
    """For each output with a score per class: whether the best class is the same."""
    return [
        int(np.argmax(result.arrays[name])) == int(np.argmax(values))
        for name, values in reference.arrays.items()
        if values.ndim == 2 and values.shape[0] == 1 and values.shape[1] > 1
        and result.arrays[name].shape == values.shape
    ]  # fmt: skip


def _similarity_of_masks(result: Any, reference: Any) -> float:
    ours, theirs = (each.values[::SUBSAMPLE, ::SUBSAMPLE] for each in (result, reference))
    if ours.dtype.kind == "f":
        return 1 - float(np.mean(np.abs(ours - theirs)))
    return float(np.mean(ours == theirs))


def _similarity_of_pictures(result: Any, reference: Any) -> float:
    ours, theirs = (
        each.image[::SUBSAMPLE, ::SUBSAMPLE].astype(np.float32) for each in (result, reference)
    )
    square = float(np.mean(np.square(ours - theirs)))
    return 1 - min(1.0, np.sqrt(square) / 255) if square else 1.0


def _similarity_of_tensors(result: Any, reference: Any) -> float:
    judge = TensorAgreement()
    judge.add(result, reference)
    return judge.value


def _similarity_of_classes(result: Any, reference: Any) -> float:
    return 1 - float(np.abs(result.scores - reference.scores).sum()) / 2


def _similarity_of_depths(result: Any, reference: Any) -> float:
    ours, theirs = (each.values[::SUBSAMPLE, ::SUBSAMPLE] for each in (result, reference))
    apart, size = float(np.abs(ours - theirs).sum()), float(np.abs(theirs).sum())
    return 1 - min(1.0, apart / size) if apart and size else float(not apart)


SIMILARITY: dict[type, Callable[[Any, Any], float]] = {
    Detections: box_similarity,
    Mask: _similarity_of_masks,
    Classes: _similarity_of_classes,
    Depth: _similarity_of_depths,
    Picture: _similarity_of_pictures,
    Tensors: _similarity_of_tensors,
}
"""How similar two results are, 0..1, for each type of result."""
