"""A desktop: wallpaper, bars, windows, a dialog and the mouse pointer."""

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from stillframe.sample_videos.drawing.canvas import Canvas, Sprite, darken, place
from stillframe.sample_videos.drawing.lettering import width, write
from stillframe.sample_videos.drawing.pages import DARK, DIM, INK, Box, Scale
from stillframe.sample_videos.drawing.prose import FILES
from stillframe.sample_videos.drawing.texture import (
    Colour,
    Cover,
    Picture,
    clouds,
    gradient,
    mixed,
    scaled,
)

TITLE = 32
"""Height of a title bar in design units."""


@dataclass(frozen=True, slots=True)
class WindowFrame:
    """A window without its page."""

    outer: Box
    inner: Box
    """Where the page shows."""
    chrome: Picture
    """The painted frame and title bar."""
    lines: tuple[Box, ...] = field(default=())
    """Boxes of its lines of text."""

    def moved(self, across: int, down: int) -> "WindowFrame":
        """The same window elsewhere."""
        shift = (across, down, across, down)
        outer, inner = (
            tuple(a + b for a, b in zip(box, shift, strict=True))
            for box in (self.outer, self.inner)
        )
        return WindowFrame(_box(outer), _box(inner), self.chrome, self.lines)


def _box(values: tuple[int, ...]) -> Box:
    return values[0], values[1], values[2], values[3]


