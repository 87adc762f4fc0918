"""What a benchmark measures: a model on the first frames of a clip, under some conditions."""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stillframe import sample_videos
from stillframe.errors import SourceError, UsageError
from stillframe.models.card import ModelCard
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.media.redaction import MaskedAddress
from stillframe.reuse.gate.gate_settings import GateSettings

Image = NDArray[np.uint8]

SAMPLE = "sample:"
DEFAULT_RATE = 25  # frames a second, if the clip states none
WARM_UP = 3  # frames that run first and are not timed
MOST_BYTES = 1 << 30  # of decoded frames


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of every frame, pixels."""

    width: int
    height: int
    left: int = 0
    top: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`640x360+100+50`: width, height, and where its left upper corner lies (default 0, 0)."""
        match = re.fullmatch(r"(\d+)x(\d+)(?:\+(\d+)\+(\d+))?", text)
        sides = [int(each or 0) for each in match.groups()] if match else []
        if not sides or min(sides[:2]) < 1:
            raise UsageError(f"crop: expected WxH+X+Y, for example 640x360+100+50, got {text!r}")
        return cls(*sides)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}+{self.left}+{self.top}"

    def of(self, image: Image) -> Image:
        height, width = image.shape[:2]
        if self.left + self.width > width or self.top + self.height > height:
            raise UsageError(f"crop: expected a part of {width}x{height} pixels, got {self}")
        part = image[self.top : self.top + self.height, self.left : self.left + self.width]
        return np.ascontiguousarray(part)


@dataclass(frozen=True, slots=True)
class Case:
    """One model on one clip."""

    model: str
    clip: str
    frames: int = 100
    """How many are timed at most; warming up takes the first ones."""
    crop: Crop | None = None
    size: tuple[int, int] | None = None
    """(H, W) of the model's input; None: what suits the clip."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "clip", MaskedAddress(self.clip))

    def __str__(self) -> str:
        return f"{self.model} on {self.clip}" + (f" [{self.crop}]" if self.crop else "")


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for every case."""

    threads: int = 1
    tolerance: float = 0.1
    """Of reuse."""
    gate: GateSettings = field(default_factory=GateSettings)
    """Of reuse."""
    warm_up: int = WARM_UP
    """Frames that run first and are not timed."""
    allow_sdist: bool = False
    """Whether source distributions may be fetched."""
    confidence: float | None = None
    """Least score of detections; None: the model's own."""
    profile: TuningProfile | None = None
    """Of reuse, instead of tolerance and gate."""
    frame_skipping: FrameSkipping = field(default_factory=FrameSkipping)
    """Of reuse: which frames it does not compute."""
    stated: ModelCard | None = None
    """What is stated of every model, beside size and confidence; None: nothing."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise UsageError(f"threads: expected 1 or more, got {self.threads}")
        if not 0 <= self.tolerance < 100:
            raise UsageError(f"tolerance: expected 0 .. 100, got {self.tolerance}")


def decoded(case: Case, warm_up: int, allow_sdist: bool = False) -> list[Frame]:
    """The first frames of the clip, cut to the crop, all of one size, at most MOST_BYTES of them.

    Their times are even, and none is a corrupt one or follows a gap: every contender is to work
    alike, whatever became of the clip. Raises SourceError when not one is left to be timed.
    """
    if case.clip.startswith(SAMPLE):  # fetched here, where a source package may be allowed
        sample_videos.resolve(case.clip.removeprefix(SAMPLE), allow_sdist=allow_sdist)
    frames: list[Frame] = []
    size = 0
    with open_source(case.clip, live=False) as source:
        frame_time = 1 / Fraction(source.info.rate or DEFAULT_RATE)
        for index, frame in enumerate(islice(source, case.frames + warm_up)):
            image = case.crop.of(frame.image) if case.crop else frame.image
            size += image.nbytes
            if size > MOST_BYTES or (frames and image.shape != frames[0].image.shape):
                break
            frames.append(Frame(image, index, float(index * frame_time), index, frame_time))
    if len(frames) <= warm_up:
        raise SourceError(
            f"{case.clip}: expected more than the {warm_up} frames for warming up, "
            f"got {len(frames)}"
        )
    return frames
