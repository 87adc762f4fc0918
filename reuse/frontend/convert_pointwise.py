"""Converters of the ONNX operators that work number by number: one row per operator at the end."""

from collections.abc import Callable, Sequence
from math import inf

import numpy as np

from stillframe.reuse.frontend.context import (
    ImportContext,
    OnnxNode,
    TensorLayout,
    UnsupportedError,
)
from stillframe.reuse.ir.graph import Act, Array


def number(placing: ImportContext, name: str, default: float) -> float:
    """A scalar input that must be constant; the default where it was left out."""
    if not name:
        return default
    value = placing.constant(name, "a bound")
    if value.size != 1:
        raise UnsupportedError("a bound that is no single number")
    return float(value.reshape(()))


def clip(placing: ImportContext, call: OnnxNode) -> Act:
    low = call.attrs.get("min", -inf)
    high = call.attrs.get("max", inf)
    if placing.opset >= 11:
        low = number(placing, call.input(1), -inf)
        high = number(placing, call.input(2), inf)
    return Act("relu") if (low, high) == (0, inf) else Act("clip", float(low), float(high))


def gelu(placing: ImportContext, call: OnnxNode) -> Act:
    if call.input(1):
        raise UnsupportedError("with a bias")
    fast = call.op == "FastGelu" or call.attrs.get("approximate", "none") == "tanh"
    return Act("gelu_tanh" if fast else "gelu")


def plain_act(kind: str) -> Callable[[ImportContext, OnnxNode], Act]:
    return lambda placing, call: Act(kind)


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
    "LeakyRelu": lambda placing, call: Act("leaky", call.attrs.get("alpha", 0.01)),
    "Elu": lambda placing, call: Act("elu", call.attrs.get("alpha", 1.0)),
    "HardSigmoid": lambda placing, call: Act(
        "hardsigmoid", call.attrs.get("alpha", 0.2), call.attrs.get("beta", 0.5)
    ),
    "Clip": clip,
    "Gelu": gelu,
    "com.microsoft.Gelu": gelu,
    "com.microsoft.FastGelu": gelu,
}


def unary(placing: ImportContext, call: OnnxNode) -> None:
    placed = placing.place(call.inputs[0])
    act = ACTS[call.operator](placing, call)
    placing.emit("Unary", [call.inputs[0]], call.output, {"act": act})
    placing.bind(call.output, placed.layout)


def parametric_relu(placing: ImportContext, call: OnnxNode) -> None:
    placed = placing.place(call.inputs[0])
    slopes = placing.constant(call.inputs[1], "the slope")
    vector = operand(placing, placed, call.inputs[0], slopes)
    if vector.shape[:2] != (1, 1):
        raise UnsupportedError("slopes that differ over the picture")
    slope = np.broadcast_to(vector[0, 0], placed.shape[2:])
    names = [call.inputs[0], placing.hold(f"{call.output}~slope", slope)]
    placing.emit("Unary", names, call.output, {"act": Act("prelu")})
    placing.bind(call.output, placed.layout)


def operand(placing: ImportContext, placed: TensorLayout, name: str, value: Array) -> Array:
    """A constant that broadcasts against tensor `name`, as (H or 1, W or 1, C or 1)."""
    if value.dtype != np.float32:
        raise UnsupportedError(f"a {value.dtype} operand")
    if value.size == 1:
        return value.reshape(1, 1, 1)
    shape = placing.onnx_shape(name)
    if value.ndim > len(shape):
        raise UnsupportedError(f"an operand of shape {list(value.shape)} adds an axis")
    value = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    for layout in (placed.layout, "NCHW", "NHWC"):
        turned = placed.turned(layout)
        if (layout == placed.layout or placed.flexible) and shape == turned.plain:
            if value.shape[0] != 1:
                raise UnsupportedError("an operand with a batch")
            return np.asarray(value[0].transpose(1, 2, 0) if layout == "NCHW" else value[0])
    if np.broadcast_shapes(value.shape, shape) != shape:
        raise UnsupportedError(f"an operand of shape {list(value.shape)} for {list(shape)}")
    value = np.broadcast_to(value, shape).reshape(placed.plain)[0]
    value = value.transpose(1, 2, 0) if placed.layout == "NCHW" else value
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


