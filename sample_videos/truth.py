"""What is truly in a drawn frame, and what truly changed since the one before.

Boxes are the extents of the pixels that can be seen, in picture pixels, x1 and y1 just outside.
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
    """One thing in view. label: one of LABELS. xyxy: extent of its visible pixels.

    identity: the same in all frames; a face shares that of its person,
    a line of text that of its window. In the instance mask a
    pixel holds the identity of the thing that hides all others there.
    visible: share of the thing's own outline inside the picture that nothing hides.
    """

    identity: int
    label: str
    xyxy: tuple[float, float, float, float]
    visible: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a scene shows at one instant, before the sensor adds noise. Never written to again.

    view: which of the scene's cameras it is.
    """

    picture: Picture
    instances: Cover
    things: tuple[Thing, ...]
    view: int = 0


@dataclass(frozen=True)
class SceneFrame:
    """One frame of a drawn clip with its ground truth.

    image: (H, W, 3) uint8 RGB as the camera gives it, sensor noise included.
    clean: the same before sensor noise; the truth about change is told of this one.
    changed: (H, W) bool, where `clean` differs from the frame before; all True on the first.
    instances: (H, W) uint8, identity of the thing seen at each pixel, 0 for the still world.
    cut: the first frame of another view.
    """

    index: int
    time_s: float
    image: Picture
    clean: Picture
    changed: NDArray[np.bool_]
    instances: Cover
    things: tuple[Thing, ...]
    cut: bool = False

    @cached_property
    def changed_pixels(self) -> int:
        return int(np.count_nonzero(self.changed))

    @property
    def unchanged(self) -> bool:
        """The noise-free picture is identical to the one before."""
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
    """(H, W) bool: where two pictures differ in any channel; everywhere without a second."""
    if before is None:
        return np.ones(now.shape[:2], np.bool_)
    if now is before:
        return np.zeros(now.shape[:2], np.bool_)
    apart = cv2.absdiff(now, before).reshape(-1, 3)
    most = cv2.reduce(apart, 1, cv2.REDUCE_MAX)
    return most.reshape(now.shape[:2]).astype(np.bool_)
