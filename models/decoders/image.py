"""Decoder of networks that answer a picture with a picture: upscalers, restorers, styles."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from stillframe.errors import ModelError
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Picture

Span = tuple[int, int]
SPANS: tuple[Span, ...] = ((0, 1), (0, 255), (-1, 1))
"""What stands for black and for white in pictures that networks make."""


@dataclass(frozen=True, slots=True)
class Painter:
    """The first output as a picture of its own size, what fit added around it cut off.

    layout, order: of the output's three channels. black, white: what stands for them; values
    beyond are cut off.
    """

    layout: Literal["nchw", "nhwc"] = "nchw"
    order: Literal["rgb", "bgr"] = "rgb"
    black: float = 0.0
    white: float = 1.0

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Picture:
        axis = 1 if self.layout == "nchw" else 3
        if not outputs or outputs[0].ndim != 4 or outputs[0].shape[axis] != 3:
            got = " ".join("x".join(map(str, o.shape)) for o in outputs)
            raise ModelError(f"image: expected one output of 3 channels ({self.layout}), got {got}")
        painted = outputs[0][0]
        planes = list(painted if self.layout == "nchw" else np.moveaxis(painted, 2, 0))
        if self.order == "bgr":
            planes.reverse()
        rows, columns = (planes[0].shape[i] / view.size[i] for i in (0, 1))
        left, top = view.offset[0] * columns, view.offset[1] * rows
        right = left + view.source[1] * view.scale[0] * columns
        bottom = top + view.source[0] * view.scale[1] * rows
        part = slice(round(top), round(bottom)), slice(round(left), round(right))
        picture = cv2.merge([np.ascontiguousarray(plane[part], np.float32) for plane in planes])
        # cut off first: OpenCV rounds through int32, where a huge value wraps round
        light = np.clip(picture, self.black, self.white) - self.black
        gain = 255.0 / (self.white - self.black)
        return Picture(np.asarray(cv2.convertScaleAbs(light, alpha=gain), np.uint8))
