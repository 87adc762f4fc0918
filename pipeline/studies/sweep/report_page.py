"""The report of a sweep: one HTML file that needs nothing else, light or dark as the reader has it.

write_html(sweep, spec, model, rows, path)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillframe.errors import SinkError
from stillframe.models.model import Model
from stillframe.pipeline.quality.repeatability import in_words
from stillframe.pipeline.studies.report_style import STYLE, needed, page_template
from stillframe.pipeline.studies.sweep import sweep as sweeping
from stillframe.pipeline.studies.sweep.doubts import (
    doubts,
    gains_text,
    hopeless,
    truth_text,
)
from stillframe.pipeline.studies.sweep.equal_compute import equal_compute, sentence
from stillframe.pipeline.studies.sweep.report_charts import (
    charts,
    quality_label,
    strict_label,
    write_png,
)
from stillframe.pipeline.studies.sweep.report_frames import Shown, frames
from stillframe.pipeline.studies.sweep.sweep import Row, Sweep
from stillframe.pipeline.studies.sweep.variants import VariantRow

__all__ = ["needed", "render", "write_html", "write_png"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ head.model }} on {{ head.clip }}: frame rate against quality</title>
<style>
{{ style|safe }}
.frames { display: grid; grid-template-columns: repeat(4, 1fr); gap: .5rem; margin: .4rem 0 1.2rem }
.frames figure { margin: 0 } .frames img { width: 100%; display: block; border-radius: 3px }
figcaption { font-size: 13px }
@media (max-width: 46rem) { .frames { grid-template-columns: repeat(2, 1fr) } }
</style></head><body>
<h1>{{ head.model }} on {{ head.clip }}</h1>
<p class="dim">{{ frames }} frames of {{ head.source_size[1] }}×{{ head.source_size[0] }}
{%- if head.rate %} at {{ "%.3g"|format(head.rate) }} per second{% endif %}, network input
{{ head.size[1] }}×{{ head.size[0] }}, {{ head.threads }} thread(s) each, {{ head.machine }},
{{ head.date }}.{% if not complete %} <b>The sweep was ended early.</b>{% endif %}</p>
<div class="answer">
{% if hopeless %}<p><b>No setting can be recommended from this clip</b>: {{ hopeless }}. Take one in
which more happens.</p>
{% elif best %}<p><b>{{ gains }}</b> ({{ "%.1f"|format(best.fps) }} fps), kept {{ quality(best) }}:
{{ best.title }}.</p>
<p><code>{{ command }}</code></p>
{% else %}<p>No setting of <code>stillframe run</code> keeps enough ({{ floor }} or more).</p>
{% endif %}
{% for each in cautions %}<p>Take it with caution: {{ each }}.</p>
{% endfor %}{% if truth %}<p>{{ truth }}</p>
{% endif %}</div>
<h2>Frame rate against quality</h2>
<p class="dim">Right and up is better. The line joins the variants that no other one beats in both.
Quality is {{ label }}, the share of what the same model says when everything is computed that a
user would not miss. Strict is {{ strict_label }} at a hard limit.
{%- if ceiling %} {{ ceiling }}{% endif %}</p>
{{ charts.pareto|safe }}
<div class="wide"><table>
<tr><th>variant</th>{% for name, _ in columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr{% if row.name in front %} class="best"{% endif %}>
<td title="{{ row.options or 'not an option of stillframe run' }}">{{ row.title }}</td>
{%- for _, cell in columns %}<td>{{ cell(row) }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% if nothing %}<p>Nothing was ever detected by the dense network, so boxes can only be invented:
quality is 1 where there are none, and average precision is not defined.</p>{% endif %}
{% if equal %}<h2>Reuse against skipping, at equal compute</h2>
<p>{{ verdict }}</p>
<p class="dim">How well each skipping variant agrees, and how well reuse does at the same cost: its
settings that no cheaper one beats are joined by straight lines. If even its dearest setting costs
less, that one counts; – if its cheapest costs more.</p>
<div class="wide"><table>
<tr><th></th><th></th><th></th>{% for _, name in figures %}<th colspan="3">{{ name }}</th>
{%- endfor %}</tr>
<tr><th>variant</th><th>CPU ms</th><th>work</th>{% for _ in figures %}<th>skipping</th>
<th>reuse, same CPU</th><th>same work</th>{% endfor %}</tr>
{% for row in equal %}<tr><td>{{ row.title }}</td><td>{{ "%.1f"|format(row.cpu_s * 1e3) }}</td>
<td>{{ "%.3f"|format(row.work) }}</td>
{%- for figure, _ in figures %}<td>{{ text(row, figure) }}</td>
{%- for cost in ("cpu_s", "work") %}{% set at = "reuse_" ~ figure ~ "_at_" ~ cost %}
<td{% if row.get(at) is not none and row.get(at) >= row.get(figure) %} class="best"{% endif %}>
{{- text(row, at) }}</td>{% endfor %}{% endfor %}</tr>
{% endfor %}</table></div>
{% endif %}{% if charts.timeline %}<h2>Where and when quality was lost</h2>
<p class="dim">What is kept in each frame, and the multiply-adds it took as a share of all.</p>
{{ charts.timeline|safe }}
{% endif %}{% for each in shown %}
<p><b>Frame {{ each.index }}</b>, {{ each.why }}: kept {{ "%.3f"|format(each.quality) }}, work
{{ "%.3f"|format(each.work) }}, {{ best_title }}</p>
<div class="frames">{% for name, address in each.pictures %}<figure><img src="{{ address }}"
alt="frame {{ each.index }}, {{ name }}"><figcaption>{{ name }}</figcaption></figure>{% endfor %}
</div>{% endfor %}
{% if shown %}<p class="dim">Recomputed: tinted where pixels were treated as new. Difference:
objects that were missed in red, invented ones in yellow, boxes that hover at the limit in grey;
masks where labels differ; pictures eight times louder.</p>
{% endif %}{% if charts.layers %}<h2>What each layer computes</h2>
<p class="dim">Share of a layer's positions that is computed in a frame, mean over the clip.</p>
{{ charts.layers|safe }}{% endif %}
<p class="dim">stillframe {{ head.versions.stillframe }}, ONNX Runtime
{{ head.versions.onnxruntime }}. Variants take turns frame by frame, a few at a time beside the
dense one, so that all meet the same disturbances. fps is the way from decoded picture to result.
CPU ms is processor time of a frame, over all threads. Stale is by how much results trail.</p>
</body></html>
"""


