"""Pictures as a stream carries them: planes of brightness and colour, each at its own resolution.

A filter that changes a part of such a picture works in these planes, so that every other sample
leaves bit for bit as it came. RGB pictures are one plane of three channels here, so the same
effects serve both.
"""

from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Samples = NDArray[np.uint8]
Colour = tuple[int, int, int]
Level = tuple[int, ...]

LIMITED, FULL = 1, 2  # of FFmpeg's AVColorRange
HD_ROWS = 720  # pictures with as many rows or more are BT.709 where nothing else is stated


@dataclass(frozen=True, slots=True)
class Layout:
    """How samples lie in memory. name: FFmpeg's. shifts: for each plane the power of two by which
    its (columns, rows) are fewer than the picture's. channels: of every plane."""

    name: str
    shifts: tuple[tuple[int, int], ...]
    channels: int = 1

    @property
    def cell(self) -> tuple[int, int]:
        """(columns, rows) of luma that share one sample of chroma."""
        return 1 << self.shifts[-1][0], 1 << self.shifts[-1][1]

    def shapes(self, height: int, width: int) -> list[tuple[int, ...]]:
        """The shape of each plane of a picture; odd sizes round up."""
        last = (self.channels,) if self.channels > 1 else ()
        return [(-(-height >> y), -(-width >> x), *last) for x, y in self.shifts]

    def size_bytes(self, height: int, width: int) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes(height, width))


LAYOUTS: dict[str, Layout] = {
    row.name: row
    for row in (
        Layout("yuv420p", ((0, 0), (1, 1), (1, 1))),
        Layout("yuv422p", ((0, 0), (1, 0), (1, 0))),
        Layout("yuv444p", ((0, 0), (0, 0), (0, 0))),
        Layout("gray", ((0, 0),)),
    )
}
RGB = Layout("rgb24", ((0, 0),), channels=3)


@dataclass(frozen=True, slots=True)
class Matrix:
    """How brightness and colour are mixed of red, green and blue. number: FFmpeg's AVColorSpace.
    red, blue: their shares of brightness."""

    number: int
    red: float
    blue: float


MATRICES: dict[str, Matrix] = {
    "bt709": Matrix(1, 0.2126, 0.0722),
    "fcc": Matrix(4, 0.30, 0.11),
    "bt601": Matrix(5, 0.299, 0.114),
    "smpte240m": Matrix(7, 0.212, 0.087),
    "bt2020": Matrix(9, 0.2627, 0.0593),
}
MATRIX_NAMES: dict[int, str] = {row.number: name for name, row in MATRICES.items()} | {6: "bt601"}


@dataclass(frozen=True, slots=True)
class Colours:
    """What the samples of a stream mean. full: levels go from 0 to 255, not from 16 to 235."""

    matrix: str = "bt601"
    full: bool = False

    def levels(self, colour: Colour, layout: Layout) -> list[Level]:
        """An RGB colour as the samples of each plane."""
        if layout.channels == 3:
            return [colour]
        mix = MATRICES[self.matrix]
        red, green, blue = (value / 255 for value in colour)
        luma = mix.red * red + (1 - mix.red - mix.blue) * green + mix.blue * blue
        black, white, swing = (0, 255, 255) if self.full else (16, 219, 224)
        levels: list[Level] = [(_level(black + white * luma),)]
        for value, share in ((blue, mix.blue), (red, mix.red)):
            levels.append((_level(128 + swing * (value - luma) / (2 - 2 * share)),))
        return levels[: len(layout.shifts)]


def _level(value: float) -> int:
    return min(255, max(0, round(value)))


def likely_matrix(height: int) -> str:
    """The matrix of a stream that states none, by its number of rows, as players choose it."""
    return "bt709" if height >= HD_ROWS else "bt601"


