"""stillframe filter as a program in a pipe: real processes, real ffmpeg, and how a pipe can end."""

import fcntl
import hashlib
import inspect
import json
import os
import re
import runpy
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stillframe.errors import ModelError, SinkError, SourceError
from stillframe.models import zoo
from stillframe.models.results import Detections
from stillframe.pipeline import cli
from stillframe.pipeline.cli.filter import filter_
from stillframe.pipeline.filter.effects import EFFECTS
from stillframe.pipeline.filter.filter import Filter
from stillframe.pipeline.filter.planes import LAYOUTS, MATRICES, Planes
from stillframe.pipeline.filter.sink import FORMATS, OutputPipe
from stillframe.pipeline.filter.source import PlaneFrame, PlaneSource, open_planes
from stillframe.pipeline.sinks.records import FilterJsonlSink
from tests import networks, streams
from tests.hostile import media

COMMAND = [sys.executable, "-m", "stillframe", "filter"]
SIZE = 64, 96
WAIT_S = 120  # a first run compiles kernels, perhaps beside other tests

needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="needs the ffmpeg command: apt-get install ffmpeg"
)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")


def pictures(layout: str, count: int = 4) -> list[Planes]:
    return [streams.noise(layout, *SIZE, seed=n) for n in range(count)]


def passed(
    source: Path | str, out: Path, form: Any = "y4m", **options: Any
) -> tuple[PlaneSource, list[PlaneFrame]]:
    """Read a stream and write it unchanged, in this process."""
    shots = []
    with (
        open(out, "wb") as file,
        open_planes(str(source), **options) as frames,
        FORMATS[form](OutputPipe(file.fileno(), "out"), frames.info) as sink,
    ):
        for shot in frames:
            sink.write(shot, shot.picture)
            shots.append(shot)
    return frames, shots


def hashes(path: Path, pix_fmt: str) -> list[str]:
    """A digest of each frame's samples, decoded by FFmpeg. pix_fmt: their expected format."""
    digests = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.format.name in (pix_fmt, pix_fmt.replace("yuv", "yuvj")), frame.format
            samples = b"".join(
                np.frombuffer(memoryview(plane), np.uint8)
                .reshape(-1, plane.line_size)[: plane.height, : plane.width]
                .tobytes()
                for plane in frame.planes
            )
            digests.append(hashlib.sha256(samples).hexdigest())
    return digests


# --- passing frames on unchanged -----------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("more", ["", " XCOLORRANGE=FULL XFOO=bar"])
def test_y4m_passes_bit_for_bit_header_and_all(layout: str, more: str, tmp_path: Path) -> None:
    path = streams.written(tmp_path / "in.y4m", pictures(layout), more)
    passed(path, tmp_path / "out.y4m")
    assert (tmp_path / "out.y4m").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rawvideo_is_the_samples_and_nothing_else(layout: str, tmp_path: Path) -> None:
    frames = pictures(layout)
    passed(streams.written(tmp_path / "in.y4m", frames), tmp_path / "out.raw", "rawvideo")
    assert (tmp_path / "out.raw").read_bytes() == b"".join(p.data.tobytes() for p in frames)


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p"])
def test_nut_is_lossless(layout: str, tmp_path: Path) -> None:
    path = streams.written(tmp_path / "in.y4m", pictures(layout))
    passed(path, tmp_path / "out.nut", "nut")
    assert hashes(tmp_path / "out.nut", layout) == hashes(path, layout)


def test_grey_in_nut_keeps_every_level(tmp_path: Path) -> None:
    frames = pictures("gray")
    passed(streams.written(tmp_path / "in.y4m", frames), tmp_path / "out.nut", "nut")
    passed(tmp_path / "out.nut", tmp_path / "back.raw", "rawvideo")
    back = (tmp_path / "back.raw").read_bytes()
    size = SIZE[0] * SIZE[1]
    every = len(back) // len(frames)  # with or without planes of no colour behind it
    for number, picture in enumerate(frames):
        assert back[number * every :][:size] == picture.data.tobytes()