def window(scale: Scale, outer: Box, title: str, *, dark: bool, sidebar: int = 0) -> WindowFrame:
    """A window's chrome: title bar with three buttons, border, perhaps a list of files."""
    wide, high = outer[2] - outer[0], outer[3] - outer[1]
    bar = scale.px(TITLE)
    body: Colour = DARK if dark else (253, 253, 253)
    chrome = np.empty((high, wide, 3), np.uint8)
    chrome[:] = body
    chrome[:bar] = (44, 48, 57) if dark else (232, 234, 238)
    chrome[bar - 1 : bar] = (24, 26, 32) if dark else (208, 211, 217)
    large = 4
    buttons = Canvas(0, 0, scale.px(80), bar, large)
    for index, colour in enumerate(((236, 106, 94), (244, 191, 79), (98, 197, 84))):
        middle = (scale.px(18) + index * scale.px(20), bar / 2)
        radius = 6 * scale.unit
        buttons.oval(middle, (radius, radius), scaled(colour, 0.86))
        buttons.oval(middle, (radius * 0.88, radius * 0.88), colour)
    place(chrome, buttons.sprite())
    size = scale.letters(12.5)
    at = ((wide - width(title, size, 600)) // 2, round(bar * 0.66))
    lines = []
    box = write(chrome, title, at, size, (170, 176, 188) if dark else (82, 86, 94), 600)
    if box is not None:
        lines.append(box)
    if sidebar:
        chrome[bar:, :sidebar] = (37, 41, 49)
        chrome[bar:, sidebar - 1 : sidebar] = (24, 26, 32)
        for index, name in enumerate(FILES):
            base = bar + scale.px(26) + index * scale.px(23)
            indent = scale.px(14 if name.startswith(" ") else 0) + scale.px(16)
            if name.strip() == "filter.py":
                chrome[base - scale.px(15) : base + scale.px(7), : sidebar - 1] = (58, 66, 82)
            tone = DIM if name.endswith((".py", ".md", ".toml")) else INK
            box = write(chrome, name.strip(), (indent, base), size, mixed(tone, INK, 0.35))
            if box is not None and box[3] < high:
                lines.append(box)
    inner = (outer[0] + sidebar, outer[1] + bar, outer[2], outer[3])
    return WindowFrame(outer, inner, chrome, tuple(lines))


def dialog(scale: Scale, middle: tuple[int, int]) -> WindowFrame:
    """A small message in the middle of the screen."""
    wide, high = scale.px(330), scale.px(150)
    left, top = middle[0] - wide // 2, middle[1] - high // 2
    frame = window(scale, (left, top, left + wide, top + high), "Tests finished", dark=False)
    chrome = frame.chrome
    lines = list(frame.lines)
    for text, base, weight, colour in (
        ("148 passed, none failed", 68, 600, (40, 42, 48)),
        ("in 6.42 seconds on 2 cores", 90, 400, (110, 114, 122)),
    ):
        box = write(chrome, text, (scale.px(24), scale.px(base)), scale.letters(14), colour, weight)
        if box is not None:
            lines.append(box)
    x0, y0, x1, y1 = scale.px(222), scale.px(106), scale.px(308), scale.px(134)
    cv2.rectangle(chrome, (x0, y0), (x1, y1), (58, 122, 214), -1)
    size = scale.letters(13)
    at = ((x0 + x1 - width("Close", size, 600)) // 2, scale.px(125))
    box = write(chrome, "Close", at, size, (255, 255, 255), 600)
    if box is not None:
        lines.append(box)
    return WindowFrame(frame.outer, frame.inner, chrome, tuple(lines))


def wallpaper(width_px: int, height: int, random: np.random.Generator) -> Picture:
    """Soft dunes in two colours, a bar with icons at the bottom."""
    scale = Scale.of(width_px, height)
    hue = random.integers(3)
    stops = (
        ((0.0, (36, 62, 104)), (0.6, (122, 118, 160)), (1.0, (226, 158, 140))),
        ((0.0, (20, 74, 84)), (0.6, (74, 136, 130)), (1.0, (224, 206, 158))),
        ((0.0, (58, 42, 88)), (0.6, (146, 84, 120)), (1.0, (240, 172, 128))),
    )[hue]
    picture = gradient(height, width_px, stops)
    for index in range(4):
        ridge = clouds(random, 3, width_px, width_px / (1.5 + index * 0.5), 2)[1]
        top = height * (0.52 + 0.12 * index) - ridge * height * 0.07
        points = np.concatenate(
            [np.stack([np.arange(width_px), top], 1), [(width_px, height), (0, height)]]
        )
        tone = mixed(stops[2][1], stops[0][1], 0.35 + 0.2 * index)
        cv2.fillPoly(picture, [np.round(points * 16).astype(np.int32)], tone, cv2.LINE_AA, 4)
    bar = scale.px(44)
    strip = picture[height - bar :]
    picture[height - bar :] = cv2.addWeighted(strip, 0.25, np.full_like(strip, 22), 0.75, 0)
    icons = Canvas(0, height - bar, scale.px(420), bar, 4)
    for index, colour in enumerate(
        ((84, 150, 230), (236, 160, 70), (108, 190, 120), (210, 96, 120), (150, 120, 210))
    ):
        x, y = scale.px(34) + index * scale.px(46), height - bar / 2
        half = 13 * scale.unit
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half * 0.72
        corners += (x, y)
        icons.line([*corners, corners[0]], colour, half * 0.56)
        icons.polygon(corners, colour)
        icons.oval((x, y), (half * 0.45, half * 0.45), mixed(colour, (255, 255, 255), 0.75))
    place(picture, icons.sprite())
    return picture


def clock(picture: Picture, minutes: int) -> Box | None:
    """Write the time of day into the bar, in place."""
    scale = Scale.of(picture.shape[1], picture.shape[0])
    text = f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"
    size = scale.letters(14)
    at = (picture.shape[1] - scale.px(64), picture.shape[0] - scale.px(17))
    return write(picture, text, at, size, (236, 238, 242), 600)


def pointer(scale: Scale) -> Sprite:
    """The arrow of the mouse, its tip at (1, 1)."""
    size = 19 * scale.unit
    outline = np.array(
        [(0, 0), (0, 0.80), (0.19, 0.63), (0.32, 0.93), (0.45, 0.87), (0.32, 0.58), (0.57, 0.56)]
    )
    canvas = Canvas(0, 0, math.ceil(size * 0.7) + 3, math.ceil(size) + 3, 6)
    points = outline * size + 1
    canvas.line([*points, points[0]], (252, 252, 252), size * 0.11)
    canvas.polygon(points, (24, 24, 26))
    return canvas.sprite()


def shade(picture: Picture, outer: Box, scale: Scale) -> None:
    """The soft shadow of a window on what lies behind, in place."""
    soft, drop = scale.px(14), scale.px(8)
    wide, high = outer[2] - outer[0] + 4 * soft, outer[3] - outer[1] + 4 * soft
    cover: Cover = np.zeros((high, wide), np.uint8)
    cover[2 * soft : -2 * soft, 2 * soft : -2 * soft] = 255
    quarter = cv2.resize(cover, (wide // 4 + 1, high // 4 + 1), interpolation=cv2.INTER_AREA)
    quarter = cv2.GaussianBlur(quarter, (0, 0), soft / 4)
    cover = cv2.resize(quarter, (wide, high), interpolation=cv2.INTER_LINEAR)
    darken(picture, cover, outer[0] - 2 * soft, outer[1] - 2 * soft + drop, 0.42)
