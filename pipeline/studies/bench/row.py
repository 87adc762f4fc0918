"""One row of a benchmark's JSON: all figures of one model on one clip."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from stillframe.pipeline.studies.bench import peak_memory
from stillframe.pipeline.studies.bench.agreements import (
    SKIPS,
    Agreements,
    Row,
    repeatability,
    rounded,
)
from stillframe.pipeline.studies.bench.case import Case, Conditions
from stillframe.pipeline.studies.bench.contenders import (
    BASELINES,
    CONTENDERS,
    ContenderRow,
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
        agreements = Agreements(ready)
        race(ready, on_progress, agreements.add)
        report("measuring repeatability", 0, 0)
        repeated = repeatability(ready)
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
            **repeated,
            "rss_mb": peaks.get("reuse"),
            "ort_rss_mb": peaks.get("ort"),
            **_memory(ready.contenders.get("reuse")),
            "unchanged_ms": rounded(still_ms),
            **times,
            **_gains(times, conditions.frame_skipping.every > 1),
            "skipped": ready.skipped,
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
        }


def _times(contenders: Mapping[str, ContenderAtWork], rows: Sequence[ContenderRow]) -> Row:
    """Of each contender median, quartiles and mean; None for those that did not take part."""
    figures: Row = {}
    for row in rows:
        for prefix, series in (("", "network_ms"), ("whole_", "whole_ms")):
            name = f"{prefix}{row.name}"
            values = getattr(contenders[row.name], series) if row.name in contenders else None
            low, half, high = np.percentile(values, (25, 50, 75)) if values else (None,) * 3
            figures[f"{name}_ms"] = rounded(half)
            figures[f"{name}_iqr"] = [rounded(low), rounded(high)] if values else None
            figures[f"{name}_mean_ms"] = rounded(np.mean(values)) if values else None
    return figures


def _gains(times: Row, skips_frames: bool) -> Row:
    """Ratios to the faster baseline, in the median frame and over the whole clip; the cost of
    skipping, which is the faster baseline's shared among the frames; how many times as fast reuse
    is over the clip as the fastest dense engine, ours among them, and as ONNX Runtime; and what
    reuse adds to computing everything (0.05: five per cent more).

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
                figures[f"{prefix}{name}_gain{kind}"] = rounded(gain)
            if kind == "":
                for skip in SKIPS:
                    figures[f"{prefix}skip{skip}_ms"] = rounded(best / skip if best else None)
    for prefix in ("", "whole_"):
        dense_ms = {
            name: times[f"{prefix}{name}_mean_ms"]
            for name in (*BASELINES, "dense")
            if times.get(f"{prefix}{name}_mean_ms")
        }
        fastest = min(dense_ms, key=lambda name: dense_ms[name], default="")
        figures[f"{prefix}fastest_dense"] = fastest or None
        ours = times.get(f"{prefix}reuse_mean_ms")
        for key, other in (("fastest", fastest), ("ort", "ort")):
            ratio = dense_ms[other] / ours if other in dense_ms and ours else None
            figures[f"{prefix}reuse_times_{key}"] = rounded(ratio)
    for name in ("exact", "reuse"):
        ours, dense = times.get(f"{name}_mean_ms"), times.get("dense_mean_ms")
        figures[f"{name}_over_dense"] = rounded(ours / dense - 1 if ours and dense else None)
    return figures


def _work(ready: Race) -> Row:
    figures: Row = {}
    for key, name, series in (
        ("macs_share", "reuse", "work"),
        ("exact_macs_share", "exact", "work"),
        ("active_share", "reuse", "active"),
    ):
        contender = ready.contenders.get(name)
        figures[key] = rounded(np.mean(getattr(contender, series))) if contender else None
    return figures


def _memory(at_work: ContenderAtWork | None) -> Row:
    """Of the session at tolerance, megabytes of 10^6 bytes."""
    contender = at_work.contender if at_work else None
    memory = contender.memory if isinstance(contender, Reuse) else None
    return {
        key: None if memory is None else rounded(getattr(memory, name) / 1e6)
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
