"""Pages of text as tall pictures, painted once, with the boxes of their lines.

Sizes are in units of 1/720 of the picture's height; a `Scale` turns them into pixels.
"""

import re
from dataclasses import dataclass

import cv2
import numpy as np

from stillframe.sample_videos.drawing.lettering import width, write
from stillframe.sample_videos.drawing.prose import ARTICLE, CODE, HEADLINE, OUTPUT
from stillframe.sample_videos.drawing.texture import Colour, Picture, clouds, gradient, to_picture

Box = tuple[int, int, int, int]

DARK: Colour = (30, 33, 40)
DIM: Colour = (110, 118, 132)
OUTPUT_LEADING = 18
"""Height of a line in the terminal, in design units."""
PHOTO_BEFORE = (2, 9, 16, 23)
"""Paragraphs of the article, twice over, that a picture stands before."""
INK: Colour = (206, 212, 222)
TOKENS: tuple[tuple[str, Colour], ...] = (
    (r"#.*", (112, 132, 112)),
    (r'f?"""[^"]*"""?|f?"[^"]*"', (160, 196, 122)),
    (
        r"\b(?:from|import|class|def|return|for|in|if|else|with|as|assert|lambda|and|not)\b",
        (198, 132, 214),
    ),
    (r"@\w+", (226, 178, 104)),
    (r"\b\d[\d_.]*\b", (222, 148, 104)),
    (
        r"\b(?:self|None|True|False|float|int|str|list|dict|max|min|print|open|sorted|len)\b",
        (98, 182, 214),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """A painted page of text."""

    picture: Picture
    lines: tuple[Box, ...]
    """Boxes (x0, y0, x1, y1) of its lines of text."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Turns design units (1/720 of the height, less on narrow screens) into whole pixels."""

    unit: float

    @classmethod
    def of(cls, width_px: int, height_px: int) -> "Scale":
        return cls(min(height_px / 720, width_px / 960))

    def px(self, units: float) -> int:
        return max(round(units * self.unit), 1)

    def letters(self, units: float) -> int:
        """A letter size in pixels; never too small to read."""
        return max(self.px(units), 7)


def coloured(
    picture: Picture, text: str, at: tuple[int, int], size: int, *, upto: int | None = None
) -> Box | None:
    """Write a line of code with its tokens in colours; `upto`: only so many of its letters."""
    shown = text if upto is None else text[:upto]
    colours: list[Colour] = [INK] * len(shown)
    for pattern, colour in reversed(TOKENS):
        for match in re.finditer(pattern, shown):
            colours[match.start() : match.end()] = [colour] * (match.end() - match.start())
    x, start = at[0], 0
    boxes = []
    while start < len(shown):
        end = start + 1
        while end < len(shown) and colours[end] == colours[start]:
            end += 1
        piece = shown[start:end]
        lead = len(piece) - len(piece.lstrip())
        x += width(" " * lead, size) if lead else 0
        box = write(picture, piece.strip(), (x, at[1]), size, colours[start])
        if box is not None:
            boxes.append(box)
        x += width(piece.strip(), size) if piece.strip() else 0
        trailing = len(piece) - len(piece.rstrip()) if piece.strip() else 0
        x += width(" " * trailing, size) if trailing else 0
        start = end
    return _around(boxes)


def _around(boxes: list[Box]) -> Box | None:
    if not boxes:
        return None
    return (
        min(b[0] for b in boxes), min(b[1] for b in boxes),
        max(b[2] for b in boxes), max(b[3] for b in boxes),
    )  # fmt: skip


def code_page(scale: Scale, wide: int, repeats: int = 3) -> tuple[Page, int, int]:
    """The editor's text with line numbers; also its line height and the x where code starts."""
    size, leading = scale.letters(13), scale.px(19.5)
    source = (CODE + "\n") * repeats
    rows = source.splitlines()
    picture = np.empty((leading * (len(rows) + 2), wide, 3), np.uint8)
    picture[:] = DARK
    start = scale.px(46)
    lines = []
    for index, row in enumerate(rows):
        base = leading * index + round(leading * 0.74)
        number = str(index + 1)
        at = start - scale.px(14) - width(number, size)
        write(picture, number, (at, base), size, (82, 90, 104))
        box = coloured(picture, row, (start, base), size)
        if box is not None:
            lines.append(box)
    return Page(picture, tuple(lines)), leading, start


def article_page(scale: Scale, wide: int, random: np.random.Generator) -> Page:
    """A long read with headings and a picture."""
    size, leading, margin = scale.letters(14.5), scale.px(23), scale.px(34)
    grey: Colour = (58, 60, 68)
    column = max(wide - 2 * margin, 2)
    # first the layout, from top to bottom; then a sheet as long as that
    texts: list[tuple[str, int, int, int, Colour]] = [
        (HEADLINE, scale.px(58), scale.letters(30), 700, (28, 30, 36)),
        ("FIELD NOTES - 12 MINUTES", scale.px(88), scale.letters(11), 500, (140, 144, 152)),
    ]
    photos: list[int] = []
    y = scale.px(112)
    for part, paragraph in enumerate(ARTICLE * 2):
        if part in PHOTO_BEFORE:
            photos.append(y)
            y += scale.px(190) + scale.px(34)
        if paragraph.startswith("# "):
            y += scale.px(14)
            texts.append((paragraph[2:], y, scale.letters(20), 650, (36, 38, 46)))
            y += scale.px(32)
            continue
        for line in _wrapped(paragraph, size, column):
            texts.append((line, y, size, 400, grey))
            y += leading
        y += scale.px(14)
    picture = np.full((y + 2 * leading, wide, 3), 253, np.uint8)
    for top in photos:
        photo = _photo(column, scale.px(190), random)
        picture[top : top + photo.shape[0], margin : margin + column] = photo[:, : wide - margin]
    boxes = (
        write(picture, text, (margin, base), letters, colour, weight)
        for text, base, letters, weight, colour in texts
    )
    return Page(picture, tuple(box for box in boxes if box is not None))


def _wrapped(paragraph: str, size: int, wide: int) -> list[str]:
    lines, line = [], ""
    for word in paragraph.split():
        longer = f"{line} {word}".strip()
        if line and width(longer, size) > wide:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]


def _photo(wide: int, high: int, random: np.random.Generator) -> Picture:
    """A river in the evening, for the article."""
    picture = gradient(
        high,
        wide,
        (
            (0.0, (246, 196, 132)),
            (0.42, (236, 150, 112)),
            (0.5, (126, 96, 104)),
            (1.0, (54, 70, 60)),
        ),
    )
    for index, tone in enumerate(((140, 104, 116), (92, 78, 88), (62, 74, 62))):
        ridge = clouds(random, 3, wide, wide / (3 + index), 4)[1]
        top = high * (0.42 + 0.07 * index) - ridge * high * 0.05
        points = np.concatenate([np.stack([np.arange(wide), top], 1), [(wide, high), (0, high)]])
        cv2.fillPoly(picture, [np.round(points * 16).astype(np.int32)], tone, cv2.LINE_AA, 4)
    t = np.linspace(0, 1, 60)
    middle = wide * (0.5 + 0.20 * np.sin(5.2 * t + 0.6) * t)
    half = wide * (0.006 + 0.085 * t**1.6)
    y = high * (0.60 + 0.42 * t)
    bank = np.concatenate([np.stack([middle - half, y], 1), np.stack([middle + half, y], 1)[::-1]])
    cv2.fillPoly(picture, [np.round(bank * 16).astype(np.int32)], (238, 178, 140), cv2.LINE_AA, 4)
    cv2.circle(
        picture,
        (int(wide * 0.62), int(high * 0.26)),
        int(high * 0.09),
        (255, 236, 196),
        -1,
        cv2.LINE_AA,
    )
    grain = clouds(random, high, wide, 6, 3)
    return to_picture(picture * (1 + 0.02 * grain)[:, :, None])


def terminal_page(scale: Scale, wide: int) -> tuple[Page, int]:
    """All lines that the terminal will print, twice over; and their height."""
    size, leading = scale.letters(12.5), scale.px(OUTPUT_LEADING)
    rows = OUTPUT * 4
    picture = np.empty((leading * len(rows), wide, 3), np.uint8)
    picture[:] = (22, 26, 30)
    lines = []
    for index, row in enumerate(rows):
        base = leading * index + round(leading * 0.74)
        colour: Colour = (196, 204, 206)
        if row.startswith("$"):
            colour = (120, 206, 150)
        elif "passed" in row:
            colour = (226, 200, 110)
        box = write(picture, row, (scale.px(12), base), size, colour)
        if box is not None:
            lines.append(box)
    return Page(picture, tuple(lines)), leading
