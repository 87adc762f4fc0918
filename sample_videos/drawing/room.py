"""A room: wall, window, shelves with books and plants; and the edge of a desk before it."""

import math

import cv2
import numpy as np

from stillframe.sample_videos.drawing.buildings import AWNINGS, WALLS
from stillframe.sample_videos.drawing.canvas import Canvas, Sprite, place
from stillframe.sample_videos.drawing.lettering import write
from stillframe.sample_videos.drawing.people import TOPS
from stillframe.sample_videos.drawing.plants import shrub, tree
from stillframe.sample_videos.drawing.texture import (
    Colour,
    Picture,
    clouds,
    gradient,
    scaled,
    to_picture,
)


def room(width: int, height: int, random: np.random.Generator) -> Picture:
    """Wall, window, shelves with books and plants, slightly out of focus."""
    unit = height / 100
    wall = ((206, 198, 186), (178, 190, 192), (196, 188, 200), (188, 196, 178))[random.integers(4)]
    picture = gradient(height, width, ((0.0, scaled(wall, 1.0)), (1.0, scaled(wall, 0.80))))
    across = np.linspace(1.10, 0.72, width, dtype=np.float32)[None, :, None]
    field = clouds(random, height, width, height / 3, 5)
    picture = to_picture(picture * across * (1 + 0.012 * field)[:, :, None])
    _window(picture, unit, random)
    _shelves(picture, unit, random)
    _frames(picture, unit, random)
    return cv2.GaussianBlur(picture, (0, 0), max(height / 330, 0.6))


