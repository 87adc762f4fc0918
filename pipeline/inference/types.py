"""What is handed from part to part of a frame's way: first a task, in the end a step."""

import time
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model, View
from stillframe.models.results import Result
from stillframe.pipeline.inference.backends import BackendHandle
from stillframe.pipeline.inference.box_flow import Grey
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.gate.change_gate import ChangeMap

Kind = Literal["computed", "unchanged", "corrupt", "skipped"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PARTS = ("fit", "gate", "infer", "decode", "follow")
DETAILS = {"grey": "fit", "feed": "infer"}
"""Of an observed frame these laps are told apart from a part that else holds them: making the
picture that boxes are followed on, and making the network's input."""


@dataclass(slots=True)
class StopWatch:
    """Milliseconds between calls, by what happened in between."""

    spent_ms: dict[str, float] = field(default_factory=dict)
    _at: float = field(default_factory=time.perf_counter)

    detailed: ClassVar[bool] = False
    """Whether laps of DETAILS are taken too."""

    def start(self) -> None:
        """What lay before belongs to no part."""
        self._at = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.spent_ms[part] = self.spent_ms.get(part, 0.0) + (now - self._at) * 1e3
        self._at = now


class DetailedStopWatch(StopWatch):
    """Takes the laps of DETAILS apart from their part."""

    detailed = True


class ProcessorStopWatch(DetailedStopWatch):
    """Also takes the processor time of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu_ms: dict[str, float] = {}
        """As `spent_ms`, summed over all threads."""
        self._cpu_at = time.process_time()

    def start(self) -> None:
        super().start()
        self._cpu_at = time.process_time()

    def lap(self, part: str) -> None:
        super().lap(part)
        now = time.process_time()
        self.cpu_ms[part] = self.cpu_ms.get(part, 0.0) + (now - self._cpu_at) * 1e3
        self._cpu_at = now


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedFrame(Frame):
    """A frame that was fitted to the model beforehand, for studies that play it many times.

    Of `image` only the shape counts.
    """

    fitted: NDArray[np.uint8]
    """(H, W, 3) at the model's size."""
    view: View
    """How it lies over the frame."""
    grey: Grey | None = None
    """What boxes are followed on."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be done for one frame: what `Look` decided.

    kind: "computed": the network is to see `fitted`; else the last result stands, why. model: at
    the size that suits the frame. fitted: (H, W, 3) uint8 at that size, and change: what of it is
    new; both may be views that the next look overwrites. view: how it lies over the frame.
    age_s: of the oldest frame behind the result. partial: the result rests on earlier frames too.
    keeps: later frames may rest on the result. backend: what is to run it, where it is
    computed.
    grey: the picture that boxes are followed on, where they are.
    """

    frame: Frame
    kind: Kind
    model: Model
    watch: StopWatch
    age_s: float = 0.0
    fitted: NDArray[np.uint8] | None = None
    change: ChangeMap | None = None
    view: View | None = None
    partial: bool = False
    keeps: bool = True
    backend: BackendHandle | None = None
    grey: Grey | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """One frame's result and what it took.

    kind: "computed" by the network; else the previous result, because the frame is "unchanged",
    "corrupt" or was to be "skipped"; of these, boxes may have followed the picture. changed: (H, W)
    uint8 at the model's size, the pixels treated as new, valid until the next step; None when all
    or none of them are. active: their share, 0..1.
    spent_ms: milliseconds in each of PARTS that ran.
    """

    frame: Frame
    result: Result
    kind: Kind
    active: float
    changed: NDArray[np.uint8] | None
    view: View | None
    spent_ms: dict[str, float]
