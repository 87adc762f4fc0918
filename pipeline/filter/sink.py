"""Writes filtered frames to a pipe: y4m, raw samples, or a container with times and colours.

A frame has left the process when `write` returns.
"""

import os
import stat
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Literal

import av
import numpy as np

from stillframe.closing import Closing
from stillframe.errors import SinkError
from stillframe.pipeline.filter import y4m
from stillframe.pipeline.filter.interlace import FIRST_FIELD, FieldOrderSetter
from stillframe.pipeline.filter.planes import Planes, plane_views
from stillframe.pipeline.filter.source import DEFAULT_RATE, PlaneFrame, StreamInfo
from stillframe.pipeline.media.pipe import enlarge_pipe
from stillframe.pipeline.sinks.sink import reason

Format = Literal["y4m", "rawvideo", "nut", "mpegts"]
MAX_TIME_ERROR_FRAMES = Fraction(
    1, 2
)  # of a frame: how far a time may be from the beat that y4m implies
MAX_RATE_ERROR = Fraction(1, 1000)  # how far a container's stated rate may be off


class OutputPipe:
    """A descriptor to which all bytes are written.

    Raises SinkError, and BrokenPipeError if the reader went away.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor = descriptor
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            raise SinkError(f"{name}: closed; pipe it into a program or a file") from None
        if os.isatty(descriptor):
            raise SinkError(f"{name}: a terminal; pipe it into a program or a file")
        if stat.S_ISFIFO(mode):
            enlarge_pipe(descriptor)

    def write(self, *parts: Any) -> int:
        """Write all bytes; -> how many."""
        rest = [memoryview(part).cast("B") for part in parts]
        size = sum(map(len, rest))
        try:
            while rest:
                written = os.writev(self._descriptor, rest)
                while rest and written >= len(rest[0]):
                    written -= len(rest.pop(0))
                if rest:
                    rest[0] = rest[0][written:]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SinkError(f"{self.name}: writing failed: {reason(error)}") from None
        return size


class FrameSink(Closing):
    """Writes the frames of one stream. info: of the source."""

    def __init__(self, pipe: OutputPipe, info: StreamInfo) -> None:
        self._pipe, self._info = pipe, info

    @abstractmethod
    def write(self, frame: PlaneFrame, picture: Planes) -> None:
        """Write a picture at the time of `frame`, from which it was made."""

    def close(self) -> None:
        """Finish the stream. Calling it again does nothing."""
        return

    def finish(self) -> None:
        """Complete the stream after its last frame, even if it had none."""
        return


class Y4mSink(FrameSink):
    """YUV4MPEG2: the source's header with the picture's size. Constant frame rates only."""

    def __init__(self, pipe: OutputPipe, info: StreamInfo) -> None:
        super().__init__(pipe, info)
        self._started = False
        self._frames = 0
        self._rate_check = ConstantRateCheck(info)

    def write(self, frame: PlaneFrame, picture: Planes) -> None:
        self._rate_check.check(frame, self._frames)
        header = b""
        if not self._started:
            self._started = True
            header = self._info.header.resized(picture.height, picture.width).to_bytes()
        self._pipe.write(header, y4m.FRAME, picture.data)
        self._frames += 1

    def finish(self) -> None:
        if not self._started:
            self._started = True
            self._pipe.write(self._info.header.to_bytes())


class RawSink(FrameSink):
    """Raw samples without any header."""

    def write(self, frame: PlaneFrame, picture: Planes) -> None:
        self._pipe.write(picture.data)


class ConstantRateCheck:
    """Refuses times that y4m cannot store: it has none, only a constant rate."""

    def __init__(self, info: StreamInfo) -> None:
        self._rate = info.rate or DEFAULT_RATE
        self._name = info.name
        self._first: Fraction | None = None

    def check(self, frame: PlaneFrame, number: int) -> None:
        """Raises SinkError if frame `number` (from 0) is not at its time for a constant rate."""
        time = frame.pts * frame.time_base
        if self._first is None:
            self._first = time
        elapsed = time - self._first
        due = number / self._rate
        if abs(elapsed - due) > MAX_TIME_ERROR_FRAMES / self._rate + elapsed * MAX_RATE_ERROR:
            raise SinkError(
                f"{self._name}: frame {frame.index} is at {float(elapsed):.3f} s, and y4m holds "
                f"{float(self._rate):.5g} frames a second, due at {float(due):.3f} s; write "
                "--format nut, or even it out before: ffmpeg -i IN -vsync cfr -f yuv4mpegpipe -"
            )


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How a container's frames are encoded."""

    format: str
    """FFmpeg's name of the container."""
    options: Mapping[str, str]
    """Of libx264."""


