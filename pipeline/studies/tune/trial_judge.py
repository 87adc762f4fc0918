"""How far the results of a trial agree with the dense ones."""

from dataclasses import replace

import numpy as np

from stillframe.models.results import FAINT, Detections, Result
from stillframe.pipeline.quality.agreement import (
    MOST_PSNR,
    Agreement,
    BoxAgreement,
    agreement_with,
)
from stillframe.pipeline.quality.detection import soft_loss

AROUND = (0.6, 0.8, 1.0, 1.2, 1.4)  # parts of the confidence at which boxes agree steadily
SOFTER = 0.5  # boxes from that part of the confidence on count for the loss, so that it is smooth
HIGHEST = 0.95


class TrialJudge:
    """Compares the results of one passage, frame by frame.

    confidence: of detections that count; boxes down to SOFTER times it are taken for the loss.
    decibels: quality of pictures is in dB.
    """

    def __init__(self, confidence: float, decibels: bool = False) -> None:
        self._confidence, self._decibels = confidence, decibels
        self._agreement: Agreement | None = None
        self._around = BoxAgreement()
        self._lost = self._at_stake = 0.0

    def add(self, result: Result, dense: Result) -> None:
        """Compare one frame's result with its dense one."""
        if isinstance(result, Detections) and isinstance(dense, Detections):
            lost, at_stake = soft_loss(result, dense, self._confidence * SOFTER)
            self._lost, self._at_stake = self._lost + lost, self._at_stake + at_stake
            for part in AROUND:
                least = min(part * self._confidence, HIGHEST)
                self._around.add(confident(result, least), confident(dense, least))
            result, dense = (confident(each, self._confidence) for each in (result, dense))
        self._agreement = self._agreement or agreement_with(dense)
        self._agreement.add(result, dense)

    @property
    def quality(self) -> float:
        """What is kept, 0..1, or in dB; before the first frame the best there is."""
        if self._decibels:
            return MOST_PSNR if self._agreement is None else self._agreement.strict
        return 1.0 if self._agreement is None else self._agreement.value

    @property
    def strict(self) -> float:
        """Agreement at a hard limit; 1 before the first frame."""
        return 1.0 if self._agreement is None else self._agreement.strict

    @property
    def steady(self) -> float:
        """The same; of boxes at several confidences at once."""
        if self._agreement is None or self._agreement.kind != "f1":
            return self.quality
        return self._around.value

    @property
    def loss(self) -> float:
        """0 for none; smooth, where agreement jumps."""
        if self._agreement is None or self._agreement.kind == "f1":
            return self._lost / self._at_stake if self._at_stake else self._lost
        if self._agreement.kind == "psnr":
            return float(10 ** (-self._agreement.strict / 20))
        return 1 - self._agreement.strict


def confident(result: Detections, least: float) -> Detections:
    """The boxes of at least that confidence; those from FAINT times it on are the faint ones."""
    parts = [result] if result.faint is None else [result, result.faint]
    both = Detections(
        np.concatenate([part.xyxy for part in parts]),
        np.concatenate([part.confidence for part in parts]),
        np.concatenate([part.class_id for part in parts]),
        result.labels,
        None if result.landmarks is None else np.concatenate([p.landmarks for p in parts]),
    )
    keep = both.confidence >= least
    faint = both.rows(~keep & (both.confidence >= least * FAINT))
    return replace(both.rows(keep), faint=faint)