@dataclass(frozen=True, slots=True)
class Planes:
    """One picture. data: all of its bytes, plane after plane; parts: each plane as a view of them,
    (rows, columns) uint8, of RGB (rows, columns, 3)."""

    layout: Layout
    colours: Colours
    height: int
    width: int
    data: Samples
    parts: tuple[Samples, ...]

    @classmethod
    def over(cls, data: Samples, layout: Layout, colours: Colours, size: tuple[int, int]) -> Any:
        """A picture in (n,) bytes that exist already. size: (height, width)."""
        parts, start = [], 0
        for shape in layout.shapes(*size):
            end = start + int(np.prod(shape))
            parts.append(data[start:end].reshape(shape))
            start = end
        return cls(layout, colours, *size, data, tuple(parts))

    @classmethod
    def empty(cls, layout: Layout, colours: Colours, size: tuple[int, int]) -> Any:
        """A picture whose samples are yet to be written."""
        return cls.over(np.empty(layout.size_bytes(*size), np.uint8), layout, colours, size)


class PlanesToRgb:
    """Turns pictures of one layout and size into (H, W, 3) uint8 RGB."""

    def __init__(self, layout: Layout, colours: Colours, size: tuple[int, int]) -> None:
        self._colours = colours
        self._reformatter = VideoReformatter()
        self._frame: av.VideoFrame | None = None
        self._table: Samples | None = None
        if layout.name == "gray":
            black, white = (0, 255) if colours.full else (16, 219)
            levels = (np.arange(256) - black) * (255 / white)
            self._table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
            return
        self._frame = av.VideoFrame(size[1], size[0], layout.name)
        self._into = _views(self._frame, layout.shapes(*size))

    def __call__(self, picture: Planes) -> Samples:
        """The picture in memory of its own."""
        if self._frame is None:
            assert self._table is not None
            lit = cv2.LUT(picture.parts[0], self._table)
            return np.asarray(cv2.cvtColor(lit, cv2.COLOR_GRAY2RGB), np.uint8)
        for into, part in zip(self._into, picture.parts, strict=True):
            np.copyto(into, part)
        plain = self._reformatter.reformat(
            self._frame,
            format="rgb24",
            src_colorspace=MATRICES[self._colours.matrix].number,
            src_color_range=FULL if self._colours.full else LIMITED,
            threads=1,
        )
        return np.ascontiguousarray(plain.to_ndarray(), np.uint8)


class RgbToPlanes:
    """Turns (H, W, 3) uint8 RGB of any size into pictures of one layout."""

    def __init__(self, layout: Layout, colours: Colours) -> None:
        self._layout, self._colours = layout, colours
        self._reformatter = VideoReformatter()

    def __call__(self, image: Samples) -> Planes:
        size = image.shape[0], image.shape[1]
        picture: Planes = Planes.empty(self._layout, self._colours, size)
        if self._layout.channels == 3:
            np.copyto(picture.parts[0], image)
            return picture
        if self._layout.name == "gray":
            shares = MATRICES[self._colours.matrix]
            mix = np.array([[shares.red, 1 - shares.red - shares.blue, shares.blue]], np.float32)
            luma = cv2.transform(image.astype(np.float32), mix)
            black, white = (0, 255) if self._colours.full else (16, 219)
            np.copyto(picture.parts[0], np.rint(luma * (white / 255) + black), casting="unsafe")
            return picture
        frame = self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), "rgb24"),
            format=self._layout.name,
            dst_colorspace=MATRICES[self._colours.matrix].number,
            dst_color_range=FULL if self._colours.full else LIMITED,
            threads=1,
        )
        for part, view in zip(
            picture.parts, _views(frame, self._layout.shapes(*size)), strict=True
        ):
            np.copyto(part, view)
        return picture


def plane_views(frame: av.VideoFrame, layout: Layout) -> list[Samples]:
    """The planes of a picture that FFmpeg holds, without the bytes between their rows."""
    return _views(frame, layout.shapes(frame.height, frame.width))


def _views(frame: av.VideoFrame, shapes: list[tuple[int, ...]]) -> list[Samples]:
    found = []
    for plane, (rows, columns, *_) in zip(frame.planes, shapes, strict=True):
        whole = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        found.append(whole[:rows, :columns])
    return found
