"""From a task to its result: decoded from the network's outputs, or carried over from the last."""

from typing import Any

from numpy.typing import NDArray

from stillframe.models.results import Detections, Evidence, Result
from stillframe.pipeline.inference.box_flow import BoxFollower
from stillframe.pipeline.inference.steering import FrameSteering
from stillframe.pipeline.inference.types import StepResult, Task


class ResultHolder:
    """Makes each frame's result: of the network's outputs, or from the last one.

    steering: told what skipping a computed frame would have given.
    """

    def __init__(self, steering: FrameSteering | None = None) -> None:
        self._steering = steering
        self._distance = 0
        """Frames since the last one whose result was computed, or stood unchanged."""
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
        elif task.age_s:
            result = result.with_evidence(Evidence("computed", task.age_s))
        if self._steering is not None:
            self._compare(self._steering, result, task)
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
            setting=task.setting,
            thread_ms=task.stop_watch.thread_ms,
        )

    def carried(self, task: Task) -> StepResult:
        """The last result for another frame; for a skipped one, boxes are followed to it."""
        assert self._last is not None
        assert self._followed is not None
        task.stop_watch.start()
        self._distance += 1
        if task.kind == "unchanged":
            self._begin(self._last, task)
        elif task.kind == "skipped" and task.grey is not None and self._follower.ready:
            self._followed = self._follower.carry(task.grey, task.frame.image.shape)
            task.stop_watch.lap("follow")
        result: Any = self._followed.with_evidence(Evidence("reused", task.age_s))
        return StepResult(
            task.frame,
            result,
            task.kind,
            0.0,
            None,
            None,
            task.stop_watch.spent_ms,
            setting=task.setting,
            thread_ms=task.stop_watch.thread_ms,
        )

    def _compare(self, steering: FrameSteering, computed: Result, task: Task) -> None:
        """Tell what the result would be, had the frame been skipped."""
        carried, distance = self._followed, self._distance + 1
        if carried is None or not task.reusable or not steering.wants_comparison(distance):
            return
        if not (_has_something(carried) or _has_something(computed)):
            return  # nothing could have been lost
        if steering.follows:
            if task.grey is None or not self._follower.ready:
                return
            carried = self._follower.carry(task.grey, task.frame.image.shape)
        steering.compare(carried, computed, distance, task.frame.clock_s)
        task.stop_watch.lap("follow")

    def forget(self) -> None:
        """The last result stands for no later frame."""
        self._begin(None)

    def _begin(self, result: Result | None, task: Task | None = None) -> None:
        """Let later frames rest on the result, as it is in the task's frame."""
        self._last = self._followed = result
        self._distance = 0
        if result is None or task is None or task.grey is None:
            self._follower.forget()
        else:
            self._follower.begin(result, task.grey)


def _has_something(result: Result) -> bool:
    """Whether there is anything that could be lost."""
    return not isinstance(result, Detections) or len(result) > 0
