"""desk: someone talking to a webcam before a still room, while the exposure slowly drifts."""

import math

import cv2
import numpy as np

from stillframe.sample_videos.drawing.canvas import Canvas, Sprite, place, rounded
from stillframe.sample_videos.drawing.head import MARGIN, Appearance, Expression, Head
from stillframe.sample_videos.drawing.people import TOPS, some_appearance
from stillframe.sample_videos.drawing.room import desk_top, room
from stillframe.sample_videos.drawing.texture import (
    Colour,
    Cover,
    Field,
    Picture,
    clouds,
    scaled,
    to_picture,
)
from stillframe.sample_videos.scenes.cut_outs import CutOut, stack
from stillframe.sample_videos.truth import Drawn

HEAD_SHARE = 0.37
"""Height of the head as a share of the picture's height."""
LIGHT = np.array((-0.50, -0.45, 0.74), np.float32)


class Desk:
    """The scene; every instant is a pure function of time."""

    def __init__(self, width: int, height: int, random: np.random.Generator) -> None:
        self._width, self._height = width, height
        self._room = room(width, height, random)
        appearance, _ = some_appearance(random)
        unit = HEAD_SHARE * height / 2
        self._unit = unit
        self._at = (width * float(random.uniform(0.46, 0.54)), height * 0.40)
        self._head = Head(appearance, int(np.clip(unit * 2.6, 96, 720)), random)
        top = TOPS[random.integers(len(TOPS))]
        self._torso = _torso(unit, appearance, top, random)
        self._mane = _mane(unit, appearance, random) if appearance.long_hair else None
        self._front = desk_top(width, height, random)
        self._phases = random.uniform(0, 2 * math.pi, 12)

    def at(self, time_s: float) -> Drawn:
        """The image at a time, with the person and the face in it."""
        phases, unit = self._phases, self._unit
        talking = _swing(time_s, 0.23, phases[0]) + 0.35 > 0
        effort = min(max((_swing(time_s, 0.23, phases[0]) + 0.35) * 4, 0.0), 1.0)
        yaw = 0.26 * _swing(time_s, 0.11, phases[1]) + 0.10 * _swing(time_s, 0.37, phases[2])
        pitch = 0.07 * _swing(time_s, 0.19, phases[3]) + 0.05 * effort * _swing(
            time_s, 0.9, phases[4]
        )
        roll = 0.06 * _swing(time_s, 0.13, phases[5])
        lean = 0.10 * _swing(time_s, 0.07, phases[6])
        breath = 0.012 * _swing(time_s, 0.25, phases[7])
        middle = (
            self._at[0] + unit * (lean + 0.16 * yaw),
            self._at[1] + unit * (0.05 * effort * _swing(time_s, 0.7, phases[8]) + breath),
        )
        picture = self._room.copy()
        layers = [
            CutOut(3.0, self._body(lean, breath), 1, "person"),
            CutOut(
                2.0,
                self._face(middle, yaw, pitch, roll, self._expression(time_s, talking, effort)),
                1,
                "person",
            ),
            CutOut(1.0, self._front),
        ]
        if self._mane is not None:
            neck = (middle[0] - 0.10 * unit * math.sin(yaw), middle[1])
            layers.append(CutOut(4.0, _shifted(self._mane, *neck), 1, "person"))
        half = unit * 0.74
        shift = 0.22 * unit * math.sin(yaw)
        face = (
            middle[0] - half + shift, middle[1] - 0.66 * unit,
            middle[0] + half + shift, middle[1] + 1.02 * unit,
        )  # fmt: skip
        instances, things = stack(picture, layers)
        whole = next(thing for thing in things if thing.label == "person")
        x, y, wide, high = cv2.boundingRect((instances == 1).astype(np.uint8))
        box = (float(x), float(y), float(x + wide), float(y + high))
        things = (
            type(whole)(1, "person", box, 1.0),
            type(whole)(1, "face", face, 1.0),
        )
        return Drawn(self._exposed(picture, time_s), instances, things)

    def _expression(self, time_s: float, talking: bool, effort: float) -> Expression:
        phases = self._phases
        mouth = 0.0
        if talking:
            syllable = _swing(time_s, 3.9, phases[9]) + 0.6 * _swing(time_s, 2.3, phases[10])
            mouth = 1.0 * effort * max(syllable + 0.25, 0.0) / 1.85
        # a blink every few seconds: 0.08 s shut, 0.1 s to open
        since = (time_s + phases[11] + 0.5 * _swing(time_s, 0.05, phases[0])) % 3.4
        lids = min(abs(since - 0.12) / 0.10, 1.0)
        gaze = (0.5 * _step(time_s * 0.31 + phases[2]), 0.3 * _step(time_s * 0.23 + phases[3]))
        return Expression(lids, mouth, 0.30 + 0.45 * (1 - effort), gaze)

    def _body(self, lean: float, breath: float) -> Sprite:
        dx = self._at[0] + 0.55 * lean * self._unit
        dy = self._at[1] + (0.35 * breath) * self._unit
        return _shifted(self._torso, dx, dy)

    def _face(
        self, middle: tuple[float, float], yaw: float, pitch: float, roll: float, mood: Expression
    ) -> Sprite:
        colour, cover = self._head.view(2 * self._unit, yaw=yaw, pitch=pitch, expression=mood)
        side = cover.shape[0]
        left, top = math.floor(middle[0] - side / 2), math.floor(middle[1] - side / 2)
        pivot = (side / 2, side * (0.5 + 0.45 / MARGIN))
        matrix = cv2.getRotationMatrix2D(pivot, -math.degrees(roll), 1.0)
        matrix[:, 2] += (middle[0] - side / 2 - left, middle[1] - side / 2 - top)
        return Sprite(
            cv2.warpAffine(colour, matrix, (side, side)),
            cv2.warpAffine(cover, matrix, (side, side)),
            left,
            top,
        )

    def _exposed(self, picture: Picture, time_s: float) -> Picture:
        """The camera's automatic exposure and white balance wander, by a few percent."""
        gain = 1 + 0.055 * math.sin(2 * math.pi * time_s / 23 + self._phases[4])
        warmth = 0.012 * math.sin(2 * math.pi * time_s / 31 + self._phases[5])
        levels = np.arange(256, dtype=np.float32)[:, None] * np.array(
            (gain * (1 + warmth), gain, gain * (1 - warmth)), np.float32
        )
        return cv2.LUT(picture, np.clip(levels + 0.5, 0, 255).astype(np.uint8)[None])


