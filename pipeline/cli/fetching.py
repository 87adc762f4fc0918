"""Clips and models that a command needs, fetched or built on first use behind a progress bar."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from stillframe.models import zoo
from stillframe.models.model import Model

if TYPE_CHECKING:
    from stillframe.models.card import ModelCard

SAMPLE = "sample:"


@contextlib.contextmanager
def preparing(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that appears with the first progress.

    Yields the progress callback: bytes, or frames, done and in all (0: not known).
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=None)
    begun = False

    def on_progress(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            begun = True
            if console.is_terminal:
                bar.start()
            else:
                console.print(f"preparing {what}")
        bar.update(task, completed=done, total=total or None)

    try:
        yield on_progress
    finally:
        if begun:
            bar.stop()


def fetch_sample(console: Console, clip: str, allow_sdist: bool) -> None:
    """Make or fetch a `sample:` clip; does nothing for other sources."""
    if clip.startswith(SAMPLE):
        from stillframe import sample_videos  # takes a while to import

        with preparing(console, clip) as on_progress:
            name = clip.removeprefix(SAMPLE)
            sample_videos.resolve(name, progress=on_progress, allow_sdist=allow_sdist)


def load_model(console: Console, name: str, stated: "ModelCard | None", allow_sdist: bool) -> Model:
    """The model, fetched if need be. stated: what options say of it, see `zoo.load_stated`."""
    with preparing(console, name) as on_progress:
        return zoo.load_stated(name, stated, progress=on_progress, allow_sdist=allow_sdist)
