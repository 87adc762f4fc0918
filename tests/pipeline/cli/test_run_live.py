"""stillframe run and explain on live sources, and what is written when a run breaks off."""

import json
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from stillframe.errors import UsageError
from stillframe.pipeline import cli
from stillframe.pipeline.cli.run_request import RunRequest
from tests import networks
from tests.hang_guard import HANGS_S, ends
from tests.hostile import media
from tests.hostile.servers import Server, free_port


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")


def hangs_up(server: Server, connection: socket.socket, number: int) -> None:
    """A camera that hangs up after six pictures, and is there again at once."""
    server.send_frames(connection, range(number * 10, number * 10 + 6), rate=20)


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_change_of_state_is_a_line_for_programs_and_one_for_people(
    network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.json"
    with Server(hangs_up) as server:
        url = f"tcp://user:secret@127.0.0.1:{server.port}"
        arguments = ["run", url, "--model", str(network), "--jsonl", "-", "--retry", "1m"]
        arguments += ["--summary-json", str(summary), "--max-frames", "9"]
        assert cli.status(arguments) == 0
    out, err = capfd.readouterr()
    events = [row for row in rows(out) if "event" in row]
    frames = [row for row in rows(out) if "event" not in row]
    assert [event["event"] for event in events][:3] == ["running", "lost", "running"]
    assert {event["source"] for event in events} == {f"tcp://127.0.0.1:{server.port}"}
    assert "secret" not in out + err
    assert len(frames) == 9
    assert all("time_s" in frame for frame in frames)
    lines = [line for line in err.splitlines() if ": lost: " in line]
    assert lines
    assert lines[0].startswith(f"tcp://127.0.0.1:{server.port}: lost: the stream ended (running")
    assert json.loads(summary.read_text())["reconnects"] >= 1
    assert "reconnects" in err


def test_quiet_leaves_the_lines_for_people_out(
    network: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Server(hangs_up) as server:
        url = f"tcp://127.0.0.1:{server.port}"
        assert cli.status(["run", url, "--model", str(network), "--max-frames", "8", "-q"]) == 0
    assert capfd.readouterr() == ("", "")


def test_tables_hold_no_events(network: Path, tmp_path: Path) -> None:
    table, mot = tmp_path / "a.csv", tmp_path / "a.txt"
    with Server(hangs_up) as server:
        arguments = ["run", f"tcp://127.0.0.1:{server.port}", "--model", str(network), "-q"]
        arguments += ["--csv", str(table), "--mot", str(mot), "--max-frames", "8"]
        assert cli.status(arguments) == 0
    assert "lost" not in table.read_text() + mot.read_text()


def test_without_retries_the_end_of_a_stream_is_an_error_and_the_figures_are_written(
    network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary, metrics = tmp_path / "summary.json", tmp_path / "metrics.json"
    out = tmp_path / "out.mp4"
    with Server(hangs_up) as server:
        arguments = ["run", f"tcp://127.0.0.1:{server.port}", "--model", str(network)]
        arguments += ["--retry", "0", "--out", str(out)]
        arguments += ["--summary-json", str(summary), "--metrics-json", str(metrics)]
        assert cli.status(arguments) == 3
    figures = json.loads(summary.read_text())
    assert "the stream ended" in figures["error"]
    assert figures["frames"] >= 1
    assert json.loads(metrics.read_text())["frames"] == figures["frames"]
    with av.open(out) as container:
        assert len(list(container.decode(video=0))) == figures["frames"]
    assert ": ended: " in capfd.readouterr().err


def test_a_camera_that_is_not_there_is_no_end_without_a_limit(
    network: Path, tmp_path: Path
) -> None:
    port, summary = free_port(), tmp_path / "summary.json"
    command = [sys.executable, "-m", "stillframe", "run", f"rtsp://127.0.0.1:{port}/x"]
    command += ["--model", str(network), "--summary-json", str(summary)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith(f"rtsp://127.0.0.1:{port}/x: lost: cannot be opened: ")
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=HANGS_S) == 143
    finally:
        process.kill()
        process.communicate()
    assert json.loads(summary.read_text())["stopped_by"] == "SIGTERM"


def test_a_full_disk_is_an_end_with_figures(network: Path, tmp_path: Path) -> None:
    clip, summary = media.clip(tmp_path / "clip.mp4", 6), tmp_path / "summary.json"
    arguments = ["run", str(clip), "--model", str(network), "--jsonl", "/dev/full"]
    assert cli.status([*arguments, "--summary-json", str(summary)]) == 5
    assert "no space" in json.loads(summary.read_text())["error"]


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_jump_of_time_stamps_makes_the_video_no_longer(
    suffix: str, network: Path, tmp_path: Path
) -> None:
    """Two seconds of video whose second half claims to be fourteen hours later."""
    times = [*range(25), *(50_000 * 25 + number for number in range(25, 50))]
    clip = media.clip(tmp_path / f"clip{suffix}", 50, times=times, audio_s=2.0)
    for out in (tmp_path / "out.mp4", tmp_path / "out.mkv"):
        summary = out.with_suffix(".json" if out.suffix == ".mp4" else ".mkv.json")
        arguments = ["run", str(clip), "--model", str(network), "--out", str(out)]
        assert cli.status([*arguments, "--summary-json", str(summary)]) == 0
        with av.open(out) as container:
            shown = [float(frame.time or 0) for frame in container.decode(video=0)]
            assert container.duration is not None
            assert container.duration / av.time_base == pytest.approx(2.0, abs=0.2)
        steps = [b - a for a, b in pairwise(shown)]
        assert steps == pytest.approx([0.04] * 49, abs=0.002)
        assert json.loads(summary.read_text())["rebased"] == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("0", 0), ("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)],
)
def test_times_to_retry(text: str | None, seconds: float | None) -> None:
    assert RunRequest(retry=text).retry_s() == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 minutes", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--retry: expected a time such as 90s, 5m or 2h"):
        RunRequest(retry=text).retry_s()


def test_explain_on_a_live_stream_ends(
    network: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = sys.modules["stillframe.pipeline.cli.explain"]  # the package shows its function
    monkeypatch.setattr(module, "LIVE_FRAMES", 3)

    def endless(server: Server, connection: socket.socket, number: int) -> None:
        server.send_frames(connection, (n % 200 for n in range(100_000)), rate=50)

    with Server(endless) as server:
        command = ["explain", str(network), f"tcp://127.0.0.1:{server.port}", "--threads", "1"]
        assert ends(lambda: cli.status([*command, "--json"])) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["totals"]["frames"] == 2  # after the first
    assert "the first 3 frames are examined" in err
