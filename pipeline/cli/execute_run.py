"""Carries out a RunRequest: opens everything, runs the pipeline, closes everything, reports."""

import contextlib
from collections.abc import Callable
from functools import partial

from rich.console import Console

from stillframe.errors import StageError
from stillframe.pipeline.cli import printing, signals
from stillframe.pipeline.cli.fetching import fetch_sample, load_model
from stillframe.pipeline.cli.report import Report, stage_table, summary
from stillframe.pipeline.cli.run_audit import RunAudit
from stillframe.pipeline.cli.run_record import RunRecord
from stillframe.pipeline.cli.run_request import RunRequest
from stillframe.pipeline.cli.source_reporter import SourceReporter
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.media.source import Source
from stillframe.pipeline.placement.planned_run import PlannedRun
from stillframe.pipeline.quality.auto.controller import AutoController
from stillframe.pipeline.telemetry.exporter import Telemetry

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
    goal = request.audit_goal(settings)
    audited = goal is not None
    record = RunRecord(request)
    tally = record.tally
    events = SourceReporter(console)
    with signals.Stopping() as stopping, record.written_at_the_end(stopping):
        stopping.last_words = record.write
        with contextlib.ExitStack() as stack:
            fetch_sample(console, request.source, request.allow_sdist)
            retry_s = request.retry_s()
            source = stack.enter_context(
                open_source(
                    request.source,
                    live=LIVE[request.policy],
                    rate=request.fps,
                    retry_s=retry_s,
                    wait_for_first=retry_s != 0,
                    on_event=events,
                )
            )
            record.source = source
            model = load_model(console, request.model, request.card(), request.allow_sdist)
            if model.form.side.state:
                request.refuse_audits(model)
                settings, goal, audited = settings.suiting(model), None, False
            ends = stack.enter_context(
                outputs.opened(
                    source.info,
                    request.source,
                    console,
                    keeps_pixels=audited,
                    events=events,
                    figures=record.live_figures,
                )
            )
            auto = None
            if settings.reuse == "auto" and not placement.decides_backend:
                auto = stack.enter_context(AutoController(model, settings))
                record.auto = auto
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
                slot=None if auto is None else auto.slot,
                steering=auto,
            )
            pipeline, analysis = planned.pipeline, planned.analysis
            record.analysis = analysis
            telemetry = Telemetry(
                pipeline,
                tally,
                cache_bytes=lambda: analysis.cache_bytes,
                dropped=lambda: source.dropped,
                placement=planned,
                live=source if source.info.live else None,
            )
            if request.metrics_port is not None:
                from stillframe.pipeline.telemetry.prometheus import Served

                served = stack.enter_context(Served(telemetry, request.metrics_port))
                console.print(f"metrics at {served.url}")
            frame_count = min(
                filter(None, (source.info.frame_count, request.max_frames)), default=None
            )
            report = stack.enter_context(
                Report(console, frame_count, partial(stage_table, telemetry))
            )
            audit = None
            if goal is not None:
                steered = analysis.slot if request.quality is not None and auto is None else None
                steers = () if auto is None else (auto.on_audit,)
                lent = {} if auto is None else {"make_backend": auto.lent_onnx_runtime}
                audit = stack.enter_context(RunAudit(goal, steered, events.write, steers, **lent))
                record.audit = audit
                telemetry.audit = audit
            stack.enter_context(planned)
            stopping.by(pipeline.stop)
            tally.start()
            try:
                for step in pipeline:
                    tally.add(step, pipeline.whole_ms, {"wait": pipeline.source_ms})
                    if auto is not None:
                        auto.delivered(step)
                    if audit is not None:
                        audit.offer(step, analysis.model)
                    report.tick(tally)
                    planned.tick()
            except BrokenPipeError:  # after a signal, a reader that takes nothing is let go
                if stopping.caught is None:
                    raise
            except StageError as error:  # after a signal, a stage that hangs is left behind
                if stopping.caught is None or not pipeline.hung:
                    raise
                printing.complaint("warning", str(error))
            finally:
                if audit is not None:
                    audit.close()  # what is under way still counts
                record.stages = telemetry.to_dict()
        record.write(stopping.caught)
        title = f"{analysis.model.name} on {source.info.spec}"
        incidents = _incidents(source, pipeline.dropped)
        summary(console, tally, title, outputs.written, incidents, queued=not source.info.live)
        if auto is not None:
            printing.plain(console, str(auto), wrap=True)
        if audit is not None:
            printing.plain(console, str(audit.report), wrap=True)
            if request.fail_under is not None and stopping.caught is None:
                audit.check(request.fail_under)


def _incidents(source: Source, dropped: int) -> dict[str, tuple[int, str]]:
    """What happened to a source, for the table: label -> count and what it means."""
    return {
        "dropped": (source.dropped + dropped, "frames, for newer ones"),
        "reconnects": (source.reconnects, "after the source was lost"),
        "rebased": (source.rebased, "jumps of the time stamps, taken out"),
        "damaged": (source.skipped, "packets that gave no picture"),
    }


def _decision_report(console: Console, shown: bool) -> Callable[[str], None]:
    """What is called with each placement decision."""
    return partial(printing.plain, console) if shown else lambda line: None