def _fill(picture: Picture, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    cv2.fillPoly(picture, [np.round(corners * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def _window(picture: Picture, unit: float, random: np.random.Generator) -> None:
    width = picture.shape[1]
    x0, y0, x1, y1 = 0.035 * width, 8 * unit, 0.26 * width, 66 * unit
    _fill(picture, x0 - 2 * unit, y0 - 2 * unit, x1 + 2 * unit, y1 + 2 * unit, (238, 236, 230))
    view = gradient(
        int(y1 - y0),
        int(x1 - x0),
        (
            (0.0, (196, 222, 246)),
            (0.55, (236, 242, 246)),
            (0.62, (168, 190, 150)),
            (1.0, (112, 142, 96)),
        ),
    )
    for _ in range(4):
        foot = (float(random.uniform(0, x1 - x0)), float(random.uniform(0.72, 0.9) * (y1 - y0)))
        place(view, tree(random, foot, 6 * unit, float(random.uniform(3.5, 6.0))))
    view = cv2.GaussianBlur(view, (0, 0), max(0.9 * unit, 0.5))
    picture[int(y0) : int(y0) + view.shape[0], int(x0) : int(x0) + view.shape[1]] = view
    middle = (x0 + x1) / 2
    _fill(picture, middle - 0.8 * unit, y0, middle + 0.8 * unit, y1, (232, 230, 224))
    _fill(picture, x0, (y0 + y1) / 2 - 0.7 * unit, x1, (y0 + y1) / 2 + 0.7 * unit, (232, 230, 224))
    _fill(picture, x0 - 3 * unit, y1 + 1.5 * unit, x1 + 3 * unit, y1 + 4 * unit, (222, 218, 210))
    curtain: Colour = AWNINGS[random.integers(len(AWNINGS))]
    for start, end in ((x0 - 5 * unit, x0 + 3 * unit), (x1 - 2 * unit, x1 + 6 * unit)):
        folds = 9
        for fold in range(folds):
            a, b = (
                start + (end - start) * fold / folds,
                start + (end - start) * (fold + 1.1) / folds,
            )
            tone = 0.95 + 0.22 * math.sin(fold * 2.1)
            _fill(picture, a, y0 - 4 * unit, b, y1 + 12 * unit, scaled(curtain, tone))
    _fill(picture, x0 - 8 * unit, y0 - 5 * unit, x1 + 9 * unit, y0 - 3.6 * unit, (92, 74, 58))


def _shelves(picture: Picture, unit: float, random: np.random.Generator) -> None:
    height, width = picture.shape[:2]
    x0, x1 = 0.70 * width, 0.975 * width
    wood: Colour = (134, 96, 64)
    _fill(picture, x0 - 1.5 * unit, 3 * unit, x1 + 1.5 * unit, height, scaled(wood, 0.62))
    for level in range(5):
        top, bottom = (4 + 21 * level) * unit, (22.6 + 21 * level) * unit
        _fill(picture, x0, top, x1, bottom, (86, 66, 50))
        x = x0 + 0.8 * unit
        while x < x1 - 4 * unit:
            if random.random() < 0.14:
                if x + 16 * unit < x1:
                    foot = (x + 7 * unit, bottom)
                    colours: tuple[Colour | None, ...] = (None, (226, 120, 140))
                    place(
                        picture,
                        shrub(random, foot, 11 * unit, 0.85, 0.62, colours[random.integers(2)]),
                    )
                x += 15 * unit
                continue
            thick = float(random.uniform(1.6, 3.6)) * unit
            tall = float(random.uniform(11.0, 16.4)) * unit
            palette = AWNINGS + WALLS + TOPS
            colour = scaled(palette[random.integers(len(palette))], 0.80)
            _fill(picture, x, bottom - tall, x + thick, bottom, colour)
            _fill(picture, x, bottom - tall, x + 0.22 * thick, bottom, scaled(colour, 1.18))
            _fill(picture, x + 0.82 * thick, bottom - tall, x + thick, bottom, scaled(colour, 0.74))
            band = bottom - tall * float(random.uniform(0.6, 0.85))
            _fill(picture, x, band, x + thick, band + 1.1 * unit, (226, 206, 150))
            x += thick + 0.15 * unit
        _fill(picture, x0 - unit, bottom, x1 + unit, bottom + 1.9 * unit, wood)
        _fill(
            picture,
            x0 - unit,
            bottom + 1.9 * unit,
            x1 + unit,
            bottom + 2.7 * unit,
            scaled(wood, 0.55),
        )


def _frames(picture: Picture, unit: float, random: np.random.Generator) -> None:
    """A poster and a small landscape between window and shelves."""
    width = picture.shape[1]
    x0, y0 = 0.335 * width, 9 * unit
    wide, high = 0.125 * width, 0.125 * width * 1.32
    red, green, blue = (float(c) for c in picture[int(y0), int(x0)])
    shade = scaled((red, green, blue), 0.75)
    _fill(picture, x0 + unit, y0 + unit, x0 + wide + unit, y0 + high + unit, shade)
    _fill(picture, x0, y0, x0 + wide, y0 + high, (52, 48, 46))
    _fill(picture, x0 + unit, y0 + unit, x0 + wide - unit, y0 + high - unit, (240, 236, 226))
    inner = gradient(
        int(high * 0.56),
        int(wide * 0.70),
        ((0.0, (240, 190, 140)), (0.6, (226, 120, 96)), (1.0, (92, 62, 98))),
    )
    radius = max(int(wide * 0.14), 2)
    cv2.circle(
        inner,
        (inner.shape[1] // 2, int(inner.shape[0] * 0.52)),
        radius,
        (252, 232, 190),
        -1,
        cv2.LINE_AA,
    )
    ridge = clouds(random, 3, inner.shape[1], inner.shape[1] / 3, 3)[1] * inner.shape[0] * 0.05
    for column in range(inner.shape[1]):
        inner[int(inner.shape[0] * 0.72 + ridge[column]) :, column] = (64, 50, 80)
    left, top = int(x0 + 0.15 * wide), int(y0 + 0.13 * high)
    picture[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    size = max(int(2.6 * unit), 5)
    write(picture, "ALPENGLOW", (left, int(y0 + 0.86 * high)), size, (84, 70, 70), 600)


def desk_top(width: int, height: int, random: np.random.Generator) -> Sprite:
    """The edge of the desk with a mug and a microphone, in front of the person."""
    unit = height / 100
    canvas = Canvas(0, 0, width, height, 1)
    edge = 91.5 * unit
    canvas.polygon(((0, edge), (width, edge), (width, height), (0, height)), (150, 108, 72))
    grain = clouds(random, height, width // 6 + 1, unit * 2, 4)
    grain = cv2.resize(grain, (width, height))
    wood = canvas.cover > 0
    toned = to_picture(canvas.colour * (1 + 0.06 * grain)[:, :, None])
    canvas.colour[wood] = toned[wood]
    canvas.line(((0, edge + 0.4 * unit), (width, edge + 0.4 * unit)), (196, 152, 108), 0.7 * unit)
    x, top, low = 0.235 * width, 77 * unit, 95 * unit
    mug = AWNINGS[random.integers(len(AWNINGS))]
    fine = Canvas(0, 0, width, height, 2)
    fine.limb(
        (x - 9.2 * unit, low + 1.0 * unit),
        (x + 15 * unit, low + 1.0 * unit),
        (unit, unit),
        (84, 58, 40),
    )
    handle = np.array(
        [
            (x + 6 * unit + 4.4 * unit * math.sin(a), 86 * unit - 5 * unit * math.cos(a))
            for a in np.linspace(0.2, math.pi - 0.2, 12)
        ]
    )
    fine.line(handle, scaled(mug, 0.8), 1.9 * unit)
    for start, end, gain in (
        (-1, -0.82, 0.8),
        (-0.82, -0.45, 1.05),
        (-0.45, -0.2, 1.25),
        (-0.2, 0.3, 1.0),
        (0.3, 0.72, 0.8),
        (0.72, 1, 0.6),
    ):
        fine.polygon(
            (
                (x + start * 6.6 * unit, top),
                (x + end * 6.6 * unit, top),
                (x + end * 6.2 * unit, low),
                (x + start * 6.2 * unit, low),
            ),
            scaled(mug, gain),
        )
    fine.oval((x, low), (6.2 * unit, 1.5 * unit), scaled(mug, 0.7))
    fine.oval((x, top), (6.6 * unit, 1.7 * unit), scaled(mug, 1.3))
    fine.oval((x, top + 0.2 * unit), (5.8 * unit, 1.3 * unit), (58, 36, 24))
    reduced = fine.sprite()
    place(canvas.colour, reduced, cover=canvas.cover)
    first = int(np.flatnonzero(canvas.cover.any(axis=1))[0])
    return Sprite(
        np.ascontiguousarray(canvas.colour[first:]),
        np.ascontiguousarray(canvas.cover[first:]),
        0,
        first,
    )
