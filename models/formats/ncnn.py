"""ncnn networks (a .param text and a .bin of weights) -> ONNX.

Text: a magic number, the numbers of layers and blobs, then one line per layer: kind, name, number
of inputs and outputs, their names, `key=value` options; key -233xx has an array, its length first.
The weights are in the order of the layers, without names. A layer's main weights begin with a flag
that names their storage type; biases, slopes and the like are float32 without a flag.

LAYERS has one row per supported kind of layer; any other is refused by name. Inputs and outputs are
(1, C, H, W) float32 with free height and width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stillframe.errors import ModelError

MAGIC = "7767517"
FLOAT16, FLOAT32_RAW, FLOAT32 = 0x01306B47, 0x0002C056, 0
OPSET, IR_VERSION = 17, 8

Option = float | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class NcnnLayer:
    """One line of the .param text."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: dict[int, Option]
    """By ncnn's numeric keys."""

    def number(self, key: int, default: float) -> float:
        value = self.options.get(key, default)
        if isinstance(value, tuple):
            raise ModelError(f"ncnn layer {self.name!r}: option {key} is an array, not a number")
        return value

    def whole(self, key: int, default: int) -> int:
        return int(self.number(key, default))

    def numbers(self, key: int) -> tuple[float, ...]:
        value = self.options.get(key, ())
        return value if isinstance(value, tuple) else (value,)

    def refuse(self, what: str) -> ModelError:
        return ModelError(f"ncnn layer {self.name!r} ({self.kind}): {what} is not supported")


@dataclass(slots=True)
class NcnnNetwork:
    """The ONNX graph under construction, and the weights read so far."""

    weights: bytes
    offset: int = 0
    """Bytes of the weights already read."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=dict)
    """Blob name -> number of channels, where known."""

    def read(self, layer: NcnnLayer, count: int, kind: str) -> NDArray[np.generic]:
        """The next `count` values; ncnn pads each block to a multiple of 4 bytes."""
        size = count * np.dtype(kind).itemsize
        if self.offset + size > len(self.weights):
            raise ModelError(
                f"ncnn layer {layer.name!r} ({layer.kind}): expected {size} bytes of weights at "
                f"offset {self.offset}, the file has {len(self.weights)} in all; "
                "is it the right .bin?"
            )
        values = np.frombuffer(self.weights, kind, count, self.offset)
        self.offset += -(-size // 4) * 4
        return values

    def unflagged(self, layer: NcnnLayer, count: int) -> NDArray[np.float32]:
        """Weights without a flag: biases, slopes."""
        return self.read(layer, count, "<f4").astype(np.float32)

    def flagged(self, layer: NcnnLayer, count: int) -> NDArray[np.float32]:
        """Main weights: a flag, then float16 or float32."""
        flag = int(self.read(layer, 1, "<u4")[0])
        stored = {FLOAT16: "<f2", FLOAT32_RAW: "<f4", FLOAT32: "<f4"}.get(flag)
        if stored is None:
            raise layer.refuse(f"weight storage {flag:#010x} (int8 or a value table)")
        return self.read(layer, count, stored).astype(np.float32)

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output


def convert(text: str, weights: bytes) -> onnx.ModelProto:
    """The network as a checked ONNX model. Raises ModelError for an unsupported or damaged one."""
    layers = parse(text)
    network = NcnnNetwork(weights)
    for layer in layers:
        row = LAYERS.get(layer.kind)
        if row is None:
            raise ModelError(
                f"ncnn layer {layer.name!r} is of kind {layer.kind!r}; "
                f"supported: {', '.join(sorted(LAYERS))}"
            )
        row(network, layer)
    if network.offset != len(weights):
        raise ModelError(
            f"ncnn weights: {len(weights) - network.offset} of {len(weights)} bytes are left over "
            "after the last layer; is it the right .bin?"
        )
    read = {name for layer in layers for name in layer.inputs}
    inputs = [name for layer in layers if layer.kind == "Input" for name in layer.outputs]
    outputs = [n for layer in layers for n in layer.outputs if n not in read and n not in inputs]

    def value_infos(names: list[str]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(
                name,
                TensorProto.FLOAT,
                [1, network.channels.get(name, f"{name}_channels"), f"{name}_h", f"{name}_w"],
            )
            for name in names
        ]

    graph = helper.make_graph(
        network.nodes, "ncnn", value_infos(inputs), value_infos(outputs), network.constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    model.producer_name = "stillframe from ncnn"
    onnx.checker.check_model(model)
    return model


def parse(text: str) -> tuple[NcnnLayer, ...]:
    """The layers of a .param text, in the order of execution."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != MAGIC:
        first = lines[0].strip()[:40] if lines else ""
        raise ModelError(f"expected an ncnn .param text that begins with {MAGIC}, got {first!r}")
    layers = []
    for number, line in enumerate(lines[2:], 3):
        words = line.split()
        if not words:
            continue
        try:
            inputs, outputs = int(words[2]), int(words[3])
            names = words[4 : 4 + inputs + outputs]
            options = dict(_option(word) for word in words[4 + inputs + outputs :])
            if len(names) != inputs + outputs:
                raise ValueError("blob names are missing")
        except (IndexError, ValueError) as e:
            raise ModelError(f"ncnn .param line {number} cannot be read ({e}): {line!r}") from e
        layers.append(
            NcnnLayer(words[0], words[1], tuple(names[:inputs]), tuple(names[inputs:]), options)
        )
    return tuple(layers)


