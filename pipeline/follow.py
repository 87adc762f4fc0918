"""Boxes that go along with the picture beneath them, in frames that no network looks at.

The median of the displacements of points in a box, found by sparse optical flow there and back
(Kalal, Mikolajczyk, Matas: Forward-Backward Error, ICPR 2010; the flow is pyramidal Lucas-Kanade).
A box in which nothing moves is not followed: it stays where it is.
"""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.results import Detections, Result
from stillframe.pipeline.pool import Pool

Grey = NDArray[np.uint8]
Numbers = NDArray[np.floating[Any]]

WIDEST = 640  # pixels; larger pictures are followed at a smaller size
GRID = 3  # points a side in each box
WINDOW, LEVELS = (15, 15), 3
REACH = 64  # pixels around the boxes in which they are looked for
MOST_APART = 1.0  # pixels, there and back again
LEAST_POINTS = 3
MOST_ZOOM = 1.1  # from frame to frame
NOISE = 12  # grey levels: what differs by less stands still
STILL = 0.01  # of a box's pixels may differ by more
LEAST_SIDE = 1.0  # pixels; a box that has left the picture is no more


class Lens:
    """Makes the small grey pictures of one stream, in memory that comes back when they are let go.
    Not safe to use from two threads."""

    def __init__(self) -> None:
        self._pool = Pool()
        self._whole: Grey = np.empty((0, 0), np.uint8)

    @property
    def held_bytes(self) -> int:
        return self._pool.held_bytes

    def grey(self, image: NDArray[np.uint8]) -> Grey:
        """(H, W, 3) RGB -> (h, w), at most WIDEST wide."""
        height, width = image.shape[:2]
        shrink = min(1.0, WIDEST / width)
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        taken = self._pool.take(size[::-1], np.uint8)
        if self._whole.shape != (height, width):
            self._whole = np.empty((height, width), np.uint8)
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY, dst=self._whole)
        # of 2x2 pixels by steps of up to 3: a mean over all of them takes four times as long
        cv2.resize(self._whole, size, dst=taken, interpolation=cv2.INTER_LINEAR)
        return taken


class Follower:
    """Carries the boxes of one stream from frame to frame. Not safe to use from two threads."""

    def __init__(self) -> None:
        self._before: Grey | None = None
        self._result: Result | None = None

    def begin(self, result: Result, grey: Grey) -> None:
        """What the network says about the picture."""
        self._before, self._result = grey, result

    def carry(self, grey: Grey, shape: tuple[int, ...]) -> Result:
        """The result for the next picture of the stream; shape: of the frame, (H, W, …).

        Only detections move, with their landmarks and masks; all else stays.
        """
        assert self._before is not None
        assert self._result is not None
        if isinstance(self._result, Detections) and len(self._result):
            self._result = moved(self._result, self._before, grey, shape)
        self._before = grey
        return self._result

    def forget(self) -> None:
        self._before = self._result = None


def moved(found: Detections, before: Grey, now: Grey, shape: tuple[int, ...]) -> Detections:
    """Where the boxes of one picture are in the next one; those that have left it are gone."""
    height, width = shape[:2]
    scale = np.array((width / now.shape[1], height / now.shape[0]), np.float32)
    sides = (found.xyxy[:, 2:] - found.xyxy[:, :2]) / scale
    centres = (found.xyxy[:, 2:] + found.xyxy[:, :2]) / scale / 2
    shifts, zooms = follow(centres, sides, before, now)
    if not shifts.any() and (zooms == 1).all():
        return found
    half = sides * zooms[:, None] / 2
    there = centres + shifts
    limits = np.array((width, height, width, height), np.float32)
    boxes = np.hstack([there - half, there + half]) * np.tile(scale, 2)
    boxes = np.clip(boxes, 0, limits).astype(np.float32)
    stay = ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(1)
    points, masks = found.landmarks, found.masks
    if points is not None:
        about = (centres * scale)[:, None]
        points = (points - about) * zooms[:, None, None] + about + (shifts * scale)[:, None]
        points = points[stay].astype(np.float32)
    if masks is not None:
        rows = np.flatnonzero(stay)
        about = centres * scale
        masks = np.array(
            [_moved_mask(masks[k], about[k], shifts[k] * scale, zooms[k]) for k in rows], bool
        ).reshape(len(rows), height, width)
    return replace(
        found,
        xyxy=boxes[stay].astype(np.float32),
        confidence=found.confidence[stay],
        class_id=found.class_id[stay],
        landmarks=points,
        masks=masks,
    )


