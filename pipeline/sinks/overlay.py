"""Results drawn over pictures, for people to look at.

Widths and letters scale with the picture. Colours go by class and stay apart for colour-blind
readers. Nothing here changes the frame that it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import View
from stillframe.models.results import Detections, Mask, Picture, Result, Tensors
from stillframe.pipeline.inference.types import Kind, StepResult

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]
Overlay = Literal["boxes", "changed", "none"]

PALETTE: tuple[Colour, ...] = (
    (0, 158, 255),
    (255, 122, 0),
    (0, 190, 130),
    (240, 80, 160),
    (255, 205, 40),
    (140, 100, 255),
    (90, 210, 250),
    (200, 60, 50),
    (170, 215, 60),
    (200, 160, 120),
)
NEW: Colour = (255, 64, 129)
NEW_OPACITY = 0.42
MASK_OPACITY = 0.5
INK: Colour = (16, 18, 22)
PAPER: Colour = (255, 255, 255)
# What stands in the corner, by what became of the frame.
CAPTIONS: dict[Kind, str] = {
    "computed": "{active:.1%} new",
    "unchanged": "unchanged: result of {age:.2f} s ago",
    "corrupt": "damaged: result of {age:.2f} s ago",
    "skipped": "skipped: result of {age:.2f} s ago",
}
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True)
class _Pen:
    """Sizes that suit one picture, pixels."""

    line: int
    letter: float
    stroke: int

    @classmethod
    def suiting(cls, image: Image) -> "_Pen":
        side = min(image.shape[:2])
        letter = max(0.4, side / 1500)
        return cls(max(1, round(side / 380)), letter, max(1, round(letter * 1.7)))


def render_step(step: StepResult, overlay: Overlay) -> Image:
    """The picture to show for a step: with its result, and for "changed" what was new in it."""
    canvas = step.result.image if isinstance(step.result, Picture) else step.frame.image
    if overlay == "none":
        return canvas
    if overlay == "changed":
        if step.kind == "computed":
            canvas = tint_changes(canvas, step.changed, step.view)
        canvas = draw_result(canvas, step.result)
        draw_caption(
            canvas, CAPTIONS[step.kind].format(active=step.active, age=step.result.evidence.age_s)
        )
        return canvas
    return draw_result(canvas, step.result)


def draw_result(image: Image, result: Result) -> Image:
    """A copy of (H, W, 3) uint8 RGB with the result drawn in."""
    canvas = np.array(image, np.uint8, order="C")
    PAINTERS[type(result)](canvas, result)
    return canvas


def tint_changes(image: Image, changed: NDArray[np.uint8] | None, view: View | None) -> Image:
    """A copy of (H, W, 3) with what was treated as new tinted and outlined.

    changed: (H', W') of 0 or 1 over the model's input, as `view` lays it over the source;
    None: all of it.
    """
    canvas = np.array(image, np.uint8, order="C")
    if changed is None or view is None:
        _lay(canvas, NEW, NEW_OPACITY / 2)
        return canvas
    cover = view.picture(changed * np.uint8(255))
    height, width = canvas.shape[:2]
    if cover.shape != (height, width):
        cover = cv2.resize(cover, (width, height))
    _, cover = cv2.threshold(cover, 127, 255, cv2.THRESH_BINARY)
    _lay(canvas, NEW, NEW_OPACITY, cover)
    _outline(canvas, cover, NEW, max(1, _Pen.suiting(canvas).line // 2))
    return canvas


def draw_caption(image: Image, text: str) -> None:
    """A line of text in the lower left corner, drawn into the picture itself."""
    pen = _Pen.suiting(image)
    (_, height), below = cv2.getTextSize(text, FONT, pen.letter, pen.stroke)
    gap = height
    _plate(image, text, (gap, image.shape[0] - gap - below), INK, pen)


def _boxes(image: Image, result: Detections) -> None:
    pen = _Pen.suiting(image)
    # Weakest first, so that the surest ends up on top.
    for i in reversed(range(len(result))):
        colour = PALETTE[int(result.class_id[i]) % len(PALETTE)]
        points = None if result.landmarks is None else result.landmarks[i]
        left, top, right, bottom = (round(float(v)) for v in result.xyxy[i])
        if result.masks is not None:
            cover = result.masks[i].astype(np.uint8)
            _lay(image, colour, MASK_OPACITY, cover)
            _outline(image, cover, colour, pen.line)
        if points is not None and len(points) == 4:  # the corners of a line of text
            corners = [np.round(points).astype(np.int32)]
            cv2.polylines(image, corners, True, colour, pen.line, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (left, top), (right, bottom), INK, pen.line + 2)
            cv2.rectangle(image, (left, top), (right, bottom), colour, pen.line)
            radius = max(1, min(pen.line, (right - left) // 16))
            for x, y in [] if points is None else points:
                at = round(float(x)), round(float(y))
                cv2.circle(image, at, radius + 1, INK, cv2.FILLED, cv2.LINE_AA)
                cv2.circle(image, at, radius, colour, cv2.FILLED, cv2.LINE_AA)
    for i in reversed(range(len(result))):
        colour = PALETTE[int(result.class_id[i]) % len(PALETTE)]
        label = f"{result.names[i]} {result.confidence[i]:.2f}"
        left, top = (round(float(v)) for v in result.xyxy[i, :2])
        (_, height), below = cv2.getTextSize(label, FONT, pen.letter, pen.stroke)
        _plate(image, label, (left, top - below - height // 2), colour, pen)


def _mask(image: Image, result: Mask) -> None:
    values, line = result.values, _Pen.suiting(image).line
    size = image.shape[1], image.shape[0]
    if result.is_probability:
        share: NDArray[Any] = np.asarray(values, np.float32)
        if share.shape != image.shape[:2]:
            share = cv2.resize(share, size)
        laid = image.copy()
        _lay(laid, PALETTE[0], MASK_OPACITY)
        cv2.blendLinear(laid, image, share, 1 - share, image)
        _outline(image, np.asarray(share >= 0.5, np.uint8), PALETTE[0], line)
        return
    classes: NDArray[Any] = np.asarray(values, np.uint8)
    if classes.shape != image.shape[:2]:
        classes = cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST)
    for index in np.flatnonzero(np.bincount(classes.ravel())):
        if index == 0:  # the background, by the convention of every label list that we read
            continue
        colour = PALETTE[(int(index) - 1) % len(PALETTE)]
        cover = np.asarray(classes == index, np.uint8)
        _lay(image, colour, MASK_OPACITY, cover)
        _outline(image, cover, colour, line)


def _nothing(image: Image, result: Any) -> None:
    """A picture is drawn by being there; raw tensors have no place in it."""


PAINTERS: dict[type, Callable[[Image, Any], None]] = {
    Detections: _boxes,
    Mask: _mask,
    Picture: _nothing,
    Tensors: _nothing,
}


def _lay(image: Image, colour: Colour, opacity: float, cover: NDArray[Any] | None = None) -> None:
    """Lay a colour over the picture. cover: (H, W) uint8, where it is not 0; None: everywhere."""
    levels = np.arange(256, dtype=np.float32)[:, None]
    table = np.round(levels * (1 - opacity) + np.array(colour) * opacity).astype(np.uint8)
    mixed = cv2.LUT(image, table[None])
    if cover is None:
        image[...] = mixed
    else:
        cv2.copyTo(mixed, cover, image)


def _outline(image: Image, cover: NDArray[Any], colour: Colour, line: int) -> None:
    outlines, _ = cv2.findContours(cover, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(image, outlines, -1, colour, line, cv2.LINE_AA)


def _plate(image: Image, text: str, base: tuple[int, int], colour: Colour, pen: _Pen) -> None:
    """Text on a plate of that colour, moved so that it stays inside the picture.

    base: (x, y) of the plate's left edge and the letters' base line.
    """
    (width, height), below = cv2.getTextSize(text, FONT, pen.letter, pen.stroke)
    margin = max(2, height // 3)
    x = min(max(base[0], 0), max(0, image.shape[1] - width - 2 * margin))
    y = min(max(base[1], height + margin), image.shape[0] - below)
    corner = x + width + 2 * margin, y + below
    cv2.rectangle(image, (x, y - height - margin), corner, colour, cv2.FILLED)
    red, green, blue = colour
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    ink = INK if light > 140 else PAPER
    where = x + margin, y + (below - margin) // 2
    cv2.putText(image, text, where, FONT, pen.letter, ink, pen.stroke, cv2.LINE_AA)