def _option(word: str) -> tuple[int, Option]:
    key, _, value = word.partition("=")
    if int(key) > -23300:
        return int(key), float(value)
    count, *items = value.split(",")
    if len(items) != int(count):
        raise ValueError(f"{word!r} should hold {count} values")
    return -int(key) - 23300, tuple(float(item) for item in items)


def _input(network: NcnnNetwork, layer: NcnnLayer) -> None:
    network.channels[layer.outputs[0]] = layer.whole(2, 3) or 3


def _split(network: NcnnNetwork, layer: NcnnLayer) -> None:
    for output in layer.outputs:
        network.add("Identity", layer.inputs, output)
        _same_channels(network, layer, output)


def _same_channels(network: NcnnNetwork, layer: NcnnLayer, output: str) -> None:
    if layer.inputs[0] in network.channels:
        network.channels[output] = network.channels[layer.inputs[0]]


def _activation(network: NcnnNetwork, layer: NcnnLayer, source: str, output: str) -> None:
    """Option 9 of a convolution: its activation, with the parameters of option 10."""
    kind, numbers = layer.whole(9, 0), layer.numbers(10)
    if kind == 1:
        network.add("Relu", [source], output)
    elif kind == 2:
        network.add("LeakyRelu", [source], output, alpha=numbers[0])
    elif kind == 3:
        low, high = (
            network.constant(f"{output}.{side}", np.array(value, np.float32))
            for side, value in zip(("low", "high"), numbers, strict=True)
        )
        network.add("Clip", [source, low, high], output)
    elif kind == 4:
        network.add("Sigmoid", [source], output)
    else:
        raise layer.refuse(f"activation {kind}")


