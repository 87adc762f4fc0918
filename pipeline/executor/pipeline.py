"""A pipeline: a source and stages, each in a thread of its own, all under way at the same time."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from stillframe.closing import Closing
from stillframe.errors import SourceError, StageError, UsageError
from stillframe.pipeline.executor.channel import Channel, ClosedError, InFlightLimit
from stillframe.pipeline.executor.hardware.affinity import PinResult, pin_thread
from stillframe.pipeline.executor.hardware.processors import Machine
from stillframe.pipeline.executor.hardware.topology import cpu_quota, read_cores
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
_LOOK_S = 0.05
SOURCE = "decode"


class StagePipeline(Closing):
    """Iterates over what comes out of the last stage; a context manager.

        with StagePipeline(items, [shrink, count]) as pipeline:
            for item in pipeline: ...

    source: any iterable, or a function that opens one once the arguments are known to be right; it
    is read in the thread of a stage called "decode". If it has a `close`, that must unblock a
    reader in another thread. stages: `Stage`s, or plain
    functions from one item to the next. window: items under way at once; 1: one after the other.
    place: stage -> a text such as "cpu:0". nice: how far below others all threads run. pace: asked
    before each item for seconds to wait. limit: items to read.

    Items keep their order. Where a stage raises, returns nothing or takes longer than its deadline,
    everything ends at once and the failure is raised here, with the stage's name. What a source
    raises is raised after the items before it. Leaving the `with` block ends every thread; one that
    hangs in foreign code cannot be ended and is named in the error.

    whole_ms, source_ms: of the item that came out last: milliseconds since the source was asked for
    it, and until the source gave it.
    """

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
        cores = _placed(place or {}, names)
        self._source_cores = cores.get(SOURCE, frozenset())
        self._nice, self._pace, self._limit = nice, pace, limit
        self.window = InFlightLimit(len(chain) + 2 if window is None else window)
        channels: list[Channel[StageItem]] = [Channel(each.room, each.policy) for each in chain]
        channels.append(Channel(2))
        self.channels = channels
        self.workers = []
        for stage, inbox, outbox in zip(chain, channels, channels[1:], strict=False):
            stage = stage.on(cores.get(stage.name, stage.cores))
            self.workers.append(Worker(stage, inbox, outbox, self._fail, self._left, nice))
        self.source_meter = StageMeter(SOURCE)
        self.delivered = 0
        self.skipped = 0
        self.ages_ms: deque[float] = deque(maxlen=RECENT)
        self.source_ms = 0.0
        self.whole_ms = 0.0
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._started = False
        self._thread = threading.Thread(target=self._read, name=f"stillframe-{SOURCE}", daemon=True)
        # last, so that wrong arguments leave nothing open
        self._source = source if isinstance(source, Iterable) else source()

    @property
    def meters(self) -> list[StageMeter]:
        """Of the source and of each stage, in order."""
        return [self.source_meter, *(worker.meter for worker in self.workers)]

    @property
    def depths(self) -> dict[str, int]:
        """Items that wait before each stage."""
        return {worker.stage.name: len(worker.inbox) for worker in self.workers}

    @property
    def dropped(self) -> int:
        """Items that gave way to newer ones in hand-offs."""
        return sum(channel.dropped for channel in self.channels)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __iter__(self) -> Iterator[Any]:
        self._start()
        while True:
            try:
                entry = self.channels[-1].get(_LOOK_S)
            except TimeoutError:
                self._look_for_hangs()
                self._end_a_wait()
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
        """Take everything out and throw it away; -> how many items came out."""
        with self:
            return sum(1 for _ in self)

    def place(self, stage: str, cores: frozenset[int]) -> PinResult:
        """Move a running stage's thread to other cores, and check that it is there."""
        meter = next(meter for meter in self.meters if meter.name == stage)
        held = (
            pin_thread(cores, meter.thread or None)
            if meter.thread
            else PinResult(0, cores, False, "ended")
        )
        meter.cores, meter.note = held.cores if cores else frozenset(), held.note
        return held

    def stop(self) -> None:
        """Read no more; what is under way comes out. Only sets a flag: a signal handler may."""
        self._stopped.set()

    def close(self) -> None:
        """End every thread now. Calling it again does nothing more."""
        self.stop()
        for channel in self.channels:
            channel.close()
        self.window.close()
        _close(self._source)
        if not self._started:
            return
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        threads = [self._thread, *(worker.thread for worker in self.workers)]
        hanging = {w.stage.name for w in self.workers if w.overdue_s > 0}
        for thread, name in zip(threads, [m.name for m in self.meters], strict=True):
            if thread is not threading.current_thread() and name not in hanging:
                thread.join(max(0.0, deadline - time.monotonic()))
        left = [m.name for m, t in zip(self.meters, threads, strict=True) if t.is_alive()]
        if left and self._failure is None:
            raise StageError(
                f"stage {', '.join(left)}: did not end within {CLOSE_TIMEOUT_S:g} s of being closed"
            )

    # --- inside -----------------------------------------------------------------------------------

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
                    self._left()
                del entry
        except ClosedError:
            pass
        except SourceError as error:  # what came before it is still worth having
            self._note(error)
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

    def _left(self) -> None:
        self.skipped += 1
        self.window.release()

    def _note(self, failure: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = failure

    def _fail(self, stage: str, error: BaseException) -> None:
        """The first failure ends everything."""
        failure = with_stage_name(stage, error)
        if failure is not error:
            failure.__cause__ = error
        self._note(failure)
        self._stopped.set()
        for channel in self.channels:
            channel.close()
        self.window.close()
        _close(self._source)

    def _end_a_wait(self) -> None:
        """Once stopped, with nothing else under way: what the source waits for is not wanted."""
        waits = self.source_meter.busy_since is not None
        if self._stopped.is_set() and waits and self.window.in_use <= 1:
            _close(self._source)
            self.channels[0].end()

    def _look_for_hangs(self) -> None:
        for worker in self.workers:
            if worker.overdue_s > 0:
                limit = worker.stage.deadline_s
                error = StageError(f"no answer for {limit:g} s, its deadline; it is left behind")
                self._fail(worker.stage.name, error)
                return


def _close(source: Any) -> None:
    """Unblock a source that can be; a plain iterator cannot."""
    if hasattr(source, "close"):
        with contextlib.suppress(ValueError):  # a generator that runs in another thread
            source.close()


def _placed(place: Mapping[str, str], names: Sequence[str]) -> dict[str, frozenset[int]]:
    """Cores by stage. Raises UsageError for stages and processors that are not there."""
    if not place:
        return {}
    machine, found = Machine(read_cores(), cpu_quota()), {}  # stages run on cores, never on devices
    for name, text in place.items():
        if name not in names:
            raise UsageError(f"place: there is no stage {name!r}; there is {', '.join(names)}")
        found[name] = machine.parse(text).cores
    return found