def _shifted(sprite: Sprite, across: float, down: float) -> Sprite:
    """The sprite moved by fractions of pixels too."""
    left, top = math.floor(across), math.floor(down)
    matrix = np.array([[1, 0, across - left], [0, 1, down - top]])
    size = (sprite.cover.shape[1] + 1, sprite.cover.shape[0] + 1)
    return Sprite(
        cv2.warpAffine(sprite.colour, matrix, size),
        cv2.warpAffine(sprite.cover, matrix, size),
        left + sprite.left,
        top + sprite.top,
    )


def _swing(time_s: float, rate: float, start: float) -> float:
    """A smooth wander between -1 and 1, about `rate` times a second."""
    turn = 2 * math.pi * rate * time_s + start
    return 0.62 * math.sin(turn) + 0.38 * math.sin(turn * 1.618 + 1.3 * start)


def _step(position: float) -> float:
    """Stays at a value in -1..1, then moves quickly to another, as eyes do."""
    whole = math.floor(position)
    part = min((position - whole) * 12, 1.0)
    values = [
        math.modf(abs(math.sin(n * 12.9898) * 43758.5453))[0] * 2 - 1 for n in (whole, whole + 1)
    ]
    return values[0] + (values[1] - values[0]) * part * part * (3 - 2 * part)


def _inflated(cover: Cover, radius: float) -> Field:
    """Light on a cushion of that outline: about 1 facing the lamp, less to the far side."""
    inside = cv2.distanceTransform((cover > 127).astype(np.uint8), cv2.DIST_L2, 5)
    rise = np.clip(inside / radius, 0, 1)
    height = cv2.GaussianBlur(np.sqrt(1 - (1 - rise) ** 2), (0, 0), radius / 7) * radius
    slope_x, slope_y = (
        cv2.Sobel(height, cv2.CV_32F, 1, 0) / 8,
        cv2.Sobel(height, cv2.CV_32F, 0, 1) / 8,
    )
    length = np.sqrt(slope_x**2 + slope_y**2 + 1)
    facing = (-slope_x * LIGHT[0] - slope_y * LIGHT[1] + LIGHT[2]) / length
    light: Field = (0.50 + 0.62 * np.clip(facing, 0, 1)).astype(np.float32)
    return light


