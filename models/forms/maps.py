"""Rules for dense outputs: images, segmentation maps and masks; and for unchanged tensors."""

import contextlib
import math
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from stillframe.errors import ModelError
from stillframe.models.decoders import segmentation
from stillframe.models.decoders.image import VALUE_RANGES, ImageDecoder, ValueRange
from stillframe.models.decoders.tensors import TensorDecoder
from stillframe.models.forms.inspection import InspectedModel, sample_image
from stillframe.models.forms.rule import (
    MAX_CLASSES,
    NUMBERED,
    UNIT,
    FormRule,
    Match,
    fixed_shape,
    form_for,
    labels_for,
    own_labels,
)
from stillframe.models.model import IMAGENET, Form, Preprocessing

MAX_SCALE, MIN_SCALE = 8, 1 / 16  # of a dense output, relative to the input's size
PROBE_SIZE = (128, 128)  # an image network of free size is tried at this size
FLOAT_TYPES = ("float", "float16", "double")  # ONNX Runtime's names
PROBABILITY_OPS = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Clip"})  # give 0..1
PREPROCESSING: dict[ValueRange, Preprocessing] = {
    (0, 1): UNIT,
    (0, 255): Preprocessing(),
    (-1, 1): replace(UNIT, mean=(0.5,) * 3, deviation=(0.5,) * 3),
}
"""Of an image network, by the values of black and white in its input and output."""

CLASS_WORDS = ("seg", "semantic", "mask", "logits", "classes")
"""Parts of names of outputs with a channel for each class."""
DATA_SET_CLASSES = frozenset({19, 21, 150})
"""Of Cityscapes, Pascal VOC with its background, ADE20K."""

Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True, slots=True)
class DenseOutput:
    """An output that covers the whole image."""

    layout: Layout
    channels: int
    scale: float
    """Its size relative to the input's."""


def dense_map(model: InspectedModel, index: int = 0) -> DenseOutput | None:
    """An output that covers the whole image, (1, h, w) or with channels; None for any other."""
    shape = fixed_shape(model.shapes[index])
    if len(shape) == 3 and model.image_input.layout == "nhwc":
        shape = (*shape, 1)
    elif len(shape) == 3:
        shape = (shape[0], 1, *shape[1:])
    if len(shape) != 4 or shape[0] != 1:
        return None
    nchw, nhwc = ("nchw", *shape[1:]), ("nhwc", shape[3], *shape[1:3])
    both = (nchw, nhwc) if model.image_input.layout == "nchw" else (nhwc, nchw)
    for layout, channels, rows, columns in both:
        scale = rows / model.size[0]
        even = math.isclose(scale, columns / model.size[1], rel_tol=0.02)
        if even and MIN_SCALE <= scale <= MAX_SCALE:
            return DenseOutput("nchw" if layout == "nchw" else "nhwc", channels, scale)
    return None


def _is_class_indices(model: InspectedModel) -> bool:
    """The only output is one integer per pixel."""
    shape = model.shapes[0]
    sizes = [d for d in shape[1:] if d != 1]
    integer = "int" in model.outputs[0].element
    return len(model.shapes) == 1 and integer and len(shape) in (3, 4) and sizes == [*model.size]


def _is_image(model: InspectedModel) -> bool:
    dense = dense_map(model)
    element = model.outputs[0].element
    fits = dense and dense.channels == 3 and dense.scale >= 1 and len(model.shapes) == 1
    return bool(fits and (element in FLOAT_TYPES or element == "uint8"))


def _is_class_map(model: InspectedModel) -> Match:
    """A number of channels is not enough by itself: features have channels too."""
    dense = dense_map(model)
    if not dense or not 2 <= dense.channels <= MAX_CLASSES or dense.scale > 1:
        return Match.NONE
    output = model.outputs[0]
    if output.element not in FLOAT_TYPES:
        return Match.NONE
    task = model.metadata.get("task")
    if len(own_labels(model)) == dense.channels or task in ("segment", "semantic"):
        return Match.NAMED
    named = any(word in output.name.lower() for word in CLASS_WORDS)
    if named or "Softmax" in output.producers or dense.channels in DATA_SET_CLASSES:
        return Match.SIZE
    return Match.POSSIBLE


