"""A row of town houses: painted fronts with windows, shops, roofs and chimneys."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stillframe.sample_videos.drawing.canvas import Canvas, Sprite
from stillframe.sample_videos.drawing.lettering import width, write
from stillframe.sample_videos.drawing.texture import Colour, clouds, mixed, scaled, to_picture

WALLS: tuple[Colour, ...] = (
    (222, 200, 164), (206, 158, 126), (196, 182, 168), (228, 214, 190), (178, 118, 96),
    (170, 184, 186), (214, 184, 120), (190, 164, 150),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((142, 78, 60), (118, 68, 56), (96, 92, 94), (128, 84, 62))
SHUTTERS: tuple[Colour, ...] = ((72, 98, 84), (84, 92, 112), (118, 64, 54), (104, 88, 70))
AWNINGS: tuple[Colour, ...] = ((168, 46, 42), (44, 92, 76), (48, 76, 122), (190, 132, 44))
SIGNS = ("CAFE LUNA", "BAKERY", "BOOKS & MAPS", "FIORI", "HOTEL ADLER", "BICYCLES", "PHARMACY",
         "TEA HOUSE", "RECORDS", "TAILOR", "GELATO", "ANTIQUES")  # fmt: skip


Edges = tuple[float, float, float, float]
"""left, top, right, bottom in pixels"""
ROOF_COURSES = 11


@dataclass(frozen=True, slots=True)
class HouseWindow:
    """A window pane."""

    box: Edges
    """x0, y0, x1, y1 in image pixels."""
    shop: bool
    """A wide one at street level."""


@dataclass(frozen=True, slots=True)
class House:
    """One painted house."""

    sprite: Sprite
    windows: tuple[HouseWindow, ...]
    sign: Edges | None
    """Box of its sign, if any."""


def house(
    random: np.random.Generator, left: float, base: float, scale: float, wide_m: float, floors: int,
    sign: str,
) -> House:  # fmt: skip
    """A house whose lower left corner is at pixel (left, base), `scale` pixels per metre."""
    floor_m, ground_m = 3.1, 3.7
    wall_m = ground_m + floor_m * (floors - 1) + 0.3
    roof_m = float(random.uniform(1.8, 3.0))
    x0, y0 = int(left) - 4, int(base - (wall_m + roof_m + 1.6) * scale) - 2
    canvas = Canvas(x0, y0, int(wide_m * scale) + 8, int(base) - y0 + 2, 3)
    wall = WALLS[random.integers(len(WALLS))]
    windows: list[HouseWindow] = []
    front = _Front(canvas, left, base, scale)
    box = front.box
    _roof(front, random, wall_m, wide_m, roof_m)
    box(0, 0, wide_m, wall_m, wall)
    _stain(canvas, random, base, wall_m * scale)
    box(-0.12, wall_m - 0.28, wide_m + 0.24, 0.28, scaled(wall, 1.12))
    box(-0.05, wall_m - 0.42, wide_m + 0.10, 0.10, scaled(wall, 0.72))
    count = max(int((wide_m - 0.6) / 2.1), 1)
    pitch = (wide_m - 0.8) / count
    shutter = SHUTTERS[random.integers(len(SHUTTERS))] if random.random() < 0.6 else None
    arched = random.random() < 0.35
    for floor in range(1, floors):
        sill = ground_m + (floor - 1) * floor_m + 0.75
        if floor == 1:
            box(0, ground_m - 0.06, wide_m, 0.16, scaled(wall, 1.10))
            box(0, ground_m - 0.12, wide_m, 0.06, scaled(wall, 0.70))
        for column in range(count):
            x = 0.4 + pitch * (column + 0.5) - 0.52
            windows.append(_window(front, random, x, sill, wall, shutter, arched))
            if floor == 1 and random.random() < 0.35:
                box(x - 0.10, sill - 0.20, 1.24, 0.20, (108, 74, 52))
                for blossom in range(9):
                    colour: Colour = (204, 62, 74) if blossom % 2 else (88, 124, 58)
                    box(x - 0.06 + blossom * 0.13, sill - 0.06, 0.11, 0.17, colour)
    sign_box = _shop(front, random, wide_m, wall, windows)
    sprite = canvas.sprite()
    if sign_box is not None:
        size = max(int(0.42 * scale), 5)
        ink_width = width(sign, size, 600)
        middle = (sign_box[0] + sign_box[2]) / 2
        at = (round(middle - ink_width / 2) - x0, round(sign_box[3] - 0.14 * scale) - y0)
        write(sprite.colour, sign, at, size, (246, 238, 214), 600)
    return House(sprite, tuple(windows), sign_box)


def _stain(canvas: Canvas, random: np.random.Generator, base: float, wall: float) -> None:
    """Plaster is never even: weathered blotches, darker towards the ground and under the eaves."""
    rows, columns = canvas.cover.shape
    up = (base - canvas.top - np.arange(rows) / canvas.scale) / wall
    tone = np.interp(up, [0.0, 0.12, 0.9, 1.0, 1.01], [0.86, 1.0, 1.02, 0.90, 1.0])
    field = clouds(random, rows, columns, rows / 3, 5)
    factor = tone[:, None] * (1 + 0.030 * field)
    canvas.colour[:] = to_picture(canvas.colour * factor[:, :, None].astype(np.float32))


class _Front:
    """A canvas that takes metres from a house's lower left corner."""

    def __init__(self, canvas: Canvas, left: float, base: float, scale: float) -> None:
        self.canvas, self._left, self._base, self.scale = canvas, left, base, scale

    def polygon(self, corners: Sequence[tuple[float, float]], colour: Colour) -> None:
        points = [(self._left + x * self.scale, self._base - y * self.scale) for x, y in corners]
        self.canvas.polygon(points, colour)

    def box(self, x: float, y: float, wide: float, high: float, colour: Colour) -> Edges:
        """A rectangle by its own lower left corner. Returns its edges in pixels."""
        self.polygon(((x, y), (x + wide, y), (x + wide, y + high), (x, y + high)), colour)
        return (
            self._left + x * self.scale,
            self._base - (y + high) * self.scale,
            self._left + (x + wide) * self.scale,
            self._base - y * self.scale,
        )


