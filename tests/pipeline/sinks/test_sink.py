"""Video sinks: exact times, audio in sync, files that survive faults."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stillframe.errors import SinkError
from stillframe.pipeline.media.open_source import frames, open_source
from stillframe.pipeline.sinks.mp4_tail import drop_cut_header
from stillframe.pipeline.sinks.records import CsvSink, JsonlSink, MotSink
from stillframe.pipeline.sinks.sink import Sink
from stillframe.pipeline.sinks.video import VIDEO_FORMATS, VideoSink
from tests.hostile import media
from tests.hostile.media import INFO, boxes, frame_of, number_of


def write_many(sink: Sink, count: int) -> None:
    for number in range(count):
        sink.write(frame_of(number), boxes(), None)


def rewritten(source: Path, target: Path, limit: int | None = None, **settings: Any) -> Path:
    """Read a clip and write its frames, as `run --out` does."""
    with open_source(source) as reader:
        settings.setdefault("info", reader.info)
        with VideoSink(target, audio_from=str(source), **settings) as sink:
            for frame in reader:
                if limit is not None and frame.index >= limit:
                    break
                sink.write(frame, None, None)
    return target


def contents(path: Path) -> tuple[list[int], list[float]]:
    got = list(frames(path))
    return [number_of(frame.image) for frame in got], [frame.time_s for frame in got]


# --- video: times, pixels ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", VIDEO_FORMATS)
def test_every_container_holds_every_frame_at_its_time(suffix: str, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "in.mp4", 40)
    numbers, times = contents(rewritten(source, tmp_path / f"out{suffix}"))
    assert numbers == list(range(40))
    assert times == pytest.approx([n / 25 for n in range(40)], abs=1e-3)


@pytest.mark.parametrize(("suffix", "within_s"), [(".mp4", 1e-9), (".mov", 1e-9), (".mkv", 6e-4)])
def test_uneven_times_are_kept(suffix: str, within_s: float, tmp_path: Path) -> None:
    ticks = [500, 540, 547, 800, 801, 1400, 2500, 2533, 2600]
    source, target = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    media.encode(source, media.pictures(9), times=ticks, time_base=Fraction(1, 1000))
    numbers, times = contents(rewritten(source, target))
    assert numbers == list(range(9))
    assert times == pytest.approx([(t - 500) / 1000 for t in ticks], abs=within_s)


@pytest.mark.parametrize("count", [1, 2, 11, 12, 13])
def test_a_short_clip_at_a_low_rate_keeps_its_last_frame(count: int, tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    media.encode(source, media.pictures(count), times=range(count), time_base=Fraction(1, 10))
    with av.open(rewritten(source, tmp_path / "out.mp4")) as written:
        assert sum(1 for _ in written.decode(video=0)) == count


def test_a_constant_rate_container_refuses_a_variable_rate(tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    media.encode(source, media.pictures(4), times=[0, 1, 5, 9], time_base=Fraction(1, 25))
    with pytest.raises(SinkError, match=r"\.avi holds a constant frame rate .* write \.mp4"):
        rewritten(source, tmp_path / "out.avi")
    assert not (tmp_path / "out.avi").exists()


def test_a_closed_mp4_is_an_ordinary_one(tmp_path: Path) -> None:
    path = rewritten(media.clip(tmp_path / "in.mp4", 40), tmp_path / "out.mp4")
    assert boxes_of(path.read_bytes()) == [b"ftyp", b"free", b"mdat", b"moov"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == 40
        assert stream.average_rate == 25
        assert stream.start_time == 0
        assert float((stream.duration or 0) * (stream.time_base or 0)) == pytest.approx(1.6)


def boxes_of(data: bytes) -> list[bytes]:
    """The outermost boxes of an MP4."""
    kinds, at = [], 0
    while at < len(data):
        kinds.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at : at + 4])
    return kinds


@pytest.mark.parametrize(("width", "height"), [(97, 65), (96, 65), (33, 64)])
def test_an_odd_side_repeats_its_last_line(width: int, height: int, tmp_path: Path) -> None:
    image = media.picture(9, width, height)
    with VideoSink(tmp_path / "out.mp4", info=INFO) as sink:
        for index in range(3):
            sink.write(replace(frame_of(index), image=image), None, None)
    got = next(frames(tmp_path / "out.mp4")).image
    assert got.shape == (height + height % 2, width + width % 2, 3)
    assert np.abs(got[:height, :width].astype(int) - image).mean() < 6
    assert np.abs(got[-1].astype(int) - got[height - 1]).mean() < 6


def test_colours_survive_the_round_trip(tmp_path: Path) -> None:
    colours = [(255, 255, 255), (0, 0, 0), (230, 20, 30), (20, 200, 40), (30, 40, 220), (128,) * 3]
    blocks = np.concatenate([np.full((64, 64, 3), colour, np.uint8) for colour in colours], axis=1)
    with VideoSink(tmp_path / "out.mp4", info=INFO) as sink:
        for index in range(3):
            sink.write(frame_of(index), None, blocks)
    with av.open(str(tmp_path / "out.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)
    got = next(frames(tmp_path / "out.mp4")).image[32, 32::64]
    assert np.abs(got.astype(int) - np.array(colours)).max() <= 4


def test_a_picture_of_another_size_is_fitted_with_bars(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "out.mp4", info=INFO) as sink:
        sink.write(frame_of(0), None, None)
        sink.write(frame_of(1), None, media.picture(200, 192, 64))  # twice as wide for its height
    first, second = [frame.image for frame in frames(tmp_path / "out.mp4")]
    assert first.shape == second.shape == (64, 96, 3)
    assert number_of(np.ascontiguousarray(second[16:48])) == 200
    assert second[:14].mean() < 4
    assert second[-14:].mean() < 4


def test_the_image_argument_is_what_is_written(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "out.mp4", info=INFO) as sink:
        sink.write(frame_of(1), None, media.picture(77))
    assert contents(tmp_path / "out.mp4")[0] == [77]


# --- video: audio --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    clicks_s: list[float]
    start_s: float
    end_s: float


def sound_of(path: Path) -> Sound:
    """When the test tone clicks, in the time of the file's video."""
    with av.open(str(path)) as container:
        origin = next(container.decode(video=0)).time or 0.0
    parts, start = [], None
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            start = frame.time if start is None else start
            parts.append(np.abs(frame.to_ndarray()).max(axis=0))
    wave = np.concatenate(parts)
    loud = np.flatnonzero(wave > 0.6) / 48_000
    clicks = [float(t) for n, t in enumerate(loud) if n == 0 or t - loud[n - 1] > 0.5]
    begin = (start or 0.0) - origin
    return Sound([begin + t for t in clicks], begin, begin + len(wave) / 48_000)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
