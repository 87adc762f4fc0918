"""How a run is shown on standard error: progress, and a table at the end.

On a terminal a bar; elsewhere a line every LINE_EVERY_S; with --quiet nothing.
"""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from stillframe.pipeline.executor.hardware.topology import cpu_list
from stillframe.pipeline.telemetry.exporter import Telemetry
from stillframe.pipeline.telemetry.run_stats import Tally

LINE_EVERY_S = 10.0
STARTING = "starting; the first run also compiles kernels for this machine"
PARTS = {
    "wait": "wait for the source",
    "fit": "fit to the model's size",
    "gate": "find what changed",
    "infer": "run the network",
    "decode": "read its outputs",
    "follow": "follow the boxes",
    "draw": "draw",
    "write": "write",
    "read": "read a frame",
    "effect": "convert and apply the effect",
}
"""What is done with a frame, in order, and its label in the table."""


class Report:
    """Shows the progress of a run.

    total: frames to come; None where it is not known. stages: their table, shown below the bar of a
    terminal.
    """

    def __init__(
        self,
        console: Console,
        total: int | None,
        stages: Callable[[], Table] | None = None,
    ) -> None:
        self._console = console
        self._next_line = time.monotonic() + LINE_EVERY_S
        self._total = total
        self._bar = Progress(
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal or console.quiet,
        )
        self._task = self._bar.add_task("frames", total=total, facts=STARTING)
        self._stages = stages
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if not self._bar.disable:  # creating it already draws the view
            self._live = Live(
                get_renderable=self._view,
                console=self._console,
                transient=True,
                refresh_per_second=4,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def _view(self) -> RenderableType:
        if self._stages is None:
            return self._bar
        return Group(self._bar, self._stages())

    def tick(self, tally: Tally) -> None:
        """Call after each frame."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=tally.frames, facts=facts(tally))
        elif (now := time.monotonic()) >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            of = f" of {self._total}" if self._total else ""
            self._console.print(f"{tally.frames}{of} frames, {facts(tally)}")


def facts(tally: Tally) -> str:
    """Frame rate and savings in a few words."""
    return f"{tally.rate:.1f} fps, {tally.active_share:.0%} active, {tally.reused_share:.0%} reused"


def summary(
    console: Console,
    tally: Tally,
    title: str,
    written: list[str],
    incidents: Mapping[str, tuple[int, str]] | None = None,
    *,
    queued: bool = False,
) -> None:
    """The table at the end. incidents: counts of the source, each with a few words; zeros are left
    out. queued: frames of a file are read ahead, so how long each was on its way tells only how
    long the queues are; the time from frame to frame is shown instead."""
    if not tally.frames:
        console.print("no frames")
        return
    whole = tally.to_dict()
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    kinds = ", ".join(f"{whole[k]} {k}" for k in tally.kinds)
    table.add_row("frames", str(tally.frames), kinds)
    table.add_row("frame rate", f"{whole['frames_per_s']:.1f} fps", f"in {tally.wall_s:.1f} s")
    table.add_row("active", f"{tally.active_share:.1%}", "of all pixels were treated as new")
    table.add_row("reused", f"{tally.reused_share:.1%}", "of the frames never met the network")
    for name, (count, words) in (incidents or {}).items():
        if count:
            table.add_row(name, str(count), words)
    if queued:
        pace_ms = 1e3 * tally.wall_s / tally.frames
        table.add_row("a frame", f"{pace_ms:.1f} ms", "from one result to the next")
    else:
        times = whole["frame_ms"]
        within = f"median; 95 % within {times['p95']:.1f} ms"
        table.add_row("a frame", f"{times['p50']:.1f} ms", within)
    for part, words in PARTS.items():
        if part in tally.spent_ms:
            cpu_ms = whole["cpu_ms"].get(part)
            cpu = "" if cpu_ms is None else f"{cpu_ms:7.2f} ms CPU, "
            spent = f"{whole['spent_ms'][part]:.2f} ms"
            table.add_row(f"  {words}", spent, f"{cpu}mean of all frames")
    console.print(table)
    for path in written:
        console.print(f"wrote {path}", soft_wrap=True)


def stage_table(telemetry: Telemetry) -> Table:
    """Each stage's times, its queue and where it runs, as they are now."""
    seen = telemetry.to_dict()
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for head in ("p50 ms", "p95", "p99", "queue", "stolen", "on"):
        table.add_column(head, justify="right")
    for name, row in seen["stages"].items():
        times = [f"{row[p]:.1f}" for p in ("p50", "p95", "p99")]
        where = cpu_list(row["cores"]) or "any"
        table.add_row(name, *times, str(row["queue"]), f"{row['stolen']:.0%}", where)
    age, cache = seen["age_ms"]["p95"], seen["cache_bytes"] / 1e6
    words = f"age at the sink {age:.0f} ms, {seen['dropped']} dropped, cache {cache:.0f} MB"
    table.caption = f"{words}, CPU {seen['cpu_share_recent']:.0%}, {seen['replans']} re-plans"
    return table
