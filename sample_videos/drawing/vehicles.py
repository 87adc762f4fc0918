"""Cars, vans and a bus, seen from the side: bodies painted once, wheels turned in each frame."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.sample_videos.drawing.canvas import Canvas, Sprite
from stillframe.sample_videos.drawing.texture import Colour, Cover, clouds, scaled

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class VehicleModel:
    """Shape of a vehicle; points are (metres from the tail, height in metres)."""

    length: float
    body: Outline
    """Outline from tail to nose, over the roof."""
    windows: tuple[Outline, ...]
    wheels: tuple[float, float]
    wheel_radius: float
    doors: tuple[float, ...]


def _pane(left: float) -> Outline:
    """One window of a bus."""
    return ((left, 1.35), (left, 2.45), (left + 1.32, 2.45), (left + 1.32, 1.35))


MODELS: dict[str, VehicleModel] = {
    "saloon": VehicleModel(
        4.6,
        ((0.03, 0.34), (0, 0.62), (0.06, 0.88), (0.28, 0.97), (0.82, 1.02), (1.38, 1.36),
         (1.95, 1.45), (2.55, 1.42), (3.02, 1.2), (3.36, 1), (4.05, 0.9), (4.45, 0.76),
         (4.58, 0.58), (4.56, 0.34)),
        (
            ((0.98, 1.02), (1.45, 1.31), (2.05, 1.37), (2.05, 1.01)),
            ((2.13, 1.01), (2.13, 1.37), (2.5, 1.34), (2.92, 1.14), (3.12, 1)),
        ),
        (0.88, 3.7), 0.33, (1.25, 2.09, 3.05),
    ),
    "hatch": VehicleModel(
        4.0,
        ((0.04, 0.34), (0, 0.7), (0.08, 1.02), (0.3, 1.36), (0.7, 1.5), (1.6, 1.54),
         (2.2, 1.48), (2.75, 1.22), (3.02, 1.02), (3.6, 0.92), (3.9, 0.76), (3.98, 0.56),
         (3.95, 0.34)),
        (
            ((0.36, 1.04), (0.52, 1.34), (0.8, 1.43), (1.52, 1.45), (1.52, 1.02)),
            ((1.6, 1.02), (1.6, 1.45), (2.14, 1.4), (2.62, 1.15), (2.8, 1.01)),
        ),
        (0.72, 3.18), 0.32, (1.56, 2.72),
    ),
    "van": VehicleModel(
        5.2,
        ((0.04, 0.36), (0, 1), (0.04, 1.9), (0.2, 2.12), (1.5, 2.18), (3.3, 2.16), (3.75, 2.02),
         (4.25, 1.45), (4.45, 1.22), (4.95, 1.06), (5.14, 0.8), (5.16, 0.36)),
        (
            ((3.25, 1.25), (3.25, 1.92), (3.7, 1.88), (4.12, 1.44), (4.22, 1.24)),
        ),
        (0.95, 4.25), 0.36, (1.7, 3.15, 4.15),
    ),
    "bus": VehicleModel(
        10.5,
        ((0.05, 0.4), (0, 1.2), (0.03, 2.5), (0.08, 2.8), (0.22, 2.95), (0.6, 3), (5, 3.02),
         (9.8, 3), (10.15, 2.95), (10.32, 2.8), (10.4, 2.5), (10.48, 1.5), (10.46, 0.4)),
        (
            *(_pane(0.4 + 1.48 * number) for number in range(6)),
            ((9.35, 1.15), (9.35, 2.5), (10.32, 2.48), (10.4, 1.15)),
        ),
        (2.3, 8.3), 0.48, (3.2, 9.25),
    ),
}  # fmt: skip

PAINTS: tuple[Colour, ...] = (
    (186, 40, 36), (222, 222, 220), (46, 48, 54), (58, 96, 146), (150, 154, 158), (208, 168, 60),
    (62, 110, 84), (120, 78, 58), (92, 146, 176),
)  # fmt: skip


def _smooth(outline: Outline, steps: int = 5) -> NDArray[np.float64]:
    """A rounded line through the points (Catmull-Rom), its ends kept."""
    points = np.array([outline[0], *outline, outline[-1]], np.float64)
    pieces = []
    for i in range(1, len(points) - 2):
        before, start, end, after = points[i - 1 : i + 3]
        for t in np.linspace(0, 1, steps, endpoint=False):
            pieces.append(
                0.5 * (2 * start + (end - before) * t
                       + (2 * before - 5 * start + 4 * end - after) * t**2
                       + (3 * start - before - 3 * end + after) * t**3)
            )  # fmt: skip
    return np.array([*pieces, points[-1]])


class Vehicle:
    """One vehicle, painted once for a scale; `rightward` says which way it drives."""

    def __init__(
        self, kind: str, paint: Colour, pixels_per_m: float, rightward: bool,
        random: np.random.Generator,
    ) -> None:  # fmt: skip
        self.kind, self.model = kind, MODELS[kind]
        self.pixels_per_m, self.rightward = pixels_per_m, rightward
        self._body = self._paint(paint, random)

    def _paint(self, paint: Colour, random: np.random.Generator) -> Sprite:
        """The body at twice its size, tail at pixel (4, bottom), driving to the right."""
        model, scale = self.model, self.pixels_per_m * 2
        wide = int(model.length * scale) + 10
        high = int((max(y for _, y in model.body) + 0.08) * scale) + 6
        canvas = Canvas(0, 0, wide, high, 2)

        def at(points: Outline | NDArray[np.float64]) -> NDArray[np.float64]:
            return np.array([(4 + x * scale, high - 3 - y * scale) for x, y in points])

        shell = _smooth(model.body)
        canvas.polygon(at(shell), paint)
        colour = self._shine(canvas, high, scale, random)
        canvas.colour[:] = colour
        trim = scaled(paint, 0.42)
        for door in model.doors:
            canvas.line(at(((door, 0.40), (door, 1.02))), trim, 0.9)
        for door in model.doors[:-1]:
            canvas.line(at(((door + 0.12, 0.90), (door + 0.34, 0.90))), scaled(paint, 0.6), 2.2)
        sill = np.array(
            [(0.05, 0.30), (model.length - 0.08, 0.30), (model.length - 0.06, 0.42), (0.05, 0.42)]
        )
        canvas.polygon(at(sill), (34, 35, 38))
        for window in model.windows:
            self._glaze(canvas, at(window))
        nose, tail = model.length, 0.0
        canvas.polygon(
            at(
                ((nose - 0.42, 0.70), (nose - 0.12, 0.60), (nose - 0.05, 0.70), (nose - 0.30, 0.80))
            ),
            (246, 244, 226),
        )
        canvas.polygon(
            at(
                ((tail + 0.02, 0.72), (tail + 0.02, 0.90), (tail + 0.20, 0.93), (tail + 0.16, 0.72))
            ),
            (176, 24, 22),
        )
        if self.kind == "bus":
            canvas.polygon(
                at(((0.1, 0.95), (nose - 0.1, 0.95), (nose - 0.1, 1.12), (0.1, 1.12))),
                (238, 234, 222),
            )
        for middle in model.wheels:
            arch = model.wheel_radius * 1.22
            canvas.oval(
                tuple(at(((middle, model.wheel_radius),))[0]),
                (arch * scale, arch * scale),
                (22, 22, 25),
            )
        return canvas.sprite()

    def _shine(self, canvas: Canvas, high: int, scale: float, random: np.random.Generator) -> Cover:
        """Light from above: bright roof and shoulder, dark flanks, a streak of mirrored sky."""
        rows, columns = canvas.cover.shape
        up = (high - 3 - np.arange(rows) / 2) / scale
        gain = np.interp(
            up,
            [0.3, 0.55, 0.80, 0.90, 0.97, 1.02, 1.3, 1.6, 2.2],
            [0.50, 0.72, 0.90, 1.22, 1.02, 1.12, 1.0, 1.18, 1.2],
        )
        sheet = 1 + 0.03 * clouds(random, rows, columns, rows / 2, 3)
        factor = (gain[:, None] * sheet).astype(np.float32)
        return cv2.multiply(canvas.colour, cv2.merge([factor] * 3), dtype=cv2.CV_8U)

    def _glaze(self, canvas: Canvas, outline: NDArray[np.float64]) -> None:
        canvas.polygon(outline, (40, 50, 60))
        top, bottom = outline[:, 1].min(), outline[:, 1].max()
        middle = outline.mean(axis=0)
        sky = middle + (outline - middle) * 0.88
        sky[:, 1] = np.minimum(sky[:, 1], top + 0.55 * (bottom - top))
        canvas.polygon(sky, (112, 134, 150))
        streak = middle + (outline - middle) * 0.80
        streak[:, 1] = np.minimum(streak[:, 1], top + 0.30 * (bottom - top))
        canvas.polygon(streak, (164, 182, 192))

    def draw(self, tail: float, ground: float, rolled_m: float) -> Sprite:
        """The vehicle with its left end at pixel x `tail`, wheels on pixel y `ground`.

        rolled_m: distance driven, turns the wheels.
        """
        scale = self.pixels_per_m
        left, top_exact = math.floor(tail) - 3, ground - self._body.cover.shape[0] / 2
        top = math.floor(top_exact)
        wide, high = self._body.cover.shape[1] // 2 + 6, self._body.cover.shape[0] // 2 + 8
        canvas = Canvas(left, top, wide, high, 2)
        shift_x = (tail - left) * 2 - 4 + (0 if self.rightward else -2)
        shift_y = (top_exact - top) * 2 + 3
        body = self._body
        colour, cover = body.colour, body.cover
        if not self.rightward:
            colour, cover = cv2.flip(colour, 1), cv2.flip(cover, 1)
        matrix = np.array([[1, 0, shift_x], [0, 1, shift_y]], np.float64)
        size = (wide * 2, high * 2)
        canvas.colour[:] = cv2.warpAffine(colour, matrix, size)
        canvas.cover[:] = cv2.warpAffine(cover, matrix, size)
        radius = self.model.wheel_radius
        for middle in self.model.wheels:
            along = middle if self.rightward else self.model.length - middle
            self._wheel(
                canvas, tail + along * scale, ground - radius * scale, radius * scale, rolled_m
            )
        return canvas.sprite()

    def _wheel(self, canvas: Canvas, x: float, y: float, radius: float, rolled_m: float) -> None:
        canvas.oval((x, y), (radius, radius), (28, 28, 30))
        canvas.oval((x, y), (radius * 0.66, radius * 0.66), (104, 106, 110))
        turn = rolled_m / self.model.wheel_radius * (1 if self.rightward else -1)
        for spoke in range(5):
            angle = turn + spoke * 2 * math.pi / 5
            tip = (x + 0.60 * radius * math.cos(angle), y + 0.60 * radius * math.sin(angle))
            canvas.line(((x, y), tip), (196, 198, 202), max(radius * 0.20, 0.5))
        canvas.oval((x, y), (radius * 0.17, radius * 0.17), (60, 60, 64))

    @property
    def length_px(self) -> float:
        return self.model.length * self.pixels_per_m


def shadow(length_px: float, pixels_per_m: float) -> Cover:
    """The soft dark patch under a vehicle: (h, w) uint8, its middle under the vehicle's middle."""
    wide, high = int(length_px * 1.12) + 8, int(0.42 * pixels_per_m) + 8
    patch = np.zeros((high, wide), np.uint8)
    cv2.ellipse(
        patch,
        (wide // 2, high // 2),
        (int(length_px * 0.50), max(high // 4, 1)),
        0,
        0,
        360,
        255,
        -1,
        cv2.LINE_AA,
    )
    return cv2.GaussianBlur(patch, (0, 0), max(high / 9, 0.8))
