"""ONNX operator -> the engine's operators: convolutions, pools, norms, Resize, MatMul.

A converter reads an OnnxNode, emits graph nodes into the ImportContext and sets the layout of the
outputs. Where the engine cannot run the node it raises UnsupportedError with the island's reason.
Nothing here imports onnx: attributes arrive as Python values.
"""

from collections.abc import Callable, Sequence

import numpy as np

from stillframe.reuse.frontend import convert_tokens, convert_transpose, resize_indices
from stillframe.reuse.frontend.context import (
    FACTORED,
    HWC_AXIS,
    INTEGER_INPUTS,
    POINTWISE_CONV,
    ImportContext,
    OnnxNode,
    TensorLayout,
    UnsupportedError,
    WrongShapeError,
)
from stillframe.reuse.frontend.convert_pointwise import POINTWISE_CONVERTERS
from stillframe.reuse.frontend.convert_shape import SHAPE_CONVERTERS
from stillframe.reuse.frontend.factors import Factor
from stillframe.reuse.ir.graph import Array

Converter = Callable[[ImportContext, OnnxNode], None]
Pads = tuple[int, int, int, int]


def window_attrs(
    node: OnnxNode, shape: Sequence[int], kernel: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """stride, dilation and pad (top, left, bottom, right), with auto_pad resolved.

    shape: the input's, rows first.
    """
    stride = axis_pair(node, "strides")
    dilation = axis_pair(node, "dilations")
    auto = node.attrs.get("auto_pad", "NOTSET")
    pads: Sequence[int] = node.attrs.get("pads") or (0, 0, 0, 0)
    if auto == "VALID":
        pads = (0, 0, 0, 0)
    elif auto != "NOTSET":
        begin, end = [], []
        for axis in (0, 1):
            count = -(-shape[axis] // stride[axis])
            extent = (kernel[axis] - 1) * dilation[axis] + 1
            total = max((count - 1) * stride[axis] + extent - shape[axis], 0)
            small, large = total // 2, total - total // 2
            begin.append(large if auto == "SAME_LOWER" else small)
            end.append(small if auto == "SAME_LOWER" else large)
        pads = (*begin, *end)
    if min(pads) < 0:
        raise UnsupportedError(f"negative pads {list(pads)}")
    return {"stride": stride, "dilation": dilation, "pad": tuple(pads)}


def axis_pair(node: OnnxNode, name: str) -> tuple[int, int]:
    """An attribute with one value for rows and one for columns; (1, 1) if it is absent."""
    values = tuple(node.attrs.get(name) or (1, 1))
    if len(values) != 2:
        raise UnsupportedError(f"{len(values)}-D {node.op}")
    return values[0], values[1]


def conv(context: ImportContext, node: OnnxNode) -> None:
    weights = context.constant(node.inputs[1], "the weight")
    if weights.ndim != 4:
        raise UnsupportedError(f"{weights.ndim - 2}-D convolution")
    if context.layout_of(node.inputs[0]).order == FACTORED:
        average_bins(context, node, weights)
        return
    x = context.require_nchw(node.inputs[0])
    kernel = (weights.shape[2], weights.shape[3])
    expected = weights.shape[1] * node.attrs.get("group", 1)
    if x.shape[2] != expected:
        raise UnsupportedError(f"weights for {expected} channels, the input has {x.shape[2]}")
    attrs = {
        **window_attrs(node, x.shape, kernel),
        "group": node.attrs.get("group", 1),
        "act": None,
        "residual_first": False,
    }
    output = node.output
    bias = np.zeros(weights.shape[0])
    if node.input(2):
        bias = context.constant(node.inputs[2], "the bias")
    names = [
        node.inputs[0],
        context.add_constant(f"{output}~weights", weights.transpose(2, 3, 1, 0)),
        context.add_constant(f"{output}~bias", bias),
    ]
    context.emit("Conv", names, output, attrs)
    context.set_layout(output, "NCHW")


def average_bins(context: ImportContext, node: OnnxNode, weights: Array) -> None:
    """A 1 × 1 Conv of (1, bins, sides, positions), as detectors weigh the bins of a distance: the
    same weights for each side."""
    name = node.inputs[0]
    axes, depth = context.factored(name), context.layout_of(name).shape[2]
    bins = weights.shape[1]
    if weights.shape != (1, bins, 1, 1) or node.input(2) or node.attrs.get("group", 1) != 1:
        raise UnsupportedError("of a tensor with factored axes")
    sides = depth // bins
    expected = ((Factor(2, 1, bins),), (Factor(2, bins, sides),))
    if len(axes) != 4 or axes[1:3] != expected or any(node.attrs.get("pads") or ()):
        raise UnsupportedError("of a tensor with factored axes")
    matrix = np.kron(np.eye(sides), weights.reshape(bins, 1))
    convert_tokens.emit_product(context, name, node.output, matrix, np.zeros(sides))
    context.set_axes(node.output, (axes[0], (), (Factor(2, 1, sides),), axes[3]))


def conv_transpose(context: ImportContext, node: OnnxNode) -> None:
    weights = context.constant(node.inputs[1], "the weight")
    if weights.ndim != 4:
        raise UnsupportedError(f"{weights.ndim - 2}-D transposed convolution")
    context.require_nchw(node.inputs[0])
    bias = None
    if node.input(2):
        bias = context.constant(node.inputs[2], "the bias")
    convert_transpose.emit_conv_transpose(context, node, weights, bias)
    context.set_layout(node.output, "NCHW")


def pool(context: ImportContext, node: OnnxNode) -> None:
    if len(node.outputs) > 1 and node.outputs[1]:
        raise UnsupportedError("its indices output")
    x = context.require_nchw(node.inputs[0])
    kernel = axis_pair(node, "kernel_shape")
    attrs = {
        **window_attrs(node, x.shape, kernel),
        "kernel": kernel,
        "ceil_mode": bool(node.attrs.get("ceil_mode", 0)),
    }
    if node.op == "AveragePool":
        attrs["count_include_pad"] = bool(node.attrs.get("count_include_pad", 0))
    shape = context.emit(node.op, [node.inputs[0]], node.output, attrs)
    true_shape = TensorLayout("NCHW", shape).onnx_shape
    if context.onnx_shapes.get(node.output, true_shape) != true_shape:
        raise WrongShapeError(node.output, true_shape)
    context.set_layout(node.output, "NCHW")


def global_pool(context: ImportContext, node: OnnxNode) -> None:
    context.require_nchw(node.inputs[0])
    kind = "max" if node.op == "GlobalMaxPool" else "mean"
    context.emit("GlobalPool", [node.inputs[0]], node.output, {"kind": kind})
    context.set_layout(node.output, "NCHW")


def reduce(context: ImportContext, node: OnnxNode) -> None:
    """ReduceMean, ReduceMax: a global pool over rows and columns, a 1 × 1 Conv over channels."""
    name = node.inputs[0]
    axes = node.attrs.get("axes")
    if node.input(1):
        axes = context.constant(node.inputs[1], "the list of axes").tolist()
    if not axes:
        raise UnsupportedError("reduces all axes")
    layout = context.layout_of(name)
    reduced = sorted(context.hwc_axis(name, axis) for axis in axes)
    if reduced == [0, 1]:
        kind = "mean" if node.op == "ReduceMean" else "max"
        context.emit("GlobalPool", [name], node.output, {"kind": kind})
    elif reduced == [2] and node.op == "ReduceMean":
        depth = layout.shape[2]
        weights = context.add_constant(
            f"{node.output}~weights", np.full((1, 1, depth, 1), 1 / depth)
        )
        bias = context.add_constant(f"{node.output}~bias", np.zeros(1))
        context.emit("Conv", [name, weights, bias], node.output, POINTWISE_CONV)
    elif reduced == [2] and node.op == "ReduceMax":
        context.emit("ChannelMax", [name], node.output, {"index": False})
    else:
        raise UnsupportedError(f"reduces axes {list(axes)}: neither rows and columns nor channels")
    context.set_layout(node.output, layout.order)


def arg_max(context: ImportContext, node: OnnxNode) -> None:
    """The channel with the largest number; whole numbers, which float32 holds exactly."""
    name = node.inputs[0]
    layout = context.layout_of(name)
    if context.hwc_axis(name, node.attrs.get("axis", 0)) != 2:
        raise UnsupportedError("over rows or columns")
    if node.attrs.get("select_last_index"):
        raise UnsupportedError("the last of equal ones")
    if any(reader.op != "Cast" for reader in context.readers.get(node.output, ())):
        raise UnsupportedError("its result is read as integers")
    context.emit("ChannelMax", [name], node.output, {"index": True})
    context.set_layout(node.output, layout.order)


def batch_normalization(context: ImportContext, node: OnnxNode) -> None:
    """One scale and one shift per channel: Affine."""
    if len([output for output in node.outputs if output]) > 1 or node.attrs.get("training_mode"):
        raise UnsupportedError("in training mode")
    context.require_nchw(node.inputs[0])
    gamma, beta, mean, variance = (
        context.constant(name, "a statistic").astype(np.float64) for name in node.inputs[1:5]
    )
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    output = node.output
    names = [
        node.inputs[0],
        context.add_constant(f"{output}~scale", scale),
        context.add_constant(f"{output}~shift", beta - mean * scale),
    ]
    context.emit("Affine", names, output, {"act": None})
    context.set_layout(output, "NCHW")


def instance_normalization(context: ImportContext, node: OnnxNode) -> None:
    """Moments (the scale and shift that normalise this frame), then Modulate by them."""
    context.require_nchw(node.inputs[0])
    output = node.output
    names = [
        node.inputs[0],
        context.add_constant(f"{output}~gamma", context.constant(node.inputs[1], "the scale")),
        context.add_constant(f"{output}~beta", context.constant(node.inputs[2], "the shift")),
    ]
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    context.emit("Moments", names, f"{output}~moments", {"epsilon": epsilon})
    context.emit("Modulate", [node.inputs[0], f"{output}~moments"], output, {"act": None})
    context.set_layout(output, "NCHW")


def resize(context: ImportContext, node: OnnxNode) -> None:
    """Nearest or linear, with the source position of every row and column in a table."""
    name = node.inputs[0]
    layout, shape = context.require_4d(name), context.onnx_shape(name)
    before_opset_11 = node.op == "Upsample" or context.opset < 11
    scales_input = 1 if before_opset_11 else 2
    out = context.onnx_shape(node.output)
    scales = [float(after) / before for after, before in zip(out, shape, strict=True)]
    explicit_scales = node.attrs.get("scales")
    if node.input(scales_input):
        explicit_scales = context.constant(node.inputs[scales_input], "the scale").tolist()
    axes = node.attrs.get("axes") or range(4)
    for axis, scale in zip(axes, explicit_scales or (), strict=False):
        scales[axis] = scale
    mode = node.attrs.get("mode", "nearest")
    coordinates = node.attrs.get("coordinate_transformation_mode", "half_pixel")
    rounding = node.attrs.get("nearest_mode", "round_prefer_floor")
    if before_opset_11:
        coordinates = "asymmetric"
    if mode not in ("nearest", "linear") or coordinates not in resize_indices.COORDINATES:
        raise UnsupportedError(f"{mode} with {coordinates} coordinates")
    if node.attrs.get("antialias") and min(scales) < 1:
        raise UnsupportedError("antialiasing")
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch" and not explicit_scales:
        raise UnsupportedError("keeps the aspect ratio")
    attrs = {}
    for axis in range(4):
        hwc_axis = HWC_AXIS[layout.order].get(axis)
        if hwc_axis is None or hwc_axis == 2:  # batch or channels
            if out[axis] != shape[axis]:
                raise UnsupportedError("resizes channels")
            continue
        if before_opset_11:
            rounding = "ceil" if scales[axis] < 1 else "floor"
        attrs["rows" if hwc_axis == 0 else "cols"] = resize_indices.resize_taps(
            shape[axis],
            out[axis],
            scales[axis],
            mode=mode,
            coordinates=coordinates,
            rounding=rounding,
        )
    context.emit("Resize", [name], node.output, attrs)
    context.set_layout(node.output, layout.order)


def depth_and_space(context: ImportContext, node: OnnxNode) -> None:
    context.require_nchw(node.inputs[0])
    attrs = {"block": node.attrs["blocksize"], "mode": node.attrs.get("mode", "DCR")}
    context.emit(node.op, [node.inputs[0]], node.output, attrs)
    context.set_layout(node.output, "NCHW")


def cast(context: ImportContext, node: OnnxNode) -> None:
    """float32 to float32, or a model input of small integers to float32."""
    name = node.inputs[0]
    if node.attrs["to"] != "float32":
        raise UnsupportedError(f"to {node.attrs['to']}")
    if name in context.input_names and context.dtypes[name] in INTEGER_INPUTS:
        context.dtypes[name] = "float32"
    context.alias(name, node.output)


CONVERTERS: dict[str, Converter] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "MaxPool": pool,
    "AveragePool": pool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "ReduceMean": reduce,
    "ReduceMax": reduce,
    "ArgMax": arg_max,
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "Resize": resize,
    "Upsample": resize,
    "DepthToSpace": depth_and_space,
    "SpaceToDepth": depth_and_space,
    "MatMul": convert_tokens.matmul,
    "Gemm": convert_tokens.matmul,
    "Attention": convert_tokens.fused_attention,
    "com.microsoft.MultiHeadAttention": convert_tokens.fused_attention,
    "com.microsoft.Attention": convert_tokens.packed_attention,
    "LayerNormalization": convert_tokens.layer_norm,
    "RMSNormalization": convert_tokens.layer_norm,
    "SimplifiedLayerNormalization": convert_tokens.layer_norm,
    "Cast": cast,
    **POINTWISE_CONVERTERS,
    **SHAPE_CONVERTERS,
}
"""ONNX operator, with its domain unless that is ONNX's own -> converter."""
