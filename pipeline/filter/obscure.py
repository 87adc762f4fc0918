"""Makes a part of a picture unrecognisable, in the stream's own planes.

An Area is a box aligned to whole chroma samples, with a cover: the opacity of each cell (the luma
samples that share one chroma sample). Samples outside the cover stay bit-identical.

    blur       averages of the box's cells, interpolated smoothly
    pixelate   the same averages as squares
    mask       one colour: nothing of the original remains
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

CELLS = 6  # across the longer side of a hidden area
MIN_CELL = 4  # samples per side; smaller cells would average too little
SOFT_EDGE = 0.1  # of the radius: the width over which an oval blur fades out
TWO_STEP_SIDE = 64  # samples: larger patches are shrunk and enlarged in two steps, for speed
CUBIC_SCALE = 8  # of the first enlarging step
BLACK: Colour = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Area:
    """A part of a picture in luma samples; aligned to cells, except at the picture's end."""

    left: int
    top: int
    right: int
    """Exclusive."""
    bottom: int
    """Exclusive."""
    cover: NDArray[np.uint8] | None = None
    """(rows, columns) opacity of each cell, 255 is opaque; None: the whole box is opaque."""


@dataclass(frozen=True, slots=True)
class ObscureStyle:
    """How areas are hidden."""

    cells: int = CELLS
    """For blur and pixelate: cells across the longer side."""
    colour: Colour = BLACK
    """For mask: RGB."""


def box_area(picture: Planes, box: Box, shape: Shape, *, soft: bool) -> Area | None:
    """The area of a box in pixels, clipped to the picture; None if nothing is left.

    An oval is inscribed in the whole box, even if that reaches beyond the picture.
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
    opacity = (1 - radius) / SOFT_EDGE if soft else (radius <= 1).astype(np.float32)
    cover = np.clip(opacity * 255, 0, 255).astype(np.uint8)
    return Area(left, top, right, bottom, cover)


def mask_area(picture: Planes, hidden: NDArray[np.bool_], widen: float) -> Area | None:
    """The area of (H, W) pixels to hide, dilated by this share of the picture's shorter side."""
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
    """The samples of an area in one plane: a view."""
    x, y = shift
    return plane[where.top >> y : -(-where.bottom >> y), where.left >> x : -(-where.right >> x)]


def cover_for(
    where: Area, patch: Samples, shift: tuple[int, int], layout: Layout
) -> Samples | None:
    """The area's cover at the resolution of `patch`: one value per sample."""
    if where.cover is None:
        return None
    cover = where.cover
    finer = [last - this for last, this in zip(layout.shifts[-1], shift, strict=True)]
    if any(finer):
        size = cover.shape[1] << finer[0], cover.shape[0] << finer[1]
        cover = np.asarray(cv2.resize(cover, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    return cover[: patch.shape[0], : patch.shape[1]]


def blend(patch: Samples, new: Samples | Level, cover: Samples | None) -> None:
    """Blend `new` over a patch by its cover; samples with cover 0 stay bit-identical."""
    if cover is None:
        patch[...] = new
        return
    weight = cover if patch.ndim == 2 else cover[..., None]
    if np.logical_or(cover == 0, cover == 255).all():
        np.copyto(patch, np.asarray(new, np.uint8), where=weight > 0)
        return
    alpha = weight.astype(np.uint16)
    mixed = patch * (255 - alpha) + np.asarray(new, np.uint16) * alpha + 127
    patch[...] = mixed // 255


def _grid(where: Area, cells: int) -> tuple[int, int]:
    """(columns, rows) of cells over an area."""
    width, height = where.right - where.left, where.bottom - where.top
    side = max(MIN_CELL, max(width, height) / cells)
    return max(1, round(width / side)), max(1, round(height / side))


def _cell_means(patch: Samples, grid: tuple[int, int]) -> Samples:
    """The mean of each cell of the patch."""
    height, width = patch.shape[:2]
    by = max(height, width) // TWO_STEP_SIDE
    if by > 1:  # OpenCV shrinks much faster by whole numbers; a rest of less than `by` is cropped
        size = width // by or 1, height // by or 1
        patch = patch[: size[1] * by, : size[0] * by]
        patch = np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA), np.uint8)
        height, width = patch.shape[:2]
    size = min(grid[0], width), min(grid[1], height)
    return np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA), np.uint8)


def _pixelated(patch: Samples, grid: tuple[int, int]) -> Samples:
    size = patch.shape[1], patch.shape[0]
    means = _cell_means(patch, grid)
    return np.asarray(cv2.resize(means, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _blurred(patch: Samples, grid: tuple[int, int]) -> Samples:
    size = patch.shape[1], patch.shape[0]
    means = cv2.GaussianBlur(_cell_means(patch, grid), (3, 3), 0, borderType=cv2.BORDER_REPLICATE)
    if max(size) > TWO_STEP_SIDE:  # cubic, then linear: faster, with no visible difference
        first = means.shape[1] * CUBIC_SCALE, means.shape[0] * CUBIC_SCALE
        means = cv2.resize(means, first, interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.resize(means, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(cv2.resize(means, size, interpolation=cv2.INTER_CUBIC), np.uint8)


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
    """Paint an area with an RGB colour, in place."""
    levels = picture.colours.levels(colour, picture.layout)
    for plane, shift, level in zip(picture.parts, picture.layout.shifts, levels, strict=True):
        patch = area_samples(plane, shift, where)
        blend(patch, level, cover_for(where, patch, shift, picture.layout))


def _masked(picture: Planes, where: Area, style: ObscureStyle) -> None:
    fill(picture, where, style.colour)


@dataclass(frozen=True, slots=True)
class ObscureMethod:
    """A way to hide an area."""

    hide: Callable[[Planes, Area, ObscureStyle], None]
    soft: bool
    """Whether its edge may fade out."""


OBSCURE_METHODS: dict[str, ObscureMethod] = {
    "blur": ObscureMethod(_averaging(_blurred), soft=True),
    "pixelate": ObscureMethod(_averaging(_pixelated), soft=False),
    "mask": ObscureMethod(_masked, soft=False),
}
