"""One row of a benchmark's JSON: all figures of one model on one clip."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from stillframe.models.results import Result, Tensors
from stillframe.pipeline.quality.agreement import (
    MEASURES,
    Agreement,
    BoxAgreement,
    TensorAgreement,
    agreement_with,
)
from stillframe.pipeline.studies.bench import peak_memory
from stillframe.pipeline.studies.bench.case import Case, Conditions
from stillframe.pipeline.studies.bench.contenders import (
    BASELINES,
    CONTENDERS,
    ContenderRow,
    Outputs,
    Reuse,
)
from stillframe.pipeline.studies.bench.race import (
    ContenderAtWork,
    OnProgress,
    Race,
    prepare,
    race,
    unchanged_ms,
)
from stillframe.pipeline.studies.environment import machine, versions

SKIPS = (2, 4)  # computing every 2nd and every 4th frame is what reuse is compared with
DIGITS = 4

Row = dict[str, Any]


def measure(
    case: Case,
    conditions: Conditions,
    *,
    rows: Sequence[ContenderRow] = CONTENDERS,
    memory: bool = True,
    on_progress: OnProgress | None = None,
) -> Row:
    """Check and time one case. memory: also how much a process of its own takes, which costs a few
    seconds for each backend.

    Raises QualityError for wrong answers, before anything is timed; SourceError and ModelError for
    what cannot be had.
    """
    report = on_progress or (lambda what, done, total: None)
    with prepare(case, conditions, rows, on_progress) as ready:
        report("checking answers", 0, 0)
        ready.check()
        agreements = _Agreements(ready)
        race(ready, on_progress, agreements.add)
        still_ms = unchanged_ms(ready)
        times = _times(ready.contenders, rows)
        peaks = _peaks(ready, report) if memory else {}
        return {
            "model": case.model,
            "clip": case.clip,
            "crop": str(case.crop) if case.crop else None,
            "size": list(ready.model.size),
            "threads": conditions.threads,
            "frames": len(ready.timed),
            "ort_ms": None,
            "openvino_ms": None,
            "dense_ms": None,
            "exact_ms": None,
            "reuse_ms": None,
            "tolerance": conditions.tolerance if conditions.profile is None else "profile",
            "every": conditions.frame_skipping.every,
            "between": conditions.frame_skipping.between,
            **_work(ready),
            **agreements.figures(),
            "rss_mb": peaks.get("reuse"),
            "ort_rss_mb": peaks.get("ort"),
            **_memory(ready.contenders.get("reuse")),
            "unchanged_ms": _rounded(still_ms),
            **times,
            **_gains(times, conditions.frame_skipping.every > 1),
            "skipped": ready.skipped,
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
        }


class _Agreements:
    """How far reuse, exact reuse and skipping frames agree with the dense result, over a race."""

    def __init__(self, ready: Race) -> None:
        self._ready = ready
        self._judges: dict[str, Agreement] = {}
        self._skipping: dict[int, Result] = {}  # what stands where each SKIPS would skip
        self._raw = None if ready.conditions.frame_skipping.every > 1 else TensorAgreement()

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
            self._judges.setdefault(name, agreement_with(dense)).add(result, dense)
        if "reuse" in contenders and self._raw is not None:
            self._raw.add(*(_named(contenders[name].outputs) for name in ("reuse", "dense")))

    def figures(self) -> Row:
        def value(name: str) -> float | None:
            judge = self._judges.get(name)
            return None if judge is None else _rounded(judge.value)

        ours = self._judges.get("reuse")
        boxes = ours if isinstance(ours, BoxAgreement) else None
        return {
            "agreement": value("reuse"),
            "agreement_kind": ours.kind if ours else None,
            "closeness": _rounded(self._raw.value) if ours and self._raw else None,
            "agreement_floor": MEASURES[ours.kind].floor if ours else None,
            "score_shift": _rounded(boxes.mean_score_shift) if boxes else None,
            "boxes": boxes.matched + boxes.missed if boxes else None,
            **{f"skip{skip}_agreement": value(f"skip{skip}") for skip in SKIPS},
            "ort_agreement": value("ort"),
            "openvino_agreement": value("openvino"),
        }


def _named(outputs: Outputs) -> Tensors:
    return Tensors({str(number): values for number, values in enumerate(outputs)})


def _times(contenders: Mapping[str, ContenderAtWork], rows: Sequence[ContenderRow]) -> Row:
    """Of each contender median, quartiles and mean; None for those that did not take part."""
    figures: Row = {}
    for row in rows:
        for prefix, series in (("", "network_ms"), ("whole_", "whole_ms")):
            name = f"{prefix}{row.name}"
            values = getattr(contenders[row.name], series) if row.name in contenders else None
            low, half, high = np.percentile(values, (25, 50, 75)) if values else (None,) * 3
            figures[f"{name}_ms"] = _rounded(half)
            figures[f"{name}_iqr"] = [_rounded(low), _rounded(high)] if values else None
            figures[f"{name}_mean_ms"] = _rounded(np.mean(values)) if values else None
    return figures


def _gains(times: Row, skips_frames: bool) -> Row:
    """Ratios to the faster baseline, in the median frame and over the whole clip; the cost of
    skipping, which is the faster baseline's shared among the frames; and what reuse adds to
    computing everything (0.05: five per cent more).

    skips_frames: whether reuse does: its median frame may then be a skipped one, which says
    nothing.
    """
    figures: Row = {}
    for prefix in ("", "whole_"):
        for kind, end in (("", "_ms"), ("_over_clip", "_mean_ms")):
            known = [times.get(f"{prefix}{name}{end}") for name in BASELINES]
            best = min((each for each in known if each is not None), default=None)
            for name in ("dense", "exact", "reuse"):
                ours = times.get(f"{prefix}{name}{end}")
                means = kind != "" or not (skips_frames and name == "reuse")
                gain = best / ours if best and ours and means else None
                figures[f"{prefix}{name}_gain{kind}"] = _rounded(gain)
            if kind == "":
                for skip in SKIPS:
                    figures[f"{prefix}skip{skip}_ms"] = _rounded(best / skip if best else None)
    for name in ("exact", "reuse"):
        ours, dense = times.get(f"{name}_mean_ms"), times.get("dense_mean_ms")
        figures[f"{name}_over_dense"] = _rounded(ours / dense - 1 if ours and dense else None)
    return figures


def _work(ready: Race) -> Row:
    figures: Row = {}
    for key, name, series in (
        ("macs_share", "reuse", "work"),
        ("exact_macs_share", "exact", "work"),
        ("active_share", "reuse", "active"),
    ):
        contender = ready.contenders.get(name)
        figures[key] = _rounded(np.mean(getattr(contender, series))) if contender else None
    return figures


def _memory(at_work: ContenderAtWork | None) -> Row:
    """Of the session at tolerance, megabytes of 10^6 bytes."""
    contender = at_work.contender if at_work else None
    memory = contender.memory if isinstance(contender, Reuse) else None
    return {
        key: None if memory is None else _rounded(getattr(memory, name) / 1e6)
        for key, name in (
            ("arena_mb", "transient"),
            ("lower_bound_mb", "lower_bound"),
            ("naive_cache_mb", "every_activation"),
            ("persistent_mb", "persistent"),
            ("weights_mb", "weights"),
        )
    }


def _peaks(ready: Race, report: OnProgress) -> dict[str, float]:
    feed = ready.model.feed(ready.model.fit(ready.frames[0].image)[0])
    peaks: dict[str, float] = {}
    for name in ("reuse", "ort"):
        if name in ready.contenders:
            report(f"memory of {ready.contenders[name].row.title}", 0, 0)
            peaks[name] = round(peak_memory.peak_mb(name, ready.setting, feed), 1)
    return peaks


def _rounded(value: Any) -> Any:
    return None if value is None else round(float(value), DIGITS)
