"""Frames for the stream filter in their own planes: y4m, or whatever FFmpeg decodes.

Our own reader reads y4m and consumes no byte beyond the current frame. Containers are decoded by
PyAV, one packet at a time.
"""

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial

import av
import numpy as np
from av.container import InputContainer

from stillframe.closing import Closing
from stillframe.errors import SourceError
from stillframe.pipeline.filter import y4m
from stillframe.pipeline.filter.interlace import interlace_flag
from stillframe.pipeline.filter.planes import (
    FULL,
    LAYOUTS,
    LIMITED,
    MATRICES,
    MATRIX_NAMES,
    Colours,
    Layout,
    Planes,
    likely_matrix,
    plane_views,
)
from stillframe.pipeline.media.address import FILE_PROTOCOLS, NO_PROTOCOL, Address, parse_address
from stillframe.pipeline.media.container import LOW_LATENCY, open_container, open_decoder
from stillframe.pipeline.media.decoder import DecodedPicture, ReadError
from stillframe.pipeline.media.pipe import PipeReader, named_pipe, standard_input
from stillframe.pipeline.media.to_rgb import Orientation, orientation

DEFAULT_RATE = Fraction(25)
MAX_DECODE_THREADS = 4
UNSTATED = 2  # H.273's code for unspecified matrix, primaries or transfer
# codecs whose chroma is left-sited by default
LEFT_SITED = frozenset({"h264", "hevc", "mpeg2video", "mpeg4", "vp9", "av1", "vvc"})
CHROMA_OF = {"yuv420p": "420jpeg", "yuv422p": "422", "yuv444p": "444", "gray": "mono"}
# FFmpeg's deprecated names for full-range samples
FULL_RANGE_NAMES = {"yuvj420p": "yuv420p", "yuvj422p": "yuv422p", "yuvj444p": "yuv444p"}


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What every frame of a stream has in common."""

    name: str
    layout: Layout
    colours: Colours
    """The colours that are assumed: the tags, or defaults for what they leave open."""
    size: tuple[int, int]
    """(height, width), upright."""
    rate: Fraction | None
    """Frames per second; None if not stated."""
    aspect: Fraction | None
    """Of one pixel; None if not stated."""
    time_base: Fraction
    tags: tuple[int, int, int, int]
    """Range, matrix, primaries and transfer as stated, in FFmpeg's numbers."""
    header: y4m.Y4mHeader
    """The header of the stream as y4m."""


@dataclass(frozen=True, slots=True)
class PlaneFrame:
    """A picture in planes with its time; the fields are those of `Frame`.

    The planes may be modified and are valid until the next frame is read.
    """

    picture: Planes
    index: int
    time_s: float
    pts: int
    time_base: Fraction
    corrupt: bool = False
    discontinuity: bool = False


class PlaneSource(Closing):
    """An iterator of frames in planes and a context manager."""

    info: StreamInfo

    @abstractmethod
    def __next__(self) -> PlaneFrame: ...

    @abstractmethod
    def stop(self) -> None:
        """Deliver no more frames and unblock a waiting reader. Safe in a signal handler."""

    def __iter__(self) -> Iterator[PlaneFrame]:
        return self


def open_planes(spec: str, *, matrix: str | None = None) -> PlaneSource:
    """Open `-`, a file, a named pipe or `sample:NAME`. Raises SourceError.

    matrix: a name in planes.MATRICES; overrides what the stream states.
    """
    address = parse_address(spec)
    if address.kind == "sample":
        from stillframe import sample_videos

        address = parse_address(os.fspath(sample_videos.resolve(address.target)))
    if address.kind not in ("file", "pipe"):
        raise SourceError(
            f"{address.shown}: expected -, a file, a named pipe or sample:NAME, got a source of "
            f"kind {address.kind}; pipe it in: ffmpeg -i {address.shown} -f yuv4mpegpipe - |"
        )
    pipe, path = _open_pipe(address)
    try:
        first = _first_bytes(pipe)
        if first == y4m.MAGIC:
            return Y4mSource(pipe, address.shown, first, matrix)
        if path is not None:
            pipe.close()
            open_file = partial(open_container, f"file:{path}", address, FILE_PROTOCOLS, {}, None)
        else:
            pipe.unread(first)
            open_file = partial(open_container, pipe, address, NO_PROTOCOL, LOW_LATENCY, None)
        return ContainerSource(address, open_file, pipe if path is None else None, matrix)
    except BaseException:
        pipe.close()
        raise


