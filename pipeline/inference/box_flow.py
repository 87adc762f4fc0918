"""Boxes that follow the picture beneath them in skipped frames.

A box moves by the median displacement of points in it. These are tracked by sparse optical flow,
forward and backward (Kalal, Mikolajczyk, Matas: Forward-Backward Error, ICPR 2010; the flow is
pyramidal Lucas-Kanade). A box in which nothing moves stays where it is.
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

WIDEST = 640
"""Pixels; wider pictures are scaled down first."""
GRID = 3
"""Tracked points a side in each box."""
WINDOW, LEVELS = (15, 15), 3
"""Of the optical flow."""
REACH = 64
"""Pixels around the boxes that the flow sees."""
MOST_APART = 1.0
"""Pixels between a point and itself, tracked forward and backward; beyond, it is dropped."""
LEAST_POINTS = 3
"""A box with fewer tracked points stays."""
MOST_ZOOM = 1.1
"""From frame to frame."""
NOISE = 12
"""Grey levels: a pixel that differs by no more stands still."""
STILL = 0.01
"""Share of a box's pixels: if no more move, the box stands still."""
LEAST_SIDE = 1.0
"""Pixels: a box with a shorter side in the picture has left it."""


class Lens:
    """Makes the small grey pictures of one stream, in pooled memory. Not thread-safe."""

    def __init__(self) -> None:
        self._pool = BufferPool()
        self._whole: Grey = np.empty((0, 0), np.uint8)
        """The picture in grey, before it is scaled down."""

    @property
    def size_bytes(self) -> int:
        """Memory of the pictures in use, and spare."""
        return self._pool.size_bytes

    def grey(self, image: NDArray[np.uint8]) -> Grey:
        """(H, W, 3) RGB -> (h, w), at most WIDEST wide."""
        height, width = image.shape[:2]
        shrink = min(1.0, WIDEST / width)
        size = max(1, round(width * shrink)), max(1, round(height * shrink))
        small = self._pool.take(size[::-1], np.uint8)
        if self._whole.shape != (height, width):
            self._whole = np.empty((height, width), np.uint8)
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY, dst=self._whole)
        # Reads 2x2 pixels of up to 3x3: a mean over all of them takes four times as long.
        cv2.resize(self._whole, size, dst=small, interpolation=cv2.INTER_LINEAR)
        return small


class BoxFollower:
    """Carries the boxes of one stream from frame to frame. Not thread-safe."""

    def __init__(self) -> None:
        self._before: Grey | None = None
        """The last picture."""
        self._result: Result | None = None
        """As of that picture, with boxes also where they are outside it."""
        self._has_moved: NDArray[np.bool_] = np.empty(0, bool)
        """(n + m,) which boxes, and then which faint ones, have moved since `begin`."""

    @property
    def ready(self) -> bool:
        """Whether there is a result to carry."""
        return self._result is not None

    def begin(self, result: Result, grey: Grey) -> None:
        """Start from the network's result for a picture."""
        self._before, self._result = grey, result
        count = _count(result) if isinstance(result, Detections) else 0
        self._has_moved = np.zeros(count, bool)

    def carry(self, grey: Grey, shape: tuple[int, ...]) -> Result:
        """The result for the next picture of the stream. shape: of the frame, (H, W, …).

        Only detections move, with their landmarks and masks. Those that have left the picture are
        left out until they come back.
        """
        assert self._before is not None
        assert self._result is not None
        if isinstance(self._result, Detections) and _count(self._result):
            self._result, has_moved = moved(self._result, self._before, grey, shape)
            self._has_moved |= has_moved
        self._before = grey
        if not isinstance(self._result, Detections) or not self._has_moved.any():
            return self._result
        return within(self._result, self._has_moved, shape)

    def forget(self) -> None:
        """Let nothing follow until `begin`."""
        self._before = self._result = None


def moved(
    detections: Detections, before: Grey, now: Grey, shape: tuple[int, ...]
) -> tuple[Detections, NDArray[np.bool_]]:
    """Where the boxes of one picture are in the next one; -> also (n + m,) which have moved.

    The m faint boxes come last. shape: of the frame that the boxes are in.
    """
    height, width = shape[:2]
    scale = np.array((width / now.shape[1], height / now.shape[0]), np.float32)
    count, faint = len(detections), detections.faint
    xyxy = detections.xyxy if faint is None else np.concatenate((detections.xyxy, faint.xyxy))
    sides = (xyxy[:, 2:] - xyxy[:, :2]) / scale
    centres = (xyxy[:, 2:] + xyxy[:, :2]) / scale / 2
    shifts, zooms = follow(centres, sides, before, now, count)
    has_moved = shifts.any(axis=1) | (zooms != 1)
    if not has_moved.any():
        return detections, has_moved
    parts = []
    for part, rows in ((detections, slice(count)), (faint, slice(count, None))):
        if part is not None and has_moved[rows].any():
            moves = (centres[rows], sides[rows], shifts[rows], zooms[rows], has_moved[rows])
            part = _shifted(part, scale, *moves)
        parts.append(part)
    assert parts[0] is not None
    return replace(parts[0], faint=parts[1]), has_moved


