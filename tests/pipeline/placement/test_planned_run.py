"""What a run does with placement: planned, paced, pinned, and planned anew."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import UsageError
from stillframe.pipeline import cli
from stillframe.pipeline.placement import controller, profiling
from stillframe.pipeline.placement.cost_model import (
    Hysteresis,
    Prediction,
)
from stillframe.pipeline.placement.request import PlacementRequest, parse_place
from tests import networks
from tests.hostile import media

FRAMES = 120


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("infer=cpu:0-1,decode=cpu:1", {"infer": "cpu:0-1", "decode": "cpu:1"}),
        ("infer=cpu:0,2,infer-2=cpu:1", {"infer": "cpu:0,2", "infer-2": "cpu:1"}),
        ("infer=openvino:CPU", {"infer": "openvino:CPU"}),
    ],
)
def test_places_are_read(text: str, places: dict[str, str]) -> None:
    assert parse_place(text) == places


def test_aims_that_make_no_sense_are_refused() -> None:
    for build in (
        lambda: PlacementRequest(aim="speed"),  # type: ignore[arg-type]
        lambda: PlacementRequest(aim="share"),
        lambda: PlacementRequest(aim="latency", share=0.5),
        lambda: parse_place("infer"),
    ):
        with pytest.raises(UsageError):
            build()


Run = Any


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.deep(tmp_path_factory.mktemp("models") / "deep.onnx")


@pytest.fixture
def run(
    deep: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    monkeypatch.setattr(profiling, "LONGEST_S", 600.0)  # on a busy machine, too, probe everything
    clip = media.clip(tmp_path / "clip.mp4", FRAMES)
    metrics = tmp_path / "metrics.json"

    def run(*arguments: str) -> tuple[int, str, dict[str, Any]]:
        options = ["run", str(clip), "--model", str(deep), "--task", "tensors"]
        options += ["--metrics-json", str(metrics), "--force", "--explain-placement", *arguments]
        code = cli.status(options)
        figures = json.loads(metrics.read_text()) if code == 0 else {}
        return code, capfd.readouterr().err, figures

    yield run
    assert not any(t.name.startswith("stillframe-") for t in threading.enumerate())


@pytest.mark.parametrize("aim", ["throughput", "latency"])
def test_a_run_is_planned_and_says_so(aim: str, run: Run) -> None:
    code, text, metrics = run("--aim", aim, "--reuse", "layer")
    assert code == 0, text
    assert "placed: " in text
    assert "ms a frame" in text
    assert metrics["placement"]["aim"] == aim
    assert metrics["placement"]["decisions"][0].startswith("placed: ")
    assert metrics["frames"] == FRAMES
    assert {row["items"] for row in metrics["stages"].values()} == {FRAMES}


@pytest.mark.parametrize(("aim", "splits"), [("latency", False), ("throughput", True)])
def test_latency_goes_without_a_stage_for_a_second_segment(
    aim: str, splits: bool, run: Run
) -> None:
    """No frame is sooner through two segments, and every hand-off waits for a processor."""
    code, text, metrics = run("--aim", aim, "--reuse", "layer")
    assert code == 0, text
    assert ("infer-2" in metrics["stages"]) is splits


def test_a_share_is_planned_and_paced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[int] = []  # not really: this process has more to do
    monkeypatch.setattr(
        "stillframe.pipeline.placement.planned_run.lower_priority",
        lambda nice: lowered.append(nice) or "",
    )
    code, text, metrics = run("--cpu-share", "60%", "--reuse", "frame")
    assert code == 0, text
    assert metrics["placement"]["aim"] == "share"
    assert lowered == [10]


def test_priority_is_really_lowered() -> None:
    code = (
        "import os, threading\n"
        "from stillframe.pipeline.placement.cpu_budget import lower_priority\n"
        "thread = threading.Thread(target=threading.Event().wait, daemon=True); thread.start()\n"
        "assert not lower_priority(7)\n"
        "for each in (threading.get_native_id(), thread.native_id):\n"
        "    print(os.getpriority(os.PRIO_PROCESS, each), os.sched_getscheduler(each))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["7", str(os.SCHED_BATCH)] * 2


def test_a_live_source_is_planned_and_gives_its_newest_frames(run: Run) -> None:
    code, text, metrics = run("--policy", "newest", "--aim", "latency", "--reuse", "frame")
    assert code == 0, text
    assert metrics["window"] in (1, 2, 3)
    assert 0 < metrics["frames"] <= FRAMES - metrics["dropped"]
    assert run("--policy", "block")[2]["frames"] == FRAMES


def test_what_is_pinned_by_hand_is_checked_and_reported(run: Run) -> None:
    code, text, metrics = run("--place", "infer=cpu:0,decode=cpu:0")
    assert code == 0
    assert "stage infer runs on core 0, as asked" in text
    assert metrics["stages"]["infer"]["cores"] == [0]
    assert metrics["stages"]["draw"]["cores"] == []
    assert metrics["placement"]["by_hand"] == {"infer": "cpu:0", "decode": "cpu:0"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--place", "infer=cpu:99"], "core 99 is not there .* there is cpu:"),
        (["--place", "draw=openvino:NPU"], "not here; there is cpu:"),
        (["--place", "paint=cpu:0"], "no stage 'paint'; there is decode, preprocess, infer"),
        (["--reuse", "layer", "--place", "islands=cpu:0"], "provider .* not on cpu:0; .* none but"),
        (["--cpu-share", "150%"], "expected a share such as 50%"),
        (["--aim", "share"], "go together"),
    ],
)
def test_what_is_not_there_is_refused(arguments: list[str], says: str, run: Run) -> None:
    code, text, _ = run(*arguments)
    assert code == 2
    assert re.search(says, text), text


def test_islands_are_placed_apart_from_the_rest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no device here, so one is claimed; the providers that are asked for are recorded."""
    asked: list[Any] = []
    for module in ("placement.request", "executor.hardware.processors"):
        monkeypatch.setattr(
            f"stillframe.pipeline.{module}.PROVIDERS", {"cuda": "CPUExecutionProvider"}
        )

    def noted(providers: list[Any]) -> list[str]:
        asked.append(providers)
        return ["CPUExecutionProvider"]

    monkeypatch.setattr("stillframe.reuse.session.known_providers", noted)
    code, text, metrics = run("--place", "islands=cuda:0,decode=cpu:0", "--reuse", "layer")
    assert code == 0, text
    providers = [("CPUExecutionProvider", {"device_id": "0"}), "CPUExecutionProvider"]
    assert providers in asked
    assert metrics["placement"]["by_hand"]["islands"] == "cuda:0"
    code, text, _ = run("--place", "islands=cuda:0", "--reuse", "frame")
    assert code == 2
    assert "islands are of reuse layer and exact" in text
    code, text, _ = run("--place", "islands=cuda:0,infer=cuda:0", "--reuse", "layer")
    assert code == 2
    assert "there are no islands to place" in text


