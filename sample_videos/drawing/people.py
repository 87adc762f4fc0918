"""People who walk: a jointed figure, seen from the side it turns to the camera.

The body is worked out in metres (forward, to its left, up) and then projected. The gait follows
the distance walked, so feet do not slide, and the lower foot always touches the ground.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from stillframe.sample_videos.drawing.canvas import Canvas, Sprite, place
from stillframe.sample_videos.drawing.head import Appearance, Head
from stillframe.sample_videos.drawing.texture import Colour, clouds, scaled

STRIDE_M = 1.42
HEAD_M = 0.262
# the body's lit strips: where each begins and ends across, and how bright it is
_STRIP_EDGES = np.array((-1.0, -0.78, -0.35, 0.10, 0.50, 0.80, 1.0))
_STRIP_GAINS = (0.74, 1.02, 1.08, 0.94, 0.80, 0.66)
Point = tuple[float, float, float]
Projection = Callable[[Point], tuple[float, float]]

SKINS: tuple[Colour, ...] = (
    (232, 186, 156), (224, 172, 140), (198, 142, 108), (158, 108, 78), (112, 74, 54),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (34, 26, 24), (62, 42, 30), (98, 66, 40), (166, 122, 70), (128, 124, 122), (104, 54, 34),
)  # fmt: skip
TOPS: tuple[Colour, ...] = (
    (178, 52, 48), (44, 78, 128), (214, 206, 190), (56, 92, 74), (206, 150, 52), (88, 62, 104),
    (52, 54, 60), (122, 152, 176), (196, 118, 104), (230, 226, 220),
)  # fmt: skip
BOTTOMS: tuple[Colour, ...] = (
    (48, 62, 92), (58, 56, 58), (126, 108, 84), (72, 84, 104), (88, 76, 66), (38, 40, 46),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outfit:
    """Clothes and bag. Colours are RGB 0..255."""

    top: Colour
    bottom: Colour
    shoes: Colour
    pattern: str = "plain"
    """Of the top: plain, stripes or panel."""
    trim: Colour = (235, 230, 220)
    """Colour of the pattern."""
    coat: bool = False
    skirt: bool = False
    bag: Colour | None = None
    """Its colour; None without a bag."""


@dataclass(frozen=True, slots=True)
class Stance:
    """Position and motion of a person at one instant."""

    feet: tuple[float, float]
    """(x, y) in image pixels."""
    pixels_per_m: float
    """Scale at the person's depth."""
    heading: float
    """Radians: 0 walks towards the camera, +pi/2 to the right of the image."""
    distance_m: float
    """Walked so far; it drives the gait."""
    pace: float = 1.0
    """0 stands .. 1 walks."""
    slope: float = 0.2
    """Pixels that the ground rises in the image per pixel of depth."""


def some_appearance(random: np.random.Generator) -> tuple[Appearance, bool]:
    """A head for anyone, and whether it is a woman's."""
    tone = int(random.integers(len(SKINS)))
    hairs = HAIRS if tone < 2 else HAIRS[:2]  # dark skin goes with dark hair
    skin, hair = SKINS[tone], hairs[random.integers(len(hairs))]
    woman = bool(random.random() < 0.5)
    appearance = Appearance(
        skin=skin,
        hair=hair,
        iris=((86, 104, 90), (70, 96, 124), (84, 60, 42))[random.integers(3) if tone < 2 else 2],
        lips=(skin[0] * 0.84, skin[1] * 0.57, skin[2] * 0.61),
        long_hair=woman and bool(random.random() < 0.75),
        beard=0.0 if woman or random.random() < 0.6 else 0.75,
        glasses=bool(random.random() < 0.2),
    )
    return appearance, woman