def test_audio_is_copied_in_sync(suffix: str, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "in.mp4", 75, audio_s=3.0)
    target = rewritten(source, tmp_path / f"out{suffix}")
    before, after = sound_of(source), sound_of(target)
    assert len(after.clicks_s) == 3
    assert after.clicks_s == pytest.approx(before.clicks_s, abs=0.002)
    assert after.end_s == pytest.approx(before.end_s, abs=0.025)
    with av.open(str(source)) as old, av.open(str(target)) as new:
        packets = [[bytes(p) for p in c.demux(audio=0) if p.size] for c in (old, new)]
        assert [s.type for s in new.streams] == ["video", "audio"]
    if suffix != ".ts":  # there each packet gets a header of its own
        assert packets[0] == packets[1]


def test_audio_ends_where_the_video_was_cut_short(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "in.mp4", 75, audio_s=3.0)
    target = rewritten(source, tmp_path / "out.mp4", limit=30)
    after = sound_of(target)
    assert after.clicks_s == pytest.approx(sound_of(source).clicks_s[:2], abs=0.002)
    assert after.end_s == pytest.approx(30 / 25, abs=0.03)


def test_audio_after_the_last_picture_of_a_whole_file_is_copied(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "in.mp4", 25, audio_s=2.5)
    assert sound_of(rewritten(source, tmp_path / "out.mp4")).end_s == pytest.approx(2.5, abs=0.03)


