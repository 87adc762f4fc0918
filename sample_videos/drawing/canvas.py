"""Antialiased figures: drawn large on a canvas, reduced to a sprite, laid over a picture.

Coordinates are (x, y) in picture pixels, with fractions; pixel (0, 0) covers 0..1. Sprites carry
premultiplied colour, so that laying one over another leaves no dark or light rims.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillframe.sample_videos.drawing.texture import Colour, Cover, Picture, scaled

_FRACTION_BITS = 4


@dataclass(frozen=True, slots=True)
class Sprite:
    """A cut-out image."""

    colour: Picture
    """(h, w, 3) uint8, premultiplied by the cover."""
    cover: Cover
    """(h, w) uint8: opacity."""
    left: int = 0
    """Column in the image where it is placed; top is the row."""
    top: int = 0

    def moved(self, left: int, top: int) -> "Sprite":
        return Sprite(self.colour, self.cover, left, top)

    def lit(self, gain: Colour) -> "Sprite":
        """The same cut-out under another light: colour times gain per channel."""
        table = np.arange(256, dtype=np.float32)[:, None] * np.array(gain, np.float32)
        lookup = np.clip(table + 0.5, 0, 255).astype(np.uint8)[None]
        return Sprite(cv2.LUT(self.colour, lookup), self.cover, self.left, self.top)


class Canvas:
    """A transparent sheet for figures, drawn `scale` times as large as it will be."""

    def __init__(self, left: int, top: int, width: int, height: int, scale: int = 3) -> None:
        self.left, self.top, self.scale = left, top, scale
        self.width, self.height = width, height
        self.colour = np.zeros((height * scale, width * scale, 3), np.uint8)
        self.cover = np.zeros((height * scale, width * scale), np.uint8)

    def _fixed(self, points: ArrayLike) -> NDArray[np.int32]:
        at = (np.asarray(points, np.float64) - (self.left, self.top)) * self.scale - 0.5
        return np.round(at * (1 << _FRACTION_BITS)).astype(np.int32)

    def polygon(self, points: ArrayLike, colour: Colour) -> None:
        """Fill an outline of (n, 2) points."""
        fixed = [self._fixed(points)]
        cv2.fillPoly(self.colour, fixed, colour, cv2.LINE_8, _FRACTION_BITS)
        cv2.fillPoly(self.cover, fixed, 255, cv2.LINE_8, _FRACTION_BITS)

    def facets(self, outlines: ArrayLike, colours: Sequence[Colour]) -> None:
        """Fill many convex outlines of as many points each, (m, n, 2), in order."""
        fixed = self._fixed(outlines)
        for outline, colour in zip(fixed, colours, strict=True):
            cv2.fillConvexPoly(self.colour, outline, colour, cv2.LINE_8, _FRACTION_BITS)
            cv2.fillConvexPoly(self.cover, outline, 255, cv2.LINE_8, _FRACTION_BITS)

    def line(self, points: ArrayLike, colour: Colour, width: float) -> None:
        """A line through (n, 2) points, `width` pixels wide, with round ends."""
        fixed = [self._fixed(points)]
        thick = max(round(width * self.scale), 1)
        cv2.polylines(self.colour, fixed, False, colour, thick, cv2.LINE_8, _FRACTION_BITS)
        cv2.polylines(self.cover, fixed, False, 255, thick, cv2.LINE_8, _FRACTION_BITS)

    def oval(self, middle: tuple[float, float], radii: tuple[float, float], colour: Colour) -> None:
        self.polygon(np.array(middle) + _CIRCLE * np.array(radii), colour)

    def dabs(self, middles: ArrayLike, radii: ArrayLike, colours: Sequence[Colour]) -> None:
        """Many small ovals in order; middles and radii are (n, 2)."""
        outlines = np.asarray(radii)[:, None, :] * _CIRCLE[::2] + np.asarray(middles)[:, None, :]
        self.facets(outlines, colours)

    def limb(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        radii: tuple[float, float],
        colour: Colour,
        light: float = -0.35,
    ) -> None:
        """A tapered rod, shaded as a cylinder; light: from which side, -1 left .. 1 right."""
        push = light * _LIMB_OFFSETS * (1 - _LIMB_SHARES)
        turn = math.atan2(end[1] - start[1], end[0] - start[0])
        cosine, sine = math.cos(turn), math.sin(turn)
        cap = _HALF_CIRCLE @ np.array([[cosine, sine], [-sine, cosine]])
        caps = _LIMB_SHARES[:, None, None] * cap
        outlines = np.concatenate([radii[0] * caps + start, -radii[1] * caps + end], axis=1)
        outlines[:, :8, 0] += (push * radii[0])[:, None]
        outlines[:, 8:, 0] += (push * radii[1])[:, None]
        self.facets(outlines, [scaled(colour, gain) for gain in _LIMB_GAINS])

    def lay(self, sprite: Sprite) -> None:
        """Lay a sprite (placed in picture pixels) over what was drawn."""
        size = (sprite.cover.shape[1] * self.scale, sprite.cover.shape[0] * self.scale)
        large = Sprite(
            cv2.resize(sprite.colour, size, interpolation=cv2.INTER_LINEAR),
            cv2.resize(sprite.cover, size, interpolation=cv2.INTER_LINEAR),
            (sprite.left - self.left) * self.scale,
            (sprite.top - self.top) * self.scale,
        )
        place(self.colour, large, cover=self.cover)

    def sprite(self) -> Sprite:
        """What was drawn, at its size."""
        size = (self.width, self.height)
        return Sprite(
            cv2.resize(self.colour, size, interpolation=cv2.INTER_AREA),
            cv2.resize(self.cover, size, interpolation=cv2.INTER_AREA),
            self.left,
            self.top,
        )


_ANGLES = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


_HALF_ANGLES = np.linspace(np.pi / 2, 3 * np.pi / 2, 8)
_HALF_CIRCLE = np.stack([np.cos(_HALF_ANGLES), np.sin(_HALF_ANGLES)], axis=1)
# a limb is three rods in each other: how thick, how far towards the light, how bright
_LIMB_SHARES = np.array((1.0, 0.78, 0.46))
_LIMB_OFFSETS = np.array((0.0, 0.55, 0.9))
_LIMB_GAINS = (0.66, 0.86, 1.06)


def overlap(
    picture_shape: Sequence[int], left: int, top: int, width: int, height: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """The part of a rectangle that lies in a picture: its slices there, and in the rectangle."""
    first_row, first_column = max(top, 0), max(left, 0)
    last_row = min(top + height, picture_shape[0])
    last_column = min(left + width, picture_shape[1])
    if first_row >= last_row or first_column >= last_column:
        return None
    return (
        (slice(first_row, last_row), slice(first_column, last_column)),
        (
            slice(first_row - top, last_row - top),
            slice(first_column - left, last_column - left),
        ),
    )


def place(
    picture: Picture,
    sprite: Sprite,
    *,
    cover: Cover | None = None,
    instances: Cover | None = None,
    identity: int = 0,
) -> None:
    """Lay a sprite over a picture, in place.

    cover: also lay it over this sheet's cover. instances: write `identity` where the sprite hides
    at least half of a pixel.
    """
    height, width = sprite.cover.shape
    parts = overlap(picture.shape, sprite.left, sprite.top, width, height)
    if parts is None:
        return
    there, here = parts
    hidden = sprite.cover[here]
    under = picture[there]
    keep = cv2.merge([255 - hidden] * 3)
    blended = cv2.multiply(under, keep, scale=1 / 255)
    cv2.add(blended, sprite.colour[here], dst=blended)
    picture[there] = blended
    if cover is not None:
        cover[there] = cv2.add(cv2.multiply(cover[there], 255 - hidden, scale=1 / 255), hidden)
    if instances is not None:
        instances[there][hidden >= 128] = identity


def darken(picture: Picture, cover: Cover, left: int, top: int, depth: float) -> None:
    """A shadow: the picture loses `depth` of its light where cover is 255, in place."""
    height, width = cover.shape
    parts = overlap(picture.shape, left, top, width, height)
    if parts is None:
        return
    there, here = parts
    keep = cv2.convertScaleAbs(cover[here], alpha=-depth, beta=255)
    picture[there] = cv2.multiply(picture[there], cv2.merge([keep] * 3), scale=1 / 255)


def glow(picture: Picture, light: Picture, left: int, top: int) -> None:
    """Add light to a picture, in place."""
    parts = overlap(picture.shape, left, top, light.shape[1], light.shape[0])
    if parts is None:
        return
    there, here = parts
    picture[there] = cv2.add(picture[there], light[here])


def rounded(outline: NDArray[np.float64], closed: bool = True) -> NDArray[np.float64]:
    """Round a rough outline (Chaikin)."""
    points = np.asarray(outline, np.float64)
    for _ in range(3):
        following = np.roll(points, -1, axis=0) if closed else points[1:]
        first = points if closed else points[:-1]
        cut = np.stack([0.75 * first + 0.25 * following, 0.25 * first + 0.75 * following], axis=1)
        inner = cut.reshape(-1, 2)
        points = inner if closed else np.concatenate([points[:1], inner, points[-1:]])
    return points
