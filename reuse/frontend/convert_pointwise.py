"""ONNX operator -> the engine's operators: activations, arithmetic, Softmax."""

from collections.abc import Callable, Sequence
from math import inf

import numpy as np

from stillframe.reuse.frontend import convert_tokens, factors
from stillframe.reuse.frontend.context import (
    ImportContext,
    OnnxNode,
    TensorLayout,
    UnsupportedError,
)
from stillframe.reuse.ir.graph import Act, Array


def scalar(context: ImportContext, name: str, default: float) -> float:
    """The value of a constant scalar input; the default where it is absent."""
    if not name:
        return default
    value = context.constant(name, "a bound")
    if value.size != 1:
        raise UnsupportedError("a bound that is not one number")
    return float(value.reshape(()))


def clip(context: ImportContext, node: OnnxNode) -> Act:
    low = node.attrs.get("min", -inf)
    high = node.attrs.get("max", inf)
    if context.opset >= 11:
        low = scalar(context, node.input(1), -inf)
        high = scalar(context, node.input(2), inf)
    return Act("relu") if (low, high) == (0, inf) else Act("clip", float(low), float(high))


def gelu(context: ImportContext, node: OnnxNode) -> Act:
    if node.input(1):
        raise UnsupportedError("with a bias")
    fast = node.op == "FastGelu" or node.attrs.get("approximate", "none") == "tanh"
    return Act("gelu_tanh" if fast else "gelu")


def plain_act(kind: str) -> Callable[[ImportContext, OnnxNode], Act]:
    """An activation without parameters."""
    return lambda context, node: Act(kind)


# ONNX operator -> the activation that it is.
ACTS: dict[str, Callable[[ImportContext, OnnxNode], Act]] = {
    "Relu": plain_act("relu"),
    "Sigmoid": plain_act("sigmoid"),
    "Tanh": plain_act("tanh"),
    "HardSwish": plain_act("hardswish"),
    "Mish": plain_act("mish"),
    "Softplus": plain_act("softplus"),
    "Erf": plain_act("erf"),
    "Exp": plain_act("exp"),
    "Sqrt": plain_act("sqrt"),
    "Abs": plain_act("abs"),
    "Neg": plain_act("neg"),
    "LeakyRelu": lambda context, node: Act("leaky", node.attrs.get("alpha", 0.01)),
    "Elu": lambda context, node: Act("elu", node.attrs.get("alpha", 1.0)),
    "HardSigmoid": lambda context, node: Act(
        "hardsigmoid", node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5)
    ),
    "Clip": clip,
    "Gelu": gelu,
    "com.microsoft.Gelu": gelu,
    "com.microsoft.FastGelu": gelu,
}


def unary(context: ImportContext, node: OnnxNode) -> None:
    """Any operator of ACTS."""
    context.layout_of(node.inputs[0])
    act = ACTS[node.operator](context, node)
    context.emit("Unary", [node.inputs[0]], node.output, {"act": act})
    context.set_like(node.output, node.inputs[0])


def parametric_relu(context: ImportContext, node: OnnxNode) -> None:
    layout = context.layout_of(node.inputs[0])
    slopes = context.constant(node.inputs[1], "the slope")
    hwc_slopes = constant_operand(context, layout, node.inputs[0], slopes)
    if hwc_slopes.shape[:2] != (1, 1):
        raise UnsupportedError("slopes that differ between positions")
    slope = np.broadcast_to(hwc_slopes[0, 0], layout.shape[2:])
    names = [node.inputs[0], context.add_constant(f"{node.output}~slope", slope)]
    context.emit("Unary", names, node.output, {"act": Act("prelu")})
    context.set_layout(node.output, layout.order)


def constant_operand(
    context: ImportContext, layout: TensorLayout, name: str, value: Array
) -> Array:
    """A constant that broadcasts against tensor `name`, as (H or 1, W or 1, C or 1)."""
    if value.dtype != np.float32:
        raise UnsupportedError(f"a {value.dtype} operand")
    if value.size == 1:
        return value.reshape(1, 1, 1)
    shape = context.onnx_shape(name)
    if value.ndim > len(shape):
        raise UnsupportedError(f"an operand of shape {list(value.shape)} adds an axis")
    value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if layout.axes is not None:
        if np.broadcast_shapes(value.shape, shape) != shape:
            raise UnsupportedError(f"an operand of shape {list(value.shape)} for {list(shape)}")
        whole = np.broadcast_to(value, shape)
        return squeezed(factors.to_hwc(whole, layout.axes, layout.shape))
    for order in (layout.order, "NCHW", "NHWC"):
        candidate = layout.with_order(order)
        if (order == layout.order or layout.order_free) and shape == candidate.onnx_shape:
            if value.shape[0] != 1:
                raise UnsupportedError("an operand with a batch")
            return np.asarray(value[0].transpose(1, 2, 0) if order == "NCHW" else value[0])
    if np.broadcast_shapes(value.shape, shape) != shape:
        raise UnsupportedError(f"an operand of shape {list(value.shape)} for {list(shape)}")
    value = np.broadcast_to(value, shape).reshape(layout.onnx_shape)[0]
    return squeezed(value.transpose(1, 2, 0) if layout.order == "NCHW" else value)


