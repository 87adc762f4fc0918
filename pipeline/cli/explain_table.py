"""The table of `stillframe explain`: one row a layer. Names are folded, nothing is cut off."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from rich.table import Table

from stillframe.pipeline.studies.explain.explanation import Explanation, Row


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table."""

    title: str
    cell: Callable[[Row], str]
    justify: Literal["left", "right"] = "left"
    clip: bool = False
    """Whether it is about the frames of a clip."""
    planned: bool = False
    """Whether it is about the memory plan, in sentences that need a wide terminal."""


def table(explanation: Explanation, *, planned: bool) -> Table:
    """All layers in the order in which they run. planned: with the columns about the memory plan,
    for some 190 characters a line."""
    clip = explanation.totals.frames > 0
    columns = [each for each in COLUMNS if each.clip <= clip and each.planned <= planned]
    grid = Table(box=None, padding=(0, 1))
    for column in columns:
        grid.add_column(column.title, justify=column.justify, overflow="fold")
    for row in merged(explanation.rows):
        grid.add_row(*(column.cell(row) for column in columns))
    return grid


def merged(rows: tuple[Row, ...]) -> list[Row]:
    """Instructions that write parts of one layer one after the other, as one row."""
    layers: list[Row] = []
    for row in rows:
        last = layers[-1] if layers else None
        if last is None or (row.name, row.operator) != (last.name, last.operator):
            layers.append(row)
            continue
        layers[-1] = replace(
            last,
            multiply_adds=last.multiply_adds + row.multiply_adds,
            dense_ms=last.dense_ms + row.dense_ms,
            active=None if last.active is None else max(last.active, row.active or 0.0),
            changed=None if last.changed is None else max(last.changed, row.changed or 0.0),
            reuse_ms=None if last.reuse_ms is None else last.reuse_ms + (row.reuse_ms or 0.0),
            bytes=max(last.bytes, row.bytes),
        )
    return layers


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _memory(row: Row) -> str:
    if row.persistent is None:
        return ""
    lifetime = "persistent" if row.persistent else "transient"
    return f"{lifetime} {row.bytes / 1e6:.1f} MB" if row.bytes else f"{lifetime} view"


COLUMNS = (
    Column("layer", lambda row: row.name),
    Column("operator", lambda row: row.operator),
    Column("shape", lambda row: "x".join("?" if n < 0 else str(n) for n in row.shape)),
    Column(
        "M mult-adds",
        lambda row: f"{row.multiply_adds / 1e6:.1f}" if row.multiply_adds else "",
        "right",
    ),
    Column("active", lambda row: _figure(row.active, ".1%"), "right", clip=True),
    Column("reuse ms", lambda row: _figure(row.reuse_ms, ".2f"), "right", clip=True),
    Column("dense ms", lambda row: f"{row.dense_ms:.2f}", "right"),
    Column("memory", _memory),
    Column("last read by", lambda row: row.last_reader.split(" -> ")[0], planned=True),
    Column("why", lambda row: row.why, planned=True),
)
