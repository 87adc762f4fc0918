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
from stillframe.pipeline.inference.settings import Reuse, Settings
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import Source, open_source
from stillframe.pipeline.media.prefetch import Prefetcher
from stillframe.pipeline.quality.auto.runner import SteeredRunner

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
    widen: bool
    profile: Spec | TuningProfile | None
    quality: float


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

    A corrupt frame is answered with the previous result and never used as evidence. A live source
    yields its newest frame, a file every frame. Weights are fetched on first use.

    A camera or stream that is lost is connected again, for two minutes, before SourceError is
    raised; `open_source(retry_s=…)` and a `Runner` of one's own take another time.

    Args:
        source: A file, a folder or pattern of images, a camera ("0", "/dev/video0"), an address
            (rtsp://, http://, udp:// …), "-" for standard input, or "sample:NAME".
        model: A name from `stillframe models list`, a path to an .onnx file, or a loaded `Model`.
            Default "centerface".
        with_frame: Yield (frame, result) instead of the result alone. Default False.
        task: What the outputs of an .onnx file mean, where that is not recognised. Default None.
        confidence: Least score of a detection, 0..1; None: the model's own. Default None.

    Keyword Args:
        quality: Of "auto": the least share of what the whole network finds that results keep,
            0..1. Default 0.98.
        reuse: "auto": whatever costs least and holds the quality, chosen by measuring. "off": every
            frame goes through the network. "frame": an unchanged frame keeps its result. "layer":
            only what a change reaches is computed. "exact": the same, bit for bit what the whole
            network gives. A tolerance or a profile implies "layer". Default "auto".
        max_age_s: Seconds after which a result is renewed, with "auto" and "layer" in stripes.
            None: 60, with "frame" 5, with "exact" never. Default None.
        every: Compute every Nth of the frames that change; in between the last result stays. None:
            what the profile says, or 1. Default None.
        between: "keep" the last result in those frames, or "follow": its boxes follow the picture.
            None: what the profile says, or "keep". Default None.
        threads: Threads of the network; 0: one for each CPU. Default 0.
        tolerance: Of "layer": how far a stored value may be from the computed one, as a share of
            its layer's root mean square. Default 0.1.
        widen: Whether the reuse engine computes a quantised model in float32. Default False.
        profile: Of "layer": a file that `stillframe tune` wrote, or a TuningProfile, instead of
            `tolerance`. Default None.

    The generator owns a video file, a decoding thread and the network's threads, and releases them
    when it ends, is closed, or is dropped.

    Raises:
        StillframeError: UsageError at once, the others when the first frame is asked for, or when
            something fails later.
        TypeError: At once, for an unknown keyword.
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
    if "reuse" not in values:
        values["reuse"] = "layer" if "tolerance" in values or profile is not None else "auto"
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
        runner = stack.enter_context(SteeredRunner(zoo.resolve(model, task, confidence), settings))
        for frame in stack.enter_context(read_ahead(source)):
            result = runner.step(frame).result
            yield (frame, result) if with_frame else result
