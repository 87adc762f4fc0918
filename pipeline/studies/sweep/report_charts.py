"""The charts of a sweep's report, drawn by Matplotlib: SVG in the reader's own ink, or a PNG."""

from pathlib import Path
from typing import Any

import numpy as np

from stillframe.errors import SinkError
from stillframe.escaping import escaped
from stillframe.pipeline.quality.agreement import MEASURES
from stillframe.pipeline.studies.report_style import INK, figure_of, svg_of
from stillframe.pipeline.studies.sweep.sweep import Row, Sweep, front, runnable

COLOURS = {
    "dense": "#8a8f98",
    "exact": "#0072b2",
    "reuse": "#e8590c",
    "gate": "#f2a65a",
    "profile": "#d6336c",
    "both": "#c2557f",
    "frame": "#56b4e9",
    "every": "#7b61ff",
    "tracked": "#2b9a66",
}
MARKS = dict(zip(COLOURS, ("s", "D", "o", "P", "*", "p", "v", "X", "^"), strict=True))
NAMES = {
    "dense": "everything",
    "exact": "reuse, exact",
    "reuse": "reuse at a tolerance",
    "gate": "other gates",
    "profile": "tuned profile",
    "both": "reuse in every Nth frame",
    "frame": "whole frames only",
    "every": "every Nth frame",
    "tracked": "every Nth, tracked",
}


def quality_label(sweep: Sweep) -> str:
    present = [row["kind"] for row in sweep.rows if row["kind"]]
    return f"kept ({MEASURES[present[0]].kept})" if present else "kept"


def strict_label(sweep: Sweep) -> str:
    present = [row["kind"] for row in sweep.rows if row["kind"]]
    return MEASURES[present[0]].label or "the same" if present else "agreement"


def pareto(sweep: Sweep) -> Any:
    """Frame rate against quality, a mark a variant, a line through the front."""
    figure, axes = figure_of(8.4, 4.6)
    for family, colour in COLOURS.items():
        rows = [row for row in sweep.rows if row["family"] == family]
        if rows:
            axes.scatter(
                [row["fps"] for row in rows], [row["quality"] for row in rows], s=64, c=colour,
                marker=MARKS[family], label=NAMES[family], zorder=3, linewidths=0, clip_on=False,
            )  # fmt: skip
    best = front(sweep.rows)
    axes.plot([row["fps"] for row in best], [row["quality"] for row in best],
              color=INK, linewidth=0.9, alpha=0.5, zorder=2)  # fmt: skip
    for number, row in enumerate(best):
        axes.annotate(row["title"], (row["fps"], row["quality"]), fontsize=8,
                      xytext=(6, 5 if number % 2 else -11), textcoords="offset points")  # fmt: skip
    axes.set_xlabel("frames per second")
    axes.set_ylabel(quality_label(sweep))
    axes.set_xlim(left=0)
    axes.margins(x=0.16, y=0.08)
    axes.set_xlim(left=0)
    low = min(row["quality"] for row in sweep.rows)
    axes.set_ylim(max(0.0, low - 0.08 * (1 - low)) if low < 1 else 0.9, 1.0)  # kept ends at 1
    ceiling = sweep.repeatability.get("kept")
    if ceiling is not None and ceiling >= axes.get_ylim()[0]:
        axes.axhline(ceiling, color=INK, linewidth=0.8, linestyle=":", alpha=0.6, zorder=1)
        axes.annotate("repeatability", (0, ceiling), fontsize=8, alpha=0.7, xytext=(4, -9),
                      textcoords="offset points")  # fmt: skip
    axes.grid(alpha=0.18, color=INK)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4)
    return figure


def timeline(sweep: Sweep, names: list[str]) -> Any:
    """Quality frame by frame, and below it the work: where and when quality was lost."""
    figure, whole = figure_of(8.4, 3.6)
    whole.remove()
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for row in (row for name in names if (row := sweep.row(name))):
        colour = COLOURS[row["family"]]
        style: dict[str, Any] = {"color": colour, "alpha": 0.9, "clip_on": False}
        above.plot(row["frame_quality"], linewidth=1.1, label=row["title"], **style)
        below.plot(row["frame_work"], linewidth=0.9, **style)
    above.set_ylabel("kept")
    below.set_ylabel("work")
    below.set_xlabel("frame")
    above.set_ylim(0, 1)
    below.set_ylim(0, 1)
    below.set_xlim(0, max(len(row["frame_quality"]) for row in sweep.rows) - 1)
    above.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    for each in (above, below):
        each.grid(alpha=0.18, color=INK)
    return figure


def layers(rows: list[Row]) -> Any:
    """Share of each layer's positions that is computed in a frame, a line a variant."""
    figure, axes = figure_of(8.4, 2.8)
    names = list(rows[0]["layers"])
    tints = np.linspace(0.35, 1.0, len(rows))
    for row, tint in zip(rows, tints, strict=True):
        values = [row["layers"].get(name, np.nan) for name in names]
        axes.step(range(len(names)), values, where="mid", linewidth=1.2, alpha=float(tint),
                  color=COLOURS[row["family"]], label=row["title"])  # fmt: skip
    axes.set_xlabel(escaped(f"layer, from {names[0]} to {names[-1]}"))
    axes.set_ylabel("active share")
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.grid(alpha=0.18, color=INK)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4)
    return figure


def shown_in_time(sweep: Sweep) -> list[str]:
    """At most four variants: runnable ones of the front that are not dense, the best skipping."""
    best = [row for row in front(runnable(sweep)) if row["family"] not in ("dense", "every")]
    best = sorted(best, key=lambda row: -row["quality"])[:3]
    skipping = [row for row in sweep.rows if row["family"] in ("every", "tracked")]
    quick = [row for row in skipping if row["gain"] and row["gain"] > 2]
    best += sorted(quick, key=lambda row: -row["quality"])[:1]
    return [row["name"] for row in best]


def charts(sweep: Sweep) -> dict[str, str]:
    """Name -> SVG."""
    drawn = {"pareto": svg_of(pareto(sweep))}
    names = shown_in_time(sweep)
    if names:
        drawn["timeline"] = svg_of(timeline(sweep, names))
    rows = [row for row in sweep.rows if row.get("layers")]
    if rows:
        drawn["layers"] = svg_of(layers(sorted(rows, key=lambda row: -row["work"])[:6]))
    return drawn


def write_png(sweep: Sweep, path: Path) -> None:
    """The chart of frame rate against quality. Raises SinkError."""
    figure = pareto(sweep)
    figure.suptitle(escaped(f"{sweep.head['model']} on {sweep.head['clip']}"), fontsize=10)
    try:
        figure.savefig(path, format="png", dpi=150, facecolor="white")
    except OSError as error:
        raise SinkError(f"{path}: the chart cannot be written ({error.strerror})") from error
