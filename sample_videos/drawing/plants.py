"""Trees, shrubs and flower tubs, as cut-outs."""

import math

import numpy as np

from stillframe.sample_videos.drawing.canvas import Canvas, Sprite
from stillframe.sample_videos.drawing.texture import Colour, scaled

GREENS: tuple[Colour, ...] = ((62, 104, 48), (74, 112, 44), (52, 92, 56), (96, 116, 46))


def tree(
    random: np.random.Generator, foot: tuple[float, float], scale: float, height_m: float
) -> Sprite:
    """A leafy tree standing at pixel `foot`, `scale` pixels per metre."""
    reach, high = int(height_m * 0.46 * scale) + 4, int(height_m * 1.06 * scale) + 4
    left, top = math.floor(foot[0]) - reach, math.floor(foot[1]) - high
    canvas = Canvas(left, top, 2 * reach, high + int(0.3 * scale) + 4, 2)
    bark: Colour = (86, 68, 54)
    crown = (foot[0], foot[1] - height_m * 0.66 * scale)
    thick = 0.026 * height_m * scale
    fork = (foot[0] + 0.02 * scale, foot[1] - height_m * 0.42 * scale)
    canvas.limb(foot, fork, (thick * 1.3, thick * 0.8), bark)
    for side in (-1.0, -0.35, 0.45, 1.0):
        tip = (crown[0] + side * 0.24 * height_m * scale, crown[1] + 0.02 * height_m * scale)
        canvas.limb(fork, tip, (thick * 0.6, thick * 0.25), scaled(bark, 0.9))
    _leaves(
        canvas, random, crown, (0.36 * height_m * scale, 0.31 * height_m * scale),
        GREENS[random.integers(len(GREENS))], int(2600 * min(1.0, scale / 40) + 500),
    )  # fmt: skip
    return canvas.sprite()


def _leaves(
    canvas: Canvas,
    random: np.random.Generator,
    middle: tuple[float, float],
    radii: tuple[float, float],
    green: Colour,
    count: int,
) -> None:
    """Tufts from dark inside to light on the sunny upper left, in clumps."""
    clumps = random.normal(0, 0.5, (16, 2))
    norms = np.linalg.norm(clumps, axis=1, keepdims=True)
    clumps = clumps / np.maximum(norms / 0.62, 1.0)
    chosen = clumps[random.integers(len(clumps), size=count)]
    spread = np.clip(random.normal(0, 0.17, (count, 2)), -0.34, 0.34)
    height = chosen + spread
    # from the shaded underside to the sunny top, so that light leaves lie over dark ones
    light = 0.78 - 0.30 * height[:, 1] - 0.16 * height[:, 0]
    light += -0.85 * spread[:, 1] - 0.50 * spread[:, 0] + random.normal(0, 0.09, count)
    size = random.uniform(0.022, 0.052, count) * radii[0]
    order = np.argsort(light + random.normal(0, 0.16, count))
    bright = np.clip(light[order], 0.42, 1.5)[:, None]
    sunny = np.clip(0.35 * (bright - 0.85), 0, None)
    colours = np.array(green) * (1 - sunny) + np.array((190, 186, 88)) * sunny
    colours = np.minimum(colours * bright, 255)
    middles = np.array(middle) + height[order] * radii
    sizes = size[order, None] * (1.0, 0.72)
    canvas.dabs(middles, sizes, [(r, g, b) for r, g, b in colours.tolist()])


def shrub(
    random: np.random.Generator,
    foot: tuple[float, float],
    scale: float,
    wide_m: float,
    high_m: float,
    blossom: Colour | None = None,
) -> Sprite:
    """A stone tub with a shrub, flowering if a colour is given."""
    reach, high = int(wide_m * 0.65 * scale) + 4, int((high_m + 0.75) * scale) + 4
    left, top = math.floor(foot[0]) - reach, math.floor(foot[1]) - high
    canvas = Canvas(left, top, 2 * reach, high + int(0.15 * scale) + 3, 2)
    half, tub = wide_m * 0.5 * scale, 0.55 * scale
    x, y = foot
    for start, end, gain in ((-1, -0.4, 1.05), (-0.4, 0.3, 0.95), (0.3, 1, 0.74)):
        canvas.polygon(
            ((x + start * half, y - tub), (x + end * half, y - tub), (x + end * half * 0.86, y),
             (x + start * half * 0.86, y)), scaled((168, 160, 148), gain),
        )  # fmt: skip
    canvas.polygon(
        ((x - half * 1.06, y - tub), (x + half * 1.06, y - tub), (x + half * 1.06, y - tub * 0.84),
         (x - half * 1.06, y - tub * 0.84)), (186, 178, 166),
    )  # fmt: skip
    middle = (x, y - tub - 0.32 * high_m * scale)
    _leaves(canvas, random, middle, (half * 0.98, high_m * 0.5 * scale), GREENS[0], 420)
    if blossom is not None:
        for offset_x, offset_y in random.normal(0, 0.42, (46, 2)):
            spot = (middle[0] + offset_x * half * 0.8, middle[1] + offset_y * high_m * 0.4 * scale)
            radius = 0.030 * scale
            canvas.oval(spot, (radius, radius), scaled(blossom, 0.85 + 0.3 * random.random()))
    return canvas.sprite()


def crown(random: np.random.Generator, side: int, green: Colour) -> Sprite:
    """A tree from above: a round crown that fills a square of `side` pixels."""
    canvas = Canvas(0, 0, side, side, 2)
    middle, radius = (side / 2, side / 2), side * 0.40
    canvas.oval(middle, (radius * 0.9, radius * 0.9), scaled(green, 0.62))
    _leaves(canvas, random, middle, (radius, radius), green, 900)
    return canvas.sprite()
