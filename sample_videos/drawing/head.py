"""A head in the round, painted: two textured shells (skin, hair) seen from any side.

The skin texture is laid out by longitude (0 is the nose, positive to the right of the picture) and
height. Lengths are in half head heights: the skull's top is at -1 and the chin at +1.
A view solves, per pixel, which longitude and height the shell shows there, so turning and nodding
move eyes, nose and mouth as on a real head.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from stillframe.sample_videos.drawing.texture import Colour, Cover, Field, Picture, clouds, scaled

HALF_WIDTH = 0.70
HALF_DEPTH = 0.84
MARGIN = 1.3
LIGHT = np.array([-0.42, -0.46, 0.78], np.float32)
LIGHT /= np.linalg.norm(LIGHT)


@dataclass(frozen=True, slots=True)
class Appearance:
    """Appearance of a person's head. Colours are RGB 0..255."""

    skin: Colour = (224, 172, 140)
    hair: Colour = (62, 42, 30)
    iris: Colour = (86, 104, 90)
    lips: Colour = (182, 92, 88)
    long_hair: bool = False
    bald: bool = False
    beard: float = 0.0
    """0 none .. 1 full."""
    glasses: bool = False


@dataclass(frozen=True, slots=True)
class Expression:
    """What a face does at one instant."""

    lids: float = 1.0
    """0 shut .. 1 open."""
    mouth: float = 0.0
    """0 closed .. 1 wide open."""
    smile: float = 0.3
    gaze: tuple[float, float] = (0.0, 0.0)
    """(right, down), each -1..1."""


def _smooth(edge: float, soft: float, field: Field) -> Field:
    """0 below edge, 1 above, blending over `soft` on both sides."""
    ramp: Field = np.clip((field - edge) / (2 * soft) + 0.5, 0.0, 1.0).astype(np.float32)
    step: Field = ramp * ramp * (3 - 2 * ramp)
    return step


def _spot(x: Field, y: Field, at: tuple[float, float], spread: tuple[float, float]) -> Field:
    """A soft round spot: 1 at its middle."""
    blob: Field = np.exp(-(((x - at[0]) / spread[0]) ** 2) - ((y - at[1]) / spread[1]) ** 2)
    return blob


def _over(surface: Field, colour: Colour, cover: Field) -> None:
    """Lay a colour over the surface, in place."""
    surface += cover[:, :, None] * (np.array(colour, np.float32) - surface)


def _darken(surface: Field, amount: Field) -> None:
    surface *= (1.0 - amount)[:, :, None]


def _half_width(y: Field, top: float = 1.0) -> Field:
    """The skull's half width over its height, as a share of the widest: round top, narrower jaw."""
    upper = np.sqrt(np.clip(1 - np.abs((y + 0.12) / (0.88 * top)) ** 2.3, 0, 1))
    jaw = np.clip((y + 0.12) / 1.12, 0, 1)
    lower = np.sqrt(np.clip(1 - jaw**3.4, 0, 1)) * (1 - 0.24 * jaw**1.6)
    width: Field = np.where(y < -0.12, upper, lower).astype(np.float32)
    return width


