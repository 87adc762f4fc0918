"""Who and what moves over the square: paths with stops for walkers, lanes for vehicles.

Everything is a pure function of time, so any frame can be drawn without those before it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillframe.sample_videos.drawing.camera import Camera
from stillframe.sample_videos.drawing.people import Person, Stance
from stillframe.sample_videos.drawing.street import LANES_M
from stillframe.sample_videos.drawing.vehicles import PAINTS, Vehicle
from stillframe.sample_videos.scenes.cut_outs import CutOut

# Ways over the square: points (share of the half width at that depth, depth in metres), and where
# along the way the walker stops for a while (share of the way, seconds).
Way = tuple[tuple[tuple[float, float], ...], tuple[float, float] | None]
WAYS: tuple[Way, ...] = (
    (((-1.35, 9.5), (-0.5, 9.4), (-0.20, 8.4), (-0.22, 6.0), (0.15, 5.0), (1.8, 4.5)), (0.45, 3.0)),
    (((1.35, 10.4), (0.7, 10.0), (0.34, 8.8), (0.30, 6.6), (-0.1, 5.3), (-1.8, 4.8)), (0.42, 2.2)),
    (((-1.3, 13.9), (1.3, 14.3)), None),
    (((1.45, 8.0), (0.4, 7.6), (-1.45, 8.2)), None),
    (((-1.6, 5.7), (0.2, 6.1), (1.6, 5.6)), None),
    (((1.3, 24.9), (-1.3, 24.9)), None),
    (((-1.3, 25.2), (1.3, 25.2)), None),
    (((1.7, 4.8), (0.72, 6.0), (0.52, 8.8), (0.1, 11.4), (-1.35, 12.6)), None),
    (((-1.5, 9.0), (-0.80, 8.4), (-0.56, 6.8), (-0.62, 5.2), (-1.9, 4.2)), (0.55, 4.0)),
    (((1.5, 11.8), (0.86, 11.0), (0.62, 8.6), (0.66, 6.0), (1.9, 4.6)), None),
)  # fmt: skip
RAMP_S = 0.6
KINDS = {"van": "van", "bus": "bus"}
CARS = (("saloon", "hatch", "van", "hatch"), ("hatch", "bus", "saloon", "saloon"))


@dataclass(frozen=True, slots=True)
class Walk:
    """A path in metres, walked once per period."""

    points: NDArray[np.float64]
    """(n, 2): (X, Z) of the path."""
    reach: NDArray[np.float64]
    """(n,): length of the path up to each point, metres."""
    speed: float
    """Metres per second."""
    stop_m: float
    """Where on the path the walker stops, for stop_s."""
    stop_s: float
    period_s: float
    offset_s: float
    """Added to the time: where in its period the walk begins."""

    def at(self, time_s: float) -> tuple[float, float, float, float, float] | None:
        """(X, Z, heading, metres walked, pace) at a time; None while out of the way."""
        local = (time_s + self.offset_s) % self.period_s
        distance, pace = self._walked(local)
        if distance >= self.reach[-1]:
            return None
        x = float(np.interp(distance, self.reach, self.points[:, 0]))
        z = float(np.interp(distance, self.reach, self.points[:, 1]))
        ahead = min(distance + 0.35, float(self.reach[-1]))
        back = max(distance - 0.35, 0.0)
        step_x = float(np.diff(np.interp((back, ahead), self.reach, self.points[:, 0]))[0])
        step_z = float(np.diff(np.interp((back, ahead), self.reach, self.points[:, 1]))[0])
        return x, z, math.atan2(step_x, -step_z), distance, pace

    def _walked(self, local_s: float) -> tuple[float, float]:
        """Metres walked and pace: full speed, an even slowing, a stop, an even start."""
        if not self.stop_s:
            return local_s * self.speed, 1.0
        halt = self.stop_m / self.speed  # moment at which the slowing begins
        if local_s <= halt:
            return local_s * self.speed, 1.0
        since = local_s - halt
        slowed = self.stop_m + self.speed * RAMP_S / 2
        if since <= RAMP_S:
            pace = 1 - since / RAMP_S
            return self.stop_m + self.speed * (since - since**2 / (2 * RAMP_S)), pace
        since -= RAMP_S + self.stop_s
        if since <= 0:
            return slowed, 0.0
        if since <= RAMP_S:
            return slowed + self.speed * since**2 / (2 * RAMP_S), since / RAMP_S
        return slowed + self.speed * (since - RAMP_S / 2), 1.0


def walk(way: Way, camera: Camera, random: np.random.Generator, start: float) -> Walk:
    """Round the corners of a way. start: where the walker is at time 0, as share of the way."""
    corners = np.array([(share * camera.half_width(z), z) for share, z in way[0]])
    points = _rounded(corners)
    reach = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    speed = float(np.clip(random.normal(1.35, 0.12), 1.05, 1.65))
    stop_m, stop_s = (way[1][0] * reach[-1], way[1][1]) if way[1] else (0.0, 0.0)
    whole = float(reach[-1]) / speed + (stop_s + RAMP_S if stop_s else 0.0)
    return Walk(
        points, reach, speed, float(stop_m), stop_s,
        period_s=whole + float(random.uniform(0.5, 4.0)), offset_s=start * whole,
    )  # fmt: skip


def _rounded(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut the corners three times (Chaikin): a smooth curve that keeps both ends."""
    points = corners
    for _ in range(4):
        first, second = points[:-1], points[1:]
        cut = np.stack([0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second], axis=1)
        points = np.concatenate([points[:1], cut.reshape(-1, 2), points[-1:]])
    return points


