"""What a filter does to a part of a picture: make it unrecognisable, within the stream's planes.

An area is a box, aligned to the samples that planes of different resolution share, and a cover
that says how much of each such cell is hidden. Samples outside of a cover keep their every bit.

    blur       an average over cells of the box, smooth between them
    pixelate   the same in squares of one colour each
    mask       one colour: nothing of what was there goes into what leaves
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.pipeline.filter.planes import Colour, Layout, Level, Planes, Samples

Shape = Literal["oval", "box"]
Box = tuple[float, float, float, float]

CELLS = 6  # across the longer side of what is hidden
LEAST_CELL = 4  # samples; smaller ones would average too few
SOFT = 0.1  # of the radius: the rim over which an oval blur ends
ENOUGH = 64  # samples on a side: larger patches are averaged, and spread again, in two steps
ROUND = 8
BLACK: Colour = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Area:
    """A part of a picture. left, top, right, bottom: luma samples, right and bottom not part of
    it; aligned to the layout's cells, except at the picture's end. cover: (rows, columns) uint8,
    a value for each cell, 255 hides all of it; None: all of the box."""

    left: int
    top: int
    right: int
    bottom: int
    cover: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class ObscureStyle:
    """How areas are hidden. cells: across the longer side, for blur and pixelate. colour: RGB, for
    mask."""

    cells: int = CELLS
    colour: Colour = BLACK


def box_area(picture: Planes, box: Box, shape: Shape, *, soft: bool) -> Area | None:
    """The area of a box in pixels, cut off at the picture's borders; None if nothing is left.

    An oval touches the sides of the whole box, also of one that reaches beyond the picture.
    """
    across, down = picture.layout.cell
    left = max(0, int(np.floor(box[0] / across)) * across)
    top = max(0, int(np.floor(box[1] / down)) * down)
    right = min(picture.width, int(np.ceil(box[2] / across)) * across)
    bottom = min(picture.height, int(np.ceil(box[3] / down)) * down)
    if left >= right or top >= bottom:
        return None
    if shape == "box":
        return Area(left, top, right, bottom)
    x = np.arange(left, right, across, dtype=np.float32) + across / 2
    y = np.arange(top, bottom, down, dtype=np.float32) + down / 2
    x = (x - (box[0] + box[2]) / 2) / max(across, box[2] - box[0]) * 2
    y = (y - (box[1] + box[3]) / 2) / max(down, box[3] - box[1]) * 2
    radius = np.sqrt(x[None, :] ** 2 + y[:, None] ** 2)
    hidden = (1 - radius) / SOFT if soft else (radius <= 1).astype(np.float32)
    cover = np.clip(hidden * 255, 0, 255).astype(np.uint8)
    return Area(left, top, right, bottom, cover)


def mask_area(picture: Planes, hidden: NDArray[np.bool_], widen: float) -> Area | None:
    """The area of (H, W) pixels to hide, widened by that share of the picture's shorter side."""
    across, down = picture.layout.cell
    by = round(widen * min(hidden.shape))
    cover = hidden.astype(np.uint8) * np.uint8(255)
    if by:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1))
        cover = np.asarray(cv2.dilate(cover, disc), np.uint8)
    spare = (0, -hidden.shape[0] % down), (0, -hidden.shape[1] % across)
    rows, columns = (
        (size + more[1]) // cell
        for size, more, cell in zip(hidden.shape, spare, (down, across), strict=True)
    )
    cells = np.pad(cover, spare).reshape(rows, down, columns, across).max((1, 3))
    x, y, width, height = cv2.boundingRect(cells)
    if not width:
        return None
    return Area(
        left=x * across,
        top=y * down,
        right=min(picture.width, (x + width) * across),
        bottom=min(picture.height, (y + height) * down),
        cover=cells[y : y + height, x : x + width],
    )


def area_samples(plane: Samples, shift: tuple[int, int], where: Area) -> Samples:
    """The samples of an area in one plane, a view."""
    x, y = shift
    return plane[where.top >> y : -(-where.bottom >> y), where.left >> x : -(-where.right >> x)]