class Head:
    """One person's head, painted once at `detail` texture rows; views are cheap."""

    def __init__(self, appearance: Appearance, detail: int, random: np.random.Generator) -> None:
        self.appearance = appearance
        rows, columns = detail, 2 * detail
        self._rows, self._columns = rows, columns
        y, longitude = np.mgrid[0:rows, 0:columns].astype(np.float32)
        self._y = (y + 0.5) / rows * 2.4 - 1.2
        self._longitude = ((longitude + 0.5) / columns * 2 - 1) * np.float32(np.pi)
        turn = np.abs(self._longitude)
        x = np.where(turn < np.pi / 2, np.sin(turn), 1 + 2 * (turn - np.pi / 2))
        self._x = (HALF_WIDTH * np.sign(self._longitude) * x).astype(np.float32)
        self._pixel = 2.4 / rows
        self._skin = self._paint_skin(random)
        self._hair = self._paint_hair(random)
        # eyes and mouth are repainted for each expression, on these windows of the texture
        self._eyes = self._window(-0.62, 0.62, -0.16, 0.26)
        self._shown: tuple[Expression | None, Field] = (None, self._skin)
        self._mouth = self._window(-0.42, 0.42, 0.44, 0.98)

    def _window(self, left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
        across = np.arcsin(np.array([left, right]) / HALF_WIDTH) / np.pi
        columns = ((across + 1) / 2 * self._columns).astype(int)
        rows = ((np.array([top, bottom]) + 1.2) / 2.4 * self._rows).astype(int)
        return slice(int(rows[0]), int(rows[1]) + 1), slice(int(columns[0]), int(columns[1]) + 1)

    def _paint_skin(self, random: np.random.Generator) -> Field:
        appearance, x, y = self.appearance, self._x, self._y
        rows, columns = self._rows, self._columns
        skin = np.array(appearance.skin, np.float32)
        red = (
            min(appearance.skin[0] * 1.02, 255.0),
            appearance.skin[1] * 0.84,
            appearance.skin[2] * 0.82,
        )
        surface: Field = np.empty((*x.shape, 3), np.float32)
        surface[:] = skin
        surface *= 1 + 0.012 * clouds(random, rows, columns, self._rows / 9)[:, :, None]
        side = np.abs(x)
        for middle, spread, strength in (
            ((0.36, 0.36), (0.20, 0.16), 0.42),
            ((0.0, 0.36), (0.11, 0.10), 0.32),
            ((0.0, 0.80), (0.20, 0.12), 0.16),
        ):
            _over(surface, red, strength * _spot(side, y, middle, spread))
        for middle, spread, strength in (
            ((0.22, 0.015), (0.17, 0.085), 0.22),  # eye sockets
            ((0.115, 0.02), (0.05, 0.10), 0.17),  # beside the bridge of the nose
            ((0.13, 0.30), (0.05, 0.16), 0.12),  # beside the nose
            ((0.0, 0.485), (0.13, 0.035), 0.24),  # below the nose
            ((0.0, 0.795), (0.15, 0.035), 0.20),  # below the lip
            ((0.60, 0.55), (0.16, 0.30), 0.16),  # hollow of the cheek
            ((0.235, 0.53), (0.035, 0.11), 0.10),  # fold from nose to mouth
            ((0.0, 1.12), (0.60, 0.16), 0.35),  # below the chin
        ):
            _darken(surface, strength * _spot(side, y, middle, spread))
        for middle, spread, strength in (
            ((0.0, 0.16), (0.042, 0.20), 0.15),
            ((0.0, 0.355), (0.055, 0.055), 0.17),
            ((0.36, 0.21), (0.15, 0.07), 0.09),
            ((0.0, -0.42), (0.34, 0.18), 0.07),
            ((0.0, 0.90), (0.12, 0.07), 0.08),
        ):
            surface *= (1 + strength * _spot(side, y, middle, spread))[:, :, None]
        nostril = _spot(side, y, (0.072, 0.435), (0.034, 0.018))
        _over(surface, (70, 34, 28), 0.75 * nostril)
        wing = _spot(side, y, (0.150, 0.395), (0.020, 0.045))
        _darken(surface, 0.22 * wing)
        brow_line = -0.135 - 0.055 * np.sin(np.clip((side - 0.10) / 0.34, 0, 1) * 2.6)
        thick = 0.030 * (1 - 0.55 * np.clip((side - 0.12) / 0.34, 0, 1))
        brow = _smooth(0, 0.014, thick - np.abs(y - brow_line))
        brow *= _smooth(0.10, 0.03, side) * _smooth(-0.45, 0.03, -side)
        _over(surface, scaled(appearance.hair, 0.8), 0.86 * brow)
        if appearance.beard:
            low = _smooth(0.44, 0.10, y + 0.35 * np.clip(side - 0.20, 0, 1))
            lips = _spot(side, y, (0.0, 0.66), (0.24, 0.09))
            speck = 0.85 + 0.15 * clouds(random, rows, columns, 3.0, 1)
            cover = np.clip(appearance.beard * low * (1 - lips) * speck, 0, 1)
            _over(surface, scaled(appearance.hair, 0.9), cover.astype(np.float32))
        return surface

    def _paint_hair(self, random: np.random.Generator) -> Field:
        """(rows, columns, 4) float32: colour 0..255 and cover 0..1."""
        turn, y = np.abs(self._longitude), self._y
        strands = clouds(random, self._rows // 6, self._columns, 5.0, 3)
        strands = cv2.resize(strands, (self._columns, self._rows))
        sheen = np.exp(-(((y + 0.62) / 0.16) ** 2)) * 0.22
        surface = np.array(self.appearance.hair, np.float32) * (
            1 + 0.20 * strands + sheen * (1 + 0.4 * strands)
        )[:, :, None].astype(np.float32)
        bottom = (0.95, 1.15) if self.appearance.long_hair else (0.12, 0.42)
        line = np.interp(
            turn,
            [0.0, 0.75, 1.02, 1.25, 1.75, np.pi],
            [-0.60, -0.52, -0.25, *bottom[:1], *bottom[1:], bottom[1]],
        ).astype(np.float32)
        part = 0.05 * np.sin(self._longitude * 2.3 + 0.6)
        cover = _smooth(0, 0.03, line + part + 0.025 * strands - y)
        if self.appearance.bald:
            cover *= _smooth(-0.30, 0.12, y) * _smooth(1.15, 0.15, turn)
        return np.dstack([surface, cover]).astype(np.float32)

    def _paint_eyes(self, texture: Field, expression: Expression) -> None:
        surface = texture[self._eyes]
        x, y = self._x[self._eyes], self._y[self._eyes]
        soft = max(0.012, self._pixel)
        middle, half = 0.275, 0.135
        for side in (-1.0, 1.0):
            u = (x * side - middle) / half
            bow = np.clip(1 - u * u, 0, 1)
            upper = 0.055 - 0.004 * u - (0.078 * expression.lids) * bow**0.75
            lower = 0.055 - 0.004 * u + 0.040 * bow**0.8
            inside = _smooth(0, soft, np.minimum(y - upper, lower - y)) * (np.abs(u) < 1)
            white = np.empty_like(surface)
            white[:] = (236, 230, 224)
            _darken(white, 0.35 * _smooth(-0.035, 0.03, upper - y))
            _darken(white, 0.18 * (u * u).clip(0, 1))
            at_x = side * middle + 0.045 * expression.gaze[0]
            at_y = 0.045 + 0.02 * expression.gaze[1]
            from_iris = np.sqrt((x - at_x) ** 2 + (y - at_y) ** 2)
            _over(white, self.appearance.iris, _smooth(-0.060, soft * 0.8, -from_iris))
            rim = _smooth(0.044, soft, from_iris) * _smooth(-0.060, soft * 0.8, -from_iris)
            _darken(white, 0.55 * rim)
            _over(white, (16, 12, 12), _smooth(-0.028, soft * 0.8, -from_iris))
            glint = _spot(x, y, (at_x - 0.02, at_y - 0.022), (0.014, 0.014))
            _over(white, (255, 255, 255), np.minimum(1.2 * glint, 1))
            surface += inside[:, :, None] * (white - surface)
            near = _smooth(-1.12, 0.08, -np.abs(u))
            lash = np.exp(-(((y - upper + 0.004) / 0.016) ** 2)) * near
            _over(surface, (34, 22, 20), 0.88 * lash)
            under = np.exp(-(((y - lower) / 0.010) ** 2)) * near
            _darken(surface, 0.25 * under)
            crease = np.exp(-(((y - upper + 0.045) / 0.012) ** 2)) * near * expression.lids
            _darken(surface, 0.22 * crease)
        if self.appearance.glasses:
            for side in (-1.0, 1.0):
                across, down = (x * side - 0.285) / 0.20, (y - 0.06) / 0.155
                rim = np.abs((np.abs(across) ** 3 + np.abs(down) ** 3) ** (1 / 3) - 1)
                _over(surface, (30, 28, 32), 0.92 * _smooth(-0.085, 0.05, -rim))
                lens = _spot(x * side, y, (0.22, -0.02), (0.05, 0.05))
                _over(surface, (255, 255, 255), 0.14 * lens)
            bridge = _smooth(-0.016, 0.012, -np.abs(y - 0.02)) * _smooth(-0.10, 0.02, -np.abs(x))
            _over(surface, (30, 28, 32), 0.9 * bridge)

    def _paint_mouth(self, texture: Field, expression: Expression) -> None:
        surface = texture[self._mouth]
        x, y = self._x[self._mouth], self._y[self._mouth]
        soft = max(0.012, self._pixel)
        half = 0.225 + 0.035 * expression.smile - 0.035 * expression.mouth
        u = np.clip(np.abs(x) / half, 0, 1.6)
        bow = np.clip(1 - u * u, 0, 1)
        line = 0.645 + 0.018 * bow - 0.030 * expression.smile * u * u
        gap = 0.085 * expression.mouth * bow**0.7
        cupid = 0.012 * np.exp(-((x / 0.035) ** 2))
        top = line - gap * 0.45 - (0.046 * bow**0.8 - cupid)
        bottom = line + gap + 0.070 * bow**0.8
        lips = _smooth(0, soft, np.minimum(y - top, bottom - y)) * (u < 1)
        lip = np.empty_like(surface)
        lip[:] = self.appearance.lips
        _darken(lip, 0.22 * _smooth(0, 0.02, line - y))
        shine = _spot(x, y, (0.0, 0.700), (0.13, 0.018))
        shine = np.exp(-(((y - (bottom - 0.035)) / 0.016) ** 2)) * np.exp(-((x / 0.13) ** 2))
        lip *= (1 + 0.22 * shine)[:, :, None]
        surface += (0.85 * lips)[:, :, None] * (lip - surface)
        inner = _smooth(0, soft, np.minimum(y - (line - gap * 0.45), line + gap - y)) * (u < 0.93)
        if expression.mouth > 0.02:
            hollow = np.empty_like(surface)
            hollow[:] = (62, 20, 22)
            teeth_edge = line - gap * 0.45 + 0.036
            teeth = _smooth(0, soft, teeth_edge - y) * _smooth(-0.75, 0.08, -u)
            _over(hollow, (232, 226, 214), 0.92 * teeth)
            surface += (inner * min(1.0, 6 * expression.mouth))[:, :, None] * (hollow - surface)
        seam = np.exp(-(((y - line) / 0.011) ** 2)) * _smooth(-1.02, 0.05, -u)
        _over(surface, (96, 40, 38), 0.75 * seam * (1 - min(1.0, 5 * expression.mouth)))
        corner = _spot(np.abs(x), y, (half, 0.645 - 0.03 * expression.smile), (0.025, 0.022))
        _darken(surface, 0.35 * corner)

    def texture(self, expression: Expression) -> Field:
        """The skin with this expression: (rows, 2 rows, 3) float32."""
        if expression != self._shown[0]:
            skin = self._skin.copy()
            self._paint_eyes(skin, expression)
            self._paint_mouth(skin, expression)
            self._shown = (expression, skin)
        return self._shown[1]

    def _shell(
        self,
        x: Field,
        y: Field,
        yaw: float,
        pitch: float,
        swell: float,
        *,
        far_side: bool = False,
    ) -> tuple[Field, Field, Field, Field]:
        """Texture column and row, cover margin and light of one shell.

        x: (1, S), y: (S, 1) where the pixels are; all answers are (S, S) float32.
        far_side: of the shell's far side, as seen through its near side.
        """
        across = HALF_WIDTH * math.cos(yaw)
        along = HALF_DEPTH * math.sin(yaw)
        turn = math.atan2(along, across)
        width = _half_width(y / swell) * (math.hypot(across, along) * swell)
        if swell == 1.0:  # from the side, the nose stands out
            out = 0.16 * max(abs(math.sin(yaw)) - 0.35, 0.0)
            nose = np.exp(-(((y - 0.36 + 0.25 * pitch) / 0.11) ** 2)) * out
            width = np.where(x * math.sin(yaw) > 0, width + nose, width)
        inside = np.where(width > 0, width - np.abs(x), -1)
        share = np.clip(x / np.maximum(width, 1e-4), -1, 1)
        deep = np.sqrt(1 - share * share)
        longitude = (math.pi - np.arcsin(share) if far_side else np.arcsin(share)) - turn
        longitude -= (2 * math.pi) * np.floor(longitude / (2 * math.pi) + 0.5)
        bulge = -0.75 * math.sin(pitch) / swell * np.sqrt(np.clip(1 - (y / 1.05) ** 2, 0, 1))
        row_scale = self._rows / 2.4
        row = (y * (math.cos(pitch) / swell) + 1.2) * row_scale - 0.5 + deep * (bulge * row_scale)
        column = (longitude + math.pi) * (self._columns / (2 * math.pi)) - 0.5
        light = share * LIGHT[0] + deep * LIGHT[2] + (np.clip(y, -1, 1) ** 3 * 0.8 * LIGHT[1])
        return column, row, inside, light

    def _ears(self, colour: Picture, cover: Cover, yaw: float, unit: float) -> None:
        """Both ears, where they are to be seen, below the shells."""
        side = cover.shape[0]
        for which in (-1.0, 1.0):
            lift = 0.09 + 0.07 * abs(math.sin(yaw))
            middle = (
                side / 2 + which * (HALF_WIDTH * math.cos(yaw) + 0.015) / unit,
                side / 2 + 0.14 / unit,
            )
            for shrink, gain in ((1.0, 0.80), (0.62, 0.62)):
                axes = (lift * shrink / unit, 0.205 * shrink / unit)
                tone = tuple(gain * c for c in self.appearance.skin)
                points = np.array(middle) + _OVAL * axes
                fixed = [np.round(points * 16).astype(np.int32)]
                cv2.fillPoly(colour, fixed, tone, cv2.LINE_AA, 4)
                cv2.fillPoly(cover, fixed, 255, cv2.LINE_AA, 4)

    def _back_of_hair(
        self,
        colour: Picture,
        cover: Cover,
        x: Field,
        y: Field,
        yaw: float,
        pitch: float,
        unit: float,
    ) -> None:
        """The hair on the far side, which shows beside the face."""
        column, row, inside, _ = self._shell(x, y + 0.03, yaw, pitch, 1.085, far_side=True)
        hair = cv2.remap(self._hair, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        share = hair[:, :, 3] * np.clip(inside / unit + 0.5, 0, 1)
        _lay(colour, cover, hair[:, :, :3], np.full_like(share, 0.55), share)

    def view(
        self,
        height_px: float,
        *,
        yaw: float = 0.0,
        pitch: float = 0.0,
        expression: Expression | None = None,
    ) -> tuple[Picture, Cover]:
        """The head from one side: premultiplied (S, S, 3) uint8 RGB and (S, S) uint8 cover.

        height_px: chin to crown; the picture is MARGIN times as high, the head in its middle.
        yaw, pitch: radians; positive turns to the right of the picture and down.
        """
        side = max(int(np.ceil(height_px * MARGIN)), 6)
        unit = 2.0 / height_px
        place = ((np.arange(side, dtype=np.float32) + 0.5 - side / 2) * unit).astype(np.float32)
        x, y = place[None, :], place[:, None]
        colour = np.zeros((side, side, 3), np.uint8)
        cover = np.zeros((side, side), np.uint8)
        self._back_of_hair(colour, cover, x, y, yaw, pitch, unit)
        if not self.appearance.long_hair:
            self._ears(colour, cover, yaw, unit)
        column, row, inside, shade = self._shell(x, y, yaw, pitch, 1.0)
        skin = cv2.remap(
            self.texture(expression or Expression()), column, row, cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        lit = 0.60 + 0.52 * np.clip(shade, 0, 1) ** 1.2
        hair_column, hair_row, hair_inside, hair_shade = self._shell(x, y + 0.03, yaw, pitch, 1.085)
        hair = cv2.remap(
            self._hair, hair_column, hair_row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        tuft = hair[:, :, 3] * np.clip(hair_inside / unit + 0.5, 0, 1)
        # the fringe throws a little shadow on the forehead
        drop = max(int(0.03 / unit), 0)
        fringe = cv2.blur(tuft, (max(int(0.10 / unit), 1),) * 2)
        fringe = np.roll(fringe, drop, axis=0)
        _lay(colour, cover, skin, lit * (1 - 0.30 * fringe), np.clip(inside / unit + 0.5, 0, 1))
        lit = 0.50 + 0.62 * np.clip(hair_shade, 0, 1) ** 1.2
        _lay(colour, cover, hair[:, :, :3], lit, tuft)
        return colour, cover


_TURNS = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_OVAL = np.stack([np.cos(_TURNS), np.sin(_TURNS)], axis=1)


def _lay(
    colour: Picture,
    cover: Cover,
    surface: Field,
    light: Field,
    share: Field,
) -> None:
    """Lay a lit surface over a premultiplied picture, in place, where `share` is above 0."""
    keep = cv2.merge([1 - share] * 3)
    lit = cv2.multiply(surface, cv2.merge([light * share] * 3))
    under = cv2.multiply(colour, keep, dtype=cv2.CV_32F)
    cv2.add(under, lit, dst=colour, dtype=cv2.CV_8U)
    cover[:] = cv2.add(cover * (1 - share), share * 255, dtype=cv2.CV_8U)
