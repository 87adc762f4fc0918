"""The loop: the way of a frame from its pixels to a result.

    Frame ─fit─► picture at model size ─gate─► changed? ─yes─► feed ─backend─► decode ─► Result
                                                  └─no──► the last result, with its age

Three parts, each of which a stage of its own can run: `FramePolicy` decides, `BackendSlot` runs the
network, `ResultHolder` makes the result. `Runner` calls them one after the other. It is the only
loop: benchmarks, searches and probes drive it too, with an observer that sees every frame.
"""

from typing import Any

from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.models.model import Model
from stillframe.models.results import Evidence, Result
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import Backend
from stillframe.pipeline.inference.box_flow import BoxFollower
from stillframe.pipeline.inference.frame_policy import FramePolicy
from stillframe.pipeline.inference.observer import ObservedFrame, Observer
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.inference.types import StepResult, Task
from stillframe.pipeline.media.frame import Frame


class ResultHolder:
    """Makes each frame's result: of the network's outputs, or from the last one."""

    def __init__(self) -> None:
        self._last: Result | None = None
        """Of the network; None where later frames may not rest on it."""
        self._followed: Result | None = None
        """The same, its boxes where they were followed to since."""
        self._follower = BoxFollower()

    def computed(self, task: Task, outputs: list[NDArray[Any]]) -> StepResult:
        """The result of a frame that the network ran on."""
        assert task.view is not None
        task.stop_watch.start()
        result = task.model.decode(outputs, task.view)
        task.stop_watch.lap("decode")
        if task.partial:
            result = result.with_evidence(Evidence("partial", task.age_s))
        self._begin(result if task.reusable else None, task)
        change = task.change
        return StepResult(
            frame=task.frame,
            result=result,
            kind="computed",
            active=float(change.active) if change is not None else 1.0,
            changed=change.mask if change is not None and change.kind == "partial" else None,
            view=task.view,
            spent_ms=task.stop_watch.spent_ms,
        )

    def carried(self, task: Task) -> StepResult:
        """The last result for another frame; for a skipped one, boxes are followed to it."""
        assert self._last is not None
        assert self._followed is not None
        task.stop_watch.start()
        if task.kind == "unchanged":
            self._begin(self._last, task)
        elif task.kind == "skipped" and task.grey is not None:
            self._followed = self._follower.carry(task.grey, task.frame.image.shape)
            task.stop_watch.lap("follow")
        result: Any = self._followed.with_evidence(Evidence("reused", task.age_s))
        return StepResult(task.frame, result, task.kind, 0.0, None, None, task.stop_watch.spent_ms)

    def forget(self) -> None:
        """The last result stands for no later frame."""
        self._begin(None)

    def _begin(self, result: Result | None, task: Task | None = None) -> None:
        """Let later frames rest on the result, as it is in the task's frame."""
        self._last = self._followed = result
        if result is None:
            self._follower.forget()
        elif task is not None and task.grey is not None:
            self._follower.begin(result, task.grey)


class Runner(Closing):
    """Analyses the frames of one source in order, see `FramePolicy`. Not thread-safe.

    slot: owns the backend, instead of one that makes the settings' own. observer: takes what
    happened in each frame. study: what differs from a run; None: with an observer finer laps, else
    nothing.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings | None = None,
        *,
        slot: BackendSlot | None = None,
        observer: Observer | None = None,
        study: StudySettings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.slot = slot or BackendSlot.of(self.settings)
        self._observer = observer
        if study is None and observer is not None:
            study = StudySettings()
        self._policy = FramePolicy(model, self.settings, self.slot, study)
        self._results = ResultHolder()

    @property
    def model(self) -> Model:
        """At the size that suits the last frame."""
        return self._policy.model

    @property
    def backend(self) -> Backend | None:
        """What runs the network, once it has run; for its counters."""
        return self.slot.backend

    def __repr__(self) -> str:
        height, width = self.model.size
        return f"<Runner {self.model.name} {width}x{height}, reuse {self.settings.reuse}>"

    def close(self) -> None:
        """Give back the network's memory and threads. Calling it again does nothing."""
        self.slot.close()
        self._policy.close()
        self._results.forget()

    def reset(self) -> None:
        """Forget the frames so far: the next one is computed whole."""
        self._policy.forget()
        self._results.forget()

    def step(self, frame: Frame) -> StepResult:
        """The frame's result. Raises ModelError when the model cannot be run on it."""
        task = self._policy.decide(frame)
        outputs = None
        if task.kind != "computed":
            step = self._results.carried(task)
        else:
            try:
                outputs = self.slot.run(task)
                step = self._results.computed(task, outputs)
            except BaseException as error:
                self._policy.forget()  # there is no result that could stand for later frames
                if self._observer is not None:
                    self._observer(ObservedFrame(task, outputs, None, error))
                raise
        if self._observer is not None:
            self._observer(ObservedFrame(task, outputs, step))
        return step
