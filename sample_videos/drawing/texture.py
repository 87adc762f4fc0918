"""Surfaces that look like something: clouds of noise, and what is made of them.

Fields are (H, W) float32 with mean 0 and a standard deviation of about 1; pictures are (H, W, 3)
uint8 RGB. Everything comes from the generator that is passed in, so a seed gives one surface.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# OpenCV's own type hints leave the type of the elements open; so do these.
Picture = NDArray[Any]
"""(H, W, 3) uint8 RGB."""
Cover = NDArray[Any]
"""(H, W) uint8: 0 clear, 255 hides all; also masks."""
Field = NDArray[Any]
"""(H, W) or (H, W, 3) float32."""
Colour = tuple[float, float, float]


def clouds(
    random: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4
) -> Field:
    """Fractal noise: the largest blobs measure `cell` pixels, each octave halves them."""
    total = np.zeros((height, width), np.float32)
    weight = 1.0
    power = 0.0
    for _ in range(octaves):
        rows = max(int(np.ceil(height / cell)) + 2, 3)
        columns = max(int(np.ceil(width / cell)) + 2, 3)
        grid = random.standard_normal((rows, columns)).astype(np.float32)
        scale = max(cell, 1.0)
        full = cv2.resize(
            grid, (int(columns * scale), int(rows * scale)), interpolation=cv2.INTER_CUBIC
        )
        total += weight * full[:height, :width]
        power += (weight * 0.75) ** 2
        weight *= 0.6
        cell /= 2.0
        if cell < 1.0:
            break
    total *= np.float32(1.0 / np.sqrt(power))
    return total


def to_picture(surface: Field) -> Picture:
    """Round and clip to (H, W, 3) uint8."""
    return np.clip(surface + 0.5, 0, 255).astype(np.uint8)


def gradient(height: int, width: int, stops: tuple[tuple[float, Colour], ...]) -> Picture:
    """A vertical blend through (position 0..1, colour) stops."""
    where = np.linspace(0.0, 1.0, height)
    positions = [position for position, _ in stops]
    columns = [
        np.interp(where, positions, [colour[channel] for _, colour in stops])
        for channel in range(3)
    ]
    ramp = np.stack(columns, axis=1).astype(np.float32)
    return to_picture(np.repeat(ramp[:, None, :], width, axis=1))


def scaled(colour: Colour, gain: float) -> Colour:
    """A colour made lighter or darker, clipped to 255."""
    return (
        min(colour[0] * gain, 255.0),
        min(colour[1] * gain, 255.0),
        min(colour[2] * gain, 255.0),
    )


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Between two colours: `share` of the second."""
    return (
        first[0] + share * (second[0] - first[0]),
        first[1] + share * (second[1] - first[1]),
        first[2] + share * (second[2] - first[2]),
    )
