"""NetworkBuilder: a network of fixed size, from its inputs to its outputs, with random weights.

It writes the nodes that exporters write (SiLU as Sigmoid and Mul, a dense layer over tokens as
MatMul and Add, GELU through Erf) and computes each at once on a sample picture. So shapes need not
be worked out, and layers with weights are scaled as a batch norm folded into them does: every
channel of their output has the mean and the deviation that are asked for, at any depth.

Weights are uniform and come from the seed. What is measured on the picture is rounded coarsely
before it is used, so that last bits of ONNX Runtime's sums do not show in the file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

OPSET, IR_VERSION = 17, 8
BIAS_DEVIATION = 0.05
LIVELY = 0.7
"""Mean before an activation: most values lie where it is steep, so that noise does not grow."""
NORM_RANGE = (0.8, 1.2)
"""Of the factors in normalisation layers."""
SEVERAL = 64
"""Fewest positions whose deviation says something of a channel; else all channels share one."""

Pair = int | tuple[int, int]
Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class BuiltTensor:
    """A tensor of the network and its values for the sample picture."""

    name: str
    values: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def channels(self) -> int:
        """Of a picture (1, C, H, W)."""
        return int(self.values.shape[1])


@dataclass(slots=True)
class NetworkBuilder:
    """A model under construction. Methods append nodes and return the tensors that they write."""

    seed: int
    proto: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    random: np.random.Generator = field(init=False)
    constants: dict[tuple[Any, ...], BuiltTensor] = field(default_factory=dict)
    """Constants without a name of their own, by type, shape and bytes."""
    names: set[str] = field(default_factory=set)
    layers: dict[str, tuple[BuiltTensor, BuiltTensor]] = field(default_factory=dict)
    """Weight and bias of each dense layer, by its name."""

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    # --- the ends -------------------------------------------------------------------------------

    def input(self, name: str, values: Array) -> BuiltTensor:
        """An input of the shape and type of its sample values."""
        self.names.add(name)
        self.proto.graph.input.append(_declared(name, values))
        return BuiltTensor(name, values)

    def picture(
        self,
        name: str,
        size: tuple[int, int],
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        deviation: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> BuiltTensor:
        """The input (1, 3, H, W): RGB 0..1, minus mean, over deviation."""
        rgb = (textured(*size) - np.array(mean)) / np.array(deviation)
        return self.input(name, np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32))

    def model(
        self, *outputs: BuiltTensor, metadata: Mapping[str, str] | None = None
    ) -> onnx.ModelProto:
        """The finished model."""
        model = self.proto
        model.graph.name = "architecture"
        model.graph.output.extend(_declared(o.name, o.values) for o in outputs)
        model.opset_import.append(helper.make_opsetid("", OPSET))
        model.ir_version = IR_VERSION
        model.producer_name = "stillframe"
        if metadata:
            helper.set_model_props(model, dict(metadata))
        return model

    # --- constants ------------------------------------------------------------------------------

    def parameter(self, name: str, values: Array) -> BuiltTensor:
        """A constant with a name, as weights have."""
        tensor = self.proto.graph.initializer.add()
        tensor.name = self._unique(name)
        tensor.dims.extend(values.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.raw_data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        return BuiltTensor(tensor.name, values)

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

    def factors(self, name: str, shape: Sequence[int], size: float = 1.0) -> BuiltTensor:
        """Positive factors around `size`."""
        values = self.random.uniform(*NORM_RANGE, shape) * size
        return self.parameter(name, values.astype(np.float32))

    # --- any operator ---------------------------------------------------------------------------

    def add_node(
        self,
        op: str,
        inputs: Sequence[BuiltTensor | None],
        name: str = "",
        *,
        known: Array | None = None,
        **attributes: Any,
    ) -> BuiltTensor:
        """One node with one output. None among the inputs is one left out.

        known: the output's values where they are at hand, instead of computing them.
        """
        values = None if known is None else [known]
        return self.add_nodes(op, inputs, [name], known=values, **attributes)[0]

    def add_nodes(
        self,
        op: str,
        inputs: Sequence[BuiltTensor | None],
        outputs: Sequence[str],
        *,
        known: list[Array] | None = None,
        **attributes: Any,
    ) -> list[BuiltTensor]:
        """One node with several outputs; an empty name is filled in."""
        names = [i.name if i is not None else "" for i in inputs]
        outputs = [self._unique(o or f"{names[0]}.{op.lower()}") for o in outputs]
        node = helper.make_node(op, names, outputs, outputs[0], **attributes)
        self.proto.graph.node.append(node)
        values = known or computed(node, {i.name: i.values for i in inputs if i is not None})
        return [BuiltTensor(o, v) for o, v in zip(outputs, values, strict=True)]

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
        weight: NDArray[np.float32] | None = None,
    ) -> BuiltTensor:
        """A convolution whose output has the mean `offset` (0 without bias) and deviation `gain`.

        pad: None keeps the size at stride 1. weight: instead of drawn ones, before scaling.
        """
        sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = [(size - 1) // 2 * dilation if pad is None else pad for size in sizes]
        if weight is None:
            reads = x.channels // groups
            weight = self.uniform((channels, reads, *sizes), (reads * math.prod(sizes)) ** -0.5)
        return self._scaled(
            "Conv",
            x,
            name,
            weight,
            gain,
            offset if bias else None,
            kernel_shape=list(sizes),
            strides=[stride] * 2,
            pads=pads * 2,
            dilations=[dilation] * 2,
            group=groups,
        )

    def transposed_conv(self, x: BuiltTensor, name: str, channels: int, stride: int) -> BuiltTensor:
        """A convolution that writes stride × stride positions for each one that it reads."""
        weight = self.uniform((x.channels, channels, stride, stride), x.channels**-0.5)
        sides = [stride] * 2
        return self._scaled(
            "ConvTranspose", x, name, weight, 1.0, 0.0, kernel_shape=sides, strides=sides
        )

    def _scaled(
        self,
        op: str,
        x: BuiltTensor,
        name: str,
        weight: NDArray[np.float32],
        gain: float,
        offset: float | None,
        **attributes: Any,
    ) -> BuiltTensor:
        raw = helper.make_node(op, ["x", "weight"], ["y"], **attributes)
        (values,) = computed(raw, {"x": x.values, "weight": weight})
        scale, shift = self._normalisation(values, (0, 2, 3), gain, offset)
        of_weight, of_output = (-1, 1, 1, 1), (1, -1, 1, 1)
        if op == "ConvTranspose":
            of_weight = of_output
        inputs = [x, self.parameter(f"{name}.weight", weight * scale.reshape(of_weight))]
        values *= scale.reshape(of_output)
        if offset is not None:
            inputs.append(self.parameter(f"{name}.bias", shift))
            values += shift.reshape(of_output)
        return self.add_node(op, inputs, name, known=values, **attributes)

    def linear(
        self,
        x: BuiltTensor,
        name: str,
        channels: int,
        *,
        gain: float = 1.0,
        offset: float = 0.0,
        bias: bool = True,
        weight: NDArray[np.float32] | None = None,
    ) -> BuiltTensor:
        """A dense layer over the last axis, MatMul and Add, scaled as `conv` is.

        weight: (in, out) instead of drawn ones, before scaling. A name that was used before is the
        same layer again, with the same weights.
        """
        if name in self.layers:
            scaled, shared = self.layers[name]
            product = self.add_node("MatMul", [x, scaled], f"{name}.matmul")
            return self.add_node("Add", [shared, product], name)
        if weight is None:
            weight = self.uniform((x.shape[-1], channels), x.shape[-1] ** -0.5)
        values = product_of(x.values, weight)
        axes = tuple(range(values.ndim - 1))
        scale, shift = self._normalisation(values, axes, gain, offset if bias else None)
        scaled = self.parameter(f"{name}.weight", weight * scale)
        values *= scale
        if not bias:
            return self.add_node("MatMul", [x, scaled], name, known=values)
        product = self.add_node("MatMul", [x, scaled], f"{name}.matmul", known=values)
        added = self.parameter(f"{name}.bias", shift)
        self.layers[name] = scaled, added
        return self.add_node("Add", [added, product], name, known=values + shift)

    def gemm(self, x: BuiltTensor, name: str, channels: int, gain: float = 1.0) -> BuiltTensor:
        """A dense layer over rows (n, channels)."""
        weight = self.uniform((channels, x.shape[-1]), x.shape[-1] ** -0.5)
        scale, shift = self._normalisation(product_of(x.values, weight.T), (0,), gain, 0.0)
        inputs = [x, self.parameter(f"{name}.weight", weight * scale[:, None])]
        inputs.append(self.parameter(f"{name}.bias", shift))
        return self.add_node("Gemm", inputs, name, transB=1)

    def _normalisation(
        self, values: Array, axes: tuple[int, ...], gain: float, offset: float | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(scale, shift) of each channel that bring it to gain and offset; None: only the scale."""
        positions = math.prod(values.shape[axis] for axis in axes)
        channels = values.size // positions
        many = positions >= SEVERAL
        over = axes if many else None
        mean = np.broadcast_to(values.mean(over, dtype=np.float64), (channels,))
        power = np.broadcast_to(np.square(values).mean(over, dtype=np.float64), (channels,))
        if offset is not None:
            power = power - np.square(mean)
        power = np.maximum(power, 0.01 * power.mean() + 1e-12)
        scale = np.exp2(np.round(np.log2(gain / np.sqrt(power)) * 8) / 8)
        shift = self.uniform((channels,), BIAS_DEVIATION * gain) + np.float32(offset or 0)
        shift -= (np.round(mean * scale / gain * 8) / 8 * gain).astype(np.float32)
        return scale.astype(np.float32), shift

    def layer_norm(self, x: BuiltTensor, name: str, epsilon: float = 1e-6) -> BuiltTensor:
        """Over the last axis, as the operator of opset 17."""
        count = x.shape[-1]
        scale = self.factors(f"{name}.weight", (count,))
        bias = self.parameter(f"{name}.bias", self.uniform((count,), BIAS_DEVIATION))
        return self.add_node("LayerNormalization", [x, scale, bias], name, axis=-1, epsilon=epsilon)

    def layer_norm_expanded(
        self, x: BuiltTensor, name: str, axis: int = -1, epsilon: float = 1e-6
    ) -> BuiltTensor:
        """The same in nine nodes, as exporters below opset 17 write it; over any axis."""
        mean = self.add_node("ReduceMean", [x], f"{name}.mean", axes=[axis], keepdims=1)
        centred = self.binary("Sub", x, mean)
        square = self.binary("Pow", centred, self.constant(2.0))
        variance = self.add_node("ReduceMean", [square], f"{name}.var", axes=[axis], keepdims=1)
        spread = self.add_node("Sqrt", [self.binary("Add", variance, self.constant(epsilon))])
        column = (x.shape[axis], *[1] * (len(x.shape) - 1 - axis % len(x.shape)))
        scale = self.factors(f"{name}.weight", column)
        bias = self.parameter(f"{name}.bias", self.uniform(column, BIAS_DEVIATION))
        scaled = self.binary("Mul", self.binary("Div", centred, spread), scale)
        return self.binary("Add", scaled, bias, name)

    # --- pointwise ------------------------------------------------------------------------------

    def unary(self, op: str, x: BuiltTensor, name: str = "", **attributes: Any) -> BuiltTensor:
        return self.add_node(op, [x], name, **attributes)

    def binary(self, op: str, a: BuiltTensor, b: BuiltTensor, name: str = "") -> BuiltTensor:
        return self.add_node(op, [a, b], name)

    def relu(self, x: BuiltTensor) -> BuiltTensor:
        return self.unary("Relu", x)

    def sigmoid(self, x: BuiltTensor, name: str = "") -> BuiltTensor:
        return self.unary("Sigmoid", x, name)

    def hard_sigmoid(self, x: BuiltTensor) -> BuiltTensor:
        return self.unary("HardSigmoid", x, alpha=1 / 6)

    def silu(self, x: BuiltTensor) -> BuiltTensor:
        return self.binary("Mul", x, self.sigmoid(x), f"{x.name}.silu")

    def gelu(self, x: BuiltTensor) -> BuiltTensor:
        """x / √2, Erf, + 1, · x, · ½: five nodes."""
        error = self.unary("Erf", self.binary("Div", x, self.constant(2**0.5)))
        product = self.binary("Mul", x, self.binary("Add", error, self.constant(1.0)))
        return self.binary("Mul", product, self.constant(0.5), f"{x.name}.gelu")

    def softmax(self, x: BuiltTensor, axis: int) -> BuiltTensor:
        return self.unary("Softmax", x, axis=axis)

    def matmul(self, a: BuiltTensor, b: BuiltTensor, name: str = "") -> BuiltTensor:
        return self.add_node("MatMul", [a, b], name)

    # --- pools and sizes ------------------------------------------------------------------------

    def pool(self, op: str, x: BuiltTensor, kernel: int, stride: int, pad: int = 0) -> BuiltTensor:
        sides = [kernel] * 2
        return self.unary(op, x, kernel_shape=sides, strides=[stride] * 2, pads=[pad] * 4)

    def global_pool(self, x: BuiltTensor) -> BuiltTensor:
        return self.unary("GlobalAveragePool", x)

    def doubled(self, x: BuiltTensor) -> BuiltTensor:
        """Every pixel twice in both directions."""
        return self.add_node(
            "Resize",
            [x, None, self.constant([1, 1, 2, 2])],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )

    def resized(
        self, x: BuiltTensor, sides: Sequence[int], *, corners: bool = False
    ) -> BuiltTensor:
        """Linear interpolation to (H, W). corners: those of both grids lie on each other."""
        return self.add_node(
            "Resize",
            [x, None, None, self.integers(*x.shape[:2], *sides)],
            mode="linear",
            coordinate_transformation_mode="align_corners" if corners else "half_pixel",
        )

    # --- moving values about --------------------------------------------------------------------

    def reshape(self, x: BuiltTensor, *shape: int) -> BuiltTensor:
        """One of the sides may be -1."""
        return self.add_node("Reshape", [x, self.integers(*shape)])

    def transpose(self, x: BuiltTensor, *order: int) -> BuiltTensor:
        return self.unary("Transpose", x, perm=list(order))

    def swapped(self, x: BuiltTensor) -> BuiltTensor:
        """The last two axes change places."""
        order = list(range(len(x.shape)))
        return self.transpose(x, *order[:-2], order[-1], order[-2])

    def concat(self, parts: Sequence[BuiltTensor], axis: int, name: str = "") -> BuiltTensor:
        return self.add_node("Concat", parts, name, axis=axis)

    def split(self, x: BuiltTensor, sizes: Sequence[int], axis: int) -> list[BuiltTensor]:
        names = [f"{x.name}.split{index}" for index in range(len(sizes))]
        return self.add_nodes("Split", [x, self.integers(*sizes)], names, axis=axis)

    def slice(self, x: BuiltTensor, axis: int, start: int, end: int) -> BuiltTensor:
        limits = (self.integers(number) for number in (start, end, axis))
        return self.add_node("Slice", [x, *limits])

    def unsqueeze(self, x: BuiltTensor, axis: int) -> BuiltTensor:
        return self.add_node("Unsqueeze", [x, self.integers(axis)])

    def squeeze(self, x: BuiltTensor, axis: int, name: str = "") -> BuiltTensor:
        return self.add_node("Squeeze", [x, self.integers(axis)], name)

    def pick(self, x: BuiltTensor, index: int, axis: int) -> BuiltTensor:
        """Gather with one constant index: that axis goes."""
        return self.add_node("Gather", [x, self.constant(index, np.int64)], axis=axis)

    def gather_rows(self, x: BuiltTensor, rows: BuiltTensor) -> BuiltTensor:
        """Rows (1, k) of x (1, n, c) -> (1, k, c), as exporters write torch.gather."""
        column = self.unsqueeze(rows, -1)
        index = self.add_node("Tile", [column, self.integers(1, 1, x.shape[-1])])
        return self.add_node("GatherElements", [x, index], axis=1)

    def top_k(self, x: BuiltTensor, count: int, axis: int = -1) -> list[BuiltTensor]:
        """The largest values along an axis, and their indices as int64."""
        names = [f"{x.name}.top", f"{x.name}.index"]
        return self.add_nodes("TopK", [x, self.integers(count)], names, axis=axis)

    def cast(self, x: BuiltTensor, element: int, name: str = "") -> BuiltTensor:
        return self.unary("Cast", x, name, to=element)