def marked(path: Path, *, times: list[int], **settings: Any) -> Path:
    """A lossless H.264 clip with marks and uneven times."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(
            "libx264", rate=25, options={"qp": "0", "bf": "0", **settings.pop("options", {})}
        )
        context = stream.codec_context
        context.width, context.height = SIZE[::-1]
        context.pix_fmt = settings.pop("pix_fmt", "yuv420p")
        context.time_base = stream.time_base = Fraction(1, 1000)
        for name, value in settings.items():
            setattr(context, name, value)
        for number, at in enumerate(times):
            image = media.picture(number, SIZE[1], SIZE[0])
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=context.pix_fmt)
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("form", ["nut", "mpegts"])
@pytest.mark.parametrize("value", [1, 2])
def test_containers_keep_times_range_matrix_and_aspect(
    form: str, value: int, tmp_path: Path
) -> None:
    times = [0, 40, 80, 200, 240, 333]
    colours = {"color_range": value, "colorspace": 1, "color_primaries": 1, "color_trc": 1}
    path = marked(tmp_path / "in.mkv", times=times, sample_aspect_ratio=Fraction(16, 15), **colours)
    passed(path, tmp_path / f"out.{form}", form)
    with av.open(str(tmp_path / f"out.{form}")) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        assert stream.sample_aspect_ratio == Fraction(16, 15)
    at = [round(1000 * float((f.pts - frames[0].pts) * f.time_base)) for f in frames]
    assert at == times
    for name, expected in colours.items():
        assert getattr(frames[0], name) == expected, name
    if form == "nut":
        assert hashes(tmp_path / "out.nut", "yuv420p") == hashes(path, "yuv420p")


@pytest.mark.parametrize(("mark", "bottom"), [("t", False), ("b", True), ("p", None)])
@pytest.mark.parametrize("form", ["y4m", "nut", "mpegts"])
def test_the_interlace_flag_is_passed_on(
    mark: str, bottom: bool | None, form: str, tmp_path: Path
) -> None:
    data = streams.y4m(pictures("yuv420p")).replace(b" Ip ", f" I{mark} ".encode(), 1)
    (tmp_path / "in.y4m").write_bytes(data)
    passed(tmp_path / "in.y4m", tmp_path / f"out.{form}", form)
    frames, _ = passed(tmp_path / f"out.{form}", tmp_path / "back.y4m")
    assert frames.info.header.interlace == mark
    assert f" I{mark} ".encode() in (tmp_path / "back.y4m").read_bytes()[:100]


def test_a_container_becomes_y4m_with_its_tags(tmp_path: Path) -> None:
    path = marked(
        tmp_path / "in.mkv",
        times=[0, 40, 80],
        sample_aspect_ratio=Fraction(4, 3),
        color_range=2,
        colorspace=1,
    )
    frames, shots = passed(path, tmp_path / "out.y4m")
    assert (tmp_path / "out.y4m").read_bytes().split(b"\n", 1)[0] == (
        b"YUV4MPEG2 W96 H64 F25:1 Ip A4:3 C420mpeg2 XCOLORRANGE=FULL"
    )
    assert hashes(tmp_path / "out.y4m", "yuv420p") == hashes(path, "yuv420p")
    assert (frames.info.colours.matrix, frames.info.colours.full) == ("bt709", True)
    assert [shot.time_s for shot in shots] == pytest.approx([0, 0.04, 0.08])


def test_the_matrix_is_the_option_else_the_tag_else_that_of_the_height(
    tmp_path: Path,
) -> None:
    small = streams.written(tmp_path / "in.y4m", pictures("yuv420p", 1))
    tall = streams.written(tmp_path / "tall.y4m", [streams.noise("yuv420p", 720, 16)])
    stated = marked(tmp_path / "in.mkv", times=[0], colorspace=9)
    for path, options, expected in (
        (small, {}, "bt601"),
        (tall, {}, "bt709"),
        (stated, {}, "bt2020"),
        (tall, {"matrix": "bt601"}, "bt601"),
    ):
        with open_planes(str(path), **options) as frames:  # type: ignore[arg-type]
            assert frames.info.colours.matrix == expected


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_rotated_clip_leaves_upright(turn: int, tmp_path: Path) -> None:
    path = media.clip(tmp_path / "turned.mp4", 2, rotation=turn)
    with open_planes(str(path)) as frames:
        first = next(frames)
        upright = SIZE if turn == 180 else SIZE[::-1]
        assert frames.info.size == upright
    from stillframe.pipeline.filter.planes import PlanesToRgb

    picture = first.picture
    image = PlanesToRgb(picture.layout, picture.colours, upright)(picture)
    from stillframe.pipeline.media.open_source import frames as rgb_frames

    other = next(iter(rgb_frames(path))).image
    assert np.abs(image.astype(int) - other).mean() < 1.5


def test_a_rotated_422_picture_is_refused(tmp_path: Path) -> None:
    upside = media.clip(tmp_path / "180.mp4", 2, rotation=180, pix_fmt="yuv422p")
    with open_planes(str(upside)) as frames:
        assert frames.info.size == SIZE
    sideways = media.clip(tmp_path / "90.mp4", 2, rotation=90, pix_fmt="yuv422p")
    with pytest.raises(SourceError, match="a yuv422p picture to be turned by 90 degrees has no"):
        open_planes(str(sideways))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("pix_fmt", ["yuv420p10le", "yuv411p", "rgb24", "nv12", "yuva420p"])
def test_other_samples_are_refused_by_name(pix_fmt: str, tmp_path: Path) -> None:
    path = tmp_path / "in.nut"
    media.encode(path, media.pictures(2), codec="rawvideo", pix_fmt=pix_fmt)
    with pytest.raises(SourceError) as raised:
        open_planes(str(path))
    text = str(raised.value)
    assert "frame 0: expected 8-bit 4:2:0, 4:2:2, 4:4:4 or grey" in text
    assert "; convert it with: ffmpeg -i IN -pix_fmt yuv420p -f yuv4mpegpipe -" in text


def test_uneven_times_are_refused_by_y4m_and_not_by_nut(tmp_path: Path) -> None:
    path = marked(tmp_path / "in.mkv", times=[0, 40, 80, 200, 240])
    with pytest.raises(SinkError, match=r"frame 3 is at 0.200 s, and y4m .* write --format nut"):
        passed(path, tmp_path / "out.y4m")
    assert hashes(tmp_path / "out.y4m", "yuv420p") == hashes(path, "yuv420p")[:3]
    passed(path, tmp_path / "out.nut", "nut")


def test_times_rounded_to_milliseconds_count_as_a_constant_rate(tmp_path: Path) -> None:
    times = [round(1000 * n / 30) for n in range(60)]
    path = media.clip(tmp_path / "in.mkv", 60, rate=Fraction(30), times=times,
                      time_base=Fraction(1, 1000))  # fmt: skip
    _, shots = passed(path, tmp_path / "out.y4m")
    assert len(shots) == 60


@pytest.mark.parametrize("form", ["nut", "mpegts"])
def test_odd_sides_are_refused_by_h264(form: str, tmp_path: Path) -> None:
    path = streams.written(tmp_path / "in.y4m", [streams.noise("yuv420p", 63, 95)])
    with pytest.raises(SinkError, match=r"expected even sides for H\.264 in yuv420p, got 95x63"):
        passed(path, tmp_path / "out", form)


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_is_one_clear_error(form: str, tmp_path: Path) -> None:
    path = streams.written(tmp_path / "in.y4m", pictures("yuv420p"))
    with pytest.raises(SinkError, match="out: writing failed: no space left on device"):
        passed(path, Path("/dev/full"), form)


@pytest.mark.parametrize("spec", ["0", "rtsp://host/a", "pictures"])
def test_sources_other_than_files_and_pipes_are_refused(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SourceError, match="expected -, a file, a named pipe or sample:NAME"):
        open_planes(spec)


def test_a_change_of_size_is_refused_where_it_comes(tmp_path: Path) -> None:
    small = marked(tmp_path / "a.ts", times=[0, 40]).read_bytes()
    media.encode(tmp_path / "b.ts", media.pictures(2, 128, 96))
    (tmp_path / "both.ts").write_bytes(small + (tmp_path / "b.ts").read_bytes())
    with pytest.raises(SourceError, match=r"expected yuv420p 96x64 as before, got yuv420p 128x96"):
        passed(tmp_path / "both.ts", tmp_path / "out.nut", "nut")


# --- as a process --------------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[Any]:
    """Starts the command with its standard input and output as pipes."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object, **settings: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            **settings,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def taken(process: subprocess.Popen[bytes], size: int) -> bytes:
    """That many bytes of the process's output; fewer if it ends or stays silent."""
    assert process.stdout is not None
    descriptor, data, until = process.stdout.fileno(), b"", time.monotonic() + WAIT_S
    while len(data) < size and time.monotonic() < until:
        if select.select([descriptor], [], [], 0.5)[0]:
            more = os.read(descriptor, size - len(data))
            if not more:
                break
            data += more
    return data


