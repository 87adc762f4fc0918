"""The loop for the library's front doors: a `Runner`, steered where the settings ask for that."""

from stillframe.closing import Closing
from stillframe.models.model import Model
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.quality.audit import Audit
from stillframe.pipeline.quality.auto.controller import AutoController


class SteeredRunner(Closing):
    """Analyses the frames of one source in order. Not thread-safe.

    In mode "auto" an `AutoController` chooses how and an `Audit` watches; in any other mode it is a
    plain `Runner`.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        self.settings = settings = settings.suiting(model)
        self.controller: AutoController | None = None
        self.audit: Audit | None = None
        if settings.reuse == "auto":
            self.controller = AutoController(model, settings)
            self.audit = Audit(
                settings.quality,
                [self.controller.on_audit],
                copies=True,
                make_backend=self.controller.lent_onnx_runtime,
            )
            self._runner = Runner(
                model, settings, slot=self.controller.slot, steering=self.controller
            )
        else:
            self._runner = Runner(model, settings)

    @property
    def model(self) -> Model:
        """At the size that suits the last frame."""
        return self._runner.model

    def __repr__(self) -> str:
        return repr(self._runner)

    def step(self, frame: Frame) -> StepResult:
        """The frame's result. Raises ModelError when the model cannot be run on it."""
        step = self._runner.step(frame)
        if self.controller is not None:
            self.controller.delivered(step)
        if self.audit is not None:
            self.audit.offer(step, self.model)
        return step

    def reset(self) -> None:
        """Forget the frames so far: the next one is computed whole."""
        self._runner.reset()

    def close(self) -> None:
        """Give back the network's memory and threads. Calling it again does nothing."""
        self._runner.close()
        if self.audit is not None:
            self.audit.close()
        if self.controller is not None:
            self.controller.close()
