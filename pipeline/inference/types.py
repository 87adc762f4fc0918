"""What a frame becomes on its way: a `Task`, then a `StepResult`; and the stop watch of the way."""

import time
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model, View
from stillframe.models.results import Result
from stillframe.pipeline.inference.backends import BackendHandle
from stillframe.pipeline.inference.box_flow import Grey
from stillframe.pipeline.inference.steering import FrameSetting
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.gate.change_map import ChangeMap

Kind = Literal["computed", "unchanged", "corrupt", "skipped"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PARTS = ("fit", "gate", "infer", "decode", "follow")
WORKERS = "workers"
"""Key of `StopWatch.thread_ms`: of the threads that a backend's library has started, while it ran
the network; absent where that is not known."""
DETAILS = {"grey": "fit", "feed": "infer"}
"""Of an observed frame these laps are told apart from a part that else holds them: making the
picture that boxes are followed on, and making the network's input."""


@dataclass(slots=True)
class StopWatch:
    """Measures the parts of a frame's way, one after the other."""

    spent_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds by part."""
    thread_ms: dict[str, float] = field(default_factory=dict)
    """The same in processor time of the thread that took the lap: other programs do not count."""
    _at: float = field(default_factory=time.perf_counter)
    _thread_at: float = field(default_factory=time.thread_time)

    detailed: ClassVar[bool] = False
    """Whether laps of DETAILS are taken too."""

    def start(self) -> None:
        """Begin a part; the time since the last lap belongs to none."""
        self._at, self._thread_at = time.perf_counter(), time.thread_time()

    def lap(self, part: str) -> None:
        """End a part and begin the next one, in the same thread."""
        now, thread_now = time.perf_counter(), time.thread_time()
        self.spent_ms[part] = self.spent_ms.get(part, 0.0) + (now - self._at) * 1e3
        self.thread_ms[part] = self.thread_ms.get(part, 0.0) + (thread_now - self._thread_at) * 1e3
        self._at, self._thread_at = now, thread_now


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
    """What `FramePolicy` decided for one frame."""

    frame: Frame
    kind: Kind
    """"computed": the network runs on `fitted`; else why the last result stands."""
    model: Model
    """At the size that suits the frame."""
    stop_watch: StopWatch
    age_s: float = 0.0
    """Of the oldest frame that the result will rest on."""
    fitted: NDArray[np.uint8] | None = None
    """(H, W, 3) at the model's size. With an incremental backend the gate's reference, which the
    next decision overwrites. None unless computed."""
    change: ChangeMap | None = None
    """Which pixels of it are new; its mask is overwritten by the next decision too."""
    view: View | None = None
    """How `fitted` lies over the frame."""
    partial: bool = False
    """Whether the result will rest on earlier frames too."""
    reusable: bool = True
    """Whether the result may stand for later frames."""
    backend: BackendHandle | None = None
    """What is to run it; None unless computed."""
    grey: Grey | None = None
    """What boxes are followed on; None if none are."""
    setting: FrameSetting | None = None
    """What it is analysed with, in a run that is steered."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One frame's result and what it took."""

    frame: Frame
    result: Result
    kind: Kind
    """"computed" by the network; else the previous result, because the frame was "unchanged",
    "corrupt" or "skipped". In skipped frames boxes may have followed the picture."""
    active: float
    """Share of the pixels that were treated as new, 0..1."""
    changed: NDArray[np.uint8] | None
    """(H, W) at the model's size: 1 for those pixels, valid until the next step; None if all or
    none were."""
    view: View | None
    """How the model's picture lies over the frame; None unless computed."""
    spent_ms: dict[str, float]
    """Milliseconds in each of PARTS that ran."""
    setting: FrameSetting | None = None
    """What it was analysed with, in a run that is steered."""
    thread_ms: dict[str, float] = field(default_factory=dict)
    """As `spent_ms`, in processor time of the threads that did it: not of those that they wake,
    which WORKERS has where they are known."""
