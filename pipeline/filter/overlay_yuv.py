"""Draws results into a stream's own planes; samples that no line or label covers stay unchanged.

Colours, widths and letters match `sinks.overlay`, which draws on RGB pictures.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.results import Classes, Depth, Detections, Mask, Picture, Result, Tensors
from stillframe.pipeline.filter.obscure import Area, area_samples, blend, fill
from stillframe.pipeline.filter.planes import Colour, Planes
from stillframe.pipeline.sinks.overlay import FONT, INK, MASK_OPACITY, PALETTE, PAPER

Cover = NDArray[np.uint8]


def draw_on_planes(picture: Planes, result: Result) -> None:
    """Draw a result, in place."""
    PAINTERS[type(result)](picture, result)


def paint(picture: Planes, left: int, top: int, cover: Cover, colour: Colour) -> None:
    """Paint a colour through a cover, clipped to the picture.

    cover: (rows, columns) uint8 opacity at luma resolution, placed at (left, top).
    """
    across, down = picture.layout.cell
    first, above = max(0, left), max(0, top)
    right = min(picture.width, left + cover.shape[1])
    bottom = min(picture.height, top + cover.shape[0])
    if first >= right or above >= bottom:
        return
    cover = cover[above - top : bottom - top, first - left : right - left]
    spare = (above % down, -bottom % down), (first % across, -right % across)
    whole = np.zeros((bottom - above + spare[0][0] + spare[0][1],
                      right - first + spare[1][0] + spare[1][1]), np.uint8)  # fmt: skip
    whole[spare[0][0] :, spare[1][0] :][: cover.shape[0], : cover.shape[1]] = cover
    where = Area(first - spare[1][0], above - spare[0][0], right, bottom)
    levels = picture.colours.levels(colour, picture.layout)
    for plane, shift, level in zip(picture.parts, picture.layout.shifts, levels, strict=True):
        patch = area_samples(plane, shift, where)
        opacity = whole
        if shift != (0, 0):
            size = whole.shape[1] >> shift[0], whole.shape[0] >> shift[1]
            opacity = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)
        blend(patch, level, opacity[: patch.shape[0], : patch.shape[1]])


def _boxes(picture: Planes, result: Detections) -> None:
    line, letter, stroke = _pen(picture)
    # lowest confidence first, so that the highest ends up on top
    for i in reversed(range(len(result))):
        colour = PALETTE[int(result.class_id[i]) % len(PALETTE)]
        left, _, right, _ = box = _aligned(picture, result.xyxy[i])
        points = None if result.landmarks is None else result.landmarks[i]
        if result.masks is not None:
            _tint(picture, result.masks[i], colour, line)
        if points is not None and len(points) == 4:  # the corners of a line of text
            _polygon(picture, points, colour, line)
            continue
        across = max(picture.layout.cell)
        _frame(picture, box, INK, across, across)
        _frame(picture, box, colour, line, 0)
        _frame(picture, box, INK, across, -line)
        radius = max(1, min(line, (right - left) // 16))
        for x, y in [] if points is None else points.tolist():
            _dot(picture, round(x), round(y), radius + 1, INK)
            _dot(picture, round(x), round(y), radius, colour)
    for i in reversed(range(len(result))):
        colour = PALETTE[int(result.class_id[i]) % len(PALETTE)]
        left, top = (round(float(value)) for value in result.xyxy[i, :2])
        _label(
            picture,
            f"{result.names[i]} {result.confidence[i]:.2f}",
            (left, top),
            colour,
            letter,
            stroke,
        )


def _aligned(picture: Planes, box: NDArray[np.float32]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a box, extended to whole cells."""
    across, down = picture.layout.cell
    left, top = (
        int(np.floor(v / cell)) * cell for v, cell in zip(box[:2], (across, down), strict=True)
    )
    right, bottom = (
        int(np.ceil(v / cell)) * cell for v, cell in zip(box[2:], (across, down), strict=True)
    )
    return left, top, right, bottom


def _pen(picture: Planes) -> tuple[int, float, int]:
    """(line width, font scale, stroke width) for a picture."""
    side = min(picture.height, picture.width)
    letter = max(0.4, side / 1500)
    return max(2, 2 * round(side / 760)), letter, max(1, round(letter * 1.7))


