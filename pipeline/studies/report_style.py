"""What the pages of all studies share: style, template and charts that follow light and dark."""

import io
import re
from typing import Any

from stillframe.errors import UsageError
from stillframe.escaping import escaped
from stillframe.extras import install_command

INK = "#010203"
"""Of charts; becomes currentColor in the page."""

STYLE = """\
:root { --paper: #fff; --ink: #1c2127; --dim: #5c6570; --line: #d9dde2; --good: #e8590c1a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e9ed; --dim: #9aa4b0; --line: #333a42; --good: #e8590c33; }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.1rem; margin: 2.4rem 0 .4rem }
p { margin: .3rem 0; max-width: 48rem } .dim, figcaption { color: var(--dim) }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere }
.answer { border: 1px solid var(--line); border-left: 4px solid #e8590c; padding: .7rem 1rem;
  margin: 1rem 0; border-radius: 4px }
svg { width: 100%; height: auto; color: var(--ink) }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .22rem .55rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap }
th { font-weight: 600; color: var(--dim) } td:first-child, th:first-child { text-align: left }
tr.best, td.best { background: var(--good) }"""
"""Rules for the style element of a page, which needs no other file."""


def needed() -> None:
    """Raises UsageError where the packages for reports are not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"reports and charts need the package {error.name}: {install_command('report')}"
        ) from None


def figure_of(width: float, height: float) -> tuple[Any, Any]:
    """A Matplotlib figure of this size in inches and its axes, drawn in INK."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.rcParams |= {
        "font.family": "sans-serif", "font.size": 10, "svg.fonttype": "none",
        "svg.hashsalt": "stillframe", "text.color": INK, "text.parse_math": False,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
    }  # fmt: skip
    return pyplot.subplots(figsize=(width, height), layout="constrained")


def svg_of(figure: Any) -> str:
    """Inline SVG without a background, whose ink is the page's."""
    from matplotlib import pyplot

    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*pt" height="[^"]*pt"|<svg height="[^"]*pt"',
                   lambda m: m.group(1) or "<svg", svg, count=1)  # fmt: skip
    return svg.replace(INK, "currentColor")


def page_template(source: str) -> Any:
    """A Jinja template that escapes what it shows, control characters too; charts are `|safe`."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: escaped(value) if type(value) is str else value,  # no charts
    )
    return environment.from_string(source)