def test_a_frame_leaves_before_the_next_must_arrive(started: Any, network: Path) -> None:
    frames = pictures("yuv420p")
    start = streams.header("yuv420p", *SIZE)
    process = started("--effect", "mask", "--model", network, "-q")
    process.stdin.write(start)
    sent = streams.frames(frames)
    for number, data in enumerate(sent):
        process.stdin.write(data)
        got = taken(process, len(data) + (len(start) if number == 0 else 0))
        assert len(got) == len(data) + (len(start) if number == 0 else 0), number
    process.stdin.close()
    assert process.wait(WAIT_S) == 0
    assert process.stdout.read() == b""
    assert process.stderr.read() == b""


def test_a_frame_of_nut_leaves_before_the_next_must_arrive(started: Any) -> None:
    """The frame can be decoded while the input is still open."""
    process = started("--effect", "none", "--format", "nut", "-q")
    process.stdin.write(streams.header("yuv420p", *SIZE))
    sent = streams.frames(pictures("yuv420p", 6))
    got = 0
    for number, data in enumerate(sent, 1):
        process.stdin.write(data)
        # noise: a frame takes as many bytes as it has samples; one kept back would be missed
        expected = int(number * len(data) * 0.9)
        got += len(taken(process, expected - got))
        assert got == expected, number


