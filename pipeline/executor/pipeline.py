"""A source and stages that all run at the same time, each in its own thread."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from stillframe.closing import Closing
from stillframe.cores import cpu_quota
from stillframe.errors import SourceError, StageError, UsageError
from stillframe.native_calls import RunEndedError, abandon, end_native_calls
from stillframe.pipeline.executor.channel import Channel, ClosedError, InFlightLimit
from stillframe.pipeline.executor.hardware.affinity import PinResult, pin_thread
from stillframe.pipeline.executor.hardware.processors import Machine
from stillframe.pipeline.executor.hardware.topology import read_cores
from stillframe.pipeline.executor.stage import (
    Stage,
    StageItem,
    Work,
    Worker,
    configure_thread,
    with_stage_name,
)
from stillframe.pipeline.executor.stage_meter import RECENT, StageMeter

CLOSE_TIMEOUT_S = 5.0
_POLL_S = 0.05
SOURCE = "decode"


class StagePipeline(Closing):
    """A context manager that iterates over the items of its last stage.

        with StagePipeline(items, [shrink, count]) as pipeline:
            for item in pipeline: ...

    Items keep their order. If a stage raises, returns nothing or exceeds its deadline, everything
    ends at once and the error is raised here, with the stage's name. A SourceError is raised after
    the items before it. Leaving the `with` block ends every thread, and runs of a model that are in
    progress; a thread that hangs in foreign code cannot be ended and is named in a StageError.

    source: any iterable, or a function that opens one, called once all arguments are checked. It is
    read in the thread of a stage named "decode". If it has a `close`, that must unblock a reader in
    another thread. stages: `Stage`s, or plain functions from one item to the next. window: the most
    items in flight; 1 runs them one after the other. place: stage name -> processor, such as
    {"infer": "cpu:0-3"}. nice: the niceness of every thread. pace: called before each read; returns
    seconds to wait. limit: the most items to read.
    """

    whole_ms: float
    """Of the last item: from the request to the source until now."""
    source_ms: float
    """Of the last item: the part of `whole_ms` that the source took."""
    ages_ms: deque[float]
    """Of recent items: from being read to being delivered."""
    skipped: int
    """Items that a stage or a full queue dropped."""
    hung: tuple[str, ...]
    """Stages that were working on an item when they were stopped, and did not end in time."""

    def __init__(
        self,
        source: Iterable[Any] | Callable[[], Iterable[Any]],
        stages: Sequence[Stage | Work],
        *,
        window: int | None = None,
        place: Mapping[str, str] | None = None,
        nice: int = 0,
        pace: Callable[[], float] | None = None,
        limit: int | None = None,
    ) -> None:
        chain = [Stage.of(each) for each in stages]
        names = [SOURCE, *(stage.name for stage in chain)]
        if len(set(names)) < len(names):
            raise UsageError(f"pipeline: every stage needs a name of its own, got {names}")
        cores = _pinned_cores(place or {}, names)
        self._source_cores = cores.get(SOURCE, frozenset())
        self._nice, self._pace, self._limit = nice, pace, limit
        self.window = InFlightLimit(len(chain) + 2 if window is None else window)
        channels: list[Channel[StageItem]] = [Channel(each.room, each.policy) for each in chain]
        channels.append(Channel(2))
        self.channels = channels
        self.workers = []
        for stage, inbox, outbox in zip(chain, channels, channels[1:], strict=False):
            stage = stage.on(cores.get(stage.name, stage.cores))
            self.workers.append(Worker(stage, inbox, outbox, self._fail, self._drop, nice))
        self.source_meter = StageMeter(SOURCE)
        self.delivered = 0
        self.skipped = 0
        self.ages_ms = deque(maxlen=RECENT)
        self.source_ms = 0.0
        self.whole_ms = 0.0
        self.hung = ()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._ending = False
        """Whether runs in progress were ended: that they raise is no failure."""
        self._ended: set[str] = set()
        """Stages whose runs in progress were ended, so that their threads end soon."""
        self._abandoned: set[str] = set()
        """Stages whose threads are not waited for again."""
        self._stopped = threading.Event()
        self._stopped_s: float | None = None
        self._started = False
        self._thread = threading.Thread(target=self._read, name=f"stillframe-{SOURCE}", daemon=True)
        # last, so that wrong arguments leave nothing open
        self._source = source if isinstance(source, Iterable) else source()

    @property
    def meters(self) -> list[StageMeter]:
        """The meters of the source and of each stage, in order."""
        return [self.source_meter, *(worker.meter for worker in self.workers)]

    @property
    def depths(self) -> dict[str, int]:
        """Stage name -> items in the queue before it."""
        return {worker.stage.name: len(worker.inbox) for worker in self.workers}

    @property
    def dropped(self) -> int:
        """Items that full queues dropped for newer ones."""
        return sum(channel.dropped for channel in self.channels)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __iter__(self) -> Iterator[Any]:
        self._start()
        while True:
            try:
                entry = self.channels[-1].get(_POLL_S)
            except TimeoutError:
                self._check_deadlines()
                self._unblock_stopped_source()
                continue
            except ClosedError:
                self.close()
                if self._failure is not None:
                    raise self._failure from self._failure.__cause__
                return
            now = time.perf_counter()
            self.ages_ms.append((now - entry.read_s) * 1e3)
            self.whole_ms = (now - entry.requested_s) * 1e3
            self.source_ms = (entry.read_s - entry.requested_s) * 1e3
            self.delivered += 1
            item = entry.item
            del entry
            yield item
            del item
            self.window.release()

    def run(self) -> int:
        """Consume all items; -> how many there were."""
        with self:
            return sum(1 for _ in self)

    def place(self, stage: str, cores: frozenset[int]) -> PinResult:
        """Pin a running stage's thread to other cores."""
        meter = next(meter for meter in self.meters if meter.name == stage)
        result = (
            pin_thread(cores, meter.thread or None)
            if meter.thread
            else PinResult(0, cores, False, "ended")
        )
        meter.cores, meter.note = result.cores if cores else frozenset(), result.note
        return result

    def stop(self) -> None:
        """Read no more items; those in flight are still delivered. Safe in a signal handler.

        A reader of a pipe that takes nothing for CLOSE_TIMEOUT_S then counts as gone. A stage hangs
        if it works on one item for GRACE_S in a model's run, which is ended, or for HANG_S in
        anything else, and SLOWER times as long as usual: StageError is raised, see `hung`.
        """
        if self._stopped_s is None:
            self._stopped_s = time.monotonic()
        self._stopped.set()

    def close(self) -> None:
        """End every thread now. May be called twice."""
        self.stop()
        for channel in self.channels:
            channel.close()
        self.window.close()
        _close(self._source)
        if not self._started:
            return
        threads = dict(
            zip(
                [meter.name for meter in self.meters],
                [self._thread, *(worker.thread for worker in self.workers)],
                strict=True,
            )
        )
        self._end_calls()
        left = {worker.stage.name for worker in self.workers if worker.overdue_s > 0}
        left = (left | set(self.hung)) - self._ended | self._abandoned
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        for name, thread in threads.items():
            if thread is not threading.current_thread() and name not in left:
                thread.join(max(0.0, deadline - time.monotonic()))
        alive = [name for name, thread in threads.items() if thread.is_alive()]
        newly = [name for name in alive if name not in self._abandoned]
        for name in newly:
            self._abandoned.add(name)
            abandon(threads[name])
        if newly and self._failure is None:
            self.hung += tuple(newly)
            raise StageError(
                f"stage {', '.join(newly)}: did not end within {CLOSE_TIMEOUT_S:g} s "
                "of being closed"
            )

    # --- threads ----------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self._started:
            self._started = True
            for worker in self.workers:
                worker.thread.start()
            self._thread.start()

    def _read(self) -> None:
        """The source's thread."""
        meter, outbox = self.source_meter, self.channels[0]
        try:
            configure_thread(meter, self._source_cores, self._nice)
            items = iter(self._source)
            while self._may_read():
                requested_s = time.perf_counter()
                meter.begin()
                try:
                    item = next(items)
                except StopIteration:
                    meter.busy_since = None
                    self.window.release()
                    break
                meter.end()
                entry = StageItem(item, requested_s, time.perf_counter())
                del item
                if outbox.put(entry) is not None:
                    self._drop()
                del entry
        except ClosedError:
            pass
        except SourceError as error:  # the items before it are still delivered
            self._record_failure(error)
        except BaseException as error:
            self._fail(SOURCE, error)
        outbox.end()

    def _may_read(self) -> bool:
        if self._limit is not None and self.source_meter.items >= self._limit:
            return False
        if self._stopped.is_set() or not self.window.acquire() or self._stopped.is_set():
            return False
        wait_s = 0.0 if self._pace is None else self._pace()
        return wait_s <= 0 or self.window.sleep(wait_s)

    def _drop(self) -> None:
        self.skipped += 1
        self.window.release()

    def _record_failure(self, failure: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = failure

    def _fail(self, stage: str, error: BaseException) -> None:
        """End everything; the first failure is the one that is raised."""
        if self._ending and isinstance(error, RunEndedError):
            return
        failure = with_stage_name(stage, error)
        if failure is not error:
            failure.__cause__ = error
        self._record_failure(failure)
        self._stopped.set()
        for channel in self.channels:
            channel.close()
        self.window.close()
        self._end_calls()
        _close(self._source)

    def _end_calls(self) -> None:
        """End the runs of models in progress."""
        self._ending = True
        self._ended |= {each.stage.name for each in self.workers if end_native_calls(each.thread)}

    def _unblock_stopped_source(self) -> None:
        """Once stopped and with nothing else in flight, close a source that waits for an item."""
        waits = self.source_meter.busy_since is not None
        if self._stopped.is_set() and waits and self.window.in_use <= 1:
            _close(self._source)
            self.channels[0].end()

    def _check_deadlines(self) -> None:
        stopped_s = self._stopped_s
        waited_enough = stopped_s is not None and time.monotonic() - stopped_s > CLOSE_TIMEOUT_S
        for worker in self.workers:
            name = worker.stage.name
            if waited_enough and worker.waits_for_reader:
                self._fail(name, BrokenPipeError("its reader takes nothing"))
                return
            if stopped_s is not None and (hung_s := worker.hung_s(stopped_s)) > 0:
                self.hung += (name,)
                error = StageError(f"no answer {hung_s:.0f} s after the stop; its frame is lost")
                self._fail(name, error)
                return
            if worker.overdue_s > 0:
                limit = worker.stage.deadline_s
                error = StageError(f"no answer for {limit:g} s, its deadline; it is left behind")
                self._fail(name, error)
                return


def _close(source: Any) -> None:
    """Unblock a source that has a `close`; a plain iterator cannot be unblocked."""
    if hasattr(source, "close"):
        with contextlib.suppress(ValueError):  # a generator that runs in another thread
            source.close()


def _pinned_cores(place: Mapping[str, str], names: Sequence[str]) -> dict[str, frozenset[int]]:
    """Stage -> cores. Raises UsageError for a stage or processor that does not exist."""
    if not place:
        return {}
    machine, cores = Machine(read_cores(), cpu_quota()), {}  # stages run on cores, never on devices
    for name, text in place.items():
        if name not in names:
            raise UsageError(f"place: there is no stage {name!r}; there is {', '.join(names)}")
        cores[name] = machine.parse(text).cores
    return cores
