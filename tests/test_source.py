"""Sources that are read where they are asked for: files, pictures, pipes; times, turns, damage."""

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import SourceError
from stillframe.pipeline import camera
from stillframe.pipeline.address import SCHEMES, parse
from stillframe.pipeline.conversion import ORIENTATIONS
from stillframe.pipeline.frame import Frame
from stillframe.pipeline.images import natural_key
from stillframe.pipeline.redaction import display, redact
from stillframe.pipeline.source import SourceState, frames, open_source
from stillframe.pipeline.timeline import Timeline
from tests.hostile import media
from tests.hostile.media import HOSTILE, Hostile, number_of


def numbers(source: Any) -> list[int]:
    return [number_of(frame.image) for frame in source]


@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_a_source_without_frames_is_one_clear_error(case: Hostile, tmp_path: Path) -> None:
    spec = case.build(tmp_path)
    with pytest.raises(SourceError, match=case.says) as caught:
        open_source(spec, timeout_s=3)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


# --- files ---------------------------------------------------------------------------------------


def test_every_frame_of_a_file_comes_in_order_with_its_time(tmp_path: Path) -> None:
    with open_source(media.clip(tmp_path / "a.mp4", 30)) as source:
        assert source.state is SourceState.RUNNING
        about = source.info
        got = list(source)
        assert source.state is SourceState.ENDED
    assert numbers(got) == list(range(30))
    assert [frame.index for frame in got] == list(range(30))
    assert [frame.time_s for frame in got] == pytest.approx([n / 25 for n in range(30)])
    assert not any(frame.corrupt or frame.discontinuity for frame in got)
    assert (about.kind, about.width, about.height) == ("file", 96, 64)
    assert (about.rate, about.frame_count, about.codec) == (Fraction(25), 30, "h264")
    assert about.duration_s == pytest.approx(1.2)
    assert (about.variable_rate, about.has_audio, about.live) == (False, False, False)


