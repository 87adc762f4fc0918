"""Tells a camera that hangs from a scene in which nothing moves."""

import av
import numpy as np
from numpy.typing import NDArray

ROW_STRIDE = 16  # the quick check compares every 16th row


class FreezeDetector:
    """Detects pictures that stay bit-identical for `after_s` seconds.

    Sensor noise changes some bits in every picture of a still scene. A camera or server that hangs
    repeats its last picture exactly, whatever times it puts on the copies.
    """

    same_since_s: float
    """When the last picture was first seen, by the clock."""
    frozen: bool

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._last: list[NDArray[np.uint8]] | None = None
        self.same_since_s = 0.0
        self.frozen = False

    def update(self, picture: av.VideoFrame, now_s: float) -> bool:
        """Whether the source is frozen after this picture. now_s: a monotonic clock."""
        planes = _planes(picture)
        if self._last is None or not _equal(planes, self._last):
            self.same_since_s = now_s
        self._last = planes
        self.frozen = now_s - self.same_since_s >= self._after_s
        return self.frozen


def _planes(picture: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """(rows, bytes) views of each plane. They keep the decoder's buffers alive."""
    components = picture.format.components
    planes = []
    for index, plane in enumerate(picture.planes):
        content = np.frombuffer(memoryview(plane), np.uint8)
        line = abs(plane.line_size) or content.size
        widths = [part.width * -(-part.bits // 8) for part in components if part.plane == index]
        # bytes after the picture's own are padding with arbitrary content
        used = min(line, sum(widths) or line)
        planes.append(content[: content.size // line * line].reshape(-1, line)[:, :used])
    return planes


def _equal(one: list[NDArray[np.uint8]], other: list[NDArray[np.uint8]]) -> bool:
    if [rows.shape for rows in one] != [rows.shape for rows in other]:
        return False
    pairs = list(zip(one, other, strict=True))
    # quick check first: most pictures differ already in a few rows
    return all(np.array_equal(a[::ROW_STRIDE], b[::ROW_STRIDE]) for a, b in pairs) and all(
        np.array_equal(a, b) for a, b in pairs
    )