def computed(node: onnx.NodeProto, inputs: Mapping[str, Array]) -> list[Array]:
    """The outputs of one node, by ONNX Runtime in one thread."""
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    ports = [_declared(name, values) for name, values in inputs.items()]
    model = helper.make_model(
        helper.make_graph([node], "node", ports, outputs),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers)
    results: list[Array] = session.run(None, dict(inputs))
    return results


def product_of(a: Array, b: Array) -> Array:
    """a @ b, in one thread as well."""
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    return computed(node, {"a": a, "b": np.ascontiguousarray(b)})[0]


def textured(height: int, width: int, seed: int = 0) -> NDArray[np.float64]:
    """A picture (H, W, 3) of 0..1 with detail of every size, as a camera's."""
    random = np.random.default_rng(seed)
    rows, columns = np.arange(height), np.arange(width)
    total = np.zeros((height, width, 3))
    for cell in (2, 4, 8, 16, 32, 64):
        grid = random.random((height // cell + 2, width // cell + 2, 3)) - 0.5
        lines = _between(grid, rows / cell)
        total += _between(lines.transpose(1, 0, 2), columns / cell).transpose(1, 0, 2) * cell**0.5
    return np.clip(0.45 + 0.05 * total, 0, 1)


def _between(values: Array, places: Array) -> Array:
    """Linear interpolation along the first axis."""
    whole = places.astype(np.int64)
    share = (places - whole)[:, None, None]
    result: Array = values[whole] * (1 - share) + values[whole + 1] * share
    return result


def _declared(name: str, values: Array) -> onnx.ValueInfoProto:
    element: int = helper.np_dtype_to_tensor_dtype(values.dtype)
    return helper.make_tensor_value_info(name, element, list(values.shape))
