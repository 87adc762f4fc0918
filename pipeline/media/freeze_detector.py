"""Telling a camera that hangs from a scene in which nothing moves."""

import av
import numpy as np
from numpy.typing import NDArray

SAMPLE_STEP = 16  # rows between those that are compared first


class FreezeDetector:
    """Watches for pictures that stay equal in every bit for `after_s` seconds.

    A sensor's noise changes some bits of a still scene with every picture; a camera or a server
    that hangs and repeats its last picture changes none, whatever times it puts on them.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._last: list[NDArray[np.uint8]] | None = None
        self._same_since_s = 0.0
        self.frozen = False

    def update(self, picture: av.VideoFrame, now_s: float) -> bool:
        """Whether the source is frozen, given its next picture and a monotonic clock."""
        planes = _planes(picture)
        if self._last is None or not _equal(planes, self._last):
            self._same_since_s = now_s
        self._last = planes
        self.frozen = now_s - self._same_since_s >= self._after_s
        return self.frozen

    def reset(self) -> None:
        """Forget the last picture: a new connection starts."""
        self._last = None
        self.frozen = False


def _planes(picture: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """(rows, bytes) for each plane; keeps the decoder's buffers alive, copies nothing."""
    components = picture.format.components
    found = []
    for index, plane in enumerate(picture.planes):
        content = np.frombuffer(memoryview(plane), np.uint8)
        line = abs(plane.line_size) or content.size
        own = [part.width * -(-part.bits // 8) for part in components if part.plane == index]
        # beyond the picture's own bytes a line holds whatever was there before
        used = min(line, sum(own) or line)
        found.append(content[: content.size // line * line].reshape(-1, line)[:, :used])
    return found


def _equal(one: list[NDArray[np.uint8]], other: list[NDArray[np.uint8]]) -> bool:
    if [rows.shape for rows in one] != [rows.shape for rows in other]:
        return False
    pairs = list(zip(one, other, strict=True))
    # most pictures differ already in a few rows
    return all(np.array_equal(a[::SAMPLE_STEP], b[::SAMPLE_STEP]) for a, b in pairs) and all(
        np.array_equal(a, b) for a, b in pairs
    )
