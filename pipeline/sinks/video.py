"""Annotated video: every frame at its own time, with the source's audio, playable after a crash.

MP4 and MOV are written in one-second fragments and become ordinary files on close; Matroska and
MPEG-TS consist of such pieces anyway. So a file that a kill or a full disk cut off plays up to its
last second.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
from av.container import OutputContainer
from numpy.typing import NDArray

from stillframe.cores import core_count
from stillframe.errors import SinkError, StillframeError
from stillframe.models.results import Result
from stillframe.pipeline.media.address import parse_address
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.source import SourceInfo
from stillframe.pipeline.sinks.audio_remux import AudioRemuxer
from stillframe.pipeline.sinks.mp4_tail import drop_cut_header
from stillframe.pipeline.sinks.sink import Sink, create_file, reason
from stillframe.pipeline.sinks.to_yuv import YuvConverter

Pixels = NDArray[np.uint8]

DEFAULT_RATE = Fraction(25)
KEY_FRAME_EVERY_S = 2
MOST_THREADS = 4
"""Of an encoder."""
BT709, LIMITED = 1, 1  # codes of H.273 for primaries, transfer and matrix; and for range


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """A container format."""

    format: str
    """FFmpeg's name of it."""
    codec: str
    """The default encoder."""
    options: Mapping[str, str]
    """The muxer's options."""
    constant_rate: bool = False
    """Whether it stores no timestamps, only frames at a constant rate."""


_FRAGMENTS = MappingProxyType(
    {"movflags": "hybrid_fragmented+delay_moov", "frag_duration": "1000000"}
)
_CLUSTERS = MappingProxyType({"cluster_time_limit": "1000"})
_PLAIN: Mapping[str, str] = MappingProxyType({})

VIDEO_FORMATS: Mapping[str, VideoFormat] = MappingProxyType(
    {
        ".mp4": VideoFormat("mp4", "libx264", _FRAGMENTS),
        ".m4v": VideoFormat("mp4", "libx264", _FRAGMENTS),
        ".mov": VideoFormat("mov", "libx264", _FRAGMENTS),
        ".mkv": VideoFormat("matroska", "libx264", _CLUSTERS),
        ".webm": VideoFormat("webm", "libvpx-vp9", _CLUSTERS),
        ".ts": VideoFormat("mpegts", "libx264", _PLAIN),
        ".avi": VideoFormat("avi", "libx264", _PLAIN, constant_rate=True),
    }
)
# write through at once; do not hold back video when the audio ends early
COMMON_OPTIONS: Mapping[str, str] = MappingProxyType(
    {"flush_packets": "1", "max_interleave_delta": "1000000"}
)
CODEC_OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "libx264": MappingProxyType({"preset": "superfast", "crf": "22"}),
        "libx265": MappingProxyType({"preset": "veryfast", "crf": "22"}),
        "libvpx-vp9": MappingProxyType(
            {"deadline": "realtime", "cpu-used": "8", "crf": "30", "b": "0", "row-mt": "1"}
        ),
    }
)


