"""Media made on the fly: good clips whose frames are all distinguishable, and broken clips.

`HOSTILE` is one table of what must end in one clear SourceError; each row builds its case in an
empty folder and returns the text that names the source.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from stillframe.models.results import Detections, Evidence
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.source import SourceInfo

Pixels = NDArray[np.uint8]

BITS = 8
NOISE_SEED = 7


def picture(number: int, width: int = 96, height: int = 64) -> Pixels:
    """A picture that carries `number` (0..255) as a row of black and white blocks at its top."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(40, 200, width, dtype=np.uint8)
    image[..., 1] = np.linspace(60, 180, height, dtype=np.uint8)[:, None]
    image[..., 2] = 90 + number % 60
    block = width // BITS
    for bit in range(BITS):
        image[: height // 4, bit * block : (bit + 1) * block] = 235 if number >> bit & 1 else 16
    return image


def number_of(image: Pixels) -> int:
    """The number that `picture` wrote; survives lossy coding."""
    height, width = image.shape[:2]
    block = width // BITS
    row = image[height // 8, block // 2 :: block][:BITS]
    return sum(1 << bit for bit, value in enumerate(row) if value.mean() > 128)


INFO = SourceInfo("test", "file", 96, 64, rate=Fraction(25))


def frame_of(number: int, pts: int | None = None) -> Frame:
    """A frame that carries its number, at 25 a second."""
    tick, pts = Fraction(1, 25), number if pts is None else pts
    image = picture(number % 256)
    return Frame(image, number, time_s=float(pts * tick), pts=pts, time_base=tick)


def boxes() -> Detections:
    """Two detections, one with a label that needs quotes."""
    return Detections(
        xyxy=np.array([[1.234, 2, 30.5, 40], [5, 6, 7, 8]], np.float32),
        confidence=np.array([0.91234, 0.5], np.float32),
        class_id=np.array([1, 0]),
        labels=("cat", 'dog, "big"'),
        evidence=Evidence("reused", 0.25),
    )


def pictures(count: int, width: int = 96, height: int = 64) -> Iterator[Pixels]:
    return (picture(number, width, height) for number in range(count))


def encode(
    path: Path | io.BytesIO,
    images: Iterable[Pixels],
    *,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    rate: Fraction = Fraction(25),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    codec_options: dict[str, str] | None = None,
    options: dict[str, str] | None = None,
    rotation: int = 0,
    audio_s: float = 0.0,
    audio_codec: str = "aac",
    audio_first: bool = False,
) -> None:
    """Encode RGB pictures; `times` in ticks of `time_base`, by default one tick each.

    audio_first: the sound is the container's first stream.
    """
    target = str(path) if isinstance(path, Path) else path
    with av.open(target, "w", format=container, options=options or {}) as output:
        stream: Any = None
        sound: Any = None
        if audio_first:
            sound = output.add_stream(audio_codec, rate=48_000, layout="mono")
        for index, image in enumerate(images):
            if stream is None:
                stream = output.add_stream(codec, rate=rate, options=codec_options or FAST[codec])
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.time_base = time_base
                if rotation:
                    stream.set_display_rotation(-rotation)
                if audio_s and sound is None:
                    sound = output.add_stream(audio_codec, rate=48_000, layout="mono")
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            frame.pts = index if times is None else times[index]
            frame.time_base = time_base
            output.mux(stream.encode(frame))
        if stream is not None:
            output.mux(stream.encode(None))
        if sound is not None:
            _tone(output, sound, audio_s)


FAST: dict[str, dict[str, str]] = {
    "libx264": {"preset": "ultrafast", "crf": "16"},
    "ffv1": {},
    "mpeg4": {"qscale": "2"},
    "mpeg2video": {"qscale": "2"},
    "mjpeg": {"qscale": "2"},
    "png": {},
    "qtrle": {},
    "rawvideo": {},
    "wrapped_avframe": {},
    "libx265": {},
}


def numbers(source: Iterable[Frame]) -> list[int]:
    """The number of each frame."""
    return [number_of(frame.image) for frame in source]


def tone_samples(seconds: float) -> NDArray[np.float32]:
    """(1, n) float32: a tone with a click at each whole second."""
    moments = np.arange(int(seconds * 48_000)) / 48_000
    wave = 0.2 * np.sin(2 * np.pi * 440 * moments)
    wave[(moments % 1.0) < 0.01] = 0.9
    return wave.astype(np.float32)[None]


def _tone(output: Any, sound: Any, seconds: float) -> None:
    samples = tone_samples(seconds)
    for start in range(0, samples.shape[1], 1024):
        part = np.ascontiguousarray(samples[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48_000, start
        output.mux(sound.encode(frame))
    output.mux(sound.encode(None))


def clip(path: Path, count: int = 20, **settings: Any) -> Path:
    """A clip of `count` numbered frames at 25 per second; the suffix selects the container."""
    encode(path, pictures(count), **settings)
    return path


def stream_bytes(count: int = 50, container: str = "mpegts", **settings: Any) -> bytes:
    """A clip as the bytes of a stream that can be joined and read without seeking."""
    buffer = Unseekable()
    settings.setdefault("codec_options", {"preset": "ultrafast", "tune": "zerolatency", "g": "5"})
    encode(buffer, pictures(count), container=container, **settings)
    return buffer.getvalue()


class Unseekable(io.BytesIO):
    """A file object that looks like a pipe to a muxer."""

    def seekable(self) -> bool:
        return False


def y4m_bytes(count: int, width: int = 96, height: int = 64) -> list[bytes]:
    """A y4m stream in parts: its header, then each frame. Written by hand, without FFmpeg."""
    parts = [f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C420jpeg\n".encode()]
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
        planar = frame.reformat(format="yuv420p").to_ndarray()
        parts.append(b"FRAME\n" + planar.tobytes())
    return parts


# --- what must end in one clear error ------------------------------------------------------------


@dataclass(frozen=True)
class Hostile:
    """A source that cannot give frames. says: a pattern that its error must match."""

    name: str
    build: Callable[[Path], str]
    says: str

    def __str__(self) -> str:
        return self.name


def _no_index(folder: Path) -> str:
    whole = clip(folder / "whole.mp4").read_bytes()
    cut = folder / "cut.mp4"
    cut.write_bytes(whole[: whole.index(b"moov") - 4])
    return str(cut)


def _sound_only(folder: Path) -> str:
    path = folder / "sound.m4a"
    with av.open(str(path), "w") as output:
        _tone(output, output.add_stream("aac", rate=48_000, layout="mono"), 0.5)
    return str(path)


def _sound_with_cover(folder: Path) -> str:
    path = folder / "album.m4a"
    with av.open(str(path), "w", format="mp4") as output:
        sound = output.add_stream("aac", rate=48_000, layout="mono")
        cover: Any = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(picture(1), format="rgb24")
        output.mux(cover.encode(frame.reformat(format="yuvj420p")))
        output.mux(cover.encode(None))
        _tone(output, sound, 0.5)
    return str(path)


def _written(name: str, content: bytes) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return build


def _spec(text: str) -> Callable[[Path], str]:
    return lambda folder: text.replace("{folder}", str(folder))


def _broken_pictures(folder: Path) -> str:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    return str(folder)


def _undecodable(folder: Path) -> str:
    """An MP4 with an intact index and random bytes as pictures."""
    data = bytearray(clip(folder / "whole.mp4", 10).read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    noise = np.random.default_rng(NOISE_SEED).integers(0, 256, end - start, dtype=np.uint8)
    data[start:end] = noise.tobytes()
    (folder / "noise.mp4").write_bytes(data)
    return str(folder / "noise.mp4")


def _unlike_any_video(folder: Path) -> str:
    noise = np.random.default_rng(NOISE_SEED).integers(0, 256, 50_000, dtype=np.uint8)
    return _written("noise.mp4", noise.tobytes())(folder)


def _socket_file(folder: Path) -> str:
    os.mknod(folder / "socket.mp4", 0o140600)
    return str(folder / "socket.mp4")


HOSTILE: tuple[Hostile, ...] = (
    Hostile("nothing", _spec(""), "an empty source"),
    Hostile("missing file", _spec("{folder}/none.mp4"), r"none\.mp4: no such file or folder"),
    Hostile("file as folder", _spec("/etc/passwd/x.mp4"), "cannot be read: not a directory"),
    Hostile("empty file", _written("empty.mp4", b""), r"empty\.mp4: the file is empty"),
    Hostile("zero byte in name", _spec("a\0b.mp4"), r"a\?b\.mp4: cannot be read"),
    Hostile("very long name", _spec("x" * 5000), "cannot be read: file name too long"),
    Hostile("text as video", _written("x.mp4", b"hello " * 500), "not a video that can be read"),
    Hostile("text file", _written("notes.txt", b"hello\n" * 500), r"notes\.txt: a text file"),
    Hostile("noise", _unlike_any_video, "not a video that can be read"),
    Hostile("mp4 without its index", _no_index, r"cut\.mp4: .*cut off before its index"),
    Hostile("sound only", _sound_only, r"sound\.m4a: no video track; it holds audio"),
    Hostile("sound with a cover", _sound_with_cover, r"album\.m4a: no video track"),
    Hostile("no frames", _written("x.y4m", y4m_bytes(0)[0]), "without a single frame"),
    Hostile("every picture is noise", _undecodable, r"without a single frame .*damaged packets"),
    Hostile("socket", _socket_file, "neither a file, a folder nor a pipe"),
    Hostile("folder without pictures", _spec("{folder}"), "a folder without a picture"),
    Hostile("pattern without a match", _spec("{folder}/*.png"), "no picture matches"),
    Hostile("broken pictures", _broken_pictures, "none of its 3 pictures can be read"),
    Hostile("unplugged camera", _spec("97"), "97: no camera at /dev/video97; .*camera"),
    Hostile("unplugged device", _spec("/dev/video98"), "no camera at /dev/video98"),
    Hostile("unknown scheme", _spec("gopher://host/x"), r"gopher://host/x: not an address"),
    Hostile("FFmpeg's own scheme", _spec("concat:a.mp4|b.mp4"), "no such file or folder"),
    Hostile("nobody there", _spec("tcp://127.0.0.1:9"), "cannot be opened: connection refused"),
    Hostile("frames of a drawn test", _spec("lavfi:testsrc"), "no such file or folder"),
)
