"""Every stage fails once: everything ends, and the error names the stage."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stillframe.cores import allowed_cores
from stillframe.errors import SinkError, SourceError, StageError, UsageError
from stillframe.native_calls import RunEndedError, hanging, native_call, native_calls
from stillframe.pipeline.executor import pipeline as pipeline_module
from stillframe.pipeline.executor import stage as stage_module
from stillframe.pipeline.executor.channel import InFlightLimit
from stillframe.pipeline.executor.hardware.affinity import cores_of
from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.executor.stage import SKIP, Stage, deadline_suspended
from tests.hang_guard import HANGS_S, ends

NAMES = ("preprocess", "infer", "postprocess", "draw", "encode")
WAIT_S = 5.0


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + WAIT_S
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(threading.enumerate()) <= before


def plus(item: int) -> int:
    return item + 1


def chain(at: str = "", work: Callable[[Any], Any] = plus, **options: Any) -> list[Stage]:
    """Five stages that each add one; the one `at` does `work`."""
    return [Stage(n, work if n == at else plus, **(options if n == at else {})) for n in NAMES]


def fails_at_five(item: int) -> int:
    if item >= 5:
        raise ValueError("five\nis too many")
    return item + 1


class Endless:
    """A source of numbers that only `close` ends, like a camera."""

    def __init__(self, blocks_at: int | None = None) -> None:
        self.closed = threading.Event()
        self.taken = 0
        self.blocks_at = blocks_at

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self.taken == self.blocks_at:
            self.closed.wait(WAIT_S)
        if self.closed.is_set():
            raise StopIteration
        self.taken += 1
        return self.taken - 1

    def close(self) -> None:
        self.closed.set()


def test_items_pass_every_stage_in_order() -> None:
    with StagePipeline(range(50), chain()) as pipeline:
        assert list(pipeline) == list(range(5, 55))
    assert [meter.items for meter in pipeline.meters] == [50] * 6
    assert pipeline.delivered == 50
    assert pipeline.window.in_use == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_that_raises_ends_everything_and_is_named(name: str) -> None:
    source = Endless()
    message = f"^stage {name}: ValueError: five is too many$"
    with (
        pytest.raises(StageError, match=message) as caught,
        StagePipeline(source, chain(name, fails_at_five)) as pipeline,
    ):
        list(pipeline)
    assert isinstance(caught.value.__cause__, ValueError)
    assert source.closed.is_set()
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_that_returns_nothing_is_named(name: str) -> None:
    with pytest.raises(StageError, match=rf"^stage {name}: returned nothing; return the item"):
        StagePipeline(Endless(), chain(name, lambda item: None)).run()


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_that_hangs_is_abandoned_and_named(name: str) -> None:
    freed = threading.Event()
    hangs = chain(name, lambda item: freed.wait(WAIT_S) and item, deadline_s=0.05)
    try:
        with pytest.raises(StageError, match=rf"^stage {name}: no answer for 0\.05 s"):
            StagePipeline(Endless(), hangs).run()
    finally:
        freed.set()


def test_an_error_of_the_source_is_raised_after_the_items_before_it() -> None:
    def breaks() -> Iterator[int]:
        yield from range(7)
        raise SourceError("camera: gone")

    items: list[int] = []

    def take() -> None:
        for item in StagePipeline(breaks(), chain()):
            items.append(item)

    with pytest.raises(SourceError, match=r"^camera: gone$"):
        take()
    assert items == list(range(5, 12))


def test_a_bug_in_the_source_is_named() -> None:
    def breaks() -> Iterator[int]:
        yield 1
        raise KeyError("where")

    with pytest.raises(StageError, match=r"^stage decode: KeyError: 'where'"):
        StagePipeline(breaks(), chain()).run()


def test_a_stillframe_error_keeps_its_class() -> None:
    def full(item: int) -> int:
        raise SinkError("out.mp4: no space")

    with pytest.raises(SinkError, match=r"^stage encode: out\.mp4: no space$"):
        StagePipeline(Endless(), chain("encode", full)).run()


def test_a_broken_pipe_is_raised_unchanged() -> None:
    def gone(item: int) -> int:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        StagePipeline(Endless(), chain("encode", gone)).run()


def test_a_failing_close_is_reported_and_every_stage_is_closed() -> None:
    closed: list[str] = []
    stages = [Stage(n, plus, close=lambda n=n: closed.append(n)) for n in NAMES]  # type: ignore[misc]
    StagePipeline(range(3), stages).run()
    assert sorted(closed) == sorted(NAMES)

    def bad() -> None:
        raise OSError("disk")

    with pytest.raises(StageError, match=r"^stage end: OSError: disk"):
        StagePipeline(range(3), [Stage("end", plus, close=bad)]).run()


def test_a_consumer_that_leaves_early_ends_everything() -> None:
    source = Endless()
    with StagePipeline(source, chain()) as pipeline:
        for item in pipeline:
            if item == 12:
                break
    assert source.closed.is_set()


def test_a_source_that_blocks_is_unblocked_by_leaving() -> None:
    source = Endless(blocks_at=3)
    with StagePipeline(source, chain()) as pipeline:
        stream = iter(pipeline)
        assert [next(stream) for _ in range(3)] == [5, 6, 7]
    assert source.closed.is_set()


def test_stop_delivers_the_items_in_flight() -> None:
    source = Endless()
    items: list[int] = []
    with StagePipeline(source, chain()) as pipeline:
        for item in pipeline:
            items.append(item)
            if item == 20:
                pipeline.stop()
    assert items == list(range(5, 5 + source.taken))


def test_a_stage_may_skip_items() -> None:
    odd = Stage("odd", lambda item: item if item % 2 else SKIP)
    with StagePipeline(range(30), [odd, plus]) as pipeline:
        assert list(pipeline) == list(range(2, 31, 2))
    assert pipeline.skipped == 15
    assert pipeline.window.in_use == 0


def test_newest_drops_old_items_and_counts_them() -> None:
    go = threading.Event()

    def slow(item: int) -> int:
        go.wait(WAIT_S)
        return item

    def source() -> Iterator[int]:
        yield from range(20)
        go.set()

    stage = Stage("slow", slow, room=1, policy="newest")
    with StagePipeline(source(), [stage], window=100) as pipeline:
        items = list(pipeline)
    assert items[0] in (0, 19)
    assert items[-1] == 19
    assert pipeline.dropped == 20 - len(items)
    assert pipeline.window.in_use == 0


def test_a_window_of_one_runs_one_item_at_a_time() -> None:
    inside, most = [0], [0]

    def enter(item: int) -> int:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        return item

    def leave(item: int) -> int:
        time.sleep(0.001)
        inside[0] -= 1
        return item

    StagePipeline(range(20), [enter, plus, leave], window=1).run()
    assert most[0] == 1
    StagePipeline(range(60), [enter, plus, leave], window=6).run()
    assert most[0] > 1


def test_each_stage_keeps_one_thread_for_life() -> None:
    seen: dict[str, set[int]] = {name: set() for name in NAMES}
    stages = [
        Stage(n, lambda item, n=n: seen[n].add(threading.get_ident()) or item)  # type: ignore[func-returns-value]
        for n in NAMES
    ]
    StagePipeline(range(20), stages).run()
    threads = [next(iter(idents)) for idents in seen.values() if len(idents) == 1]
    assert len(set(threads)) == len(NAMES)


def test_a_stage_is_where_it_was_placed_and_can_be_moved() -> None:
    first, last = min(allowed_cores()), max(allowed_cores())
    seen: list[frozenset[int]] = []

    def observe(item: int) -> int:
        seen.append(cores_of(threading.get_native_id()))
        return item

    with StagePipeline(
        range(20), [observe], window=1, place={"observe": f"cpu:{first}"}
    ) as pipeline:
        for item in pipeline:
            if item == 9:
                assert pipeline.place("observe", frozenset({last})).applied
    assert seen[0] == {first}
    assert seen[-1] == {last}
    assert pipeline.workers[0].meter.cores == {last}


def test_no_item_lives_longer_than_its_last_reader() -> None:
    class Picture:
        pass

    alive: list[weakref.ref[Picture]] = []

    def new_picture() -> Picture:
        picture = Picture()
        alive.append(weakref.ref(picture))
        return picture

    def source() -> Iterator[Picture]:
        for _ in range(8):
            yield new_picture()

    def read(item: Picture) -> int:
        return len(alive)

    most = 0
    with StagePipeline(source(), [read, plus], window=1) as pipeline:
        for _ in pipeline:
            most = max(most, sum(ref() is not None for ref in alive))
    assert most == 0


def test_a_pace_delays_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    paused: list[float] = []
    pauses = [0.0, 0.2, 0.0]
    monkeypatch.setattr(InFlightLimit, "sleep", lambda _, seconds: not paused.append(seconds))

    def pace() -> float:
        asked.append(1)
        return pauses.pop(0) if pauses else 0.0

    StagePipeline(range(4), [plus], pace=pace).run()
    assert len(asked) == 5
    assert paused == [0.2]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: StagePipeline([], [Stage("a", plus, room=0)]), "expected room for 1 item"),
        (lambda: StagePipeline([], [plus, plus]), "every stage needs a name of its own"),
        (lambda: StagePipeline([], ["plus"]), "expected a Stage or a function, got str"),
        (lambda: StagePipeline([], [plus], window=0), "expected 1 item or more in flight, got 0"),
        (lambda: StagePipeline([], [plus], place={"inf": "cpu:0"}), "no stage 'inf'; there is"),
        (lambda: StagePipeline([], [plus], place={"plus": "cpu:4000"}), "core 4000 is not there"),
        (lambda: StagePipeline([], [plus], place={"plus": "nothing"}), "not here; there is cpu:"),
        (lambda: Stage("a", plus, deadline_s=0), "expected a deadline above 0 s, got 0"),
        (lambda: Stage("", plus), "expected a name"),
    ],
)  # fmt: skip
def test_impossible_pipelines_are_refused(build: Callable[[], Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build()


def test_a_source_is_opened_only_once_the_arguments_are_right() -> None:
    opened = []

    def source() -> list[int]:
        opened.append(True)
        return [1, 2]

    with pytest.raises(UsageError, match="expected 1 item or more"):
        StagePipeline(source, [plus], window=0)
    assert not opened
    assert list(StagePipeline(source, [plus])) == [2, 3]
    assert opened == [True]


def test_waiting_for_a_reader_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand seconds pass by the clock: the reader of a pipe may take its time."""
    ahead_s = 0.0
    true = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: true() + ahead_s)
    freed = threading.Event()

    def writes(item: int) -> int:
        with deadline_suspended():
            freed.wait(WAIT_S)
        return item

    with StagePipeline(range(2), [Stage("encode", writes, deadline_s=60)]) as pipeline:
        worker = pipeline.workers[0]
        deadline = time.monotonic() + WAIT_S
        while not worker.waits_for_reader and time.monotonic() < deadline:
            time.sleep(0.01)
        ahead_s += 2000
        assert worker.overdue_s == 0
        freed.set()
        assert list(pipeline) == [0, 1]


