"""The way of a frame from its pixels to a result, with whole frames reused where nothing changed.

    Frame ─fit─► picture at model size ─gate─► changed? ─yes─► feed ─engine─► decode ─► Result
                                                  └─no──► the previous result, with its age

What each mode of reuse does is one row of MODES.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import UsageError
from stillframe.models.model import Model, View
from stillframe.models.results import Evidence, Result
from stillframe.pipeline.engine import Engine, OnnxRuntimeEngine, ReuseEngine
from stillframe.pipeline.frame import Frame
from stillframe.reuse.change import ChangeGate, ChangeMap, GateSettings

Reuse = Literal["off", "frame", "layer", "exact"]
Kind = Literal["computed", "unchanged", "corrupt", "skipped"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TOLERANCE = 0.1
LOOK_EVERY_ROWS = 16
SURE_SHARE = 0.025
PARTS = ("fit", "gate", "infer", "decode")


@dataclass(frozen=True, slots=True)
class Mode:
    """A mode of reuse. gate: how change is found, None: every frame is new. engine: what runs the
    network, given the model's file, a thread count and a tolerance."""

    promise: str
    gate: GateSettings | None
    engine: Callable[[Path, int, float], Engine]


def _plain(path: Path, threads: int, tolerance: float) -> Engine:
    return OnnxRuntimeEngine(path, threads)


def _exact(path: Path, threads: int, tolerance: float) -> Engine:
    return ReuseEngine(path, threads)


