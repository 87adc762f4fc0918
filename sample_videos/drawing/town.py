"""A small town from above: meadows, streets and gardens as a map, houses and trees as solids."""

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.sample_videos.drawing.buildings import ROOFS, WALLS
from stillframe.sample_videos.drawing.canvas import Sprite
from stillframe.sample_videos.drawing.mesh import Mesh, MeshBuilder
from stillframe.sample_videos.drawing.plants import GREENS, crown
from stillframe.sample_videos.drawing.texture import Colour, Cover, Field, Picture, clouds, scaled

EAST_M, NORTH_M = 240.0, 300.0
SOUTH_M = -100.0
BLOCK_M = (68.0, 54.0)
STREET_M = 9.0
SUN = (0.9, 0.55)
MOST_HOUSES = 200
HOUSES_PER_ROW = 3
ROOF_COURSES = 6
Box = tuple[float, float, float, float]
"""west, south, east, north, in metres"""


@dataclass(frozen=True, slots=True)
class TownHouse:
    """A gabled house; lengths in metres."""

    x: float
    """Centre of the ground plan, as is z."""
    z: float
    half: tuple[float, float]
    """Half its sides."""
    eaves: float
    """Height, as is ridge."""
    ridge: float
    along_x: bool
    """Whether the ridge runs along X."""
    wall: Colour
    roof: Colour


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree; lengths in metres."""

    x: float
    """Centre of the crown, as is z."""
    z: float
    radius: float
    """Of the crown."""
    kind: int
    """Index into Town.crowns."""


@dataclass(frozen=True, slots=True)
class Town:
    """The land under the drone."""

    ground: Picture
    """The map as an image, row 0 in the north."""
    scale: float
    """Pixels of the map per metre."""
    houses: tuple[TownHouse, ...]
    trees: tuple[Tree, ...]
    crowns: tuple[Sprite, ...]
    """Sprites of tree crowns."""
    streets_x: tuple[float, ...]
    streets_z: tuple[float, ...]

    def to_world(self) -> NDArray[np.float64]:
        """(3, 3): from pixels of the map to (X, Z, 1)."""
        return np.array([[1 / self.scale, 0, -EAST_M], [0, -1 / self.scale, NORTH_M], [0, 0, 1.0]])


class _Map:
    """The ground while it is painted; metres in, pixels inside."""

    def __init__(self, scale: float, random: np.random.Generator) -> None:
        self.scale = scale
        rows, columns = int((NORTH_M - SOUTH_M) * scale), int(2 * EAST_M * scale)
        self.grain = _mirrored(clouds(random, 640, 640, 5 * scale, 6), rows, columns, 32)
        broad = clouds(random, rows // 8, columns // 8, 60 * scale / 8, 4)
        broad = np.clip(128 + 11 * broad, 0, 255).astype(np.uint8)
        broad = cv2.resize(broad, (columns, rows), interpolation=cv2.INTER_LINEAR)
        self.picture = np.empty((rows, columns, 3), np.uint8)
        self.picture[:] = (104, 132, 70)
        self.tone((slice(0, rows), slice(0, columns)), broad)
        self.mottle((slice(0, rows), slice(0, columns)), 0.10)

    def tone(self, part: tuple[slice, slice], gain: Cover) -> None:
        """Multiply a part of the picture by gain / 128."""
        patch = self.picture[part]
        self.picture[part] = cv2.multiply(patch, cv2.merge([gain] * 3), scale=1 / 128)

    def mottle(self, part: tuple[slice, slice], depth: float) -> None:
        """Make a part lighter and darker; depth: one standard deviation, as a share."""
        grain = self.grain[part]
        if grain.size:
            strength = depth * 4
            self.tone(part, cv2.convertScaleAbs(grain, alpha=strength, beta=128 * (1 - strength)))

    def at(self, x: float, z: float) -> tuple[float, float]:
        return (x + EAST_M) * self.scale, (NORTH_M - z) * self.scale

    def box(self, box: Box, colour: Colour, grain: float = 0.0) -> None:
        """A rectangle, mottled by `grain`."""
        west, south, east, north = box
        (left, top), (right, low) = self.at(west, north), self.at(east, south)
        corners = np.array([(left, top), (right, top), (right, low), (left, low)])
        cv2.fillPoly(
            self.picture, [np.round(corners * 16).astype(np.int32)], colour, cv2.LINE_AA, 4
        )
        if grain:
            rows = slice(max(int(top), 0), max(int(low), 0))
            self.mottle((rows, slice(max(int(left), 0), max(int(right), 0))), grain)


def _mirrored(field: Field, rows: int, columns: int, spread: float) -> Cover:
    """A field as bytes around 128, repeated by mirroring."""
    tile = np.clip(128 + spread * field, 0, 255).astype(np.uint8)
    both = np.block([[tile, tile[:, ::-1]], [tile[::-1], tile[::-1, ::-1]]])
    times = (rows // both.shape[0] + 1, columns // both.shape[1] + 1)
    return np.ascontiguousarray(np.tile(both, times)[:rows, :columns])


def build(scale: float, random: np.random.Generator) -> Town:
    """Lay out and paint a town at `scale` pixels per metre."""
    streets_x = tuple(float(x) for x in np.arange(-EAST_M + 18, EAST_M, BLOCK_M[0]))
    streets_z = tuple(float(z) for z in np.arange(SOUTH_M + 14, NORTH_M, BLOCK_M[1]))
    land = _Map(scale, random)
    houses: list[TownHouse] = []
    trees: list[Tree] = []
    edge = STREET_M / 2 + 2.4
    for west, east in itertools.pairwise(streets_x):
        for south, north in itertools.pairwise(streets_z):
            lot = (west + edge, south + edge, east - edge, north - edge)
            kind = random.random()
            if kind < 0.14:
                _park(land, lot, trees, random)
            elif kind < 0.20:
                _field(land, lot, random)
            else:
                _homes(land, lot, houses, trees, random)
    _streets(land, streets_x, streets_z)
    keep = sorted(houses, key=lambda house: abs(house.x) + abs(house.z - 70))[:MOST_HOUSES]
    _shadows(land, keep, trees)
    side = max(int(9 * scale), 12)
    crowns = tuple(crown(random, side, green) for green in GREENS)
    return Town(land.picture, scale, tuple(keep), tuple(trees), crowns, streets_x, streets_z)


def _streets(land: _Map, streets_x: tuple[float, ...], streets_z: tuple[float, ...]) -> None:
    half = STREET_M / 2
    for pave, colour in ((half + 2.2, (176, 172, 162)), (half, (98, 99, 103))):
        for x in streets_x:
            land.box((x - pave, SOUTH_M, x + pave, NORTH_M), colour, 0.03)
        for z in streets_z:
            land.box((-EAST_M, z - pave, EAST_M, z + pave), colour, 0.03)
    white: Colour = (220, 220, 214)
    for x in streets_x:
        for z in np.arange(SOUTH_M, NORTH_M, 6.0):
            if min(abs(z + 1.5 - other) for other in streets_z) > half + 3:
                land.box((x - 0.12, z, x + 0.12, z + 3.0), white)
    for z in streets_z:
        for x in np.arange(-EAST_M, EAST_M, 6.0):
            if min(abs(x + 1.5 - other) for other in streets_x) > half + 3:
                land.box((x, z - 0.12, x + 3.0, z + 0.12), white)
    for x, z in itertools.product(streets_x, streets_z):
        for bar, side in itertools.product(np.arange(-3.6, 3.7, 1.2), (-1, 1)):
            near, far = sorted((side * (half + 0.4), side * (half + 2.8)))
            land.box((x + bar - 0.3, z + near, x + bar + 0.3, z + far), white)
            land.box((x + near, z + bar - 0.3, x + far, z + bar + 0.3), white)


def _park(land: _Map, lot: Box, trees: list[Tree], random: np.random.Generator) -> None:
    """Grass, crossing paths, a pond and trees."""
    west, south, east, north = lot
    land.box(lot, (92, 140, 66), 0.07)
    middle = ((west + east) / 2, (south + north) / 2)
    sand: Colour = (206, 190, 156)
    for end in ((west, south), (east, south), (west, north), (east, north)):
        points = np.round(np.array([land.at(*end), land.at(*middle)]) * 16).astype(np.int32)
        thick = max(int(2.0 * land.scale), 1)
        cv2.polylines(land.picture, [points], False, sand, thick, cv2.LINE_AA, 4)
    x, y = land.at(*middle)
    for grow, colour in ((1.14, sand), (1.0, (84, 132, 156)), (0.78, (70, 116, 146))):
        axes = (round(9.5 * land.scale * grow), round(7.0 * land.scale * grow))
        cv2.ellipse(land.picture, (round(x), round(y)), axes, 12, 0, 360, colour, -1, cv2.LINE_AA)
    for _ in range(16):
        at = (
            float(random.uniform(west + 3, east - 3)),
            float(random.uniform(south + 3, north - 3)),
        )
        if math.hypot(at[0] - middle[0], at[1] - middle[1]) > 13:
            trees.append(Tree(*at, float(random.uniform(2.4, 4.2)), _kind(random)))


def _kind(random: np.random.Generator) -> int:
    return int(random.integers(len(GREENS)))


def _field(land: _Map, lot: Box, random: np.random.Generator) -> None:
    """A ploughed or ripening field in furrows."""
    colour: Colour = ((196, 172, 96), (142, 112, 80), (150, 160, 78))[random.integers(3)]
    land.box(lot, colour, 0.06)
    west, south, east, north = lot
    for x in np.arange(west + 0.6, east, 1.5):
        tone = 0.86 + 0.10 * float(random.random())
        land.box((x, south + 0.5, x + 0.5, north - 0.5), scaled(colour, tone))


def _homes(
    land: _Map, lot: Box, houses: list[TownHouse], trees: list[Tree], random: np.random.Generator
) -> None:
    """Two rows of houses, each with a garden, a drive, perhaps a pool or beds."""
    west, south, east, north = lot
    middle = (south + north) / 2
    plot = (east - west) / HOUSES_PER_ROW
    hedge: Colour = (54, 86, 44)
    for south_row, index in itertools.product((True, False), range(HOUSES_PER_ROW)):
        low, high = (south, middle) if south_row else (middle, north)
        x0, x1 = west + index * plot, west + (index + 1) * plot
        lawn = (float(random.uniform(88, 116)), float(random.uniform(132, 152)), 68.0)
        land.box((x0 + 0.3, low + 0.3, x1 - 0.3, high - 0.3), lawn, 0.06)
        land.box((x1 - 0.6, low, x1 + 0.2, high), hedge, 0.12)
        land.box((x0, middle - 0.4, x1, middle + 0.4), hedge, 0.12)
        half = (float(random.uniform(4.2, 5.6)), float(random.uniform(3.6, 4.8)))
        x = (x0 + x1) / 2 + float(random.uniform(-2.2, 2.2))
        z = low + half[1] + 4.4 if south_row else high - half[1] - 4.4
        street = low if south_row else high
        drive = x + half[0] + 1.5
        near, far = min(street, z), max(street, z)
        land.box((drive - 1.4, near, drive + 1.4, far), (188, 180, 166), 0.04)
        land.box((x - 0.7, near, x + 0.7, far), (200, 190, 174))
        back = middle - 5.2 if south_row else middle + 5.2
        extra = random.random()
        if extra < 0.28:
            land.box((x - 4.2, back - 2.4, x + 4.2, back + 2.4), (206, 200, 188))
            land.box((x - 3.5, back - 1.7, x + 3.5, back + 1.7), (96, 178, 204), 0.05)
        elif extra < 0.6:
            for left in (x - 4.0, x - 1.2, x + 1.6):
                land.box((left, back - 1.6, left + 1.8, back + 1.6), (112, 86, 62), 0.2)
        houses.append(
            TownHouse(
                x, z, half,
                eaves=float(random.uniform(4.4, 6.4)), ridge=float(random.uniform(2.4, 3.4)),
                along_x=bool(random.random() < 0.65),
                wall=WALLS[random.integers(len(WALLS))], roof=ROOFS[random.integers(len(ROOFS))],
            )
        )  # fmt: skip
        for _ in range(int(random.integers(1, 3))):
            tree_x = x0 + (0.12 if random.random() < 0.5 else 0.88) * (x1 - x0)
            tree_z = back + float(random.uniform(-2, 2))
            trees.append(Tree(tree_x, tree_z, float(random.uniform(1.6, 3.0)), _kind(random)))


def _shadows(land: _Map, houses: list[TownHouse], trees: list[Tree]) -> None:
    """The afternoon sun stands in the south-west."""
    dark = np.zeros(land.picture.shape[:2], np.uint8)
    for house in houses:
        (a, b), high = house.half, house.eaves + 0.45 * house.ridge
        corners = [(house.x + i * a, house.z + j * b) for i in (-1, 1) for j in (-1, 1)]
        corners += [(x + SUN[0] * high, z + SUN[1] * high) for x, z in corners]
        hull = cv2.convexHull(np.array([land.at(x, z) for x, z in corners], np.float32))
        cv2.fillConvexPoly(dark, np.round(hull * 16).astype(np.int32), 255, cv2.LINE_AA, 4)
    for tree in trees:
        x, y = land.at(tree.x + SUN[0] * 1.25 * tree.radius, tree.z + SUN[1] * 1.25 * tree.radius)
        radius = max(int(tree.radius * land.scale * 0.95), 1)
        cv2.circle(dark, (round(x), round(y)), radius, 255, -1, cv2.LINE_AA)
    soft = cv2.GaussianBlur(dark, (0, 0), max(0.16 * land.scale, 0.6))
    whole = (slice(0, dark.shape[0]), slice(0, dark.shape[1]))
    land.tone(whole, cv2.convertScaleAbs(soft, alpha=-0.46 * 128 / 255, beta=128))


def house_mesh(house: TownHouse) -> Mesh:
    """Walls with windows and a gabled roof that overhangs them."""
    (a, b), low, high = house.half, house.eaves, house.eaves + house.ridge
    if not house.along_x:
        a, b = b, a
    builder = MeshBuilder()
    # built with the ridge along x, and turned where it is not; tones: south, east, north, west
    tones = (1.04, 0.72, 0.62, 0.92) if house.along_x else (0.92, 1.04, 0.72, 0.62)
    base = np.array([(-a, 0, -b), (a, 0, -b), (a, 0, b), (-a, 0, b)], np.float64)
    for side, tone in enumerate(tones):
        start, end = base[side], base[(side + 1) % 4]
        up = np.array((0.0, low, 0.0))
        builder.face((start, start + up, end + up, end), scaled(house.wall, tone))
        if side % 2:
            top = (start + end) / 2 + (0, high, 0)
            builder.face((start + up, top, end + up), scaled(house.wall, tone))
        for across, floor in itertools.product((0.14, 0.42, 0.70), (0.16, 0.60)):
            left, right = start + (end - start) * across, start + (end - start) * (across + 0.15)
            lower, upper = up * floor, up * (floor + 0.25)
            pane = (left + lower, left + upper, right + upper, right + lower)
            builder.face(pane, scaled((92, 108, 124), tone), body=False)
    lip, drop = 0.5, low - 0.3
    ridge = np.array([(-a - lip, high, 0), (a + lip, high, 0)])
    lights = (1.16, 0.74) if house.along_x else (1.08, 0.80)
    for way, tone in zip((-1, 1), lights, strict=True):
        eaves = np.array([(-a - lip, drop, way * (b + lip)), (a + lip, drop, way * (b + lip))])
        for course in range(ROOF_COURSES):
            lower = eaves + (ridge - eaves) * (course / ROOF_COURSES)
            upper = eaves + (ridge - eaves) * ((course + 1) / ROOF_COURSES)
            corners = (lower[0], upper[0], upper[1], lower[1])
            colour = scaled(house.roof, tone * (1 + 0.05 * (course % 2)))
            builder.face(corners if way < 0 else corners[::-1], colour)
    turn = np.eye(3) if house.along_x else np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    return builder.mesh().moved(turn, (house.x, 0.0, house.z))


def car_mesh(paint: Colour) -> Mesh:
    """A car that drives towards +X, its middle at the origin, with its shade on the road."""
    builder = MeshBuilder()
    shade_under = [(-2.35, 0, -1.08), (-2.35, 0, 1.08), (2.35, 0, 1.08), (2.35, 0, -1.08)]
    builder.face(shade_under, (58, 58, 62), body=False)
    builder.box((-2.1, 0.3, -0.9), (2.1, 0.88, 0.9), scaled(paint, 0.62), paint)
    builder.box((-1.4, 0.88, -0.76), (0.9, 1.42, 0.76), (44, 54, 64), scaled(paint, 1.06), 0.84)
    return builder.mesh()
