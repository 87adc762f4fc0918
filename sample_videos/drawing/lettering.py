"""Real text. OpenCV 5 draws outline fonts; OpenCV 4 has strokes only, drawn large and reduced."""

from functools import lru_cache

import cv2
import numpy as np

from stillframe.sample_videos.drawing.texture import Colour, Cover, Picture

_OUTLINES = hasattr(cv2, "FontFace")
_STROKE_SCALE = 4


@lru_cache(maxsize=4096)
def mask(text: str, size: int, weight: int = 400) -> tuple[Cover, int]:
    """The text's cover (rows, columns) uint8, tight in width; and the row of its base line.

    size: height of the em in pixels. weight: 300 light .. 800 heavy.
    """
    return _outline_mask(text, size, weight) if _OUTLINES else _stroke_mask(text, size, weight)


def _outline_mask(text: str, size: int, weight: int) -> tuple[Cover, int]:
    sheet = np.zeros((size * 2, size * max(len(text), 1) + size, 3), np.uint8)
    base = round(size * 1.3)
    face = cv2.FontFace("sans")
    end, _ = cv2.putText(sheet, text, (0, base), (255, 255, 255), face, size, weight)
    return np.ascontiguousarray(sheet[:, : max(int(end[0]), 1), 0]), base


def _stroke_mask(text: str, size: int, weight: int) -> tuple[Cover, int]:
    large = size * _STROKE_SCALE
    scale = 0.72 * large / 22.0
    thick = max(round(large * weight / 6000), 1)
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    columns = -(-max(width, 1) // _STROKE_SCALE)
    base = round(size * 1.3)
    sheet = np.zeros((size * 2 * _STROKE_SCALE, columns * _STROKE_SCALE), np.uint8)
    at = (0, base * _STROKE_SCALE)
    cv2.putText(sheet, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thick, cv2.LINE_AA)
    return cv2.resize(sheet, (columns, size * 2), interpolation=cv2.INTER_AREA), base


def width(text: str, size: int, weight: int = 400) -> int:
    """Pixels from the start of the text to where the next letter would go."""
    if not text.strip():
        return round(len(text) * size * 0.28)
    trailing = len(text) - len(text.rstrip())
    ink, _ = mask(text.rstrip(), size, weight)
    return int(ink.shape[1]) + round(trailing * size * 0.28)


def write(
    picture: Picture,
    text: str,
    at: tuple[int, int],
    size: int,
    colour: Colour,
    weight: int = 400,
) -> tuple[int, int, int, int] | None:
    """Write on a picture, in place; `at` is where the base line starts.

    Returns the box (x0, y0, x1, y1) of the ink inside the picture, None if there is none.
    """
    if not text.strip():
        return None
    cover, base = mask(text, size, weight)
    left, top = at[0], at[1] - base
    x0, y0 = max(left, 0), max(top, 0)
    x1 = min(left + cover.shape[1], picture.shape[1])
    y1 = min(top + cover.shape[0], picture.shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    ink = cover[y0 - top : y1 - top, x0 - left : x1 - left]
    box = cv2.boundingRect(ink)
    if box[2] == 0:
        return None
    share = ink.astype(np.uint16)[:, :, None]
    under = picture[y0:y1, x0:x1]
    blended = (under * (255 - share) + np.array(colour, np.uint16) * share + 127) // 255
    picture[y0:y1, x0:x1] = blended.astype(np.uint8)
    return (x0 + box[0], y0 + box[1], x0 + box[0] + box[2], y0 + box[1] + box[3])
