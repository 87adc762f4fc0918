"""How a benchmark is shown: one line per row while it runs, three tables at the end."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from stillframe.pipeline.cli import printing

PLAIN_WIDTH = 220
"""Columns of the tables in a file or a pipe."""


def in_short(row: dict[str, Any]) -> str:
    """A row in one line."""
    names = ("ort", "dense", "exact", "reuse")
    times = [f"{name} {_cell(row[f'{name}_{_middle(row, name)}'])} ms" for name in names]
    return ", ".join([*times, f"kept {_agreement(row)}"])


LOST, SIDES = ("missed", "invented"), ("dense", "reuse")

Column = tuple[str, Callable[[dict[str, Any]], str]]
"""Title, and the text of a row's cell."""

TIMES: tuple[Column, ...] = (
    ("model", lambda row: str(row["model"])),
    ("clip", lambda row: row["clip"] + (f" [{row['crop']}]" if row["crop"] else "")),
    ("input", lambda row: "x".join(map(str, row["size"]))),
    ("frames", lambda row: str(row["frames"])),
    ("ONNX Runtime", lambda row: _spread(row, "ort")),
    ("OpenVINO", lambda row: _spread(row, "openvino")),
    ("own dense", lambda row: _spread(row, "dense")),
    ("reuse, exact", lambda row: _spread(row, "exact")),
    ("at tolerance", lambda row: _spread(row, "reuse")),
    ("whole frame", lambda row: _spread(row, "whole_reuse")),
    ("unchanged", lambda row: _cell(row["unchanged_ms"])),
)
GAINS: tuple[Column, ...] = (
    *TIMES[:2],
    ("x fastest dense", lambda row: _cell(row["reuse_times_fastest"])),
    ("x ORT", lambda row: _cell(row["reuse_times_ort"])),
    ("x own dense", lambda row: _cell(row["dense_gain"])),
    ("x exact / clip", lambda row: _both(row, "exact")),
    ("x reuse / clip", lambda row: _both(row, "reuse")),
    ("exact, reuse - dense", lambda row: _over(row)),
    ("work exact, reuse", lambda row: _shares(row["exact_macs_share"], row["macs_share"])),
    ("MB rss", lambda row: _cell(row["rss_mb"])),
    ("persistent MB", lambda row: _cell(row["persistent_mb"])),
    ("arena / bound", lambda row: _shares(row["arena_mb"], row["lower_bound_mb"])),
    ("all tensors MB", lambda row: _cell(row["naive_cache_mb"])),
)

QUALITY: tuple[Column, ...] = (
    *TIMES[:2],
    ("kept", lambda row: _agreement(row)),
    ("strict", lambda row: _cell(row["agreement_strict"])),
    ("repeats", lambda row: _shares(row["repeatability"], row["repeatability_strict"])),
    ("place", lambda row: _cell(row["agreement_place"])),
    ("mean IoU", lambda row: _cell(row["mean_iou"])),
    ("missed, invented/min", lambda row: _shares(*(row[f"{n}_per_minute"] for n in LOST))),
    ("2nd, 4th only: kept", lambda row: _shares(*(row[f"skip{n}_agreement"] for n in (2, 4)))),
    ("strict", lambda row: _shares(*(row[f"skip{n}_strict"] for n in (2, 4)))),
    ("truth: dense, reuse", lambda row: _shares(*(row[f"truth_{n}_f1"] for n in SIDES))),
)


def print_tables(rows: Sequence[dict[str, Any]]) -> None:
    for columns in (TIMES, GAINS, QUALITY):
        table = Table(box=None, pad_edge=False)
        for place, (title, _) in enumerate(columns):
            table.add_column(title, justify="left" if place < 2 else "right", no_wrap=place == 0)
        for row in rows:
            table.add_row(*(show(row) for _, show in columns))
        printing.table_data(table, PLAIN_WIDTH, end="\n\n")
    first = rows[0]
    printing.data(
        f"ms a frame: median (quartiles), {first['threads']} threads, tolerance"
        f" {first['tolerance']}{_skipping(first)}; x fastest dense: over the clip, against the"
        " fastest of our dense engine, ONNX Runtime and OpenVINO; x ORT: against ONNX Runtime;"
        " other x: against the faster of ONNX Runtime and OpenVINO; repeats: kept and strict of the"
        " dense network on frames with the camera's noise again; truth: F1;"
        f" {first['machine']}"
    )
    for row in rows:
        for doubt in row["doubts"]:
            printing.data(f"{row['model']} on {row['clip']} tells little: {doubt}")


def _skipping(row: dict[str, Any]) -> str:
    if row["every"] == 1:
        return ""
    follows = ", boxes followed in between" if row["between"] == "follow" else ""
    return f", reuse computes one frame in {row['every']}{follows} and shows its mean"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _spread(row: dict[str, Any], name: str) -> str:
    between = row[f"{name}_iqr"]
    if between is None:
        return "-"
    return f"{_cell(row[f'{name}_{_middle(row, name)}'])} ({'-'.join(map(_cell, between))})"


def _middle(row: dict[str, Any], name: str) -> str:
    """The suffix of the figure to show: the median; the mean where frames are skipped."""
    return "mean_ms" if row["every"] > 1 and name.endswith("reuse") else "ms"


def _both(row: dict[str, Any], name: str) -> str:
    return _shares(row[f"{name}_gain"], row[f"{name}_gain_over_clip"])


def _shares(*values: float | None) -> str:
    return " / ".join(map(_cell, values))


def _over(row: dict[str, Any]) -> str:
    known = [row[f"{name}_over_dense"] for name in ("exact", "reuse")]
    return " / ".join("-" if each is None else f"{each:+.0%}" for each in known)


def _agreement(row: dict[str, Any]) -> str:
    text = _cell(row["agreement"])
    return text + ", nothing found" if row["boxes"] == 0 else text
