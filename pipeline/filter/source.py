"""Frames for the stream filter, in the planes in which they come: y4m, or whatever FFmpeg decodes.

y4m is read by our own reader, which takes no byte beyond the frame that it gives. Containers go
through PyAV's decoder, one packet at a time.
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
MOST_DECODE_THREADS = 4
UNSTATED = 2  # of H.273: a matrix, primaries or transfer that are not stated
# Codecs whose chroma lies in line with the left luma sample, where nothing else is stated.
LEFT_SITED = frozenset({"h264", "hevc", "mpeg2video", "mpeg4", "vp9", "av1", "vvc"})
CHROMA_OF = {"yuv420p": "420jpeg", "yuv422p": "422", "yuv444p": "444", "gray": "mono"}
# FFmpeg's old names for the same samples at full range.
FULL_RANGE_NAMES = {"yuvj420p": "yuv420p", "yuvj422p": "yuv422p", "yuvj444p": "yuv444p"}


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What every frame of a stream has in common.

    size: (height, width), upright. rate, aspect (of one pixel): None where nothing is stated.
    tags: range, matrix, primaries and transfer as FFmpeg's numbers, as they were stated.
    colours: the same as it is taken here. header: of y4m.
    """

    name: str
    layout: Layout
    colours: Colours
    size: tuple[int, int]
    rate: Fraction | None
    aspect: Fraction | None
    time_base: Fraction
    tags: tuple[int, int, int, int]
    header: y4m.Y4mHeader


@dataclass(frozen=True, slots=True)
class PlaneFrame:
    """One picture with its time, as in `Frame`. Its planes are valid until the next is asked for,
    and may be written to."""

    picture: Planes
    index: int
    time_s: float
    pts: int
    time_base: Fraction
    corrupt: bool = False
    discontinuity: bool = False


class PlaneSource(Closing):
    """An iterator of shots and a context manager. `stop` may be called by a signal handler: no
    frame follows, and a reader that waits is freed."""

    info: StreamInfo

    @abstractmethod
    def __next__(self) -> PlaneFrame: ...

    @abstractmethod
    def stop(self) -> None: ...

    def __iter__(self) -> Iterator[PlaneFrame]:
        return self


def open_planes(spec: str, *, matrix: str | None = None) -> PlaneSource:
    """Open `-`, a file, a named pipe or `sample:NAME`. Raises SourceError.

    matrix: a name of planes.MATRICES, for streams that state none or a wrong one.
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
    pipe, path = _bytes(address)
    try:
        first = _first_bytes(pipe)
        if first == y4m.MAGIC:
            return Y4mSource(pipe, address.shown, first, matrix)
        if path is not None:
            pipe.close()
            open_it = partial(open_container, f"file:{path}", address, FILE_PROTOCOLS, {}, None)
        else:
            pipe.unread(first)
            open_it = partial(open_container, pipe, address, NO_PROTOCOL, LOW_LATENCY, None)
        return ContainerSource(address, open_it, pipe if path is None else None, matrix)
    except BaseException:
        pipe.close()
        raise


def _bytes(address: Address) -> tuple[PipeReader, str | None]:
    """A source's bytes, and its path where it is an ordinary file, which FFmpeg reads by name."""
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
    """As many bytes as tell y4m from all else; fewer where they differ, or there are no more."""
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
    """Frames of YUV4MPEG2."""

    def __init__(self, pipe: PipeReader, name: str, first: bytes, matrix: str | None) -> None:
        self._pipe = pipe
        self._reader = y4m.Y4mReader(pipe, name, first)
        header = self._reader.header
        size = header.height, header.width
        # FFmpeg means full range by grey, and limited by everything else, where nothing is stated
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
    """Frames of a container, upright, with samples as the decoder gives them."""

    def __init__(
        self,
        address: Address,
        open_it: Callable[[], InputContainer],
        pipe: PipeReader | None,
        matrix: str | None,
    ) -> None:
        self._name, self._pipe = address.shown, pipe
        self._stopped = False
        self._index = 0
        threads = min(MOST_DECODE_THREADS, len(os.sched_getaffinity(0)))
        self._decoder = open_decoder(
            open_it, address, threads=threads, low_latency=pipe is not None
        )
        try:
            pictures = self._decoder.read_packet() or []
            self.info = self._described(pictures[0], matrix)
        except BaseException:
            self._decoder.close()
            raise
        self._pictures = iter(pictures)
        self._space: Planes = Planes.empty(self.info.layout, self.info.colours, self.info.size)

    def __next__(self) -> PlaneFrame:
        picture = self._next()
        self._take(picture.image)
        index, self._index = self._index, self._index + 1
        return PlaneFrame(
            picture=self._space,
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

    def _take(self, image: av.VideoFrame) -> None:
        """Copy a decoded picture into the space that shots are made of."""
        layout, full = self._layout(image)
        turn = orientation(image)
        size = _upright(image, turn)
        want = self.info
        if (layout, full, size) != (want.layout, want.colours.full, want.size):
            raise SourceError(
                f"{self._name}: frame {self._index}: expected {_told(want.layout, want.size)} as "
                f"before, got {_told(layout, size)}; make the whole stream alike before it comes: "
                f"ffmpeg -i IN -vf scale={want.size[1]}:{want.size[0]} -f yuv4mpegpipe -"
            )
        for part, view in zip(self._space.parts, plane_views(image, layout), strict=True):
            np.copyto(part, turn.apply(view))

    def _layout(self, image: av.VideoFrame) -> tuple[Layout, bool]:
        """How a picture's samples lie, and whether they use the full range."""
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

    def _described(self, first: DecodedPicture, matrix: str | None) -> StreamInfo:
        image, about = first.image, self._decoder.info
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
        aspect = about.pixel_aspect if about.pixel_aspect != 1 else None
        comments = () if not tags[0] else (f"COLORRANGE={'FULL' if full else 'LIMITED'}",)
        chroma = CHROMA_OF[layout.name]
        if layout.name == "yuv420p" and about.codec in LEFT_SITED:
            chroma = "420mpeg2"
        header = y4m.Y4mHeader(
            width=size[1],
            height=size[0],
            rate=about.rate,
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
            rate=about.rate,
            aspect=aspect,
            time_base=first.time_base,
            tags=tags,
            header=header,
        )


def _upright(image: av.VideoFrame, turn: Orientation) -> tuple[int, int]:
    size = image.height, image.width
    return size[::-1] if turn.rotation in (90, 270) else size


def _told(layout: Layout, size: tuple[int, int]) -> str:
    return f"{layout.name} {size[1]}x{size[0]}"
