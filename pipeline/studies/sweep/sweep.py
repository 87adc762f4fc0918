"""Frame rate against quality: every player on the same frames of the user's own clip.

    heat 1: dense, exact, tolerance 0.02, …      frame by frame, in an order that rotates
    heat 2: dense, every 2nd, …                  the clip is read again

Everything dense plays in each heat: quality is measured against its result of the same frame, and
times are compared with its times of the same minutes. What a heat found stays, whatever happens
later. Shows nothing.
"""

import csv
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import SinkError, SourceError, UsageError
from stillframe.models.model import Model
from stillframe.models.results import Detections
from stillframe.pipeline.inference.backends import available_threads
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.quality.agreement import FLOORS
from stillframe.pipeline.quality.clip import ClipJudge
from stillframe.pipeline.quality.ground_truth import of_known, true_boxes
from stillframe.pipeline.studies.bench.row import machine, versions
from stillframe.pipeline.studies.sweep.equal_compute import equal_compute
from stillframe.pipeline.studies.sweep.variants import BASELINE, Played, Variant, VariantRow, anchor
from stillframe.reuse.frontend.fingerprint import fingerprint

FORMAT = 1
HEAT = 5  # players beside the dense one; each holds a network in memory
WARM_UP = 2  # frames that are judged but not timed
LEAST_FRAMES = 4
DIGITS = 5

Row = dict[str, Any]
Told = Callable[[str, int, int], None]


