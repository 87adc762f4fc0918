"""The pace of a CPU share, and who else competes for the cores."""

import os
from pathlib import Path

import numpy as np
import pytest

from stillframe.errors import UsageError
from stillframe.pipeline.executor.hardware.contention import ContentionMeter
from stillframe.pipeline.placement.cpu_budget import Pacer, share_of

# --- pace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "cores"), [(0.5, 2.0), (0.25, 1.0), (0.1, 8.0)])
def test_the_pace_holds_the_measured_share_at_the_target(share: float, cores: float) -> None:
    """On a clock of our own: work of uneven size on all cores, and the waits that are asked for."""
    now, used = [0.0], [0.0]
    pace = Pacer(share, cores, lambda: now[0], lambda: used[0])
    draw = np.random.default_rng(1)
    for _ in range(2000):
        work = float(draw.uniform(0.001, 0.2))
        used[0] += work
        now[0] += work / cores
        now[0] += pace()
    assert used[0] / (now[0] * cores) == pytest.approx(share, abs=0.02)


def test_what_was_not_used_for_long_cannot_be_made_up_for() -> None:
    now, used = [0.0], [0.0]
    pace = Pacer(0.5, 1.0, lambda: now[0], lambda: used[0])
    now[0] = 100.0
    assert pace() == 0
    used[0] = 1.0
    assert pace() == pytest.approx(2.0 - 0.2)


@pytest.mark.parametrize(("text", "share"), [("50%", 0.5), ("0.25", 0.25), ("100%", 1.0)])
def test_shares_are_read(text: str, share: float) -> None:
    assert share_of(text) == share


@pytest.mark.parametrize("text", ["0", "0%", "120%", "half", "-5%", "nan"])
def test_shares_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"CPU share: expected a share such as 50% or 0\.5"):
        share_of(text)


# --- who competes --------------------------------------------------------------------------------


def test_others_are_counted_without_our_own(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu 1 2\nprocs_running 5\nprocs_blocked 0\n")
    for thread, state in (("7", "R"), ("8", "S"), ("9", "R")):
        (tmp_path / "task" / thread).mkdir(parents=True)
        (tmp_path / "task" / thread / "stat").write_text(f"{thread} (a ) b) {state} 1 2")
    seen = ContentionMeter(tmp_path / "stat", tmp_path / "task")
    assert seen.sample() == 3
    (tmp_path / "stat").write_text("procs_running 2\n")
    assert 0 < seen.sample() < 3
    assert ContentionMeter(tmp_path / "none").sample() == 0


@pytest.mark.parametrize(("others_share", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_queue_that_took_no_time_was_our_own(
    tmp_path: Path, others_share: float, expected: float
) -> None:
    """One of ours runs, the queue says two; how much the second had of this core decides."""
    core, ticks = min(os.sched_getaffinity(0)), os.sysconf("SC_CLK_TCK")
    (tmp_path / "task" / "7").mkdir(parents=True)
    (tmp_path / "task" / "7" / "stat").write_text("7 (a) R 1 2")
    clock = {"at": 0.0, "spent": 0.0, "busy": 0.0}
    seen = ContentionMeter(
        tmp_path / "stat", tmp_path / "task", lambda: clock["at"], lambda: clock["spent"]
    )
    cores = len(os.sched_getaffinity(0))
    for _ in range(60):
        clock["at"] += 1.0
        clock["spent"] += cores / 2
        clock["busy"] += cores / 2 * (1 + others_share)
        busy = round(clock["busy"] * ticks)
        (tmp_path / "stat").write_text(
            f"cpu 1 1 1 9 9 1 1 0\ncpu{core} 0 0 {busy} 99999 99999 0 0 0\nprocs_running 2\n"
        )
        seen.sample()
    assert seen.others == pytest.approx(expected, abs=0.02)
