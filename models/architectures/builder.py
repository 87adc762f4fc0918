"""NetworkBuilder: a network of fixed size, from its inputs to its outputs, with random weights.

It writes the nodes that exporters write (SiLU as Sigmoid and Mul, a dense layer over tokens as
MatMul and Add, GELU through Erf) and keeps the shape of every tensor, and the mean and deviation
that it expects there. From these it scales the next weights and sets the next bias, as a batch
norm folded into a convolution does: outputs have mean 0 and the deviation that is asked for, at
any depth. Weights are uniform and come from the seed alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

OPSET, IR_VERSION = 17, 8
BIAS_DEVIATION = 0.05
NORM_RANGE = (0.8, 1.2)
"""Of the factors in normalisation layers."""

Pair = int | tuple[int, int]
_HERMITE = np.polynomial.hermite_e.hermegauss(48)


@dataclass(frozen=True, slots=True)
class BuiltTensor:
    """A tensor of the network, and what its values are expected to be."""

    name: str
    shape: tuple[int, ...]
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def channels(self) -> int:
        """Of a picture (1, C, H, W)."""
        return self.shape[1]


@dataclass(slots=True)
class NetworkBuilder:
    """A model under construction. Methods append nodes and return the tensors that they write."""

    seed: int
    proto: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    random: np.random.Generator = field(init=False)
    constants: dict[tuple[Any, ...], BuiltTensor] = field(default_factory=dict)
    """Unnamed constants that exist already, by type, shape and bytes."""
    names: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    # --- the ends -------------------------------------------------------------------------------

    def input(
        self,
        name: str,
        shape: Sequence[int],
        *,
        mean: float = 0.0,
        deviation: float = 1.0,
        element: int = TensorProto.FLOAT,
    ) -> BuiltTensor:
        self.names.add(name)
        self.proto.graph.input.append(helper.make_tensor_value_info(name, element, list(shape)))
        return BuiltTensor(name, tuple(shape), mean, deviation)

    def model(
        self,
        *outputs: BuiltTensor,
        metadata: Mapping[str, str] | None = None,
        elements: Mapping[str, int] | None = None,
    ) -> onnx.ModelProto:
        """The finished model. elements: the types of outputs that are not float32, by name."""
        model = self.proto
        model.graph.name = "architecture"
        for output in outputs:
            kind = (elements or {}).get(output.name, TensorProto.FLOAT)
            value = helper.make_tensor_value_info(output.name, kind, list(output.shape))
            model.graph.output.append(value)
        model.opset_import.append(helper.make_opsetid("", OPSET))
        model.ir_version = IR_VERSION
        model.producer_name = "stillframe"
        if metadata:
            helper.set_model_props(model, dict(metadata))
        return model

    # --- constants ------------------------------------------------------------------------------

    def parameter(self, name: str, values: NDArray[Any]) -> BuiltTensor:
        """A named constant, as weights are."""
        tensor = self.proto.graph.initializer.add()
        tensor.name = self._unique(name)
        tensor.dims.extend(values.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.raw_data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        numbers = values.astype(np.float64) if values.size < 1 << 16 else np.zeros(1)
        return BuiltTensor(
            tensor.name, values.shape, float(numbers.mean()), float(numbers.std())
        )

    def constant(self, values: Any, element: Any = np.float32) -> BuiltTensor:
        """A constant of the graph, written once however often it is used."""
        array = np.asarray(values, element)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = self.parameter(f"constant.{len(self.constants)}", array)
        return self.constants[key]

    def integers(self, *values: int) -> BuiltTensor:
        return self.constant(values, np.int64)

    def uniform(self, shape: Sequence[int], deviation: float) -> NDArray[np.float32]:
        """Uniform values around zero: drawn much faster than normal ones."""
        values = self.random.random(tuple(shape), np.float32)
        values -= np.float32(0.5)
        values *= np.float32(deviation * 12**0.5)
        return values

    # --- any operator ---------------------------------------------------------------------------

    def add_node(
        self,
        op: str,
        inputs: Sequence[BuiltTensor | None],
        shape: Sequence[int],
        name: str = "",
        *,
        mean: float = 0.0,
        deviation: float = 1.0,
        **attributes: Any,
    ) -> BuiltTensor:
        """One node with one output. None among the inputs is one left out."""
        names = [i.name if i is not None else "" for i in inputs]
        output = self._unique(name or f"{names[0]}.{op.lower()}")
        self.proto.graph.node.append(helper.make_node(op, names, [output], output, **attributes))
        return BuiltTensor(output, tuple(shape), mean, deviation)

    def like(self, op: str, x: BuiltTensor, shape: Sequence[int], *more: BuiltTensor, **options: Any) -> BuiltTensor:
        """A node that moves the values of its first input about."""
        return self.add_node(op, (x, *more), shape, mean=x.mean, deviation=x.deviation, **options)

    def _unique(self, name: str) -> str:
        unique, count = name, 1
        while unique in self.names:
            count += 1
            unique = f"{name}_{count}"
        self.names.add(unique)
        return unique

    # --- layers with weights --------------------------------------------------------------------

    def conv(
        self,
        x: BuiltTensor,
        name: str,
        channels: int,
        kernel: Pair = 1,
        *,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
        gain: float = 1.0,
        offset: float = 0.0,
    ) -> BuiltTensor:
        """A convolution whose output has the mean `offset` and the deviation `gain`."""
        sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = [(size - 1) // 2 * dilation if pad is None else pad for size in sizes]
        reads = x.channels // groups
        shape = (channels, reads, *sizes)
        weight = self.uniform(shape, gain / (x.deviation * math.sqrt(reads * math.prod(sizes))))
        inputs = [x, self.parameter(f"{name}.weight", weight)]
        if bias:
            inputs.append(self._bias(name, weight.reshape(channels, -1).sum(1), x, gain, offset))
        sides = [
            (side + 2 * p - dilation * (size - 1) - 1) // stride + 1
            for side, p, size in zip(x.shape[2:], pads, sizes, strict=True)
        ]
        return self.add_node(
            "Conv",
            inputs,
            (1, channels, *sides),
            name,
            mean=offset,
            deviation=gain,
            kernel_shape=list(sizes),
            strides=[stride] * 2,
            pads=pads * 2,
            dilations=[dilation] * 2,
            group=groups,
        )

    def transposed_conv(self, x: BuiltTensor, name: str, channels: int, stride: int) -> BuiltTensor:
        """A convolution that writes stride × stride positions for each one that it reads."""
        weight = self.uniform(
            (x.channels, channels, stride, stride), 1 / (x.deviation * math.sqrt(x.channels))
        )
        bias = self._bias(name, weight.sum((0, 2, 3)) / stride**2, x, 1.0, 0.0)
        sides = [side * stride for side in x.shape[2:]]
        return self.add_node(
            "ConvTranspose",
            [x, self.parameter(f"{name}.weight", weight), bias],
            (1, channels, *sides),
            name,
            kernel_shape=[stride] * 2,
            strides=[stride] * 2,
        )

    def linear(
        self,
        x: BuiltTensor,
        name: str,
        channels: int,
        *,
        gain: float = 1.0,
        offset: float = 0.0,
        weight: NDArray[np.float32] | None = None,
    ) -> BuiltTensor:
        """A dense layer over the last axis: MatMul and Add. weight (in, out) instead of a drawn one."""
        if weight is None:
            weight = self.linear_weight(x, channels, gain)
        product = self.add_node(
            "MatMul",
            [x, self.parameter(f"{name}.weight", weight)],
            (*x.shape[:-1], channels),
            f"{name}.matmul",
        )
        bias = self._bias(name, weight.sum(0), x, gain, offset)
        return self.add_node(
            "Add", [bias, product], product.shape, name, mean=offset, deviation=gain
        )

    def linear_weight(self, x: BuiltTensor, channels: int, gain: float = 1.0) -> NDArray[np.float32]:
        reads = x.shape[-1]
        return self.uniform((reads, channels), gain / (x.deviation * math.sqrt(reads)))

    def _bias(
        self, name: str, sums: NDArray[Any], x: BuiltTensor, gain: float, offset: float
    ) -> BuiltTensor:
        """A bias that takes the input's mean out again, as a folded batch norm does."""
        values = self.uniform(sums.shape, BIAS_DEVIATION * gain)
        values += np.float32(offset)
        values -= np.float32(x.mean) * sums.astype(np.float32)
        return self.parameter(f"{name}.bias", values)

    def factors(self, name: str, count: int, size: float = 1.0) -> BuiltTensor:
        values = self.random.uniform(*NORM_RANGE, count).astype(np.float32) * np.float32(size)
        return self.parameter(name, values)

    def layer_norm(self, x: BuiltTensor, name: str, epsilon: float = 1e-6) -> BuiltTensor:
        """Over the last axis, as the operator of opset 17."""
        scale = self.factors(f"{name}.weight", x.shape[-1])
        bias = self.parameter(f"{name}.bias", self.uniform((x.shape[-1],), BIAS_DEVIATION))
        return self.add_node(
            "LayerNormalization", [x, scale, bias], x.shape, name, axis=-1, epsilon=epsilon
        )

    def layer_norm_expanded(
        self, x: BuiltTensor, name: str, axis: int = -1, epsilon: float = 1e-6
    ) -> BuiltTensor:
        """The same in nine nodes, as exporters below opset 17 write it; over any axis."""
        count, reduced = x.shape[axis], list(x.shape)
        reduced[axis] = 1
        mean = self.add_node("ReduceMean", [x], reduced, f"{name}.mean", axes=[axis], keepdims=1)
        centred = self.binary("Sub", x, mean)
        square = self.binary("Pow", centred, self.constant(2.0))
        variance = self.add_node(
            "ReduceMean", [square], reduced, f"{name}.variance", axes=[axis], keepdims=1
        )
        spread = self.add_node(
            "Sqrt", [self.binary("Add", variance, self.constant(epsilon))], reduced
        )
        normal = self.binary("Div", centred, spread)
        column = (count, *[1] * (len(x.shape) - 1 - axis % len(x.shape)))
        scale = self.random.uniform(*NORM_RANGE, column).astype(np.float32)
        bias = self.parameter(f"{name}.bias", self.uniform(column, BIAS_DEVIATION))
        scaled = self.binary("Mul", normal, self.parameter(f"{name}.weight", scale))
        return replace(self.binary("Add", scaled, bias, name), mean=0.0, deviation=1.0)

    # --- activations ----------------------------------------------------------------------------

    def _activated(
        self, op: str, x: BuiltTensor, function: Callable[[Any], Any], **options: Any
    ) -> BuiltTensor:
        mean, deviation = moments(function, x.mean, x.deviation)
        return self.add_node(op, [x], x.shape, mean=mean, deviation=deviation, **options)

    def relu(self, x: BuiltTensor) -> BuiltTensor:
        return self._activated("Relu", x, lambda v: np.maximum(v, 0))

    def sigmoid(self, x: BuiltTensor, name: str = "") -> BuiltTensor:
        return self._activated("Sigmoid", x, _sigmoid, name=name)

    def tanh(self, x: BuiltTensor) -> BuiltTensor:
        return self._activated("Tanh", x, np.tanh)

    def hard_swish(self, x: BuiltTensor) -> BuiltTensor:
        return self._activated("HardSwish", x, lambda v: v * np.clip(v / 6 + 0.5, 0, 1))

    def hard_sigmoid(self, x: BuiltTensor) -> BuiltTensor:
        return self._activated("HardSigmoid", x, lambda v: np.clip(v / 6 + 0.5, 0, 1), alpha=1 / 6)

    def silu(self, x: BuiltTensor) -> BuiltTensor:
        mean, deviation = moments(lambda v: v * _sigmoid(v), x.mean, x.deviation)
        product = self.binary("Mul", x, self.sigmoid(x), f"{x.name}.silu")
        return replace(product, mean=mean, deviation=deviation)

    def gelu(self, x: BuiltTensor) -> BuiltTensor:
        """x / √2, Erf, + 1, · x, · ½: five nodes."""
        mean, deviation = moments(lambda v: v * _normal_share(v), x.mean, x.deviation)
        error = self.add_node("Erf", [self.binary("Div", x, self.constant(2**0.5))], x.shape)
        product = self.binary("Mul", x, self.binary("Add", error, self.constant(1.0)))
        half = self.binary("Mul", product, self.constant(0.5), f"{x.name}.gelu")
        return replace(half, mean=mean, deviation=deviation)

    def softmax(self, x: BuiltTensor, axis: int) -> BuiltTensor:
        return self.add_node("Softmax", [x], x.shape, mean=1 / x.shape[axis], axis=axis)

    # --- arithmetic -----------------------------------------------------------------------------

    def binary(self, op: str, a: BuiltTensor, b: BuiltTensor, name: str = "") -> BuiltTensor:
        """Add, Sub, Mul, Div, Pow, … with broadcasting; the moments of the first three are tracked."""
        shape = np.broadcast_shapes(a.shape, b.shape)
        mean, deviation = a.mean, a.deviation
        if op in ("Add", "Sub"):
            mean = a.mean + (b.mean if op == "Add" else -b.mean)
            deviation = math.hypot(a.deviation, b.deviation)
        elif op in ("Mul", "Div"):
            power = math.hypot(b.mean, b.deviation)
            factor = power if op == "Mul" else 1 / max(power, 1e-6)
            mean, deviation = a.mean * factor, a.deviation * factor
        return self.add_node(op, [a, b], shape, name, mean=mean, deviation=deviation)

    def matmul(self, a: BuiltTensor, b: BuiltTensor, name: str = "", **moments: float) -> BuiltTensor:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return self.add_node(
            "MatMul", [a, b], (*batch, a.shape[-2], b.shape[-1]), name, **moments
        )

    # --- pools and sizes ------------------------------------------------------------------------

    def max_pool(self, x: BuiltTensor, kernel: int, stride: int, pad: int) -> BuiltTensor:
        return self._pool("MaxPool", x, kernel, stride, pad, x.mean + 0.7 * x.deviation)

    def average_pool(self, x: BuiltTensor, kernel: int, stride: int, pad: int = 0) -> BuiltTensor:
        return self._pool("AveragePool", x, kernel, stride, pad, x.mean)

    def _pool(
        self, op: str, x: BuiltTensor, kernel: int, stride: int, pad: int, mean: float
    ) -> BuiltTensor:
        sides = [(side + 2 * pad - kernel) // stride + 1 for side in x.shape[2:]]
        return self.add_node(
            op,
            [x],
            (*x.shape[:2], *sides),
            mean=mean,
            deviation=0.8 * x.deviation,
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
        )

    def global_pool(self, x: BuiltTensor) -> BuiltTensor:
        return self.add_node(
            "GlobalAveragePool", [x], (*x.shape[:2], 1, 1), mean=x.mean, deviation=0.3 * x.deviation
        )

    def doubled(self, x: BuiltTensor) -> BuiltTensor:
        """Every pixel twice in both directions."""
        sides = [2 * side for side in x.shape[2:]]
        scales = self.constant([1, 1, 2, 2])
        return self.add_node(
            "Resize",
            [x, None, scales],
            (*x.shape[:2], *sides),
            mean=x.mean,
            deviation=x.deviation,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def resized(self, x: BuiltTensor, sides: Sequence[int], *, corners: bool = False) -> BuiltTensor:
        """Linear interpolation to (H, W). corners: those of both grids lie on each other."""
        if tuple(sides) == x.shape[2:]:
            return x
        mode = "align_corners" if corners else "half_pixel"
        return self.add_node(
            "Resize",
            [x, None, None, self.integers(*x.shape[:2], *sides)],
            (*x.shape[:2], *sides),
            mean=x.mean,
            deviation=x.deviation,
            mode="linear",
            coordinate_transformation_mode=mode,
        )

    # --- moving values about --------------------------------------------------------------------

    def reshape(self, x: BuiltTensor, *shape: int) -> BuiltTensor:
        """One of the sides may be -1."""
        known = -math.prod(shape) if -1 in shape else math.prod(shape)
        full = [math.prod(x.shape) // known if side == -1 else side for side in shape]
        return self.like("Reshape", x, full, self.integers(*shape))

    def transpose(self, x: BuiltTensor, *order: int) -> BuiltTensor:
        return self.like("Transpose", x, [x.shape[axis] for axis in order], perm=list(order))

    def concat(self, parts: Sequence[BuiltTensor], axis: int, name: str = "") -> BuiltTensor:
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        share = [part.shape[axis] / shape[axis] for part in parts]
        mean = sum(s * p.mean for s, p in zip(share, parts, strict=True))
        power = sum(s * (p.deviation**2 + (p.mean - mean) ** 2) for s, p in zip(share, parts, strict=True))
        return self.add_node(
            "Concat", parts, shape, name, mean=mean, deviation=math.sqrt(power), axis=axis
        )

    def split(self, x: BuiltTensor, sizes: Sequence[int], axis: int) -> list[BuiltTensor]:
        outputs = []
        for index, size in enumerate(sizes):
            shape = list(x.shape)
            shape[axis] = size
            name = self._unique(f"{x.name}.split{index}")
            outputs.append(BuiltTensor(name, tuple(shape), x.mean, x.deviation))
        inputs = [x.name, self.integers(*sizes).name]
        names = [output.name for output in outputs]
        self.proto.graph.node.append(
            helper.make_node("Split", inputs, names, f"{x.name}.split", axis=axis)
        )
        return outputs

    def slice(self, x: BuiltTensor, axis: int, start: int, end: int) -> BuiltTensor:
        shape = list(x.shape)
        shape[axis] = end - start
        return self.like(
            "Slice", x, shape, self.integers(start), self.integers(end), self.integers(axis)
        )

    def unsqueeze(self, x: BuiltTensor, axis: int) -> BuiltTensor:
        at = axis % (len(x.shape) + 1)
        return self.like("Unsqueeze", x, (*x.shape[:at], 1, *x.shape[at:]), self.integers(axis))

    def squeeze(self, x: BuiltTensor, axis: int) -> BuiltTensor:
        at = axis % len(x.shape)
        return self.like("Squeeze", x, (*x.shape[:at], *x.shape[at + 1 :]), self.integers(axis))

    def pick(self, x: BuiltTensor, index: int, axis: int) -> BuiltTensor:
        """Gather with one constant index: that axis goes."""
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        return self.like("Gather", x, shape, self.constant(index, np.int64), axis=axis)

    def gather_rows(self, x: BuiltTensor, rows: BuiltTensor) -> BuiltTensor:
        """Rows (1, k) of x (1, n, c) -> (1, k, c), as exporters write torch.gather."""
        count, depth = rows.shape[-1], x.shape[-1]
        column = self.unsqueeze(rows, -1)
        index = self.like("Tile", column, (1, count, depth), self.integers(1, 1, depth))
        return self.like("GatherElements", x, (1, count, depth), index, axis=1)

    def top_k(self, x: BuiltTensor, count: int, axis: int = -1) -> tuple[BuiltTensor, BuiltTensor]:
        """The largest values along an axis and their indices, int64."""
        shape = list(x.shape)
        shape[axis] = count
        names = [self._unique(f"{x.name}.top"), self._unique(f"{x.name}.index")]
        self.proto.graph.node.append(
            helper.make_node(
                "TopK", [x.name, self.integers(count).name], names, names[0], axis=axis
            )
        )
        first, second = (BuiltTensor(name, tuple(shape), x.mean, x.deviation) for name in names)
        return first, second


def moments(function: Callable[[Any], Any], mean: float, deviation: float) -> tuple[float, float]:
    """Mean and deviation of a function of a normal variable, by quadrature."""
    nodes, weights = _HERMITE
    values = function(mean + deviation * nodes)
    share = weights / weights.sum()
    first = float((share * values).sum())
    return first, math.sqrt(max(0.0, float((share * (values - first) ** 2).sum())))


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))  # type: ignore[no-any-return]


def _normal_share(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.vectorize(math.erf)(values / 2**0.5))  # type: ignore[no-any-return]