def _is_mask(model: InspectedModel) -> Match:
    dense = dense_map(model)
    fits = dense and dense.channels == 1 and dense.scale <= 1
    if not fits or model.outputs[0].element not in FLOAT_TYPES:
        return Match.NONE
    if not only_planes(model):
        return Match.POSSIBLE
    if model.outputs[0].producers <= PROBABILITY_OPS:
        return Match.SIZE
    low, high = sample_range(model)
    # Logits are negative somewhere; what is positive and more than 1 may be a depth.
    return Match.SIZE if low >= 0 and high <= 1 else Match.SHAPE


def only_planes(model: InspectedModel) -> bool:
    """Every output covers the image with one channel, as those of U²-Net at several depths do."""
    dense = [dense_map(model, index) for index in range(len(model.outputs))]
    return all(each is not None and each.channels == 1 for each in dense)


def sample_range(model: InspectedModel, index: int = 0) -> tuple[float, float]:
    """The least and greatest value of an output for the synthetic image."""
    output = model.sample_outputs[index]
    return float(output.min(initial=0)), float(output.max(initial=0))


def common_preprocessing(model: InspectedModel) -> Preprocessing:
    """Of segmentation: channels first is a PyTorch export, usually pretrained on ImageNet."""
    return IMAGENET if model.image_input.layout == "nchw" else UNIT


def _class_indices(model: InspectedModel) -> Form:
    labels = own_labels(model) or NUMBERED[:MAX_CLASSES]
    return form_for(
        model, "segmentation", segmentation.class_indices, labels, common_preprocessing(model)
    )


def _class_map(model: InspectedModel) -> Form:
    dense = dense_map(model)
    assert dense is not None  # it matches
    decoder = segmentation.ClassMap(dense.layout)
    return form_for(
        model,
        "segmentation",
        decoder,
        labels_for(model, dense.channels),
        common_preprocessing(model),
    )


def _mask(model: InspectedModel) -> Form:
    dense = dense_map(model)
    assert dense is not None  # it matches
    labels = own_labels(model)
    raw = False
    if not model.outputs[0].producers <= PROBABILITY_OPS:
        low, high = sample_range(model)
        raw = low < 0 or high > 1
    decoder = segmentation.Probability(dense.layout, raw=raw)
    if len(labels) != 1:
        labels = ("foreground",)
    return form_for(model, "segmentation", decoder, labels, common_preprocessing(model))


def _image(model: InspectedModel) -> Form:
    dense = dense_map(model)
    assert dense is not None  # it matches
    value_range = None
    if model.size_is_free:
        with contextlib.suppress(ModelError):  # not every size works for every network
            value_range = _value_range(InspectedModel.open(model.path, PROBE_SIZE), dense.layout)
    value_range = value_range or _value_range(model, dense.layout)
    preprocessing = PREPROCESSING[value_range]
    decoder = ImageDecoder(dense.layout, black=value_range[0], white=value_range[1])
    return form_for(model, "image", decoder, (), preprocessing, multiple=1)


def _value_range(model: InspectedModel, layout: Layout) -> ValueRange:
    """The values of black and white: those for which the output is most like the input.

    Image networks use the same range for both.
    """
    image = sample_image(*model.size).astype(np.float64) / 255

    def squared_error(value_range: ValueRange) -> float:
        black, white = value_range
        output = model.run_sample(black, white)[0][0].astype(np.float64)
        output = output if layout == "nhwc" else np.moveaxis(output, 0, 2)
        result = cv2.resize((output - black) / (white - black), model.size[::-1])
        return float(np.square(np.nan_to_num(result, nan=1e3) - image).mean())

    return min(VALUE_RANGES, key=squared_error)


RULES: tuple[FormRule, ...] = (
    FormRule(
        "class-numbers",
        "segmentation",
        "integers 1xHxW, the class of each pixel",
        _is_class_indices,
        _class_indices,
        Match.SIZE,
    ),
    FormRule(
        "picture",
        "image",
        "an image 1x3x(k*H)x(k*W), or with the channels last",
        _is_image,
        _image,
    ),
    FormRule(
        "class-scores",
        "segmentation",
        "scores of each class 1xclassesxhxw, or with the classes last; by names, a softmax, or "
        "19, 21 or 150 classes",
        _is_class_map,
        _class_map,
    ),
    FormRule(
        "mask",
        "segmentation",
        "one map 1x1xhxw of a probability, or before its sigmoid, or with the channel last",
        _is_mask,
        _mask,
    ),
    FormRule(
        "raw",
        "tensors",
        "anything",
        lambda model: False,  # only when asked for
        lambda model: form_for(
            model, "tensors", TensorDecoder(tuple(o.name for o in model.outputs)), (), UNIT
        ),
    ),
)