MODES: dict[Reuse, Mode] = {
    "off": Mode("every frame goes through the whole model", None, _plain),
    "frame": Mode("an unchanged frame keeps its result", GateSettings(), _plain),
    "layer": Mode("only what a change reaches is recomputed", GateSettings(), ReuseEngine),
    "exact": Mode("as layer, bit for bit the whole model", GateSettings(exact=True), _exact),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How frames are analysed.

    reuse: a row of MODES. max_age_s: a result that is older is computed anew (infinity: never for
    its age alone). every: the network looks at each Nth frame, the others keep the last result.
    threads: of the network, 0: one a CPU. tolerance: of mode "layer": the share of a layer's own
    root mean square by which its values may stand still, see `ReuseSession`.
    """

    reuse: Reuse = "frame"
    max_age_s: float = 5.0
    every: int = 1
    threads: int = 0
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if self.reuse not in MODES:
            raise UsageError(f"reuse: expected one of {', '.join(MODES)}, got {self.reuse!r}")
        if not 0 <= self.tolerance < 10:
            raise UsageError(f"tolerance: expected 0 .. 10, got {self.tolerance}")
        if not self.max_age_s >= 0:
            raise UsageError(f"max age: expected 0 seconds or more, got {self.max_age_s}")
        if self.every < 1:
            raise UsageError(f"every: expected 1 or more, got {self.every}")
        if self.threads < 0:
            raise UsageError(f"threads: expected 0 (one a CPU) or more, got {self.threads}")


@dataclass(frozen=True, slots=True)
class Step:
    """One frame's result and what it took.

    kind: "computed" by the network; else the previous result, because the frame is "unchanged",
    "corrupt" or was to be "skipped". changed: (H, W) uint8 at the model's size, the pixels treated
    as new, valid until the next step; None when all or none of them are. active: their share, 0..1.
    spent_ms: milliseconds in each of PARTS that ran.
    """

    frame: Frame
    result: Result
    kind: Kind
    active: float
    changed: NDArray[np.uint8] | None
    view: View | None
    spent_ms: dict[str, float]


def surely_new(gate: ChangeGate, image: NDArray[np.uint8]) -> bool:
    """A twentieth of the gate's time tells that a frame has changed, where very much of it has.

    Where the whole network runs anyway, it need not be known which pixels are new. What counts
    here is above any noise that the gate may believe in.
    """
    apart = cv2.absdiff(image[::LOOK_EVERY_ROWS], gate.reference[::LOOK_EVERY_ROWS])
    levels = gate.settings.pixel * gate.settings.most_noise
    return int(np.count_nonzero(apart > levels)) > SURE_SHARE * apart.size


@dataclass(frozen=True, slots=True)
class _Held:
    """The last result that may stand for later frames. since_s: the oldest frame behind it."""

    result: Result
    since_s: float


@dataclass(slots=True)
class _Watch:
    """Milliseconds between calls, by what happened in between."""

    spent_ms: dict[str, float] = field(default_factory=dict)
    _at: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.spent_ms[part] = self.spent_ms.get(part, 0.0) + (now - self._at) * 1e3
        self._at = now


class Runner:
    """Analyses the frames of one source in order. Not safe to use from two threads.

    The model is fixed at the size that suits the frames, again whenever their size changes. A frame
    after a gap in the source starts afresh. A corrupt frame is answered with the previous result
    while that is young enough; after that it is computed, but nothing later rests on it.
    """

    def __init__(self, model: Model, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.model = model
        self._mode = MODES[self.settings.reuse]
        self._engine: Engine | None = None
        self._gate: ChangeGate | None = None
        self._shape: tuple[int, ...] = ()
        self._held: _Held | None = None
        self._count = 0

    def __repr__(self) -> str:
        height, width = self.model.size
        return f"<Runner {self.model.name} {width}x{height}, reuse {self.settings.reuse}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the network's memory and threads. Calling it again does nothing."""
        if self._engine is not None:
            self._engine.close()
        self._engine, self._gate, self._held, self._shape = None, None, None, ()

    def step(self, frame: Frame) -> Step:
        """The frame's result. Raises ModelError when the model cannot be run on it."""
        watch = _Watch()
        engine = self._suited(frame)
        if frame.discontinuity:
            self._forget()
        turn, self._count = self._count, self._count + 1
        held = self._held
        age_s = max(0.0, frame.time_s - held.since_s) if held else 0.0
        young = held is not None and age_s <= self.settings.max_age_s
        if held and turn % self.settings.every:
            return self._carried(frame, held, age_s, "skipped", watch)
        if held and frame.corrupt and young:
            return self._carried(frame, held, age_s, "corrupt", watch)

        fitted, view = self.model.fit(frame.image)
        watch.lap("fit")
        change = None
        if self._gate is not None and not frame.corrupt:
            if held and not engine.incremental and surely_new(self._gate, fitted):
                change = ChangeMap.full(*self.model.size, "far more than noise differs")
            else:
                if not young:
                    self._gate.reset()
                change = self._gate.step(fitted)
            watch.lap("gate")
            if held and change.kind == "unchanged":
                return self._carried(frame, held, age_s, "unchanged", watch)
            if engine.incremental:
                fitted = self._gate.reference
            else:  # the result will stand for all of this frame, so later ones compare with it
                np.copyto(self._gate.reference, fitted)
        outputs = engine.run(self.model.feed(fitted), change)
        watch.lap("infer")
        result = self.model.decode(outputs, view)
        watch.lap("decode")
        whole = change is None or change.kind == "all" or not engine.incremental
        since_s = frame.time_s if whole or not held else held.since_s
        if not whole:
            result = result.with_evidence(Evidence("partial", max(0.0, frame.time_s - since_s)))
        if frame.corrupt:
            self._forget()
        else:
            self._held = _Held(result, since_s)
        partly = change is not None and change.kind == "partial"
        return Step(
            frame=frame,
            result=result,
            kind="computed",
            active=float(change.active) if change is not None else 1.0,
            changed=change.mask if partly and change is not None else None,
            view=view,
            spent_ms=watch.spent_ms,
        )

    def _carried(self, frame: Frame, held: _Held, age_s: float, kind: Kind, watch: _Watch) -> Step:
        """The held result for another frame. The network is not touched."""
        result: Any = held.result.with_evidence(Evidence("reused", age_s))
        return Step(frame, result, kind, 0.0, None, None, watch.spent_ms)

    def _forget(self) -> None:
        """Nothing later rests on what was seen so far."""
        self._held = None
        if self._gate is not None:
            self._gate.reset()

    def _suited(self, frame: Frame) -> Engine:
        """The engine for frames of this size."""
        if self._engine is not None and frame.image.shape == self._shape:
            return self._engine
        self.close()
        height, width = frame.image.shape[:2]
        self.model = self.model.for_source(height, width)
        self._engine = self._mode.engine(
            self.model.path, self.settings.threads, self.settings.tolerance
        )
        if self._mode.gate is not None:
            self._gate = ChangeGate(*self.model.size, self._mode.gate)
        self._shape = frame.image.shape
        return self._engine