_LOW_LATENCY = {"tune": "zerolatency", "bf": "0", "threads": "1"}
ENCODERS: Mapping[str, EncoderSettings] = MappingProxyType(
    {
        # lossless H.264; NUT itself, and FFV1, cannot store range and matrix
        "nut": EncoderSettings(
            "nut", MappingProxyType({"preset": "ultrafast", "qp": "0", **_LOW_LATENCY})
        ),
        "mpegts": EncoderSettings(
            "mpegts", MappingProxyType({"preset": "veryfast", "crf": "18", **_LOW_LATENCY})
        ),
    }
)


class ContainerSink(FrameSink):
    """H.264 in a container, with times, range, matrix, pixel aspect and field order."""

    def __init__(self, pipe: OutputPipe, info: StreamInfo, encoder: EncoderSettings) -> None:
        super().__init__(pipe, info)
        self._encoder = encoder
        self._output: Any = None
        self._stream: Any = None
        self._field_order: FieldOrderSetter | None = None
        self._closed = False

    def write(self, frame: PlaneFrame, picture: Planes) -> None:
        try:
            if self._stream is None:
                self._open(picture)
            video_frame = av.VideoFrame(picture.width, picture.height, picture.layout.name)
            for into, part in zip(
                plane_views(video_frame, picture.layout), picture.parts, strict=True
            ):
                np.copyto(into, part)
            video_frame.pts, video_frame.time_base = frame.pts, frame.time_base
            if self._field_order is not None:
                video_frame = self._field_order(video_frame)
            self._output.mux(self._stream.encode(video_frame))
        except av.FFmpegError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        if self._closed or self._stream is None:
            return
        self._closed = True
        try:
            self._output.mux(self._stream.encode(None))
            self._output.close()
        except av.FFmpegError as error:
            raise self._failed(error) from None

    def _open(self, picture: Planes) -> None:
        info = self._info
        size = {"width": picture.width, "height": picture.height}
        if picture.width % picture.layout.cell[0] or picture.height % picture.layout.cell[1]:
            raise SinkError(
                f"{self._pipe.name}: expected even sides for H.264 in {picture.layout.name}, got "
                f"{picture.width}x{picture.height}; write --format y4m or rawvideo"
            )
        self._output = av.open(
            self._pipe,
            mode="w",
            format=self._encoder.format,
            container_options={"flush_packets": "1"},
        )
        options = dict(self._encoder.options)
        if info.header.interlace in FIRST_FIELD:
            first = FIRST_FIELD[info.header.interlace]
            options |= {"flags": "+ildct+ilme", "x264-params": f"{first}=1"}
            self._field_order = FieldOrderSetter(first)
        stream: Any = self._output.add_stream(
            "libx264", rate=info.rate or DEFAULT_RATE, options=options
        )
        context = stream.codec_context
        context.width, context.height = size["width"], size["height"]
        context.pix_fmt = picture.layout.name
        context.time_base = stream.time_base = info.time_base
        (
            context.color_range,
            context.colorspace,
            context.color_primaries,
            context.color_trc,
        ) = info.tags
        if info.aspect is not None:
            context.sample_aspect_ratio = info.aspect
        self._stream = stream

    def _failed(self, error: av.FFmpegError) -> Exception:
        self._closed = True
        if isinstance(error, BrokenPipeError):
            return error
        return SinkError(f"{self._pipe.name}: writing failed: {reason(error)}")


SinkFactory = Callable[[OutputPipe, StreamInfo], FrameSink]


def _container_sink(name: str) -> SinkFactory:
    return lambda pipe, info: ContainerSink(pipe, info, ENCODERS[name])


FORMATS: Mapping[Format, SinkFactory] = MappingProxyType(
    {
        "y4m": Y4mSink,
        "rawvideo": RawSink,
        "nut": _container_sink("nut"),
        "mpegts": _container_sink("mpegts"),
    }
)
