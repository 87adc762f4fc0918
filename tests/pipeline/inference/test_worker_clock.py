"""Processor time of threads that ONNX Runtime starts for itself."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from stillframe.pipeline.inference.backends import BorrowedBackend, OnnxRuntimeBackend
from stillframe.pipeline.inference.worker_clock import TASKS, WorkerClock, worker_seconds
from tests.reuse.test_session import net

pytestmark = pytest.mark.skipif(not os.path.isdir(TASKS), reason="the system has no such clocks")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("net") / "net.onnx"
    where.write_bytes(net((1, 3, 96, 128), gate=True))
    return where


def test_the_threads_of_a_session_are_counted_and_no_others(path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core has no second thread")
    feed = {"input": np.random.default_rng(0).random((1, 3, 96, 128), np.float32)}
    with OnnxRuntimeBackend(path, 2) as backend:
        name = next(iter(backend._inputs))
        before = worker_seconds(backend)
        process, mine = time.process_time(), time.thread_time()
        for _ in range(20):
            backend.run({name: feed["input"]}, None)
        process, mine = time.process_time() - process, time.thread_time() - mine
        after = worker_seconds(BorrowedBackend(backend))
    assert before is not None
    assert after is not None
    assert 0 < after - before <= process - mine + 0.02


def test_a_session_of_one_thread_has_no_workers(path: Path) -> None:
    with OnnxRuntimeBackend(path, 1) as backend:
        assert worker_seconds(backend) == 0


def test_threads_that_have_ended_count_no_more() -> None:
    clock = WorkerClock()
    clock._threads = frozenset({2**22 + 12345})
    assert clock.seconds == 0


def test_a_backend_without_a_clock_does_not_know() -> None:
    assert worker_seconds(object()) is None
