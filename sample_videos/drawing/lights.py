"""The lights of a dark square: lamps, rooms, shops and signs, and what each adds to the view."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from stillframe.sample_videos.drawing.camera import Camera
from stillframe.sample_videos.drawing.street import FRONT_M, Street
from stillframe.sample_videos.drawing.texture import Colour, Field, Picture, gradient, to_picture

AMBIENT: Colour = (0.085, 0.100, 0.150)
SODIUM: Colour = (1.00, 0.72, 0.42)
WARM: Colour = (1.00, 0.80, 0.52)
COOL: Colour = (0.72, 0.84, 1.00)
NEON: tuple[Colour, ...] = ((1.0, 0.25, 0.45), (0.30, 0.85, 1.0), (0.55, 1.0, 0.45))
POWER = 11.0
LEVELS = 16


@dataclass(frozen=True, slots=True)
class Light:
    """One light: what it adds to the image while it is on, and when that is."""

    adds: Picture
    """Added to the image at (left, top)."""
    left: int
    top: int
    period_s: float
    """It is on for share_on of each period, beginning at start."""
    share_on: float
    """0..1."""
    start: float
    flicker: bool = False
    """Whether it stutters while on."""
    lamp: int | None = None
    """Index into Street.lamps; None for windows, shops and signs."""

    def level(self, time_s: float) -> int:
        """How bright at a time: 0 .. LEVELS."""
        if self.share_on >= 1.0 and not self.flicker:
            return LEVELS
        position = (time_s / self.period_s + self.start) % 1.0
        since = position * self.period_s
        left = (self.share_on - position) * self.period_s
        if left <= 0:
            return 0
        bright = min(1.0, since / 0.12, left / 0.12)
        if self.flicker and math.sin(math.floor(time_s * 9) * 78.233) > 0.62:
            bright *= 0.35
        return round(bright * LEVELS)


def dark_view(street: Street, random: np.random.Generator) -> Picture:
    """The view with every light out: moonlit ground and fronts under a deep sky with stars."""
    camera = street.camera
    sky = gradient(
        camera.height, camera.width,
        ((0.0, (8, 11, 26)), (0.25, (15, 18, 38)), (0.40, (34, 31, 48)), (1.0, (34, 31, 48))),
    )  # fmt: skip
    for _ in range(70):
        x, y = random.random(2) * (camera.width - 1, camera.height * 0.3)
        sky[int(y), int(x)] = np.array((210, 214, 230)) * float(random.uniform(0.25, 0.9))
    lit = street.backdrop * np.array(AMBIENT, np.float32)
    solid = (street.solid / np.float32(255))[:, :, None]
    return to_picture(lit * solid + sky * (1 - solid))


def _world(camera: Camera) -> tuple[Field, Field, Field, Field]:
    """X, height and Z of what each pixel shows (ground or fronts), and 1 where it is ground."""
    rows, columns = np.mgrid[0 : camera.height, 0 : camera.width].astype(np.float32)
    below = (rows + 0.5) - camera.horizon * camera.height
    depth = np.where(
        below > 0, camera.focal * camera.height * camera.eye_m / np.maximum(below, 1e-3), 1e6
    )
    ground = (depth < FRONT_M).astype(np.float32)
    z = np.where(ground > 0, depth, FRONT_M)
    scale = camera.focal * camera.height / z
    x = (columns + 0.5 - camera.width / 2) / scale
    y = np.where(ground > 0, 0.0, camera.eye_m - below / scale)
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32), ground


def _added(
    street: Street, world: tuple[Field, Field, Field, Field], at: tuple[float, float, float],
    colour: Colour, power: float,
) -> tuple[Picture, int, int]:  # fmt: skip
    """What a lamp at a place adds to the view: the smallest picture that holds it, left, top."""
    x, y, z, ground = world
    squared = (x - at[0]) ** 2 + (y - at[1]) ** 2 + (z - at[2]) ** 2 + 0.5
    facing = np.where(ground > 0, at[1], np.abs(FRONT_M - at[2])) / np.sqrt(squared)
    light = power * facing / squared * (street.solid / np.float32(255))
    adds = to_picture(street.backdrop * (light[:, :, None] * np.array(colour, np.float32)) - 0.5)
    left, top, wide, high = cv2.boundingRect(adds.max(axis=2))
    return np.ascontiguousarray(adds[top : top + high, left : left + wide]), left, top


def lamp_lights(street: Street, random: np.random.Generator) -> list[Light]:
    world = _world(street.camera)
    lights = []
    for index, lamp in enumerate(street.lamps):
        adds, left, top = _added(street, world, lamp, SODIUM, POWER)
        broken = index == 1
        switching = index in (0, 3)
        lights.append(
            Light(
                adds, left, top,
                period_s=float(random.uniform(7, 12)),
                share_on=0.72 if switching else 1.0,
                start=float(random.random()), flicker=broken, lamp=index,
            )
        )  # fmt: skip
    return lights


def window_lights(street: Street, random: np.random.Generator) -> list[Light]:
    """Rooms whose lights go on and off, lit shops, and signs in neon."""
    lights: list[Light] = []
    world = _world(street.camera)
    camera = street.camera

    def add(glass: tuple[Picture, int, int] | None, period_s: float, share_on: float) -> None:
        if glass is not None:
            lights.append(Light(*glass, period_s, share_on, float(random.random())))

    for number, house in enumerate(street.houses):
        shops = [window for window in house.windows if window.shop]
        for window in house.windows:
            if not window.shop and random.random() < 0.45:
                colour = WARM if random.random() < 0.75 else COOL
                share = 1.0 if random.random() < 0.5 else float(random.uniform(0.4, 0.8))
                bright = float(random.uniform(0.9, 1.4))
                add(_glass(street, window.box, colour, bright), float(random.uniform(6, 16)), share)
        if shops and random.random() < 0.6:
            for window in shops:
                add(_glass(street, window.box, WARM, 1.5), 1.0, 1.0)
            left, right = min(w.box[0] for w in shops), max(w.box[2] for w in shops)
            middle = ((left + right) / 2 - camera.width / 2) / camera.scale(FRONT_M)
            lights.append(
                Light(
                    *_added(street, world, (middle, 1.4, FRONT_M - 1.2), WARM, 2.0), 1.0, 1.0, 0.0
                )
            )
        if house.sign is not None and number % 2 == 0:
            neon = NEON[number // 2 % len(NEON)]
            add(_glass(street, house.sign, neon, 1.9), 2.6, 0.62)
    return lights


def _glass(
    street: Street, box: tuple[float, float, float, float], colour: Colour, bright: float
) -> tuple[Picture, int, int] | None:
    """A lit pane with its glow: what it adds to the view, left, top; None outside the view."""
    margin = max(int(0.5 * street.camera.scale(FRONT_M)), 3)
    height, width = street.backdrop.shape[:2]
    left, top = max(int(box[0]) - margin, 0), max(int(box[1]) - margin, 0)
    right, low = min(int(box[2]) + margin + 1, width), min(int(box[3]) + margin + 1, height)
    if right - left <= 2 * margin or low - top <= 2 * margin:
        return None
    pane = np.zeros((low - top, right - left), np.float32)
    pane[
        max(round(box[1]) - top, 0) : round(box[3]) - top,
        max(round(box[0]) - left, 0) : round(box[2]) - left,
    ] = 1.0
    halo = cv2.GaussianBlur(pane, (0, 0), margin / 2.5)
    under = street.backdrop[top:low, left:right].astype(np.float32)
    tint = np.array(colour, np.float32)
    lit = (under * 0.75 + 62) * (bright * tint) * pane[:, :, None]
    lit += (under * 0.14 + 9) * tint * halo[:, :, None]
    return to_picture(lit - 0.5), left, top
