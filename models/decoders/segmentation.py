"""Decoders of networks that say for each pixel what it belongs to."""

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
    """The first output, one channel, as the probability of the single label.

    layout: of the output. raw: before the sigmoid.
    """

    layout: Literal["nchw", "nhwc"] = "nchw"
    raw: bool = False

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Mask:
        shape = (1, 1, "h", "w") if self.layout == "nchw" else (1, "h", "w", 1)
        expect(outputs[:1], (shape,), "mask")
        single = outputs[0][0, 0] if self.layout == "nchw" else outputs[0][0, :, :, 0]
        chance = np.asarray(single, np.float32)
        if self.raw:
            chance = 0.5 * (1 + np.tanh(0.5 * chance))  # a sigmoid that cannot overflow
        return Mask(np.clip(view.picture(chance), 0, 1).astype(np.float32), form.labels)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """The first output's channels compared: each pixel belongs to the greatest.

    layout: of the output.
    """

    layout: Literal["nchw", "nhwc"] = "nchw"

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Mask:
        count = len(form.labels)
        shape = (1, count, "h", "w") if self.layout == "nchw" else (1, "h", "w", count)
        expect(outputs[:1], (shape,), "segmentation")
        which = outputs[0][0].argmax(0 if self.layout == "nchw" else 2)
        return Mask(view.picture(which.astype(np.uint8), smooth=False), form.labels)


def numbered(outputs: Outputs, view: View, form: Form) -> Mask:
    """(1, h, w), (1, 1, h, w) or (1, h, w, 1) whole numbers: the graph has chosen the class."""
    which: NDArray[Any] = outputs[0]
    if which.ndim == 4:
        which = which.squeeze(1 if which.shape[1] == 1 else 3) if 1 in which.shape[1::2] else which
    expect((which,), ((1, "h", "w"),), "segmentation")
    which = which[0]
    last = int(which.max(initial=0))
    if last >= len(form.labels) or int(which.min(initial=0)) < 0:
        raise ModelError(f"segmentation: {len(form.labels)} classes expected, got class {last}")
    return Mask(view.picture(which.astype(np.uint8), smooth=False), form.labels)
