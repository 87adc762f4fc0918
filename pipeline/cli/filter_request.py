"""All that the stream filter is asked for, whether by a command line or a program."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stillframe.errors import UsageError
from stillframe.pipeline.cli import options
from stillframe.pipeline.cli.options import STREAMS, WHAT
from stillframe.pipeline.media.redaction import MaskedAddress

if TYPE_CHECKING:  # heavy, and asking for help must not wait for it
    from stillframe.pipeline.filter.effects import EffectSettings

STDOUT, DESCRIPTOR = "-", "fd:"
RECORDS_MODEL = "centerface"
"""Finds things for --jsonl where the effect needs no model."""


@dataclass(frozen=True, kw_only=True)
class FilterRequest(options.ReuseOptions, options.ModelOptions):
    """What `stillframe filter` does. Each field is an option; its help text says what it means."""

    source: Annotated[
        str,
        typer.Argument(help="- for standard input: y4m or any container; or a file, sample:NAME."),
    ] = STDOUT
    effect: Annotated[
        Literal["boxes", "blur", "pixelate", "mask", "upscale", "none"],
        typer.Option(help="What is done to the picture.", rich_help_panel=WHAT),
    ] = "boxes"
    model: Annotated[
        str | None,
        typer.Option(
            help="Name from `models list`, or an .onnx file; default: one that suits the effect.",
            rich_help_panel=WHAT,
        ),
    ] = None
    confidence: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Drop detections with a lower score; default 0.2 for effects that hide.",
            rich_help_panel=WHAT,
        ),
    ] = None
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Only detections with these labels.", rich_help_panel=WHAT
        ),
    ] = None
    grow: Annotated[
        float,
        typer.Option(
            min=0,
            help="Enlarge each box by this share of its side, on every side.",
            rich_help_panel=WHAT,
        ),
    ] = 0.3
    shape: Annotated[
        Literal["oval", "box"], typer.Option(help="Shape that is hidden.", rich_help_panel=WHAT)
    ] = "oval"
    hold: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Keep a lost detection hidden for so long.",
            rich_help_panel=WHAT,
        ),
    ] = 0.5
    cells: Annotated[
        int,
        typer.Option(
            min=1, help="Blur and pixelate: cells across a hidden box.", rich_help_panel=WHAT
        ),
    ] = 6
    colour: Annotated[
        str, typer.Option(metavar="RRGGBB", help="Colour of mask.", rich_help_panel=WHAT)
    ] = "000000"
    allow_sdist: Annotated[
        bool, typer.Option("--allow-sdist", help=options.SDIST_HELP, rich_help_panel=WHAT)
    ] = False

    format_: Annotated[
        Literal["y4m", "rawvideo", "nut", "mpegts"],
        typer.Option("--format", help="Format of standard output.", rich_help_panel=STREAMS),
    ] = "y4m"
    matrix: Annotated[
        Literal["bt601", "bt709", "bt2020", "smpte240m", "fcc"] | None,
        typer.Option(
            help="Colour matrix, where the stream does not name one.", rich_help_panel=STREAMS
        ),
    ] = None
    jsonl: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|fd:N",
            help="What was found as JSON, one line per frame.",
            rich_help_panel=STREAMS,
        ),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite that file.", rich_help_panel=STREAMS)
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=STREAMS)
    ] = False

    threads: Annotated[
        int,
        typer.Option(
            min=0,
            help="Threads of the network; 0: one for each CPU but one, which is left to the "
            "programs at both ends of the pipe.",
            rich_help_panel=options.HOW,
        ),
    ] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", MaskedAddress(self.source))

    @property
    def model_name(self) -> str | None:
        """None: nothing needs a model."""
        from stillframe.pipeline.filter.effects import EFFECTS

        records = RECORDS_MODEL if self.jsonl is not None else None
        return self.model or EFFECTS[self.effect].model or records

    @property
    def records_file(self) -> str | None:
        """The file that --jsonl names; None where it names a descriptor, or is not given."""
        is_file = self.jsonl is not None and not self.jsonl.startswith(DESCRIPTOR)
        return self.jsonl if is_file else None

    def effect_settings(self) -> "EffectSettings":
        """Raises UsageError."""
        from stillframe.pipeline.filter.effects import EffectSettings

        classes = tuple(filter(None, (name.strip() for name in (self.classes or "").split(","))))
        return EffectSettings(
            self.effect, self.grow, self.shape, classes, self.hold, self.cells, _rgb(self.colour)
        )

    def stated(self) -> dict[str, Any]:
        """Without what belongs to the effect: which labels it applies to, from which score."""
        own = ("classes", "confidence")
        return {name: value for name, value in super().stated().items() if name not in own}

    def check_records(self, model: str) -> None:
        """Raises SinkError where the file that --jsonl names cannot be written."""
        from stillframe.pipeline.cli.outputs import Outputs

        if self.records_file is not None:
            paths = {"--jsonl": self.records_file}
            Outputs(paths, force=self.force, inputs=(self.source, model))

    def _thread_count(self) -> int:
        from stillframe.pipeline.inference.backends import available_threads

        return self.threads or max(1, available_threads() - 1)


def _rgb(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    try:
        red, green, blue = bytes.fromhex(digits)
    except ValueError:
        raise UsageError(f"--colour: expected RRGGBB such as 20a0ff, got {text!r}") from None
    return red, green, blue
