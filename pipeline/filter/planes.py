"""Pictures in a stream's own format: luma and chroma planes, each at its own resolution.

Effects work in these planes, so samples that they do not touch stay bit-identical. An RGB picture
is one plane with three channels, so the same effects serve both.
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

LIMITED, FULL = 1, 2  # FFmpeg's AVColorRange
HD_ROWS = 720  # from this height on, untagged pictures count as BT.709


@dataclass(frozen=True, slots=True)
class Layout:
    """How samples lie in memory."""

    name: str
    """FFmpeg's name of the pixel format."""
    shifts: tuple[tuple[int, int], ...]
    """For each plane, log2 of its subsampling by (columns, rows)."""
    channels: int = 1
    """Of every plane."""

    @property
    def cell(self) -> tuple[int, int]:
        """(columns, rows) of luma samples per chroma sample."""
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
    """The coefficients that convert RGB to luma and chroma."""

    number: int
    """FFmpeg's AVColorSpace."""
    red: float
    """Red's share of luma (Kr)."""
    blue: float
    """Blue's share of luma (Kb)."""


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
    """What the samples of a stream mean."""

    matrix: str = "bt601"
    """A name in MATRICES."""
    full: bool = False
    """Levels from 0 to 255 (full range), not 16 to 235."""

    def levels(self, colour: Colour, layout: Layout) -> list[Level]:
        """An RGB colour as the sample values of each plane."""
        if layout.channels == 3:
            return [colour]
        matrix = MATRICES[self.matrix]
        red, green, blue = (value / 255 for value in colour)
        luma = matrix.red * red + (1 - matrix.red - matrix.blue) * green + matrix.blue * blue
        black, white, swing = (0, 255, 255) if self.full else (16, 219, 224)
        levels: list[Level] = [(_level(black + white * luma),)]
        for value, share in ((blue, matrix.blue), (red, matrix.red)):
            levels.append((_level(128 + swing * (value - luma) / (2 - 2 * share)),))
        return levels[: len(layout.shifts)]


def _level(value: float) -> int:
    return min(255, max(0, round(value)))


def likely_matrix(height: int) -> str:
    """The matrix of an untagged stream by its height, as players choose it."""
    return "bt709" if height >= HD_ROWS else "bt601"


@dataclass(frozen=True, slots=True)
class Planes:
    """One picture in planes."""

    layout: Layout
    colours: Colours
    height: int
    width: int
    data: Samples
    """(n,) uint8: all bytes, plane after plane."""
    parts: tuple[Samples, ...]
    """Each plane as a view of `data`: (rows, columns) uint8; for RGB (rows, columns, 3)."""

    @classmethod
    def over(cls, data: Samples, layout: Layout, colours: Colours, size: tuple[int, int]) -> Any:
        """A picture that uses an existing (n,) buffer. size: (height, width)."""
        parts, start = [], 0
        for shape in layout.shapes(*size):
            end = start + int(np.prod(shape))
            parts.append(data[start:end].reshape(shape))
            start = end
        return cls(layout, colours, *size, data, tuple(parts))

    @classmethod
    def empty(cls, layout: Layout, colours: Colours, size: tuple[int, int]) -> Any:
        """A picture with uninitialised samples. size: (height, width)."""
        return cls.over(np.empty(layout.size_bytes(*size), np.uint8), layout, colours, size)


class PlanesToRgb:
    """Converts pictures of one layout and size to (H, W, 3) uint8 RGB."""

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
        """(H, W, 3) uint8, a copy."""
        if self._frame is None:
            assert self._table is not None
            full_range = cv2.LUT(picture.parts[0], self._table)
            return np.asarray(cv2.cvtColor(full_range, cv2.COLOR_GRAY2RGB), np.uint8)
        for into, part in zip(self._into, picture.parts, strict=True):
            np.copyto(into, part)
        rgb = self._reformatter.reformat(
            self._frame,
            format="rgb24",
            src_colorspace=MATRICES[self._colours.matrix].number,
            src_color_range=FULL if self._colours.full else LIMITED,
            threads=1,
        )
        return np.ascontiguousarray(rgb.to_ndarray(), np.uint8)


class RgbToPlanes:
    """Converts (H, W, 3) uint8 RGB of any size to pictures of one layout."""

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
            matrix = MATRICES[self._colours.matrix]
            mix = np.array([[matrix.red, 1 - matrix.red - matrix.blue, matrix.blue]], np.float32)
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
    """Views of the planes of FFmpeg's picture, without the padding of their rows."""
    return _views(frame, layout.shapes(frame.height, frame.width))


def _views(frame: av.VideoFrame, shapes: list[tuple[int, ...]]) -> list[Samples]:
    views = []
    for plane, (rows, columns, *_) in zip(frame.planes, shapes, strict=True):
        whole = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        views.append(whole[:rows, :columns])
    return views
