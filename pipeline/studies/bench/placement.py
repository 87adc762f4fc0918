"""What placement gains on this machine, alone and beside a background load: which conditions are
measured, and what their figures say."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stillframe.pipeline.inference.settings import Reuse, Settings
from stillframe.pipeline.placement.backend_choice import choices
from stillframe.pipeline.studies.bench.background_load import children, playback, played
from stillframe.pipeline.studies.bench.condition import Condition, measure
from stillframe.pipeline.studies.bench.planner_check import planner


def questions(
    model: str,
    clip: str,
    seconds: float,
    reuse: Reuse,
    settings: int,
    on_event: Callable[[str], None],
    on_condition: Callable[[dict[str, Any]], None] = lambda measured: None,
) -> dict[str, Any]:
    """Measure all conditions; -> rows by name, and the ratios of `figures`.

    settings: how many of the planner's choices are compared with every candidate. on_event: takes a
    line of text after each condition. on_condition: takes all rows so far, after each condition.
    """
    base = Condition("", model, clip, seconds, reuse)
    measured: dict[str, Any] = {}

    def ask(name: str, **how: Any) -> dict[str, Any]:
        row = measure(replace(base, name=name, **how))
        facts = f"{row['frame_ms']:.1f} ms a frame, p95 latency {row['latency_p95_ms']:.0f} ms"
        on_event(f"{name}: {facts}, CPU {row['cpu_share']:.0%}")
        measured[name] = row
        on_condition(measured)
        return row

    cores = len(os.sched_getaffinity(0))
    single = "onnxruntime x1" if reuse == "frame" else "reuse x1"
    rows: dict[str, dict[str, Any]] = {
        "sequential": ask("sequential, one thread", plain=True),
        "one_core": ask("one core", granularity=single, window=8, one_core=True),
    }
    ways = choices(Settings(reuse=reuse), cores)
    for choice in ways:
        rows[f"overlapped {choice}"] = ask(
            f"overlapped {choice}", granularity=str(choice), window=8
        )
    for number in range(4):
        for name, replans in (("static", False), ("replanned", True)):
            rows[f"{name} {number}"] = ask(
                f"{name} plan, {number} others", aim="latency", replans=replans, competitors=number
            )
        rows[f"all cores {number}"] = ask(
            f"each layer on all cores, {number} others",
            granularity=single.replace("x1", f"x{cores}"), window=1, competitors=number,
        )  # fmt: skip
    with children([playback(clip, seconds)]) as (video,):
        rows["alone, playback"] = {"playback": played(video, seconds + 60)}
    rows["full, playback"] = ask("no cap, a video plays", aim="throughput", plays=True)
    rows["half, playback"] = ask("50 % share, a video plays", aim="share", share=0.5, plays=True)
    return {"rows": rows, **figures(rows), "planner": planner(ask, on_event, settings, ways)}


def figures(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What placement gains, as ratios of the rows' times."""
    overlapped = {n: row for n, row in rows.items() if n.startswith("overlapped ")}
    best = min(overlapped.values(), key=lambda row: row["frame_ms"])
    alone = rows["sequential"]["stage_ms"]
    slowest = max(best["stage_ms"].values())
    busy = sum(alone.values()) / len(os.sched_getaffinity(0))

    def against(name: str) -> dict[int, float]:
        p95 = "latency_p95_ms"
        return {n: rows[f"replanned {n}"][p95] / rows[f"{name} {n}"][p95] for n in range(4)}

    dropped = {}
    for name in ("alone, playback", "full, playback", "half, playback"):
        seen = rows[name]["playback"]
        dropped[name] = seen["dropped"] / max(1, seen["due"])
    return {
        "overlap_against_slowest_stage": slowest / best["frame_ms"],
        "overlap_against_bound": max(max(alone.values()), busy) / best["frame_ms"],
        "overlap_against_sequential": rows["sequential"]["frame_ms"] / best["frame_ms"],
        "around_network_share": 1 - alone["infer"] / sum(alone.values()),
        "replanned_p95_against_static": against("static"),
        "replanned_p95_against_all_cores": against("all cores"),
        "dropped_by_playback": dropped,
        "measured_share_at_50": rows["half, playback"]["cpu_share"],
    }
