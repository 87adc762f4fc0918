"""Where the results of a run go: files, pipes and a browser, opened and closed together."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from stillframe.errors import SinkError, UsageError
from stillframe.pipeline.cli.source_reporter import SourceReporter
from stillframe.pipeline.cli.writable import check_place
from stillframe.pipeline.executor.stage import Stage, deadline_suspended
from stillframe.pipeline.inference.stages import DrawnFrame, drawing, encoding
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.redaction import unmasked
from stillframe.pipeline.media.source import SourceInfo
from stillframe.pipeline.sinks.mjpeg_server import MjpegServer
from stillframe.pipeline.sinks.overlay import Overlay, render_step
from stillframe.pipeline.sinks.records import STDOUT, CsvSink, JsonlSink, LineSink, MotSink
from stillframe.pipeline.sinks.sink import Sink
from stillframe.pipeline.sinks.video import VideoSink

TEXTS: dict[str, type[LineSink]] = {"--jsonl": JsonlSink, "--csv": CsvSink, "--mot": MotSink}
"""Option -> the sink that writes lines or rows of text."""
VIDEO = "--out"


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of one run."""

    paths: dict[str, str]
    """By option; `-` is standard output."""
    overlay: Overlay = "boxes"
    show: bool = False
    """Serve the pictures to a browser."""
    force: bool = False
    """Overwrite files, except for inputs."""
    inputs: tuple[str, ...] = ()
    """What is read, and so is never written; those that are no files are ignored."""
    written: list[str] = field(default_factory=list)
    """Files that are complete, after the run."""

    def __post_init__(self) -> None:
        """Raises UsageError where outputs clash, SinkError where one exists: before any work."""
        option_of: dict[str, str] = {}
        for option, path in self.paths.items():
            place = path if path == STDOUT else os.path.abspath(path)
            if path == STDOUT and option not in TEXTS:
                raise UsageError(f"{option} -: only {' '.join(TEXTS)} can write to standard output")
            if place in option_of:
                raise UsageError(
                    f"{option_of[place]} and {option} both write {path}; name two places"
                )
            option_of[place] = option
            if path != STDOUT:
                self._check(Path(path))

    def _check(self, path: Path) -> None:
        """Raise SinkError for what can be known to fail before any work is done."""
        check_place(path)
        if not path.exists():
            return
        for source in map(unmasked, self.inputs):
            if os.path.isfile(source) and path.samefile(source):
                raise SinkError(f"{path}: this is read by the same run; name another file")
        if path.is_file() and not self.force:
            raise SinkError(f"{path}: there is such a file; overwrite it with --force")

    @property
    def are_drawn(self) -> bool:
        """Whether any output has pictures."""
        return VIDEO in self.paths or self.show

    @property
    def draw(self) -> Callable[[StepResult], NDArray[np.uint8]] | None:
        """Draws a step; None where no output has pictures."""
        return partial(render_step, overlay=self.overlay) if self.are_drawn else None

    @contextlib.contextmanager
    def opened(
        self,
        info: SourceInfo,
        spec: str,
        console: Console,
        *,
        keeps_pixels: bool = False,
        events: SourceReporter | None = None,
        figures: Callable[[], Mapping[str, str]] = dict,
    ) -> Iterator[tuple[Stage, Stage]]:
        """Yields the stages that draw and write; files are closed when the block ends.

        keeps_pixels: a frame's picture is read after these stages too. events: is given the sinks
        that hold changes of the source's state too. figures: what stands below the picture in the
        browser, name -> text.
        """
        with contextlib.ExitStack() as stack:
            sinks: list[Sink] = []
            if VIDEO in self.paths:
                sinks.append(stack.enter_context(self._video(info, spec)))
            for option, sink in TEXTS.items():
                if option in self.paths:
                    lines = stack.enter_context(sink(self.paths[option], self.force))
                    lines.while_blocked = deadline_suspended
                    sinks.append(lines)
            if events is not None:
                events.attach([each for each in sinks if isinstance(each, JsonlSink)])
            page = stack.enter_context(MjpegServer(figures=figures)) if self.show else None
            if page is not None:
                console.print(f"showing at {page.url}")

            def write(drawn: DrawnFrame) -> None:
                step = drawn.step
                for sink in sinks:
                    sink.write(step.frame, step.result, drawn.image)
                if page is not None and drawn.image is not None:
                    page.show(drawn.image)

            yield drawing(self.draw, keeps_pixels=keeps_pixels), encoding(write)
        self.written.extend(path for path in self.paths.values() if path != STDOUT)

    def _video(self, info: SourceInfo, spec: str) -> VideoSink:
        sound = spec if info.has_audio and info.kind in ("file", "sample") else None
        return VideoSink(self.paths[VIDEO], info=info, audio_from=sound, force=self.force)