def _open_pipe(address: Address) -> tuple[PipeReader, str | None]:
    """The source as a pipe, and its path if it is a regular file, which FFmpeg reads by name."""
    if address.target == "-":
        pipe = standard_input()
        if pipe is not None:
            return pipe, None
        address = replace(address, kind="file", target="/dev/stdin")
    if address.kind == "pipe":
        return named_pipe(address.target), None
    descriptor = os.open(address.target, os.O_RDONLY | os.O_CLOEXEC)
    return PipeReader(descriptor, name=address.shown, owned=True), address.target


def _first_bytes(pipe: PipeReader) -> bytes:
    """Reads just enough bytes to tell y4m from other formats."""
    first = b""
    while y4m.MAGIC.startswith(first) and len(first) < len(y4m.MAGIC):
        more = pipe.read(len(y4m.MAGIC) - len(first))
        if not more:
            break
        first += more
    if not first and not pipe.interrupted:
        raise SourceError(f"{pipe.name}: nothing came; pipe a video into it")
    return first


class Y4mSource(PlaneSource):
    """Reads YUV4MPEG2."""

    def __init__(self, pipe: PipeReader, name: str, first: bytes, matrix: str | None) -> None:
        self._pipe = pipe
        self._reader = y4m.Y4mReader(pipe, name, first)
        header = self._reader.header
        size = header.height, header.width
        # FFmpeg's defaults for untagged streams: full range for grey, limited for the rest
        full = header.layout.name == "gray" if header.full is None else header.full
        colours = Colours(matrix or likely_matrix(header.height), full)
        stated = 0 if header.full is None else (FULL if header.full else LIMITED)
        self.info = StreamInfo(
            name=name,
            layout=header.layout,
            colours=colours,
            size=size,
            rate=header.rate,
            aspect=header.aspect,
            time_base=1 / (header.rate or DEFAULT_RATE),
            tags=(stated, UNSTATED, UNSTATED, UNSTATED),
            header=header,
        )

    def __next__(self) -> PlaneFrame:
        index = self._reader.frames
        try:
            data = self._reader.read()
        except SourceError:
            if self._pipe.interrupted:
                raise StopIteration from None
            raise
        if data is None:
            raise StopIteration
        info = self.info
        picture = Planes.over(data[len(y4m.FRAME) :], info.layout, info.colours, info.size)
        return PlaneFrame(picture, index, float(index * info.time_base), index, info.time_base)

    def stop(self) -> None:
        self._pipe.interrupt()

    def close(self) -> None:
        self._pipe.close()


