"""Frame rate against quality: every variant on the same frames of the user's own clip.

    round 1: dense, exact, tolerance 0.02, …      frame by frame, in an order that rotates
    round 2: dense, every 2nd, …                  the clip is read again

Everything dense plays in each round: quality is measured against its result of the same frame, and
times are compared with its times of the same minutes. What a round measured stays, whatever happens
later. Shows nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from time import perf_counter, process_time
from typing import Any

import numpy as np

from stillframe.errors import SourceError
from stillframe.models.model import Model
from stillframe.models.results import Detections
from stillframe.pipeline.inference.backends import available_threads
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.media.redaction import MaskedAddress
from stillframe.pipeline.quality.clip import ClipJudge
from stillframe.pipeline.quality.ground_truth import of_known, true_boxes
from stillframe.pipeline.studies.environment import machine, versions
from stillframe.pipeline.studies.sweep.again import Again
from stillframe.pipeline.studies.sweep.sweep import DIGITS, Row, Sweep
from stillframe.pipeline.studies.sweep.variants import (
    BASELINE,
    Played,
    Variant,
    VariantRow,
    baseline,
)
from stillframe.reuse.frontend.fingerprint import fingerprint

FORMAT = 2
ROUND = 5  # variants beside the dense one; each holds a network in memory
WARM_UP = 2  # frames that are judged but not timed
LEAST_FRAMES = 4

OnProgress = Callable[[str, int, int], None]
"""Takes what is going on, frames done, frames in all (0: not known)."""


@dataclass(slots=True)
class VariantRecord:
    """One variant in one round: what it took, and how well it agreed, frame by frame."""

    row: VariantRow
    variant: Variant
    judge: ClipJudge
    against_truth: ClipJudge | None
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    layers: Counter[str] = field(default_factory=Counter)
    """Sums of `Variant.layer_shares`."""

    def play(self, frame: Frame) -> Played:
        """Analyse one frame, on the clock."""
        wall, cpu = perf_counter(), process_time()
        played = self.variant.play(frame)
        self.cpu_ms.append((process_time() - cpu) * 1e3)
        self.wall_ms.append((perf_counter() - wall) * 1e3)
        self.work.append(played.work)
        self.active.append(played.active)
        if len(self.work) > 1:  # the first frame is computed whole in any case
            self.layers.update(self.variant.layer_shares())
        return played

    def figures(self, dense_ms: float, dense_cpu_ms: float, complete: bool) -> Row:
        """Times are means without WARM_UP frames, so rare dear frames count; fps: see `level`."""
        wall, cpu = _mean(self.wall_ms), _mean(self.cpu_ms)
        row: Row = {
            "name": self.row.name, "title": self.row.title, "family": self.row.family,
            "options": self.row.options, "complete": complete, "frames": len(self.work),
            "every": self.row.every,
            "fps": None, "ms": wall,
            "ms_p95": float(np.percentile(self.wall_ms[WARM_UP:] or self.wall_ms, 95)),
            "gain": dense_ms / wall if wall else None,
            "cpu_s": cpu / 1e3, "cpu_share": cpu / dense_cpu_ms if dense_cpu_ms else None,
            "work": float(np.mean(self.work[1:] or self.work)),
            "active": float(np.mean(self.active[1:] or self.active)),
            **self.judge.figures(),
        }  # fmt: skip
        if self.against_truth is not None:
            truth = self.against_truth.figures()
            names = ("f1", "ap50", "ap", "missed_per_minute", "invented_per_minute")
            row |= {f"truth_{name}": truth[name] for name in names if name in truth}
        row["frame_quality"] = self.quality
        row["frame_work"] = self.work
        row["frame_ms"] = self.wall_ms
        if self.layers:
            counted = len(self.work) - 1
            row["layers"] = {name: total / counted for name, total in self.layers.items()}
        return {name: _rounded(value) for name, value in row.items()}


def begin(
    spec: str, model: Model, threads: int, max_frames: int | None, options: Sequence[str] = ()
) -> Sweep:
    """What is to be swept, and nothing measured yet. options: of `stillframe run`, for the model.

    Raises SourceError for too short a clip.
    """
    spec = MaskedAddress(spec)
    with open_source(spec, live=False) as source:
        first = list(islice(source, LEAST_FRAMES))
        info = source.info
    if len(first) < LEAST_FRAMES:
        raise SourceError(
            f"{spec}: expected a clip of at least {LEAST_FRAMES} frames, got {len(first)}"
        )
    fixed = model.for_source(*first[0].image.shape[:2])
    rate = float(info.rate) if info.rate else None
    key = [FORMAT, info.spec, model.name, fingerprint(model.path)[:16], threads, max_frames]
    return Sweep(
        {
            "key": key,
            "clip": info.spec,
            "spec": spec,
            "options": list(options),
            "model": model.name,
            "task": model.task,
            "confidence": model.form.confidence,
            "size": list(fixed.size),
            "source_size": list(first[0].image.shape[:2]),
            "rate": rate,
            "threads": threads,
            "cpus": available_threads(),
            "max_frames": max_frames,
            "frame_count": info.frame_count,
            "machine": machine(),
            "versions": versions(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def measure(
    sweep: Sweep,
    spec: str,
    model: Model,
    rows: Sequence[VariantRow],
    *,
    on_progress: OnProgress | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_round: Callable[[Sweep], None] = lambda sweep: None,
) -> bool:
    """Play the rounds that are not there yet; -> whether all were played to their end.

    stop: asked before each frame; what was played until then is kept. on_round: called after each
    round.
    """
    report = on_progress or (lambda what, done, total: None)
    head = sweep.head
    threads, limit = head["threads"], head["max_frames"]
    expected = min(filter(None, (limit, head["frame_count"])), default=0)
    fitting = [row for row in rows if not row.tasks or head["task"] in row.tasks]
    missing = [row for row in fitting if not (sweep.row(row.name) or {}).get("complete")]
    rounds = [missing[at : at + ROUND] for at in range(0, len(missing), ROUND)]
    truth: list[Detections] | None = None
    if rounds and head["task"] == "detection":
        report("drawing the truth", 0, 0)
        truth = true_boxes(spec, model.labels, expected)
    for number, others in enumerate(rounds):
        what = f"round {number + 1} of {len(rounds)}"
        records = [_record(row, model, truth is not None) for row in (baseline(threads), *others)]
        again = None if sweep.repeatability else Again(model, threads, expected)
        complete = False
        try:
            with open_source(spec, live=False) as source:
                complete = _play(
                    islice(source, limit), records, truth, again, stop,
                    partial(report, what), expected,
                )  # fmt: skip
            for row in _figures(records, complete):
                sweep.put(row)
            sweep.level()
            if again is not None and complete:
                sweep.repeatability = again.figures()
        finally:
            for record in records:
                record.variant.close()
            if again is not None:
                again.close()
        on_round(sweep)
        if not complete:
            return False
    return True


def _record(row: VariantRow, model: Model, has_truth: bool) -> VariantRecord:
    least = model.form.confidence if model.task == "detection" else 0.0
    return VariantRecord(row, row.make(model), ClipJudge(least), ClipJudge() if has_truth else None)


def _figures(records: Sequence[VariantRecord], complete: bool) -> list[Row]:
    dense = records[0]
    if not dense.work:
        return []
    wall, cpu = _mean(dense.wall_ms), _mean(dense.cpu_ms)
    return [record.figures(wall, cpu, complete) for record in records]


def _mean(times: list[float]) -> float:
    return float(np.mean(times[WARM_UP:] or times))


def _play(
    frames: Iterable[Frame],
    records: Sequence[VariantRecord],
    truth: Sequence[Detections] | None,
    again: Again | None,
    stop: Callable[[], bool],
    report: Callable[[int, int], None],
    expected: int,
) -> bool:
    """All records over the frames; -> False if it was stopped."""
    for index, frame in enumerate(frames):
        if stop():
            return False
        played: dict[str, Played] = {}
        turn = index % len(records)
        order = [*records[turn:], *records[:turn]]
        for record in order[::-1] if (index // len(records)) % 2 else order:
            played[record.row.name] = record.play(frame)
        reference = played[BASELINE].result
        if again is not None:
            again.add(index, frame.image, reference)
        for record in records:
            result = played[record.row.name].result
            record.quality.append(record.judge.add(result, reference, frame.time_s))
            if record.against_truth is not None and truth is not None and index < len(truth):
                assert isinstance(result, Detections)
                record.against_truth.add(of_known(result), truth[index], frame.time_s)
        report(index + 1, expected)
    return True


def _rounded(value: Any) -> Any:
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(float(value), DIGITS)
