"""A model ready to be fed: how pictures go in, what the outputs mean, at one input size.

    source picture (h, w, 3) --fit--> (H, W, 3) uint8 --feed--> tensor --engine--> outputs
                                 \\--> View -----------------------------decode--> Result

`Form` is all of that except the weights, so one form serves many files; `Model` adds the cleaned
ONNX file, its input size and the buffers that `feed` fills.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.formats.cleaning import MAX_SIDE, clean
from stillframe.models.formats.onnx_file import image_input
from stillframe.models.results import Result

Task = Literal["detection", "segmentation", "image", "tensors"]
TASKS: tuple[Task, ...] = get_args(Task)

Outputs = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class View:
    """How the model's picture lies over the source's: model = source * scale + offset.

    source, size: (height, width) of the source and of the model's input, pixels.
    scale, offset: (x, y), model pixels.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    def points(self, xy: NDArray[Any]) -> NDArray[np.float32]:
        """(..., 2) points in model pixels -> the same in source pixels."""
        moved = (np.asarray(xy, np.float64) - self.offset) / self.scale
        return moved.astype(np.float32)

    def boxes(self, xyxy: NDArray[Any]) -> NDArray[np.float32]:
        """(n, 4) boxes in model pixels -> the same in source pixels, cut off at its borders."""
        height, width = self.source
        moved = self.points(np.asarray(xyxy).reshape(-1, 2, 2))
        limits = np.array((width, height), np.float32)
        return np.clip(moved, np.float32(0), limits).reshape(-1, 4)

    def picture(self, values: NDArray[Any], *, smooth: bool = True) -> NDArray[Any]:
        """(H', W') or (H', W', C) over the whole model input -> the same over the whole source.

        The part that fit added around the picture is cut off first. smooth: interpolate linearly;
        otherwise take the nearest value, as a map of classes needs.
        """
        rows, columns = values.shape[0] / self.size[0], values.shape[1] / self.size[1]
        left, top = self.offset[0] * columns, self.offset[1] * rows
        right = left + self.source[1] * self.scale[0] * columns
        bottom = top + self.source[0] * self.scale[1] * rows
        part = values[round(top) : round(bottom), round(left) : round(right)]
        if part.shape[:2] == self.source:
            return part
        how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
        resized: NDArray[Any] = cv2.resize(part, self.source[::-1], interpolation=how)
        return resized


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """From RGB 0..255 to what the network was trained on: (x * scale - mean) / deviation.

    fit: "stretch" fills the input whatever the picture's proportions; "letterbox" keeps them and
    fills the rest with the grey value `fill`, on both sides ("centre") or right and below
    ("corner"). order: the channels the network expects; "grey" is one channel. mean and deviation
    are in that order, after scaling.
    """

    layout: Literal["nchw", "nhwc"] = "nchw"
    order: Literal["rgb", "bgr", "grey"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    fit: Literal["stretch", "letterbox"] = "stretch"
    align: Literal["centre", "corner"] = "centre"
    fill: int = 0
    element: Literal["float32", "float16", "uint8"] = "float32"

    @property
    def channels(self) -> int:
        return 1 if self.order == "grey" else 3

    def gains(self) -> list[tuple[np.float32, np.float32]]:
        """(gain, bias) of each channel: tensor = pixel * gain + bias."""
        pairs = zip(self.mean, self.deviation, strict=True)
        both = [(np.float32(self.scale / d), np.float32(-m / d)) for m, d in pairs]
        return both[: self.channels]


IMAGENET = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
"""What most networks trained on ImageNet, or started from such, expect."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """Which input sizes a model takes, and which one suits a source.

    base: (H, W) when no source is known. longest: the longer side of any other size is at most
    this; 0 means that only the base size works. multiple: both sides are multiples of it.
    """

    base: tuple[int, int]
    longest: int = 0
    multiple: int = 32

    def for_source(self, height: int, width: int) -> tuple[int, int]:
        """The input size for a source: its proportions, never enlarged, rounded up."""
        if height < 1 or width < 1:
            raise ModelError(f"expected a source of at least 1x1 pixels, got {width}x{height}")
        if not self.longest:
            return self.base
        shrink = min(1.0, self.longest / max(height, width))
        up = [max(1, -int(-s * shrink // self.multiple)) for s in (height, width)]
        return up[0] * self.multiple, up[1] * self.multiple

    def check(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size itself; ModelError when the model cannot run at it."""
        height, width = size
        if size == self.base:
            return size
        if not self.longest:
            wanted = f"{self.base[1]}x{self.base[0]}, the only size of this model"
        elif min(size) < 1 or max(size) > MAX_SIDE:
            wanted = f"sides of 1..{MAX_SIDE} pixels"
        elif height % self.multiple or width % self.multiple:
            wanted = f"multiples of {self.multiple}"
        else:
            return size
        raise ModelError(f"model input size: expected {wanted}, got {width}x{height}")


@dataclass(frozen=True, slots=True)
class Form:
    """What goes in and what the outputs mean: all of a model except its weights.

    decoder: (outputs in graph order, view, this form) -> the result in source pixels.
    confidence: detections below it are dropped. overlap: of two boxes of one class with a greater
    intersection over union the weaker one is dropped.
    """

    task: Task
    decoder: "Decoder"
    sizing: Sizing
    preprocessing: Preprocessing = Preprocessing()
    labels: tuple[str, ...] = ()
    confidence: float = 0.5
    overlap: float = 0.45


Decoder = Callable[[Outputs, View, Form], Result]


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What `feed` writes into, made once."""

    tensor: NDArray[Any]
    planes: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Model:
    """One model at one input size. Make one with `Model.at` or `zoo.load`.

    origin: the file as it came. path: the cleaned one, with every shape fixed. size: (H, W) of the
    input. input_name: the graph's input.
    """

    name: str
    origin: Path
    path: Path
    form: Form
    size: tuple[int, int]
    input_name: str
    _buffers: _Buffers

    @classmethod
    def at(cls, name: str, origin: Path, form: Form, size: tuple[int, int] | None = None) -> Self:
        """The model at an input size, (H, W); without one at the form's base size."""
        fixed = form.sizing.check(size or form.sizing.base)
        path = clean(origin, fixed)
        height, width = fixed
        how = form.preprocessing
        shape = (1, how.channels, height, width)
        if how.layout == "nhwc":
            shape = (1, height, width, how.channels)
        planes = tuple(np.empty(fixed, np.uint8) for _ in range(how.channels))
        buffers = _Buffers(np.empty(shape, how.element), planes)
        return cls(name, origin, path, form, fixed, image_input(path).name, buffers)

    def __repr__(self) -> str:
        return f"<Model {self.name} {self.task} {self.size[1]}x{self.size[0]}>"

    @property
    def task(self) -> Task:
        return self.form.task

    @property
    def labels(self) -> tuple[str, ...]:
        return self.form.labels

    def for_source(self, height: int, width: int) -> Self:
        """This model at the input size that suits a source of that many pixels."""
        size = self.form.sizing.for_source(height, width)
        return self if size == self.size else self.at(self.name, self.origin, self.form, size)

    def with_confidence(self, confidence: float) -> Self:
        """This model with another least confidence, 0..1."""
        if not 0.0 <= confidence <= 1.0:
            raise ModelError(f"expected a confidence in 0..1, got {confidence}")
        return replace(self, form=replace(self.form, confidence=confidence))

    def fit(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], View]:
        """(h, w, 3) uint8 RGB -> the same at the model's size, (H, W, 3), and how it lies.

        A picture that has the model's size already comes back itself, not a copy.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ModelError(f"expected a picture (h, w, 3) uint8, got {image.shape} {image.dtype}")
        height, width = self.size
        source = image.shape[0], image.shape[1]
        if source == self.size:
            return image, View(source, self.size, (1.0, 1.0))
        scale = width / source[1], height / source[0]
        how = self.form.preprocessing
        if how.fit == "stretch":
            return _resized(image, (width, height)), View(source, self.size, scale)
        least = min(scale)
        inner = max(1, round(source[1] * least)), max(1, round(source[0] * least))
        left = (width - inner[0]) // 2 if how.align == "centre" else 0
        top = (height - inner[1]) // 2 if how.align == "centre" else 0
        fitted: NDArray[np.uint8] = np.full((height, width, 3), how.fill, np.uint8)
        part = fitted[top : top + inner[1], left : left + inner[0]]
        part[...] = image if inner == source[::-1] else _resized(image, inner)
        scale = inner[0] / source[1], inner[1] / source[0]
        return fitted, View(source, self.size, scale, (left, top))

    def feed(self, fitted: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """(H, W, 3) uint8 from `fit` -> the model's input tensor under its name.

        The tensor is this model's own buffer, valid until the next call: two threads that feed at
        the same time need a model each.
        """
        if fitted.shape != (*self.size, 3) or fitted.dtype != np.uint8:
            raise ModelError(
                f"{self.name}: expected a fitted picture {(*self.size, 3)} uint8, "
                f"got {fitted.shape} {fitted.dtype}"
            )
        how, tensor, planes = self.form.preprocessing, self._buffers.tensor, self._buffers.planes
        if how.order == "grey":
            cv2.cvtColor(fitted, cv2.COLOR_RGB2GRAY, planes[0])
            ordered: Sequence[NDArray[np.uint8]] = planes
        else:
            cv2.split(fitted, planes)
            ordered = planes if how.order == "rgb" else planes[::-1]
        for channel, (gain, bias) in enumerate(how.gains()):
            out = tensor[0, channel] if how.layout == "nchw" else tensor[0, :, :, channel]
            if gain == 1 or how.element == "uint8":
                np.copyto(out, ordered[channel])
            else:
                np.multiply(ordered[channel], gain, out=out, casting="same_kind")
            if bias and how.element != "uint8":
                out += bias
        return {self.input_name: tensor}

    def decode(self, outputs: Outputs, view: View) -> Result:
        """The graph's outputs, in its order, as a result in source pixels."""
        return self.form.decoder(outputs, view, self.form)


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) -> the same picture at (width, height)."""
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
