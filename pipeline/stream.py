"""The library's front door: results of a model on a video, one a frame."""

import contextlib
import os
from collections.abc import Generator
from typing import Literal, overload

from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.frame_skipping import Between
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import TOLERANCE, Reuse, Settings
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import Source, open_source
from stillframe.pipeline.media.prefetch import Prefetcher

Spec = str | os.PathLike[str]
FRAMES_AHEAD = 2


def read_ahead(source: Source) -> Prefetcher:
    """A file is decoded while the network computes; of a live source we want the newest frame."""
    return Prefetcher(source, 0 if source.info.live else FRAMES_AHEAD)


@overload
def stream(
    source: Spec,
    model: str | os.PathLike[str] | Model = ...,
    *,
    with_frame: Literal[False] = False,
    task: str | None = ...,
    confidence: float | None = ...,
    reuse: Reuse = ...,
    max_age_s: float | None = ...,
    every: int | None = ...,
    between: Between | None = ...,
    threads: int = ...,
    tolerance: float = ...,
    profile: Spec | TuningProfile | None = ...,
) -> Generator[Result, None, None]: ...


@overload
def stream(
    source: Spec,
    model: str | os.PathLike[str] | Model = ...,
    *,
    with_frame: Literal[True],
    task: str | None = ...,
    confidence: float | None = ...,
    reuse: Reuse = ...,
    max_age_s: float | None = ...,
    every: int | None = ...,
    between: Between | None = ...,
    threads: int = ...,
    tolerance: float = ...,
    profile: Spec | TuningProfile | None = ...,
) -> Generator[tuple[Frame, Result], None, None]: ...


def stream(
    source: Spec,
    model: str | os.PathLike[str] | Model = "centerface",
    *,
    with_frame: bool = False,
    task: str | None = None,
    confidence: float | None = None,
    reuse: Reuse = "frame",
    max_age_s: float | None = None,
    every: int | None = None,
    between: Between | None = None,
    threads: int = 0,
    tolerance: float = TOLERANCE,
    profile: Spec | TuningProfile | None = None,
) -> Generator[Result | tuple[Frame, Result], None, None]:
    """Run a model on a video: a result for each frame, in order.

    source: whatever `stillframe run` takes, see there. model: a name from `stillframe models list`,
    a path to an .onnx file, or what `zoo.load` gave. with_frame: yield (frame, result) instead.
    reuse: "off", "frame", "layer" or "exact"; it and what follows are those of `Settings`. profile:
    also a file that `stillframe tune` wrote. Weights are fetched on first use.

    The generator holds a video file, a decoding thread and the network's threads; all are given
    back when it ends, is closed, or is dropped. Raises StillframeError: UsageError at once, the
    others when the first frame is asked for, or when something breaks later.
    """
    if profile is not None and not isinstance(profile, TuningProfile):
        profile = TuningProfile.read(profile)
    settings = Settings(
        reuse=reuse,
        max_age_s=max_age_s,
        every=every,
        between=between,
        threads=threads,
        tolerance=tolerance,
        profile=profile,
    )
    return _stream(source, model, with_frame, task, confidence, settings)


def _stream(
    spec: Spec,
    model: str | os.PathLike[str] | Model,
    with_frame: bool,
    task: str | None,
    confidence: float | None,
    settings: Settings,
) -> Generator[Result | tuple[Frame, Result], None, None]:
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open_source(spec))
        runner = stack.enter_context(Runner(zoo.resolve(model, task, confidence), settings))
        for frame in stack.enter_context(read_ahead(source)):
            result = runner.step(frame).result
            yield (frame, result) if with_frame else result