def test_a_reader_that_goes_away_is_a_normal_end(started: Any) -> None:
    for form in ("y4m", "nut"):
        process = started("--effect", "none", "--format", form)
        process.stdin.write(streams.header("yuv420p", *SIZE))
        data = streams.frames(pictures("yuv420p", 1))[0]
        process.stdin.write(data)
        assert taken(process, 1000)
        process.stdout.close()
        process.stdout = open(os.devnull, "rb")  # noqa: SIM115
        for _ in range(400):
            try:
                process.stdin.write(data)
            except BrokenPipeError:
                break
        else:
            process.stdin.close()
        assert process.wait(WAIT_S) == 0, form
        assert process.stderr.read() == b"", form


def test_a_stream_cut_in_mid_frame_is_an_error_after_its_whole_frames(started: Any) -> None:
    data = streams.y4m(pictures("yuv420p", 3))
    process = started("--effect", "none")
    out, messages = process.communicate(data[:-100], WAIT_S)
    assert process.returncode == 3
    assert out == data[: len(out)]
    size = len(streams.frames(pictures("yuv420p", 1))[0])
    assert len(out) == len(data) - size
    assert messages.decode() == (
        f"stillframe: error: -: byte {len(data) - 100}: frame 2 is cut off: "
        f"expected {size} bytes, got {size - 100}\n"
    )


def test_a_stream_without_frames_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "in.y4m").write_bytes(streams.header("yuv420p", *SIZE))
    _, shots = passed(tmp_path / "in.y4m", tmp_path / "out.y4m")
    assert shots == []
    assert (tmp_path / "out.y4m").read_bytes() == (tmp_path / "in.y4m").read_bytes()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_stream_after_a_whole_frame(started: Any, signum: int, code: int) -> None:
    process = started("--effect", "none", preexec_fn=_heeds)
    start = streams.header("yuv420p", *SIZE)
    data = streams.frames(pictures("yuv420p", 1))[0]
    process.stdin.write(start + data + data[:1000])  # the next frame has begun
    assert len(taken(process, len(start) + len(data))) == len(start) + len(data)
    while unread(process):
        time.sleep(0.01)
    process.send_signal(signum)
    assert process.wait(WAIT_S) == code
    assert process.stdout.read() == b""
    assert process.stderr.read() == b""


def unread(process: subprocess.Popen[bytes]) -> int:
    """How many bytes of its standard input the process has not read yet."""
    assert process.stdin is not None
    count = fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(count, sys.byteorder)