class VideoSink(Sink):
    """Writes pictures at the frames' own times; the path's suffix selects the container.

    audio_from: a file (or sample:NAME) whose audio packets are copied; other sources cannot be read
    twice and give no audio. The audio ends with the last picture, or at its own end if that was the
    file's last picture. codec: an encoder's name, by default H.264 (VP9 for .webm).

    Colours are BT.709, limited range, 4:2:0, and tagged as such. An odd side is padded by repeating
    its last row or column. All frames have the first picture's size: others are scaled to fit, with
    black bars. Matroska rounds times to milliseconds.

    Raises SinkError: from the constructor for a suffix, codec or audio that cannot be written, and
    for a file that exists (unless `force`); from `write` and `close` if writing fails.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        info: SourceInfo,
        audio_from: str | None = None,
        force: bool = False,
        codec: str | None = None,
    ) -> None:
        self._path = Path(path)
        self._format = _video_format(self._path, info)
        self._codec = _encoder(codec or self._format.codec, self._path, self._format)
        self._info = info
        audio_path = _audio_file(audio_from)
        self._converter: YuvConverter | None = None
        self._output: OutputContainer | None = None
        self._stream: Any = None
        self._audio: AudioRemuxer | None = None
        self._origin = Fraction(0)
        self._time_base = Fraction(0)
        self._last_pts = -1
        self._last_index = -1
        self._frame_s = 1 / (info.rate or DEFAULT_RATE)
        self._closed = False
        os.close(create_file(self._path, force, (audio_path, info.spec)))
        try:
            self._output = self._open()
            if audio_path is not None:
                self._audio = AudioRemuxer(audio_path, self._output, str(self._path))
        except BaseException:
            self._discard()
            raise

    def write(self, frame: Frame, result: Result | None, image: Pixels | None) -> None:
        if self._closed or self._output is None:
            raise SinkError(f"{self._path}: a frame after the file was closed")
        picture = np.ascontiguousarray(frame.image if image is None else image)
        try:
            if self._stream is None:
                self._begin(frame, picture)
            pts = self._ticks(frame)
            if pts <= self._last_pts:
                raise SinkError(
                    f"{self._path}: frame {frame.index} at {frame.time_s:.3f} s is not after the "
                    "one before it; a file holds times that rise"
                )
            self._encode(picture, pts)
            if self._audio is not None:
                self._audio.mux_until(pts * self._time_base)
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from None
        if self._last_pts >= 0:
            self._frame_s = (pts - self._last_pts) * self._time_base
        self._last_pts, self._last_index = pts, frame.index

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._stream is None:  # no frame was written: leave no empty file
            self._discard()
            return
        assert self._output is not None
        try:
            self._output.mux(self._stream.encode(None))
            if self._audio is not None:
                self._audio.mux_until(self._audio_end())
            self._output.close()
        except (av.FFmpegError, OSError) as error:
            raise self._failed(error) from None
        finally:
            self._release()

    def _open(self) -> OutputContainer:
        # with an explicit scheme FFmpeg interprets no colon or % in the path
        return av.open(
            f"file:{self._path}",
            mode="w",
            format=self._format.format,
            container_options={**COMMON_OPTIONS, **self._format.options},
        )

    def _begin(self, frame: Frame, picture: Pixels) -> None:
        """Add the video stream; the first picture gives its size and time base."""
        assert self._output is not None
        rate = self._info.rate or DEFAULT_RATE
        constant = self._format.constant_rate
        self._time_base = 1 / rate if constant else frame.time_base
        height, width = picture.shape[:2]
        options = dict(CODEC_OPTIONS.get(self._codec, {}))
        options["g"] = str(max(1, round(rate * KEY_FRAME_EVERY_S)))
        if self._codec != "libvpx-vp9":
            # no B-frames: with them constant-rate frames shift, and FFmpeg drops the last
            # pictures of an MP4 that is little longer than one fragment
            options["bf"] = "0"
        stream: Any = self._output.add_stream(self._codec, rate=rate, options=options)
        context = stream.codec_context
        context.width, context.height = width + width % 2, height + height % 2
        context.thread_count = _threads()
        self._converter = YuvConverter(context.width, context.height)
        context.pix_fmt = "yuv420p"
        context.time_base = stream.time_base = self._time_base
        context.color_range = LIMITED
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.sample_aspect_ratio = self._info.pixel_aspect
        self._stream = stream
        self._origin = frame.pts * frame.time_base
        if self._audio is not None:
            self._origin = self._audio.start(self._origin, from_start=frame.index == 0)

    def _ticks(self, frame: Frame) -> int:
        return round((frame.pts * frame.time_base - self._origin) / self._time_base)

    def _encode(self, picture: Pixels, pts: int) -> None:
        assert self._output is not None
        assert self._converter is not None
        context = self._stream.codec_context
        fitted = self._fitted(picture, context.width, context.height)
        frame = self._converter.convert(fitted)
        frame.pts, frame.time_base = pts, self._time_base
        self._output.mux(self._stream.encode(frame))

    def _fitted(self, picture: Pixels, width: int, height: int) -> Pixels:
        """The picture padded or scaled to the file's size."""
        have_height, have_width = picture.shape[:2]
        if (have_width, have_height) == (width, height):
            return picture
        if (have_width + have_width % 2, have_height + have_height % 2) == (width, height):
            spare = ((0, height - have_height), (0, width - have_width), (0, 0))
            return np.pad(picture, spare, mode="edge")
        scale = min(width / have_width, height / have_height)
        size = {"width": round(have_width * scale), "height": round(have_height * scale)}
        scaled = av.VideoFrame.from_numpy_buffer(picture, "rgb24").reformat(**size).to_ndarray()
        canvas = np.zeros((height, width, 3), np.uint8)
        top, left = (height - size["height"]) // 2, (width - size["width"]) // 2
        canvas[top : top + size["height"], left : left + size["width"]] = scaled
        return canvas

    def _audio_end(self) -> Fraction | None:
        """The end of the last picture; None after the source's last picture: copy all audio."""
        if self._info.frame_count is not None and self._last_index + 1 >= self._info.frame_count:
            return None
        return self._last_pts * self._time_base + self._frame_s

    def _failed(self, error: av.FFmpegError | OSError) -> SinkError:
        """Stop for good; -> the error to raise. What was written so far plays."""
        self._closed = True
        self._release()
        if self._format.options is _FRAGMENTS:
            with contextlib.suppress(OSError):
                drop_cut_header(self._path)
        return SinkError(
            f"{self._path}: writing failed: {reason(error)}; it plays up to where it broke off"
        )

    def _release(self) -> None:
        if self._audio is not None:
            self._audio.close()
        if self._output is not None:
            # after an error FFmpeg writes nothing more but releases the file
            with contextlib.suppress(av.FFmpegError, OSError):
                self._output.close()
        self._output = None

    def _discard(self) -> None:
        self._closed = True
        self._release()
        if self._path.is_file() and self._path.stat().st_size == 0:
            self._path.unlink()


