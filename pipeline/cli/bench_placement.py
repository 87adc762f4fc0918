"""stillframe bench placement: what placement gains on this machine, alone and under load."""

import datetime
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stillframe.errors import SinkError, UsageError
from stillframe.extras import install_command
from stillframe.pipeline.cli import options, printing
from stillframe.pipeline.media.redaction import MaskedAddress

LINES = (
    ("all cores", "each layer on all cores", "#9a8fb0"),
    ("static", "the first plan, unchanged", "#b8705b"),
    ("replanned", "the plan, adapted", "#3f8f6b"),
)
"""Rows of the chart of latencies: name in the results, label, colour."""

if TYPE_CHECKING:
    from collections.abc import Mapping


def bench_placement(
    model: Annotated[str, typer.Option(help=options.MODEL_HELP)] = "centerface",
    clip: Annotated[str, typer.Option(help="Source, as for run.")] = "sample:sports2d_demo",
    seconds: Annotated[
        float, typer.Option(min=1, help="How long each condition is measured.")
    ] = 15.0,
    reuse: Annotated[Literal["frame", "layer"], typer.Option(help="As for run.")] = "layer",
    settings: Annotated[
        int,
        typer.Option(
            min=0,
            max=10,
            help="Settings in which the planner's choice is compared with every candidate.",
        ),
    ] = 10,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures.")
    ] = None,
    chart: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the figures; needs the extra `plot`."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files.")] = False,
) -> None:
    """Compare one core and several, alone and under load, a static plan and one that adapts.

    The command starts and ends the background load, a video player among it. There are about 25
    conditions, each 5 to 12 s longer than --seconds, and some 20 for each of --settings. The clip's
    first 90 frames are repeated.
    """
    from stillframe.pipeline.studies.bench.background_load import is_there
    from stillframe.pipeline.studies.bench.placement import questions

    clip = MaskedAddress(clip)
    for path in (json_file, chart):
        if path is not None and path.exists() and not force:
            raise SinkError(f"{path}: there is such a file; overwrite it with --force")
    if chart is not None:
        plots()
    is_there(clip)
    console = printing.people()

    def on_event(line: str) -> None:
        printing.plain(console, line)

    def save(measured: dict[str, Any]) -> None:
        """Write what an interrupted benchmark leaves."""
        if json_file is not None:
            so_far = {"complete": False, "measured": measured}
            json_file.write_text(json.dumps(so_far, indent=2) + "\n", encoding="utf-8")

    results = questions(model, clip, seconds, reuse, settings, on_event, save)
    results["complete"] = True
    results["machine"] = {
        "system": platform.platform(),
        "date": datetime.date.today().isoformat(),
        "model": model,
        "clip": clip,
        "seconds": seconds,
    }
    text = json.dumps(results, indent=2)
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    if chart is not None:
        draw(results, chart)
    shown = {k: v for k, v in results.items() if k not in ("rows", "planner")}
    printing.data(json.dumps(shown, indent=2))


def plots() -> Any:
    """Matplotlib, drawing to files. Raises UsageError where it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UsageError(f"--chart needs Matplotlib: {install_command('plot')}") from error
    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt


def draw(results: "Mapping[str, Any]", path: Path) -> None:
    """Time per frame by way to run, p95 latency by load, frames dropped by the video player."""
    plt = plots()
    rows = results["rows"]
    figure, (speed, latency, drops) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    names = ["sequential", "one_core", *(n for n in rows if n.startswith("overlapped "))]
    speed.barh(names[::-1], [rows[n]["frame_ms"] for n in names[::-1]], color="#5b8db8")
    speed.set_xlabel("ms a frame")
    for name, words, colour in LINES:
        values = [rows[f"{name} {others}"]["latency_p95_ms"] for others in range(4)]
        latency.plot(range(4), values, "o-", color=colour, label=words)
    latency.set_xlabel("competing processes")
    latency.set_xticks(range(4))
    latency.set_ylabel("p95 latency, ms")
    latency.set_ylim(bottom=0)
    latency.legend(frameon=False)
    shares = results["dropped_by_playback"]
    drops.bar(
        ["nothing beside", "no cap", "--cpu-share 50%"],
        [100 * value for value in shares.values()],
        color=["#8f8f8f", "#b8705b", "#3f8f6b"],
        width=0.5,
    )
    drops.set_ylabel("% of a 30 fps video's frames dropped")
    for axes in (speed, latency, drops):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
