"""The paper's questions put to this machine: what placement gains, alone and beside others.

Each condition runs in a process of its own, which decodes the clip over and over, runs the network,
draws, and encodes a video, for so many seconds. Others start when it has warmed up.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from stillframe.errors import StageError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Reuse, Settings
from stillframe.pipeline.inference.stages import drawing, encoding
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import Source, open_source
from stillframe.pipeline.placement.backend_choice import BackendChoice, choices
from stillframe.pipeline.placement.cost_model import Aim, Candidate
from stillframe.pipeline.placement.planned_run import PlannedRun
from stillframe.pipeline.placement.request import PlacementRequest
from stillframe.pipeline.sinks.overlay import render_step
from stillframe.pipeline.sinks.video import VideoSink
from stillframe.pipeline.studies.bench.background_load import children, playback, played, rivals
from stillframe.pipeline.studies.bench.planner_check import planner
from stillframe.pipeline.telemetry.exporter import ProcessorShare

CHILD = f"import sys; from {__name__} import answer; answer(sys.argv[1])"
WARM = "warm\n"
WARM_FRAMES = 5
SETTLE_S = 8.0  # after others came: time to notice, and to make another engine
SETTLE_FIXED_S = 2.0  # where nothing is decided
LOOP = 90  # frames that are played over and over, so that every condition has the same work
START_S = 240.0


@dataclass(frozen=True, slots=True)
class Condition:
    """What is run. plain: the Runner's own loop, one thing after the other in one thread. one_core:
    all of it on the first core. window 0: the planner decides, for `aim`. rivals: processes that
    compete once it runs; plays: a video plays beside it. share: of all cores' time; 0: no cap."""

    name: str
    model: str
    clip: str
    seconds: float
    reuse: Reuse = "layer"
    plain: bool = False
    one_core: bool = False
    granularity: str = ""
    window: int = 0
    apart: bool = False
    aim: Aim | None = None
    replans: bool = True
    share: float = 0.0
    rivals: int = 0
    plays: bool = False

    @property
    def settle_s(self) -> float:
        return SETTLE_S if self.aim is not None else SETTLE_FIXED_S

    @property
    def candidate(self) -> Candidate | None:
        """The way to run; None where the planner decides."""
        if not self.granularity:
            return None
        kind, _, threads = self.granularity.partition(" x")
        chosen = BackendChoice("segments") if kind == "two segments" else None
        chosen = chosen or BackendChoice(kind, int(threads))  # type: ignore[arg-type]
        cores = sorted(os.sched_getaffinity(0))
        pins: tuple[tuple[str, frozenset[int]], ...] = ()
        if self.apart and len(cores) > chosen.threads:
            rest = frozenset(cores[chosen.threads :])
            pins = (("infer", frozenset(cores[: chosen.threads])),)
            pins += tuple((name, rest) for name in ("decode", "preprocess", "draw", "encode"))
        return Candidate(chosen, self.window, pins)


class Looped:
    """A clip's first frames over and over, their times going on, until `is_over`."""

    def __init__(self, spec: str, is_over: Callable[[], bool]) -> None:
        self._spec, self._is_over = spec, is_over
        self._source: Source = open_source(spec)
        self.info = self._source.info
        self.dropped = 0

    def __iter__(self) -> Iterator[Frame]:
        index, offset_s = 0, 0.0
        for turn in count():
            last_s = 0.0
            for frame in islice(self._source, LOOP):
                if self._is_over():
                    return
                last_s = frame.time_s
                time_s = offset_s + frame.time_s
                pts = round(time_s / frame.time_base)
                broken = frame.discontinuity or (turn > 0 and frame.index == 0)
                yield replace(frame, index=index, time_s=time_s, pts=pts, discontinuity=broken)
                index += 1
            offset_s += last_s + 0.04
            self._source.close()
            self._source = open_source(self._spec)

    def close(self) -> None:
        self._source.close()


def measure(condition: Condition) -> dict[str, Any]:
    """Run it in a process of its own, with what is to run beside it; -> its figures.

    Raises StageError when the process fails.
    """
    beside: list[list[str]] = []
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, json.dumps(asdict(condition))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            warm = process.stdout.readline()
            seconds = condition.seconds
            if warm == WARM:
                beside = rivals(condition.rivals, seconds + condition.settle_s + 30)
                beside += [playback(condition.clip, seconds)] if condition.plays else []
            with children(beside) as started:
                text = process.stdout.read()
                seen = played(started[-1], seconds + 60) if condition.plays and started else {}
            told = process.stderr.read().strip().splitlines()[-1:]
            if process.wait(START_S):
                raise StageError(f"{condition.name}: {(told or ['it ended without a word'])[0]}")
        finally:
            process.kill()
    return {**json.loads(text), "playback": seen, "condition": asdict(condition)}


def answer(text: str) -> None:
    """What the process of a condition does: `warm` when others may come, its figures at the end."""
    condition = Condition(**json.loads(text))
    if condition.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model = zoo.load(condition.model)
    settings = Settings(reuse=condition.reuse, max_age_s=float("inf"))
    if condition.plain:
        settings = replace(settings, threads=1)
    with tempfile.TemporaryDirectory() as folder:
        figures = _Figures(condition)
        source: Any = Looped(condition.clip, figures.is_over)
        with VideoSink(Path(folder) / "out.mp4", info=source.info, audio_from=None) as sink:
            (_plain if condition.plain else _staged)(
                condition, model, settings, source, sink, figures
            )
    sys.stdout.write(json.dumps(figures.to_dict()))


