"""How networks are recognised that answer with a picture, or say what each pixel belongs to."""

import contextlib
import math
from dataclasses import replace
from typing import Literal

import cv2
import numpy as np

from stillframe.errors import ModelError
from stillframe.models.decoders import segmentation
from stillframe.models.decoders.image import SPANS, Painter, Span
from stillframe.models.decoders.tensors import Named
from stillframe.models.forms.inspection import Seen, drawn
from stillframe.models.forms.rule import UNIT, FormRow, form_for, known, labels_for, own_labels
from stillframe.models.model import IMAGENET, Form, Preprocessing

MOST_CLASSES = 256  # of a map: a class is kept in a byte
FINEST, COARSEST = 8, 1 / 16  # times the input's size: what a map or picture may have
TRIAL_SIZE = (128, 128)  # where the size is open, a picture network is tried out at this one
FLOATS = ("float", "float16", "double")  # in ONNX Runtime's words
DONE = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Clip"})  # leave a probability
HOW: dict[Span, Preprocessing] = {
    (0, 1): UNIT,
    (0, 255): Preprocessing(),
    (-1, 1): replace(UNIT, mean=(0.5,) * 3, deviation=(0.5,) * 3),
}
"""By what stands for black and white on either side of a picture network."""

Layout = Literal["nchw", "nhwc"]


def _map(seen: Seen) -> tuple[Layout, int, float] | None:
    """Layout, channels and scale of the first output when it covers the whole picture."""
    shape = known(seen.shapes[0])
    if len(shape) != 4 or shape[0] != 1:
        return None
    nchw, nhwc = ("nchw", *shape[1:]), ("nhwc", shape[3], *shape[1:3])
    both = (nchw, nhwc) if seen.picture.layout == "nchw" else (nhwc, nchw)
    for layout, channels, rows, columns in both:
        scale = rows / seen.size[0]
        even = math.isclose(scale, columns / seen.size[1], rel_tol=0.02)
        if even and COARSEST <= scale <= FINEST:
            return ("nchw" if layout == "nchw" else "nhwc"), channels, scale
    return None


def _numbered(seen: Seen) -> bool:
    """Whole numbers, one a pixel."""
    shape = seen.shapes[0]
    pixels = [d for d in shape[1:] if d != 1]
    whole = "int" in seen.outputs[0].element
    return len(seen.shapes) == 1 and whole and len(shape) in (3, 4) and pixels == [*seen.size]


def _is_image(seen: Seen) -> bool:
    found = _map(seen)
    told = seen.outputs[0].element
    fits = found and found[1] == 3 and found[2] >= 1 and len(seen.shapes) == 1
    return bool(fits and (told in FLOATS or told == "uint8"))


def _is_class_map(seen: Seen) -> bool:
    found = _map(seen)
    fits = found and 2 <= found[1] <= MOST_CLASSES and found[2] <= 1
    return bool(fits and seen.outputs[0].element in FLOATS)


def _is_mask(seen: Seen) -> bool:
    found = _map(seen)
    return bool(found and found[1] == 1 and found[2] <= 1 and seen.outputs[0].element in FLOATS)


def _usual(seen: Seen) -> Preprocessing:
    """Of segmentation: PyTorch's exports have channels first and start from ImageNet's weights."""
    return IMAGENET if seen.picture.layout == "nchw" else UNIT


def _numbered_form(seen: Seen) -> Form:
    labels = own_labels(seen) or labels_for(seen, MOST_CLASSES)
    return form_for(seen, "segmentation", segmentation.numbered, labels, _usual(seen))


def _class_map(seen: Seen) -> Form:
    found = _map(seen)
    assert found is not None  # it fits
    decoder = segmentation.ClassMap(found[0])
    return form_for(seen, "segmentation", decoder, labels_for(seen, found[1]), _usual(seen))


def _mask(seen: Seen) -> Form:
    found = _map(seen)
    assert found is not None  # it fits
    labels = own_labels(seen)
    raw = False
    if not seen.outputs[0].ends <= DONE:
        answer = seen.first_answer[0]
        raw = bool(answer.min() < 0 or answer.max() > 1)
    decoder = segmentation.Probability(found[0], raw=raw)
    if len(labels) != 1:
        labels = ("foreground",)
    return form_for(seen, "segmentation", decoder, labels, _usual(seen))


def _image(seen: Seen) -> Form:
    found = _map(seen)
    assert found is not None  # it fits
    span = None
    if seen.open:
        with contextlib.suppress(ModelError):  # not every size works for every network
            span = _span(Seen.at(seen.path, TRIAL_SIZE), found[0])
    span = span or _span(seen, found[0])
    how = HOW[span]
    decoder = Painter(found[0], black=span[0], white=span[1])
    return form_for(seen, "image", decoder, (), how, multiple=1)


def _span(seen: Seen, layout: Layout) -> Span:
    """What stands for black and white: that for which the answer is most like the question.

    Picture networks speak the same range on both sides.
    """
    asked = drawn(*seen.size).astype(np.float64) / 255

    def unlike(span: Span) -> float:
        black, white = span
        answer = seen.answer(black, white)[0][0].astype(np.float64)
        picture = answer if layout == "nhwc" else np.moveaxis(answer, 0, 2)
        shown = cv2.resize((picture - black) / (white - black), seen.size[::-1])
        return float(np.square(np.nan_to_num(shown, nan=1e3) - asked).mean())

    return min(SPANS, key=unlike)


ROWS: tuple[FormRow, ...] = (
    FormRow(
        "class-numbers",
        "segmentation",
        "whole numbers 1xHxW, the class of each pixel",
        _numbered,
        _numbered_form,
    ),
    FormRow(
        "picture",
        "image",
        "a picture 1x3x(k*H)x(k*W), or with the channels last",
        _is_image,
        _image,
    ),
    FormRow(
        "class-scores",
        "segmentation",
        "a map of each class 1xclassesxhxw, or with the classes last",
        _is_class_map,
        _class_map,
    ),
    FormRow(
        "mask",
        "segmentation",
        "one map 1x1xhxw, or with the channel last",
        _is_mask,
        _mask,
    ),
    FormRow(
        "raw",
        "tensors",
        "anything",
        lambda seen: False,  # only when asked for
        lambda seen: form_for(
            seen, "tensors", Named(tuple(o.name for o in seen.outputs)), (), UNIT
        ),
    ),
)
