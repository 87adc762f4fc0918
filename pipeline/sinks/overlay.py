"""Draws results over RGB pictures.

Line widths and letters scale with the picture. Each class has a colour; the palette is safe for
colour-blind readers. The input frame is never modified.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import View
from stillframe.models.results import Classes, Depth, Detections, Mask, Picture, Result, Tensors
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
DEPTH_OPACITY = 0.8
SHOWN_SCORE = 0.05
"""Classes of a whole frame with a lower score are not drawn, but for the best."""
INK: Colour = (16, 18, 22)
PAPER: Colour = (255, 255, 255)
# The caption in the corner, by how the result came about.
CAPTIONS: dict[Kind, str] = {
    "computed": "{active:.1%} new",
    "unchanged": "unchanged: result of {age:.2f} s ago",
    "corrupt": "damaged: result of {age:.2f} s ago",
    "skipped": "skipped: result of {age:.2f} s ago",
}
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, slots=True)
class _Pen:
    """Drawing sizes for one picture."""

    line: int
    """Line width in pixels."""
    letter: float
    """OpenCV's font scale."""
    stroke: int
    """Stroke width of letters in pixels."""

    @classmethod
    def for_picture(cls, image: Image) -> "_Pen":
        side = min(image.shape[:2])
        letter = max(0.4, side / 1500)
        return cls(max(1, round(side / 380)), letter, max(1, round(letter * 1.7)))


def render_step(step: StepResult, overlay: Overlay) -> Image:
    """The picture to show for a step: its result and, for "changed", what was computed anew."""
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
    """A copy of (H, W, 3) uint8 RGB with the result drawn on it."""
    canvas = np.array(image, np.uint8, order="C")
    PAINTERS[type(result)](canvas, result)
    return canvas


def tint_changes(image: Image, changed: NDArray[np.uint8] | None, view: View | None) -> Image:
    """A copy of (H, W, 3) with the changed pixels tinted and outlined.

    changed: (H', W') change mask of 0 or 1 over the model's input; None: everything changed.
    view: maps the model's input to the source picture.
    """
    canvas = np.array(image, np.uint8, order="C")
    if changed is None or view is None:
        _blend(canvas, NEW, NEW_OPACITY / 2)
        return canvas
    cover = view.to_source(changed * np.uint8(255))
    height, width = canvas.shape[:2]
    if cover.shape != (height, width):
        cover = cv2.resize(cover, (width, height))
    _, cover = cv2.threshold(cover, 127, 255, cv2.THRESH_BINARY)
    _blend(canvas, NEW, NEW_OPACITY, cover)
    _outline(canvas, cover, NEW, max(1, _Pen.for_picture(canvas).line // 2))
    return canvas


def draw_caption(image: Image, text: str) -> None:
    """Draw a line of text in the lower left corner, in place."""
    pen = _Pen.for_picture(image)
    (_, height), below = cv2.getTextSize(text, FONT, pen.letter, pen.stroke)
    gap = height
    _plate(image, text, (gap, image.shape[0] - gap - below), INK, pen)


def _boxes(image: Image, result: Detections) -> None:
    pen = _Pen.for_picture(image)
    # lowest confidence first, so that the highest ends up on top
    for i in reversed(range(len(result))):
        colour = PALETTE[int(result.class_id[i]) % len(PALETTE)]
        points = None if result.landmarks is None else result.landmarks[i]
        left, top, right, bottom = (round(float(v)) for v in result.xyxy[i])
        if result.masks is not None:
            cover = result.masks[i].astype(np.uint8)
            _blend(image, colour, MASK_OPACITY, cover)
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
    values, line = result.values, _Pen.for_picture(image).line
    size = image.shape[1], image.shape[0]
    if result.is_probability:
        share: NDArray[Any] = np.asarray(values, np.float32)
        if share.shape != image.shape[:2]:
            share = cv2.resize(share, size)
        tinted = image.copy()
        _blend(tinted, PALETTE[0], MASK_OPACITY)
        cv2.blendLinear(tinted, image, share, 1 - share, image)
        _outline(image, np.asarray(share >= 0.5, np.uint8), PALETTE[0], line)
        return
    classes: NDArray[Any] = np.asarray(values, np.uint8)
    if classes.shape != image.shape[:2]:
        classes = cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST)
    for index in np.flatnonzero(np.bincount(classes.ravel())):
        if index == 0:  # the background in all supported label lists
            continue
        colour = PALETTE[(int(index) - 1) % len(PALETTE)]
        cover = np.asarray(classes == index, np.uint8)
        _blend(image, colour, MASK_OPACITY, cover)
        _outline(image, cover, colour, line)


def _classes(image: Image, result: Classes) -> None:
    """The likeliest classes, one below the other in the upper left corner."""
    pen = _Pen.for_picture(image)
    best = result.best
    shown = [i for i in best if result.scores[i] >= SHOWN_SCORE] or best[:1]
    (_, height), below = cv2.getTextSize("A", FONT, pen.letter, pen.stroke)
    for place, index in enumerate(shown):
        text = f"{result.labels[index]} {result.scores[index]:.2f}"
        base = height, (place + 1) * (2 * height + below)
        _plate(image, text, base, PALETTE[index % len(PALETTE)], pen)


def _depth(image: Image, result: Depth) -> None:
    """False colours from the least to the greatest value of the frame."""
    colours = depth_colours(result)
    if colours.shape != image.shape:
        colours = np.asarray(cv2.resize(colours, image.shape[1::-1]), np.uint8)
    cv2.addWeighted(colours, DEPTH_OPACITY, image, 1 - DEPTH_OPACITY, 0, image)


def depth_colours(result: Depth) -> Image:
    """(H, W, 3) RGB: dark for the least value, bright for the greatest."""
    low, high = float(result.values.min(initial=0)), float(result.values.max(initial=0))
    levels = (result.values - low) * (255 / (high - low) if high > low else 0)
    coloured = cv2.applyColorMap(np.asarray(levels, np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(coloured[..., ::-1], np.uint8)


def _draw_nothing(image: Image, result: Any) -> None:
    """Pictures replace the frame, and raw tensors cannot be drawn."""


PAINTERS: dict[type, Callable[[Image, Any], None]] = {
    Detections: _boxes,
    Mask: _mask,
    Classes: _classes,
    Depth: _depth,
    Picture: _draw_nothing,
    Tensors: _draw_nothing,
}


def _blend(image: Image, colour: Colour, opacity: float, cover: NDArray[Any] | None = None) -> None:
    """Blend a colour over the picture where `cover`, (H, W) uint8, is not 0; None: everywhere."""
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
    """Draw text on a coloured plate, shifted to stay inside the picture.

    base: (x, y) of the plate's left edge and the text's base line.
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