def _roof(
    front: _Front, random: np.random.Generator, eaves: float, wide: float, high: float
) -> None:
    """Courses of tiles, chimneys behind them, dormers before them."""
    colour = ROOFS[random.integers(len(ROOFS))]
    inset = float(random.uniform(0.1, 0.9))
    for _ in range(int(random.integers(1, 3))):
        x = float(random.uniform(0.15, 0.75)) * wide
        tall = high + float(random.uniform(0.5, 1.2))
        front.box(x, eaves, 0.70, tall, (134, 92, 78))
        front.box(x + 0.46, eaves, 0.24, tall, (104, 72, 62))
        front.box(x - 0.10, eaves + tall - 0.18, 0.90, 0.18, (92, 70, 62))
    for course in range(ROOF_COURSES):
        low, top = course / ROOF_COURSES, (course + 1) / ROOF_COURSES
        tone = 0.84 + 0.30 * low + 0.05 * float(random.standard_normal())
        left, right = inset * low - 0.15, wide - inset * low + 0.15
        corners = (
            (left, eaves + low * high),
            (right, eaves + low * high),
            (wide - inset * top + 0.15, eaves + top * high),
            (inset * top - 0.15, eaves + top * high),
        )
        front.polygon(corners, scaled(colour, tone))
        front.box(left, eaves + low * high - 0.015, right - left, 0.03, scaled(colour, 0.66))
    for dormer in range(int(wide // 4.2)):
        x, y = 1.3 + dormer * 3.6, eaves + 0.25
        front.box(x, y, 1.3, 1.1, (206, 196, 180))
        front.box(x + 0.2, y + 0.15, 0.9, 0.8, (72, 84, 96))
        gable = ((x - 0.2, y + 1.05), (x + 0.65, y + 1.65), (x + 1.5, y + 1.05))
        front.polygon(gable, scaled(colour, 0.8))


def _window(
    front: _Front,
    random: np.random.Generator,
    x: float,
    sill: float,
    wall: Colour,
    shutter: Colour | None,
    arched: bool,
) -> HouseWindow:
    """A window with its left edge at x: surround, panes, perhaps curtains and shutters."""
    wide, high = 1.04, 1.70
    box = front.box
    box(x - 0.12, sill - 0.10, wide + 0.24, high + 0.26, scaled(wall, 1.14))
    if arched:
        box(x - 0.02, sill + high + 0.10, wide + 0.04, 0.14, scaled(wall, 1.18))
    frame: Colour = (232, 228, 218)
    edges = box(x, sill, wide, high, frame)
    glass = float(random.uniform(0.75, 1.15))
    for start, tone in ((0.07, (70, 84, 98)), (0.85, (112, 132, 148)), (1.30, (150, 170, 182))):
        box(x + 0.07, sill + start, wide - 0.14, high - 0.07 - start, scaled(tone, glass))
    if random.random() < 0.55:
        curtain = mixed((236, 230, 218), wall, 0.25)
        box(x + 0.07, sill + 0.07, 0.20, high - 0.14, curtain)
        box(x + wide - 0.27, sill + 0.07, 0.20, high - 0.14, scaled(curtain, 0.92))
    box(x + wide / 2 - 0.035, sill, 0.07, high, frame)
    box(x, sill + 1.12, wide, 0.06, frame)
    box(x - 0.16, sill - 0.16, wide + 0.32, 0.09, scaled(wall, 1.16))
    box(x - 0.16, sill - 0.22, wide + 0.32, 0.06, scaled(wall, 0.66))
    if shutter is not None:
        for at in (x - 0.56, x + wide + 0.12):
            box(at, sill - 0.02, 0.44, high + 0.04, shutter)
            for slat in range(9):
                box(at + 0.05, sill + 0.07 + slat * 0.18, 0.34, 0.05, scaled(shutter, 0.74))
    return HouseWindow(edges, shop=False)


def _shop(
    front: _Front,
    random: np.random.Generator,
    wide: float,
    wall: Colour,
    windows: list[HouseWindow],
) -> Edges | None:
    """The street floor: shop windows with goods, a door, a sign board and perhaps an awning.

    Adds to `windows`; returns the edges of the sign board, None where there is no room for it.
    """
    box = front.box
    board = AWNINGS[random.integers(len(AWNINGS))]
    box(0, 0, wide, 0.55, scaled(wall, 0.74))
    door_left = bool(random.random() < 0.5)
    door = 0.45 if door_left else wide - 1.55
    box(door - 0.08, 0, 1.26, 2.66, scaled(wall, 1.1))
    box(door, 0, 1.10, 2.55, scaled(board, 0.62))
    windows.append(HouseWindow(box(door + 0.18, 0.85, 0.74, 1.50, (96, 112, 122)), shop=True))
    start, end = (1.95, wide - 0.4) if door_left else (0.4, wide - 1.95)
    if end - start < 1.0:
        return None
    box(start - 0.08, 0.42, end - start + 0.16, 2.32, scaled(board, 0.7))
    parts = max(int((end - start) / 1.7), 1)
    part = (end - start) / parts
    for index in range(parts):
        left = start + index * part
        windows.append(
            HouseWindow(box(left + 0.05, 0.52, part - 0.10, 2.12, (58, 68, 78)), shop=True)
        )
        box(left + 0.05, 1.75, part - 0.10, 0.89, (98, 116, 128))
        for item in range(int((part - 0.3) / 0.28)):
            high = float(random.uniform(0.2, 0.75))
            tone = WALLS[random.integers(len(WALLS))]
            box(left + 0.15 + item * 0.28, 0.55, 0.20, high, scaled(tone, 0.72))
    sign = box(start - 0.08, 2.92, end - start + 0.16, 0.62, scaled(board, 0.82))
    if random.random() < 0.65:
        stripes = max(int((end - start) / 0.42), 2)
        stripe = (end - start + 0.2) / stripes
        for index in range(stripes):
            colour = board if index % 2 else (238, 232, 220)
            left = start - 0.10 + index * stripe
            box(left, 2.27, stripe, 0.65, colour)
            box(left, 2.10, stripe, 0.17, scaled(colour, 0.78))
    return sign