def _threads() -> int:
    """Of the encoder: it shares the cores with the network, and threads cost it a tenth more."""
    return max(1, min(MOST_THREADS, core_count() // 2))


def _video_format(path: Path, info: SourceInfo) -> VideoFormat:
    kind = VIDEO_FORMATS.get(path.suffix.lower())
    if kind is None:
        raise SinkError(
            f"{path}: no kind of video is known by the suffix {path.suffix or 'of nothing'!r}; "
            f"use one of {' '.join(VIDEO_FORMATS)}"
        )
    if kind.constant_rate and info.variable_rate:
        raise SinkError(
            f"{path}: {path.suffix} holds a constant frame rate and {info.spec} has none; "
            "write .mp4 or .mkv"
        )
    return kind


def _encoder(name: str, path: Path, kind: VideoFormat) -> str:
    """The encoder's name, checked: it is a video encoder and the container can hold its output."""
    try:
        is_video = av.Codec(name, "w").type == "video"
    except ValueError:
        is_video = False
    if not is_video:
        raise SinkError(f"{path}: {name!r} is no video encoder here; libx264 and mpeg4 are")
    try:
        with av.open(os.devnull, mode="w", format=kind.format) as trial:  # never started
            trial.add_stream(name)
    except ValueError:
        raise SinkError(f"{path}: this kind of file cannot hold video by {name}") from None
    return name


def _audio_file(spec: str | None) -> str | None:
    """The path of a source that can be read a second time for its audio; None for others."""
    if spec is None:
        return None
    try:
        address = parse_address(spec)
    except StillframeError as error:
        raise SinkError(f"no audio to copy: {error}") from None
    if address.kind == "sample":
        from stillframe import sample_videos

        return os.fspath(sample_videos.resolve(address.target))
    return address.target if address.kind == "file" else None