class _Figures:
    """Frames that left after the time to settle."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        self._frames = 0
        self._warm_s = self._from_s = self._last_s = 0.0
        self._share: ProcessorShare | None = None
        self._cores = os.cpu_count() or 1
        self.latency_ms: list[float] = []
        self.share = 0.0
        self.more: dict[str, Any] = {}

    def is_over(self) -> bool:
        """Whether all the time that was given has passed since others could come."""
        passed_s = time.perf_counter() - self._warm_s
        return self._warm_s > 0 and passed_s > self._condition.settle_s + self._condition.seconds

    def add(self, latency_ms: float) -> None:
        """A frame left."""
        now = time.perf_counter()
        self._frames += 1
        if self._frames < WARM_FRAMES:
            return
        if not self._warm_s:
            self._warm_s = now
            sys.stdout.write(WARM)
            sys.stdout.flush()
        if now - self._warm_s < self._condition.settle_s:
            return
        if self._share is None:
            self._from_s, self._share = now, ProcessorShare(self._cores)
            return
        self._last_s = now
        self.share = self._share.whole
        self.latency_ms.append(latency_ms)

    def to_dict(self) -> dict[str, Any]:
        if len(self.latency_ms) < 3:
            raise StageError(f"{len(self.latency_ms)} frames in the time given; give it more")
        p50, p95 = np.percentile(self.latency_ms, (50, 95))
        spent_s = self._last_s - self._from_s
        return {
            "frames": len(self.latency_ms),
            "frames_per_s": len(self.latency_ms) / spent_s,
            "frame_ms": 1e3 * spent_s / len(self.latency_ms),
            "latency_p50_ms": float(p50),
            "latency_p95_ms": float(p95),
            "cpu_share": self.share,
            **self.more,
        }


def _plain(
    condition: Condition,
    model: Model,
    settings: Settings,
    source: Any,
    sink: VideoSink,
    figures: _Figures,
) -> None:
    parts: dict[str, list[float]] = {"decode": [], "infer": [], "draw": [], "encode": []}
    with Runner(model, settings) as runner:
        began = time.perf_counter()
        for frame in source:
            read = time.perf_counter()
            step = runner.step(frame)
            done = time.perf_counter()
            image = render_step(step, "boxes")
            drawn = time.perf_counter()
            sink.write(step.frame, step.result, image)
            now = time.perf_counter()
            times = (read - began, done - read, drawn - done, now - drawn)
            for name, spent_s in zip(parts, times, strict=True):
                parts[name].append(spent_s * 1e3)
            figures.add((now - began) * 1e3)
            began = time.perf_counter()
    source.close()
    figures.more["stage_ms"] = {name: statistics.median(ms) for name, ms in parts.items()}


def _staged(
    condition: Condition,
    model: Model,
    settings: Settings,
    source: Any,
    sink: VideoSink,
    figures: _Figures,
) -> None:
    def draw(step: StepResult) -> Any:
        return render_step(step, "boxes")

    placing = PlacementRequest(
        aim=condition.aim,
        share=condition.share,
        replans=condition.replans,
        candidate=condition.candidate,
    )
    ends = [
        drawing(draw),
        encoding(lambda drawn: sink.write(drawn.step.frame, drawn.step.result, drawn.image)),
    ]
    staged = PlannedRun(source, model, settings, placing, ends=ends, draw=draw)
    with staged:
        for _ in staged.pipeline:
            figures.add(staged.pipeline.whole_ms)
            staged.tick()
        meters = staged.pipeline.meters
        figures.more["stage_ms"] = {m.name: m.percentiles()["p50"] for m in meters}
        figures.more["stage_cpu_ms"] = {m.name: m.cpu_ms for m in meters}
    placed = staged.to_dict()
    figures.more |= {"decisions": placed["decisions"], "replans": staged.replans}
    figures.more["plan"] = placed.get("plan", "")


# --- the questions -------------------------------------------------------------------------------

Told = Callable[[str], None]


def questions(
    model: str,
    clip: str,
    seconds: float,
    reuse: Reuse,
    settings: int,
    told: Told,
    keep: Callable[[dict[str, Any]], None] = lambda measured: None,
) -> dict[str, Any]:
    """Ask all of them. settings: how many planner's choices are compared with every candidate.
    keep: given all that was measured so far, after each condition."""
    base = Condition("", model, clip, seconds, reuse)
    measured: dict[str, Any] = {}

    def ask(name: str, **how: Any) -> dict[str, Any]:
        row = measure(replace(base, name=name, **how))
        facts = f"{row['frame_ms']:.1f} ms a frame, p95 latency {row['latency_p95_ms']:.0f} ms"
        told(f"{name}: {facts}, CPU {row['cpu_share']:.0%}")
        measured[name] = row
        keep(measured)
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
                f"{name} plan, {number} others", aim="latency", replans=replans, rivals=number
            )
        rows[f"all cores {number}"] = ask(
            f"each layer on all cores, {number} others",
            granularity=single.replace("x1", f"x{cores}"), window=1, rivals=number,
        )  # fmt: skip
    with children([playback(clip, seconds)]) as (player,):
        rows["alone, playback"] = {"playback": played(player, seconds + 60)}
    rows["full, playback"] = ask("no cap, a video plays", aim="throughput", plays=True)
    rows["half, playback"] = ask("50 % share, a video plays", aim="share", share=0.5, plays=True)
    return {"rows": rows, **figures(rows), "planner": planner(ask, told, settings, ways)}


def figures(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The ratios that were to be reached, from the rows."""
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
