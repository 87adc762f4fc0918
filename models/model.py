"""A model at one input size: preprocessing of frames, decoding of outputs.

    source frame (h, w, 3) --fit--> (H, W, 3) uint8 --feed--> tensor --backend--> outputs
                               \\--> View -----------------------------decode--> Result

`Form` is all of that except the weights, so one form serves many files; `Model` adds the cleaned
ONNX file, its input size and the buffers that `feed` fills.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.formats.cleaned_file import cleaned_file
from stillframe.models.formats.side_inputs import MAX_SIDE, SideInputs
from stillframe.models.results import Result, with_labels

Task = Literal["detection", "segmentation", "classification", "depth", "image", "tensors"]
TASKS: tuple[Task, ...] = get_args(Task)

Outputs = Sequence[NDArray[Any]]


@dataclass(frozen=True, slots=True)
class View:
    """The mapping from source to model pixels: model = source * scale + offset."""

    source: tuple[int, int]
    """(height, width) of the source, pixels."""
    size: tuple[int, int]
    """(height, width) of the model's input, pixels."""
    scale: tuple[float, float]
    """(x, y) model pixels per source pixel."""
    offset: tuple[float, float] = (0.0, 0.0)
    """(x, y) of the source's top left corner, model pixels."""

    def points(self, xy: NDArray[Any]) -> NDArray[np.float32]:
        """(..., 2) points in model pixels -> in source pixels."""
        mapped = (np.asarray(xy, np.float64) - self.offset) / self.scale
        return mapped.astype(np.float32)

    def boxes(self, xyxy: NDArray[Any]) -> NDArray[np.float32]:
        """(n, 4) boxes in model pixels -> in source pixels, clipped to the source."""
        height, width = self.source
        mapped = self.points(np.asarray(xyxy).reshape(-1, 2, 2))
        limits = np.array((width, height), np.float32)
        return np.clip(mapped, np.float32(0), limits).reshape(-1, 4)

    def to_source(self, values: NDArray[Any], *, smooth: bool = True) -> NDArray[Any]:
        """(H', W') or (H', W', C) over the whole model input -> over the whole source.

        Letterbox borders are cropped first. smooth: linear interpolation; False takes the nearest
        value, as class indices need.
        """
        rows, columns = values.shape[0] / self.size[0], values.shape[1] / self.size[1]
        left, top = self.offset[0] * columns, self.offset[1] * rows
        right = left + self.source[1] * self.scale[0] * columns
        bottom = top + self.source[0] * self.scale[1] * rows
        cropped = values[round(top) : round(bottom), round(left) : round(right)]
        if cropped.shape[:2] == self.source:
            return cropped
        interpolation = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
        resized: NDArray[Any] = cv2.resize(cropped, self.source[::-1], interpolation=interpolation)
        return resized


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """RGB 0..255 -> what the network was trained on: (x * scale - mean) / deviation."""

    layout: Literal["nchw", "nhwc"] = "nchw"
    order: Literal["rgb", "bgr", "grey"] = "rgb"
    """Channels of the network's input; "grey" is one channel."""
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Per channel, in the network's order, after scaling; as is deviation."""
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    fit: Literal["stretch", "letterbox"] = "stretch"
    """Whether to ignore the source's aspect ratio ("stretch") or to keep it and fill the rest."""
    align: Literal["centre", "corner"] = "centre"
    """Where a letterboxed source lies: centred, or in the top left corner."""
    fill: int = 0
    """Grey value, 0..255, around a letterboxed source."""
    element: Literal["float32", "float16", "uint8"] = "float32"
    """Dtype of the tensor."""

    @property
    def channels(self) -> int:
        return 1 if self.order == "grey" else 3

    def gains(self) -> list[tuple[np.float32, np.float32]]:
        """(gain, bias) of each channel: tensor = pixel * gain + bias."""
        statistics = zip(self.mean, self.deviation, strict=True)
        gains = [(np.float32(self.scale / d), np.float32(-m / d)) for m, d in statistics]
        return gains[: self.channels]


