"""Carries out a FilterRequest: frames from the source, through the effect, to standard output.

Loads no network code where the effect needs no model.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from stillframe.errors import UsageError
from stillframe.pipeline.cli import printing, signals
from stillframe.pipeline.cli.filter_request import STDOUT, FilterRequest
from stillframe.pipeline.filter.sink import FORMATS, FrameSink, OutputPipe
from stillframe.pipeline.filter.source import PlaneFrame, open_planes

if TYPE_CHECKING:
    from stillframe.pipeline.filter.effects import EffectSettings
    from stillframe.pipeline.inference.settings import Settings

Write = Callable[[PlaneFrame, FrameSink], None]
"""Takes a frame from the source to the sink."""


def execute(request: FilterRequest) -> None:
    """Run until the source ends or a signal. Raises StillframeError, Interrupted. Main thread."""
    effect = request.effect_settings()
    if request.jsonl == STDOUT:
        raise UsageError("--jsonl -: standard output carries the frames; name a file, or fd:3")
    model = request.model_name
    write: Write = _unchanged
    with signals.Stopping() as stopping, contextlib.ExitStack() as stack:
        pipe = OutputPipe(1, "standard output")
        if model is not None:
            settings = request.settings()
            request.check_records(model)
        frames = stack.enter_context(open_planes(request.source, matrix=request.matrix))
        if model is not None:
            write = stack.enter_context(_with_effect(request, model, effect, settings))
        sink = stack.enter_context(FORMATS[request.format_](pipe, frames.info))
        stopping.by(frames.stop)
        for frame in frames:
            write(frame, sink)


def _unchanged(frame: PlaneFrame, sink: FrameSink) -> None:
    sink.write(frame, frame.picture)


@contextlib.contextmanager
def _with_effect(
    request: FilterRequest, model_name: str, effect: "EffectSettings", settings: "Settings"
) -> Iterator[Write]:
    """Yields what applies the effect; prints a summary for people at the end."""
    from stillframe.pipeline.cli.fetching import load_model
    from stillframe.pipeline.cli.report import Report, summary
    from stillframe.pipeline.filter.filter import Filter
    from stillframe.pipeline.sinks.records import FilterJsonlSink
    from stillframe.pipeline.telemetry.run_stats import Tally

    # no bar: the terminal is shared with the programs on both ends of the pipe
    console = printing.PlainConsole(stderr=True, quiet=request.quiet, force_terminal=False)
    tally = Tally()
    with contextlib.ExitStack() as stack:
        model = load_model(console, model_name, request.card(), request.allow_sdist)
        effect_filter = stack.enter_context(
            Filter.from_settings(model, effect, settings, confidence=request.confidence)
        )
        records = None
        if request.jsonl is not None:
            records = FilterJsonlSink(request.jsonl, request.force, request.source)
            stack.enter_context(records)
        report = stack.enter_context(Report(console, None))
        ended = time.perf_counter()
        tally.start()

        def write(frame: PlaneFrame, sink: FrameSink) -> None:
            nonlocal ended
            read = time.perf_counter()
            picture = effect_filter.filter_planes(frame)
            treated = time.perf_counter()
            if records is not None:
                records.write_filtered(
                    frame.index, frame.time_s, effect_filter.result, effect_filter.hidden
                )
            sink.write(frame, picture)
            begun, ended = ended, time.perf_counter()
            if effect_filter.last_step is not None:
                model_ms = sum(effect_filter.last_step.spent_ms.values())
                spent_ms = {
                    "read": (read - begun) * 1e3,
                    "effect": (treated - read) * 1e3 - model_ms,
                    "write": (ended - treated) * 1e3,
                }
                tally.add(effect_filter.last_step, (ended - begun) * 1e3, spent_ms)
                report.tick(tally)

        yield write
    written = [] if request.records_file is None else [request.records_file]
    summary(console, tally, f"{effect.effect}, {model.name}", written)
