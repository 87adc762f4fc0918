"""Cut-outs laid over a picture from far to near, with the truth about what can be seen of each."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from stillframe.sample_videos.drawing.canvas import Sprite, overlap, place
from stillframe.sample_videos.drawing.texture import Cover, Picture
from stillframe.sample_videos.truth import Thing

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class CutOut:
    """A sprite at a depth."""

    depth_m: float
    sprite: Sprite
    identity: int = 0
    """Of the Thing that it shows; 0: scenery, which hides others but is not reported."""
    label: str = ""
    """One of truth.LABELS."""
    face: Box | None = None
    """Box of the visible face, if any, in image pixels."""


def stack(picture: Picture, layers: Iterable[CutOut]) -> tuple[Cover, tuple[Thing, ...]]:
    """Lay all layers over the picture, in place, the deepest first.

    Returns the (H, W) uint8 instance mask and what can be seen of each thing, nearest last.
    """
    instances = np.zeros(picture.shape[:2], np.uint8)
    ordered = sorted(layers, key=lambda layer: -layer.depth_m)
    for layer in ordered:
        place(picture, layer.sprite, instances=instances, identity=layer.identity)
    things: list[Thing] = []
    for layer in ordered:
        if layer.identity:
            things.extend(_seen(instances, layer))
    return instances, tuple(things)


def _seen(instances: Cover, layer: CutOut) -> list[Thing]:
    sprite = layer.sprite
    parts = overlap(instances.shape, sprite.left, sprite.top, *sprite.cover.shape[::-1])
    if parts is None:
        return []
    there, here = parts
    own = sprite.cover[here] >= 128
    seen = (instances[there] == layer.identity).astype(np.uint8)
    x, y, wide, high = cv2.boundingRect(seen)
    if wide == 0:
        return []
    left, top = there[1].start, there[0].start
    box = (float(left + x), float(top + y), float(left + x + wide), float(top + y + high))
    share = float(np.count_nonzero(seen)) / max(int(np.count_nonzero(own)), 1)
    things = [Thing(layer.identity, layer.label, box, min(share, 1.0))]
    if layer.face is not None:
        columns, rows = instances.shape[1], instances.shape[0]
        x0, y0 = max(layer.face[0], 0.0), max(layer.face[1], 0.0)
        x1, y1 = min(layer.face[2], float(columns)), min(layer.face[3], float(rows))
        patch = (
            slice(max(int(y0) - top, 0), max(int(np.ceil(y1)) - top, 0)),
            slice(max(int(x0) - left, 0), max(int(np.ceil(x1)) - left, 0)),
        )
        whole, bare = int(np.count_nonzero(own[patch])), int(np.count_nonzero(seen[patch]))
        if x1 > x0 and y1 > y0 and whole and bare:
            things.append(Thing(layer.identity, "face", (x0, y0, x1, y1), bare / whole))
    return things
