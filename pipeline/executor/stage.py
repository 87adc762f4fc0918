"""One stage of a pipeline: a function with a thread of its own for its whole life."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stillframe.errors import StageError, StillframeError, UsageError
from stillframe.pipeline.executor.channel import Channel, ClosedError, Policy
from stillframe.pipeline.executor.hardware.affinity import pin_thread
from stillframe.pipeline.executor.stage_meter import StageMeter

Work = Callable[[Any], Any]
DEADLINE_S = 120.0
DEFAULT_QUEUE_SIZE = 2


class Skip:
    """What a stage returns instead of an item that is to go no further."""

    def __repr__(self) -> str:
        return "SKIP"


SKIP = Skip()


def _nothing() -> None:
    """A stage that has nothing to give back."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A name and a function from one item to the next.

    work: is called with each item in order, always in the same thread; returns the item for the
    next stage, or SKIP. cores: the thread is pinned to them; empty: it is not. deadline_s: seconds
    that an item may take. room: items that may wait before it; policy: see `Channel`. close: called
    in the stage's thread when all is over, whatever happened.
    """

    name: str
    work: Work
    cores: frozenset[int] = frozenset()
    deadline_s: float = DEADLINE_S
    room: int = DEFAULT_QUEUE_SIZE
    policy: Policy = "block"
    close: Callable[[], None] = _nothing

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("stage: expected a name, got an empty one")
        if not self.deadline_s > 0:
            raise UsageError(
                f"stage {self.name}: expected a deadline above 0 s, got {self.deadline_s}"
            )

    @classmethod
    def of(cls, work: "Stage | Work") -> "Stage":
        """A stage of a plain function, named after it."""
        if isinstance(work, Stage):
            return work
        if not callable(work):
            raise UsageError(f"stage: expected a Stage or a function, got {type(work).__name__}")
        return cls(getattr(work, "__name__", type(work).__name__), work)

    def on(self, cores: frozenset[int]) -> "Stage":
        return replace(self, cores=cores)


@dataclass(slots=True)
class StageItem:
    """An item. requested_s, read_s: the clock when the source was asked for it and gave it."""

    item: Any
    requested_s: float
    read_s: float


class Worker:
    """The thread of one stage: takes from `inbox`, hands to `outbox`.

    fault: told (stage's name, exception) when the stage fails. left: told of each entry that goes
    no further. nice: how far below others the thread asks to run.
    """

    def __init__(
        self,
        stage: Stage,
        inbox: Channel[StageItem],
        outbox: Channel[StageItem],
        fault: Callable[[str, BaseException], None],
        left: Callable[[], None],
        nice: int = 0,
    ) -> None:
        self.stage, self.inbox, self.outbox = stage, inbox, outbox
        self.meter = StageMeter(stage.name)
        self._fault, self._left, self._nice = fault, left, nice
        self.thread = threading.Thread(
            target=self._run, name=f"stillframe-{stage.name}", daemon=True
        )

    def _run(self) -> None:
        try:
            configure_thread(self.meter, self.stage.cores, self._nice)
            try:
                self._serve()
            finally:
                self.stage.close()
        except ClosedError:
            pass
        except BaseException as error:
            self._fault(self.stage.name, error)
        self.outbox.end()

    def _serve(self) -> None:
        while self._one():
            pass

    def _one(self) -> bool:
        """One item. Its names end with the call, so that no frame lives on while the next is
        waited for. False when there are no more."""
        try:
            entry = self.inbox.get()
        except ClosedError:
            return False
        self.meter.begin()
        item = self.stage.work(entry.item)
        self.meter.end()
        if item is None:
            raise StageError("returned nothing; return the item for the next stage, or SKIP")
        if item is SKIP:
            self._left()
            return True
        entry.item = item
        if self.outbox.put(entry) is not None:
            self._left()
        return True

    @property
    def overdue_s(self) -> float:
        """Seconds by which the item at hand has passed the deadline; 0 when it has not."""
        since = self.meter.busy_since
        return 0.0 if since is None else time.perf_counter() - since - self.stage.deadline_s


def configure_thread(meter: StageMeter, cores: frozenset[int], nice: int) -> None:
    """Pin the calling thread and lower its priority; the meter notes what came of it."""
    meter.thread = threading.get_native_id()
    if cores:
        held = pin_thread(cores)
        meter.cores, meter.note = held.cores, held.note
    if nice:
        try:
            os.setpriority(os.PRIO_PROCESS, meter.thread, nice)
        except OSError as error:
            meter.note = f"priority could not be lowered: {error.strerror}"


def with_stage_name(stage: str, error: BaseException) -> BaseException:
    """The exception to raise for a stage's failure: of the same kind where it is one of ours."""
    if isinstance(error, BrokenPipeError):
        return error  # a reader that went away is no fault
    words = " ".join(str(error).split())
    if isinstance(error, StillframeError):
        return type(error)(f"stage {stage}: {words}")
    return StageError(f"stage {stage}: {type(error).__name__}: {words}")
