"""How well results agree with a reference, such as computing everything.

    agreement = agreement_with(reference)      # MEASURES has one row for each kind of result
    agreement.add(result, reference)           # once per frame
    agreement.value                            # kept: what a user would miss, 0..1
    agreement.strict                           # compared at a hard limit: F1, mean IoU, PSNR
    agreement.place                            # how well places agree, 0..1
    agreement.telling                          # False: there was nothing to compare

Counts are over all frames added, so an agreement of one frame has the figures of that frame. More
is better in each of them. docs/explanation/quality.md defines them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from stillframe.models.results import Classes, Depth, Detections, Mask, Picture, Result, Tensors
from stillframe.pipeline.quality.boxes import (
    SAME_BOX_IOU,
    BoxAgreement,
    overlap,
    pair_boxes,
)
from stillframe.pipeline.quality.masks import NO_LABEL, BorderMeter, MaskAgreement, label_map
from stillframe.pipeline.quality.pictures import MOST_PSNR, PictureAgreement
from stillframe.pipeline.quality.tensors import TensorAgreement
from stillframe.pipeline.quality.whole import ClassAgreement, DepthAgreement

__all__ = [
    "MEASURES",
    "MOST_PSNR",
    "NO_LABEL",
    "SAME_BOX_IOU",
    "Agreement",
    "BoxAgreement",
    "ClassAgreement",
    "DepthAgreement",
    "Kind",
    "MaskAgreement",
    "Measure",
    "PictureAgreement",
    "TensorAgreement",
    "against_floor",
    "agreement_with",
    "label_map",
    "overlap",
    "pair_boxes",
]

Kind = Literal["f1", "miou", "top1", "depth", "psnr", "closeness"]
"""A kind of result, called after its strict figure."""


class Agreement(Protocol):
    """Counts over a clip. Where nothing can disagree, each figure is the best there is."""

    kind: Any
    """The row of MEASURES, a `Kind`."""

    def add(self, result: Any, reference: Any) -> None:
        """Count one frame. Both are of the type that this measures, and of the same size."""
        ...

    def merge(self, other: Any) -> None:
        """Count the frames of another agreement of this type too."""
        ...

    @property
    def value(self) -> float:
        """Kept, 0..1: the share of what both hold that a user would not miss."""
        ...

    @property
    def strict(self) -> float:
        """The figure that the kind is called after."""
        ...

    @property
    def place(self) -> float | None:
        """How well the places of what is kept agree, 0..1; None: not known, or there is none."""
        ...

    @property
    def telling(self) -> bool:
        """Whether there was anything to compare."""
        ...


@dataclass(frozen=True, slots=True)
class Measure:
    """How one kind of result is compared."""

    result: type[Result]
    agreement: Callable[[], Agreement]
    floor: float
    """At least this of kept counts as the same result."""
    best: float
    """Strict figure of results without any difference."""
    label: str
    """Name or unit of the strict figure, for people."""
    kept: str
    """What kept is, for people."""
    place: str
    """What place is, for people; empty: there is none."""


MEASURES: dict[Kind, Measure] = {
    "f1": Measure(
        Detections, BoxAgreement, 0.98, 1.0, "F1", "objects", "mean IoU"
    ),
    "miou": Measure(
        Mask, MaskAgreement, 0.98, 1.0, "mIoU", "pixels", "border F"
    ),
    "top1": Measure(
        Classes, ClassAgreement, 0.98, 1.0, "top 1", "frames", ""
    ),
    "depth": Measure(
        Depth, DepthAgreement, 0.98, 1.0, "", "pixels", ""
    ),
    "psnr": Measure(
        Picture, PictureAgreement, 0.98, MOST_PSNR, "dB", "SSIM", ""
    ),
    "closeness": Measure(
        Tensors, TensorAgreement, 0.98, 1.0, "", "closeness", ""
    ),
}  # fmt: skip


def agreement_with(reference: Result, *, place: bool = False) -> Agreement:
    """An empty agreement of the measure for this type of result.

    place: also where that takes long, as along the borders of masks.
    """
    if place and isinstance(reference, Mask):
        return MaskAgreement(borders=BorderMeter())
    return next(
        each.agreement() for each in MEASURES.values() if isinstance(reference, each.result)
    )


def against_floor(agreement: Agreement, floor: float) -> tuple[float, float]:
    """The figure that a floor is about, and the floor, both 0..1.

    A floor up to 1 is about kept. A higher one is in dB, which only pictures have: it is about
    their strict figure, and both are divided by MOST_PSNR.
    """
    if floor <= 1:
        return agreement.value, floor
    if agreement.kind != "psnr":
        return agreement.value, 1.0
    return agreement.strict / MOST_PSNR, min(floor / MOST_PSNR, 1.0)