def test_after_the_wait_a_hang_is_a_hang_again() -> None:
    freed = threading.Event()

    def hangs(item: int) -> int:
        with deadline_suspended():
            pass
        freed.wait(WAIT_S)
        return item

    try:
        with pytest.raises(StageError, match=r"^stage encode: no answer for 0\.05 s"):
            StagePipeline(range(2), [Stage("encode", hangs, deadline_s=0.05)]).run()
    finally:
        freed.set()


def test_once_stopped_a_reader_that_takes_nothing_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stillframe.pipeline.executor.pipeline.CLOSE_TIMEOUT_S", 0.05)
    freed = threading.Event()

    def writes(item: int) -> int:
        with deadline_suspended():
            freed.wait(WAIT_S)
        return item

    def take(pipeline: StagePipeline) -> None:
        with pipeline:
            while not pipeline.workers[0].waits_for_reader:
                time.sleep(0.01)
            pipeline.stop()
            list(pipeline)

    pipeline = StagePipeline(Endless(), [Stage("encode", writes)])
    try:
        with pytest.raises(BrokenPipeError, match="its reader takes nothing"):
            take(pipeline)
    finally:
        freed.set()


def test_outside_of_a_stage_nothing_is_suspended() -> None:
    with deadline_suspended():
        pass


