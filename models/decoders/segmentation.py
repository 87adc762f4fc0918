"""Decoders of segmentation networks: a class, or a probability, for each pixel."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.decoders.detection import expect
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Mask


@dataclass(frozen=True, slots=True)
class Probability:
    """An output of one channel as the probability of the single label."""

    layout: Literal["nchw", "nhwc"] = "nchw"
    """Of the output; one without channels, (1, h, w), is as it is."""
    raw: bool = False
    """The output is a logit, before the sigmoid."""
    output: int = 0
    """Its index."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Mask:
        values = outputs[self.output]
        if values.ndim == 3:
            values = values[:, None] if self.layout == "nchw" else values[..., None]
        shape = (1, 1, "h", "w") if self.layout == "nchw" else (1, "h", "w", 1)
        expect((values,), (shape,), "mask")
        single = values[0, 0] if self.layout == "nchw" else values[0, :, :, 0]
        probability = np.asarray(single, np.float32)
        if self.raw:
            probability = 0.5 * (1 + np.tanh(0.5 * probability))  # a sigmoid that cannot overflow
        return Mask(np.clip(view.to_source(probability), 0, 1).astype(np.float32), form.labels)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The first output has one channel per class: the class of a pixel is the largest."""

    layout: Literal["nchw", "nhwc"] = "nchw"
    """Of the output."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Mask:
        count = len(form.labels)
        shape = (1, count, "h", "w") if self.layout == "nchw" else (1, "h", "w", count)
        expect(outputs[:1], (shape,), "segmentation")
        classes = outputs[0][0].argmax(0 if self.layout == "nchw" else 2)
        return Mask(view.to_source(classes.astype(np.uint8), smooth=False), form.labels)


def class_indices(outputs: Outputs, view: View, form: Form) -> Mask:
    """(1, h, w), (1, 1, h, w) or (1, h, w, 1) integers: the class of each pixel."""
    classes: NDArray[Any] = outputs[0]
    if classes.ndim == 4 and 1 in classes.shape[1::2]:
        classes = classes.squeeze(1 if classes.shape[1] == 1 else 3)
    expect((classes,), ((1, "h", "w"),), "segmentation")
    classes = classes[0]
    last = int(classes.max(initial=0))
    if last >= len(form.labels) or int(classes.min(initial=0)) < 0:
        raise ModelError(f"segmentation: {len(form.labels)} classes expected, got class {last}")
    return Mask(view.to_source(classes.astype(np.uint8), smooth=False), form.labels)