def _number(name: str, form: str, times: float = 1.0) -> Any:
    def cell(row: Row) -> str:
        value = row.get(name)
        return "–" if value is None else form.format(value * times)

    return cell


def quality_text(row: Row) -> str:
    return f"{row['quality']:.4f}"


def strict_text(row: Row) -> str:
    if row.get("strict") is None:
        return "–"
    return f"{row['strict']:.1f} dB" if row["kind"] == "psnr" else f"{row['strict']:.4f}"


COLUMNS: tuple[tuple[str, Any], ...] = (
    ("fps", _number("fps", "{:.1f}")),
    ("× fastest dense", _number("gain_fastest", "{:.2f}")),
    ("× ONNX Runtime", _number("gain_ort", "{:.2f}")),
    ("× own dense", _number("gain", "{:.2f}")),
    ("CPU ms", _number("cpu_s", "{:.1f}", 1e3)),
    ("work", _number("work", "{:.3f}")),
    ("kept", quality_text),
    ("strict", strict_text),
    ("mean IoU", _number("mean_iou", "{:.3f}")),
    ("missed/min", _number("missed_per_minute", "{:.1f}")),
    ("invented/min", _number("invented_per_minute", "{:.1f}")),
    ("AP50", _number("ap50", "{:.3f}")),
    ("by box", _number("ap50_by_box", "{:.3f}")),
    ("AP", _number("ap", "{:.3f}")),
    ("score shift", _number("score_shift", "{:.4f}")),
    ("border F", _number("border_f", "{:.4f}")),
    ("top 1", _number("top1", "{:.3f}")),
    ("rel. error", _number("relative_error", "{:.4f}")),
    ("stale s", _number("stale_s", "{:.3f}")),
    ("truth F1", _number("truth_f1", "{:.3f}")),
    ("truth AP50", _number("truth_ap50", "{:.3f}")),
)


