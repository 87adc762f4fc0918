"""What --summary-json and --metrics-json hold, written however a run ends."""

import contextlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnxruntime

import stillframe
from stillframe.errors import SinkError, StillframeError
from stillframe.pipeline.cli import signals
from stillframe.pipeline.cli.run_audit import RunAudit
from stillframe.pipeline.cli.run_request import RunRequest
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.media.source import Source
from stillframe.pipeline.quality.auto.controller import AutoController
from stillframe.pipeline.sinks.sink import create_file, reason
from stillframe.pipeline.telemetry.run_stats import Tally


@dataclass(slots=True)
class RunRecord:
    """The figures of one run. What is None did not come about before the run ended."""

    request: RunRequest
    tally: Tally = field(default_factory=Tally)
    source: Source | None = None
    analysis: InferenceStages | None = None
    audit: RunAudit | None = None
    auto: AutoController | None = None
    stages: dict[str, Any] | None = None
    """Of the stages, when the last frame was done."""
    is_written: bool = False

    def live_figures(self) -> dict[str, str]:
        """What is known of quality and gain during the run, name -> text. Any thread may ask."""
        audit, auto = self.audit, self.auto
        figures = {} if audit is None else audit.report.live_figures()
        gain = None if auto is None else auto.gain
        return figures if gain is None else figures | {"gain": f"x{gain:.1f}"}

    @contextlib.contextmanager
    def written_at_the_end(self, stopping: signals.Stopping) -> Iterator[None]:
        """A block after whose failure the files are written too; the first error wins."""
        try:
            yield
        except BaseException as error:
            if not self.is_written:
                with contextlib.suppress(StillframeError):
                    self.write(stopping.caught, error)
            raise

    def write(self, signum: int | None, error: BaseException | None = None) -> None:
        """Write the files that were asked for. Raises SinkError."""
        self.is_written = True
        if isinstance(error, signals.Interrupted):
            signum, error = error.signum, None
        elif isinstance(error, BrokenPipeError):  # a reader that went away is a normal end
            error = None
        request = self.request
        if request.summary_json is not None:
            figures = self.to_dict(signum, error)
            _write_json(Path(request.summary_json), figures, request.force)
        if request.metrics_json is not None:
            _write_json(Path(request.metrics_json), self.stages or {}, request.force)

    def to_dict(self, signum: int | None, error: BaseException | None) -> dict[str, Any]:
        """What --summary-json holds: enough to tell two runs apart and to compare them."""
        return {
            "stillframe": stillframe.__version__,
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            **({} if self.source is None else {"source": self.source.info.to_dict()}),
            **({} if self.analysis is None else _of_analysis(self.analysis)),
            "stopped_by": None if signum is None else signals.name(signum),
            "error": None if error is None else " ".join(str(error).split()),
            **({} if self.source is None else _of_source(self.source)),
            **self.tally.to_dict(),
            **({} if self.auto is None else {"auto": self.auto.to_dict()}),
            **({} if self.audit is None else {"audit": self.audit.report.to_dict()}),
        }


def _of_analysis(analysis: InferenceStages) -> dict[str, Any]:
    model, settings = analysis.model, analysis.settings
    return {
        "model": {"name": model.name, "task": model.task, "size": list(model.size)},
        "settings": {
            name: value if value != float("inf") else None  # JSON has no infinity
            for name, value in asdict(replace(settings, profile=None)).items()
        },
        "cadence": asdict(settings.frame_skipping),
        "profile": None
        if settings.profile is None
        else settings.profile.model_dump(mode="json", by_alias=True),
    }


def _of_source(source: Source) -> dict[str, Any]:
    return {
        "dropped": source.dropped,
        "damaged": source.skipped,
        "rebased": source.rebased,
        "reconnects": source.reconnects,
        "frozen": source.frozen,
    }


def _write_json(path: Path, figures: dict[str, Any], force: bool) -> None:
    try:
        with open(create_file(path, force), "w", encoding="utf-8") as file:
            file.write(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise SinkError(f"{path}: writing failed: {reason(error)}") from None
