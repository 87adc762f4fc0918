"""Decoder of networks from image to image: upscalers, restorers, style transfer."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from stillframe.errors import ModelError
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Picture

ValueRange = tuple[int, int]
VALUE_RANGES: tuple[ValueRange, ...] = ((0, 1), (0, 255), (-1, 1))
"""Values of black and white in image outputs."""


@dataclass(frozen=True, slots=True)
class ImageDecoder:
    """The first output as an image of its own size, without the letterbox borders."""

    layout: Literal["nchw", "nhwc"] = "nchw"
    order: Literal["rgb", "bgr"] = "rgb"
    """Of the output's three channels."""
    black: float = 0.0
    """The value of black; values below are clipped."""
    white: float = 1.0
    """The value of white; values above are clipped."""

    def __call__(self, outputs: Outputs, view: View, form: Form) -> Picture:
        axis = 1 if self.layout == "nchw" else 3
        if not outputs or outputs[0].ndim != 4 or outputs[0].shape[axis] != 3:
            got = " ".join("x".join(map(str, o.shape)) for o in outputs)
            raise ModelError(f"image: expected one output of 3 channels ({self.layout}), got {got}")
        output = outputs[0][0]
        planes = list(output if self.layout == "nchw" else np.moveaxis(output, 2, 0))
        if self.order == "bgr":
            planes.reverse()
        rows, columns = (planes[0].shape[i] / view.size[i] for i in (0, 1))
        left, top = view.offset[0] * columns, view.offset[1] * rows
        right = left + view.source[1] * view.scale[0] * columns
        bottom = top + view.source[0] * view.scale[1] * rows
        crop = slice(round(top), round(bottom)), slice(round(left), round(right))
        image = cv2.merge([np.ascontiguousarray(plane[crop], np.float32) for plane in planes])
        # Clipped first: OpenCV rounds through int32, where huge values wrap around.
        clipped = np.clip(image, self.black, self.white) - self.black
        gain = 255.0 / (self.white - self.black)
        return Picture(np.asarray(cv2.convertScaleAbs(clipped, alpha=gain), np.uint8))
