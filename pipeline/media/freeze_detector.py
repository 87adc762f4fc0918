"""Tells a camera that hangs from a scene in which nothing moves."""

import av
import numpy as np
from numpy.typing import NDArray

ROW_STRIDE = 16  # the quick check compares every 16th row


class FreezeDetector:
    """Detects pictures that stay bit-identical for `after_s` seconds.

    Sensor noise changes some bits in every picture of a still scene. A camera or server that hangs
    repeats its last picture exactly, whatever times it puts on the copies.

    So does, for a while, an encoder that skips unchanged blocks, or a screen. A source that was
    reported as frozen and went on within `longest_s` does so by habit: from then on it must stand
    still for twice its longest pause, or for `longest_s`.

    after_s, repeats: what is evidence of hanging, both together. longest_s: seconds that are
    evidence with fewer repeats too, but two at least; default `after_s`.
    """

    same_since_s: float
    """When the last picture was first seen, by the clock."""
    repeats: int
    """Pictures since that equal it."""
    frozen: bool

    def __init__(self, after_s: float, repeats: int = 1, longest_s: float | None = None) -> None:
        self._patience_s = after_s
        self._least_repeats = repeats
        self._longest_s = after_s if longest_s is None else longest_s
        self._last: list[NDArray[np.uint8]] | None = None
        self._last_s = 0.0
        self.same_since_s = 0.0
        self.repeats = 0
        self.frozen = False

    def restart(self) -> None:
        """Begin another connection to the same source; its habit stays known."""
        self._last, self.frozen = None, False

    def update(self, picture: av.VideoFrame, now_s: float) -> bool:
        """Whether the source is frozen after this picture. now_s: a monotonic clock."""
        planes = _planes(picture)
        if self._last is not None and _equal(planes, self._last):
            self.repeats += 1
        else:
            if self._last is not None:
                self._learn(self._last_s - self.same_since_s)
            self.same_since_s, self.repeats = now_s, 0
        self._last, self._last_s = planes, now_s
        same_s = now_s - self.same_since_s
        self.frozen = (same_s >= self._patience_s and self.repeats >= self._least_repeats) or (
            same_s >= self._longest_s and self.repeats >= min(2, self._least_repeats)
        )
        return self.frozen

    def _learn(self, pause_s: float) -> None:
        if self.frozen and pause_s < self._longest_s:
            self._patience_s = min(self._longest_s, max(self._patience_s, 2 * pause_s))


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
