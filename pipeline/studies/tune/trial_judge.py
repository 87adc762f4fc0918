"""How far the results of a trial agree with the dense ones."""

from stillframe.models.results import Detections, Result
from stillframe.pipeline.quality.agreement import Agreement, BoxAgreement, agreement_with
from stillframe.pipeline.quality.detection import soft_loss

AROUND = (0.6, 0.8, 1.0, 1.2, 1.4)  # parts of the confidence at which boxes agree steadily
SOFTER = 0.5  # boxes from that part of the confidence on count for the loss, so that it is smooth
HIGHEST = 0.95


class TrialJudge:
    """Compares the results of one passage, frame by frame.

    confidence: of detections that count; boxes down to SOFTER times it are taken for the loss.
    """

    def __init__(self, confidence: float) -> None:
        self._confidence = confidence
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
        """Agreement of the kind that suits the results; 1 before the first frame."""
        return self._agreement.value if self._agreement is not None else 1.0

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
            return float(10 ** (-self._agreement.value / 20))
        return 1 - self._agreement.value


def confident(result: Detections, least: float) -> Detections:
    """The boxes of at least that confidence."""
    keep = result.confidence >= least
    return Detections(
        result.xyxy[keep], result.confidence[keep], result.class_id[keep], result.labels
    )