def follow(
    centres: Numbers, sides: Numbers, before: Grey, now: Grey
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (n, 2) in one grey picture -> how far each has moved in the next one (n, 2), and by how
    much it has grown (n,). What cannot be followed stays."""
    shifts = np.zeros(centres.shape, np.float32)
    zooms = np.ones(len(centres), np.float32)
    lively = np.flatnonzero(_lively(centres, sides, before, now))
    if not len(lively):
        return shifts, zooms
    low, high = _around(centres[lively], sides[lively], now)
    before, now = (each[low[1] : high[1], low[0] : high[0]] for each in (before, now))
    steps = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID - 0.5
    offsets = np.stack(np.meshgrid(steps, steps), -1).reshape(1, -1, 2)
    start = centres[lively, None] - low + offsets * sides[lively, None]
    flat = np.ascontiguousarray(start, np.float32).reshape(-1, 1, 2)
    flow: Any = cv2.calcOpticalFlowPyrLK  # its types do not know that it may make the points
    there, seen, _ = flow(before, now, flat, None, winSize=WINDOW, maxLevel=LEVELS)
    back, again, _ = flow(now, before, there, None, winSize=WINDOW, maxLevel=LEVELS)
    sure = (seen.ravel() == 1) & (again.ravel() == 1)
    sure &= np.abs(back - flat).reshape(-1, 2).max(1) < MOST_APART
    sure = sure.reshape(len(lively), -1)
    end = there.reshape(start.shape)
    for row, box in enumerate(lively):
        if np.count_nonzero(sure[row]) < LEAST_POINTS:
            continue
        a, b = start[row][sure[row]], end[row][sure[row]]
        shifts[box] = np.median(b - a, axis=0)
        zooms[box] = _zoom(a, b)
    return shifts, zooms


def _around(
    centres: Numbers, sides: Numbers, picture: Grey
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(2,) (2,) corners of the part of a picture that the flow of the boxes may need."""
    limits = np.array(picture.shape[::-1])
    low = np.floor((centres - sides / 2).min(axis=0)) - REACH
    high = np.ceil((centres + sides / 2).max(axis=0)) + REACH
    low = np.clip(low, 0, limits - 1).astype(np.intp)
    return low, np.clip(high, low + 1, limits).astype(np.intp)


def _zoom(a: Numbers, b: Numbers) -> float:
    """How much further from their middle the points are: the median."""
    spread, spread_now = (np.linalg.norm(p - np.median(p, axis=0), axis=1) for p in (a, b))
    far = spread > 1
    if not far.any():
        return 1.0
    return float(np.clip(np.median(spread_now[far] / spread[far]), 1 / MOST_ZOOM, MOST_ZOOM))


def _lively(centres: Numbers, sides: Numbers, before: Grey, now: Grey) -> NDArray[np.bool_]:
    """(n,) whether more than noise differs within each box."""
    _, differs = cv2.threshold(cv2.absdiff(before, now), NOISE, 1, cv2.THRESH_BINARY)
    total = cv2.integral(differs)
    limits = np.array(now.shape[::-1])
    low = np.clip(np.floor(centres - sides / 2), 0, limits - 1).astype(np.intp)
    high = np.clip(np.ceil(centres + sides / 2), low + 1, limits).astype(np.intp)
    (left, top), (right, bottom) = low.T, high.T
    within = (
        total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    )  # fmt: skip
    return np.asarray(within > STILL * np.prod(high - low, axis=1))


def _moved_mask(
    mask: NDArray[np.bool_],
    about: Numbers,
    shift: Numbers,
    zoom: np.float32,
) -> NDArray[np.bool_]:
    move = np.eye(2, 3, dtype=np.float64) * zoom
    move[:, 2] = about * (1 - zoom) + shift
    size = mask.shape[::-1]
    return cv2.warpAffine(mask.astype(np.uint8), move, size, flags=cv2.INTER_NEAREST) > 0
