"""All that a run is asked for, whether by a command line, a configuration file or a program."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stillframe.errors import UsageError
from stillframe.pipeline.cli import options
from stillframe.pipeline.cli.options import IN, OUT, SHOWN, WHERE
from stillframe.pipeline.media.redaction import MaskedAddress

if TYPE_CHECKING:  # heavy, and asking for help must not wait for it
    from stillframe.models.model import Model
    from stillframe.pipeline.cli.config_file import RunConfig
    from stillframe.pipeline.cli.outputs import Outputs
    from stillframe.pipeline.inference.settings import Settings
    from stillframe.pipeline.placement.request import PlacementRequest

SOURCE = "sample:sports2d_demo"
MODEL = "centerface"
UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600}
"""Unit of --retry -> seconds."""


@dataclass(frozen=True, kw_only=True)
class RunRequest(options.ReuseOptions, options.ModelOptions):
    """What `stillframe run` does. Each field is an option; its help text says what it means."""

    source: Annotated[str, typer.Argument(help=options.SOURCE_HELP)] = SOURCE
    model: Annotated[str, typer.Option(help=options.MODEL_HELP, rich_help_panel=IN)] = MODEL
    fps: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Frame rate of a folder of pictures (default 25), and the one to ask a camera "
            "for.",
            rich_help_panel=IN,
        ),
    ] = None
    retry: Annotated[
        str | None,
        typer.Option(
            metavar="FOR",
            help="How long to try a lost camera or stream again, and one that is not there yet: "
            "90s, 5m, 2h; 0: not at all. Default: without limit.",
            rich_help_panel=IN,
        ),
    ] = None
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Stop after this many frames.", rich_help_panel=IN)
    ] = None
    allow_sdist: Annotated[
        bool, typer.Option("--allow-sdist", help=options.SDIST_HELP, rich_help_panel=IN)
    ] = False

    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Video with the results drawn in.", rich_help_panel=OUT),
    ] = None
    jsonl: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="JSON, one line per frame; - is standard output.",
            rich_help_panel=OUT,
        ),
    ] = None
    csv: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Table, one row per detection.", rich_help_panel=OUT),
    ] = None
    mot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="MOT text, one row per detection.", rich_help_panel=OUT),
    ] = None
    summary_json: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Figures of the whole run.", rich_help_panel=OUT),
    ] = None
    metrics_json: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Figures of each stage.", rich_help_panel=OUT),
    ] = None
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Serve these figures to Prometheus on this port of 127.0.0.1; 0: any free port.",
            rich_help_panel=OUT,
        ),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite outputs.", rich_help_panel=OUT)
    ] = False

    fail_under: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Exit with 8 unless audits of the run prove, at 95 %, that at least this share "
            "of what computing everything finds was kept, for example 0.98.",
            rich_help_panel=options.HOW,
        ),
    ] = None

    policy: Annotated[
        Literal["auto", "block", "newest"],
        typer.Option(
            help="block: process every frame; newest: skip to the newest one; auto: newest for "
            "cameras and network streams.",
            rich_help_panel=WHERE,
        ),
    ] = "auto"
    aim: Annotated[
        Literal["throughput", "latency", "share"] | None,
        typer.Option(
            help="Measure every way to run, take the best for this aim, and keep adapting.",
            rich_help_panel=WHERE,
        ),
    ] = None
    cpu_share: Annotated[
        str | None,
        typer.Option(
            metavar="50%",
            help="Take no more than this share of all cores; implies --aim share.",
            rich_help_panel=WHERE,
        ),
    ] = None
    place: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE=PROCESSOR,…",
            help="Pin stages yourself, for example infer=cpu:0-1,decode=cpu:1; see "
            "`stillframe devices`.",
            rich_help_panel=WHERE,
        ),
    ] = None
    explain_placement: Annotated[
        bool,
        typer.Option(
            "--explain-placement", help="Print a line for each decision.", rich_help_panel=WHERE
        ),
    ] = False
    config: "RunConfig | None" = None
    """Stages of the user's own, from a configuration file; its options are fields already."""

    overlay: Annotated[
        Literal["boxes", "changed", "none"],
        typer.Option(
            help="Draw results, results and what changed, or nothing.", rich_help_panel=SHOWN
        ),
    ] = "boxes"
    show: Annotated[
        bool, typer.Option("--show", help="Watch in a browser.", rich_help_panel=SHOWN)
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only.", rich_help_panel=SHOWN)
    ] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", MaskedAddress(self.source))

    def settings(self) -> "Settings":
        self._check_shares()
        settings = super().settings()
        if self.quality is not None and settings.reuse not in ("auto", "layer"):
            raise UsageError(f"--quality is of --reuse auto and layer, got {settings.reuse}")
        if settings.reuse == "auto" and self.placement().decides_backend:
            settings = replace(settings, reuse="layer")
        return settings

    def _check_shares(self) -> None:
        from stillframe.pipeline.quality.audited import check_quality

        for option, share in (("--quality", self.quality), ("--fail-under", self.fail_under)):
            if share is not None:
                check_quality(share, option)

    def audit_goal(self, settings: "Settings") -> float | None:
        """The least agreement that audits are to find; None: there are no audits."""
        if settings.reuse == "auto":
            return settings.quality
        return self.fail_under if self.quality is None else self.quality

    def refuse_audits(self, model: "Model") -> None:
        """Of a model with a state there are none. Raises UsageError where they were asked for."""
        for option, share in (("--quality", self.quality), ("--fail-under", self.fail_under)):
            if share is not None:
                raise UsageError(
                    f"{option}: expected a model without a state that is fed back, got "
                    f"{model.name}: a single frame of it cannot be computed again; leave it out"
                )

    def retry_s(self) -> float | None:
        """Seconds; None: without limit. Raises UsageError."""
        if self.retry is None:
            return None
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", self.retry.strip())
        if match is None:
            raise UsageError(f"--retry: expected a time such as 90s, 5m or 2h, got {self.retry!r}")
        return float(match[1]) * UNIT_S[match[2]]

    def outputs(self) -> "Outputs":
        """Raises UsageError where outputs clash, SinkError where one cannot be written."""
        from stillframe.pipeline.cli.outputs import Outputs

        paths = {
            "--out": self.out,
            "--jsonl": self.jsonl,
            "--csv": self.csv,
            "--mot": self.mot,
            "--summary-json": self.summary_json,
            "--metrics-json": self.metrics_json,
        }
        return Outputs(
            {option: path for option, path in paths.items() if path is not None},
            self.overlay,
            self.show,
            self.force,
            (self.source, self.model),
        )

    def placement(self) -> "PlacementRequest":
        """Raises UsageError."""
        from stillframe.pipeline.placement.cpu_budget import share_of
        from stillframe.pipeline.placement.request import PlacementRequest, parse_place

        return PlacementRequest(
            aim=self.aim or ("share" if self.cpu_share else None),
            share=share_of(self.cpu_share) if self.cpu_share else 0.0,
            place=parse_place(self.place) if self.place else {},
        )
