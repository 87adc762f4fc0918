"""stillframe bench placement: what placing stages gains here, alone and beside others."""

import datetime
import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from stillframe.errors import SinkError, UsageError
from stillframe.extras import install_command

LINES = (
    ("all cores", "each layer on all cores", "#9a8fb0"),
    ("static", "the first plan, kept", "#b8705b"),
    ("replanned", "the plan, watched", "#3f8f6b"),
)

if TYPE_CHECKING:
    from collections.abc import Mapping


def bench_placement(
    model: Annotated[str, typer.Option(help="Name or .onnx file.")] = "centerface",
    clip: Annotated[str, typer.Option(help="A source, as for run.")] = "sample:sports2d_demo",
    seconds: Annotated[
        float, typer.Option(min=1, help="That each condition is measured for.")
    ] = 15.0,
    reuse: Annotated[Literal["frame", "layer"], typer.Option(help="As for run.")] = "layer",
    settings: Annotated[
        int,
        typer.Option(min=0, max=10, help="In which the planner is held against every candidate."),
    ] = 10,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures.")
    ] = None,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw them (extra `plot`).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files.")] = False,
) -> None:
    """One core and several, alone and beside others; a static plan and one that is watched.

    The processes that compete, and the video that plays, are started and ended by this command.
    There are about 25 conditions, of 5 to 12 s more than --seconds each, and some 20 for each of
    --settings. The clip's first 90 frames are played over and over.
    """
    from stillframe.pipeline.studies.bench.background_load import is_there
    from stillframe.pipeline.studies.bench.placement import questions

    for path in (json_file, chart):
        if path is not None and path.exists() and not force:
            raise SinkError(f"{path}: there is such a file; overwrite it with --force")
    if chart is not None:
        plots()
    is_there(clip)
    console = Console(stderr=True)

    def told(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def keep(measured: dict[str, Any]) -> None:
        """What an interrupted benchmark leaves."""
        if json_file is not None:
            so_far = {"complete": False, "measured": measured}
            json_file.write_text(json.dumps(so_far, indent=2) + "\n", encoding="utf-8")

    found = questions(model, clip, seconds, reuse, settings, told, keep)
    found["complete"] = True
    found["machine"] = {
        "system": platform.platform(),
        "date": datetime.date.today().isoformat(),
        "model": model,
        "clip": clip,
        "seconds": seconds,
    }
    text = json.dumps(found, indent=2)
    if json_file is not None:
        json_file.write_text(text + "\n", encoding="utf-8")
    if chart is not None:
        draw(found, chart)
    print(json.dumps({k: v for k, v in found.items() if k not in ("rows", "planner")}, indent=2))


def plots() -> Any:
    """Matplotlib, drawing to files. Raises UsageError where it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UsageError(f"--chart needs Matplotlib: {install_command('plot')}") from error
    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt


def draw(found: "Mapping[str, Any]", path: Path) -> None:
    """Time a frame by granularity, p95 latency by competitors, frames that playback dropped."""
    plt = plots()
    rows = found["rows"]
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
    shares = found["dropped_by_playback"]
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