IMAGENET = Preprocessing(scale=1 / 255, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
"""What most networks trained or pretrained on ImageNet expect."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """The input sizes that a model takes."""

    base: tuple[int, int]
    """(H, W) used when the source is unknown."""
    longest: int = 0
    """Largest longer side of any other size, pixels; 0: only the base size works."""
    multiple: int = 32
    """Both sides are multiples of this."""

    def for_source(self, height: int, width: int) -> tuple[int, int]:
        """The input size for a source: its aspect ratio, never enlarged, rounded up."""
        if height < 1 or width < 1:
            raise ModelError(f"expected a source of at least 1x1 pixels, got {width}x{height}")
        if not self.longest:
            return self.base
        shrink = min(1.0, self.longest / max(height, width))
        multiples = [max(1, -int(-s * shrink // self.multiple)) for s in (height, width)]
        return multiples[0] * self.multiple, multiples[1] * self.multiple

    def check(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size itself; raises ModelError if the model cannot run at it."""
        height, width = size
        if size == self.base:
            return size
        if not self.longest:
            expected = f"{self.base[1]}x{self.base[0]}, the only size of this model"
        elif min(size) < 1 or max(size) > MAX_SIDE:
            expected = f"sides of 1..{MAX_SIDE} pixels"
        elif height % self.multiple or width % self.multiple:
            expected = f"multiples of {self.multiple}"
        else:
            return size
        raise ModelError(f"model input size: expected {expected}, got {width}x{height}")


@dataclass(frozen=True, slots=True)
class Form:
    """What goes in and what the outputs mean: all of a model except its weights."""

    task: Task
    decoder: "Decoder"
    """(outputs in graph order, view, this form) -> the result in source pixels."""
    sizing: Sizing
    preprocessing: Preprocessing = Preprocessing()
    labels: tuple[str, ...] = ()
    """Class names, by class index."""
    confidence: float = 0.5
    """Detections with a lower score are dropped."""
    overlap: float = 0.45
    """Suppression: of two boxes of one class with this IoU or more, the weaker is dropped."""
    classes: frozenset[str] = frozenset()
    """Labels of the detections that are reported; empty: all."""
    open_classes: bool = False
    """The outputs do not tell how many classes there are: labels are mere numbers."""
    name: str = ""
    """The form's name in the table of forms, or "" for a model with a name of its own."""
    side: SideInputs = field(default_factory=SideInputs)
    """What inputs beside the picture are fed."""


Decoder = Callable[[Outputs, View, Form], Result]


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What `feed` writes into, allocated once."""

    tensor: NDArray[Any]
    planes: tuple[NDArray[np.uint8], ...]
    """(H, W) per channel of the fitted frame."""
    states: dict[str, NDArray[Any]]
    """Before the first frame, by the name of the input that they are fed back to."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Model:
    """One model at one input size. Create it with `stillframe.load` or `Model.at`."""

    name: str
    origin: Path
    """The ONNX file before cleaning."""
    path: Path
    """The cleaned file, with every shape fixed."""
    form: Form
    size: tuple[int, int]
    """(H, W) of the input."""
    input_name: str
    """Of the graph's input."""
    _buffers: _Buffers

    @classmethod
    def at(cls, name: str, origin: Path, form: Form, size: tuple[int, int] | None = None) -> Self:
        """The model at an input size (H, W), by default the form's base size."""
        fixed = form.sizing.check(size or form.sizing.base)
        cleaned = cleaned_file(origin, fixed, form.side, form.preprocessing.layout)
        height, width = fixed
        preprocessing = form.preprocessing
        shape = (1, preprocessing.channels, height, width)
        if preprocessing.layout == "nhwc":
            shape = (1, height, width, preprocessing.channels)
        planes = tuple(np.empty(fixed, np.uint8) for _ in range(preprocessing.channels))
        tensor = np.empty(shape, preprocessing.element)
        buffers = _Buffers(tensor, planes, cleaned.zero_states())
        return cls(name, origin, cleaned.path, form, fixed, cleaned.input_name, buffers)

    def __repr__(self) -> str:
        return f"<Model {self.name} {self.task} {self.size[1]}x{self.size[0]}>"

    @property
    def task(self) -> Task:
        return self.form.task

    @property
    def labels(self) -> tuple[str, ...]:
        return self.form.labels

    def for_source(self, height: int, width: int) -> Self:
        """This model at the input size for a source of that size in pixels."""
        size = self.form.sizing.for_source(height, width)
        return self if size == self.size else self.at(self.name, self.origin, self.form, size)

    def with_confidence(self, confidence: float) -> Self:
        """This model with another confidence threshold, 0..1."""
        if not 0.0 <= confidence <= 1.0:
            raise ModelError(f"expected a confidence in 0..1, got {confidence}")
        return replace(self, form=replace(self.form, confidence=confidence))

    def fit(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], View]:
        """(h, w, 3) uint8 RGB -> the same at the model's size, (H, W, 3), and its View.

        An image of the model's size is returned itself, not copied.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ModelError(f"expected an image (h, w, 3) uint8, got {image.shape} {image.dtype}")
        height, width = self.size
        source = image.shape[0], image.shape[1]
        if source == self.size:
            return image, View(source, self.size, (1.0, 1.0))
        scale = width / source[1], height / source[0]
        preprocessing = self.form.preprocessing
        if preprocessing.fit == "stretch":
            return _resized(image, (width, height)), View(source, self.size, scale)
        smaller = min(scale)
        inner = max(1, round(source[1] * smaller)), max(1, round(source[0] * smaller))
        centred = preprocessing.align == "centre"
        left = (width - inner[0]) // 2 if centred else 0
        top = (height - inner[1]) // 2 if centred else 0
        fitted: NDArray[np.uint8] = np.full((height, width, 3), preprocessing.fill, np.uint8)
        area = fitted[top : top + inner[1], left : left + inner[0]]
        area[...] = image if inner == source[::-1] else _resized(image, inner)
        scale = inner[0] / source[1], inner[1] / source[0]
        return fitted, View(source, self.size, scale, (left, top))

    def feed(self, fitted: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """(H, W, 3) uint8 from `fit` -> the model's input tensor by its name.

        States that are fed back follow it, as they are before the first frame; a backend replaces
        them.

        The tensor is this model's own buffer, valid until the next call: two threads that feed
        concurrently need a model each.
        """
        if fitted.shape != (*self.size, 3) or fitted.dtype != np.uint8:
            raise ModelError(
                f"{self.name}: expected a fitted image {(*self.size, 3)} uint8, "
                f"got {fitted.shape} {fitted.dtype}"
            )
        preprocessing = self.form.preprocessing
        tensor, planes = self._buffers.tensor, self._buffers.planes
        if preprocessing.order == "grey":
            cv2.cvtColor(fitted, cv2.COLOR_RGB2GRAY, planes[0])
            ordered: Sequence[NDArray[np.uint8]] = planes
        else:
            cv2.split(fitted, planes)
            ordered = planes if preprocessing.order == "rgb" else planes[::-1]
        channels_first = preprocessing.layout == "nchw"
        for channel, (gain, bias) in enumerate(preprocessing.gains()):
            out = tensor[0, channel] if channels_first else tensor[0, :, :, channel]
            if gain == 1 or preprocessing.element == "uint8":
                np.copyto(out, ordered[channel])
            else:
                np.multiply(ordered[channel], gain, out=out, casting="same_kind")
            if bias and preprocessing.element != "uint8":
                out += bias
        return {self.input_name: tensor, **self._buffers.states}

    def decode(self, outputs: Outputs, view: View) -> Result:
        """The graph's outputs, in graph order -> the result in source pixels."""
        states = len(self._buffers.states)  # the last outputs
        result = self.form.decoder(outputs[: len(outputs) - states], view, self.form)
        return with_labels(result, self.form.classes)


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) -> the same image at (width, height)."""
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