def _convolution(network: NcnnNetwork, layer: NcnnLayer) -> None:
    filters, width = layer.whole(0, 0), layer.whole(1, 0)
    height = layer.whole(11, width)
    group = layer.whole(7, 1) if layer.kind == "ConvolutionDepthWise" else 1
    left = layer.whole(4, 0)
    top = layer.whole(14, left)
    pads = [top, left, layer.whole(16, top), layer.whole(15, left)]
    if min(pads) < 0:
        raise layer.refuse("automatic padding")
    if layer.whole(8, 0):
        raise layer.refuse("int8")
    if layer.number(18, 0.0):
        raise layer.refuse("padding with other than zeros")
    size = layer.whole(6, 0)
    weight = network.flagged(layer, size).reshape(filters, -1, height, width)
    names = [*layer.inputs, network.constant(f"{layer.name}.weight", weight)]
    if layer.whole(5, 0):
        names.append(network.constant(f"{layer.name}.bias", network.unflagged(layer, filters)))
    output = layer.outputs[0]
    conv_output = output if not layer.whole(9, 0) else f"{output}.linear"
    network.add(
        "Conv",
        names,
        conv_output,
        kernel_shape=[height, width],
        strides=[layer.whole(13, layer.whole(3, 1)), layer.whole(3, 1)],
        dilations=[layer.whole(12, layer.whole(2, 1)), layer.whole(2, 1)],
        pads=pads,
        group=group,
    )
    if conv_output != output:
        _activation(network, layer, conv_output, output)
    network.channels[output] = filters


def _prelu(network: NcnnNetwork, layer: NcnnLayer) -> None:
    slope = network.unflagged(layer, layer.whole(0, 0)).reshape(-1, 1, 1)
    name = network.constant(f"{layer.name}.slope", slope)
    network.add("PRelu", [*layer.inputs, name], layer.outputs[0])
    _same_channels(network, layer, layer.outputs[0])


def _relu(network: NcnnNetwork, layer: NcnnLayer) -> None:
    slope = layer.number(0, 0.0)
    if slope:
        network.add("LeakyRelu", layer.inputs, layer.outputs[0], alpha=slope)
    else:
        network.add("Relu", layer.inputs, layer.outputs[0])
    _same_channels(network, layer, layer.outputs[0])


def _sigmoid(network: NcnnNetwork, layer: NcnnLayer) -> None:
    network.add("Sigmoid", layer.inputs, layer.outputs[0])
    _same_channels(network, layer, layer.outputs[0])


def _swish(network: NcnnNetwork, layer: NcnnLayer) -> None:
    """A blob times its own sigmoid."""
    gate = network.add("Sigmoid", layer.inputs, f"{layer.name}.gate")
    network.add("Mul", [*layer.inputs, gate], layer.outputs[0])
    _same_channels(network, layer, layer.outputs[0])


def _memory_data(network: NcnnNetwork, layer: NcnnLayer) -> None:
    """A constant blob of (channels, height, width)."""
    width, height, channels = (layer.whole(key, 0) for key in (0, 1, 2))
    if min(width, height, channels) < 1 or layer.whole(11, 0):
        raise layer.refuse("a constant of other than three dimensions")
    if layer.whole(21, 1) != 1:
        raise layer.refuse("a constant with a flag before it")
    values = network.unflagged(layer, width * height * channels)
    name = network.constant(f"{layer.name}.data", values.reshape(1, channels, height, width))
    network.add("Identity", [name], layer.outputs[0])
    network.channels[layer.outputs[0]] = channels


def _pixel_shuffle(network: NcnnNetwork, layer: NcnnLayer) -> None:
    block, mode = layer.whole(0, 1), ("CRD", "DCR")[layer.whole(1, 0)]
    network.add("DepthToSpace", layer.inputs, layer.outputs[0], blocksize=block, mode=mode)
    if layer.inputs[0] in network.channels:
        network.channels[layer.outputs[0]] = network.channels[layer.inputs[0]] // block**2


def _binary(network: NcnnNetwork, layer: NcnnLayer) -> None:
    ops = {0: "Add", 1: "Sub", 2: "Mul", 3: "Div", 4: "Max", 5: "Min"}
    if layer.whole(0, 0) not in ops:
        raise layer.refuse(f"operation {layer.whole(0, 0)}")
    names = list(layer.inputs)
    if layer.whole(1, 0):
        number = np.array(layer.number(2, 0.0), np.float32)
        names.append(network.constant(f"{layer.name}.number", number))
    network.add(ops[layer.whole(0, 0)], names, layer.outputs[0])
    _same_channels(network, layer, layer.outputs[0])


