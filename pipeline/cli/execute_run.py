"""Carries out a RunRequest: opens everything, runs the pipeline, closes everything, reports."""

import contextlib
import json
import platform
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
from rich.console import Console

import stillframe
from stillframe.errors import SinkError
from stillframe.pipeline.cli import printing, signals
from stillframe.pipeline.cli.fetching import fetch_sample, load_model
from stillframe.pipeline.cli.report import Report, stage_table, summary
from stillframe.pipeline.cli.run_request import RunRequest
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.media.source import Source
from stillframe.pipeline.placement.planned_run import PlannedRun
from stillframe.pipeline.quality.audit import Audit
from stillframe.pipeline.sinks.sink import create_file, reason
from stillframe.pipeline.telemetry.exporter import Served, Telemetry
from stillframe.pipeline.telemetry.run_stats import Tally

LIVE: dict[str, bool | None] = {"auto": None, "block": False, "newest": True}
"""--policy -> whether only the newest frame counts; None: the source decides."""


def execute(request: RunRequest) -> None:
    """Run until the source ends, --max-frames, or a signal. Raises StillframeError, Interrupted.

    What can be known to fail fails before anything is fetched or computed. Main thread only.
    """
    settings, outputs = request.settings(), request.outputs()
    placement = request.placement()
    console = printing.people(request.quiet)
    own_stages = () if request.config is None else request.config.own_stages()
    audited = request.quality is not None
    tally = Tally()
    with signals.Stopping() as stopping:
        with contextlib.ExitStack() as stack:
            fetch_sample(console, request.source, request.allow_sdist)
            source = stack.enter_context(
                open_source(request.source, live=LIVE[request.policy], rate=request.fps)
            )
            model = load_model(
                console, request.model, request.task, request.confidence, request.allow_sdist
            )
            ends = stack.enter_context(
                outputs.opened(source.info, request.source, console, keeps_pixels=audited)
            )
            planned = PlannedRun(
                source,
                model,
                settings,
                placement,
                ends=ends,
                own=own_stages,
                draw=outputs.draw,
                keeps_pixels=outputs.are_drawn or audited,
                limit=request.max_frames,
                on_decision=_decision_report(console, request.explain_placement),
            )
            pipeline, analysis = planned.pipeline, planned.analysis
            telemetry = Telemetry(
                pipeline,
                tally,
                cache_bytes=lambda: analysis.cache_bytes,
                dropped=lambda: source.dropped,
                placement=planned,
            )
            if request.metrics_port is not None:
                served = stack.enter_context(Served(telemetry, request.metrics_port))
                console.print(f"metrics at {served.url}", highlight=False)
            frame_count = min(
                filter(None, (source.info.frame_count, request.max_frames)), default=None
            )
            report = stack.enter_context(
                Report(console, frame_count, partial(stage_table, telemetry))
            )
            audit = None
            if request.quality is not None:
                slot = analysis.slot
                audit = stack.enter_context(
                    Audit(request.quality, slot.steer, steerable=lambda: slot.steerable)
                )
            stack.enter_context(planned)
            stopping.by(pipeline.stop)
            tally.start()
            for step in pipeline:
                tally.add(step, pipeline.whole_ms, {"wait": pipeline.source_ms})
                if audit is not None:
                    audit.offer(step, analysis.model)
                report.tick(tally, frozen=source.frozen)
                planned.tick()
            stage_figures = telemetry.to_dict()
        if request.summary_json is not None:
            figures = _figures(analysis, source, tally, stopping.caught)
            if audit is not None:
                figures["audit"] = audit.report.to_dict()
            _write_json(Path(request.summary_json), figures, request.force)
        if request.metrics_json is not None:
            _write_json(Path(request.metrics_json), stage_figures, request.force)
        summary(console, tally, f"{analysis.model.name} on {source.info.spec}", outputs.written)
        if audit is not None:
            printing.plain(console, str(audit.report), wrap=True)


def _decision_report(console: Console, shown: bool) -> Callable[[str], None]:
    """What is called with each placement decision."""
    return partial(printing.plain, console) if shown else lambda line: None


def _figures(
    analysis: InferenceStages, source: Source, tally: Tally, signum: int | None
) -> dict[str, Any]:
    """What --summary-json holds: enough to tell two runs apart and to compare them."""
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
        "cadence": asdict(analysis.settings.frame_skipping),
        "profile": None if tuned is None else tuned.model_dump(mode="json", by_alias=True),
        "stopped_by": None if signum is None else signals.name(signum),
        "dropped": source.dropped,
        "damaged": source.skipped,
        "frozen": source.frozen,
        **tally.to_dict(),
    }


def _write_json(path: Path, figures: dict[str, Any], force: bool) -> None:
    try:
        with open(create_file(path, force), "w", encoding="utf-8") as file:
            file.write(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise SinkError(f"{path}: writing failed: {reason(error)}") from None