def cover_for(
    where: Area, patch: Samples, shift: tuple[int, int], layout: Layout
) -> Samples | None:
    """The area's cover with a value for each sample of `patch`."""
    if where.cover is None:
        return None
    cover = where.cover
    finer = [last - this for last, this in zip(layout.shifts[-1], shift, strict=True)]
    if any(finer):
        size = cover.shape[1] << finer[0], cover.shape[0] << finer[1]
        cover = np.asarray(cv2.resize(cover, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    return cover[: patch.shape[0], : patch.shape[1]]


def blend(patch: Samples, new: Samples | Level, cover: Samples | None) -> None:
    """Write `new` over a patch as far as its cover says; where that is 0 not a bit changes."""
    if cover is None:
        patch[...] = new
        return
    weight = cover if patch.ndim == 2 else cover[..., None]
    if np.logical_or(cover == 0, cover == 255).all():
        np.copyto(patch, np.asarray(new, np.uint8), where=weight > 0)
        return
    share = weight.astype(np.uint16)
    mixed = patch * (255 - share) + np.asarray(new, np.uint16) * share + 127
    patch[...] = mixed // 255


def _grid(where: Area, cells: int) -> tuple[int, int]:
    """(columns, rows) of cells over an area."""
    width, height = where.right - where.left, where.bottom - where.top
    side = max(LEAST_CELL, max(width, height) / cells)
    return max(1, round(width / side)), max(1, round(height / side))


def _few(patch: Samples, grid: tuple[int, int]) -> Samples:
    """The patch's averages, one a cell."""
    height, width = patch.shape[:2]
    by = max(height, width) // ENOUGH
    if (
        by > 1
    ):  # by a whole number OpenCV is many times quicker; an end of less than `by` is left out
        size = width // by or 1, height // by or 1
        patch = patch[: size[1] * by, : size[0] * by]
        patch = np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA), np.uint8)
        height, width = patch.shape[:2]
    size = min(grid[0], width), min(grid[1], height)
    return np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA), np.uint8)


def _pixelated(patch: Samples, grid: tuple[int, int]) -> Samples:
    size = patch.shape[1], patch.shape[0]
    few = _few(patch, grid)
    return np.asarray(cv2.resize(few, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _blurred(patch: Samples, grid: tuple[int, int]) -> Samples:
    size = patch.shape[1], patch.shape[0]
    few = cv2.GaussianBlur(_few(patch, grid), (3, 3), 0, borderType=cv2.BORDER_REPLICATE)
    if (
        max(size) > ENOUGH
    ):  # round between the cells, then straight lines: nobody sees the difference
        more = few.shape[1] * ROUND, few.shape[0] * ROUND
        few = cv2.resize(few, more, interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.resize(few, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(cv2.resize(few, size, interpolation=cv2.INTER_CUBIC), np.uint8)


Averaging = Callable[[Samples, tuple[int, int]], Samples]


def _averaging(average: Averaging) -> Callable[[Planes, Area, ObscureStyle], None]:
    def hide(picture: Planes, where: Area, style: ObscureStyle) -> None:
        grid = _grid(where, style.cells)
        for plane, shift in zip(picture.parts, picture.layout.shifts, strict=True):
            patch = area_samples(plane, shift, where)
            cover = cover_for(where, patch, shift, picture.layout)
            blend(patch, average(np.ascontiguousarray(patch), grid), cover)

    return hide


def fill(picture: Planes, where: Area, colour: Colour) -> None:
    """Paint an area in an RGB colour."""
    levels = picture.colours.levels(colour, picture.layout)
    for plane, shift, level in zip(picture.parts, picture.layout.shifts, levels, strict=True):
        patch = area_samples(plane, shift, where)
        blend(patch, level, cover_for(where, patch, shift, picture.layout))


def _masked(picture: Planes, where: Area, style: ObscureStyle) -> None:
    fill(picture, where, style.colour)


@dataclass(frozen=True, slots=True)
class ObscureMethod:
    """A way to hide an area. soft: whether its rim may be a mixture."""

    hide: Callable[[Planes, Area, ObscureStyle], None]
    soft: bool


OBSCURE_METHODS: dict[str, ObscureMethod] = {
    "blur": ObscureMethod(_averaging(_blurred), soft=True),
    "pixelate": ObscureMethod(_averaging(_pixelated), soft=False),
    "mask": ObscureMethod(_masked, soft=False),
}