class ContainerSource(PlaneSource):
    """Reads a container: upright frames with the decoder's samples."""

    def __init__(
        self,
        address: Address,
        open_file: Callable[[], InputContainer],
        pipe: PipeReader | None,
        matrix: str | None,
    ) -> None:
        self._name, self._pipe = address.shown, pipe
        self._stopped = False
        self._index = 0
        threads = min(MAX_DECODE_THREADS, len(os.sched_getaffinity(0)))
        self._decoder = open_decoder(
            open_file, address, threads=threads, low_latency=pipe is not None
        )
        try:
            pictures = self._decoder.read_packet() or []
            self.info = self._stream_info(pictures[0], matrix)
        except BaseException:
            self._decoder.close()
            raise
        self._pictures = iter(pictures)
        self._planes: Planes = Planes.empty(self.info.layout, self.info.colours, self.info.size)

    def __next__(self) -> PlaneFrame:
        picture = self._next()
        self._copy_planes(picture.image)
        index, self._index = self._index, self._index + 1
        return PlaneFrame(
            picture=self._planes,
            index=index,
            time_s=float(picture.pts * picture.time_base - self._decoder.start),
            pts=picture.pts,
            time_base=picture.time_base,
            corrupt=picture.corrupt,
            discontinuity=picture.discontinuity,
        )

    def stop(self) -> None:
        self._stopped = True
        if self._pipe is not None:
            self._pipe.interrupt()

    def close(self) -> None:
        self._stopped = True
        self._decoder.close()
        if self._pipe is not None:
            self._pipe.close()

    def _next(self) -> DecodedPicture:
        while not self._stopped:
            for picture in self._pictures:
                return picture
            try:
                pictures = self._decoder.read_packet()
            except ReadError as error:
                raise SourceError(
                    f"{self._name}: reading failed after frame {self._index}: {error}"
                ) from None
            if pictures is None:
                break
            self._pictures = iter(pictures)
        raise StopIteration

    def _copy_planes(self, image: av.VideoFrame) -> None:
        """Copy a decoded picture into the planes that are delivered."""
        layout, full = self._layout(image)
        turn = orientation(image)
        size = _upright(image, turn)
        info = self.info
        if (layout, full, size) != (info.layout, info.colours.full, info.size):
            before = _described(info.layout, info.size)
            raise SourceError(
                f"{self._name}: frame {self._index}: expected {before} as before, got "
                f"{_described(layout, size)}; make the whole stream alike before it comes: "
                f"ffmpeg -i IN -vf scale={info.size[1]}:{info.size[0]} -f yuv4mpegpipe -"
            )
        for part, view in zip(self._planes.parts, plane_views(image, layout), strict=True):
            np.copyto(part, turn.apply(view))

    def _layout(self, image: av.VideoFrame) -> tuple[Layout, bool]:
        """(layout of a picture, whether it is full range). Raises SourceError for other formats."""
        name = image.format.name
        plain = FULL_RANGE_NAMES.get(name, name)
        if plain not in LAYOUTS:
            raise SourceError(
                f"{self._name}: frame {self._index}: expected {y4m.SUPPORTED}, got {name}; convert "
                f"it with: {y4m.CONVERT_COMMAND}"
            )
        is_full = int(image.color_range) == FULL
        if plain == "gray":
            is_full = int(image.color_range) != LIMITED
        return LAYOUTS[plain], is_full or plain != name

    def _stream_info(self, first: DecodedPicture, matrix: str | None) -> StreamInfo:
        image, source_info = first.image, self._decoder.info
        layout, full = self._layout(image)
        turn = orientation(image)
        size = _upright(image, turn)
        if turn.rotation in (90, 270) and layout.cell[0] != layout.cell[1]:
            raise SourceError(
                f"{self._name}: a {layout.name} picture to be turned by {turn.rotation} degrees "
                f"has no such layout upright; convert it with: {y4m.CONVERT_COMMAND}"
            )
        number = int(image.colorspace)
        if number not in (UNSTATED, *MATRIX_NAMES):
            raise SourceError(
                f"{self._name}: expected one of the matrices {', '.join(MATRICES)}, got number "
                f"{number} of H.273; convert it with: {y4m.CONVERT_COMMAND}"
            )
        colours = Colours(matrix or MATRIX_NAMES.get(number) or likely_matrix(size[0]), full)
        tags = (
            FULL if full else int(image.color_range),
            number,
            int(image.color_primaries),
            int(image.color_trc),
        )
        aspect = source_info.pixel_aspect if source_info.pixel_aspect != 1 else None
        comments = () if not tags[0] else (f"COLORRANGE={'FULL' if full else 'LIMITED'}",)
        chroma = CHROMA_OF[layout.name]
        if layout.name == "yuv420p" and source_info.codec in LEFT_SITED:
            chroma = "420mpeg2"
        header = y4m.Y4mHeader(
            width=size[1],
            height=size[0],
            rate=source_info.rate,
            interlace=interlace_flag(image),
            aspect=aspect,
            chroma=chroma,
            comments=comments,
        )
        return StreamInfo(
            name=self._name,
            layout=layout,
            colours=colours,
            size=size,
            rate=source_info.rate,
            aspect=aspect,
            time_base=first.time_base,
            tags=tags,
            header=header,
        )


def _upright(image: av.VideoFrame, turn: Orientation) -> tuple[int, int]:
    size = image.height, image.width
    return size[::-1] if turn.rotation in (90, 270) else size


def _described(layout: Layout, size: tuple[int, int]) -> str:
    return f"{layout.name} {size[1]}x{size[0]}"
