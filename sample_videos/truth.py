"""Ground truth of a drawn frame: what is in it, and what changed since the frame before.

Boxes are (x0, y0, x1, y1), the extent of the visible pixels, with x1 and y1 exclusive.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.sample_videos.drawing.texture import Cover, Field, Picture

LABELS = ("person", "face", "car", "van", "bus", "house", "window", "text", "cursor", "lamp")


@dataclass(frozen=True, slots=True)
class Thing:
    """One visible thing."""

    identity: int
    """The same in all frames; a face has that of its person, a line of text of its window."""
    label: str
    """One of LABELS."""
    xyxy: tuple[float, float, float, float]
    """Extent of its visible pixels."""
    visible: float
    """Share of its outline inside the image that nothing hides, 0..1."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A scene at one instant, before sensor noise. Never written to again."""

    picture: Picture
    instances: Cover
    """(H, W): identity of the thing in front at each pixel, 0 for scenery."""
    things: tuple[Thing, ...]
    view: int = 0
    """Which of the scene's cameras it is."""


@dataclass(frozen=True)
class SceneFrame:
    """One frame of a drawn clip with its ground truth."""

    index: int
    time_s: float
    image: Picture
    """(H, W, 3) RGB with sensor noise."""
    clean: Picture
    """The same without sensor noise: what `changed` compares."""
    changed: NDArray[np.bool_]
    """(H, W): `clean` differs from the frame before; all True on the first."""
    instances: Cover
    """(H, W): identity of the thing in front at each pixel, 0 for scenery."""
    things: tuple[Thing, ...]
    cut: bool = False
    """First frame of another view."""

    @cached_property
    def changed_pixels(self) -> int:
        return int(np.count_nonzero(self.changed))

    @property
    def unchanged(self) -> bool:
        """The noise-free image is identical to the one before."""
        return self.changed_pixels == 0

    def named(self, *labels: str) -> tuple[Thing, ...]:
        """The things with one of these labels."""
        return tuple(thing for thing in self.things if thing.label in labels)

    @property
    def xyxy(self) -> Field:
        """(n, 4) float32, in the order of `things`."""
        return np.array([thing.xyxy for thing in self.things], np.float32).reshape(-1, 4)

    @property
    def class_id(self) -> NDArray[np.int64]:
        """(n,) indices into LABELS, in the order of `things`."""
        return np.array([LABELS.index(thing.label) for thing in self.things], np.int64)


def difference(now: Picture, before: Picture | None) -> NDArray[np.bool_]:
    """(H, W) bool: where two images differ in any channel; everywhere without a second one."""
    if before is None:
        return np.ones(now.shape[:2], np.bool_)
    if now is before:
        return np.zeros(now.shape[:2], np.bool_)
    per_channel = cv2.absdiff(now, before).reshape(-1, 3)
    largest = cv2.reduce(per_channel, 1, cv2.REDUCE_MAX)
    return largest.reshape(now.shape[:2]).astype(np.bool_)