def squeezed(value: Array) -> Array:
    """(H, W, C) with one index of each axis along which nothing changes."""
    for axis in range(3):
        first = value.take([0], axis)
        value = first if bool((value == first).all()) else value
    return np.asarray(value)


BINARY = {
    "Add": "add",
    "Sum": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Min": "min",
    "Max": "max",
}


def binary(context: ImportContext, node: OnnxNode) -> None:
    """Two operands; Sum, Min and Max of more become a chain of Binary nodes."""
    names = list(node.inputs)
    if len(names) == 1:
        context.alias(names[0], node.output)
        return
    left = names[0]
    for index, right in enumerate(names[1:]):
        last = index == len(names) - 2
        output = node.output if last else f"{node.output}~{index}"
        emit_binary(context, BINARY[node.op], left, right, output)
        left = output


def emit_binary(context: ImportContext, kind: str, left: str, right: str, output: str) -> None:
    tensors = [name for name in (left, right) if name not in context.weights]
    if not tensors:
        raise UnsupportedError("both operands are constant")
    layouts = [context.layout_of(name) for name in tensors]
    names = [left, right]
    order = layouts[0].order
    if len(tensors) == 1:
        constant = 0 if left in context.weights else 1
        value = constant_operand(context, layouts[0], tensors[0], context.weights[names[constant]])
        names[constant] = context.add_constant(f"{output}~operand", value)
        axes = layouts[0].axes
    else:
        try:
            order, axes = common_order(context, tensors, layouts), None
        except UnsupportedError as error:
            try:
                names, axes = common_axes(context, tensors, output)
            except UnsupportedError:
                raise error from None
    shape = context.emit("Binary", names, output, {"kind": kind, "act": None})
    if axes is None:
        context.set_layout(output, order)
    else:
        context.set_axes(output, axes, shape)


def common_axes(
    context: ImportContext, names: Sequence[str], output: str
) -> tuple[list[str], factors.Axes]:
    """Two tensors whose ONNX axes run along the same factors, or along none where one has size 1:
    they broadcast just as their (H, W, C) arrays do. The second is moved to the grid of the first
    if it is another one of as many positions."""
    left, right = (context.layout_of(name).shape for name in names)
    grid = (left[0], left[1])
    moved = [*names]
    axes = [context.factored(name) for name in names]
    if right[:2] != grid and right[0] * right[1] == left[0] * left[1] > 1:
        if context.layout_of(names[1]).axes is not None:
            raise UnsupportedError("operands of different grids")
        moved[1] = context.regrid(names[1], f"{output}~grid", grid)
        order = context.layout_of(names[1]).order
        again = factors.split(
            factors.natural((*grid, right[2]), order), context.onnx_shape(names[1])
        )
        if again is None:
            raise UnsupportedError("operands of different grids")
        axes[1] = again
    rank = max(map(len, axes))
    padded = [((),) * (rank - len(each)) + each for each in axes]
    both = list(zip(*padded, strict=True))
    if any(one and two and one != two for one, two in both):
        shapes = [list(context.onnx_shape(name)) for name in names]
        raise UnsupportedError(
            f"operands of shapes {shapes[0]} and {shapes[1]}, whose axes are not the same"
        )
    for name, own in zip(moved, padded, strict=True):
        written = {each.axis for axis in own for each in axis}
        sizes = context.shape(name)
        if any(sizes[axis] > 1 and axis not in written for axis in range(3)):
            raise UnsupportedError("operands that broadcast within an axis")
    return moved, tuple(one or two for one, two in both)


def common_order(
    context: ImportContext, names: Sequence[str], layouts: Sequence[TensorLayout]
) -> str:
    """The order in which the tensors broadcast just as their (H, W, C) arrays do."""
    shapes = [context.onnx_shape(name) for name in names]
    fixed_orders = {each.order for each in layouts if not each.order_free}
    if len(fixed_orders) > 1:
        raise UnsupportedError("one operand is NCHW, the other NHWC")
    order = fixed_orders.pop() if fixed_orders else layouts[0].order
    unreshaped = [each.with_order(order).onnx_shape for each in layouts]
    if shapes == unreshaped or (shapes[0] == shapes[1] and layouts[0].shape == layouts[1].shape):
        return order
    if shapes[0] == shapes[1]:
        kinds = [f"{each.order} of {list(each.shape)}" for each in layouts]
        raise UnsupportedError(
            f"operands of shape {list(shapes[0])}, one from {kinds[0]}, the other from {kinds[1]}"
        )
    raise UnsupportedError(f"operands of shapes {list(shapes[0])} and {list(shapes[1])}")