# Of the table of equal compute, with titles.
FIGURES = (("quality", "kept"), ("ap50_by_box", "AP50, classes weighed by their boxes"))


def pick(sweep: Sweep) -> Row | None:
    """The fastest runnable variant that keeps enough; None also where the clip cannot tell."""
    return None if hopeless(sweep) else sweeping.fastest(sweep, sweeping.floor(sweep))


def illustrated(sweep: Sweep) -> Row | None:
    """Whose frames are shown: the picked one, else the best that reuses."""
    picked = pick(sweep)
    if picked is not None and picked["family"] not in ("dense", "every"):
        return picked
    reusing = [row for row in sweep.rows if row["family"] in ("profile", "reuse", "gate")]
    return max(reusing, key=lambda row: row["quality"], default=None)


def render(sweep: Sweep, shown: Sequence[Shown]) -> str:
    """The page as text."""
    best, pictured = pick(sweep), illustrated(sweep)
    columns = [
        (name, cell)
        for name, cell in COLUMNS
        if any(cell(row) != "–" for row in sweep.rows)
    ]  # fmt: skip
    page = page_template(PAGE)
    equal = equal_compute(sweep.rows)

    def text(row: Row, name: str) -> str:
        form = "{:.4f}" if "quality" in name else "{:.3f}"
        return _number(name, form)(row)  # type: ignore[no-any-return]

    return page.render(  # type: ignore[no-any-return]
        style=STYLE,
        equal=equal,
        verdict=sentence(sweep.rows),
        figures=[(name, title) for name, title in FIGURES if any(name in row for row in equal)],
        text=text,
        head=sweep.head,
        frames=max(row["frames"] for row in sweep.rows),
        complete=all(row["complete"] for row in sweep.rows),
        best=best,
        best_title=pictured["title"] if pictured else "",
        command=sweeping.command(sweep, best) if best else "",
        floor=f"{sweeping.floor(sweep):.4g}",
        gains="" if best is None else gains_text(best, sweeping.fastest_dense(sweep)),
        hopeless=hopeless(sweep),
        cautions=[each.text for each in doubts(sweep) if not each.hopeless],
        truth=truth_text(sweep, best),
        ceiling=in_words(sweep.repeatability),
        label=quality_label(sweep),
        strict_label=strict_label(sweep),
        charts={"timeline": "", "layers": ""} | charts(sweep),
        columns=columns,
        rows=sorted(sweep.rows, key=lambda row: -(row["gain"] or 0)),
        front={row["name"] for row in sweeping.front(sweep.rows)},
        quality=quality_text,
        nothing=any(row.get("boxes") == 0 for row in sweep.rows),
        shown=shown,
    )


def write_html(
    sweep: Sweep, spec: str, model: Model, rows: Sequence[VariantRow], path: Path
) -> None:
    """The report, with frames of the clip played once more. Raises SinkError."""
    row = illustrated(sweep)
    variants = {each.name: each for each in rows}
    shown = frames(sweep, spec, model, row, variants[row["name"]]) if row else []
    try:
        path.write_text(render(sweep, shown), encoding="utf-8")
    except OSError as error:
        raise SinkError(f"{path}: the report cannot be written ({error.strerror})") from error
