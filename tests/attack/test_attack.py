"""A short attack with fixed seeds; `python -m tests.attack all --minutes 60` is the long one."""

import pytest

from tests.attack.harness import attack

BUDGET = {"models": 60, "videos": 10, "y4m": 10, "configurations": 20}
"""Cases of each kind that fit into a test run; a cache takes two processes, so it is left out."""

LEEWAY_MB = 1024
"""What a mutated file may take beyond a sound one, which takes about 300 MB."""


@pytest.mark.parametrize("kind", BUDGET)
def test_nothing_foreign_comes_of_mutated_things(kind: str) -> None:
    report = attack(kind, 0, BUDGET[kind])
    assert report.faults == []
    assert report.tried == BUDGET[kind]
    # a configuration's source is not there, so that none of them runs
    assert report.outcomes["ran" if kind != "configurations" else "refused"] > 0
    assert report.peak_mb < 300 + LEEWAY_MB
