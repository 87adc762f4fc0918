"""How frames are analysed: the modes of reuse, one row each, and what a user may choose."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillframe.errors import UsageError
from stillframe.models.model import Model
from stillframe.pipeline.inference.backends import Backend, Device, OnnxRuntimeBackend, ReuseBackend
from stillframe.pipeline.inference.frame_skipping import Between, FrameSkipping
from stillframe.pipeline.inference.types import DetailedStopWatch, StopWatch
from stillframe.reuse.gate.gate_settings import GateSettings

if TYPE_CHECKING:  # validated by pydantic, which is slow to import
    from stillframe.pipeline.inference.profile import TuningProfile

Reuse = Literal["auto", "off", "frame", "layer", "exact"]
TOLERANCE = 0.1
"""By default, in mode "layer"."""
QUALITY = 0.98
"""By default, in mode "auto"."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode of reuse."""

    promise: str
    """What it does, in one line."""
    gate: GateSettings | None
    """How change is detected; None: every frame is new."""
    incremental: bool = False
    """Whether the reuse engine runs the network and is fed the gate's reference; else ONNX Runtime
    does."""
    max_age_s: float = 5.0
    """By default. Results that are bit for bit those of the whole model do not age."""


MODES: dict[Reuse, Mode] = {
    "auto": Mode(
        "whatever costs least and holds the quality, chosen by measuring",
        GateSettings(),
        False,
        60.0,
    ),
    "off": Mode("every frame goes through the whole model", None),
    "frame": Mode("an unchanged frame keeps its result", GateSettings()),
    "layer": Mode("only what a change reaches is recomputed", GateSettings(), True, 60.0),
    "exact": Mode(
        "as layer, bit for bit the whole model", GateSettings(exact=True), True, math.inf
    ),
}


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What a study changes in the way of a frame, so that it measures one thing alone.

    A run has none of this.
    """

    frame_skipping: FrameSkipping | None = None
    """Which frames are skipped, instead of the settings' own."""
    scene_cuts: bool = True
    """Whether a skipped frame that begins another scene is computed after all."""
    run_unchanged: bool = False
    """Whether the network runs on unchanged frames too, to measure what they cost."""
    stop_watch: Callable[[], StopWatch] = DetailedStopWatch
    """Makes the stop watch of each frame."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How frames are analysed. Raises UsageError for values that do not go together."""

    reuse: Reuse = "frame"
    """A row of MODES."""
    max_age_s: float | None = None
    """The greatest age of what a result rests on; infinity: no limit; None: the mode's own. An
    older result is computed anew. In mode "layer" the rolling refresh keeps all values younger."""
    every: int | None = None
    """Frame skipping, see `FrameSkipping.every`; None: the profile's, or 1."""
    threads: int = 0
    """Of the network; 0: one a CPU."""
    tolerance: float = TOLERANCE
    """Of mode "layer": by which share of a layer's own root mean square its values may stay
    unchanged, see `ReuseSession`."""
    profile: "TuningProfile | None" = None
    """Of mode "layer", instead of the tolerance: a share for each layer, the gate's settings and
    frame skipping."""
    gating: GateSettings | None = None
    """How change is detected, instead of the mode's or the profile's own; not in modes "off" and
    "exact"."""
    islands: Device | None = None
    """Of modes "layer" and "exact": where the parts run that the reuse engine leaves to ONNX
    Runtime; None: on the CPU."""
    between: Between | None = None
    """See `FrameSkipping.between`; None: the profile's, or "keep"."""
    widen: bool = False
    """Whether the reuse engine computes quantised models in float32, see `ReuseSession`."""
    far: float = 1.0
    """Of mode "layer": by how many times the tolerance is larger where the last result has nothing
    near, see `Tolerance.far`. Mode "auto" sets its own."""
    quality: float = QUALITY
    """Of mode "auto": the least share of what is found that results keep, 0..1."""

    def __post_init__(self) -> None:
        if self.reuse not in MODES:
            raise UsageError(f"reuse: expected one of {', '.join(MODES)}, got {self.reuse!r}")
        if not 0 <= self.tolerance < 10:
            raise UsageError(f"tolerance: expected 0 .. 10, got {self.tolerance}")
        if not 1 <= self.far < 100:
            raise UsageError(f"far: expected 1 .. 100, got {self.far}")
        if self.max_age_s is not None and not self.max_age_s >= 0:
            raise UsageError(f"max age: expected 0 seconds or more, got {self.max_age_s}")
        if self.profile is not None and self.reuse != "layer":
            raise UsageError(f"a profile is of reuse 'layer', got one with reuse {self.reuse!r}")
        if self.gating is not None and self.reuse not in ("auto", "frame", "layer"):
            raise UsageError(
                f"gate settings are of reuse auto, frame and layer, got {self.reuse!r}"
            )
        if self.islands is not None and not MODES[self.reuse].incremental:
            raise UsageError(f"islands are of reuse layer and exact, got {self.reuse!r}")
        if not 0 < self.quality <= 1:
            raise UsageError(f"quality: expected more than 0 and at most 1, got {self.quality:g}")
        if self.threads < 0:
            raise UsageError(f"threads: expected 0 (one a CPU) or more, got {self.threads}")
        _ = self.frame_skipping  # checks itself

    @property
    def age_limit_s(self) -> float:
        """The greatest age of what a result rests on, seconds."""
        return MODES[self.reuse].max_age_s if self.max_age_s is None else self.max_age_s

    @property
    def share(self) -> float:
        """The tolerance of the reuse engine: 0 in mode "exact"."""
        return 0.0 if self.reuse == "exact" else self.tolerance

    @property
    def gate(self) -> GateSettings | None:
        """How change is detected; None: every frame is new."""
        if self.gating is not None:
            return self.gating
        return self.profile.gate if self.profile is not None else MODES[self.reuse].gate

    @property
    def frame_skipping(self) -> FrameSkipping:
        """Which frames are skipped: the profile's, overridden by the user. Raises UsageError."""
        skipping = self.profile.frame_skipping if self.profile is not None else FrameSkipping()
        if self.every is not None:  # then the profile's time limit does not apply either
            skipping = replace(skipping, every=self.every, within_s=None)
        return skipping if self.between is None else replace(skipping, between=self.between)

    @property
    def incremental(self) -> bool:
        """Whether `make_backend` makes incremental backends."""
        return MODES[self.reuse].incremental

    def suiting(self, model: Model) -> "Settings":
        """These settings for a model. In mode "auto" one with a state computes every frame: what a
        run measures of single frames says nothing of a network that remembers the others."""
        if self.reuse == "auto" and model.form.side.state:
            return replace(self, reuse="off", gating=None)
        return self

    def make_backend(self, path: Path) -> Backend:
        """The usual backend for a model's file. Raises ModelError."""
        if not self.incremental:
            return OnnxRuntimeBackend(path, self.threads)
        return self.make_reuse_backend(path, self.threads)

    def make_reuse_backend(self, path: Path, threads: int) -> ReuseBackend:
        """The reuse engine with another number of threads. Raises ModelError."""
        return ReuseBackend(
            path,
            threads,
            self.share,
            self.profile,
            self.islands,
            widen=self.widen,
            far=self.far,
        )