def test_pictures_that_start_late_stay_late(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    ticks = list(range(20, 50))
    media.encode(source, media.pictures(30), times=ticks, audio_s=2.5)
    target = rewritten(source, tmp_path / "out.mp4")
    before, after = sound_of(source), sound_of(target)
    assert after.clicks_s == pytest.approx(before.clicks_s, abs=0.005)
    assert next(frames(target)).time_s == pytest.approx(0.8, abs=0.03)


def test_audio_that_a_container_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "in.mp4", 5, audio_s=0.3)
    with pytest.raises(SinkError, match=r"cannot hold audio in aac; write \.mkv"):
        rewritten(source, tmp_path / "out.webm")
    assert not (tmp_path / "out.webm").exists()


def test_a_source_that_cannot_be_read_twice_gives_no_audio(tmp_path: Path) -> None:
    for spec in ("-", "rtsp://camera/x", "0", str(media.clip(tmp_path / "mute.mp4", 3))):
        path = tmp_path / "out.mp4"
        with VideoSink(path, info=INFO, audio_from=spec, force=True) as sink:
            sink.write(frame_of(0), None, None)
        with av.open(str(path)) as container:
            assert not container.streams.audio


# --- video: faults -------------------------------------------------------------------------------

WRITER = """
import sys, time
from tests.hostile.media import INFO, frame_of
from stillframe.pipeline.sinks.video import VideoSink
sink = VideoSink(sys.argv[1], info=INFO, audio_from=sys.argv[2] if len(sys.argv) > 2 else None)
for number in range(10_000):
    sink.write(frame_of(number), None, None)
    if number == 200:
        print("up", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts", ".avi"])
def test_a_killed_writer_leaves_a_file_that_plays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    sound = media.clip(tmp_path / "in.mp4", 25, audio_s=1.0)  # ends long before the pictures
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(sound)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process.stdout:
        up = process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert up == b"up\n"
    numbers, times = contents(path)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 200 - 60  # an encoder's look-ahead and the pieces of a second
    assert all(a < b for a, b in pairwise(times))


FULL = """
import resource, sys
from tests.hostile.media import INFO, frame_of
from stillframe.errors import SinkError
from stillframe.pipeline.sinks.video import VideoSink
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
count = 0
try:
    with VideoSink(sys.argv[1], info=INFO) as sink:
        for count in range(3000):
            sink.write(frame_of(count), None, None)
except SinkError as error:
    print(count, error)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts"])
