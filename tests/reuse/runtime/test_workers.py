"""Workers: everyone is called once a run, and nobody is left behind."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from stillframe.errors import UsageError
from stillframe.reuse.runtime.workers import Workers

COUNTS = (1, 2, 3, 7)


def alive() -> list[str]:
    """Names of the worker threads of this process."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("stillframe-"))


@pytest.fixture(autouse=True)
def _nobody_is_left_behind() -> Iterator[None]:
    before = alive()
    yield
    assert alive() == before


@pytest.mark.parametrize("count", COUNTS)
def test_every_run_calls_every_worker_exactly_once(count: int) -> None:
    workers, calls = Workers(count), list[int]()
    for run in range(1, 201):
        workers.run(calls.append)
        # counted at once: `run` returns only when all have been called
        assert Counter(calls) == dict.fromkeys(range(count), run)
    workers.close()


@pytest.mark.parametrize("count", COUNTS)
def test_workers_run_at_the_same_time_and_worker_0_is_the_caller(count: int) -> None:
    workers, idents = Workers(count), dict[int, int]()
    together = threading.Barrier(count)

    def work(worker: int) -> None:
        together.wait(10)  # raises where one of them is not called before another is done
        idents[worker] = threading.get_ident()

    workers.run(work)
    workers.close()
    assert idents[0] == threading.get_ident()
    assert len(set(idents.values())) == count


def test_an_interrupted_caller_waits_for_the_others_too() -> None:
    workers, done = Workers(3), list[int]()

    def work(worker: int) -> None:
        if worker == 0:
            raise KeyboardInterrupt
        time.sleep(0.05 * worker)
        done.append(worker)

    with pytest.raises(KeyboardInterrupt):
        workers.run(work)
    assert sorted(done) == [1, 2]
    workers.close()


def test_a_run_returns_only_after_the_slowest_worker() -> None:
    workers, done = Workers(3), list[int]()

    def work(worker: int) -> None:
        time.sleep(0.05 * worker)
        done.append(worker)

    workers.run(work)
    assert sorted(done) == [0, 1, 2]
    workers.close()


def test_each_run_has_the_work_that_it_was_given() -> None:
    workers, seen = Workers(3), list[tuple[int, int]]()
    for run in range(50):

        def work(worker: int, run: int = run) -> None:
            seen.append((run, worker))

        workers.run(work)
    workers.close()
    assert [run for run, _ in seen] == sorted(run for run, _ in seen)
    assert Counter(seen) == {(run, worker): 1 for run in range(50) for worker in range(3)}


@pytest.mark.parametrize("count", COUNTS)
def test_close_ends_the_threads_and_may_be_called_again(count: int) -> None:
    before = alive()
    workers = Workers(count)
    assert len(alive()) - len(before) == count - 1
    workers.run(lambda worker: None)
    for _ in range(3):
        workers.close()
        assert alive() == before


def test_workers_that_never_ran_are_closed_too() -> None:
    Workers(4).close()


@pytest.mark.parametrize("count", COUNTS)
def test_closed_workers_refuse_to_run(count: int) -> None:
    workers = Workers(count)
    workers.close()
    with pytest.raises(UsageError, match="were closed"):
        workers.run(lambda worker: None)


@pytest.mark.parametrize("count", COUNTS)
def test_workers_that_are_closed_during_a_run_finish_it(count: int) -> None:
    """As where a signal's handler closes what the interrupted function is using."""
    workers, calls = Workers(count), list[int]()

    def work(worker: int) -> None:
        if worker == 0:
            workers.close()
        calls.append(worker)

    workers.run(work)
    assert sorted(calls) == list(range(count))


def test_closing_one_pool_leaves_another_at_work() -> None:
    one, other, calls = Workers(3), Workers(3), list[int]()
    one.close()
    other.run(calls.append)
    other.close()
    assert sorted(calls) == [0, 1, 2]