def _frame(
    picture: Planes, box: tuple[int, int, int, int], colour: Colour, line: int, out: int
) -> None:
    """The outline of a box, `line` wide, `out` pixels outside it; -line lies inside it."""
    left, top, right, bottom = box[0] - out, box[1] - out, box[2] + out, box[3] + out
    _solid(picture, left, top, right, top + line, colour)
    _solid(picture, left, bottom - line, right, bottom, colour)
    _solid(picture, left, top, left + line, bottom, colour)
    _solid(picture, right - line, top, right, bottom, colour)


def _solid(picture: Planes, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
    """Fill a rectangle that is aligned to cells, clipped to the picture."""
    where = Area(max(0, left), max(0, top), min(picture.width, right), min(picture.height, bottom))
    if where.left < where.right and where.top < where.bottom:
        fill(picture, where, colour)


def _dot(picture: Planes, x: int, y: int, radius: int, colour: Colour) -> None:
    side = 2 * radius + 3
    cover = np.zeros((side, side), np.uint8)
    cv2.circle(cover, (radius + 1, radius + 1), radius, 255, cv2.FILLED, cv2.LINE_AA)
    paint(picture, x - radius - 1, y - radius - 1, cover, colour)


def _polygon(picture: Planes, points: NDArray[Any], colour: Colour, line: int) -> None:
    corners = np.round(points).astype(np.int32)
    low, high = corners.min(0) - line, corners.max(0) + line + 1
    cover = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.polylines(cover, [corners - low], True, 255, line, cv2.LINE_AA)
    paint(picture, int(low[0]), int(low[1]), cover, colour)


def _label(
    picture: Planes, text: str, at: tuple[int, int], colour: Colour, letter: float, stroke: int
) -> None:
    """Text on a coloured plate above `at`, shifted to stay inside the picture."""
    (width, height), below = cv2.getTextSize(text, FONT, letter, stroke)
    margin = max(2, height // 3)
    plate = np.full((height + below + margin, width + 2 * margin), 255, np.uint8)
    x = min(max(at[0], 0), max(0, picture.width - plate.shape[1]))
    y = min(max(at[1] - plate.shape[0], 0), max(0, picture.height - plate.shape[0]))
    paint(picture, x, y, plate, colour)
    red, green, blue = colour
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    ink = np.zeros_like(plate)
    base = margin, height + margin // 2 + 1
    cv2.putText(ink, text, base, FONT, letter, 255, stroke, cv2.LINE_AA)
    paint(picture, x, y, ink, INK if light > 140 else PAPER)


def _tint(picture: Planes, cover: NDArray[np.bool_], colour: Colour, line: int) -> None:
    """Tint the pixels of a mask and draw its outline. cover: (H, W) bool."""
    whole = cover.astype(np.uint8)
    x, y, width, height = cv2.boundingRect(whole)
    if not width:
        return
    near = np.ascontiguousarray(whole[y : y + height, x : x + width])
    paint(picture, x, y, near * np.uint8(round(255 * MASK_OPACITY)), colour)
    outlines, _ = cv2.findContours(near, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    drawn = np.zeros_like(near)
    cv2.drawContours(drawn, outlines, -1, 255, line, cv2.LINE_AA)
    paint(picture, x, y, drawn, colour)


def _mask(picture: Planes, result: Mask) -> None:
    line = _pen(picture)[0]
    if result.is_probability:
        _tint(picture, np.asarray(result.values >= 0.5), PALETTE[0], line)
        return
    for index in np.flatnonzero(np.bincount(result.values.ravel())):
        if index:  # 0 is the background
            colour = PALETTE[(int(index) - 1) % len(PALETTE)]
            _tint(picture, np.asarray(result.values == index), colour, line)


def _draw_nothing(picture: Planes, result: Any) -> None:
    """No effect takes a model with these results."""


PAINTERS: dict[type, Callable[[Planes, Any], None]] = {
    Detections: _boxes,
    Mask: _mask,
    Classes: _draw_nothing,
    Depth: _draw_nothing,
    Picture: _draw_nothing,
    Tensors: _draw_nothing,
}
