"""stillframe run as a user runs it: real processes, real files, and what goes wrong with them."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import cv2
import numpy as np
import pytest

from stillframe.pipeline import cli
from tests import networks
from tests.hostile import media

COMMAND = [sys.executable, "-m", "stillframe", "run"]
LONG = 3_000  # frames; no test waits for the end of so many
WAIT_S = 30


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.negative(tmp_path_factory.mktemp("models") / "negative.onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames at uneven times, with sound."""
    times = [0, 1, 2, 4, 5, 6, 9, 10, 11, 12, 14, 15]
    path = tmp_path_factory.mktemp("clips") / "numbers.mp4"
    return media.clip(path, 12, times=times, audio_s=0.6)


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "still.mkv"
    media.encode(path, [media.picture(5)] * 10, codec="ffv1", pix_fmt="bgr0")
    return path


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `stillframe run` in this process, which is quicker than in one of its own."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        code = cli.status(["run", *map(str, arguments)])
        return Done(code, *capfd.readouterr())

    return run


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def video_times(path: Path) -> list[float]:
    with av.open(path) as container:
        return [float(frame.time or 0) for frame in container.decode(video=0)]


# --- the main job --------------------------------------------------------------------------------


def test_video_and_lines_come_out_with_the_source_s_own_times(
    run: Run, network: Path, clip: Path, tmp_path: Path
) -> None:
    out, text = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    done = run(clip, "--model", network, "--confidence", 0, "--out", out, "--jsonl", text)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    rows = lines(text.read_text())
    assert [row["index"] for row in rows] == list(range(12))
    assert set(rows[0]) == {"index", "time_s", "provenance", "age_s", "detections"}
    assert [row["time_s"] for row in rows] == pytest.approx(video_times(clip), abs=1e-4)
    assert video_times(out) == pytest.approx(video_times(clip), abs=1e-3)
    with av.open(out) as container:
        assert container.streams.audio
        assert container.streams.video[0].width == 96
    assert "12 computed" in done.stderr
    assert str(out) in done.stderr


def test_lines_on_standard_output_are_all_that_is_there(
    run: Run, network: Path, clip: Path
) -> None:
    done = run(clip, "--model", network, "--jsonl", "-", "--max-frames", 5)
    assert done.returncode == 0
    assert [row["index"] for row in lines(done.stdout)] == [0, 1, 2, 3, 4]


