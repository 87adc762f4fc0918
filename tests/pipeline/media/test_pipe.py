"""Standard input and named pipes: any container, frame by frame."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import SourceError
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import SourceState, open_source
from stillframe.pipeline.media.pipe import PipeReader
from tests.hang_guard import ends
from tests.hostile import media
from tests.hostile.media import number_of, numbers


class Feeder:
    """A named pipe, and a thread that writes parts to it, a while apart."""

    def __init__(self, path: Path, parts: list[bytes], pause_s: float = 0.0) -> None:
        os.mkfifo(path)
        self.path = path
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, args=(parts, pause_s))

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)
        assert not self._thread.is_alive()

    def _feed(self, parts: list[bytes], pause_s: float) -> None:
        with open(self.path, "wb", buffering=0) as pipe:
            for part in parts:
                try:
                    pipe.write(part)
                except BrokenPipeError:
                    return
                self.sent += 1
                if self._stop.wait(pause_s):
                    return


@pytest.mark.parametrize("container", ["y4m", "mpegts", "matroska", "mp4"])
def test_a_pipe_may_carry_any_container(container: str, tmp_path: Path) -> None:
    fragments = {"options": {"movflags": "frag_keyframe+empty_moov"}} if container == "mp4" else {}
    parts = (
        media.y4m_bytes(30)
        if container == "y4m"
        else [media.stream_bytes(30, container, **fragments)]
    )
    with Feeder(tmp_path / "fifo", parts) as feeder, open_source(feeder.path) as source:
        assert source.info.kind == "pipe"
        got = list(source)
        assert source.state is SourceState.ENDED
    assert numbers(got) == list(range(30))
    assert [frame.time_s for frame in got] == pytest.approx([n / 25 for n in range(30)], abs=1e-3)


def test_a_pipe_is_read_frame_by_frame(tmp_path: Path) -> None:
    with (
        Feeder(tmp_path / "fifo", media.y4m_bytes(12), pause_s=0.03) as feeder,
        open_source(feeder.path) as source,
    ):
        lags = []
        for frame in source:
            assert number_of(frame.image) == frame.index
            lags.append(feeder.sent - 1 - (frame.index + 1))
    assert len(lags) == 12
    assert max(lags) <= 1  # parts sent beyond the frame in hand


def test_closing_unblocks_a_reader_that_waits_on_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    holder = os.open(tmp_path / "fifo", os.O_RDWR)
    os.write(holder, b"".join(media.y4m_bytes(2)))
    source = open_source(tmp_path / "fifo")
    assert numbers([next(source), next(source)]) == [0, 1]
    got: list[Frame] = []
    reader = threading.Thread(target=lambda: got.extend(source))
    reader.start()
    time.sleep(0.1)
    assert reader.is_alive()
    ends(source.close)
    ends(reader.join)
    assert got == []
    assert source.state is SourceState.CLOSED
    source.close()
    os.close(holder)
    assert not [t for t in threading.enumerate() if t.name == "stillframe-reader"]


def test_pipes_and_files_close_their_descriptors(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mkv", 3)
    before = set(os.listdir("/proc/self/fd"))
    for n in range(3):
        with (
            Feeder(tmp_path / f"fifo{n}", media.y4m_bytes(2)) as feeder,
            open_source(feeder.path) as source,
        ):
            next(source)
        with open_source(path) as source:
            next(source)
        with Feeder(tmp_path / f"bad{n}", [b"x" * 5000]) as feeder, pytest.raises(SourceError):
            open_source(feeder.path)
    assert set(os.listdir("/proc/self/fd")) == before


STDIN = """
from stillframe.pipeline.media.open_source import frames
print("up", flush=True)
for f in frames('-'): print(f.index)
"""


@pytest.mark.parametrize("as_file", [False, True])
def test_standard_input_is_a_source(as_file: bool, tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mkv", 5)
    run: Callable[..., Any] = subprocess.run
    with open(path, "rb") as file:
        feed = {"stdin": file} if as_file else {"input": path.read_bytes()}
        done = run([sys.executable, "-c", STDIN], **feed, capture_output=True, timeout=120)
    assert done.stdout.split() == [b"up", b"0", b"1", b"2", b"3", b"4"], done.stderr.decode()


def test_an_mp4_with_its_index_at_the_end_cannot_come_through_a_pipe(tmp_path: Path) -> None:
    # beyond what FFmpeg holds in its buffer and could go back to
    path = tmp_path / "a.mp4"
    media.encode(path, media.pictures(30, 640, 480), codec_options={"qp": "4"})
    data = path.read_bytes()
    with (
        Feeder(tmp_path / "fifo", [data]) as feeder,
        pytest.raises(SourceError, match="a pipe cannot go back"),
    ):
        open_source(feeder.path)


HEED_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""A shell that starts its commands in the background has them ignore it."""


def test_ctrl_c_ends_the_wait_for_a_silent_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"{HEED_CTRL_C}{STDIN}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert b"KeyboardInterrupt" in errors
    assert process.returncode in (-signal.SIGINT, 130, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much a pipe holds")
def test_the_writer_of_a_pipe_may_be_a_frame_ahead() -> None:
    end, start = os.pipe()
    before = fcntl.fcntl(start, fcntl.F_GETPIPE_SZ)
    try:
        fcntl.fcntl(start, fcntl.F_SETPIPE_SZ, 2 * before)
    except OSError as error:
        pytest.skip(f"this system grants no longer pipe: {error}")
    fcntl.fcntl(start, fcntl.F_SETPIPE_SZ, before)
    reader = PipeReader(end, name="a pipe", owned=True)
    try:
        assert fcntl.fcntl(start, fcntl.F_GETPIPE_SZ) > before
    finally:
        reader.close()
        os.close(start)