def test_a_full_disk_is_an_error_and_leaves_a_file_that_plays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, timeout=60)
    count, _, message = done.stdout.decode().partition(" ")
    assert message.startswith(f"{path}: writing failed: file too large; it plays"), done
    assert done.stderr == b""
    assert path.stat().st_size <= 40_000
    numbers, _ = contents(path)
    assert numbers == [n % 256 for n in range(len(numbers))]
    assert len(numbers) > int(count) / 2 > 20


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_small_disk_that_runs_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        sink = VideoSink(disk / "out.mp4", info=INFO)
        with pytest.raises(SinkError, match="no space left on device"), sink:
            write_many(sink, 3000)
        assert len(contents(disk / "out.mp4")[0]) > 20
        with JsonlSink(disk / "out.jsonl") as records, pytest.raises(SinkError, match="no space"):
            write_many(records, 3000)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_a_fragment_that_broke_off_in_its_header_is_dropped(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    sink = VideoSink(path, info=INFO)
    for number in range(120):
        sink.write(frame_of(number), boxes(), None)
    data = path.read_bytes()  # as it is while the file is open: fragments
    kinds, last = boxes_of(data), data.rindex(b"moof") - 4
    assert kinds.count(b"moof") > 2
    path.write_bytes(data[: last + cut])
    drop_cut_header(path)
    assert path.stat().st_size == last
    numbers, _ = contents(path)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20
    whole = path.read_bytes() + data[last : last + int.from_bytes(data[last : last + 4])]
    path.write_bytes(whole + b"\0\0\1\0mdat12345")  # its pictures broke off: it plays up to there
    drop_cut_header(path)
    assert path.stat().st_size == len(whole) + 13
    sink.close()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_exception_closes_the_file_whole(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    sink = VideoSink(path, info=INFO)
    with contextlib.suppress(KeyboardInterrupt), sink:
        write_many(sink, 10)
        raise KeyboardInterrupt
    assert contents(path)[0] == list(range(10))
    sink.close()


def test_times_that_do_not_rise_are_refused(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "out.mp4", info=INFO) as sink:
        sink.write(frame_of(5), None, None)
        with pytest.raises(SinkError, match=r"frame 6 at 0.200 s is not after the one before"):
            sink.write(frame_of(6, pts=5), None, None)


def test_no_frame_leaves_no_file(tmp_path: Path) -> None:
    with VideoSink(tmp_path / "out.mp4", info=INFO):
        pass
    assert list(tmp_path.iterdir()) == []


# --- what may be overwritten ---------------------------------------------------------------------

MAKERS: dict[str, Any] = {
    "out.mp4": lambda path, force: VideoSink(path, info=INFO, force=force),
    "out.jsonl": JsonlSink,
    "out.csv": CsvSink,
    "out.mot.txt": MotSink,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_file_is_overwritten_only_by_force(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"precious" * 1000)
    with pytest.raises(SinkError, match="there is such a file; overwrite it with --force"):
        MAKERS[name](path, False)
    assert path.read_bytes() == b"precious" * 1000
    with MAKERS[name](path, True) as sink:
        sink.write(frame_of(0), boxes(), None)
    assert b"precious" not in path.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a:b.mp4", "%03d.mp4", "pipe:1.mp4", "ünï.mp4", "UPPER.MP4"])
def test_special_characters_in_a_path_are_taken_literally(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoSink(name, info=INFO) as sink:
        sink.write(frame_of(3), None, None)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert contents(tmp_path / name)[0] == [3]


@pytest.mark.parametrize("force", [False, True])
def test_the_source_itself_is_never_overwritten(force: bool, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "in.mp4", 5)
    before = source.read_bytes()
    (tmp_path / "link.mp4").symlink_to(source)
    for target in (source, tmp_path / "link.mp4"):
        with pytest.raises(SinkError, match="this is the source itself"):
            rewritten(source, target, force=force)
        for kind in (JsonlSink, CsvSink, MotSink):
            with pytest.raises(SinkError, match="this is the source itself"):
                kind(target, force, str(source))
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "codec", "says"),
    [
        ("out.gif", None, r"no kind of video is known by the suffix '\.gif'; use one of \.mp4"),
        ("out", None, "suffix 'of nothing'"),
        ("none/out.mp4", None, "cannot be written: no such file or directory"),
        (".", None, "suffix"),
        ("out.mp4", "no_such", "'no_such' is no video encoder"),
        ("out.mp4", "aac", "'aac' is no video encoder"),
        ("out.webm", "libx264", "cannot hold video by libx264"),
    ],
)
def test_an_impossible_video_is_refused_at_once(
    name: str, codec: str | None, says: str, tmp_path: Path
) -> None:
    with pytest.raises(SinkError, match=says):
        VideoSink(tmp_path / name, info=INFO, codec=codec)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_refused_as_an_output(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").mkdir()
    for make in (MAKERS["out.mp4"], JsonlSink):
        with pytest.raises(SinkError, match="a folder; name a file in it"):
            make(tmp_path / "out.mp4", True)


def test_the_first_error_is_the_one_that_counts(tmp_path: Path) -> None:
    class Failing(Sink):
        def write(self, *_: object) -> None: ...

        def close(self) -> None:
            raise SinkError("while closing")

    with pytest.raises(ZeroDivisionError), Failing():
        raise ZeroDivisionError
    with pytest.raises(SinkError, match="while closing"), Failing():
        pass
