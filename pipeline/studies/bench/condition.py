"""One condition of the placement benchmark, measured in a process of its own.

The process decodes the clip over and over, runs the network, draws, and encodes a video, for so
many seconds. The background load starts when it has warmed up.
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
from stillframe.pipeline.media.redaction import MaskedAddress, unmasked
from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.placement.cost_model import Aim, Candidate
from stillframe.pipeline.placement.planned_run import PlannedRun
from stillframe.pipeline.placement.request import PlacementRequest
from stillframe.pipeline.sinks.overlay import render_step
from stillframe.pipeline.sinks.video import VideoSink
from stillframe.pipeline.studies.bench.background_load import (
    children,
    competitors,
    playback,
    played,
)
from stillframe.pipeline.telemetry.exporter import ProcessorShare

CHILD = f"import sys; from {__name__} import answer; answer(sys.argv[1])"
WARM = "warm\n"
WARM_FRAMES = 5
SETTLE_S = 8.0  # from the start of the background load: to notice it, and to make another backend
SETTLE_FIXED_S = 2.0  # where nothing is decided
LOOP = 90  # frames that are repeated, so that every condition has the same work
START_S = 240.0


@dataclass(frozen=True, slots=True)
class Condition:
    """What runs, and what runs beside it."""

    name: str
    model: str
    clip: str
    seconds: float
    reuse: Reuse = "layer"
    plain: bool = False
    """Whether one thread does everything, one step after the other."""
    one_core: bool = False
    """Whether all of it runs on the first core."""
    granularity: str = ""
    """How the network runs, as a `BackendChoice` is written; empty: the planner decides."""
    window: int = 0
    """Frames under way; 0: the planner decides."""
    apart: bool = False
    """Whether the network has cores of its own."""
    aim: Aim | None = None
    """What the planner aims for."""
    replans: bool = True
    """Whether the plan may change while it runs."""
    share: float = 0.0
    """The most of all cores' time; 0: no cap."""
    competitors: int = 0
    """Processes that compete for the cores."""
    plays: bool = False
    """Whether a video plays beside it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", MaskedAddress(self.clip))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, under the keys that figures have had from the start."""
        return {"rivals" if k == "competitors" else k: v for k, v in asdict(self).items()}

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
    asked = json.dumps(asdict(condition) | {"clip": unmasked(condition.clip)})
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, asked],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            warm = process.stdout.readline()
            seconds = condition.seconds
            if warm == WARM:
                beside = competitors(condition.competitors, seconds + condition.settle_s + 30)
                beside += [playback(condition.clip, seconds)] if condition.plays else []
            with children(beside) as started:
                text = process.stdout.read()
                seen = played(started[-1], seconds + 60) if condition.plays and started else {}
            message = process.stderr.read().strip().splitlines()[-1:]
            if process.wait(START_S):
                raise StageError(f"{condition.name}: {(message or ['it ended silently'])[0]}")
        finally:
            process.kill()
    return {**json.loads(text), "playback": seen, "condition": condition.to_dict()}


def answer(text: str) -> None:
    """What the process of a condition does. It prints WARM when the background load may start, and
    its figures at the end."""
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
    """The frames that came out after the time to settle."""

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
        """Whether the time of the condition is over, counted from the end of warming up."""
        passed_s = time.perf_counter() - self._warm_s
        return self._warm_s > 0 and passed_s > self._condition.settle_s + self._condition.seconds

    def add(self, latency_ms: float) -> None:
        """Count a frame that came out."""
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
            raise StageError(f"{len(self.latency_ms)} frames came out; give --seconds more")
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

    request = PlacementRequest(
        aim=condition.aim,
        share=condition.share,
        replans=condition.replans,
        candidate=condition.candidate,
    )
    ends = [
        drawing(draw),
        encoding(lambda drawn: sink.write(drawn.step.frame, drawn.step.result, drawn.image)),
    ]
    staged = PlannedRun(source, model, settings, request, ends=ends, draw=draw)
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
