"""One stage of a pipeline: a function that its own thread calls for each item."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from stillframe.errors import StageError, StillframeError, UsageError
from stillframe.native_calls import GRACE_S, HANG_S, native_calls
from stillframe.pipeline.executor.channel import Channel, ClosedError, Policy
from stillframe.pipeline.executor.hardware.affinity import pin_thread
from stillframe.pipeline.executor.stage_meter import StageMeter

Work = Callable[[Any], Any]
DEADLINE_S = 120.0
SLOWER = 3.0
"""A stopped stage hangs only once an item takes so many times the usual."""
DEFAULT_QUEUE_SIZE = 2


_here = threading.local()
"""`meter`: of the stage that the calling thread runs."""


@contextlib.contextmanager
def deadline_suspended() -> Iterator[None]:
    """While a stage waits for another program, such as the reader of a pipe: that is no hang.

    Afterwards its deadline counts from the start. Outside of a stage it does nothing.
    """
    meter: StageMeter | None = getattr(_here, "meter", None)
    if meter is None:
        yield
        return
    meter.deadline_since = None
    try:
        yield
    finally:
        meter.deadline_since = time.perf_counter()


class Skip:
    """Returned by a stage to drop the item."""

    def __repr__(self) -> str:
        return "SKIP"


SKIP = Skip()


def _do_nothing() -> None:
    """The default `close`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A name and a function from one item to the next."""

    name: str
    work: Work
    """Called with each item in order, always in the same thread. Returns the next item or SKIP."""
    cores: frozenset[int] = frozenset()
    """Cores to pin the thread to; empty: not pinned."""
    deadline_s: float = DEADLINE_S
    """The longest that one item may take, without what it waits for the reader of a pipe."""
    room: int = DEFAULT_QUEUE_SIZE
    """Size of the queue before the stage."""
    policy: Policy = "block"
    """What happens when that queue is full: "block" waits, "newest" drops the oldest item."""
    close: Callable[[], None] = _do_nothing
    """Called in the stage's thread at the end, whatever happened."""

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("stage: expected a name, got an empty one")
        if not self.deadline_s > 0:
            raise UsageError(
                f"stage {self.name}: expected a deadline above 0 s, got {self.deadline_s}"
            )

    @classmethod
    def of(cls, work: "Stage | Work") -> "Stage":
        """The Stage itself, or a stage for a plain function, named after it."""
        if isinstance(work, Stage):
            return work
        if not callable(work):
            raise UsageError(f"stage: expected a Stage or a function, got {type(work).__name__}")
        return cls(getattr(work, "__name__", type(work).__name__), work)

    def on(self, cores: frozenset[int]) -> "Stage":
        """The same stage pinned to these cores."""
        return replace(self, cores=cores)


@dataclass(slots=True)
class StageItem:
    """An item on its way through the pipeline."""

    item: Any
    requested_s: float
    """Clock when the source was asked for the item."""
    read_s: float
    """Clock when the source returned it."""


class Worker:
    """The thread of one stage: reads from `inbox`, writes to `outbox`.

    on_failure: called with (stage's name, exception) when the stage fails. on_drop: called for each
    item that goes no further. nice: the niceness that the thread asks for.
    """

    def __init__(
        self,
        stage: Stage,
        inbox: Channel[StageItem],
        outbox: Channel[StageItem],
        on_failure: Callable[[str, BaseException], None],
        on_drop: Callable[[], None],
        nice: int = 0,
    ) -> None:
        self.stage, self.inbox, self.outbox = stage, inbox, outbox
        self.meter = StageMeter(stage.name)
        self._on_failure, self._on_drop, self._nice = on_failure, on_drop, nice
        self.thread = threading.Thread(
            target=self._run, name=f"stillframe-{stage.name}", daemon=True
        )

    def _run(self) -> None:
        _here.meter = self.meter
        try:
            configure_thread(self.meter, self.stage.cores, self._nice)
            try:
                self._serve()
            finally:
                self.stage.close()
        except ClosedError:
            pass
        except BaseException as error:
            self._on_failure(self.stage.name, error)
        self.outbox.end()

    def _serve(self) -> None:
        while self._process_item():
            pass

    def _process_item(self) -> bool:
        """Process one item; False at the end.

        A function of its own, so that its locals release the frame before the next wait.
        """
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
            self._on_drop()
            return True
        entry.item = item
        if self.outbox.put(entry) is not None:
            self._on_drop()
        return True

    @property
    def overdue_s(self) -> float:
        """Seconds by which the current item exceeds the deadline; 0 or less if it does not."""
        since = self.meter.deadline_since
        return 0.0 if since is None else time.perf_counter() - since - self.stage.deadline_s

    def hung_s(self, stopped_s: float) -> float:
        """Seconds that the current item has gone on since the stop if that is too long, else 0.

        Too long is GRACE_S in a run of a model, which can be ended, and HANG_S in anything else;
        for slow stages SLOWER times their usual item. stopped_s: monotonic time of the stop.
        """
        since = self.meter.deadline_since
        if since is None:
            return 0.0
        item_s = min(time.perf_counter() - since, time.monotonic() - stopped_s)
        if item_s < GRACE_S:
            return 0.0
        in_run = any(call.can_end for call in native_calls(self.thread.ident))
        usual_s = self.meter.percentiles()["p50"] / 1e3
        return item_s if item_s > max(GRACE_S if in_run else HANG_S, SLOWER * usual_s) else 0.0

    @property
    def waits_for_reader(self) -> bool:
        """Whether the current item waits for another program, see `deadline_suspended`."""
        return self.meter.busy_since is not None and self.meter.deadline_since is None


def configure_thread(meter: StageMeter, cores: frozenset[int], nice: int) -> None:
    """Pin the calling thread and lower its priority; the meter notes what was denied."""
    meter.thread = threading.get_native_id()
    if cores:
        result = pin_thread(cores)
        meter.cores, meter.note = result.cores, result.note
    if nice:
        try:
            os.setpriority(os.PRIO_PROCESS, meter.thread, nice)
        except OSError as error:
            meter.note = f"priority could not be lowered: {error.strerror}"


def with_stage_name(stage: str, error: BaseException) -> BaseException:
    """The exception to raise for a stage's failure; a StillframeError keeps its class."""
    if isinstance(error, BrokenPipeError):
        return error  # a reader that went away is a normal end
    message = " ".join(str(error).split())
    if isinstance(error, StillframeError):
        return type(error)(f"stage {stage}: {message}")
    return StageError(f"stage {stage}: {type(error).__name__}: {message}")
