"""The loop: the way of a frame from its pixels to a result.

    Frame ─fit─► picture at model size ─gate─► changed? ─yes─► feed ─backend─► decode ─► Result
                                                  └─no──► the last result, with its age

Three parts, each of which a stage of its own can run: `FramePolicy` decides, `BackendSlot` runs the
network, `ResultHolder` makes the result. `Runner` calls them one after the other. It is the only
loop: benchmarks, searches and probes drive it too, with an observer that sees every frame.
"""

from stillframe.closing import Closing
from stillframe.models.model import Model
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import Backend
from stillframe.pipeline.inference.frame_policy import FramePolicy
from stillframe.pipeline.inference.observer import ObservedFrame, Observer
from stillframe.pipeline.inference.results import ResultHolder
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.inference.steering import FrameSteering
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame


class Runner(Closing):
    """Analyses the frames of one source in order, see `FramePolicy`. Not thread-safe.

    slot: owns the backend, instead of one that makes the settings' own. observer: takes what
    happened in each frame. study: what differs from a run; None: with an observer finer laps, else
    nothing. steering: decides how each frame is analysed, instead of the settings.
    """

    def __init__(
        self,
        model: Model,
        settings: Settings | None = None,
        *,
        slot: BackendSlot | None = None,
        observer: Observer | None = None,
        study: StudySettings | None = None,
        steering: FrameSteering | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.slot = slot or BackendSlot.of(self.settings)
        self._observer = observer
        if study is None and observer is not None:
            study = StudySettings()
        self._policy = FramePolicy(model, self.settings, self.slot, study, steering)
        self._results = ResultHolder(steering)

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
            if task.kind == "skipped":
                self.slot.attend(step.result, None)
        else:
            try:
                outputs = self.slot.run(task)
                step = self._results.computed(task, outputs)
                self.slot.attend(step.result, step.view)
            except BaseException as error:
                self._policy.forget()  # there is no result that could stand for later frames
                if self._observer is not None:
                    self._observer(ObservedFrame(task, outputs, None, error))
                raise
        if self._observer is not None:
            self._observer(ObservedFrame(task, outputs, step))
        return step
