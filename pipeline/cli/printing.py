"""All that the commands print: data to standard output, everything for people to standard error."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

PLAIN_WIDTH = 200
"""Columns of a table that goes to a file or a pipe."""


def data(text: str, end: str = "\n") -> None:
    """Print a line of data."""
    print(text, end=end)


def json_data(values: Any) -> None:
    """Print data as JSON. Raises ValueError for infinity and NaN, which JSON cannot write."""
    data(json.dumps(values, indent=2, allow_nan=False))


def table_data(table: Table, plain_width: int = PLAIN_WIDTH, end: str = "\n") -> None:
    """Print a table as data: as wide as the terminal; elsewhere without spaces at line ends."""
    console = Console(width=None if sys.stdout.isatty() else plain_width, highlight=False)
    with console.capture() as lines:
        console.print(table)
    data("\n".join(line.rstrip() for line in lines.get().splitlines()), end)


def people(quiet: bool = False, plain_width: int | None = None) -> Console:
    """The console for people. plain_width: columns where it is no terminal; None: rich decides."""
    console = Console(stderr=True, quiet=quiet, highlight=False)
    if plain_width is None or console.is_terminal:
        return console
    return Console(stderr=True, quiet=quiet, highlight=False, width=plain_width)


def plain(console: Console, text: str, *, wrap: bool = False) -> None:
    """Print a line for people as it is: no markup, no colours. wrap: at the console's width."""
    console.print(text, markup=False, highlight=False, soft_wrap=not wrap)


def complaint(kind: str, message: str) -> None:
    """Print one line on standard error. kind: "error" or "warning"."""
    print(f"stillframe: {kind}: {' '.join(message.split())}", file=sys.stderr)


def trace(text: str) -> None:
    """Print a traceback on standard error."""
    print(text, end="", file=sys.stderr)
