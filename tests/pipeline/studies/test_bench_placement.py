"""The placement benchmark: its helpers end, its ratios are right, its chart is drawn."""

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import SourceError
from stillframe.pipeline import cli
from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.studies.bench.background_load import (
    children,
    competitors,
    is_there,
    playback,
    played,
)
from stillframe.pipeline.studies.bench.condition import Condition, Looped
from stillframe.pipeline.studies.bench.placement import figures
from stillframe.pipeline.studies.bench.planner_check import planner
from tests.hostile import media


def is_running(process: subprocess.Popen[str]) -> bool:
    return process.poll() is None


def test_competitors_run_and_are_surely_ended() -> None:
    with contextlib.suppress(RuntimeError), children(competitors(2)) as started:
        time.sleep(0.3)
        assert all(is_running(process) for process in started)
        raise RuntimeError
    assert not any(is_running(process) for process in started)
    assert not any(os.path.exists(f"/proc/{process.pid}/stat") for process in started)


def test_a_competitor_ends_by_itself() -> None:
    with children(competitors(1, seconds=0.2)) as (process,):
        assert process.wait(10) == 0


def test_a_video_that_plays_counts_its_frames(tmp_path: Path) -> None:
    clip = media.clip(tmp_path / "clip.mp4", 12)
    with children([playback(str(clip), 1.0)]) as (process,):
        seen = played(process, 30)
    assert seen["due"] == 30
    assert seen["shown"] + seen["dropped"] == 30


def test_a_clip_goes_on_and_on_with_rising_times(tmp_path: Path) -> None:
    left = [30]

    def is_over() -> bool:
        left[0] -= 1
        return left[0] < 0

    looped = Looped(str(media.clip(tmp_path / "clip.mp4", 12)), is_over)
    frames = list(looped)
    looped.close()
    assert [frame.index for frame in frames] == list(range(30))
    assert [media.number_of(frame.image) for frame in frames[11:14]] == [11, 0, 1]
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))
    assert [f.index for f in frames if f.discontinuity] == [12, 24]


def row(frame_ms: float, p95: float = 0.0, **more: Any) -> dict[str, Any]:
    base = {"frame_ms": frame_ms, "latency_p95_ms": p95, "cpu_share": 0.5, "playback": {}}
    stages = {"decode": 10.0, "infer": 30.0, "draw": 5.0, "encode": 15.0}
    return {**base, "stage_ms": stages, **more}


def rows() -> dict[str, dict[str, Any]]:
    measured = {"sequential": row(60), "one_core": row(61)}
    measured |= {"overlapped reuse x1": row(32), "overlapped reuse x2": row(40)}
    for others in range(4):
        measured[f"static {others}"] = row(50, p95=100 * (others + 1))
        measured[f"all cores {others}"] = row(50, p95=200 * (others + 1))
        measured[f"replanned {others}"] = row(50, p95=50 * (others + 1))
    measured["alone, playback"] = {"playback": {"due": 300, "dropped": 0}}
    measured["full, playback"] = row(30, playback={"due": 300, "dropped": 150})
    measured["half, playback"] = row(60, playback={"due": 300, "dropped": 3}, cpu_share=0.48)
    return measured


def test_ratios_are_those_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    measured = figures(rows())
    assert measured["overlap_against_sequential"] == pytest.approx(60 / 32)
    assert measured["overlap_against_slowest_stage"] == pytest.approx(30 / 32)
    assert measured["around_network_share"] == pytest.approx(0.5)
    assert set(measured["replanned_p95_against_static"].values()) == {0.5}
    assert set(measured["replanned_p95_against_all_cores"].values()) == {0.25}
    assert measured["dropped_by_playback"] == {
        "alone, playback": 0.0,
        "full, playback": 0.5,
        "half, playback": 0.01,
    }
    assert measured["measured_share_at_50"] == 0.48


def test_a_condition_names_its_way_to_run() -> None:
    base = Condition("a", "m", "c", 1.0, granularity="reuse x1", window=2)
    assert base.candidate is not None
    assert base.candidate.infer == BackendChoice("reuse", 1)
    split = Condition("a", "m", "c", 1.0, granularity="two segments", window=8).candidate
    assert split is not None
    assert split.infer == BackendChoice("segments")
    assert Condition("a", "m", "c", 1.0, aim="latency").candidate is None


def test_the_planner_is_held_against_the_best_in_a_second_run_of_both() -> None:
    """Of all candidates one is the fastest by luck; that luck does not count."""
    asked: list[str] = []

    def ask(name: str, **how: Any) -> dict[str, Any]:
        asked.append(name)
        planned = how.get("aim")
        again = name.endswith(")")
        lucky = how.get("granularity") == "reuse x2" and how["window"] == 8 and not again
        ms = 33.0 if planned else 20.0 if lucky else 30.0
        assert how["competitors"] == 0
        return {"frame_ms": ms, "latency_p50_ms": 2 * ms, "plan": "a plan"}

    lines: list[str] = []
    measured = planner(ask, lines.append, 1, [BackendChoice("reuse", 2), BackendChoice("segments")])
    assert [row["ratio"] for row in measured] == [pytest.approx(1.1)]
    assert measured[0]["best"] == "reuse x2, 8"
    assert set(measured[0]["measured"]) == {f"reuse x2, {w}" for w in (1, 2, 8)} | {
        "two segments, 2",
        "two segments, 8",
    }
    assert sum(name.endswith(")") for name in asked) == 4
    assert "1.10 of the best" in lines[0]


def test_the_chart_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the chart needs the extra `plot`")
    from stillframe.pipeline.cli.bench_placement import draw

    measured = {"rows": rows(), "dropped_by_playback": {"alone": 0.0, "full": 0.5, "half": 0.01}}
    draw(measured, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 10_000


def test_what_cannot_be_had_is_refused_before_any_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.status(["bench", "placement", "--clip", str(tmp_path / "none.mp4")]) == 3
    assert "there is no such file" in capfd.readouterr().err
    path = tmp_path / "a.json"
    path.write_text("mine")
    assert cli.status(["bench", "placement", "--json", str(path)]) == 5
    with pytest.raises(SourceError):
        is_there("nowhere.mp4")
