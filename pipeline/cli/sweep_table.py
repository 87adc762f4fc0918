"""What a person sees of a sweep: a bar while it goes on, a table at the end."""

import time
from types import TracebackType
from typing import Self

from rich import progress as bars
from rich.console import Console
from rich.table import Table

from stillframe.pipeline.studies.sweep.equal_compute import sentence
from stillframe.pipeline.studies.sweep.sweep import Row, Sweep, front

LINE_EVERY_S = 10.0


class Progress:
    """A bar on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_line = time.monotonic() + LINE_EVERY_S
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"),
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

    def told(self, what: str, done: int, total: int) -> None:
        """total 0: not known."""
        if not self._bar.disable:
            if done <= 1:
                self._bar.reset(self._task, total=total or None)
            self._bar.update(self._task, description=what, completed=done, total=total or None)
        elif (now := time.monotonic()) >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            of = f"{done}/{total or '?'} " if done else ""
            self._console.print(f"{of}{what}", markup=False)


def print_table(console: Console, sweep: Sweep) -> None:
    """The fastest first; a star for those on the Pareto front. Below it reuse against skipping."""
    head = sweep.head
    title = f"{head['model']} on {head['clip']}, {head['threads']} thread(s), a row a player"
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    table.add_column("player", no_wrap=True)
    for name in ("fps", "x dense", "CPU ms", "work", "quality", "p95 stale s", "frames"):
        table.add_column(name, justify="right")
    best = {row["name"] for row in front(sweep.rows)}
    for row in sorted(sweep.rows, key=lambda row: -(row["gain"] or 0)):
        table.add_row("*" if row["name"] in best else "", row["title"], *_cells(row))
    console.print(table)
    if told := sentence(sweep.rows):
        console.print(told, markup=False, highlight=False)


def _cells(row: Row) -> list[str]:
    return [
        f"{row['fps']:.1f}",
        f"{row['gain']:.2f}",
        f"{row['cpu_s'] * 1e3:.1f}",
        f"{row['work']:.3f}",
        f"{row['quality']:.4f}" if row["kind"] != "psnr" else f"{row['quality']:.1f} dB",
        f"{row['stale_p95_s']:.2f}",
        str(row["frames"]) + ("" if row["complete"] else " so far"),
    ]
