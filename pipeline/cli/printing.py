"""All that the commands print: data to standard output, everything for people to standard error.

Names of nodes, files, labels and profiles come from others. Nothing in a text is interpreted: no
markup, no emoji codes, and characters that would steer a terminal are shown escaped.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from stillframe.escaping import escaped

PLAIN_WIDTH = 200
"""Columns of a table that goes to a file or a pipe."""


class PlainConsole(Console):
    """A console that shows texts as they are, escaped. Styles come from `style=` and `Text`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Every text of a table, a bar or a line comes through here before it is styled."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text))


def data(text: str, end: str = "\n") -> None:
    """Print a line of data."""
    print(escaped(text), end=end)


def json_data(values: Any) -> None:
    """Print data as JSON. Raises ValueError for infinity and NaN, which JSON cannot write."""
    data(json.dumps(values, indent=2, allow_nan=False))


def table_data(table: Table, plain_width: int = PLAIN_WIDTH, end: str = "\n") -> None:
    """Print a table as data: as wide as the terminal; elsewhere without spaces at line ends."""
    console = PlainConsole(width=None if sys.stdout.isatty() else plain_width)
    with console.capture() as lines:
        console.print(table)
    print("\n".join(line.rstrip() for line in lines.get().split("\n")[:-1]), end=end)


def output(plain_width: int | None = None) -> Console:
    """The console for data. plain_width: columns where it is no terminal; None: rich decides."""
    console = PlainConsole()
    if plain_width is None or console.is_terminal:
        return console
    return PlainConsole(width=plain_width)


def people(quiet: bool = False, plain_width: int | None = None) -> Console:
    """The console for people. plain_width: columns where it is no terminal; None: rich decides."""
    console = PlainConsole(stderr=True, quiet=quiet)
    if plain_width is None or console.is_terminal:
        return console
    return PlainConsole(stderr=True, quiet=quiet, width=plain_width)


def plain(console: Console, text: str, *, wrap: bool = False) -> None:
    """Print a line for people. wrap: at the console's width."""
    console.print(text, soft_wrap=not wrap)


def complaint(kind: str, message: str) -> None:
    """Print one line on standard error. kind: "error" or "warning"."""
    print(f"stillframe: {kind}: {escaped(' '.join(message.split()))}", file=sys.stderr)


def trace(text: str) -> None:
    """Print a traceback on standard error."""
    print(escaped(text), end="", file=sys.stderr)
