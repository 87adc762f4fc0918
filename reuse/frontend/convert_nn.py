"""One row per ONNX operator: how it is said in the engine's operators.

A converter reads a Call, writes nodes through Placing and binds its outputs, or raises
UnsupportedError with the reason that the island will carry. No onnx here: attributes arrive as
Python values.
"""

from collections.abc import Callable, Sequence

import numpy as np

from stillframe.reuse.frontend import convert_transpose, resize_indices
from stillframe.reuse.frontend.context import (
    INTEGER_INPUTS,
    POINT_CONV,
    ImportContext,
    OnnxNode,
    TensorLayout,
    UnsupportedError,
    WrongShapeError,
)
from stillframe.reuse.frontend.convert_pointwise import POINTWISE_CONVERTERS
from stillframe.reuse.frontend.convert_shape import SHAPE_CONVERTERS

Converter = Callable[[ImportContext, OnnxNode], None]
Pads = tuple[int, int, int, int]


def geometry(
    call: OnnxNode, shape: Sequence[int], kernel: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """stride, dilation and pad (top, left, bottom, right), auto_pad worked out."""
    stride = pair(call, "strides")
    dilation = pair(call, "dilations")
    auto = call.attrs.get("auto_pad", "NOTSET")
    pads: Sequence[int] = call.attrs.get("pads") or (0, 0, 0, 0)
    if auto == "VALID":
        pads = (0, 0, 0, 0)
    elif auto != "NOTSET":
        before, behind = [], []
        for axis in (0, 1):
            count = -(-shape[axis] // stride[axis])
            reach = (kernel[axis] - 1) * dilation[axis] + 1
            total = max((count - 1) * stride[axis] + reach - shape[axis], 0)
            small, large = total // 2, total - total // 2
            before.append(large if auto == "SAME_LOWER" else small)
            behind.append(small if auto == "SAME_LOWER" else large)
        pads = (*before, *behind)
    if min(pads) < 0:
        raise UnsupportedError(f"negative pads {list(pads)}")
    return {"stride": stride, "dilation": dilation, "pad": tuple(pads)}


def pair(call: OnnxNode, name: str) -> tuple[int, int]:
    values = tuple(call.attrs.get(name) or (1, 1))
    if len(values) != 2:
        raise UnsupportedError(f"{len(values)}-D {call.op}")
    return values[0], values[1]


def conv(placing: ImportContext, call: OnnxNode) -> None:
    weights = placing.constant(call.inputs[1], "the weight")
    if weights.ndim != 4:
        raise UnsupportedError(f"{weights.ndim - 2}-D convolution")
    x = placing.picture(call.inputs[0])
    kernel = (weights.shape[2], weights.shape[3])
    expected = weights.shape[1] * call.attrs.get("group", 1)
    if x.shape[2] != expected:
        raise UnsupportedError(f"weights for {expected} channels, the input has {x.shape[2]}")
    attrs = {
        **geometry(call, x.shape, kernel),
        "group": call.attrs.get("group", 1),
        "act": None,
        "residual_first": False,
    }
    output = call.output
    bias = np.zeros(weights.shape[0])
    if call.input(2):
        bias = placing.constant(call.inputs[2], "the bias")
    names = [
        call.inputs[0],
        placing.hold(f"{output}~weights", weights.transpose(2, 3, 1, 0)),
        placing.hold(f"{output}~bias", bias),
    ]
    placing.emit("Conv", names, output, attrs)
    placing.bind(output, "NCHW")


def conv_transpose(placing: ImportContext, call: OnnxNode) -> None:
    weights = placing.constant(call.inputs[1], "the weight")
    if weights.ndim != 4:
        raise UnsupportedError(f"{weights.ndim - 2}-D transposed convolution")
    placing.picture(call.inputs[0])
    bias = None
    if call.input(2):
        bias = placing.constant(call.inputs[2], "the bias")
    convert_transpose.write(placing, call, weights, bias)
    placing.bind(call.output, "NCHW")


def pool(placing: ImportContext, call: OnnxNode) -> None:
    if len(call.outputs) > 1 and call.outputs[1]:
        raise UnsupportedError("its indices output")
    x = placing.picture(call.inputs[0])
    kernel = pair(call, "kernel_shape")
    attrs = {
        **geometry(call, x.shape, kernel),
        "kernel": kernel,
        "ceil_mode": bool(call.attrs.get("ceil_mode", 0)),
    }
    if call.op == "AveragePool":
        attrs["count_include_pad"] = bool(call.attrs.get("count_include_pad", 0))
    shape = placing.emit(call.op, [call.inputs[0]], call.output, attrs)
    plain = TensorLayout("NCHW", shape).plain
    if placing.onnx_shapes.get(call.output, plain) != plain:
        raise WrongShapeError(call.output, plain)
    placing.bind(call.output, "NCHW")


def global_pool(placing: ImportContext, call: OnnxNode) -> None:
    placing.picture(call.inputs[0])
    kind = "max" if call.op == "GlobalMaxPool" else "mean"
    placing.emit("GlobalPool", [call.inputs[0]], call.output, {"kind": kind})
    placing.bind(call.output, "NCHW")


def reduce_space(placing: ImportContext, call: OnnxNode) -> None:
    """ReduceMean or ReduceMax over rows and columns; the mean over channels is a convolution."""
    name = call.inputs[0]
    axes = call.attrs.get("axes")
    if call.input(1):
        axes = placing.constant(call.inputs[1], "the list of axes").tolist()
    if not axes:
        raise UnsupportedError("reduces all axes")
    placed = placing.place(name)
    over = sorted(placing.axis(name, axis) for axis in axes)
    if over == [0, 1]:
        kind = "mean" if call.op == "ReduceMean" else "max"
        placing.emit("GlobalPool", [name], call.output, {"kind": kind})
    elif over == [2] and call.op == "ReduceMean":
        depth = placed.shape[2]
        weights = placing.hold(f"{call.output}~weights", np.full((1, 1, depth, 1), 1 / depth))
        bias = placing.hold(f"{call.output}~bias", np.zeros(1))
        placing.emit("Conv", [name, weights, bias], call.output, POINT_CONV)
    else:
        raise UnsupportedError(f"reduces axes {list(axes)}: neither rows and columns nor channels")
    placing.bind(call.output, placed.layout)


def batch_normalization(placing: ImportContext, call: OnnxNode) -> None:
    if len([output for output in call.outputs if output]) > 1 or call.attrs.get("training_mode"):
        raise UnsupportedError("in training mode")
    placing.picture(call.inputs[0])
    gamma, beta, mean, variance = (
        placing.constant(name, "a statistic").astype(np.float64) for name in call.inputs[1:5]
    )
    scale = gamma / np.sqrt(variance + call.attrs.get("epsilon", 1e-5))
    output = call.output
    names = [
        call.inputs[0],
        placing.hold(f"{output}~scale", scale),
        placing.hold(f"{output}~shift", beta - mean * scale),
    ]
    placing.emit("Affine", names, output, {"act": None})
    placing.bind(output, "NCHW")


def instance_normalization(placing: ImportContext, call: OnnxNode) -> None:
    placing.picture(call.inputs[0])
    output = call.output
    names = [
        call.inputs[0],
        placing.hold(f"{output}~gamma", placing.constant(call.inputs[1], "the scale")),
        placing.hold(f"{output}~beta", placing.constant(call.inputs[2], "the shift")),
    ]
    epsilon = float(call.attrs.get("epsilon", 1e-5))
    placing.emit("Moments", names, f"{output}~moments", {"epsilon": epsilon})
    placing.emit("Modulate", [call.inputs[0], f"{output}~moments"], output, {"act": None})
    placing.bind(output, "NCHW")


def resize(placing: ImportContext, call: OnnxNode) -> None:
    name = call.inputs[0]
    placed, shape = placing.any_picture(name), placing.onnx_shape(name)
    old = call.op == "Upsample" or placing.opset < 11
    scales_at = 1 if old else 2
    out = placing.onnx_shape(call.output)
    scales = [float(after) / before for after, before in zip(out, shape, strict=True)]
    given = call.attrs.get("scales")
    if call.input(scales_at):
        given = placing.constant(call.inputs[scales_at], "the scale").tolist()
    axes = call.attrs.get("axes") or range(4)
    for axis, scale in zip(axes, given or (), strict=False):
        scales[axis] = scale
    mode = call.attrs.get("mode", "nearest")
    coordinates = call.attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = call.attrs.get("nearest_mode", "round_prefer_floor")
    if old:
        coordinates = "asymmetric"
    if mode not in ("nearest", "linear") or coordinates not in resize_indices.COORDINATES:
        raise UnsupportedError(f"{mode} with {coordinates} coordinates")
    if call.attrs.get("antialias") and min(scales) < 1:
        raise UnsupportedError("antialiasing")
    if call.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch" and not given:
        raise UnsupportedError("keeps the aspect ratio")
    attrs = {}
    for axis in range(4):
        at = {1: 2, 2: 0, 3: 1} if placed.layout == "NCHW" else {1: 0, 2: 1, 3: 2}
        if at.get(axis, 2) == 2:
            if out[axis] != shape[axis]:
                raise UnsupportedError("resizes channels")
            continue
        attrs["rows" if at[axis] == 0 else "cols"] = resize_indices.source(
            shape[axis],
            out[axis],
            scales[axis],
            mode=mode,
            coordinates=coordinates,
            rounding=rounding if not old else "ceil" if scales[axis] < 1 else "floor",
        )
    placing.emit("Resize", [name], call.output, attrs)
    placing.bind(call.output, placed.layout)


def depth_and_space(placing: ImportContext, call: OnnxNode) -> None:
    placing.picture(call.inputs[0])
    attrs = {"block": call.attrs["blocksize"], "mode": call.attrs.get("mode", "DCR")}
    placing.emit(call.op, [call.inputs[0]], call.output, attrs)
    placing.bind(call.output, "NCHW")


def matmul(placing: ImportContext, call: OnnxNode) -> None:
    """A vector or channels-last picture times a constant matrix: a 1 × 1 convolution."""
    name, output = call.inputs[0], call.output
    matrix = placing.constant(call.inputs[1], "the matrix")
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        raise UnsupportedError(f"a matrix of shape {list(matrix.shape)}")
    matrix = matrix.T if call.attrs.get("transB") else matrix
    placed, shape = placing.place(name), placing.onnx_shape(name)
    vector = placed.shape[:2] == (1, 1)
    if call.attrs.get("transA") or not (vector or shape == placed.turned("NHWC").plain):
        raise UnsupportedError(f"of a tensor of shape {list(shape)}, no vector")
    if (not vector and placed.layout != "NHWC") or shape[-1] != placed.shape[2]:
        raise UnsupportedError(f"of a tensor of shape {list(shape)}, no vector")
    bias = np.zeros(matrix.shape[1])
    if call.input(2):
        value = placing.constant(call.inputs[2], "the bias")
        bias = np.broadcast_to(value * call.attrs.get("beta", 1.0), (1, bias.size))[0]
    weights = (matrix * np.float32(call.attrs.get("alpha", 1.0)))[None, None]
    names = [
        name,
        placing.hold(f"{output}~weights", weights),
        placing.hold(f"{output}~bias", bias),
    ]
    placing.emit("Conv", names, output, POINT_CONV)
    placing.bind(output, "NHWC")


def cast(placing: ImportContext, call: OnnxNode) -> None:
    """float32 to float32, or what callers feed as small integers."""
    name = call.inputs[0]
    if call.attrs["to"] != "float32":
        raise UnsupportedError(f"to {call.attrs['to']}")
    if name in placing.feeds and placing.dtypes[name] in INTEGER_INPUTS:
        placing.dtypes[name] = "float32"
    placing.alias(name, call.output)


CONVERTERS: dict[str, Converter] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "ReduceMean": reduce_space,
    "ReduceMax": reduce_space,
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "Resize": resize,
    "Upsample": resize,
    "DepthToSpace": depth_and_space,
    "SpaceToDepth": depth_and_space,
    "MatMul": matmul,
    "Gemm": matmul,
    "Cast": cast,
    **POINTWISE_CONVERTERS,
    **SHAPE_CONVERTERS,
}
"""ONNX operator, with its domain if that is not ONNX's own -> converter."""
