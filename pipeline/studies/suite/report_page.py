"""The report of a suite: one HTML file that needs nothing else, light or dark as the reader has it.

write_html(record, path)  # record: what --json writes
"""

from pathlib import Path
from typing import Any

from stillframe.errors import SinkError
from stillframe.pipeline.studies.report_style import STYLE, needed, page_template
from stillframe.pipeline.studies.suite.report_chart import gains_svg
from stillframe.pipeline.studies.suite.summary import (
    HELD_OUT,
    Row,
    best_skipping,
    choice_text,
    mean_gain,
    summary_text,
    truth_text,
)

__all__ = ["needed", "render", "write_html"]

NONE = "–"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>stillframe bench suite</title>
<style>
{{ style|safe }}
body { max-width: 100rem } svg { max-width: 60rem }
td:last-child, th:last-child { text-align: left } table { font-size: 13px }
th { white-space: normal; vertical-align: bottom }
</style></head><body>
<h1>Runs without any option</h1>
<p class="dim">{{ rows|length }} pairs of a model and a clip, {{ threads }} thread(s) each, asked to
keep {{ quality }}; {{ system }}, Python {{ python }}.</p>
<div class="answer"><p><b>{{ summary }}</b></p>
{% for name, count, mean in groups %}<p>{{ count }} pairs {{ name }}: geometric mean
×{{ "%.2f"|format(mean) }}</p>
{% endfor %}</div>
<h2>Times as fast as computing everything</h2>
<p class="dim">Processor time of a frame with the fastest dense backend, over that of the run: over
the whole clip, starting up included, and over its second half. Left of the line at 1 the run is
slower than computing everything.</p>
{{ chart|safe }}
<h2>All pairs</h2>
<div class="wide"><table>
<tr><th>model on clip</th>{% for name, _ in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr><td title="{{ row.shows }}">{{ title(row) }}</td>
{%- for name, cell in columns %}<td{% if name in best(row) %} class="best"{% endif %}>
{{- cell(row) }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<p class="dim">* Held out: not looked at while defaults were chosen. Times are of a frame,
decoding included. Kept is the share of what the dense network says that a user would not miss;
strict is the same at a hard limit (dB for pictures); repeats is what the network keeps of itself
when the camera makes other noise; place is the mean IoU of what is kept. Truth F1 is the accuracy
against the ground truth of drawn clips, of the dense network and of the run. Skipping computes
every Nth frame whole and keeps its result in between, or lets its boxes follow: the best of those
that cost no more processor time than the run. What keeps most of the three is tinted. Windows are
of ten seconds; one is held where {{ quality }} is kept, or what the network repeats.</p>
</body></html>
"""
KEPT, KEEP, FOLLOW = "kept", "skipping, kept", "skipping, followed"
BETWEEN = {KEEP: "keep", FOLLOW: "follow"}


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _kept(row: Row) -> str:
    return f"{row['kept']:.4f}" if row["telling"] else "nothing to compare"


def _strict(row: Row) -> str:
    if not row["telling"]:
        return NONE
    return f"{row['strict']:.1f} dB" if row["kind"] == "psnr" else f"{row['strict']:.3f}"


def _skipping(row: Row, between: str) -> str:
    best = best_skipping(row, between) if row["telling"] else None
    return NONE if best is None else f"{best['kept']:.4f} (1 of {best['every']})"


def _windows(row: Row) -> str:
    return f"{row['windows_held']} of {row['windows']}" if row["windows"] else NONE


COLUMNS: tuple[tuple[str, Any], ...] = (
    ("frames", lambda row: str(row["frames"])),
    ("dense CPU ms", lambda row: f"{row['dense_cpu_ms']:.1f}"),
    ("auto CPU ms", lambda row: f"{row['auto_cpu_ms']:.1f}"),
    ("dense wall ms", lambda row: f"{row['dense_wall_ms']:.1f}"),
    ("auto wall ms", lambda row: f"{row['auto_wall_ms']:.1f}"),
    ("×", lambda row: f"{row['times_as_fast']:.2f}"),
    ("×, second half", lambda row: f"{row['times_as_fast_later']:.2f}"),
    (KEPT, _kept),
    ("strict", _strict),
    ("repeats", lambda row: _share(row["repeatability"])),
    ("place", lambda row: _share(row["place"])),
    ("truth F1 dense, auto", lambda row: truth_text(row) or NONE),
    (KEEP, lambda row: _skipping(row, "keep")),
    (FOLLOW, lambda row: _skipping(row, "follow")),
    ("windows held", _windows),
    ("auto chose", lambda row: choice_text(row["auto_chosen"])),
)
"""Columns of the table, and how each is written."""


def most_kept(row: Row) -> set[str]:
    """The columns, of the run's and those of skipping, that keep most; none if nothing is told."""
    if not row["telling"]:
        return set()
    kept = {KEPT: row["kept"]}
    for name, between in BETWEEN.items():
        best = best_skipping(row, between)
        if best is not None:
            kept[name] = best["kept"]
    most = max(kept.values())
    return {name for name, value in kept.items() if value >= most}


def render(record: dict[str, Any]) -> str:
    """The page as text. The record has at least one row."""
    rows = record["rows"]
    groups = []
    for name, held_out in (("that defaults were chosen with", False), ("held out", True)):
        group = [row for row in rows if (row["role"] == HELD_OUT) is held_out]
        if group:
            groups.append((name, len(group), mean_gain(group)))
    return page_template(PAGE).render(  # type: ignore[no-any-return]
        style=STYLE,
        rows=rows,
        threads=record["threads"],
        quality=f"{record['quality']:g}",
        system=record["machine"]["system"],
        python=record["machine"]["python"],
        summary=summary_text(rows, record["quality"]),
        groups=groups,
        chart=gains_svg(rows),
        columns=COLUMNS,
        title=lambda row: row["pair"] + (" *" if row["role"] == HELD_OUT else ""),
        best=most_kept,
    )


def write_html(record: dict[str, Any], path: Path) -> None:
    """Raises SinkError."""
    try:
        path.write_text(render(record), encoding="utf-8")
    except OSError as error:
        raise SinkError(f"{path}: the report cannot be written ({error.strerror})") from error
