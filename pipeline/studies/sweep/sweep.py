"""The figures of a sweep: kept as JSON, joined with earlier ones, and chosen from."""

import csv
import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stillframe.errors import SinkError, UsageError
from stillframe.pipeline.quality.agreement import MEASURES
from stillframe.pipeline.studies.sweep.equal_compute import equal_compute
from stillframe.pipeline.studies.sweep.variants import BASELINE

DIGITS = 5
LEAST_TURNS = 4
"""A variant that skips frames is judged if the network ran on so many, as far as it skips."""

Row = dict[str, Any]


@dataclass(slots=True)
class Sweep:
    """The figures of a sweep; plain values, so JSON holds all of it."""

    head: dict[str, Any]
    """What was asked, and where it ran: two sweeps with the same `head["key"]` can be joined."""
    rows: list[Row] = field(default_factory=list)
    """One a variant, see `VariantRecord.figures`."""
    repeatability: dict[str, Any] = field(default_factory=dict)
    """Of the dense network on this clip, see `RepeatMeter.figures`; empty: not measured."""

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
        """Frame rates as if all rounds had met the same disturbances: by the gain over dense.

        Also the gains over the fastest dense engine, and over ONNX Runtime where that was played.
        """
        dense = self.row(BASELINE)
        if dense is None or not dense["ms"]:
            return
        fastest, onnx_runtime = fastest_dense(self), self.row("off")
        for row in self.rows:
            row["fps"] = round((row["gain"] or 0) * 1e3 / dense["ms"], DIGITS)
            for name, other in (("gain_fastest", fastest), ("gain_ort", onnx_runtime)):
                ratio = row["gain"] / other["gain"] if other and other["gain"] else None
                row[name] = None if ratio is None else round(ratio, DIGITS)

    def write(self, path: Path) -> None:
        """In place of what was there: a reader never sees half of it. Raises SinkError."""
        part = path.with_name(f".{path.name}.part")
        try:
            figures = asdict(self) | {"equal_compute": equal_compute(self.rows)}
            part.write_text(json.dumps(figures, allow_nan=False) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise SinkError(f"{path}: the figures cannot be written ({error.strerror})") from error

    def write_csv(self, path: Path) -> None:
        """A line a variant, without the figures of each frame."""
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
            repeatability = dict(earlier.get("repeatability", {}))
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
        self.rows, self.repeatability = rows, repeatability


def fastest_dense(sweep: Sweep) -> Row | None:
    """The fastest that computes everything."""
    dense = [row for row in sweep.rows if row["family"] == "dense"]
    return max(dense, key=lambda row: row["gain"] or 0.0, default=None)


def front(rows: Iterable[Row]) -> list[Row]:
    """The rows that no other one beats in both frame rate and quality, the fastest first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (-(row["gain"] or 0), -row["quality"])):
        if not best or row["quality"] > best[-1]["quality"]:
            best.append(row)
    return best


def too_short_for(row: Row) -> bool:
    """Whether the clip has too few frames for what the variant skips."""
    every = row.get("every", 1)
    return bool(every > 1 and every * LEAST_TURNS > row["frames"])


def runnable(sweep: Sweep) -> list[Row]:
    """The rows that `stillframe run` has options for."""
    return [row for row in sweep.rows if row["options"] is not None]


def fastest(sweep: Sweep, least: float) -> Row | None:
    """The fastest runnable row that keeps at least so much; None: there is none.

    least: 0..1; of pictures above 1 in dB. Variants that skip so many frames that the clip cannot
    judge them are left out.
    """
    figure = "strict" if least > 1 else "quality"
    good = [
        row for row in runnable(sweep) if row.get(figure, 0.0) >= least and not too_short_for(row)
    ]
    return max(good, key=lambda row: row["gain"] or 0.0, default=None)


def best_within(sweep: Sweep, share: float) -> Row | None:
    """The best runnable row that takes at most that share, 0..1, of all CPUs at the clip's own
    frame rate; of equals the cheapest. None: there is none, or the clip has no rate."""
    rate, cpus = sweep.head["rate"], sweep.head["cpus"]
    if not rate:
        return None
    cheap = [
        row
        for row in runnable(sweep)
        if row["cpu_s"] * rate / cpus <= share and not too_short_for(row)
    ]
    return max(cheap, key=lambda row: (row["quality"], -row["cpu_s"]), default=None)


def command(sweep: Sweep, row: Row) -> str:
    """The whole command line for a runnable row."""
    head = sweep.head
    words = ["stillframe", "run", head["spec"], *head["options"], *row["options"].split()]
    return shlex.join([*words, "--threads", str(head["threads"])])


def floor(sweep: Sweep) -> float:
    """The least quality that counts as the same; never more than the network's repeatability."""
    kinds = [row["kind"] for row in sweep.rows if row["kind"]]
    return attainable(sweep, MEASURES[kinds[0]].floor if kinds else 1.0)


def attainable(sweep: Sweep, least: float) -> float:
    """The floor itself, or the network's repeatability on this clip where that is lower.

    least: 0..1; of pictures above 1 in dB, which the strict figure of repeatability is in. A floor
    of 1 stays: it asks for exactness, which can be held.
    """
    decibels = any(row.get("kind") == "psnr" for row in sweep.rows)
    if least == 1 or (least > 1 and not decibels):
        return least
    ceiling = sweep.repeatability.get("strict" if least > 1 else "kept")
    return least if ceiling is None else min(least, ceiling)
