"""stillframe bench suite: what a run without any option gains, and keeps, on many pairs."""

import json
import math
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from stillframe.errors import SinkError, StillframeError, UsageError
from stillframe.pipeline.cli import options, printing

Row = dict[str, Any]

ROWS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("frames", lambda row: str(row["frames"])),
    ("dense CPU ms", lambda row: f"{row['dense_cpu_ms']:.0f}"),
    ("auto CPU ms", lambda row: f"{row['auto_cpu_ms']:.0f}"),
    ("x", lambda row: f"{row['times_as_fast']:.2f}"),
    ("x, second half", lambda row: f"{row['times_as_fast_later']:.2f}"),
    ("kept", lambda row: f"{row['kept']:.4f}" if row["telling"] else "nothing"),
    ("strict", lambda row: f"{row['strict']:.3f}"),
    ("repeats", lambda row: _share(row["repeatability"])),
    ("place", lambda row: _share(row["place"])),
    ("skipping, equal CPU", lambda row: _skipping(row["best_skipping"])),
)
"""Columns of the table, and how each is written."""


def bench_suite(
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help="Pairs whose title has this word; may be repeated."),
    ] = None,
    quality: Annotated[float, typer.Option(min=0, max=1, help="As for run.")] = options.QUALITY,
    threads: Annotated[int, typer.Option(min=1, help="Of every network.")] = 1,
    max_frames: Annotated[
        int, typer.Option(min=2, help="Of each clip; half of them count as the second half.")
    ] = 300,
    allow_sdist: options.AllowSdist = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures.")
    ] = None,
    force: options.Force = False,
) -> None:
    """Run every model on every clip that it makes sense on, without any option for a pair.

    Times are processor time of the whole way of a frame, decoding included, starting up included.
    Beside it: the fastest dense backend, and the best frame skipping that costs no more.
    """
    from stillframe.models import zoo
    from stillframe.pipeline.cli.fetching import fetch_sample
    from stillframe.pipeline.studies.suite.measure import measure
    from stillframe.pipeline.studies.suite.pairs import PAIRS

    pairs = [each for each in PAIRS if not only or any(word in each.title for word in only)]
    if not pairs:
        titles = ", ".join(each.title for each in PAIRS)
        raise UsageError(f"--only: expected a word of {titles}; got {', '.join(only or [])}")
    if json_file is not None and json_file.exists() and not force:
        raise SinkError(f"{json_file}: there is such a file; overwrite it with --force")
    console = printing.people()
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        try:
            fetch_sample(console, pair.clip, allow_sdist)
            model = zoo.load(pair.model)
            short = replace(pair, frames=min(pair.frames, max_frames))
            rows.append(measure(short, model, quality, threads))
        except StillframeError as error:
            printing.plain(console, f"{pair.title} is left out: {error}", wrap=True)
            continue
        printing.plain(console, f"{pair.title}: x{rows[-1]['times_as_fast']:.2f}")
        if json_file is not None:
            _write(json_file, rows)
    printing.table_data(_table(rows))
    if rows:
        mean = math.exp(sum(math.log(row["times_as_fast"]) for row in rows) / len(rows))
        good = sum(row["windows_held"] for row in rows)
        windows = sum(row["windows"] for row in rows)
        printing.plain(
            console,
            f"geometric mean x{mean:.2f}, worst x{min(row['times_as_fast'] for row in rows):.2f}; "
            f"kept at least {quality:g}, or what the network repeats, in {good} of {windows} "
            "windows of ten seconds",
            wrap=True,
        )


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    machine = {"system": platform.platform(), "python": platform.python_version()}
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n", "utf-8")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("model on clip")
    for name, _ in ROWS:
        table.add_column(name, justify="right")
    for row in rows:
        mark = " *" if row["role"] == "held out" else ""
        table.add_row(row["pair"] + mark, *(write(row) for _, write in ROWS))
    table.caption = "* not looked at while defaults were chosen"
    return table


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _skipping(best: dict[str, Any] | None) -> str:
    if best is None:
        return "none"
    return f"{best['kept']:.4f} ({best['between']}, {best['every']})"