def _torso(
    unit: float, appearance: Appearance, cloth: Colour, random: np.random.Generator
) -> Sprite:
    """Neck, shoulders and chest; the head's middle is at (0, 0), half a head is `unit` pixels."""
    reach, low = int(2.9 * unit), int(4.3 * unit)
    canvas = Canvas(-reach, 0, 2 * reach, low, 2)
    points = [
        (0.44, 0.98), (0.56, 1.16), (1.00, 1.34), (1.60, 1.50), (2.02, 1.78), (2.22, 2.3),
        (2.36, 3.1), (2.48, 4.5),
    ]  # fmt: skip
    right = np.array(points) * unit
    outline = np.concatenate([right, (right * (-1, 1))[::-1]])
    canvas.polygon(rounded(outline), cloth)
    shape = canvas.cover.copy()
    light = _inflated(shape, 1.1 * unit * canvas.scale)
    folds = clouds(random, *shape.shape, unit * 1.6, 3)
    folds = 0.035 * np.tanh(
        cv2.GaussianBlur(folds, (0, 0), sigmaX=unit * 0.10, sigmaY=unit * 0.5) * 2
    )
    rows = np.arange(shape.shape[0], dtype=np.float32)[:, None]
    columns = np.arange(shape.shape[1], dtype=np.float32)[None]
    pitch = max(unit * canvas.scale / 26, 3.0)
    knit = 0.030 * np.sin(2 * np.pi * columns / pitch) * np.sin(2 * np.pi * rows / pitch / 1.4)
    factor = light * (1 + folds + knit)
    canvas.colour[:] = to_picture(canvas.colour * factor[:, :, None])
    # neck, in the shade of the chin
    skin = appearance.skin
    neck = Canvas(-reach, 0, 2 * reach, low, 2)
    throat = (
        np.array(
            (
                (-0.47, 0.3),
                (0.47, 0.3),
                (0.45, 0.95),
                (0.56, 1.18),
                (0.32, 1.46),
                (0.0, 1.56),
                (-0.32, 1.46),
                (-0.56, 1.18),
                (-0.45, 0.95),
            )
        )
        * unit
    )
    neck.polygon(rounded(throat), scaled(skin, 0.96))
    shade = _inflated(neck.cover, 0.55 * unit * 2)
    down = (np.arange(neck.cover.shape[0], dtype=np.float32) / neck.scale / unit)[:, None]
    chin = 1 - 0.42 * np.exp(-(((down - 0.88) / 0.32) ** 2))
    neck.colour[:] = to_picture(neck.colour * (shade * chin)[:, :, None])
    place(canvas.colour, Sprite(neck.colour, neck.cover), cover=canvas.cover)
    collar = (
        np.array(((-0.60, 1.10), (-0.32, 1.42), (0.0, 1.56), (0.32, 1.42), (0.60, 1.10))) * unit
    )
    canvas.line(rounded(collar, closed=False), scaled(cloth, 0.62), 0.13 * unit)
    canvas.line(rounded(collar - (0, 0.02 * unit), closed=False), scaled(cloth, 0.92), 0.08 * unit)
    return canvas.sprite()


def _mane(unit: float, appearance: Appearance, random: np.random.Generator) -> Sprite:
    """Long hair that falls behind the neck; the head's middle is at (0, 0)."""
    reach, low = int(1.4 * unit), int(2.1 * unit)
    canvas = Canvas(-reach, 0, 2 * reach, low, 2)
    half = ((0.70, 0.0), (0.88, 0.5), (0.98, 1.1), (0.92, 1.55), (0.55, 1.85))
    right = np.array(half) * unit
    canvas.polygon(rounded(np.concatenate([right, (right * (-1, 1))[::-1]])), appearance.hair)
    strands = clouds(random, canvas.cover.shape[0] // 8, canvas.cover.shape[1], unit / 8, 3)
    strands = cv2.resize(strands, canvas.cover.shape[::-1])
    light = _inflated(canvas.cover, 0.7 * unit * 2) * (1 + 0.16 * strands) * 0.85
    canvas.colour[:] = to_picture(canvas.colour * light[:, :, None])
    return canvas.sprite()