def test_pictures_are_played_at_the_rate_that_was_asked_for(
    run: Run, network: Path, tmp_path: Path
) -> None:
    for number in range(3):
        shade = np.full((64, 96, 3), 40 * number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.png"), shade)
    done = run(tmp_path, "--model", network, "--fps", 2, "--jsonl", "-")
    assert done.returncode == 0, done.stderr
    assert [row["time_s"] for row in lines(done.stdout)] == [0.0, 0.5, 1.0]
    assert run(tmp_path, "--model", network, "--fps", 0).returncode == 3


def test_tables_and_mot_text(run: Run, network: Path, clip: Path, tmp_path: Path) -> None:
    table, mot = tmp_path / "out.csv", tmp_path / "out.txt"
    done = run(clip, "--model", network, "--confidence", 0, "--csv", table, "--mot", mot)
    assert done.returncode == 0, done.stderr
    assert len(table.read_text().splitlines()) == 13
    assert mot.read_text().splitlines()[0].startswith("1,-1,10.00,8.00,40.00,32.00,")


def test_the_summary_tells_what_was_saved(
    run: Run, network: Path, still: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "summary.json"
    options = ("--reuse", "frame", "--max-age", "inf")
    done = run(still, "--model", network, "--summary-json", figures, *options)
    assert done.returncode == 0, done.stderr
    summary = json.loads(figures.read_text())
    assert (summary["frames"], summary["computed"], summary["unchanged"]) == (10, 1, 9)
    assert summary["reused_share"] == 0.9
    assert summary["active_share"] == 0.1
    assert summary["model"] == {"name": "brightness", "task": "detection", "size": [64, 96]}
    assert summary["settings"]["reuse"] == "frame"
    assert summary["stopped_by"] is None
    assert set(summary["spent_ms"]) == {"wait", "fit", "gate", "infer", "decode", "draw", "write"}
    assert {"fit", "decode", "draw", "write"} <= set(summary["cpu_ms"]) <= set(summary["spent_ms"])
    assert re.search(r"reused +90\.0%", done.stderr)
    assert run(still, "--model", network, "--quiet").stderr == ""


def test_off_computes_all_and_every_skips(run: Run, network: Path, still: Path) -> None:
    def origins(*arguments: object) -> list[str]:
        done = run(still, "--model", network, "--jsonl", "-", *arguments)
        return [row["provenance"] for row in lines(done.stdout)]

    assert origins("--reuse", "off") == ["computed"] * 10
    assert origins("--reuse", "off", "--every", 4) == (["computed"] + ["reused"] * 3) * 2 + [
        "computed",
        "reused",
    ]


@pytest.mark.parametrize(("mode", "grey_levels"), [("layer", 16.0), ("exact", 0.01)])
def test_layer_modes_recompute_parts(
    mode: str, grey_levels: float, run: Run, painter: Path, clip: Path
) -> None:
    done = run(clip, "--model", painter, "--jsonl", "-", "--reuse", mode)
    assert done.returncode == 0, done.stderr
    rows = lines(done.stdout)
    plain = lines(run(clip, "--model", painter, "--jsonl", "-", "--reuse", "off").stdout)
    assert "partial" in {row["provenance"] for row in rows}
    for row, alone in zip(rows, plain, strict=True):
        assert row["image"]["mean_rgb"] == pytest.approx(
            alone["image"]["mean_rgb"], abs=grey_levels
        )


@pytest.mark.parametrize("overlay", ["boxes", "changed", "none"])
def test_overlays_reach_the_video(
    run: Run, overlay: str, network: Path, still: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    done = run(still, "--model", network, "--confidence", 0, "--out", out, "--overlay", overlay)
    assert done.returncode == 0, done.stderr
    with av.open(out) as container:
        image = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    with av.open(still) as container:
        before = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    far = float((abs(image - before).max(axis=2) > 60).mean())
    assert (far > 0.02) == (overlay != "none")


def test_a_network_that_paints_decides_on_the_picture(
    run: Run, painter: Path, still: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    done = run(still, "--model", painter, "--out", out, "--jsonl", "-")
    assert done.returncode == 0, done.stderr
    assert lines(done.stdout)[0]["image"]["size"] == [64, 96]
    with av.open(out) as container, av.open(still) as source:
        painted = next(container.decode(video=0)).to_ndarray(format="rgb24").mean()
        brightness = next(source.decode(video=0)).to_ndarray(format="rgb24").mean()
    assert painted == pytest.approx(255 - brightness, abs=4)


def test_frames_come_through_a_pipe(network: Path) -> None:
    stream = b"".join(media.y4m_bytes(6))
    done = subprocess.run(
        [*COMMAND, "-", "--model", str(network), "--jsonl", "-"],
        input=stream,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6


# --- what goes wrong -----------------------------------------------------------------------------


Refused = Callable[..., None]


@pytest.fixture
def refused(run: Run) -> Refused:
    """Expects one line on standard error that says so, and the exit code."""

    def refused(code: int, says: str, *arguments: object) -> None:
        done = run(*arguments)
        assert done.returncode == code, done.stderr
        message = done.stderr.splitlines()[-1]
        assert message.startswith("stillframe: error: ")
        assert re.search(says, message), message
        assert "Traceback" not in done.stderr

    return refused


def test_two_outputs_in_one_place_are_refused(refused: Refused, network: Path, clip: Path) -> None:
    refused(2, "--jsonl and --csv both write -", clip, "--jsonl", "-", "--csv", "-")
    refused(2, "only --jsonl --csv --mot can write to standard output", clip, "--out", "-")
    refused(
        2, r"--out and --jsonl both write \./a.mp4", clip, "--out", "a.mp4", "--jsonl", "./a.mp4"
    )


def test_sources_and_models_that_are_not_there(
    refused: Refused, network: Path, clip: Path, tmp_path: Path
) -> None:
    refused(3, "nowhere.mp4", tmp_path / "nowhere.mp4", "--model", network)
    refused(3, "sound", _sound_only(tmp_path), "--model", network)
    refused(4, "unknown model 'nothing'", clip, "--model", "nothing")
    refused(4, "nowhere.onnx", clip, "--model", tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    refused(4, "text.onnx", clip, "--model", tmp_path / "text.onnx")


def _sound_only(folder: Path) -> Path:
    path = folder / "sound.mp4"
    with av.open(path, "w") as output:
        media._tone(output, output.add_stream("aac", rate=48_000, layout="mono"), 0.5)
    return path


def test_nothing_is_overwritten_without_force(
    run: Run, refused: Refused, network: Path, clip: Path, tmp_path: Path
) -> None:
    """And nothing is fetched, read or computed before that is said."""
    for option, name in {
        "--out": "a.mp4",
        "--jsonl": "a.jsonl",
        "--summary-json": "a.json",
    }.items():
        path = tmp_path / name
        path.write_text("mine")
        refused(5, f"{name}: there is such a file", "nowhere.mp4", option, path)
        assert path.read_text() == "mine"
    done = run(clip, "--model", network, "--jsonl", tmp_path / "a.jsonl", "--force")
    assert done.returncode == 0
    assert len(lines((tmp_path / "a.jsonl").read_text())) == 12


@pytest.mark.parametrize("option", ["--jsonl", "--csv", "--mot", "--summary-json", "--out"])
def test_what_is_read_is_never_written(
    option: str, refused: Refused, network: Path, clip: Path
) -> None:
    before = clip.read_bytes(), network.read_bytes()
    for path in (clip, network):
        arguments = [str(clip), "--model", str(network), option, str(path), "--force"]
        refused(5, "this is read by the same run", *arguments)
    assert (clip.read_bytes(), network.read_bytes()) == before


def test_outputs_that_cannot_be_are_refused_before_any_work(
    refused: Refused, network: Path, clip: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "nowhere" / "figures.json"
    arguments = [str(clip), "--model", str(network), "--summary-json"]
    refused(5, "there is no folder", *arguments, str(missing))
    refused(5, "a folder; name a file in it", *arguments, str(tmp_path))


def test_a_full_disk_is_one_line(refused: Refused, network: Path, clip: Path) -> None:
    refused(5, "/dev/full: .*no space", clip, "--model", network, "--jsonl", "/dev/full")


def test_too_many_threads_are_bounded_with_one_line(
    network: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(clip), "--model", str(network), "--reuse", "off", "--jsonl", "-"]
    assert cli.status([*arguments, "--threads", "5000", "--max-frames", "2"]) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "5000 threads" in line]
    assert len(lines) == 1
    assert lines[0].startswith("stillframe: warning: 5000 threads were requested")


# --- ends that are not the end -------------------------------------------------------------------


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip that no test reads to its end."""
    path = tmp_path_factory.mktemp("clips") / "endless.mp4"
    media.encode(path, (media.picture(n % 256) for n in range(LONG)))
    return path


@pytest.fixture
def started(
    network: Path, endless: Path, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A run in the middle of its work, and the video that it writes."""
    out = tmp_path / "out.mp4"
    arguments = [endless, "--model", network, "--out", out, "--jsonl", "-"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(40):
        assert process.stdout.readline()
    yield process, out
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_everything_closed(
    started: tuple[subprocess.Popen[str], Path], signum: int, code: int
) -> None:
    process, out = started
    process.send_signal(signum)
    assert process.stdout is not None
    assert process.stderr is not None
    # Not `communicate`, which would pass over what the lines before it left in the buffer.
    rest, errors = process.stdout.read(), process.stderr.read()
    assert process.wait(timeout=WAIT_S) == code
    rows = 40 + len(rest.splitlines())
    assert rows < LONG
    assert [row["index"] for row in lines(rest)] == list(range(40, rows))
    assert len(video_times(out)) == rows
    assert "Traceback" not in errors
    assert "frame rate" in errors  # the summary


def test_a_reader_that_goes_away_is_a_normal_end(
    started: tuple[subprocess.Popen[str], Path],
) -> None:
    process, out = started
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=WAIT_S) == 0
    assert len(video_times(out)) >= 40
    assert process.stderr is not None
    assert "rror" not in process.stderr.read()


def test_head_takes_one_line(network: Path, endless: Path) -> None:
    command = " ".join(map(str, [*COMMAND, endless, "--model", network, "--jsonl", "-", "-q"]))
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(lines(done.stdout)) == 1


def test_a_killed_run_leaves_a_file_that_plays(
    started: tuple[subprocess.Popen[str], Path],
) -> None:
    """Written in fragments of a second: what is older than that is there."""
    process, out = started
    assert process.stdout is not None
    for _ in range(160):
        process.stdout.readline()
    process.kill()
    process.communicate()
    assert len(video_times(out)) >= 100


@pytest.fixture
def standard_input() -> Iterator[Callable[[bytes], None]]:
    """Makes a pipe with these bytes, which then ends, the standard input of this process."""
    before = os.dup(0)

    def becomes(content: bytes) -> None:
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        os.close(reader)
        os.set_blocking(writer, False)
        assert os.write(writer, content) == len(content), "a pipe holds so much at once"
        os.close(writer)

    yield becomes
    os.dup2(before, 0)
    os.close(before)


def test_a_source_that_breaks_off_is_reported_and_what_came_before_is_kept(
    run: Run, standard_input: Callable[[bytes], None], network: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    stream = b"".join(media.y4m_bytes(6))
    standard_input(stream[: len(stream) * 3 // 4])
    done = run("-", "--model", network, "--out", out, "--jsonl", "-")
    assert len(video_times(out)) == len(done.stdout.splitlines()) >= 4


def test_show_serves_the_run_while_it_goes_on(network: Path, endless: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(endless), "--model", str(network), "--show"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stderr is not None
        address = re.search(r"http://\S+", process.stderr.readline())
        assert address is not None
        connection = http.client.HTTPConnection(urlsplit(address.group()).netloc, timeout=10)
        connection.request("GET", "/stream")
        assert b"image/jpeg" in connection.getresponse().read(200)
        asking = http.client.HTTPConnection(urlsplit(address.group()).netloc, timeout=10)
        asking.request("GET", "/figures")
        assert {"kept", "bound", "audits"} <= set(json.loads(asking.getresponse().read()))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 130
    finally:
        process.kill()
        process.communicate()
