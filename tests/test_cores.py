"""How many threads run where more are requested than there are cores."""

import os
import warnings

import pytest

from stillframe import cores
from stillframe.cores import ThreadsWarning, bounded_threads, core_count, most_threads


@pytest.mark.parametrize(
    ("allowed", "quota", "most"), [(8, None, 8), (8, 2.5, 3), (8, 0.2, 1), (2, 16.0, 2)]
)
def test_threads_are_bounded_by_cores_and_quota(
    allowed: int, quota: float | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(allowed)))
    assert core_count() == most_threads() == most
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bounded_threads(most) == most
        assert bounded_threads(1) == 1
    with pytest.warns(ThreadsWarning, match=rf"5000 threads .*may use {most} core.*: {most} run"):
        assert bounded_threads(5000) == most


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system pins no threads")
def test_a_pinned_thread_may_start_threads_on_other_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)
    every = os.sched_getaffinity(0)
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda process: every | {997} if process else {min(every)}
    )
    assert core_count() == 1
    assert most_threads() == len(every) + 1