@dataclass(slots=True)
class Sweep:
    """What is known of a sweep; plain values, so JSON holds all of it.

    head: what was asked, and where it ran: two sweeps with the same `head["key"]` can be joined.
    rows: a player each, see `Record.row`.
    """

    head: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row["name"] == name), None)

    def put(self, row: Row) -> None:
        """Instead of an earlier row of that name, if that one saw no more frames."""
        old = self.row(row["name"])
        if old is None:
            self.rows.append(row)
        elif old["frames"] <= row["frames"]:
            self.rows[self.rows.index(old)] = row

    def level(self) -> None:
        """Frame rates as if all heats had met the same disturbances: by the gain over dense."""
        dense = self.row(BASELINE)
        if dense is not None and dense["ms"]:
            for row in self.rows:
                row["fps"] = round((row["gain"] or 0) * 1e3 / dense["ms"], DIGITS)

    def write(self, path: Path) -> None:
        """In place of what was there: a reader never sees half of it. Raises SinkError."""
        part = path.with_name(f".{path.name}.part")
        try:
            told = asdict(self) | {"equal_compute": equal_compute(self.rows)}
            part.write_text(json.dumps(told, allow_nan=False) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise SinkError(f"{path}: the figures cannot be written ({error.strerror})") from error

    def write_csv(self, path: Path) -> None:
        """A line a player, without what is told frame by frame."""
        flat = [
            {k: v for k, v in row.items() if not isinstance(v, list | dict)} for row in self.rows
        ]
        names = list(dict.fromkeys(name for row in flat for name in row))
        try:
            with open(path, "w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, names)
                table.writeheader()
                table.writerows(flat)
        except OSError as error:
            raise SinkError(f"{path}: the table cannot be written ({error.strerror})") from error

    def resume(self, path: Path) -> None:
        """Take over the rows of an earlier sweep of the same. Raises UsageError for another one."""
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            key, rows = earlier["head"]["key"], earlier["rows"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(
                f"{path}: expected the figures of an earlier sweep to resume"
            ) from None
        if key != self.head["key"]:
            raise UsageError(
                f"{path}: holds a sweep of something else ({key}), asked for is "
                f"{self.head['key']}; leave out --resume and add --force to begin anew"
            )
        self.rows = rows


@dataclass(slots=True)
class Record:
    """One player in one heat."""

    row: VariantRow
    player: Variant
    judge: ClipJudge
    against_truth: ClipJudge | None
    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    layers: NDArray[np.float64] | None = None

    def play(self, frame: Any) -> Played:
        wall, cpu = perf_counter(), process_time()
        played = self.player.play(frame)
        self.cpu_ms.append((process_time() - cpu) * 1e3)
        self.wall_ms.append((perf_counter() - wall) * 1e3)
        self.work.append(played.work)
        self.active.append(played.active)
        names = self.player.layers()
        if names:
            shares = np.zeros(len(names)) if played.layers is None else played.layers
            if self.layers is None:
                self.layers = np.zeros(len(names))
            elif len(self.layers) == len(shares):  # the first frame is whole in any case
                self.layers += shares
        return played

    def figures(self, anchor_ms: float, anchor_cpu_ms: float, complete: bool) -> Row:
        """Times are means without WARM_UP frames, so rare dear frames count; fps: see `level`."""
        wall, cpu = _mean(self.wall_ms), _mean(self.cpu_ms)
        layers = self.layers / max(1, len(self.work) - 1) if self.layers is not None else None
        row: Row = {
            "name": self.row.name, "title": self.row.title, "family": self.row.family,
            "options": self.row.options, "complete": complete, "frames": len(self.work),
            "fps": None, "ms": wall,
            "ms_p95": float(np.percentile(self.wall_ms[WARM_UP:] or self.wall_ms, 95)),
            "gain": anchor_ms / wall if wall else None,
            "cpu_s": cpu / 1e3, "cpu_share": cpu / anchor_cpu_ms if anchor_cpu_ms else None,
            "work": float(np.mean(self.work[1:] or self.work)),
            "active": float(np.mean(self.active[1:] or self.active)),
            **self.judge.figures(),
        }  # fmt: skip
        if self.against_truth is not None:
            told = self.against_truth.figures()
            row |= {f"truth_{name}": told[name] for name in ("f1", "ap50", "ap") if name in told}
        row["frame_quality"] = self.quality
        row["frame_work"] = self.work
        row["frame_ms"] = self.wall_ms
        if layers is not None:
            row["layers"] = dict(zip(self.player.layers(), layers.tolist(), strict=True))
        return {name: _rounded(value) for name, value in row.items()}


def begin(
    spec: str, model: Model, threads: int, max_frames: int | None, options: Sequence[str] = ()
) -> Sweep:
    """What is to be swept, and nothing measured yet. options: of `stillframe run`, for the model.

    Raises SourceError for too short a clip.
    """
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
    told: Told | None = None,
    stop: Callable[[], bool] = lambda: False,
    each: Callable[[Sweep], None] = lambda sweep: None,
) -> bool:
    """Play the heats that are not there yet; -> whether all were played to their end.

    told: what is going on, frames done and in all. stop: asked before each frame; what was played
    until then is kept. each: called after each heat.
    """
    say = told or (lambda what, done, total: None)
    head = sweep.head
    threads, limit = head["threads"], head["max_frames"]
    expected = min(filter(None, (limit, head["frame_count"])), default=0)
    fitting = [row for row in rows if not row.tasks or head["task"] in row.tasks]
    missing = [row for row in fitting if not (sweep.row(row.name) or {}).get("complete")]
    heats = [missing[at : at + HEAT] for at in range(0, len(missing), HEAT)]
    truth: list[Detections] | None = None
    if heats and head["task"] == "detection":
        say("drawing the truth", 0, 0)
        truth = true_boxes(spec, model.labels, expected)
    for number, heat in enumerate(heats):
        what = f"heat {number + 1} of {len(heats)}"
        records = [_entered(row, model, truth is not None) for row in (anchor(threads), *heat)]
        complete = False
        try:
            with open_source(spec, live=False) as source:
                complete = _heat(
                    islice(source, limit), records, truth, stop,
                    partial(say, what), expected,
                )  # fmt: skip
            for record in _figured(records, complete):
                sweep.put(record)
            sweep.level()
        finally:
            for entered in records:
                entered.player.close()
        each(sweep)
        if not complete:
            return False
    return True


def _entered(row: VariantRow, model: Model, has_truth: bool) -> Record:
    least = model.form.confidence if model.task == "detection" else 0.0
    return Record(row, row.make(model), ClipJudge(least), ClipJudge() if has_truth else None)


def _figured(records: Sequence[Record], complete: bool) -> list[Row]:
    dense = records[0]
    if not dense.work:
        return []
    wall, cpu = _mean(dense.wall_ms), _mean(dense.cpu_ms)
    return [record.figures(wall, cpu, complete) for record in records]


def _mean(times: list[float]) -> float:
    return float(np.mean(times[WARM_UP:] or times))


def _heat(
    frames: Iterable[Any],
    records: Sequence[Record],
    truth: Sequence[Detections] | None,
    stop: Callable[[], bool],
    said: Callable[[int, int], None],
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
        for record in records:
            result = played[record.row.name].result
            record.quality.append(record.judge.add(result, reference, frame.time_s))
            if record.against_truth is not None and truth is not None and index < len(truth):
                assert isinstance(result, Detections)
                record.against_truth.add(of_known(result), truth[index], frame.time_s)
        said(index + 1, expected)
    return True


def front(rows: Iterable[Row]) -> list[Row]:
    """The rows that no other one beats in both frame rate and quality, the fastest first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (-(row["gain"] or 0), -row["quality"])):
        if not best or row["quality"] > best[-1]["quality"]:
            best.append(row)
    return best


def runnable(sweep: Sweep) -> list[Row]:
    """The rows that `stillframe run` has options for."""
    return [row for row in sweep.rows if row["options"] is not None]


def fastest(sweep: Sweep, least: float) -> Row | None:
    """The fastest runnable row whose quality is at least so good; None: there is none."""
    good = [row for row in runnable(sweep) if row["quality"] >= least]
    return max(good, key=lambda row: row["gain"] or 0.0, default=None)


def best_within(sweep: Sweep, share: float) -> Row | None:
    """The best runnable row that takes at most that share, 0..1, of all CPUs at the clip's own
    frame rate; of equals the cheapest. None: there is none, or the clip has no rate."""
    rate, cpus = sweep.head["rate"], sweep.head["cpus"]
    if not rate:
        return None
    cheap = [row for row in runnable(sweep) if row["cpu_s"] * rate / cpus <= share]
    return max(cheap, key=lambda row: (row["quality"], -row["cpu_s"]), default=None)


def command(sweep: Sweep, row: Row) -> str:
    """The whole command line for a runnable row."""
    head = sweep.head
    given = ["stillframe", "run", head["spec"], *head["options"]]
    return shlex.join([*given, *row["options"].split(), "--threads", str(head["threads"])])


def floor(sweep: Sweep) -> float:
    """The least quality that counts as the same, of this sweep's kind."""
    kinds = [row["kind"] for row in sweep.rows if row["kind"]]
    return FLOORS[kinds[0]] if kinds else 1.0


def _rounded(value: Any) -> Any:
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return round(float(value), DIGITS)