def power(context: ImportContext, node: OnnxNode) -> None:
    """A constant exponent of 0.5, 2 or 3."""
    exponent = context.constant(node.inputs[1], "the exponent")
    context.layout_of(node.inputs[0])
    value = float(exponent.reshape(())) if exponent.size == 1 else 0.0
    name, output = node.inputs[0], node.output
    if value == 0.5:
        context.emit("Unary", [name], output, {"act": Act("sqrt")})
    elif value == 2:
        context.emit("Unary", [name], output, {"act": Act("square")})
    elif value == 3:
        context.emit("Unary", [name], f"{output}~square", {"act": Act("square")})
        context.emit("Binary", [name, f"{output}~square"], output, {"kind": "mul", "act": None})
    else:
        raise UnsupportedError(f"exponent {exponent.reshape(-1)[:4].tolist()}")
    context.set_like(output, name)


STEEP = 1e30
"""Times this, any difference of two numbers above 1e-23 is more than 1, and none overflows."""


def equal(context: ImportContext, node: OnnxNode) -> None:
    """1 where two computed tensors are equal, else 0: max(0, 1 - |a - b| * STEEP). As in the masks
    of peaks, which compare a map with its largest neighbours."""
    left, right = node.inputs
    if left in context.weights or right in context.weights:
        raise UnsupportedError("with a constant")
    output = node.output
    emit_binary(context, "sub", left, right, f"{output}~difference")
    names = [f"{output}~difference"]
    context.emit("Unary", names, f"{output}~distance", {"act": Act("abs")})
    steep = context.add_constant(f"{output}~steep", np.full((1, 1, 1), STEEP))
    attrs = {"kind": "mul", "act": None}
    context.emit("Binary", [f"{output}~distance", steep], f"{output}~far", attrs)
    emit_inverse(context, f"{output}~far", output, Act("relu"))
    context.set_like(output, left)


def emit_inverse(context: ImportContext, name: str, output: str, act: Act | None = None) -> None:
    """1 - x."""
    one = context.add_constant(f"{output}~one", np.ones((1, 1, 1)))
    last = output if act is None else f"{output}~inverse"
    context.emit("Binary", [one, name], last, {"kind": "sub", "act": None})
    if act is not None:
        context.emit("Unary", [last], output, {"act": act})


def where(context: ImportContext, node: OnnxNode) -> None:
    """A computed tensor where a mask is 1, and 0 elsewhere; or the other way round."""
    mask, chosen, other = node.inputs
    if context.dtypes.get(mask) != "bool" or mask not in context.layouts:
        raise UnsupportedError("whose condition the engine does not compute")
    constants = [context.weights.get(name) for name in (chosen, other)]
    zeros = [value is not None and not np.any(value) for value in constants]
    if zeros == [False, True] and constants[0] is None:
        emit_binary(context, "mul", chosen, mask, node.output)
    elif zeros == [True, False] and constants[1] is None:
        emit_inverse(context, mask, f"{node.output}~rest")
        context.set_like(f"{node.output}~rest", mask)
        emit_binary(context, "mul", other, f"{node.output}~rest", node.output)
    else:
        raise UnsupportedError("that chooses between other things than a tensor and 0")


def reciprocal(context: ImportContext, node: OnnxNode) -> None:
    """1 / x."""
    context.layout_of(node.inputs[0])
    one = context.add_constant(f"{node.output}~one", np.ones((1, 1, 1)))
    attrs = {"kind": "div", "act": None}
    context.emit("Binary", [one, node.inputs[0]], node.output, attrs)
    context.set_like(node.output, node.inputs[0])


def softmax(context: ImportContext, node: OnnxNode) -> None:
    """Over all channels, or over bins of neighbouring channels."""
    name = node.inputs[0]
    layout, shape = context.layout_of(name), context.onnx_shape(name)
    axis = node.attrs.get("axis", -1 if context.opset >= 13 else 1)
    axis = axis + len(shape) if axis < 0 else axis
    normalised = shape[axis:] if context.opset < 13 else shape[axis : axis + 1]
    try:
        whole = context.hwc_axis(name, axis) == 2 and int(np.prod(normalised)) == layout.shape[2]
    except UnsupportedError:
        whole = False
    if whole:
        context.emit("Softmax", [name], node.output)
    elif int(np.prod(normalised)) == shape[axis]:
        size = convert_tokens.axes_of_bins(context.factored(name), axis)
        context.emit("Softmax", [name], node.output, {"size": size})
    else:
        raise UnsupportedError(f"over axis {axis} of {list(shape)}, not over channels")
    context.set_like(node.output, name)


POINTWISE_CONVERTERS: dict[str, Callable[[ImportContext, OnnxNode], None]] = {
    **dict.fromkeys(ACTS, unary),
    "PRelu": parametric_relu,
    **dict.fromkeys(BINARY, binary),
    "Pow": power,
    "Equal": equal,
    "Where": where,
    "Reciprocal": reciprocal,
    "Softmax": softmax,
}
