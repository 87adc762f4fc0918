"""Files: pixel formats, exact times, rotation, damage; and what must end in one clear error."""

import gc
import random
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stillframe.errors import SourceError
from stillframe.pipeline.media.open_source import SourceState, frames, open_source
from stillframe.pipeline.media.to_rgb import ORIENTATIONS
from tests.hostile import media
from tests.hostile.media import HOSTILE, Hostile, number_of, numbers


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


def test_reordered_pictures_come_in_presentation_order(tmp_path: Path) -> None:
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
def test_any_pixel_format_in_any_container_is_read(
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


# --- rotation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied_once_and_reported(degrees: int, tmp_path: Path) -> None:
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
def test_each_display_matrix_moves_pixels_to_the_right_place(
    signs: tuple[int, int, int, int],
) -> None:
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


# --- damage and jumps ----------------------------------------------------------------------------


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


def test_a_file_that_is_cut_off_gives_the_frames_it_has(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("suffix", "is_gap"), [(".mp4", False), (".mkv", True)])
def test_a_slide_that_stands_for_minutes_is_no_jump_of_the_times(
    suffix: str, is_gap: bool, tmp_path: Path
) -> None:
    """In MPEG-TS, whose times may restart, it is one. MP4 states how long a picture stands."""
    path = media.clip(tmp_path / f"slides{suffix}", 4, times=[0, 1, 1 + 600 * 25, 2 + 600 * 25])
    with open_source(path) as source:
        got = list(source)
        assert source.rebased == 0
    assert [frame.time_s for frame in got] == pytest.approx([0, 0.04, 600.04, 600.08], abs=0.002)
    assert [frame.discontinuity for frame in got] == [False, False, is_gap, False]


# --- closing -------------------------------------------------------------------------------------


def test_decoded_pictures_are_freed_at_once(tmp_path: Path) -> None:
    """Without the garbage collector, which runs late: each picture holds a frame of the decoder."""
    with open_source(media.clip(tmp_path / "a.mp4", 40)) as source:
        gc.collect()
        gc.disable()
        try:
            count = sum(1 for _ in source)
            # by its type: a dead weak proxy cannot be asked what it is an instance of
            alive = sum(issubclass(type(each), av.VideoFrame) for each in gc.get_objects())
        finally:
            gc.enable()
    assert count == 40
    assert alive < 10


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


def test_a_live_file_drops_frames_that_nobody_waited_for(tmp_path: Path) -> None:
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