def _eltwise(network: NcnnNetwork, layer: NcnnLayer) -> None:
    """Product, weighted sum or maximum of several blobs."""
    kind, factors, names = layer.whole(0, 0), layer.numbers(1), list(layer.inputs)
    if kind not in (0, 1, 2):
        raise layer.refuse(f"operation {kind}")
    if kind == 1 and factors:
        for index, factor in enumerate(factors):
            if factor != 1.0:
                number = np.array(factor, np.float32)
                scale = network.constant(f"{layer.name}.factor{index}", number)
                output = f"{layer.name}.scaled{index}"
                names[index] = network.add("Mul", [names[index], scale], output)
    total = names[0]
    for index, name in enumerate(names[1:], 1):
        last = index == len(names) - 1
        output = layer.outputs[0] if last else f"{layer.name}.partial{index}"
        total = network.add(("Mul", "Add", "Max")[kind], [total, name], output)
    _same_channels(network, layer, layer.outputs[0])


def _concat(network: NcnnNetwork, layer: NcnnLayer) -> None:
    axis = layer.whole(0, 0)
    network.add("Concat", layer.inputs, layer.outputs[0], axis=axis + 1 if axis >= 0 else axis)
    if axis == 0 and all(name in network.channels for name in layer.inputs):
        network.channels[layer.outputs[0]] = sum(network.channels[n] for n in layer.inputs)


def _interp(network: NcnnNetwork, layer: NcnnLayer) -> None:
    """Resize by constant factors: nearest, linear or cubic (a = -0.75, edges repeated).

    Cubic halving is a 4×4 filter of stride 2 per channel: written as Pad and Conv, for which
    runtimes have fast kernels.
    """
    kind, height, width = layer.whole(0, 0), layer.number(1, 1.0), layer.number(2, 1.0)
    if kind not in (1, 2, 3):
        raise layer.refuse(f"interpolation {kind}")
    if layer.whole(3, 0) or layer.whole(4, 0) or layer.whole(5, 0) or layer.whole(6, 0):
        raise layer.refuse("resizing to given sizes or with aligned corners")
    source, output = layer.inputs[0], layer.outputs[0]
    _same_channels(network, layer, output)
    channels = network.channels.get(source)
    if kind == 3 and height == width == 0.5 and channels:
        taps = np.array([-0.09375, 0.59375, 0.59375, -0.09375], np.float32)
        kernel = np.broadcast_to(np.outer(taps, taps), (channels, 1, 4, 4))
        pads = network.constant(f"{layer.name}.pads", np.array([0, 0, 1, 1] * 2, np.int64))
        padded = network.add("Pad", [source, pads], f"{output}.padded", mode="edge")
        names = [padded, network.constant(f"{layer.name}.weight", kernel)]
        network.add("Conv", names, output, kernel_shape=[4, 4], strides=[2, 2], group=channels)
        return
    factors = network.constant(f"{layer.name}.factors", np.array([1, 1, height, width], np.float32))
    modes: dict[int, dict[str, Any]] = {
        1: {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
        2: {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        3: {
            "mode": "cubic",
            "coordinate_transformation_mode": "half_pixel",
            "cubic_coeff_a": -0.75,
        },
    }
    network.add("Resize", [source, "", factors], output, **modes[kind])


LAYERS: dict[str, Callable[[NcnnNetwork, NcnnLayer], None]] = {
    "BinaryOp": _binary,
    "Concat": _concat,
    "Convolution": _convolution,
    "ConvolutionDepthWise": _convolution,
    "Eltwise": _eltwise,
    "Input": _input,
    "Interp": _interp,
    "MemoryData": _memory_data,
    "PReLU": _prelu,
    "PixelShuffle": _pixel_shuffle,
    "ReLU": _relu,
    "Sigmoid": _sigmoid,
    "Split": _split,
    "Swish": _swish,
}
