"""Decoder of P-Net, the first stage of MTCNN (Zhang et al. 2016), at one scale.

A fully convolutional network over 12×12 windows two pixels apart, without padding: per window, the
probability of a face and the offsets of its box. MTCNN runs it over a pyramid of scales and refines
the boxes; here it runs at one scale, so it finds faces of about one size.

The weights were trained on images with rows and columns exchanged. Exchanging the axes of the
kernels instead gives the same network for upright images: `transpose_kernels` does that once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.decoders.detection import suppress
from stillframe.models.decoders.faint import faint_limit, separated, without_surplus
from stillframe.models.model import Form, Outputs, View
from stillframe.models.results import Detections

WINDOW_PX, STRIDE_PX = 12, 2


def pnet(outputs: Outputs, view: View, form: Form) -> Detections:
    """(1, h, w, 4) offsets and (1, h, w, 2) probabilities of background and face -> faces.

    Offsets are left, top, right, bottom, relative to the window's size.
    """
    offsets, probabilities = (
        _channels_last(_of_depth(outputs, depth), depth)[0] for depth in (4, 2)
    )
    if offsets.shape[:2] != probabilities.shape[:2]:
        raise ModelError(
            f"pnet: outputs of one size expected, got {offsets.shape} {probabilities.shape}"
        )
    ys, xs = np.nonzero(probabilities[:, :, 1] >= faint_limit(form))
    score = probabilities[ys, xs, 1]
    considered = without_surplus(score, score >= form.confidence)
    ys, xs, score = ys[considered], xs[considered], score[considered]
    corner = np.stack((xs, ys), 1) * STRIDE_PX + 1
    windows = np.concatenate((corner, corner + WINDOW_PX - 1), 1).astype(np.float32)
    # As published: windows are suppressed before the offsets are applied.
    strong = int(np.count_nonzero(score >= form.confidence))
    keep = suppress(windows, score, form.overlap, strong=strong)
    boxes = windows[keep] + offsets[ys, xs][keep] * (WINDOW_PX - 1)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    strong = int(np.count_nonzero(score[keep] >= form.confidence))
    return separated(view.boxes(boxes), score[keep], np.zeros(len(keep), np.int64), form, strong)[0]


def transpose_kernels(file: bytes) -> bytes:
    """The ONNX file for upright images: the two axes of every convolution kernel exchanged.

    Valid for networks of convolutions, pools and pointwise operators that treat both axes alike.
    """
    import onnx  # only where weights are converted
    from onnx import numpy_helper

    model = onnx.load_model_from_string(file)
    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            kernel = numpy_helper.to_array(tensor)
            swapped = np.ascontiguousarray(kernel.swapaxes(2, 3))
            tensor.CopyFrom(numpy_helper.from_array(swapped, tensor.name))
    return bytes(model.SerializeToString())


def _of_depth(outputs: Outputs, depth: int) -> NDArray[Any]:
    """The output with that many channels, first or last."""
    for output in outputs:
        if output.ndim == 4 and depth in (output.shape[1], output.shape[3]):
            return output
    got = " ".join("x".join(map(str, o.shape)) for o in outputs)
    raise ModelError(f"pnet: expected an output of {depth} channels, got {got}")


def _channels_last(output: NDArray[Any], depth: int) -> NDArray[Any]:
    return output if output.shape[3] == depth else output.transpose(0, 2, 3, 1)