def binary(placing: ImportContext, call: OnnxNode) -> None:
    """Two operands, or a chain where ONNX allows many."""
    names = list(call.inputs)
    if len(names) == 1:
        placing.alias(names[0], call.output)
        return
    left = names[0]
    for index, right in enumerate(names[1:]):
        last = index == len(names) - 2
        output = call.output if last else f"{call.output}~{index}"
        combine(placing, BINARY[call.op], left, right, output)
        left = output


def combine(placing: ImportContext, kind: str, left: str, right: str, output: str) -> None:
    tensors = [name for name in (left, right) if name not in placing.weights]
    if not tensors:
        raise UnsupportedError("both operands are constant")
    placed = [placing.place(name) for name in tensors]
    names = [left, right]
    layout = placed[0].layout
    if len(tensors) == 1:
        at = 0 if left in placing.weights else 1
        value = operand(placing, placed[0], tensors[0], placing.weights[names[at]])
        names[at] = placing.hold(f"{output}~operand", value)
    else:
        layout = common_layout(placing, tensors, placed)
    placing.emit("Binary", names, output, {"kind": kind, "act": None})
    placing.bind(output, layout)


def common_layout(
    placing: ImportContext, names: Sequence[str], placed: Sequence[TensorLayout]
) -> str:
    """The layout in which both tensors broadcast as (H, W, C) arrays do, or UnsupportedError."""
    shapes = [placing.onnx_shape(name) for name in names]
    stiff = {each.layout for each in placed if not each.flexible}
    if len(stiff) > 1:
        raise UnsupportedError("one operand lies NCHW, the other NHWC")
    layout = stiff.pop() if stiff else placed[0].layout
    as_pictures = [each.turned(layout).plain for each in placed]
    if shapes == as_pictures or (shapes[0] == shapes[1] and placed[0].shape == placed[1].shape):
        return layout
    raise UnsupportedError(f"operands of shapes {list(shapes[0])} and {list(shapes[1])}")


def power(placing: ImportContext, call: OnnxNode) -> None:
    exponent = placing.constant(call.inputs[1], "the exponent")
    placed = placing.place(call.inputs[0])
    value = float(exponent.reshape(())) if exponent.size == 1 else 0.0
    name, output = call.inputs[0], call.output
    if value == 0.5:
        placing.emit("Unary", [name], output, {"act": Act("sqrt")})
    elif value == 2:
        placing.emit("Unary", [name], output, {"act": Act("square")})
    elif value == 3:
        placing.emit("Unary", [name], f"{output}~square", {"act": Act("square")})
        placing.emit("Binary", [name, f"{output}~square"], output, {"kind": "mul", "act": None})
    else:
        raise UnsupportedError(f"exponent {exponent.reshape(-1)[:4].tolist()}")
    placing.bind(output, placed.layout)


def reciprocal(placing: ImportContext, call: OnnxNode) -> None:
    placed = placing.place(call.inputs[0])
    one = placing.hold(f"{call.output}~one", np.ones((1, 1, 1)))
    attrs = {"kind": "div", "act": None}
    placing.emit("Binary", [one, call.inputs[0]], call.output, attrs)
    placing.bind(call.output, placed.layout)


def softmax(placing: ImportContext, call: OnnxNode) -> None:
    name = call.inputs[0]
    placed, shape = placing.place(name), placing.onnx_shape(name)
    axis = call.attrs.get("axis", -1 if placing.opset >= 13 else 1)
    axis = axis + len(shape) if axis < 0 else axis
    together = shape[axis:] if placing.opset < 13 else shape[axis : axis + 1]
    if placing.axis(name, axis) != 2 or int(np.prod(together)) != placed.shape[2]:
        raise UnsupportedError(f"over axis {axis} of {list(shape)}, not over channels")
    placing.emit("Softmax", [name], call.output)
    placing.bind(call.output, placed.layout)


POINTWISE_CONVERTERS: dict[str, Callable[[ImportContext, OnnxNode], None]] = {
    **dict.fromkeys(ACTS, unary),
    "PRelu": parametric_relu,
    **dict.fromkeys(BINARY, binary),
    "Pow": power,
    "Reciprocal": reciprocal,
    "Softmax": softmax,
}
