"""How accurate the dense network and the run are against the ground truth of a drawn clip."""

from collections.abc import Sequence

from stillframe.models.results import Detections, Result
from stillframe.pipeline.quality.agreement import BoxAgreement
from stillframe.pipeline.quality.ground_truth import of_known, true_boxes
from stillframe.pipeline.studies.suite.pairs import Pair


def accuracy(
    pair: Pair, labels: tuple[str, ...], dense: Sequence[Result], auto: Sequence[Result]
) -> dict[str, float | int | None]:
    """truth_boxes, truth_dense_f1 and truth_auto_f1, as JSON values. Draws the clip once more.

    None where there is no truth: another task than detection, a clip that is not drawn or is
    cropped, or nothing in it that has a label of the model.
    """
    truth: list[Detections] | None = None
    if not pair.crop and dense and isinstance(dense[0], Detections):
        truth = true_boxes(pair.clip, labels, len(dense))
    boxes = sum(len(each) for each in truth or ())
    if truth is None or not boxes:
        return {"truth_boxes": None, "truth_dense_f1": None, "truth_auto_f1": None}
    return {
        "truth_boxes": boxes,
        "truth_dense_f1": _f1(dense, truth),
        "truth_auto_f1": _f1(auto, truth),
    }


def _f1(results: Sequence[Result], truth: Sequence[Detections]) -> float:
    whole = BoxAgreement()
    for result, reference in zip(results, truth, strict=True):
        assert isinstance(result, Detections)
        whole.add(of_known(result), reference)
    return float(whole.strict)
