"""stillframe bench suite: what a run without any option gains, and keeps, on many pairs."""

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from stillframe.errors import StillframeError, UsageError
from stillframe.pipeline.cli import options, printing
from stillframe.pipeline.cli.writable import check_writable

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
    ("truth F1 dense, auto", lambda row: _truth(row)),
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
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE.html", help="One page with everything."),
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
    from stillframe.pipeline.studies.suite.summary import summary_text

    if report is not None:
        from stillframe.pipeline.studies.suite import report_page

        report_page.needed()
    pairs = [each for each in PAIRS if not only or any(word in each.title for word in only)]
    if not pairs:
        titles = ", ".join(each.title for each in PAIRS)
        raise UsageError(f"--only: expected a word of {titles}; got {', '.join(only or [])}")
    for path in (json_file, report):
        if path is not None:
            check_writable(path, force)
    console = printing.people()
    rows: list[Row] = []
    record = {"machine": _machine(), "quality": quality, "threads": threads, "rows": rows}
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
            json_file.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    printing.table_data(_table(rows))
    if rows:
        printing.plain(console, summary_text(rows, quality), wrap=True)
        if report is not None:
            report_page.write_html(record, report)
            printing.plain(console, f"wrote {report}")


def _machine() -> dict[str, str]:
    return {"system": platform.platform(), "python": platform.python_version()}


def _truth(row: Row) -> str:
    from stillframe.pipeline.studies.suite.summary import truth_text

    return truth_text(row)


def _table(rows: list[Row]) -> Table:
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
