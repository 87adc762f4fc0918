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
from stillframe.pipeline.inference.buffer_pool import BufferPool

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
        self._pool = BufferPool()
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


class BoxFollower:
    """Carries the boxes of one stream from frame to frame. Not safe to use from two threads."""

    def __init__(self) -> None:
        self._before: Grey | None = None
        self._result: Result | None = None  # boxes also where they are beyond the picture
        self._went: NDArray[np.bool_] = np.empty(0, bool)

    def begin(self, result: Result, grey: Grey) -> None:
        """What the network says about the picture."""
        self._before, self._result = grey, result
        self._went = np.zeros(len(result) if isinstance(result, Detections) else 0, bool)

    def carry(self, grey: Grey, shape: tuple[int, ...]) -> Result:
        """The result for the next picture of the stream; shape: of the frame, (H, W, …).

        Only detections move, with their landmarks and masks; all else stays. Those that have left
        the picture are not told, until they come back.
        """
        assert self._before is not None
        assert self._result is not None
        if isinstance(self._result, Detections) and len(self._result):
            self._result, went = moved(self._result, self._before, grey, shape)
            self._went |= went
        self._before = grey
        if not isinstance(self._result, Detections) or not self._went.any():
            return self._result
        return within(self._result, self._went, shape)

    def forget(self) -> None:
        self._before = self._result = None


def moved(
    found: Detections, before: Grey, now: Grey, shape: tuple[int, ...]
) -> tuple[Detections, NDArray[np.bool_]]:
    """Where the boxes of one picture are in the next one, and which of them have moved."""
    height, width = shape[:2]
    scale = np.array((width / now.shape[1], height / now.shape[0]), np.float32)
    sides = (found.xyxy[:, 2:] - found.xyxy[:, :2]) / scale
    centres = (found.xyxy[:, 2:] + found.xyxy[:, :2]) / scale / 2
    shifts, zooms = follow(centres, sides, before, now)
    went = shifts.any(axis=1) | (zooms != 1)
    if not went.any():
        return found, went
    half = sides * zooms[:, None] / 2
    there = centres + shifts
    boxes = np.hstack([there - half, there + half]) * np.tile(scale, 2)
    boxes = np.where(went[:, None], boxes, found.xyxy)
    points, masks = found.landmarks, found.masks
    about, by = centres * scale, shifts * scale
    if points is not None:
        along = (points - about[:, None]) * zooms[:, None, None] + (about + by)[:, None]
        points = np.where(went[:, None, None], along, points).astype(np.float32)
    if masks is not None:
        masks = masks.copy()
        for row in np.flatnonzero(went):
            masks[row] = _moved_mask(masks[row], about[row], by[row], zooms[row])
    return replace(found, xyxy=boxes.astype(np.float32), landmarks=points, masks=masks), went


def within(found: Detections, went: NDArray[np.bool_], shape: tuple[int, ...]) -> Detections:
    """Of the boxes that went elsewhere only what lies within the picture."""
    height, width = shape[:2]
    limits = np.array((width, height, width, height), np.float32)
    boxes = np.where(went[:, None], np.clip(found.xyxy, 0, limits), found.xyxy)
    there = ~went | ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(1)
    return replace(
        found,
        xyxy=boxes[there].astype(np.float32),
        confidence=found.confidence[there],
        class_id=found.class_id[there],
        landmarks=None if found.landmarks is None else found.landmarks[there],
        masks=None if found.masks is None else found.masks[there],
    )


def follow(
    centres: Numbers, sides: Numbers, before: Grey, now: Grey
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes (n, 2) in one grey picture -> how far each has moved in the next one (n, 2), and by how
    much it has grown (n,). What cannot be followed stays. Of a box only what the picture shows of
    it tells where it goes."""
    shifts = np.zeros(centres.shape, np.float32)
    zooms = np.ones(len(centres), np.float32)
    limits = np.array(now.shape[::-1], np.float32)
    low = np.clip(centres - sides / 2, 0, limits)
    high = np.clip(centres + sides / 2, low, limits)
    lively = np.flatnonzero(_lively(low, high, before, now))
    if not len(lively):
        return shifts, zooms
    low, high = low[lively], high[lively]
    first = np.maximum(np.floor(low.min(axis=0)) - REACH, 0).astype(np.intp)
    end = (np.ceil(high.max(axis=0)) + REACH).astype(np.intp)
    before, now = (each[first[1] : end[1], first[0] : end[0]] for each in (before, now))
    steps = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(1, -1, 2)
    start = (low - first)[:, None] + grid * (high - low)[:, None]
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


def _zoom(a: Numbers, b: Numbers) -> float:
    """How much further from their middle the points are: the median."""
    spread, spread_now = (np.linalg.norm(p - np.median(p, axis=0), axis=1) for p in (a, b))
    far = spread > 1
    if not far.any():
        return 1.0
    return float(np.clip(np.median(spread_now[far] / spread[far]), 1 / MOST_ZOOM, MOST_ZOOM))


def _lively(low: Numbers, high: Numbers, before: Grey, now: Grey) -> NDArray[np.bool_]:
    """(n,) whether more than noise differs in the picture between those corners (n, 2)."""
    _, differs = cv2.threshold(cv2.absdiff(before, now), NOISE, 1, cv2.THRESH_BINARY)
    total = cv2.integral(differs)
    (left, top), (right, bottom) = np.floor(low).astype(np.intp).T, np.ceil(high).astype(np.intp).T
    within = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
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
