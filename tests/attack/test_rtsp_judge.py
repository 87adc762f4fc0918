"""The attack by a live camera notices faults: it is given runs whose faults are known."""

from pathlib import Path

import pytest

from tests.attack.rtsp_report import Report, Sample, Sight, Sights, Step, judge

KILL = (100.0, 110.0, Step("kill", 10.0, "lost"))
START = (110.0, 120.0, Step("start", 10.0, "running"))


def sound_run(folder: Path) -> Sights:
    """Lost at 100 s, seen at once everywhere; results again from 111 s on."""
    for name in ("summary", "metrics"):
        (folder / f"{name}.json").write_text('{"reconnects": 1}')
    return Sights(
        folder,
        rows=[
            Sight(99.9, {"age_s": 0.0}),
            Sight(100.1, {"event": "lost", "wall_time": 100.0, "reason": "reset"}),
            Sight(110.9, {"event": "running", "wall_time": 110.8, "reason": "connected"}),
            Sight(111.0, {"age_s": 0.0}),
        ],
        lines=[Sight(100.1, "rtsp://x/camera: lost: x"), Sight(110.9, "x/camera: running: x")],
        states=[Sight(90.0, "running"), Sight(100.2, "lost"), Sight(111.0, "running")],
        ages=[Sight(when, max(0.0, when - 100)) for when in (99.0, 103.0, 109.0)],
    )


def faults(run: Sights, *samples: Sample) -> list[str]:
    report = Report("killed", 1.0, samples=list(samples))
    judge(run, report, [] if samples else [KILL, START])
    return report.faults


def test_a_sound_run_has_no_faults(tmp_path: Path) -> None:
    assert faults(sound_run(tmp_path)) == []
    moment = (Sample(301, 1000, 10, 8), Sample(600, 1010, 11, 10), Sample(900, 1010, 10, 8))
    assert faults(sound_run(tmp_path), *moment) == []


def test_a_state_that_is_late_or_missing_is_a_fault(tmp_path: Path) -> None:
    run = sound_run(tmp_path)
    run.lines[0].when = 102.5
    del run.states[1]
    late, missing, *unseen = faults(run)
    assert "lost in stderr after 2.50 s" in late
    assert "no lost in metrics" in missing
    assert unseen == [
        f"lost at 100.0 (reset): not in {channel} in time" for channel in ("stderr", "metrics")
    ]


def test_an_old_result_that_claims_to_be_new_is_a_fault(tmp_path: Path) -> None:
    run = sound_run(tmp_path)
    run.rows.append(Sight(109.0, {"age_s": 0.0}))
    run.ages.append(Sight(109.0, 0.1))
    result, metric = faults(run)
    assert result.startswith("result 9.00 s after the last new picture has the age 0.00 s")
    assert metric.startswith("metric 9.00 s")


def test_a_reader_that_was_late_itself_accuses_nobody(tmp_path: Path) -> None:
    run = sound_run(tmp_path)
    run.rows.append(Sight(103.0, {"age_s": 0.0}, earliest=101.0))
    assert faults(run) == []
    run.rows.append(Sight(103.0, {"age_s": 0.0}, earliest=102.0))
    (fault,) = faults(run)
    assert fault.startswith("result 2.00 s after the last new picture has the age 0.00 s")


def test_a_return_that_is_not_noticed_is_a_fault(tmp_path: Path) -> None:
    run = sound_run(tmp_path)
    run.rows[-1].when = 113.0
    assert faults(run) == ["fresh result 3.00 s after 110.0"]
    del run.rows[-1]
    assert faults(run) == ["no fresh result after the return at 110.0"]


@pytest.mark.parametrize(
    ("later", "named"),
    [
        (Sample(900, 1021, 10, 8), "memory grew by 2.10 %"),
        (Sample(900, 1000, 12, 8), "threads grew from 10 to 12"),
        (Sample(900, 1000, 10, 10), "descriptors grew from 8 to 10"),
    ],
)
def test_a_leak_is_a_fault(later: Sample, named: str, tmp_path: Path) -> None:
    (fault,) = faults(sound_run(tmp_path), Sample(301, 1000, 10, 8), later)
    assert named in fault


def test_a_file_that_is_not_written_is_a_fault(tmp_path: Path) -> None:
    run = sound_run(tmp_path)
    (tmp_path / "metrics.json").unlink()
    assert faults(run) == ["metrics.json was not written"]
