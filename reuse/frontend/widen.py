"""Quantised models -> float32: what is computed between quantising and dequantising, in floats.

widen(model): QuantizeLinear and DequantizeLinear (QDQ), the operators that compute on integers
(QLinearConv and so on), and those that quantise while running (DynamicQuantizeLinear, ConvInteger).

A tensor of integers becomes one of the numbers that they stand for. Weights keep the values that
quantising left them. Quantising an activation becomes a Clip to the range that its type can hold:
quantisers drop a Relu whose work the range does. Beside an activation that is still there no Clip
is needed, and the rounding within the range goes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stillframe.reuse.frontend.node_order import node_title
from stillframe.reuse.ir.graph import Array

ONE = np.ones((), np.float32)


class WidenError(Exception):
    """The model cannot be widened; the message names the node."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """real = (integer - zero) * scale."""

    scale: Array
    zero: Array
    axis: int = 1

    def real(self, integers: Array) -> Array:
        """The numbers that integers stand for."""
        scale, zero = (self._along(each, integers.ndim) for each in (self.scale, self.zero))
        return ((integers.astype(np.float32) - zero.astype(np.float32)) * scale).astype(np.float32)

    def rounded(self, values: Array) -> Array:
        """The numbers that are left of real ones."""
        scale, zero = (self._along(each, values.ndim) for each in (self.scale, self.zero))
        low, high = _limits(self.zero)
        integers = np.clip(np.rint(values / scale) + zero.astype(np.float32), low, high)
        return self.real(integers)

    def bounds(self) -> tuple[Array, Array]:
        """The least and the greatest number that there is an integer for."""
        low, high = _limits(self.zero)
        return self.real(np.array(low)), self.real(np.array(high))

    def same(self, other: "Quantisation") -> bool:
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero, other.zero)

    def _along(self, values: Array, rank: int) -> Array:
        if values.size == 1:
            return values.reshape(())
        shape = [1] * rank
        shape[self.axis] = values.size
        return values.reshape(shape)


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether any node computes on quantised integers."""
    return any(node.op_type in RULES for node in model.graph.node)


def widen(model: onnx.ModelProto) -> None:
    """Rewrite a model with sorted nodes in place. Raises WidenError and leaves it as it was."""
    state = Widening(
        {tensor.name: tensor for tensor in model.graph.initializer},
        {value.name for value in model.graph.output},
        beside_activation(model.graph),
    )
    for node in model.graph.node:
        rule = RULES.get(node.op_type)
        if rule is not None:
            rule(state, node)
            continue
        state.nodes.append(node)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            state.tensors[node.output[0]] = node.attribute[0].t
        state.move(node)
    del model.graph.node[:]
    model.graph.node.extend(state.nodes)
    model.graph.initializer.extend(state.added)