def _heeds() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_metadata_go_to_a_descriptor(started: Any, network: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    process = started(
        "--effect", "mask", "--model", network, "--jsonl", f"fd:{write}", "-q", pass_fds=[write]
    )
    os.close(write)
    data = streams.y4m(pictures("yuv420p", 3))
    out, _ = process.communicate(data, WAIT_S)
    with open(read, "rb") as lines:
        rows = [json.loads(line) for line in lines]
    assert len(out) == len(data)
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [row["time_s"] for row in rows] == [0, 0.04, 0.08]
    assert rows[0]["detections"]["xyxy"] == [list(networks.BOX)]
    assert rows[0]["hidden"] == [pytest.approx([-2, -1.6, 62, 49.6], abs=0.02)]


def test_a_reader_of_records_that_goes_away_is_an_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    with FilterJsonlSink(f"fd:{write}") as lines:
        os.close(read)
        with pytest.raises(SinkError, match=f"fd:{write}: writing failed: its reader went away"):
            lines.write_filtered(0, 0.0, None, np.empty((0, 4), np.float32))
    os.close(write)


def test_every_option_stands_in_the_document() -> None:
    """In the generated tables of options, the how-to guide and the docstring of Filter."""
    root = Path(__file__).parents[3]
    guide = (root / "docs" / "how-to" / "filter.md").read_text(encoding="utf-8")
    render = runpy.run_path(str(root / "scripts" / "docs_site.py"))["on_page_markdown"]
    page = render("<!-- options: filter -->")
    for name in inspect.signature(filter_).parameters:
        option = "SOURCE" if name == "source" else "--" + name.rstrip("_").replace("_", "-")
        assert option in page + guide, option
    for name in inspect.signature(Filter).parameters:
        assert re.search(rf"\b{name}\b", Filter.__doc__ or ""), name
    for name in (*EFFECTS, *FORMATS):
        assert f"`{name}`" in guide, name
    for name in MATRICES:
        assert name in page, name


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Any:
    def refused(code: int, words: str, *arguments: object) -> None:
        capfd.readouterr()
        assert cli.status(["filter", *map(str, arguments)]) == code
        out, messages = capfd.readouterr()
        assert out == ""
        assert words in messages
        assert messages.count("\n") == 1

    return refused


def test_command_lines_that_make_no_sense(refused: Any, network: Path, tmp_path: Path) -> None:
    clip = streams.written(tmp_path / "in.y4m", pictures("yuv420p", 1))
    refused(2, "--jsonl -: standard output carries the frames", clip, "--jsonl", "-")
    refused(2, "--colour: expected RRGGBB", clip, "--colour", "red")
    refused(2, "classes: brightness knows", clip, "--model", network, "--classes", "cow")
    refused(5, "fd:77: expected the number", clip, "--model", network, "--jsonl", "fd:77")
    refused(5, "fd:x: expected the number", clip, "--model", network, "--jsonl", "fd:x")
    (tmp_path / "mine.jsonl").write_text("mine")
    refused(5, "there is such a file", clip, "--jsonl", tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "mine"
    refused(3, "nowhere.y4m: no such file", tmp_path / "nowhere.y4m")
    (tmp_path / "text").write_text("hello, this is no video at all\n" * 40)
    refused(3, "text: not a video", tmp_path / "text")


# --- between two real ffmpeg processes -----------------------------------------------------------


def piped(*commands: list[str]) -> None:
    """Run programs with a pipe between each two. All must end well and say nothing."""
    running: list[subprocess.Popen[bytes]] = []
    for number, command in enumerate(commands):
        running.append(
            subprocess.Popen(
                command,
                stdin=running[-1].stdout if running else subprocess.DEVNULL,
                stdout=None if number == len(commands) - 1 else subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        if number:
            before = running[-2].stdout
            assert before is not None
            before.close()
            running[-2].stdout = None
    messages = [process.communicate(timeout=WAIT_S)[1].decode() for process in reversed(running)]
    assert [process.returncode for process in running] == [0] * len(commands), messages
    assert "".join(messages) == ""


FFMPEG = ["ffmpeg", "-v", "error", "-nostdin", "-y"]


@needs_ffmpeg
@pytest.mark.parametrize("pix_fmt", ["yuvj420p", "gray"])
def test_between_two_ffmpegs_no_bit_is_lost(pix_fmt: str, tmp_path: Path) -> None:
    source = ["-f", "lavfi", "-i", "testsrc2=size=94x62:rate=25:duration=0.4", "-pix_fmt", pix_fmt]
    raw = ["-pix_fmt", pix_fmt, "-f", "rawvideo"]
    piped([*FFMPEG, *source, "-f", "rawvideo", str(tmp_path / "in.raw")])
    piped(
        [*FFMPEG, *source, "-f", "yuv4mpegpipe", "-"],
        [*COMMAND, "--effect", "none", "-q"],
        [*FFMPEG, "-f", "yuv4mpegpipe", "-i", "-", *raw, str(tmp_path / "out.raw")],
    )
    first = (tmp_path / "in.raw").read_bytes()
    assert len(first) > 10
    assert (tmp_path / "out.raw").read_bytes() == first


@needs_ffmpeg
@pytest.mark.parametrize(("muxer", "form"), [("yuv4mpegpipe", "y4m"), ("mpegts", "nut")])
def test_between_two_ffmpegs_detected_faces_are_hidden(
    muxer: str, form: str, network: Path, tmp_path: Path
) -> None:
    source = ["-f", "lavfi", "-i", "testsrc2=size=96x64:rate=25:duration=0.6,negate"]
    coded = [] if muxer == "yuv4mpegpipe" else ["-c:v", "libx264", "-qp", "0", "-bf", "0"]
    lossless = ["-c:v", "ffv1", str(tmp_path / "out.mkv")]
    piped(
        [*FFMPEG, *source, "-pix_fmt", "yuv420p", *coded, "-f", muxer, "-"],
        [*COMMAND, "--effect", "mask", "--model", str(network), "--format", form, "-q",
         "--shape", "box", "--confidence", "0.01", "--colour", "ff0000"],
        [*FFMPEG, "-i", "-", *lossless],
    )  # fmt: skip
    piped([*FFMPEG, *source, "-pix_fmt", "yuv420p", "-c:v", "ffv1", str(tmp_path / "in.mkv")])
    with av.open(str(tmp_path / "in.mkv")) as a, av.open(str(tmp_path / "out.mkv")) as b:
        before = [frame.to_ndarray(format="rgb24") for frame in a.decode(video=0)]
        after = [frame.to_ndarray(format="rgb24") for frame in b.decode(video=0)]
    assert len(after) == len(before) == 15
    for old, new in zip(before, after, strict=True):
        red = new[10:38, 12:48].astype(int)
        assert red[..., 0].min() > 230
        assert red[..., 1:].max() < 40
        apart = np.abs(new.astype(int) - old)[54:, 70:]
        assert apart.max() <= (0 if form != "mpegts" else 40)


@needs_ffmpeg
@pytest.mark.fetch
@pytest.mark.parametrize("name", ["anonymise", "upscale"])
def test_the_examples_make_a_video_with_the_sound_of_the_first(name: str, tmp_path: Path) -> None:
    try:
        zoo.load({"anonymise": "centerface", "upscale": "animevideo-x2"}[name], allow_sdist=True)
    except ModelError as error:
        pytest.skip(str(error))
    clip = media.clip(tmp_path / "in.mp4", 4, audio_s=0.3)
    script = Path(__file__).parents[3] / "examples" / f"{name}.sh"
    search_path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        [script, clip, tmp_path / "out.mp4", "--quiet"],
        env={**os.environ, "PATH": search_path},
        check=True,
        timeout=120,
    )
    with av.open(str(tmp_path / "out.mp4")) as output:
        assert [stream.type for stream in output.streams] == ["video", "audio"]
        sizes = [(frame.width, frame.height) for frame in output.decode(video=0)]
    assert sizes == [SIZE[::-1] if name == "anonymise" else (360, 240)] * 4


@pytest.fixture(scope="module")
def detector() -> Iterator[Filter]:
    """Finds faces in frames and hides nothing."""
    try:
        model = zoo.load("centerface", confidence=0.5)
    except ModelError as error:
        pytest.skip(str(error))
    with Filter(model, "none", reuse="off") as detect:
        yield detect


def copied(shot: PlaneFrame) -> PlaneFrame:
    """The frame with a picture of its own: a filter changes it, the next one replaces it."""
    old = shot.picture
    picture = Planes.over(old.data.copy(), old.layout, old.colours, (old.height, old.width))
    return replace(shot, picture=picture)


def faces(detect: Filter, shot: PlaneFrame) -> int:
    detect.filter_planes(shot)
    assert isinstance(detect.result, Detections)
    return len(detect.result)


@pytest.fixture(scope="module")
def shots_with_faces(detector: Filter) -> list[PlaneFrame]:
    """Twelve frames, in each of which the detector finds a face at this size too."""
    with open_planes("sample:desk?size=384x216&seconds=1") as source:
        shots = [copied(shot) for shot in islice(source, 12)]
    assert len(shots) == 12
    assert all(faces(detector, copied(shot)) for shot in shots)
    return shots


@pytest.mark.fetch
@pytest.mark.parametrize("effect", [name for name, row in EFFECTS.items() if row.hides])
def test_no_face_is_detected_where_faces_were_hidden(
    effect: Any, detector: Filter, shots_with_faces: list[PlaneFrame]
) -> None:
    """Runs the detector on every filtered frame."""
    left = []
    model = zoo.load("centerface", confidence=0.5)
    with Filter(model, effect, confidence=0.2, reuse="layer") as hide:
        for shot in shots_with_faces:
            picture = hide.filter_planes(copied(shot))
            assert (picture.data != shot.picture.data).any()
            left.append(faces(detector, replace(shot, picture=picture)))
    assert left == [0] * 12