def test_affinity_that_is_denied_is_reported_and_the_run_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(thread: int, cores: frozenset[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.sched_setaffinity", denied)
    code, text, metrics = run("--place", "infer=cpu:0")
    assert code == 0
    assert "stage infer: core 0 could not be had (operation not permitted)" in text
    assert metrics["frames"] == FRAMES


def test_plans_change_in_the_middle_of_a_run_without_a_frame_lost(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every review wants another way to run; results stay those of a plain run."""
    monkeypatch.setattr(controller, "REVIEW_S", 0.0)
    monkeypatch.setattr(controller, "FEWEST_FRAMES", 2)
    monkeypatch.setattr(Hysteresis, "agrees", lambda self, measured_ms, predicted_ms, now_s: True)
    turn = iter(range(1000))

    def another(predictions: Any, *_: Any, **__: Any) -> Prediction:
        ranked = sorted(predictions, key=lambda p: str(p.candidate))
        return ranked[next(turn) * 7 % len(ranked)]

    monkeypatch.setattr(controller, "choose", another)
    code, text, metrics = run("--aim", "throughput", "--reuse", "layer", "--tolerance", "0")
    assert code == 0, text
    assert metrics["frames"] == FRAMES
    assert metrics["replans"] >= 2
    assert "re-planned at frame" in text
