"""night: the same kind of square after dark; lamps, windows and a sign switch, headlights pass.

Light is worked out in the world: each lamp shines on ground and fronts by distance and angle, and
everything that moves is lit by the lamps around it. What a light adds is kept as a picture, so a
frame is a sum of those that are on.
"""

import cv2
import numpy as np

from stillframe.sample_videos.drawing.camera import Camera
from stillframe.sample_videos.drawing.canvas import Sprite, glow
from stillframe.sample_videos.drawing.lights import (
    AMBIENT,
    LEVELS,
    POWER,
    SODIUM,
    dark_view,
    lamp_lights,
    window_lights,
)
from stillframe.sample_videos.drawing.street import build
from stillframe.sample_videos.drawing.texture import Colour, Picture, to_picture
from stillframe.sample_videos.scenes.cut_outs import CutOut, stack
from stillframe.sample_videos.scenes.routes import WAYS, Drive, traffic, walkers
from stillframe.sample_videos.truth import Drawn, Thing


class Night:
    """The scene; every instant is a pure function of time."""

    def __init__(self, width: int, height: int, random: np.random.Generator) -> None:
        camera = Camera(width, height)
        street = build(camera, random, sunny=False)
        self._camera, self._street = camera, street
        self._dark = dark_view(street, random)
        self._lights = lamp_lights(street, random) + window_lights(street, random)
        self._walkers = walkers(camera, random, WAYS[:7])
        self._drives = traffic(camera, random)
        unit = camera.height / 100
        self._halo = _blob(int(13 * unit), SODIUM, 120)
        self._beam = _blob(int(11 * unit), (1.0, 0.96, 0.86), 235)
        self._tail = _blob(int(4 * unit), (1.0, 0.12, 0.08), 190)
        self._pool = _pool(camera)
        self._still: tuple[tuple[int, ...], Picture, list[CutOut]] = ((), self._dark, [])

    def at(self, time_s: float) -> Drawn:
        """The image at a time, with everything visible in it."""
        camera = self._camera
        levels = tuple(light.level(time_s) for light in self._lights)
        if levels != self._still[0]:
            self._still = (levels, *self._lit_street(levels))
        picture = self._still[1].copy()
        layers = list(self._still[2])
        passing = []
        for identity, drive in enumerate(self._drives, start=len(self._walkers) + 1):
            layer = drive.layer(time_s, camera, identity)
            if layer is not None:
                self._shine(picture, drive, layer)
                layers.append(self._lit(layer, levels))
                passing.append((drive, layer))
        for identity, walker in enumerate(self._walkers, start=1):
            layer = walker.layer(time_s, camera, identity)
            if layer is not None:
                layers.append(self._lit(layer, levels))
        instances, things = stack(picture, layers)
        for drive, layer in passing:
            self._headlights(picture, drive, layer)
        return Drawn(picture, instances, things + self._lamps_on(levels))

    def _lit_street(self, levels: tuple[int, ...]) -> tuple[Picture, list[CutOut]]:
        """Everything that stands still, under the lights that are on."""
        picture = self._dark.copy()
        for light, level in zip(self._lights, levels, strict=True):
            if level:
                part = (
                    light.adds
                    if level == LEVELS
                    else cv2.convertScaleAbs(light.adds, alpha=level / LEVELS)
                )
                glow(picture, part, light.left, light.top)
        layers = []
        for prop in self._street.props:
            across = _middle_m(prop.sprite, self._camera, prop.depth_m)
            layers.append(
                CutOut(
                    prop.depth_m, prop.sprite.lit(self._light_at(across, 2.0, prop.depth_m, levels))
                )
            )
        for light, level in zip(self._lights, levels, strict=True):
            if light.lamp is not None and level:
                layers.append(self._lantern(light.lamp, level))
        return picture, layers

    def _lantern(self, lamp: int, level: int) -> CutOut:
        """The bright glass of a lamp, a little in front of its post, with its halo."""
        x, y, z = self._street.lamps[lamp]
        at_x, at_y = self._camera.point(x, y, z)
        scale = 0.35 + 0.65 * min(self._camera.scale(z) / self._camera.scale(9.0), 1.4)
        side = max(int(self._halo.shape[0] * scale), 6)
        halo = cv2.resize(self._halo, (side, side), interpolation=cv2.INTER_AREA)
        halo = cv2.convertScaleAbs(halo, alpha=level / LEVELS)
        core = max(int(0.15 * self._camera.scale(z)), 1)
        cv2.ellipse(
            halo, (side // 2, side // 2), (core, int(core * 1.5)), 0, 0, 360,
            tuple(round(c * level / LEVELS) for c in (255, 240, 196)), -1, cv2.LINE_AA,
        )  # fmt: skip
        clear = np.zeros(halo.shape[:2], np.uint8)
        return CutOut(z - 0.01, Sprite(halo, clear, round(at_x - side / 2), round(at_y - side / 2)))

    def _light_at(self, x: float, y: float, z: float, levels: tuple[int, ...]) -> Colour:
        """The light that falls on something standing at a place: gain per channel."""
        total = np.array(AMBIENT) * 1.2
        for light, level in zip(self._lights, levels, strict=True):
            if light.lamp is None or not level:
                continue
            lamp_x, lamp_y, lamp_z = self._street.lamps[light.lamp]
            squared = (x - lamp_x) ** 2 + (y - lamp_y) ** 2 + (z - lamp_z) ** 2
            total += np.array(SODIUM) * (0.62 * POWER / (squared + 6.0) * level / LEVELS)
        return float(total[0]), float(total[1]), float(total[2])

    def _lit(self, layer: CutOut, levels: tuple[int, ...]) -> CutOut:
        across = _middle_m(layer.sprite, self._camera, layer.depth_m)
        gain = self._light_at(across, 1.0, layer.depth_m, levels)
        return CutOut(
            layer.depth_m, layer.sprite.lit(gain), layer.identity, layer.label, layer.face
        )

    def _ends(
        self, drive: Drive, layer: CutOut
    ) -> tuple[tuple[float, float], tuple[float, float], float]:
        """Where headlights and tail lights are in the picture, and which way it drives."""
        scale = self._camera.scale(drive.depth_m)
        ground = self._camera.point(0, 0, drive.depth_m)[1]
        left, right = layer.sprite.left + 3, layer.sprite.left + 3 + drive.vehicle.length_px
        front, back = (right, left) if drive.vehicle.rightward else (left, right)
        way = 1.0 if drive.vehicle.rightward else -1.0
        return (
            (front - way * 0.15 * scale, ground - 0.72 * scale),
            (back, ground - 0.82 * scale),
            way,
        )

    def _shine(self, picture: Picture, drive: Drive, layer: CutOut) -> None:
        """The pool of light on the road before a vehicle."""
        front, _, way = self._ends(drive, layer)
        pool = self._pool if way > 0 else self._pool[:, ::-1]
        ground = self._camera.point(0, 0, drive.depth_m)[1]
        left = front[0] if way > 0 else front[0] - pool.shape[1]
        glow(picture, pool, round(left), round(ground - pool.shape[0] * 0.55))

    def _headlights(self, picture: Picture, drive: Drive, layer: CutOut) -> None:
        front, back, _ = self._ends(drive, layer)
        for light, at in ((self._beam, front), (self._tail, back)):
            glow(
                picture, light, round(at[0] - light.shape[1] / 2), round(at[1] - light.shape[0] / 2)
            )

    def _lamps_on(self, levels: tuple[int, ...]) -> tuple[Thing, ...]:
        """The lanterns that are on, as things: switching is part of the truth."""
        things = []
        for light, level in zip(self._lights, levels, strict=True):
            if light.lamp is None or not level:
                continue
            x, y, z = self._street.lamps[light.lamp]
            at_x, at_y = self._camera.point(x, y, z)
            half = 0.28 * self._camera.scale(z)
            box = (at_x - half, at_y - half, at_x + half, at_y + half)
            if box[2] > 0 and box[0] < self._camera.width:
                things.append(Thing(200 + light.lamp, "lamp", box, 1.0))
        return tuple(things)


def _middle_m(sprite: Sprite, camera: Camera, depth_m: float) -> float:
    """Metres across, of the middle of a cut-out."""
    middle = sprite.left + sprite.cover.shape[1] / 2
    return float(middle - camera.width / 2) / camera.scale(depth_m)


def _blob(side: int, colour: Colour, peak: float) -> Picture:
    """A round glow, `side` pixels wide."""
    side = max(side, 4)
    at = (np.arange(side, dtype=np.float32) + 0.5) / side * 2 - 1
    away = np.sqrt(at[None, :] ** 2 + at[:, None] ** 2)
    light = peak * np.clip(1 - away, 0, 1) ** 2.6 / (0.12 + away * 1.4)
    return to_picture(light[:, :, None] * np.array(colour, np.float32) - 0.5)


def _pool(camera: Camera) -> Picture:
    """The light of a vehicle that drives to the right on the road before it."""
    scale = camera.scale(18.0)
    wide, high = int(9 * scale), int(1.5 * scale)
    x = np.linspace(0, 1, wide, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, high, dtype=np.float32)[:, None]
    spread = 0.16 + 0.75 * x
    light = np.exp(-((y / spread) ** 2)) * np.exp(-2.6 * x) * np.clip(x / 0.10, 0, 1) * 74
    light *= np.clip((1 - np.abs(y)) * 3, 0, 1)
    return to_picture(light[:, :, None] * np.array((1.0, 0.95, 0.84), np.float32) - 0.5)
