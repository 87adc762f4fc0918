"""The library's front door: results of a model on a video, one per frame."""

import contextlib
import inspect
import os
from collections.abc import Generator
from typing import Any, Literal, TypedDict, Unpack, overload

from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.names import suggestion
from stillframe.pipeline.inference.frame_skipping import Between
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Reuse, Settings
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import Source, open_source
from stillframe.pipeline.media.prefetch import Prefetcher

Spec = str | os.PathLike[str]
FRAMES_AHEAD = 2
"""Frames of a file that are decoded while the network computes."""


def read_ahead(source: Source) -> Prefetcher:
    """The source, read by a thread; one frame at a time where the newest one counts."""
    return Prefetcher(source, 0 if source.info.live else FRAMES_AHEAD)


class SettingsKwargs(TypedDict, total=False):
    """How `stream` analyses frames: the keyword arguments that it passes on to `Settings`."""

    reuse: Reuse
    max_age_s: float | None
    every: int | None
    between: Between | None
    threads: int
    tolerance: float
    profile: Spec | TuningProfile | None


# Two overloads, so that type checkers know what a stream yields.
@overload
def stream(
    source: Spec,
    model: str | os.PathLike[str] | Model = ...,
    *,
    with_frame: Literal[False] = False,
    task: str | None = ...,
    confidence: float | None = ...,
    **settings: Unpack[SettingsKwargs],
) -> Generator[Result, None, None]: ...
@overload
def stream(
    source: Spec,
    model: str | os.PathLike[str] | Model = ...,
    *,
    with_frame: Literal[True],
    task: str | None = ...,
    confidence: float | None = ...,
    **settings: Unpack[SettingsKwargs],
) -> Generator[tuple[Frame, Result], None, None]: ...
def stream(
    source: Spec,
    model: str | os.PathLike[str] | Model = "centerface",
    *,
    with_frame: bool = False,
    task: str | None = None,
    confidence: float | None = None,
    **settings: Unpack[SettingsKwargs],
) -> Generator[Result | tuple[Frame, Result], None, None]:
    """Run a model on a video: one result per frame, in order.

    source: a file, folder or pattern of pictures, camera, network address, `-` for standard input,
    or sample:NAME. model: a name from `stillframe models list`, the path of an .onnx file, or a
    Model from `stillframe.load`; weights are fetched on first use. with_frame: yield (frame,
    result) instead. task: what an .onnx file's outputs mean, where that is not recognised.
    confidence: drop detections with a lower score, 0..1; None: the model's own limit.

    How frames are analysed (see `Settings`), and the defaults:

    reuse="frame": what to reuse from earlier frames; "off", "frame", "layer" or "exact".
    max_age_s=None: seconds after which a result is renewed; None: as the mode needs.
    every=None: compute every Nth frame only; None: every one, or as the profile says.
    between=None: "keep" the last result of skipped frames, or let its boxes "follow" the picture.
    threads=0: of the network; 0: one for each CPU.
    tolerance=0.1: of mode "layer": how far a layer's values may drift, as a share of its magnitude.
    profile=None: of mode "layer": a TuningProfile, or the path of a file from `stillframe tune`.

    The generator owns a video file, a decoding thread and the network's threads. It releases them
    when it ends, is closed, or is dropped. Raises TypeError and UsageError at once, any other
    StillframeError when the first frame is asked for, or when something fails later.
    """
    for name in settings.keys() - SettingsKwargs.__annotations__:
        known = [*inspect.signature(stream).parameters, *SettingsKwargs.__annotations__]
        raise TypeError(
            f"stream() got an unexpected keyword argument {name!r}{suggestion(name, known)}"
        )
    values: dict[str, Any] = dict(settings)
    profile = values.get("profile")
    if profile is not None and not isinstance(profile, TuningProfile):
        values["profile"] = TuningProfile.read(profile)
    return _stream(source, model, with_frame, task, confidence, Settings(**values))


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
