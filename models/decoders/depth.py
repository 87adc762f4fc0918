"""Decoder of monocular depth networks: one value for each pixel."""

import numpy as np

from stillframe.errors import ModelError
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Depth


def depth_map(outputs: Outputs, view: View, form: Form) -> Depth:
    """(1, h, w), (1, 1, h, w) or (1, h, w, 1): the depth of each pixel, smoothly enlarged."""
    output = np.asarray(outputs[0], np.float32)
    sides = [side for side in output.shape[1:] if side != 1]
    if len(sides) != 2:
        got = "x".join(map(str, output.shape))
        raise ModelError(f"depth: expected one value for each pixel, 1xhxw or 1x1xhxw, got {got}")
    return Depth(np.ascontiguousarray(view.to_source(output.reshape(sides)), np.float32))
