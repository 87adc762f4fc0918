"""Decoder of P-Net, the first stage of MTCNN (Zhang et al. 2016), at one scale.

A fully convolutional network over 12×12 windows two pixels apart, without padding: it gives each
window the chance of a face and how the face lies against it. MTCNN runs it over a pyramid of scales
and refines what it finds; here one scale is run, so it finds faces of about that size.

The weights were trained on pictures with rows and columns exchanged. Exchanging them in the kernels
instead gives the same network for upright pictures: `upright` does that once.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from stillframe.errors import ModelError
from stillframe.models.decoders.detection import suppress
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

WINDOW_PX, STRIDE_PX = 12, 2


def pnet(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, h, w, 4) offsets and (1, h, w, 2) chances of nothing and of a face -> faces.

    Offsets are parts of the window: left, top, right, bottom.
    """
    offsets, chances = (_channels_last(_of_depth(outputs, depth), depth)[0] for depth in (4, 2))
    if offsets.shape[:2] != chances.shape[:2]:
        raise ModelError(f"pnet: outputs of one size expected, got {offsets.shape} {chances.shape}")
    ys, xs = np.nonzero(chances[:, :, 1] >= form.confidence)
    corner = np.stack((xs, ys), 1) * STRIDE_PX + 1
    windows = np.concatenate((corner, corner + WINDOW_PX - 1), 1).astype(np.float32)
    score = chances[ys, xs, 1]
    # as published: the windows are suppressed before they are moved
    keep = suppress(windows, score, form.overlap)
    boxes = windows[keep] + offsets[ys, xs][keep] * (WINDOW_PX - 1)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    return Detections(
        xyxy=view.boxes(boxes),
        confidence=np.clip(score[keep], 0, 1),
        class_id=np.zeros(len(keep), np.int64),
        labels=form.labels,
    )


def upright(file: bytes) -> bytes:
    """The ONNX file for upright pictures: every convolution kernel with its two axes exchanged.

    Right for any net of convolutions, pools and pointwise operators that treat both axes alike.
    """
    turned = onnx.load_model_from_string(file)
    weights = {node.input[1] for node in turned.graph.node if node.op_type == "Conv"}
    for tensor in turned.graph.initializer:
        if tensor.name in weights:
            kernel = numpy_helper.to_array(tensor)
            swapped = np.ascontiguousarray(kernel.swapaxes(2, 3))
            tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    return bytes(turned.SerializeToString())


def _of_depth(outputs: Outputs, depth: int) -> NDArray[Any]:
    for output in outputs:
        if output.ndim == 4 and depth in (output.shape[1], output.shape[3]):
            return output
    got = " ".join("x".join(map(str, o.shape)) for o in outputs)
    raise ModelError(f"pnet: expected an output of {depth} channels, got {got}")


def _channels_last(output: NDArray[Any], depth: int) -> NDArray[Any]:
    return output if output.shape[3] == depth else output.transpose(0, 2, 3, 1)