def _count(detections: Detections) -> int:
    """The boxes, and the faint ones."""
    return len(detections) + (0 if detections.faint is None else len(detections.faint))


def _shifted(
    detections: Detections,
    scale: NDArray[np.float32],
    centres: Numbers,
    sides: Numbers,
    shifts: NDArray[np.float32],
    zooms: NDArray[np.float32],
    has_moved: NDArray[np.bool_],
) -> Detections:
    """The boxes moved. scale: (x, y) frame pixels per pixel of the other arguments."""
    half = sides * zooms[:, None] / 2
    there = centres + shifts
    boxes = np.hstack([there - half, there + half]) * np.tile(scale, 2)
    boxes = np.where(has_moved[:, None], boxes, detections.xyxy)
    points, masks = detections.landmarks, detections.masks
    about, by = centres * scale, shifts * scale
    if points is not None:
        along = (points - about[:, None]) * zooms[:, None, None] + (about + by)[:, None]
        points = np.where(has_moved[:, None, None], along, points).astype(np.float32)
    if masks is not None:
        masks = masks.copy()
        for row in np.flatnonzero(has_moved):
            masks[row] = _moved_mask(masks[row], about[row], by[row], zooms[row])
    return replace(detections, xyxy=boxes.astype(np.float32), landmarks=points, masks=masks)


def within(
    detections: Detections, has_moved: NDArray[np.bool_], shape: tuple[int, ...]
) -> Detections:
    """The boxes, those that have moved clipped to the picture; those outside it are dropped.

    has_moved: (n + m,), of the faint boxes last.
    """
    height, width = shape[:2]
    limits = np.array((width, height, width, height), np.float32)
    count, faint = len(detections), detections.faint
    if faint is not None:
        faint = within(faint, has_moved[count:], shape)
        has_moved = has_moved[:count]
    boxes = np.where(has_moved[:, None], np.clip(detections.xyxy, 0, limits), detections.xyxy)
    inside = ~has_moved | ((boxes[:, 2:] - boxes[:, :2]) >= LEAST_SIDE).all(1)
    clipped = replace(detections, xyxy=boxes.astype(np.float32), faint=faint)
    return clipped.rows(inside)


def follow(
    centres: Numbers, sides: Numbers, before: Grey, now: Grey, leading: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far boxes move from one grey picture to the next.

    centres, sides: (n, 2), in pixels of these pictures; -> shifts (n, 2) and zooms (n,). A box that
    cannot be tracked stays. Only its part within the picture is tracked.

    leading: so many boxes decide which part of the picture the flow sees, and the others follow
    where they lie in it; if none of them is to be tracked, the others decide. None: all do.
    """
    shifts = np.zeros(centres.shape, np.float32)
    zooms = np.ones(len(centres), np.float32)
    limits = np.array(now.shape[::-1], np.float32)
    low = np.clip(centres - sides / 2, 0, limits)
    high = np.clip(centres + sides / 2, low, limits)
    lively = np.flatnonzero(_lively(low, high, before, now))
    if not len(lively):
        return shifts, zooms
    leaders = np.count_nonzero(lively < leading) if leading is not None else 0
    leaders = leaders or len(lively)
    low, high = low[lively], high[lively]
    first = np.maximum(np.floor(low[:leaders].min(axis=0)) - REACH, 0).astype(np.intp)
    end = (np.ceil(high[:leaders].max(axis=0)) + REACH).astype(np.intp)
    if leaders < len(lively):
        inside = ((low >= first) & (high <= end)).all(axis=1)
        low, high, lively = low[inside], high[inside], lively[inside]
    before, now = (each[first[1] : end[1], first[0] : end[0]] for each in (before, now))
    steps = (np.arange(GRID, dtype=np.float32) + 0.5) / GRID
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(1, -1, 2)
    start = (low - first)[:, None] + grid * (high - low)[:, None]
    flat = np.ascontiguousarray(start, np.float32).reshape(-1, 1, 2)
    flow: Any = cv2.calcOpticalFlowPyrLK  # its type stub wants the output to be passed in
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
    """The median growth of the points' distances from their middle."""
    spread, spread_now = (np.linalg.norm(p - np.median(p, axis=0), axis=1) for p in (a, b))
    far = spread > 1
    if not far.any():
        return 1.0
    return float(np.clip(np.median(spread_now[far] / spread[far]), 1 / MOST_ZOOM, MOST_ZOOM))


def _lively(low: Numbers, high: Numbers, before: Grey, now: Grey) -> NDArray[np.bool_]:
    """(n,) whether more than noise differs in the boxes between these corners (n, 2)."""
    _, differs = cv2.threshold(cv2.absdiff(before, now), NOISE, 1, cv2.THRESH_BINARY)
    total = cv2.integral(differs)
    (left, top), (right, bottom) = np.floor(low).astype(np.intp).T, np.ceil(high).astype(np.intp).T
    count = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return np.asarray(count > STILL * np.prod(high - low, axis=1))


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
