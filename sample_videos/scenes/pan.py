"""pan: a drone glides over a small town; every pixel moves, houses and trees with parallax."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.sample_videos.drawing.canvas import Sprite, overlap, place
from stillframe.sample_videos.drawing.drone import Drone
from stillframe.sample_videos.drawing.mesh import Mesh, paint
from stillframe.sample_videos.drawing.texture import Cover, Picture
from stillframe.sample_videos.drawing.town import EAST_M, Tree, build, car_mesh, house_mesh
from stillframe.sample_videos.drawing.vehicles import PAINTS
from stillframe.sample_videos.truth import Drawn, Thing

CARS = 44
LANE_M = 2.2
NEAR_M = 5.0


@dataclass(frozen=True, slots=True)
class Car:
    """A car on a street, on its right, round and round the map."""

    mesh: Mesh
    street: float
    north: bool
    way: float
    speed: float
    start: float

    def where(self, time_s: float) -> tuple[float, float]:
        """(X, Z) of its middle."""
        along = self.way * ((self.start + self.speed * time_s) % (2 * EAST_M) - EAST_M)
        if self.north:
            return self.street + self.way * LANE_M, along + 100
        return along, self.street - self.way * LANE_M

    def placed(self, time_s: float) -> Mesh:
        x, z = self.where(time_s)
        cosine, sine = (0.0, self.way) if self.north else (self.way, 0.0)
        turn = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
        return self.mesh.moved(turn, (x, 0.0, z))


class Pan:
    """The scene; every instant is a pure function of time."""

    def __init__(self, width: int, height: int, random: np.random.Generator) -> None:
        self._width, self._height = width, height
        self._town = build(min(10.0 * height / 720, 14.0), random)
        self._houses = tuple(house_mesh(house) for house in self._town.houses)
        self._cars = tuple(self._some_car(random) for _ in range(CARS))
        still = [(house.x, 2.0, house.z) for house in self._town.houses]
        self._house_places = np.array(still)
        self._tree_places = np.array([(t.x, t.radius * 1.25, t.z) for t in self._town.trees])
        self._start = random.uniform(0, 2 * math.pi, 5)

    def _some_car(self, random: np.random.Generator) -> Car:
        north = bool(random.random() < 0.5)
        streets = self._town.streets_x if north else self._town.streets_z
        return Car(
            car_mesh(PAINTS[random.integers(len(PAINTS))]),
            street=streets[random.integers(len(streets))],
            north=north,
            way=1.0 if random.random() < 0.5 else -1.0,
            speed=float(random.uniform(6, 11)),
            start=float(random.uniform(0, 2 * EAST_M)),
        )

    def _drone(self, time_s: float) -> Drone:
        a, b, c, d, e = self._start
        return Drone(
            self._width,
            self._height,
            x=62 * math.sin(0.115 * time_s + a),
            z=34 * math.sin(0.173 * time_s + b) - 20,
            altitude=52 + 7 * math.sin(0.21 * time_s + c),
            yaw=0.30 * math.sin(0.13 * time_s + d),
            pitch=0.86 + 0.06 * math.sin(0.19 * time_s + e),
        )

    def at(self, time_s: float) -> Drawn:
        """The image at a time, with the houses and cars in it."""
        drone, town = self._drone(time_s), self._town
        picture = cv2.warpPerspective(
            town.ground, drone.ground() @ town.to_world(), (self._width, self._height),
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip
        instances = np.zeros((self._height, self._width), np.uint8)
        cars = np.array([(x, 0.7, z) for x, z in (car.where(time_s) for car in self._cars)])
        pieces: list[tuple[float, int, str, Mesh | Tree]] = []
        for index, depth in self._in_view(drone, self._house_places, 13.0):
            pieces.append((depth, index + 1, "house", self._houses[index]))
        for index, depth in self._in_view(drone, cars, 4.0):
            identity = len(self._houses) + 1 + index
            pieces.append((depth, identity, "car", self._cars[index].placed(time_s)))
        for index, depth in self._in_view(drone, self._tree_places, 6.0):
            pieces.append((depth, 0, "", town.trees[index]))
        pieces.sort(key=lambda piece: -piece[0])
        outlines = []
        for depth, identity, label, piece in pieces:
            if isinstance(piece, Tree):
                self._tree(picture, instances, drone, piece, depth)
            else:
                outline = paint(piece, drone, picture, instances, identity)
                outlines.append((identity, label, outline))
        return Drawn(picture, instances, _things(instances, outlines))

    def _in_view(
        self, drone: Drone, places: NDArray[np.float64], reach_m: float
    ) -> list[tuple[int, float]]:
        """Which of the places may be seen, things of that size standing there; and how far."""
        pixels, depth = drone.project(places)
        margin = reach_m * drone.focal * drone.height / np.maximum(depth, 1.0)
        inside = (pixels[:, 0] > -margin) & (pixels[:, 0] < self._width + margin)
        inside &= (pixels[:, 1] > -margin) & (pixels[:, 1] < self._height + margin)
        inside &= depth > NEAR_M
        return [(int(index), float(depth[index])) for index in np.flatnonzero(inside)]

    def _tree(
        self, picture: Picture, instances: Cover, drone: Drone, tree: Tree, depth: float
    ) -> None:
        pixel, _ = drone.project((tree.x, tree.radius * 1.25, tree.z))
        sprite = self._town.crowns[tree.kind]
        half = tree.radius * 1.25 * drone.focal * drone.height / depth
        left, top = math.floor(pixel[0] - half), math.floor(pixel[1] - half)
        side = max(math.ceil(2 * half) + 1, 3)
        factor = 2 * half / sprite.cover.shape[0]
        matrix = np.array([
            [factor, 0, pixel[0] - half - left], [0, factor, pixel[1] - half - top],
        ])  # fmt: skip
        colour = cv2.warpAffine(sprite.colour, matrix, (side, side))
        cover = cv2.warpAffine(sprite.cover, matrix, (side, side))
        place(picture, Sprite(colour, cover, left, top), instances=instances)


def _things(
    instances: Cover, outlines: list[tuple[int, str, NDArray[np.int32]]]
) -> tuple[Thing, ...]:
    """What can be seen of each solid. outlines: identity, label, faces in sixteenths of pixels."""
    things = []
    for identity, label, faces in outlines:
        if not len(faces):
            continue
        x, y, wide, high = cv2.boundingRect(faces.reshape(-1, 2))
        parts = overlap(instances.shape, x // 16, y // 16, wide // 16 + 3, high // 16 + 3)
        if parts is None:
            continue
        there = parts[0]
        left, top = there[1].start, there[0].start
        own = np.zeros(instances[there].shape, np.uint8)
        for face in faces:
            cv2.fillConvexPoly(own, face - (left * 16, top * 16), 1, cv2.LINE_8, 4)
        seen = (instances[there] == identity).astype(np.uint8)
        x, y, wide, high = cv2.boundingRect(seen)
        if wide:
            whole = max(int(np.count_nonzero(own)), 1)
            share = min(int(np.count_nonzero(seen)) / whole, 1.0)
            box = (float(left + x), float(top + y), float(left + x + wide), float(top + y + high))
            things.append(Thing(identity, label, box, share))
    return tuple(things)
