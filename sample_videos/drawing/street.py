"""A town square: paving, a road across it, houses behind, trees, lamps and benches before them.

A `Street` is what stands still. Ground to houses are painted into one backdrop; whatever people can
walk behind is a cut-out with its depth, composed from far to near.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from stillframe.sample_videos.drawing.buildings import SIGNS, House, house
from stillframe.sample_videos.drawing.camera import Camera
from stillframe.sample_videos.drawing.canvas import Canvas, Sprite, darken, place
from stillframe.sample_videos.drawing.plants import shrub, tree
from stillframe.sample_videos.drawing.texture import (
    Colour,
    Cover,
    Field,
    Picture,
    clouds,
    gradient,
    scaled,
    to_picture,
)

ROAD_M = (15.6, 21.6)
LANES_M = (17.0, 20.2)
FRONT_M = 26.0
SUN = (0.55, 0.75)
"""Metres that a shadow reaches to the right and away, per metre of height."""


@dataclass(frozen=True, slots=True)
class Prop:
    """A thing that stands at a depth and hides what is farther away."""

    depth_m: float
    sprite: Sprite


@dataclass(frozen=True, slots=True)
class Street:
    """The still part of the view."""

    camera: Camera
    backdrop: Picture
    solid: Cover
    """(H, W): 255 where ground or a house is visible, 0 for the sky."""
    props: tuple[Prop, ...]
    houses: tuple[House, ...]
    lamps: tuple[tuple[float, float, float], ...]
    """(X, height, Z) of each light, metres."""


def build(camera: Camera, random: np.random.Generator, *, sunny: bool) -> Street:
    """Paint a square. sunny: with the shadows of a low sun; without: even light, for the night."""
    picture = gradient(
        camera.height,
        camera.width,
        (
            (0.0, (112, 158, 206)),
            (0.30, (176, 204, 226)),
            (0.42, (222, 228, 224)),
            (1.0, (222, 228, 224)),
        ),
    )
    _clouds(picture, camera, random)
    _hills(picture, camera, random)
    picture[camera.horizon_row :] = _ground(camera, random)
    houses = _houses(picture, camera, random)
    props, lamps = _props(camera, random)
    if sunny:
        for prop in props:
            cast(picture, prop.sprite, camera, prop.depth_m)
    solid = np.zeros(picture.shape[:2], np.uint8)
    solid[camera.horizon_row :] = 255
    for one in houses:
        place(np.zeros_like(picture), one.sprite, cover=solid)
    near_first = sorted(props, key=lambda prop: -prop.depth_m)
    return Street(camera, picture, solid, tuple(near_first), tuple(houses), tuple(lamps))


def _clouds(picture: Picture, camera: Camera, random: np.random.Generator) -> None:
    rows = camera.horizon_row
    field = clouds(random, rows, camera.width // 2, camera.height / 4, 5)
    field = cv2.resize(field, (camera.width, rows))
    cover = np.clip((field - 0.25) * 0.9, 0, 0.85)[:, :, None]
    sky = picture[:rows]
    picture[:rows] = to_picture(sky + cover * (np.float32(246) - sky))


def _hills(picture: Picture, camera: Camera, random: np.random.Generator) -> None:
    x = np.arange(camera.width)
    base = camera.horizon * camera.height
    for index, colour in enumerate(((158, 176, 186), (124, 148, 146))):
        ridge = clouds(random, 3, camera.width, camera.height / (2 + index), 4)[1]
        top = base - camera.height * (0.10 - 0.03 * index) - ridge * camera.height * 0.02
        outline = np.stack([x, top], axis=1)
        corners = np.array([[camera.width, base + 60], [0, base + 60]])
        points = np.concatenate([outline, corners])
        cv2.fillPoly(picture, [np.round(points * 16).astype(np.int32)], colour, cv2.LINE_AA, 4)


def _tile(field: Field, across: Field, away: Field, pixels_per_m: float) -> Field:
    """Look up a field at ground coordinates, endlessly: mirrored at its edges, so without seams."""
    rows, columns = field.shape
    x = columns - 1 - np.abs(np.mod(across * pixels_per_m + 77, 2 * columns - 2) - (columns - 1))
    y = rows - 1 - np.abs(np.mod(away * pixels_per_m, 2 * rows - 2) - (rows - 1))
    return cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _band(away: Field, near: float, far: float, soft: Field) -> Field:
    """1 between two depths, with edges as wide as a pixel."""
    inside: Field = np.clip((away - near) / soft + 0.5, 0, 1) * np.clip(
        (far - away) / soft + 0.5, 0, 1
    )
    return inside


def _ground(camera: Camera, random: np.random.Generator) -> Picture:
    """Paving, kerbs, asphalt with lane marks and the far pavement, in perspective."""
    across, away = camera.ground(2)
    foot_z = away**2 / (camera.focal * camera.height * camera.eye_m) / 2
    foot_x = away / (camera.focal * camera.height) / 2
    blotch = _tile(clouds(random, 512, 512, 128, 6), across, away, 24.0)
    fine = _tile(clouds(random, 512, 512, 6, 3), across, away, 60.0)
    fine *= np.clip(0.035 / foot_z, 0, 1)
    # stones: rows of 0.6 m, each shifted, 0.9 m long
    row = np.floor(away / 0.6)
    along = across / 0.9 + np.mod(row * 0.37, 1.0)
    stone = np.floor(along)
    hashed = np.mod(np.sin(row * 127.1 + stone * 311.7) * 43758.5453, 1.0).astype(np.float32)
    fade = np.clip(0.36 / foot_z, 0, 1)
    tone = 1 + (0.10 * (hashed - 0.5)) * fade + 0.035 * blotch + 0.030 * fine
    gap_z = np.abs(np.mod(away / 0.6 + 0.5, 1.0) - 0.5) * 0.6
    gap_x = np.abs(np.mod(along + 0.5, 1.0) - 0.5) * 0.9
    joint_z = np.clip((0.018 + foot_z / 2 - gap_z) / foot_z, 0, 1) * np.clip(0.036 / foot_z, 0, 1)
    joint_x = np.clip((0.018 + foot_x / 2 - gap_x) / foot_x, 0, 1) * np.clip(0.036 / foot_x, 0, 1)
    tone *= 1 - 0.26 * np.maximum(joint_z, joint_x)
    warm = np.array((190, 180, 164), np.float32)
    cool = np.array((178, 176, 170), np.float32)
    mix = hashed[:, :, None]
    surface = (warm * mix + cool * (1 - mix)) * tone[:, :, None]
    speckle = _tile(clouds(random, 512, 512, 3, 2), across, away, 40.0) * np.clip(
        0.03 / foot_z, 0, 1
    )
    asphalt = (1 + 0.05 * blotch + 0.06 * speckle)[:, :, None] * np.array((96, 97, 100), np.float32)
    road = _band(away, *ROAD_M, foot_z)
    surface += road[:, :, None] * (asphalt - surface)
    middle = sum(ROAD_M) / 2
    dash = np.clip((0.5 - np.abs(np.mod(across / 4.0, 1.0) - 0.5) - 0.22) * 4 / foot_x + 0.5, 0, 1)
    white = _band(away, middle - 0.09, middle + 0.09, foot_z) * dash
    for edge in (ROAD_M[0] + 0.35, ROAD_M[1] - 0.35):
        white = np.maximum(white, 0.7 * _band(away, edge - 0.06, edge + 0.06, foot_z))
    surface += (0.85 * white)[:, :, None] * (np.float32(226) - surface)
    for edge in ROAD_M:
        kerb = _band(away, edge - 0.16, edge + 0.16, foot_z)
        surface += (0.8 * kerb)[:, :, None] * (np.array((204, 200, 192), np.float32) - surface)
        gutter = _band(away, edge + 0.16, edge + 0.30, foot_z)
        surface *= (1 - 0.3 * gutter)[:, :, None]
    picture = to_picture(surface)
    return cv2.resize(picture, (camera.width, picture.shape[0] // 2), interpolation=cv2.INTER_AREA)


def _houses(picture: Picture, camera: Camera, random: np.random.Generator) -> list[House]:
    edge = camera.half_width(FRONT_M)
    signs = list(random.permutation(np.array(SIGNS)))
    x = -edge - float(random.uniform(0, 3))
    houses: list[House] = []
    while x < edge:
        wide = float(random.uniform(6.0, 10.5))
        if random.random() < 0.12 and houses:
            x += 2.6  # an alley
        left, base = camera.point(x, 0.0, FRONT_M)
        floors = int(random.choice([2, 3, 3, 3, 4]))
        one = house(
            random,
            left,
            base,
            camera.scale(FRONT_M),
            wide,
            floors,
            str(signs[len(houses) % len(signs)]),
        )
        place(picture, one.sprite)
        houses.append(one)
        x += wide
    # the foot of the fronts lies in its own shade
    _, base = camera.point(0, 0, FRONT_M)
    strip: Cover = np.zeros((max(int(0.05 * camera.height), 6), camera.width), np.uint8)
    strip[len(strip) // 3 : len(strip) // 2 + 1] = 255
    strip = cv2.GaussianBlur(strip, (0, 0), len(strip) / 7)
    darken(picture, strip, 0, int(base) - len(strip) // 3, 0.35)
    return houses


def _props(
    camera: Camera, random: np.random.Generator
) -> tuple[list[Prop], list[tuple[float, float, float]]]:
    props: list[Prop] = []
    lamps: list[tuple[float, float, float]] = []
    for side in (-1.0, 1.0):
        depth = 13.2
        foot = camera.point(
            side * camera.half_width(depth) * float(random.uniform(0.58, 0.74)), 0, depth
        )
        props.append(
            Prop(depth, tree(random, foot, camera.scale(depth), float(random.uniform(5.4, 6.4))))
        )
    for share in (-0.86, -0.30, 0.30, 0.86):
        depth = 23.4
        foot = camera.point(share * camera.half_width(depth), 0, depth)
        props.append(
            Prop(depth, tree(random, foot, camera.scale(depth), float(random.uniform(4.4, 5.6))))
        )
    for share, depth in ((-0.42, 14.6), (0.42, 14.6), (-0.84, 7.6), (0.0, 22.4), (0.88, 7.6)):
        x = share * camera.half_width(depth)
        props.append(Prop(depth, _lamp(camera.point(x, 0, depth), camera.scale(depth))))
        lamps.append((x, 4.05, depth))
    for share, depth in ((-0.50, 12.2), (0.08, 13.6), (0.58, 12.0)):
        foot = camera.point(share * camera.half_width(depth), 0, depth)
        props.append(Prop(depth, _bench(foot, camera.scale(depth))))
    blossoms: tuple[Colour | None, ...] = ((214, 84, 96), (238, 206, 92), None, (196, 120, 196))
    for index, (share, depth) in enumerate(
        ((-0.72, 7.0), (-0.16, 14.6), (0.80, 7.2), (0.24, 14.6))
    ):
        foot = camera.point(share * camera.half_width(depth), 0, depth)
        props.append(
            Prop(depth, shrub(random, foot, camera.scale(depth), 1.15, 0.75, blossoms[index]))
        )
    return props, lamps


def _quad(
    x: float, y: float, scale: float, *corners: tuple[float, float]
) -> list[tuple[float, float]]:
    """Corners (metres to the right, metres up) around a foot point, as pixels."""
    return [(x + across * scale, y - up * scale) for across, up in corners]


def _lamp(foot: tuple[float, float], scale: float) -> Sprite:
    """A cast-iron street lamp, 4 m high."""
    reach, high = int(0.5 * scale) + 4, int(4.6 * scale) + 4
    canvas = Canvas(
        math.floor(foot[0]) - reach,
        math.floor(foot[1]) - high,
        2 * reach,
        high + int(0.2 * scale) + 3,
        3,
    )
    iron: Colour = (44, 50, 48)
    x, y = foot
    canvas.limb((x, y - 0.1 * scale), (x, y - 0.75 * scale), (0.10 * scale, 0.07 * scale), iron)
    canvas.limb((x, y - 0.7 * scale), (x, y - 3.75 * scale), (0.062 * scale, 0.042 * scale), iron)
    canvas.oval((x, y - 0.78 * scale), (0.10 * scale, 0.045 * scale), scaled(iron, 1.3))
    canvas.polygon(
        _quad(x, y, scale, (-0.13, 3.75), (0.13, 3.75), (0.23, 4.32), (-0.23, 4.32)),
        (222, 216, 190),
    )
    canvas.polygon(
        _quad(x, y, scale, (-0.28, 4.30), (0.28, 4.30), (0.0, 4.56)),
        iron,
    )
    canvas.line(
        ((x - 0.13 * scale, y - 3.75 * scale), (x - 0.23 * scale, y - 4.3 * scale)),
        iron,
        0.03 * scale,
    )
    canvas.line(
        ((x + 0.13 * scale, y - 3.75 * scale), (x + 0.23 * scale, y - 4.3 * scale)),
        iron,
        0.03 * scale,
    )
    return canvas.sprite()


def _bench(foot: tuple[float, float], scale: float) -> Sprite:
    reach, high = int(1.05 * scale) + 4, int(1.0 * scale) + 4
    canvas = Canvas(
        math.floor(foot[0]) - reach,
        math.floor(foot[1]) - high,
        2 * reach,
        high + int(0.1 * scale) + 3,
        3,
    )
    x, y = foot
    for side in (-0.78, 0.78):
        canvas.line(
            ((x + side * scale, y), (x + side * scale, y - 0.88 * scale)),
            (42, 44, 44),
            0.07 * scale,
        )
        canvas.line(
            ((x + side * scale, y - 0.44 * scale), (x + side * 1.0 * scale + 0.02 * scale, y)),
            (42, 44, 44),
            0.06 * scale,
        )
    for level, gain in ((0.84, 1.0), (0.70, 0.92), (0.56, 0.84), (0.44, 1.12), (0.38, 0.76)):
        low = level - 0.085
        canvas.polygon(
            _quad(x, y, scale, (-0.95, level), (0.95, level), (0.95, low), (-0.95, low)),
            scaled((136, 92, 58), gain),
        )
    return canvas.sprite()


def cast(
    picture: Picture, sprite: Sprite, camera: Camera, depth_m: float, strength: float = 0.42
) -> None:
    """The sun's shadow of a standing cut-out on the ground, in place."""
    columns = sprite.cover.shape[1]
    ground = (camera.horizon * camera.height) + camera.eye_m * camera.scale(depth_m)
    foot_row = ground - sprite.top
    rise = SUN[1] * camera.slope(depth_m)  # rows up the picture per row of height
    wide = columns + int(SUN[0] * foot_row) + 8
    high = int(rise * foot_row) + int(0.35 * camera.scale(depth_m)) + 10
    # picture row of a point h above the foot: foot - rise * h; column: + SUN * h
    matrix = np.array([
        [1.0, -SUN[0], SUN[0] * foot_row],
        [0.0, rise, high - 6 - rise * foot_row - int(0.3 * camera.scale(depth_m))],
    ])  # fmt: skip
    shadow = cv2.warpAffine(sprite.cover, matrix, (wide, high), flags=cv2.INTER_AREA)
    soft = max(0.035 * camera.scale(depth_m), 0.8)
    shadow = cv2.GaussianBlur(shadow, (0, 0), sigmaX=soft, sigmaY=max(soft * 0.4, 0.6))
    top = round(ground) - (high - 6 - int(0.3 * camera.scale(depth_m)))
    darken(picture, shadow, sprite.left, top, strength)
