"""Signals while a model's run has no end: the documented code, and every file that was begun."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from tests import networks
from tests.hang_guard import HANGS_S
from tests.hostile import media

FRAMES = 12
"""Of the clip, before the first that makes the model's loop endless."""
DRIVER = """
import os, signal, sys, threading, time
from stillframe import native_calls
native_calls.GRACE_S, native_calls.HANG_S = 0.5, 3.0
from stillframe.pipeline import cli

signum, ends = int(sys.argv.pop(1)), sys.argv.pop(1) == "True"
if not ends:
    native_calls.NativeCall.end = lambda call: False

def hangs():
    now_s = time.monotonic()
    return any(call.can_end and now_s - call.since_s > 0.3 for call in native_calls.native_calls())

def send():
    while not hangs():
        time.sleep(0.02)
    os.kill(os.getpid(), signum)

threading.Thread(target=send, daemon=True).start()
cli.main()
"""
"""A command that gets a signal once a run of its model has gone on for a while."""


@dataclass(frozen=True)
class Ended:
    """What came of a command."""

    code: int
    out: bytes
    lines: list[str]
    """On standard error."""


Hang = Callable[..., Ended]


@pytest.fixture
def hang(tmp_path: Path) -> Hang:
    def run(*arguments: object, signum: int = signal.SIGTERM, ends: bool = True) -> Ended:
        command = [sys.executable, "-c", DRIVER, str(int(signum)), str(ends), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, timeout=3 * HANGS_S, check=False, cwd=tmp_path
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode().splitlines())

    return run


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.endless(tmp_path_factory.mktemp("models") / "endless.onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    grey = [np.full((64, 96, 3), 60 + 5 * number, np.uint8) for number in range(FRAMES)]
    media.encode(path, [*grey, *[np.full((64, 96, 3), 255, np.uint8)] * 20])
    return path


def assert_files_are_whole(folder: Path) -> None:
    with av.open(str(folder / "out.mp4")) as video:
        assert len(list(video.decode(video=0))) == FRAMES
    assert len((folder / "out.jsonl").read_text().splitlines()) == FRAMES
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["frames"] == FRAMES
    assert summary["error"] is None
    assert json.loads((folder / "metrics.json").read_text())


OUTPUTS = ["--out", "out.mp4", "--jsonl", "out.jsonl"]
OUTPUTS += ["--summary-json", "summary.json", "--metrics-json", "metrics.json"]


@pytest.mark.parametrize(
    ("signum", "code", "reuse"),
    [(signal.SIGINT, 130, "off"), (signal.SIGTERM, 143, "off"), (signal.SIGTERM, 143, "exact")],
)
def test_a_signal_ends_an_endless_stage(
    hang: Hang, network: Path, clip: Path, tmp_path: Path, signum: int, code: int, reuse: str
) -> None:
    arguments = ["run", clip, "--model", network, "--reuse", reuse, *OUTPUTS]
    ended = hang(*arguments, signum=signum)
    assert ended.code == code, ended.lines
    assert [line for line in ended.lines if "stage infer: no answer" in line], ended.lines
    assert not [line for line in ended.lines if "terminate called" in line or "Traceback" in line]
    assert_files_are_whole(tmp_path)
    stopped_by = json.loads((tmp_path / "summary.json").read_text())["stopped_by"]
    assert stopped_by == signal.Signals(signum).name


def test_a_stage_that_nothing_ends_is_left_behind(
    hang: Hang, network: Path, clip: Path, tmp_path: Path
) -> None:
    arguments = ["run", clip, "--model", network, "--reuse", "off", *OUTPUTS]
    ended = hang(*arguments, ends=False)
    assert ended.code == 143, ended.lines
    assert [line for line in ended.lines if "stage infer: no answer" in line], ended.lines
    assert_files_are_whole(tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "filter",
        *[
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("explain", "tune", "sweep", "bench")
        ],
    ],
)
def test_a_signal_ends_what_the_main_thread_hangs_in(
    hang: Hang, network: Path, clip: Path, command: str
) -> None:
    arguments = {
        "filter": ["filter", clip, "--model", network, "--effect", "blur"],
        "explain": ["explain", network, clip],
        "tune": ["tune", clip, "--model", network, "--out", "profile.json"],
        "sweep": ["sweep", clip, "--model", network],
        "bench": ["bench", network, "--clip", clip],
    }
    ended = hang(*arguments[command])
    assert ended.code == 143, ended.lines
    assert not [line for line in ended.lines if "terminate called" in line or "Traceback" in line]


def test_a_main_thread_that_nothing_ends_is_left_behind(
    hang: Hang, network: Path, clip: Path
) -> None:
    ended = hang("filter", clip, "--model", network, "--effect", "blur", ends=False)
    assert ended.code == 143, ended.lines
    assert "no end 3 s after SIGTERM; it is left behind" in ended.lines[-1]


def test_a_run_that_hangs_while_it_is_planned_writes_its_figures(
    hang: Hang, clip: Path, tmp_path: Path
) -> None:
    network = networks.endless(tmp_path / "always.onnx", above=-1.0)
    arguments = ["run", clip, "--model", network, "--reuse", "off", "--aim", "throughput"]
    ended = hang(*arguments, "--summary-json", "summary.json", ends=False)
    assert ended.code == 143, ended.lines
    assert json.loads((tmp_path / "summary.json").read_text())["stopped_by"] == "SIGTERM"