# --- work that has no end ------------------------------------------------------------------------


class EndlessRun:
    """A stage's work: from the third item on a run of a model that ends only when asked to."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, item: int) -> int:
        with native_call("a model", self.asked.set):
            if item >= 2 and self.asked.wait(HANGS_S):
                raise RunEndedError("a model: a run was ended")
        return item


def stopped_in(pipeline: StagePipeline, stage: str) -> list[int]:
    """The items of a pipeline that is stopped once this stage is busy with the third."""
    items = []
    worker = next(each for each in pipeline.workers if each.stage.name == stage)
    for item in pipeline:
        items.append(item)
        if len(items) == 2:
            while worker.meter.busy_since is None or worker.meter.items < 2:
                time.sleep(0.001)
            pipeline.stop()
    return items


def test_a_run_without_end_is_ended_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "GRACE_S", 0.1)
    run = EndlessRun()
    with StagePipeline(range(9), [Stage("infer", run), Stage("draw", plus)]) as pipeline:
        with pytest.raises(StageError, match=r"stage infer: no answer \d+ s after the stop"):
            ends(lambda: stopped_in(pipeline, "infer"))
        assert pipeline.hung == ("infer",)
        assert pipeline.delivered == 2
    assert run.asked.is_set()
    assert not hanging()


def test_anything_else_that_hangs_after_a_stop_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage_module, "GRACE_S", 0.05)
    monkeypatch.setattr(stage_module, "HANG_S", 0.1)
    freed = threading.Event()

    def hangs(item: int) -> int:
        if item >= 2:
            freed.wait(HANGS_S)
        return item

    with StagePipeline(range(9), [Stage("own", hangs)]) as pipeline:
        with pytest.raises(StageError, match=r"stage own: no answer"):
            stopped_in(pipeline, "own")
        assert pipeline.hung == ("own",)
        assert hanging()
    freed.set()


def test_what_is_only_slow_is_delivered_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "GRACE_S", 0.05)
    monkeypatch.setattr(stage_module, "HANG_S", HANGS_S)

    def slow(item: int) -> int:
        time.sleep(0.2 if item >= 2 else 0.0)
        return item

    with StagePipeline(range(9), [Stage("own", slow)]) as pipeline:
        items = stopped_in(pipeline, "own")
    assert items == list(range(len(items)))
    assert len(items) > 2
    assert pipeline.hung == ()


def test_a_run_that_exceeds_the_deadline_is_ended() -> None:
    run = EndlessRun()
    stages = [Stage("infer", run, deadline_s=0.1)]
    with pytest.raises(StageError, match=r"stage infer: no answer for 0\.1 s, its"):
        ends(lambda: StagePipeline(range(9), stages).run())
    assert run.asked.is_set()
    while hanging():  # its thread ends by itself
        time.sleep(0.001)


def test_leaving_the_block_ends_a_run() -> None:
    run = EndlessRun()
    with StagePipeline(range(9), [Stage("infer", run)]) as pipeline:
        items = iter(pipeline)
        assert [next(items), next(items)] == [0, 1]
        while pipeline.workers[0].meter.items < 2 or not native_calls(
            pipeline.workers[0].thread.ident
        ):
            time.sleep(0.001)
    assert run.asked.is_set()
    assert not pipeline.workers[0].thread.is_alive()


def test_a_source_that_does_not_end_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "CLOSE_TIMEOUT_S", 0.1)
    freed = threading.Event()

    def source() -> Iterator[int]:  # a generator that runs cannot be closed by another thread
        yield 0
        freed.wait(HANGS_S)

    pipeline = StagePipeline(source(), [plus])
    with pipeline:
        items = iter(pipeline)
        assert next(items) == 1
        pipeline.stop()
        with pytest.raises(StageError, match="stage decode: did not end within"):
            next(items)
    assert pipeline.hung == ("decode",)
    assert hanging()
    freed.set()