@dataclass
class Widening:
    """The model as far as it is rewritten."""

    tensors: dict[str, TensorProto]
    """Constants by name."""
    outputs: set[str]
    """What the model returns."""
    unbounded: set[str]
    """Quantised tensors that need no Clip."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    added: list[TensorProto] = field(default_factory=list)
    real: dict[str, Quantisation] = field(default_factory=dict)
    """Tensors of integers that now hold the numbers they stood for."""

    def constant(self, node: onnx.NodeProto, index: int) -> Array | None:
        """The value of a constant input; None where it is absent."""
        if index >= len(node.input) or not node.input[index]:
            return None
        name = node.input[index]
        if name not in self.tensors:
            raise WidenError(f"{node_title(node)}: {name!r} is computed, not constant")
        return np.asarray(numpy_helper.to_array(self.tensors[name]))

    def quantisation(self, node: onnx.NodeProto, index: int, axis: int = 1) -> Quantisation:
        """The scale at this input and the zero at the next."""
        scale, zero = self.constant(node, index), self.constant(node, index + 1)
        if scale is None:
            raise WidenError(f"{node_title(node)}: has no scale")
        if zero is None:
            zero = np.zeros_like(scale, np.uint8)
        return Quantisation(scale.astype(np.float32), zero, axis)

    def add(self, value: Array, name: str) -> str:
        """A float32 constant; returns its name."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name)
        self.added.append(tensor)
        self.tensors[name] = tensor
        return name

    def emit(self, operator: str, inputs: list[str], output: str, **attrs: Any) -> str:
        """Write one node; returns its output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attrs))
        return output

    def floats(self, node: onnx.NodeProto, index: int, quantisation: Quantisation) -> str:
        """The tensor of the numbers that an input stands for."""
        name = str(node.input[index])
        output = f"{node.output[0]}~{index}"
        if name in self.real:
            known = self.real[name]
            if known.same(quantisation):
                return name
            if known.scale.size > 1 or quantisation.scale.size > 1:
                raise WidenError(f"{node_title(node)}: {name!r} has other scales where it is made")
            factor = quantisation.scale / known.scale
            moved = known.zero.astype(np.float32) - quantisation.zero.astype(np.float32)
            self.emit("Mul", [name, self.add(factor, f"{output}~factor")], f"{output}~scaled")
            shift = self.add(moved * quantisation.scale, f"{output}~shift")
            return self.emit("Add", [f"{output}~scaled", shift], output)
        if name in self.tensors:
            return self.add(quantisation.real(numpy_helper.to_array(self.tensors[name])), output)
        if quantisation.scale.size > 1:
            raise WidenError(f"{node_title(node)}: {name!r} is computed, with a scale a channel")
        self.emit("Cast", [name], f"{output}~cast", to=TensorProto.FLOAT)
        zero = self.add(quantisation.zero, f"{output}~zero")
        self.emit("Sub", [f"{output}~cast", zero], f"{output}~moved")
        return self.emit(
            "Mul", [f"{output}~moved", self.add(quantisation.scale, f"{output}~scale")], output
        )

    def quantise(self, node: onnx.NodeProto, value: str, quantisation: Quantisation) -> None:
        """Write the node's output: a tensor bounded as its integers would be."""
        if quantisation.scale.size > 1:
            raise WidenError(f"{node_title(node)}: quantises a tensor with a scale a channel")
        output = node.output[0]
        if output in self.outputs:
            raise WidenError(f"{node_title(node)}: {output!r} is returned as integers")
        if output in self.unbounded:
            self.emit("Identity", [value], output)
        else:
            low, high = quantisation.bounds()
            bounds = [self.add(low, f"{output}~low"), self.add(high, f"{output}~high")]
            self.emit("Clip", [value, *bounds], output)
        self.real[output] = quantisation

    def move(self, node: onnx.NodeProto) -> None:
        """Pass what integers stand for on through a node that only moves or chooses them."""
        read = [name for name in node.input if name in self.real]
        if not read:
            return
        known = self.real[read[0]]
        if node.op_type not in MOVES or not all(self.real[name].same(known) for name in read):
            raise WidenError(f"{node_title(node)}: computes on the integers of {read[0]!r}")
        returned = self.outputs & set(node.output)
        if returned:
            raise WidenError(f"{node_title(node)}: {min(returned)!r} is returned as integers")
        self.real |= dict.fromkeys(filter(None, node.output), known)