@dataclass(frozen=True, slots=True)
class Drive:
    """A vehicle on its lane, driving a loop longer than the view."""

    vehicle: Vehicle
    depth_m: float
    speed: float
    """Metres per second."""
    start_m: float
    """Position on the loop at time 0."""
    loop_m: float

    def tail(self, time_s: float, camera: Camera) -> tuple[float, float]:
        """Pixel x of the vehicle's left end, and the metres it has driven."""
        driven = self.start_m + self.speed * time_s
        along = driven % self.loop_m - camera.half_width(self.depth_m) - 12.0
        if not self.vehicle.rightward:
            along = -along - self.vehicle.model.length
        return camera.point(along, 0.0, self.depth_m)[0], driven

    def layer(self, time_s: float, camera: Camera, identity: int) -> CutOut | None:
        """The vehicle in the picture, None while it is out of view."""
        tail, driven = self.tail(time_s, camera)
        if tail > camera.width or tail + self.vehicle.length_px < 0:
            return None
        sprite = self.vehicle.draw(tail, camera.point(0, 0, self.depth_m)[1], driven)
        return CutOut(self.depth_m, sprite, identity, KINDS.get(self.vehicle.kind, "car"))


def traffic(camera: Camera, random: np.random.Generator) -> list[Drive]:
    """Cars on both lanes; those of a lane keep their distance."""
    drives = []
    for lane, kinds in enumerate(CARS):
        depth = LANES_M[lane]
        loop = 2 * camera.half_width(depth) + 26.0 + 22.0 * len(kinds)
        speed = float(random.uniform(6.5, 9.0))
        paints = random.permutation(len(PAINTS))
        for index, kind in enumerate(kinds):
            start = (index + float(random.uniform(0.0, 0.45))) * loop / len(kinds)
            vehicle = Vehicle(
                kind, PAINTS[paints[index]], camera.scale(depth), rightward=lane == 0, random=random
            )
            drives.append(Drive(vehicle, depth, speed, start, loop))
    return drives


@dataclass(frozen=True, slots=True)
class Walker:
    """A person with a path."""

    person: Person
    way: Walk

    def layer(self, time_s: float, camera: Camera, identity: int) -> CutOut | None:
        """The person in the picture, None while out of view."""
        where = self.way.at(time_s)
        if where is None:
            return None
        x, z, heading, distance, pace = where
        feet = camera.point(x, 0, z)
        scale = camera.scale(z)
        if not -scale < feet[0] < camera.width + scale:
            return None
        stance = Stance(feet, scale, heading, distance, pace, camera.slope(z))
        sprite, face = self.person.draw(stance)
        return CutOut(z, sprite, identity, "person", face)


def walkers(camera: Camera, random: np.random.Generator, ways: tuple[Way, ...]) -> list[Walker]:
    """One person for each way, spread along them at time 0."""
    starts = (np.arange(len(ways)) * 0.381 + float(random.random())) % 1.0
    people = []
    for way, start in zip(ways, starts, strict=True):
        nearest = min(depth for _, depth in way[0])
        person = Person(random, camera.scale(nearest))
        people.append(Walker(person, walk(way, camera, random, float(start))))
    return people
