"""The way of a frame from its pixels to a result, with whole frames reused where nothing changed.

    Frame ─fit─► picture at model size ─gate─► changed? ─yes─► feed ─engine─► decode ─► Result
                                                  └─no──► the previous result, with its age

Three parts, each of which a stage of its own can run: `FramePolicy` decides, `Network` computes,
`ResultHolder` makes results of it. `Runner` calls them one after the other.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.models.model import Model
from stillframe.models.results import Evidence, Result
from stillframe.pipeline.inference.backends import Backend, Feed
from stillframe.pipeline.inference.box_flow import BoxFollower
from stillframe.pipeline.inference.frame_policy import FramePolicy
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.types import StepResult, Task
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.gate.change_gate import ChangeMap

Run = Callable[[Feed, ChangeMap | None], list[NDArray[Any]]]


class Network:
    """Runs the model of each task; another engine is made when the pictures' size changes.

    make: an engine for a model's file. Not safe to use from two threads.
    """

    def __init__(self, make: Callable[[Path], Backend]) -> None:
        self._make = make
        self._engine: Backend | None = None
        self._shape: tuple[int, ...] = ()
        self._given = False

    @property
    def incremental(self) -> bool:
        """Whether the engine at hand overwrites its outputs with the next run."""
        return self._engine is not None and self._engine.incremental

    @property
    def cache_bytes(self) -> int:
        """What the engine at hand keeps from frame to frame."""
        return 0 if self._engine is None else self._engine.cache_bytes

    @property
    def engine(self) -> Backend | None:
        return self._engine

    def engine_for(self, task: Task) -> Backend:
        """What runs the task: what it names, else one made for pictures of its size."""
        shape = task.frame.image.shape
        if task.engine is not None:
            if task.engine is not self._engine:
                self.close()
        elif self._engine is None or shape != self._shape or self._given:
            self.close()
            self._engine = self._make(task.model.path)
        self._engine, self._given = task.engine or self._engine, task.engine is not None
        self._shape = shape
        assert self._engine is not None
        return self._engine

    def run(self, task: Task) -> list[NDArray[Any]]:
        """The outputs for a task to be computed; of an incremental engine valid until the next."""
        return self.timed(task, self.engine_for(task).run)

    @staticmethod
    def timed(task: Task, run: Run) -> list[NDArray[Any]]:
        """What an engine's function makes of the task; the task's watch takes the time."""
        assert task.fitted is not None
        task.watch.start()
        outputs = run(task.model.feed(task.fitted), task.change)
        task.watch.lap("infer")
        return outputs

    def close(self) -> None:
        """Give back the engine's memory and threads. Calling it again does nothing."""
        if self._engine is not None:
            self._engine.close()
        self._engine, self._shape = None, ()


class ResultHolder:
    """Makes a step of each task: of the network's outputs, or of the result that still stands."""

    def __init__(self) -> None:
        self._held: Result | None = None  # the network's last
        self._told: Result | None = None  # what it has become since, by following
        self._follower = BoxFollower()

    def computed(self, task: Task, outputs: list[NDArray[Any]]) -> StepResult:
        """The step of a task that the network ran."""
        assert task.view is not None
        task.watch.start()
        result = task.model.decode(outputs, task.view)
        task.watch.lap("decode")
        if task.partial:
            result = result.with_evidence(Evidence("partial", task.age_s))
        self._hold(result if task.keeps else None, task)
        change = task.change
        return StepResult(
            frame=task.frame,
            result=result,
            kind="computed",
            active=float(change.active) if change is not None else 1.0,
            changed=change.mask if change is not None and change.kind == "partial" else None,
            view=task.view,
            spent_ms=task.watch.spent_ms,
        )

    def carried(self, task: Task) -> StepResult:
        """The held result for another frame: for a skipped one, as far as it was followed."""
        assert self._held is not None
        assert self._told is not None
        task.watch.start()
        if task.kind == "unchanged":
            self._hold(self._held, task)
        elif task.kind == "skipped" and task.grey is not None:
            self._told = self._follower.carry(task.grey, task.frame.image.shape)
            task.watch.lap("follow")
        result: Any = self._told.with_evidence(Evidence("reused", task.age_s))
        return StepResult(task.frame, result, task.kind, 0.0, None, None, task.watch.spent_ms)

    def forget(self) -> None:
        self._hold(None)

    def _hold(self, result: Result | None, task: Task | None = None) -> None:
        self._held = self._told = result
        if result is None:
            self._follower.forget()
        elif task is not None and task.grey is not None:
            self._follower.begin(result, task.grey)


class Runner(Closing):
    """Analyses the frames of one source in order, see `FramePolicy`. Not thread-safe."""

    def __init__(self, model: Model, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._look = FramePolicy(model, self.settings)
        self._network = Network(self.settings.engine)
        self._answers = ResultHolder()

    @property
    def model(self) -> Model:
        """At the size that suits the last frame."""
        return self._look.model

    @property
    def engine(self) -> Backend | None:
        """What runs the network, once a frame has been there; for its counters."""
        return self._network.engine

    def __repr__(self) -> str:
        height, width = self.model.size
        return f"<Runner {self.model.name} {width}x{height}, reuse {self.settings.reuse}>"

    def close(self) -> None:
        """Give back the network's memory and threads. Calling it again does nothing."""
        self._network.close()
        self._look.close()
        self._answers.forget()

    def step(self, frame: Frame) -> StepResult:
        """The frame's result. Raises ModelError when the model cannot be run on it."""
        task = self._look.at(frame)
        if task.kind != "computed":
            return self._answers.carried(task)
        try:
            return self._answers.computed(task, self._network.run(task))
        except BaseException:
            self._look.forget()  # there is no result that could stand for later frames
            raise
