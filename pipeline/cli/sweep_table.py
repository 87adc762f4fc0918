"""How a sweep is shown: a bar while it runs, a table at the end."""

import time
from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console
from rich.table import Table

from stillframe.pipeline.cli import printing
from stillframe.pipeline.quality.repeatability import in_words
from stillframe.pipeline.studies.sweep.doubts import truth_text
from stillframe.pipeline.studies.sweep.equal_compute import sentence
from stillframe.pipeline.studies.sweep.sweep import Row, Sweep, fastest, fastest_dense, floor, front

HEADS = (
    "fps", "x dense", "x ORT", "CPU ms", "work", "kept", "strict", "mean IoU", "missed/min",
    "invented/min", "p95 stale s", "frames",
)  # fmt: skip
LINE_EVERY_S = 10.0
"""Between two lines of progress where there is no terminal."""


class Progress:
    """A bar on a terminal; elsewhere a line every LINE_EVERY_S."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_line = time.monotonic() + LINE_EVERY_S
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(bar_width=28),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.quiet,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, what: str, done: int, total: int) -> None:
        """Called with each progress. total: 0 where it is not known."""
        if not self._bar.disable:
            if done <= 1:
                self._bar.reset(self._task, total=total or None)
            self._bar.update(self._task, description=what, completed=done, total=total or None)
        elif (now := time.monotonic()) >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            of = f"{done}/{total or '?'} " if done else ""
            self._console.print(f"{of}{what}")


def print_table(console: Console, sweep: Sweep) -> None:
    """The fastest first; a star marks the Pareto front. Below it reuse against frame skipping."""
    head = sweep.head
    title = f"{head['model']} on {head['clip']}, {head['threads']} thread(s), one row per variant"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    table.add_column("variant", no_wrap=True)
    for name in HEADS:
        table.add_column(name, justify="right")
    best = {row["name"] for row in front(sweep.rows)}
    engine = fastest_dense(sweep)
    for row in sorted(sweep.rows, key=lambda row: -(row["gain"] or 0)):
        table.add_row("*" if row["name"] in best else "", row["title"], *_cells(row))
    console.print(table)
    notes = [
        sentence(sweep.rows),
        in_words(sweep.repeatability),
        truth_text(sweep, fastest(sweep, floor(sweep))),
    ]
    if engine is not None:
        notes.insert(0, f"x dense: against the fastest here that computes {engine['title']}.")
    for note in filter(None, notes):
        printing.plain(console, note, wrap=True)


def _cells(row: Row) -> list[str]:
    return [
        f"{row['fps']:.1f}",
        _number(row.get("gain_fastest"), ".2f"),
        _number(row.get("gain_ort"), ".2f"),
        f"{row['cpu_s'] * 1e3:.1f}",
        f"{row['work']:.3f}",
        f"{row['quality']:.4f}",
        _number(row.get("strict"), ".1f" if row["kind"] == "psnr" else ".4f"),
        _number(row.get("mean_iou"), ".3f"),
        _number(row.get("missed_per_minute"), ".1f"),
        _number(row.get("invented_per_minute"), ".1f"),
        f"{row['stale_p95_s']:.2f}",
        str(row["frames"]) + ("" if row["complete"] else " so far"),
    ]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
