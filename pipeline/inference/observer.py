"""What studies see of the loop: every frame, with the decision, the outputs and the laps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from stillframe.pipeline.inference.types import StepResult, Task


@dataclass(frozen=True, slots=True)
class ObservedFrame:
    """What happened in one frame. What is a view is valid until the next frame."""

    task: Task
    """What was decided, with the frame, its change map, and in `stop_watch.spent_ms` the laps."""
    outputs: list[NDArray[Any]] | None
    """Of the network; None if it did not run, or failed. Views if the backend is incremental."""
    result: StepResult | None
    """None: the network or its decoder failed."""
    error: BaseException | None = None
    """Why it failed. It is raised as soon as the observer returns."""


Observer = Callable[[ObservedFrame], None]
"""Called in the thread of the loop, once a frame. An error of its own ends the loop."""