def beside_activation(graph: onnx.GraphProto) -> set[str]:
    """Quantised tensors that an activation wrote, or that activations alone read."""
    writers = {name: node.op_type for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def operators(name: str) -> Iterator[str]:
        for node in readers.get(name, ()):
            if node.op_type == "DequantizeLinear":
                yield from operators(node.output[0])
            else:
                yield node.op_type

    names = set()
    for node in graph.node:
        if node.op_type not in RULES or not node.output:
            continue
        writer = writers.get(node.input[0]) if node.op_type == "QuantizeLinear" else node.op_type
        read = set(operators(node.output[0]))
        if writer in ACTIVATIONS or (read and read <= ACTIVATIONS):
            names.add(node.output[0])
    return names


ACTIVATIONS = frozenset(
    (
        "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "QLinearLeakyRelu",
        "QLinearSigmoid", "QLinearSoftmax", "Relu", "Sigmoid", "Softmax", "Softplus", "Tanh",
    )
)  # fmt: skip

MOVES = frozenset(
    (
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape",
        "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
"""Operators that give integers back as they took them."""


def _limits(zero: Array) -> tuple[int, int]:
    """Of the type that the zero has."""
    info = np.iinfo(zero.dtype)
    return int(info.min), int(info.max)


def _attrs(node: onnx.NodeProto, *dropped: str) -> dict[str, Any]:
    return {
        each.name: helper.get_attribute_value(each)
        for each in node.attribute
        if each.name not in dropped
    }


def _quantize(state: Widening, node: onnx.NodeProto) -> None:
    axis = int(_attrs(node).get("axis", 1))
    quantisation = state.quantisation(node, 1, axis)
    if node.input[0] not in state.tensors:
        state.quantise(node, node.input[0], quantisation)
        return
    weights = numpy_helper.to_array(state.tensors[node.input[0]])  # of training that knows of it
    state.add(quantisation.rounded(weights), node.output[0])
    state.real[node.output[0]] = quantisation


def _dequantize(state: Widening, node: onnx.NodeProto) -> None:
    attrs = _attrs(node)
    if attrs.get("block_size"):
        raise WidenError(f"{node_title(node)}: scales of blocks")
    quantisation = state.quantisation(node, 1, int(attrs.get("axis", 1)))
    floats = state.floats(node, 0, quantisation)
    state.emit("Identity", [floats], node.output[0])


def _linear_conv(state: Widening, node: onnx.NodeProto) -> None:
    inputs, weights = state.quantisation(node, 1), state.quantisation(node, 4, 0)
    names = [state.floats(node, 0, inputs), state.floats(node, 3, weights)]
    bias = state.constant(node, 8)
    if bias is not None:
        scaled = bias * (inputs.scale * weights.scale)
        names.append(state.add(scaled, f"{node.output[0]}~bias"))
    product = state.emit("Conv", names, f"{node.output[0]}~real", **_attrs(node))
    state.quantise(node, product, state.quantisation(node, 6))


def _linear_product(state: Widening, node: onnx.NodeProto) -> None:
    left, right = state.quantisation(node, 1), state.quantisation(node, 4, -1)
    names = [state.floats(node, 0, left), state.floats(node, 3, right)]
    product = state.emit("MatMul", names, f"{node.output[0]}~real")
    state.quantise(node, product, state.quantisation(node, 6))


def _linear_gemm(state: Widening, node: onnx.NodeProto) -> None:
    attrs = _attrs(node)
    left = state.quantisation(node, 1)
    right = state.quantisation(node, 4, 0 if attrs.get("transB") else -1)
    names = [state.floats(node, 0, left), state.floats(node, 3, right)]
    bias = state.constant(node, 6)
    if bias is not None:
        scaled = bias * (left.scale * right.scale)
        names.append(state.add(scaled, f"{node.output[0]}~bias"))
    if len(node.input) < 8 or not node.input[7]:
        state.emit("Gemm", names, node.output[0], **attrs)
        return
    product = state.emit("Gemm", names, f"{node.output[0]}~real", **attrs)
    state.quantise(node, product, state.quantisation(node, 7))


def _linear_binary(operator: str) -> Callable[[Widening, onnx.NodeProto], None]:
    def rule(state: Widening, node: onnx.NodeProto) -> None:
        names = [state.floats(node, at, state.quantisation(node, at + 1)) for at in (0, 3)]
        result = state.emit(operator, names, f"{node.output[0]}~real")
        state.quantise(node, result, state.quantisation(node, 6))

    return rule


def _linear_unary(operator: str, *dropped: str) -> Callable[[Widening, onnx.NodeProto], None]:
    """dropped: attributes that the operator on floats does not have."""

    def rule(state: Widening, node: onnx.NodeProto) -> None:
        attrs = _attrs(node, *dropped)
        if any(_attrs(node).get(name) for name in ("channels_last",)):
            raise WidenError(f"{node_title(node)}: channels last")
        name = state.floats(node, 0, state.quantisation(node, 1))
        result = state.emit(operator, [name], f"{node.output[0]}~real", **attrs)
        state.quantise(node, result, state.quantisation(node, 3))

    return rule


def _linear_concat(state: Widening, node: onnx.NodeProto) -> None:
    names = [
        state.floats(node, at, state.quantisation(node, at + 1))
        for at in range(2, len(node.input), 3)
    ]
    result = state.emit("Concat", names, f"{node.output[0]}~real", **_attrs(node))
    state.quantise(node, result, state.quantisation(node, 0))


DYNAMIC = Quantisation(ONE, np.zeros((), np.uint8))
"""Of a tensor that is quantised while running: its numbers are those that were to be quantised."""


def _dynamic_quantize(state: Widening, node: onnx.NodeProto) -> None:
    output, scale, zero = node.output
    state.emit("Identity", [node.input[0]], output)
    state.real[output] = DYNAMIC
    state.add(np.ones((), np.float32), scale)
    state.tensors[zero] = numpy_helper.from_array(np.zeros((), np.uint8), zero)


def _integer_weights(state: Widening, node: onnx.NodeProto, index: int, zero: int) -> str:
    weights, moved = state.constant(node, index), state.constant(node, zero)
    assert weights is not None
    integers = weights.astype(np.float32)
    if moved is not None:
        moved = moved.astype(np.float32)
        if moved.size > 1 and node.op_type == "ConvInteger":
            moved = moved.reshape(-1, *[1] * (weights.ndim - 1))
        integers = integers - moved
    return state.add(integers, f"{node.output[0]}~weights")


def _integer_product(operator: str) -> Callable[[Widening, onnx.NodeProto], None]:
    """The product of integers, which later nodes scale."""

    def rule(state: Widening, node: onnx.NodeProto) -> None:
        left = state.floats(node, 0, Quantisation(ONE, _zero(state, node, 2)))
        weights = _integer_weights(state, node, 1, 3)
        state.emit(operator, [left, weights], node.output[0], **_attrs(node))

    return rule


def _zero(state: Widening, node: onnx.NodeProto, index: int) -> Array:
    zero = state.constant(node, index)
    return np.zeros((), np.uint8) if zero is None else zero


def _product_to_float(state: Widening, node: onnx.NodeProto) -> None:
    """com.microsoft.MatMulIntegerToFloat: A, B, scales of both, zeros of both, bias."""
    scale, zero = state.constant(node, 2), _zero(state, node, 4)
    assert scale is not None
    left = state.floats(node, 0, Quantisation(scale.astype(np.float32), zero))
    _scaled_product(state, node, left, scale=3, zero=5, bias=6)


def _dynamic_product(state: Widening, node: onnx.NodeProto) -> None:
    """com.microsoft.DynamicQuantizeMatMul: A, B, scale and zero of B, bias."""
    _scaled_product(state, node, node.input[0], scale=2, zero=3, bias=4)


def _scaled_product(
    state: Widening, node: onnx.NodeProto, left: str, *, scale: int, zero: int, bias: int
) -> None:
    """The product with the numbers that the weights stand for; each argument is an input."""
    factor = state.constant(node, scale)
    assert factor is not None
    weights = Quantisation(factor.astype(np.float32), _zero(state, node, zero), -1)
    names = [left, state.floats(node, 1, weights)]
    if len(node.input) <= bias or not node.input[bias]:
        state.emit("MatMul", names, node.output[0])
        return
    product = state.emit("MatMul", names, f"{node.output[0]}~product")
    state.emit("Add", [product, node.input[bias]], node.output[0])


RULES: Mapping[str, Callable[[Widening, onnx.NodeProto], None]] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "QLinearConv": _linear_conv,
    "QLinearMatMul": _linear_product,
    "QGemm": _linear_gemm,
    "QLinearAdd": _linear_binary("Add"),
    "QLinearMul": _linear_binary("Mul"),
    "QLinearSigmoid": _linear_unary("Sigmoid"),
    "QLinearLeakyRelu": _linear_unary("LeakyRelu"),
    "QLinearSoftmax": _linear_unary("Softmax", "opset"),
    "QLinearAveragePool": _linear_unary("AveragePool", "channels_last"),
    "QLinearGlobalAveragePool": _linear_unary("GlobalAveragePool", "channels_last"),
    "QLinearConcat": _linear_concat,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "ConvInteger": _integer_product("Conv"),
    "MatMulInteger": _integer_product("MatMul"),
    "MatMulIntegerToFloat": _product_to_float,
    "DynamicQuantizeMatMul": _dynamic_product,
}
"""Operator of any domain -> what it computes in floats."""