@pytest.mark.parametrize("name", ["0", "a:b.mp4", "%d.mp4", "clip*.mp4", "ünï cödé.mp4", "-"])
def test_a_file_may_have_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media.encode(tmp_path / "plain.mp4", media.pictures(3))
    (tmp_path / "plain.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(frames(f"./{name}")) == [0, 1, 2]


def test_variable_frame_rate_keeps_each_time(tmp_path: Path) -> None:
    times = [0, 40, 47, 300, 301, 900, 2000, 2033]
    path = tmp_path / "vfr.mp4"
    media.encode(path, media.pictures(8), times=times, time_base=Fraction(1, 1000))
    with open_source(path) as source:
        got = list(source)
        assert source.info.variable_rate is True
    assert [frame.time_s for frame in got] == pytest.approx([t / 1000 for t in times])
    assert [frame.pts * frame.time_base for frame in got] == [Fraction(t, 1000) for t in times]
    assert not any(frame.discontinuity for frame in got)


def test_reordered_pictures_come_in_the_order_of_show(tmp_path: Path) -> None:
    path = tmp_path / "b.mp4"
    options = {"preset": "medium", "bf": "3", "b_strategy": "0"}
    media.encode(path, media.pictures(40), codec_options=options)
    got = list(frames(path))
    assert numbers(got) == list(range(40))
    assert [frame.time_s for frame in got] == pytest.approx([n / 25 for n in range(40)])


def test_the_last_frames_come_out_of_a_decoder_that_holds_some_back(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    options = {"preset": "medium", "bf": "3", "b_strategy": "0"}
    media.encode(path, media.pictures(12), codec_options=options, audio_s=0.5, audio_first=True)
    with open_source(path, decode_threads=4) as source:
        assert numbers(source) == list(range(12))


def test_time_zero_is_where_the_sound_starts_when_the_picture_comes_later(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    media.encode(path, media.pictures(5), times=[20, 21, 22, 23, 24], audio_s=1.5)
    with open_source(path) as source:
        assert source.info.audio_codec == "aac"
        assert next(source).time_s == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "container"),
    [
        ("gray.mkv", "ffv1", "gray", None),
        ("ten_bit.mkv", "ffv1", "yuv420p10le", None),
        ("alpha.mov", "qtrle", "argb", None),
        ("alpha_planes.mkv", "ffv1", "yuva420p", None),
        ("full_range.mkv", "mjpeg", "yuvj420p", None),
        ("rgb.mkv", "ffv1", "bgr0", None),
        ("mkv_in_truth.mp4", "libx264", "yuv420p", "matroska"),
        ("no_suffix", "libx264", "yuv444p", "mp4"),
        ("raw.264", "libx264", "yuv420p", "h264"),
        ("old.avi", "mpeg4", "yuv420p", None),
        ("program.mpg", "mpeg2video", "yuv420p", "vob"),
        ("y4m.y4m", "wrapped_avframe", "yuv420p", "yuv4mpegpipe"),
    ],
)
def test_any_form_of_pixels_in_any_container_is_read(
    name: str, codec: str, pix_fmt: str, container: str | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    media.encode(path, media.pictures(6), codec=codec, pix_fmt=pix_fmt, container=container)
    got = list(frames(path))
    assert numbers(got) == list(range(6))
    times = [frame.time_s for frame in got]
    assert times == pytest.approx([n / 25 for n in range(6)], abs=1e-3)
    for frame in got:
        assert frame.image.shape == (64, 96, 3)
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
    if pix_fmt != "gray":
        error = np.abs(got[3].image.astype(int) - media.picture(3))[20:]
        assert error.mean() < 6


@pytest.mark.parametrize(("width", "height"), [(97, 65), (33, 17), (200, 2)])
def test_odd_sizes_keep_their_size(width: int, height: int, tmp_path: Path) -> None:
    path = tmp_path / "odd.mkv"
    media.encode(path, media.pictures(2, width, height), codec="ffv1", pix_fmt="yuv444p")
    got = list(frames(path))
    assert [frame.image.shape for frame in got] == [(height, width, 3)] * 2
    assert np.abs(got[0].image.astype(int) - media.picture(0, width, height)).max() <= 4


def test_colours_follow_the_matrix_that_the_stream_states(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:] = (200, 30, 60)
    for name, matrix in (("ITU709", 1), ("ITU601", 6)):
        path = tmp_path / f"{name}.mkv"
        with av.open(str(path), "w") as output:
            stream: Any = output.add_stream("ffv1", rate=25)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv444p"
            stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            output.mux(stream.encode(frame.reformat(format="yuv444p", dst_colorspace=name)))
            output.mux(stream.encode(None))
        got = next(frames(path)).image
        assert np.abs(got.astype(int) - image).max() <= 2, name


# --- turns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied_once_and_told(degrees: int, tmp_path: Path) -> None:
    path = tmp_path / "turned.mp4"
    upright = media.picture(5, 96, 64)
    stored = np.ascontiguousarray(np.rot90(upright, degrees // 90))  # back by what will be applied
    media.encode(path, [stored] * 3, rotation=degrees)
    with open_source(path) as source:
        assert source.info.rotation == degrees
        assert (source.info.width, source.info.height) == (96, 64)
        image = next(source).image
    assert image.shape == (64, 96, 3)
    assert number_of(image) == 5
    assert np.abs(image.astype(int) - upright)[20:].mean() < 6


@pytest.mark.parametrize("signs", ORIENTATIONS, ids=str)
def test_each_display_matrix_puts_pixels_where_it_says(signs: tuple[int, int, int, int]) -> None:
    a, b, c, d = signs
    stored = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    ys, xs = np.indices((3, 5))
    shown_x, shown_y = a * xs + c * ys, b * xs + d * ys
    shown_x, shown_y = shown_x - shown_x.min(), shown_y - shown_y.min()
    expected = np.empty((shown_y.max() + 1, shown_x.max() + 1, 3), np.uint8)
    expected[shown_y, shown_x] = stored
    turn = ORIENTATIONS[signs]
    np.testing.assert_array_equal(turn.apply(stored), expected)
    clockwise = np.rot90(stored, -turn.rotation // 90)
    described = clockwise[:, ::-1] if turn.mirrored else clockwise
    np.testing.assert_array_equal(described, expected)


# --- damage and jumps -----------------------------------------------------------------------------


def test_damage_is_flagged_skipped_and_survived(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mkv", 60, codec_options={"preset": "ultrafast", "g": "10"})
    data = bytearray(path.read_bytes())
    chance = random.Random(3)
    for _ in range(12):  # flips inside frames, away from the header
        data[chance.randrange(len(data) // 3, len(data))] ^= 0xFF
    path.write_bytes(data)
    with open_source(path) as source:
        got = list(source)
        flagged = sum(frame.corrupt for frame in got)
        assert flagged + source.skipped > 0
    assert 30 <= len(got) <= 60
    assert flagged < 30
    assert not any(frame.corrupt for frame in got[:10])
    times = [frame.time_s for frame in got]
    assert times == sorted(set(times))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_packet_that_cannot_be_decoded_flags_the_frame_after_it(
    threads: int, tmp_path: Path
) -> None:
    path = media.clip(tmp_path / "a.avi", 10, codec="png", pix_fmt="rgb24")
    data = bytearray(path.read_bytes())
    place = -1
    for _ in range(5):  # the fifth picture: index 4
        place = data.index(b"\x89PNG", place + 1)
    data[place + 12 : place + 28] = bytes(16)  # its header chunk
    path.write_bytes(data)
    with open_source(path, decode_threads=threads) as source:
        got = list(source)
        assert source.skipped == 1
    assert numbers(got) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert [frame.corrupt for frame in got] == [False] * 4 + [True] + [False] * 4
    assert got[4].time_s == pytest.approx(5 / 25)


def test_a_file_that_breaks_off_gives_what_it_has(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", 60, options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    got = numbers(frames(path))
    assert got == list(range(len(got)))
    assert 20 < len(got) < 60


def test_a_new_picture_size_within_a_stream_is_a_discontinuity(tmp_path: Path) -> None:
    path = tmp_path / "sizes.ts"
    small = media.stream_bytes(5)
    buffer = media.Unseekable()
    media.encode(buffer, media.pictures(5, 160, 96), container="mpegts", times=[5, 6, 7, 8, 9])
    path.write_bytes(small + buffer.getvalue())
    got = list(frames(path))
    sizes = [frame.image.shape[:2] for frame in got]
    assert set(sizes) == {(64, 96), (96, 160)}
    changed = [n for n in range(1, len(got)) if sizes[n] != sizes[n - 1]]
    assert len(changed) == 1
    assert [n for n, frame in enumerate(got) if frame.discontinuity] == changed


def test_a_step_back_in_time_is_a_discontinuity_and_time_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "twice.ts"
    once = media.stream_bytes(50)
    path.write_bytes(once + once)
    got = list(frames(path))
    assert numbers(got) == [*range(50), *range(50)]
    assert [n for n, frame in enumerate(got) if frame.discontinuity] == [50]
    times = [frame.time_s for frame in got]
    assert np.diff(times) == pytest.approx([1 / 25] * 99, abs=0.002)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=40, unique=True))
def test_rising_times_are_kept_exactly(times: list[int]) -> None:
    timeline = Timeline(Fraction(1, 10**7), Fraction(25))  # no gap here is ten seconds long
    times.sort()
    assert [timeline.place(pts) for pts in times] == [(pts, False) for pts in times]


@given(
    st.lists(st.one_of(st.none(), st.integers(-(10**7), 10**7)), max_size=60),
    st.sampled_from([Fraction(1, 25), Fraction(1, 1000), Fraction(1, 90_000)]),
)
def test_times_always_rise_whatever_the_container_says(
    times: list[int | None], time_base: Fraction
) -> None:
    timeline = Timeline(time_base, None)
    placed = [timeline.place(pts, 3)[0] for pts in times]
    assert all(later > earlier for earlier, later in pairwise(placed))


def test_missing_times_continue_at_the_rate() -> None:
    timeline = Timeline(Fraction(1, 1000), Fraction(25))
    placed = [timeline.place(pts) for pts in (None, None, 80, None, 81, 5)]
    assert placed == [(pts, False) for pts in (0, 40, 80, 120, 121, 122)]


def test_a_long_gap_is_a_jump_only_where_no_duration_covers_it() -> None:
    covered, uncovered = (Timeline(Fraction(1, 10), Fraction(10)) for _ in range(2))
    covered.place(0, 500)
    assert covered.place(500, 1) == (500, False)
    uncovered.place(0, 1)
    assert uncovered.place(500, 1) == (500, True)


# --- pictures -------------------------------------------------------------------------------------


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = (96, 64)) -> None:
    for number, name in enumerate(names):
        frame = av.VideoFrame.from_ndarray(media.picture(number, *size), format="rgb24")
        frame.save(str(folder / name))


def test_a_folder_of_pictures_is_read_in_natural_order_at_its_rate(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["f1.png", "f2.png", "f10.png", "f20.jpg"])
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_source(tmp_path, rate=2) as source:
        assert (source.info.kind, source.info.frame_count) == ("images", 4)
        assert (source.info.rate, source.info.duration_s) == (Fraction(2), 2.0)
        got = list(source)
    assert numbers(got) == [0, 1, 2, 3]
    assert [frame.time_s for frame in got] == [0.0, 0.5, 1.0, 1.5]
    np.testing.assert_array_equal(got[1].image, media.picture(1))


def test_a_pattern_takes_what_matches_and_one_picture_is_a_source(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a1.png", "b1.png", "a2.png", "%d.png"])
    assert numbers(frames(f"{tmp_path}/a*.png")) == [0, 2]
    assert numbers(frames(tmp_path / "b1.png")) == [1]
    assert numbers(frames(tmp_path / "%d.png")) == [3]


def test_a_picture_that_cannot_be_read_is_a_gap_in_time(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "1.png").write_bytes(b"\x89PNG broken")
    with open_source(tmp_path) as source:
        got = list(source)
        assert source.skipped == 1
    assert [(frame.index, frame.discontinuity) for frame in got] == [(0, False), (2, True)]
    assert got[1].time_s == pytest.approx(2 / 25)


# EXIF's numbers: what to do with the stored rows and columns to see the scene upright
HELD: dict[int, Callable[[Any], Any]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", HELD)
def test_a_photograph_is_turned_as_its_camera_was_held(
    orientation: int, order: str, tmp_path: Path
) -> None:
    frame = av.VideoFrame.from_ndarray(media.picture(5), format="rgb24")
    frame.save(str(tmp_path / "plain.jpg"))
    data = (tmp_path / "plain.jpg").read_bytes()
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    start = b"II*\0" if order == "<" else b"MM\0*"
    exif = b"Exif\0\0" + start + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "turned.jpg").write_bytes(data[:2] + segment + data[2:])
    with open_source(tmp_path / "turned.jpg") as source:
        image = next(source).image
        assert image.shape[:2] == (source.info.height, source.info.width)
    plain = next(frames(tmp_path / "plain.jpg")).image
    np.testing.assert_array_equal(image, HELD[orientation](plain))


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_a_photograph_with_a_broken_note_is_shown_as_stored(cut: int, tmp_path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(media.picture(5), format="rgb24")
    frame.save(str(tmp_path / "plain.jpg"))
    data = (tmp_path / "plain.jpg").read_bytes()
    note = (b"Exif\0\0II*\0" + struct.pack("<IHHHIHH", 8, 9, 0x0112, 3, 1, 99, 0))[:cut]
    segment = b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    assert numbers(frames(tmp_path / "a.jpg")) == [5]


@given(st.lists(st.integers(0, 10**6), min_size=2, unique=True))
def test_numbers_in_names_count_as_numbers(values: list[int]) -> None:
    names = [f"frame{value}.png" for value in values]
    ordered = sorted(names, key=natural_key)
    assert ordered == [f"frame{value}.png" for value in sorted(values)]


# --- pipes ----------------------------------------------------------------------------------------


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
        behind = []
        for frame in source:
            assert number_of(frame.image) == frame.index
            behind.append(feeder.sent - 1 - (frame.index + 1))
    assert len(behind) == 12
    assert max(behind) <= 1  # parts sent beyond the frame in hand


def test_closing_frees_a_reader_that_waits_on_a_pipe(tmp_path: Path) -> None:
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
    before = time.monotonic()
    source.close()
    reader.join(2)
    assert not reader.is_alive()
    assert time.monotonic() - before < 1
    assert got == []
    assert source.state is SourceState.CLOSED
    source.close()
    os.close(holder)
    assert not [t for t in threading.enumerate() if t.name == "stillframe-reader"]


def test_pipes_and_files_give_their_descriptors_back(tmp_path: Path) -> None:
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


STDIN = "from stillframe.pipeline.source import frames\nfor f in frames('-'): print(f.index)"


@pytest.mark.parametrize("as_file", [False, True])
def test_standard_input_is_a_source(as_file: bool, tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mkv", 5)
    run: Callable[..., Any] = subprocess.run
    with open(path, "rb") as file:
        feed = {"stdin": file} if as_file else {"input": path.read_bytes()}
        done = run([sys.executable, "-c", STDIN], **feed, capture_output=True, timeout=30)
    assert done.stdout.split() == [b"0", b"1", b"2", b"3", b"4"], done.stderr.decode()


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


def test_ctrl_c_ends_the_wait_for_a_silent_pipe() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"print('up', flush=True)\n{STDIN}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert b"KeyboardInterrupt" in errors
    assert process.returncode in (-signal.SIGINT, 130, 1)


# --- closing, cameras, addresses ------------------------------------------------------------------


def test_a_closed_file_ends_its_iterator_and_may_be_closed_again(tmp_path: Path) -> None:
    source = open_source(media.clip(tmp_path / "a.mp4"))
    next(source)
    source.close()
    source.close()
    assert list(source) == []
    assert source.state is SourceState.CLOSED


def test_a_file_may_be_closed_while_another_thread_reads_it(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", 200)
    for _ in range(5):
        source = open_source(path)
        thread = threading.Thread(target=lambda source=source: list(source))  # type: ignore[misc]
        thread.start()
        source.close()
        thread.join(5)
        assert not thread.is_alive()


def test_a_live_file_drops_what_nobody_waited_for(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a.mp4", 100)
    with open_source(path, live=True) as source:
        first = next(source)
        time.sleep(0.3)
        rest = list(source)
        assert source.info.live
        assert source.dropped == 100 - 1 - len(rest)
        assert source.dropped > 0
    for frame in [first, *rest]:
        assert number_of(frame.image) == frame.index
    assert rest[-1].index == 99


def test_a_camera_keeps_its_lasting_name(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    (by_id / "usb-Maker_Model").symlink_to(tmp_path / "video0")
    path = camera.device("0", "0", tmp_path)
    assert path == str(tmp_path / "video0")
    assert camera.lasting_name(path, by_id) == str(by_id / "usb-Maker_Model")
    assert camera.lasting_name(path, tmp_path / "none") == path
    with pytest.raises(SourceError, match=r"3: no camera at .*/video3; cameras here: .*/video0"):
        camera.device("3", "3", tmp_path)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("0", "camera"),
        ("/dev/video2", "camera"),
        ("RTSP://host/x", "network"),
        ("https://host/x.m3u8", "network"),
        ("udp://0.0.0.0:5000", "network"),
        ("-", "pipe"),
        ("sample:screen", "sample"),
    ],
)
def test_a_spec_says_what_it_is(spec: str, kind: str) -> None:
    assert parse(spec).kind == kind


def test_no_network_source_may_open_files() -> None:
    for name, scheme in SCHEMES.items():
        assert not {"file", "pipe", "concat", "subfile", "data"} & set(scheme.protocols.split(","))
        assert parse(f"{name}://h/x").scheme is scheme


def test_a_file_url_is_a_file(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "a b.mp4", 2)
    assert numbers(frames(f"file://{str(path).replace(' ', '%20')}")) == [0, 1]


# --- what may be shown ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("rtsp://admin:secret@cam:554/live/1", "rtsp://cam:554/live/1"),
        ("rtsp://admin:p@ss/w:rd@cam/live", "rtsp://cam/live"),
        ("http://cam/video?user=admin&pwd=secret#top", "http://cam/video"),
        ("http://u:pa?ss@cam/x", "http://…"),
        ("http://cam/x?next=a@b", "http://…"),
        ("HTTP://cam/x", "http://cam/x"),
        ("admin:secret@cam/live", "cam/live"),
        ("u:p://x@y", "<address not shown>"),
        ("/home/me/clip@2x.mp4", "/home/me/clip@2x.mp4"),
        ("bad\x1b[31mname.mp4", "bad?[31mname.mp4"),
        ("0", "0"),
        ("-", "-"),
    ],
)
def test_an_address_is_shown_without_its_secrets(spec: str, shown: str) -> None:
    assert display(spec) == shown


SECRET = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=6, max_size=20
).map(lambda text: f"Q{text}Z")


@given(
    user=SECRET.filter(lambda text: ":" not in text),
    password=SECRET,
    token=SECRET,
    scheme=st.sampled_from([*SCHEMES, ""]),
)
def test_no_secret_is_ever_shown(user: str, password: str, token: str, scheme: str) -> None:
    mark = f"{scheme}://" if scheme else ""
    for spec in (
        f"{mark}{user}:{password}@camera.lan/live",
        f"{mark}{user}:{password}@camera.lan/live?token={token}",
    ):
        text = redact(f"Error opening '{spec}': {password} refused for {user}", spec)
        for secret in (user, password, token):
            assert secret not in display(spec)
            assert secret not in text
            assert secret not in repr(parse(spec)) if scheme else True


def test_errors_about_the_network_hide_the_credentials() -> None:
    with pytest.raises(SourceError) as caught:
        open_source("rtsp://admin:hunter22@127.0.0.1:9/live?key=abcdef", timeout_s=3)
    told = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "rtsp://127.0.0.1:9/live: cannot be opened: connection refused" in told
    assert "hunter22" not in str(caught.value)
    assert "abcdef" not in str(caught.value)
    assert caught.value.__suppress_context__
