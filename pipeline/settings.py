"""How frames are analysed: the modes of reuse, one row each, and what a user may choose."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillframe.errors import UsageError
from stillframe.pipeline.engine import Engine, OnnxRuntimeEngine, ReuseEngine
from stillframe.reuse.change import GateSettings
from stillframe.reuse.profile import Profile

Reuse = Literal["off", "frame", "layer", "exact"]
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode of reuse. gate: how change is found, None: every frame is new. engine: what runs the
    network, given the model's file, a thread count and a tolerance. incremental: whether that
    engine keeps values between frames, so that it is fed the gate's reference. max_age_s: of those
    who name none; what is bit for bit the whole model does not age."""

    promise: str
    gate: GateSettings | None
    engine: Callable[[Path, int, float], Engine]
    incremental: bool = False
    max_age_s: float = 5.0


def _plain(path: Path, threads: int, tolerance: float) -> Engine:
    return OnnxRuntimeEngine(path, threads)


def _exact(path: Path, threads: int, tolerance: float) -> Engine:
    return ReuseEngine(path, threads)


MODES: dict[Reuse, Mode] = {
    "off": Mode("every frame goes through the whole model", None, _plain),
    "frame": Mode("an unchanged frame keeps its result", GateSettings(), _plain),
    "layer": Mode(
        "only what a change reaches is recomputed", GateSettings(), ReuseEngine, True, 60.0
    ),
    "exact": Mode(
        "as layer, bit for bit the whole model", GateSettings(exact=True), _exact, True, math.inf
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How frames are analysed.

    reuse: a row of MODES. max_age_s: a result that is older is computed anew (infinity: never for
    its age alone; None: the mode's own). In mode "layer" stripes are renewed all the time instead,
    so that nothing becomes so old. every: the network looks at each Nth frame, the others keep the
    last result. threads: of the network, 0: one a CPU. tolerance: of mode "layer": the share of a
    layer's own root mean square by which its values may stand still, see `ReuseSession`. profile:
    of mode "layer": a share for each layer and the gate's settings, instead of the tolerance.
    gating: how change is found, instead of the mode's or the profile's own; not of modes "off" and
    "exact".
    """

    reuse: Reuse = "frame"
    max_age_s: float | None = None
    every: int = 1
    threads: int = 0
    tolerance: float = TOLERANCE
    profile: Profile | None = None
    gating: GateSettings | None = None

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
        if self.every < 1:
            raise UsageError(f"every: expected 1 or more, got {self.every}")
        if self.threads < 0:
            raise UsageError(f"threads: expected 0 (one a CPU) or more, got {self.threads}")

    @property
    def age_limit_s(self) -> float:
        """The greatest age of what a result rests on, seconds."""
        return MODES[self.reuse].max_age_s if self.max_age_s is None else self.max_age_s

    @property
    def gate(self) -> GateSettings | None:
        """How change is found; None: every frame is new."""
        if self.gating is not None:
            return self.gating
        return self.profile.gate if self.profile is not None else MODES[self.reuse].gate

    def engine(self, path: Path) -> Engine:
        """What runs the network in that file."""
        if self.profile is not None:
            return ReuseEngine(path, self.threads, profile=self.profile)
        return MODES[self.reuse].engine(path, self.threads, self.tolerance)
