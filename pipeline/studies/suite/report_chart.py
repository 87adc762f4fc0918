"""The chart of a suite's report: the gain of each pair, over the whole clip and its second half."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stillframe.escaping import escaped
from stillframe.pipeline.studies.report_style import INK, figure_of, svg_of
from stillframe.pipeline.studies.suite.summary import HELD_OUT, Row

BARS = (
    ("whole clip", "times_as_fast", "#e8590c", -0.2),
    ("second half", "times_as_fast_later", "#f2a65a", 0.2),
)
"""Title, figure, colour and place of the two bars of a pair."""
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


def gains(rows: Sequence[Row]) -> Any:
    """Bars that leave a line at 1: to the right faster than computing everything, else slower."""
    figure, axes = figure_of(8.4, 0.9 + 0.36 * len(rows))
    places = np.arange(len(rows))
    every = [row[name] for row in rows for _, name, _, _ in BARS]
    for title, name, colour, shift in BARS:
        values = np.array([row[name] for row in rows])
        axes.barh(places + shift, values - 1, 0.36, left=1, color=colour, label=title, zorder=3)
        for place, value in zip(places + shift, values, strict=True):
            axes.annotate(f"{value:.2f}", (max(value, 1), place), fontsize=7, va="center",
                          xytext=(3, 0), textcoords="offset points")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlim(min(0.8, min(every) * 0.9), max(2.0, max(every)) * 1.3)
    axes.set_xticks([each for each in TICKS if axes.get_xlim()[0] <= each <= axes.get_xlim()[1]])
    axes.xaxis.set_major_formatter(lambda value, _: f"×{value:g}")
    axes.minorticks_off()
    axes.tick_params(axis="x", labelsize=8)
    names = [row["pair"] + (" *" if row["role"] == HELD_OUT else "") for row in rows]
    axes.set_yticks(places, [escaped(name) for name in names], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first pair on top
    axes.axvline(1, color=INK, linewidth=1.0, zorder=4)
    axes.grid(axis="x", alpha=0.18, color=INK)
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return figure


def gains_svg(rows: Sequence[Row]) -> str:
    return svg_of(gains(rows))
