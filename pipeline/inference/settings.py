"""How frames are analysed: the modes of reuse, one row each, and what a user may choose."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from stillframe.errors import UsageError
from stillframe.pipeline.inference.backends import Backend, Device, OnnxRuntimeBackend, ReuseBackend
from stillframe.pipeline.inference.frame_skipping import Between, FrameSkipping
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.inference.types import DetailedStopWatch, StopWatch
from stillframe.reuse.gate.change_gate import GateSettings

Reuse = Literal["off", "frame", "layer", "exact"]
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode of reuse. gate: how change is found, None: every frame is new. incremental: whether
    our engine runs the network: it keeps values between frames and is fed the gate's reference;
    else ONNX Runtime does. max_age_s: of those who name none; what is bit for bit the whole model
    does not age."""

    promise: str
    gate: GateSettings | None
    incremental: bool = False
    max_age_s: float = 5.0


MODES: dict[Reuse, Mode] = {
    "off": Mode("every frame goes through the whole model", None),
    "frame": Mode("an unchanged frame keeps its result", GateSettings()),
    "layer": Mode("only what a change reaches is recomputed", GateSettings(), True, 60.0),
    "exact": Mode(
        "as layer, bit for bit the whole model", GateSettings(exact=True), True, math.inf
    ),
}


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What a study changes in the way of a frame, so that it measures one thing and no other.

    A run has none of this. Laps of DETAILS are taken apart, see `types`.
    """

    skipping: FrameSkipping | None = None
    """Which frames the network leaves out, instead of what the settings say."""
    scene_cuts: bool = True
    """Whether a skipped frame that begins another scene is computed after all."""
    run_unchanged: bool = False
    """Whether the network runs on unchanged frames too: what they cost is then measured."""
    stop_watch: Callable[[], StopWatch] = DetailedStopWatch
    """What takes the laps of each frame."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How frames are analysed.

    reuse: a row of MODES. max_age_s: a result that is older is computed anew (infinity: never for
    its age alone; None: the mode's own). In mode "layer" stripes are renewed all the time instead,
    so that nothing becomes so old. every, between: which frames the network leaves out, and what
    they are told, see `FrameSkipping`; None: what the profile says, or none. threads: of the
    network, 0: one a CPU. tolerance: of mode "layer": the share of a layer's own root mean square
    by which its values may stand still, see `ReuseSession`. profile: of mode "layer": a share for
    each layer, the gate's settings and the cadence, instead of the tolerance. islands: of modes
    "layer" and "exact": where what our engine leaves to ONNX Runtime is to run. gating: how change
    is found, instead of the mode's or the profile's own; not of modes "off" and "exact".
    """

    reuse: Reuse = "frame"
    max_age_s: float | None = None
    every: int | None = None
    threads: int = 0
    tolerance: float = TOLERANCE
    profile: TuningProfile | None = None
    gating: GateSettings | None = None
    islands: Device | None = None
    between: Between | None = None

    def __post_init__(self) -> None:
        if self.reuse not in MODES:
            raise UsageError(f"reuse: expected one of {', '.join(MODES)}, got {self.reuse!r}")
        if not 0 <= self.tolerance < 10:
            raise UsageError(f"tolerance: expected 0 .. 10, got {self.tolerance}")
        if self.max_age_s is not None and not self.max_age_s >= 0:
            raise UsageError(f"max age: expected 0 seconds or more, got {self.max_age_s}")
        if self.profile is not None and self.reuse != "layer":
            raise UsageError(f"a profile is of reuse 'layer', got one with reuse {self.reuse!r}")
        if self.gating is not None and self.reuse not in ("frame", "layer"):
            raise UsageError(f"gate settings are of reuse frame and layer, got {self.reuse!r}")
        if self.islands is not None and not MODES[self.reuse].incremental:
            raise UsageError(f"islands are of reuse layer and exact, got {self.reuse!r}")
        if self.threads < 0:
            raise UsageError(f"threads: expected 0 (one a CPU) or more, got {self.threads}")
        _ = self.cadence  # which checks itself

    @property
    def age_limit_s(self) -> float:
        """The greatest age of what a result rests on, seconds."""
        return MODES[self.reuse].max_age_s if self.max_age_s is None else self.max_age_s

    @property
    def share(self) -> float:
        """The tolerance of our engine: 0 in mode "exact"."""
        return 0.0 if self.reuse == "exact" else self.tolerance

    @property
    def gate(self) -> GateSettings | None:
        """How change is found; None: every frame is new."""
        if self.gating is not None:
            return self.gating
        return self.profile.gate if self.profile is not None else MODES[self.reuse].gate

    @property
    def cadence(self) -> FrameSkipping:
        """Which frames the network leaves out. Raises UsageError for one that makes no sense."""
        found = self.profile.cadence if self.profile is not None else FrameSkipping()
        if self.every is not None:  # the user's word; how long it takes is theirs too
            found = replace(found, every=self.every, within_s=None)
        return found if self.between is None else replace(found, between=self.between)

    @property
    def incremental(self) -> bool:
        """Whether `engine` makes incremental backends."""
        return MODES[self.reuse].incremental

    def engine(self, path: Path) -> Backend:
        """What runs the network in that file."""
        if not self.incremental:
            return OnnxRuntimeBackend(path, self.threads)
        return self.reuse_engine(path, self.threads)

    def reuse_engine(self, path: Path, threads: int) -> ReuseBackend:
        """Our engine, with another number of threads."""
        return ReuseBackend(path, threads, self.share, self.profile, self.islands)