class Person:
    """One walker: looks drawn from the generator, kept for life."""

    def __init__(self, random: np.random.Generator, pixels_per_m: float) -> None:
        """pixels_per_m: the largest scale at which the person will be seen."""
        pick = random.integers
        appearance, woman = some_appearance(random)
        self.appearance = appearance
        self.height_m = float(random.normal(1.66 if woman else 1.78, 0.06))
        self.girth = float(np.clip(random.normal(1.0, 0.09), 0.85, 1.2))
        self.phase = float(random.random())
        self.curious = float(random.uniform(0.5, 0.85))
        self.outfit = Outfit(
            top=TOPS[pick(len(TOPS))],
            bottom=BOTTOMS[pick(len(BOTTOMS))],
            shoes=((40, 36, 36), (110, 76, 52), (228, 226, 222))[pick(3)],
            pattern=("plain", "plain", "stripes", "panel")[pick(4)],
            trim=TOPS[pick(len(TOPS))],
            coat=bool(random.random() < 0.3),
            skirt=woman and bool(random.random() < 0.3),
            bag=TOPS[pick(len(TOPS))] if random.random() < 0.45 else None,
        )
        rows = int(np.clip(HEAD_M * pixels_per_m * 2, 64, 256))
        self._head = Head(appearance, rows, random)
        self._cloth = np.clip(1 + 0.045 * clouds(random, 256, 160, 4.0, 3), 0.7, 1.25)

    def _legs(self, phase: float, pace: float) -> tuple[dict[str, list[Point]], float]:
        """Hip, knee, ankle and toe of both legs, pelvis at the origin; and the pelvis height."""
        tall = self.height_m / 1.75
        legs: dict[str, list[Point]] = {}
        lowest = 0.0
        for name, side, shift in (("left", 1.0, 0.0), ("right", -1.0, math.pi)):
            angle = phase + shift
            thigh = pace * (0.39 * math.sin(angle) + 0.04)
            bend = 0.06 + pace * (0.10 + 0.78 * max(0.0, math.cos(angle + 0.55)) ** 2)
            shin = thigh - bend
            hip = (0.0, side * 0.095 * tall, 0.0)
            knee = (0.44 * tall * math.sin(thigh), hip[1], -0.44 * tall * math.cos(thigh))
            ankle = (
                knee[0] + 0.42 * tall * math.sin(shin),
                hip[1] * 0.9,
                knee[2] - 0.42 * tall * math.cos(shin),
            )
            tilt = 0.55 * min(shin, 0.0) + 0.25 * max(thigh, 0.0) * pace
            toe = (
                ankle[0] + 0.19 * tall * math.cos(tilt),
                hip[1] * 1.25,
                ankle[2] - 0.055 * tall + 0.19 * tall * math.sin(tilt),
            )
            legs[name] = [hip, knee, ankle, toe]
            lowest = min(lowest, ankle[2] - 0.075 * tall, toe[2] - 0.03 * tall)
        return legs, -lowest

    def draw(self, stance: Stance) -> tuple[Sprite, tuple[float, float, float, float] | None]:
        """The figure, and its face box (x0, y0, x1, y1) where a face is to be seen."""
        scale = stance.pixels_per_m
        tall = self.height_m / 1.75
        legs, pelvis = self._legs(
            (stance.distance_m / STRIDE_M + self.phase) * 2 * math.pi, stance.pace
        )
        ahead, aside = -math.cos(stance.heading), math.sin(stance.heading)

        def project(point: Point) -> tuple[float, float]:
            forward, left, up = point
            across = forward * aside - left * ahead
            away = forward * ahead + left * aside
            return (
                stance.feet[0] + across * scale,
                stance.feet[1] - (up + pelvis) * scale - away * scale * stance.slope,
            )

        def depth(point: Point) -> float:
            return point[0] * ahead + point[1] * aside

        reach = int(0.62 * scale * tall) + 4
        high = int((self.height_m + 0.22) * scale) + 6
        left = math.floor(stance.feet[0]) - reach
        top = math.floor(stance.feet[1]) - high
        supersample = 3 if scale < 90 else 2
        canvas = Canvas(left, top, 2 * reach, high + int(0.30 * scale) + 4, supersample)

        arms = self._arms(legs, stance.pace)
        far, near = sorted(("left", "right"), key=lambda name: -depth(legs[name][0]))
        for name in (far, near):
            self._draw_leg(canvas, legs[name], project, scale, dim=0.86 if name == far else 1.0)
        facing_away = ahead < 0.25
        bag_first = self.outfit.bag is not None and facing_away
        if bag_first:
            self._draw_bag(canvas, project, scale)
        self._draw_arm(canvas, arms[far], project, scale, dim=0.84)
        self._draw_torso(canvas, project, scale, stance.heading)
        if self.outfit.bag is not None and not bag_first:
            self._draw_bag(canvas, project, scale)
        self._draw_arm(canvas, arms[near], project, scale, dim=1.0)
        self._weave(canvas, stance, pelvis)
        # people look where they go, and a little at whoever films them
        notice = min(max((math.cos(stance.heading) + 0.35) / 0.7, 0.0), 1.0)
        gaze = stance.heading * (1 - self.curious * notice * notice * (3 - 2 * notice))
        face = self._draw_head(canvas, project, scale, gaze)
        return canvas.sprite(), face

    def _arms(self, legs: dict[str, list[Point]], pace: float) -> dict[str, list[Point]]:
        tall = self.height_m / 1.75
        arms = {}
        for name, side in (("left", 1.0), ("right", -1.0)):
            swing = -0.75 * math.atan2(legs[name][1][0], -legs[name][1][2]) * pace
            elbow_bend = 0.22 + 0.30 * max(swing, 0.0)
            shoulder = (0.0, side * 0.168 * tall * self.girth, 0.455 * tall)
            elbow = (
                0.29 * tall * math.sin(swing),
                shoulder[1] * 1.22,
                shoulder[2] - 0.29 * tall * math.cos(swing),
            )
            wrist = (
                elbow[0] + 0.27 * tall * math.sin(swing + elbow_bend),
                shoulder[1] * 1.26,
                elbow[2] - 0.27 * tall * math.cos(swing + elbow_bend),
            )
            arms[name] = [shoulder, elbow, wrist]
        return arms

    def _draw_leg(
        self, canvas: Canvas, leg: list[Point], project: Projection, scale: float, dim: float
    ) -> None:
        outfit = self.outfit
        hip, knee, ankle, toe = (project(point) for point in leg)
        cloth = self.appearance.skin if outfit.skirt else outfit.bottom
        thick = scale * self.girth
        slim = 0.72 if outfit.skirt else 1.0
        canvas.limb(ankle, toe, (0.045 * scale, 0.036 * scale), scaled(outfit.shoes, dim))
        canvas.limb(knee, ankle, (0.066 * thick * slim, 0.050 * thick * slim), scaled(cloth, dim))
        canvas.limb(hip, knee, (0.092 * thick, 0.068 * thick * slim), scaled(cloth, dim))

    def _draw_arm(
        self, canvas: Canvas, arm: list[Point], project: Projection, scale: float, dim: float
    ) -> None:
        shoulder, elbow, wrist = (project(point) for point in arm)
        cloth = scaled(self.outfit.top, dim)
        thick = scale * self.girth
        canvas.oval(wrist, (0.044 * scale, 0.056 * scale), scaled(self.appearance.skin, 0.9 * dim))
        canvas.limb(elbow, wrist, (0.050 * thick, 0.040 * thick), cloth)
        canvas.limb(shoulder, elbow, (0.062 * thick, 0.050 * thick), cloth)

    def _draw_bag(self, canvas: Canvas, project: Projection, scale: float) -> None:
        assert self.outfit.bag is not None
        tall = self.height_m / 1.75
        low, high = project((-0.17, 0.0, 0.10 * tall)), project((-0.16, 0.0, 0.42 * tall))
        canvas.limb(low, high, (0.135 * scale, 0.125 * scale), self.outfit.bag)
        canvas.limb(
            (low[0], low[1] - 0.02 * scale),
            (low[0], low[1] - 0.10 * scale),
            (0.08 * scale, 0.08 * scale),
            scaled(self.outfit.bag, 0.8),
        )

    def _draw_torso(
        self, canvas: Canvas, project: Projection, scale: float, heading: float
    ) -> None:
        """Slices of an elliptic cylinder from hem to neck, each in lit strips."""
        outfit, tall = self.outfit, self.height_m / 1.75
        hem = -0.34 if outfit.coat else (-0.40 if outfit.skirt else -0.07)
        heights = np.linspace(hem, 0.575, 15)
        broad = np.interp(
            heights,
            [-0.4, -0.05, 0.15, 0.44, 0.53, 0.575],
            [0.235 if outfit.skirt else 0.20, 0.172, 0.148, 0.196, 0.150, 0.055],
        )
        deep = np.interp(
            heights,
            [-0.4, -0.05, 0.15, 0.42, 0.53, 0.575],
            [0.20, 0.125, 0.105, 0.125, 0.085, 0.055],
        )
        half = np.hypot(broad * math.cos(heading), deep * math.sin(heading)) * self.girth * scale
        middle = np.array([project((0.012 * math.sin(4 * h), 0.0, h * tall)) for h in heights])
        neck = project((0.0, 0.0, 0.55 * tall))
        chin = project((0.035, 0.0, 0.66 * tall))
        canvas.limb(neck, chin, (0.062 * scale, 0.056 * scale), scaled(self.appearance.skin, 0.86))
        edges = (
            middle[:, None, :]
            + _STRIP_EDGES[None, :, None] * np.stack([half, 0 * half], 1)[:, None]
        )
        lower = edges[:-1] + np.array((0.0, 0.5))  # overlap by half a pixel, so that no seam shows
        upper = edges[1:]
        outlines = np.stack([lower[:, :-1], lower[:, 1:], upper[:, 1:], upper[:, :-1]], axis=2)
        colours = [
            scaled(self._cloth_at(height, index), gain)
            for index, height in enumerate(heights[:-1])
            for gain in _STRIP_GAINS
        ]
        canvas.facets(outlines.reshape(-1, 4, 2), colours)

    def _cloth_at(self, height: float, index: int) -> Colour:
        outfit = self.outfit
        if outfit.skirt and height < 0.06:
            return outfit.bottom
        if outfit.pattern == "stripes" and index % 3 == 0:
            return outfit.trim
        if outfit.pattern == "panel" and 0.22 < height < 0.40:
            return outfit.trim
        return outfit.top

    def _weave(self, canvas: Canvas, stance: Stance, pelvis: float) -> None:
        """Give the clothes so far a grain that moves along with the body."""
        at_x = round((stance.feet[0] - canvas.left) * canvas.scale)
        at_y = round((stance.feet[1] - pelvis * stance.pixels_per_m - canvas.top) * canvas.scale)
        rows, columns = canvas.cover.shape
        unit = 110.0 / (stance.pixels_per_m * canvas.scale)
        matrix = np.array([[unit, 0, 80 - unit * at_x], [0, unit, 128 - unit * at_y]])
        grain = cv2.warpAffine(
            self._cloth, matrix, (columns, rows),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip
        cv2.multiply(canvas.colour, cv2.merge([grain] * 3), dst=canvas.colour, dtype=cv2.CV_8U)

    def _draw_head(
        self, canvas: Canvas, project: Projection, scale: float, heading: float
    ) -> tuple[float, float, float, float] | None:
        tall = self.height_m / 1.75
        height = HEAD_M * scale * tall
        middle_x, middle_y = project((0.03, 0.0, 0.735 * tall))
        colour, cover = self._head.view(height * canvas.scale, yaw=heading, pitch=0.04)
        side = cover.shape[0]
        corner_x = (middle_x - canvas.left) * canvas.scale - side / 2
        corner_y = (middle_y - canvas.top) * canvas.scale - side / 2
        whole_x, whole_y = math.floor(corner_x), math.floor(corner_y)
        shift = np.array([[1, 0, corner_x - whole_x], [0, 1, corner_y - whole_y]])
        colour = cv2.warpAffine(colour, shift, (side + 1, side + 1))
        cover = cv2.warpAffine(cover, shift, (side + 1, side + 1))
        place(canvas.colour, Sprite(colour, cover, whole_x, whole_y), cover=canvas.cover)
        if math.cos(heading) < 0.42:  # seen from the side, it has no face to be found
            return None
        half = height * 0.37
        shift_x = 0.30 * half * math.sin(heading)
        return (
            middle_x - half + shift_x, middle_y - height * 0.33,
            middle_x + half + shift_x, middle_y + height * 0.51,
        )  # fmt: skip
