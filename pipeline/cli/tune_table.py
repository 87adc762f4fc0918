"""How a search for tolerances is shown: the current trial, and at the end a table of the parts."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from stillframe.errors import SinkError
from stillframe.pipeline.cli import printing
from stillframe.pipeline.quality.repeatability import in_words, lowered
from stillframe.pipeline.studies.tune.search import Trial
from stillframe.pipeline.studies.tune.tune import Tuned

LINE_EVERY_S = 10.0
"""Between two lines of progress where there is no terminal."""
FIGURES = ("time", "work", "kept")
"""Columns of a setting: time and multiply-adds as shares of computing everything."""


class TuneProgress:
    """Shows each trial, and writes it to a file of JSON lines. path: None writes nothing."""

    def __init__(self, console: Console, path: Path | None) -> None:
        self._console, self._path = console, path
        self._file: IO[str] | None = None
        self._count = 0
        self._next_line = time.monotonic() + LINE_EVERY_S
        self._status = console.status("computing everything once")

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._file = open(self._path, "w", encoding="utf-8")
            except OSError as error:
                raise SinkError(f"{self._path}: cannot be written ({error.strerror})") from error
        if self._console.is_terminal and not self._console.quiet:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._status.stop()
        if self._file is not None:
            self._file.close()

    def show(self, tried: Trial) -> None:
        """Called after each trial."""
        self._count += 1
        outcome = tried.outcome
        if self._file is not None:
            setting = tried.setting
            gate, skipping = asdict(setting.gate), asdict(setting.frame_skipping)
            row = {"what": tried.what, **asdict(outcome), "gate": gate, "cadence": skipping}
            self._file.write(json.dumps(row | {"shares": dict(setting.shares)}) + "\n")
            self._file.flush()
        line = (
            f"{self._count} tried; now {tried.what}: cost {outcome.cost:.3f}, "
            f"kept {outcome.quality:.4g}"
        )
        if self._console.is_terminal:
            self._status.update(Text(line))
        elif (now := time.monotonic()) >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            self._console.print(line)


def _figures(cost: float | None, work: float | None, quality: float | None) -> tuple[str, ...]:
    if cost is None or work is None or quality is None:
        return ("none agrees", "", "")
    return f"{cost:.4f}", f"{work:.4f}", f"{quality:.4f}"


def print_parts(console: Console, tuned: Tuned) -> None:
    """The profile on each part, beside the best single tolerance."""
    table = Table(box=None, title_justify="left", title=f"{tuned.tries} settings were tried")
    for name in ("clip", "frames", "", *FIGURES, "strict", "one tolerance: time", *FIGURES[1:]):
        table.add_column(name, justify="left" if name == "clip" else "right")
    for part in tuned.profile.parts:
        spans = f" in {part.windows} windows" if part.windows > 1 else ""
        table.add_row(
            part.clip,
            f"{part.frames}{spans}, from {part.first}",
            part.role,
            *_figures(part.cost, part.work, part.quality),
            "" if part.strict is None else f"{part.strict:.4f}",
            *_figures(part.uniform_cost, part.uniform_work, part.uniform_quality),
        )
    console.print(table)
    if text := in_words(tuned.repeatability):
        printing.plain(console, text, wrap=True)
    if text := lowered(tuned.asked, tuned.profile.target):
        printing.plain(console, text, wrap=True)
    for doubt in tuned.doubts:
        printing.plain(console, f"these clips tell little: {doubt}", wrap=True)
    skipping = tuned.profile.frame_skipping
    if skipping.every > 1:
        how = "boxes follow the picture" if skipping.follows else "the last result stands"
        console.print(f"of frames that change one in {skipping.every} is computed; else {how}")
    if tuned.gain is not None:
        console.print(f"{tuned.gain:.2f} times the speed of the best single tolerance is expected")
    if tuned.ended:
        console.print("the search was ended early; this is the best so far")
