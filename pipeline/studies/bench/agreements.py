"""How far the contenders of a race agree with the dense result, and how far that repeats itself."""

from typing import Any

import numpy as np

from stillframe.models.results import Detections, Result, Tensors
from stillframe.pipeline.quality.agreement import (
    MEASURES,
    Agreement,
    BoxAgreement,
    TensorAgreement,
    agreement_with,
)
from stillframe.pipeline.quality.doubts import too_little
from stillframe.pipeline.quality.ground_truth import of_known, true_boxes
from stillframe.pipeline.quality.repeatability import RepeatMeter
from stillframe.pipeline.studies.bench.contenders import Outputs
from stillframe.pipeline.studies.bench.race import Race

Row = dict[str, Any]

SKIPS = (2, 4)
"""Computing every 2nd and every 4th frame is what reuse is compared with."""
REPEATED = 24
"""Frames on which repeatability is measured, spread over the clip."""
DIGITS = 4


class Agreements:
    """How far reuse, exact reuse and skipping frames agree with the dense result, over a race."""

    def __init__(self, ready: Race) -> None:
        self._ready = ready
        self._judges: dict[str, Agreement] = {}
        self._skipping: dict[int, Result] = {}
        """What stands where each SKIPS would skip."""
        self._raw = None if ready.conditions.frame_skipping.every > 1 else TensorAgreement()
        self._telling = 0
        """Frames in which there was anything to compare."""
        self._truth = _truth(ready)
        """The true boxes of each timed frame; empty: not known."""
        self._against_truth = {name: BoxAgreement() for name in ("dense", "reuse")}

    def add(self, index: int) -> None:
        """After a timed frame. Results are read anew from copies: outputs may be views."""
        contenders, model = self._ready.contenders, self._ready.model
        if "dense" not in contenders:
            return
        _, view = model.fit(self._ready.timed[index].image)
        dense = model.decode([np.array(o) for o in contenders["dense"].outputs], view)
        compared: dict[str, Result] = {}
        for name in ("ort", "openvino", "reuse"):
            result = contenders[name].result if name in contenders else None
            if result is not None:
                compared[name] = result
        for skip in SKIPS:
            if index % skip == 0:
                self._skipping[skip] = dense
            compared[f"skip{skip}"] = self._skipping[skip]
        for name, result in compared.items():
            judge = self._judges.get(name)
            if judge is None:
                judge = self._judges[name] = agreement_with(dense, place=name == "reuse")
            judge.add(result, dense)
        alone = agreement_with(dense)
        alone.add(compared.get("reuse", dense), dense)
        self._telling += alone.telling
        if index < len(self._truth):
            for name, result in (("dense", dense), ("reuse", compared.get("reuse"))):
                if isinstance(result, Detections):
                    self._against_truth[name].add(of_known(result), self._truth[index])
        if "reuse" in contenders and self._raw is not None:
            self._raw.add(*(_named(contenders[name].outputs) for name in ("reuse", "dense")))

    def figures(self) -> Row:
        """Of reuse: agreement (kept), agreement_strict, agreement_place, and of boxes mean_iou,
        missed_per_minute and invented_per_minute; of the others agreement and strict.

        truth_dense_f1, truth_reuse_f1: where there is ground truth. doubts: what the clip lacks.
        """
        ours = self._judges.get("reuse")
        boxes = ours if isinstance(ours, BoxAgreement) else None
        minutes = _seconds(self._ready) / 60
        figures: Row = {
            "agreement": rounded(ours.value if ours else None),
            "agreement_strict": rounded(ours.strict if ours else None),
            "agreement_place": rounded(ours.place if ours else None),
            "agreement_kind": ours.kind if ours else None,
            "closeness": rounded(self._raw.value) if ours and self._raw else None,
            "agreement_floor": MEASURES[ours.kind].floor if ours else None,
            "score_shift": rounded(boxes.mean_score_shift) if boxes else None,
            "boxes": boxes.objects if boxes else None,
            "mean_iou": rounded(boxes.mean_iou) if boxes else None,
            "missed_per_minute": rounded(boxes.missed_objects / minutes) if boxes else None,
            "invented_per_minute": rounded(boxes.invented_objects / minutes) if boxes else None,
        }
        for name in (*(f"skip{skip}" for skip in SKIPS), "ort", "openvino"):
            judge = self._judges.get(name)
            figures[f"{name}_agreement"] = rounded(judge.value if judge else None)
            figures[f"{name}_strict"] = rounded(judge.strict if judge else None)
        for name, against in self._against_truth.items():
            figures[f"truth_{name}_f1"] = rounded(against.strict) if self._truth else None
        lacks = too_little(len(self._ready.timed), self._telling, figures["boxes"]) if ours else []
        figures["doubts"] = [each.text for each in lacks]
        return figures


def repeatability(ready: Race) -> Row:
    """Figures of the dense network with the clip's noise again, which is `noise_level`."""
    figures: Row = {}
    dense = ready.contenders.get("dense")
    if dense is not None:
        contender, model = dense.contender, ready.model
        meter = RepeatMeter(model, lambda feed: contender.run(feed, None))
        step = max(1, len(ready.timed) // REPEATED)
        for index, frame in enumerate(ready.timed):
            fitted, view = model.fit(frame.image)
            result = None
            if index % step == 0:
                outputs = contender.run(model.feed(fitted), None)
                result = model.decode([np.array(each) for each in outputs], view)
            meter.add(fitted, view, result)
        figures = meter.figures()
    return {
        "repeatability": rounded(figures.get("kept")),
        "repeatability_strict": rounded(figures.get("strict")),
        "noise_level": rounded(figures.get("noise_level")),
    }


def _truth(ready: Race) -> list[Detections]:
    case, warm_up = ready.case, ready.conditions.warm_up
    if ready.model.task != "detection" or case.crop is not None:
        return []
    return (true_boxes(case.clip, ready.model.labels, len(ready.frames)) or [])[warm_up:]


def _seconds(ready: Race) -> float:
    """Of the timed frames, which are evenly spaced."""
    first, second = (ready.frames[index].time_s for index in (0, 1))
    return len(ready.timed) * (second - first)


def _named(outputs: Outputs) -> Tensors:
    return Tensors({str(number): values for number, values in enumerate(outputs)})


def rounded(value: Any) -> Any:
    """As a float with DIGITS decimals; None stays."""
    return None if value is None else round(float(value), DIGITS)
