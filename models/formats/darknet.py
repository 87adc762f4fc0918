"""Darknet weights -> ONNX.

A Darknet model is a configuration, one section per layer, and a file of little-endian float32
weights in the order of the layers. Batch norms are folded into their convolutions here, by the
formula of Darknet itself (epsilon added after the root). The layer before each [yolo] section
becomes an output of the graph, raw: `yolo_v3` decodes it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stillframe.errors import ModelError

OPSET = 13
LEAK = 0.1
EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class ConfigSection:
    """One section of a configuration."""

    kind: str
    """Its name without brackets."""
    options: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: int) -> int:
        try:
            return int(self.options.get(name, default))
        except ValueError as e:
            raise ModelError(
                f"[{self.kind}] {name}: expected a whole number, got {self.options[name]!r}"
            ) from e


def parse(text: str) -> tuple[ConfigSection, ...]:
    """The sections of a .cfg file, [net] among them."""
    sections: list[tuple[str, dict[str, str]]] = []
    for count, line in enumerate(text.splitlines(), 1):
        content = line.partition("#")[0].strip()
        name, equals, value = content.partition("=")
        if content.startswith("[") and content.endswith("]"):
            sections.append((content[1:-1], {}))
        elif equals and sections:
            sections[-1][1][name.strip()] = value.strip()
        elif content:
            raise ModelError(f"Darknet configuration, line {count}: cannot read {content!r}")
    return tuple(ConfigSection(kind, options) for kind, options in sections)


def _conv(filters: int, size: int = 3) -> ConfigSection:
    options = {"filters": str(filters), "size": str(size), "stride": "1", "pad": "1"}
    return ConfigSection("convolutional", options | {"batch_normalize": "1", "activation": "leaky"})


def _head(filters: int) -> ConfigSection:
    options = {"filters": str(filters), "size": "1", "stride": "1", "pad": "1"}
    return ConfigSection("convolutional", options | {"activation": "linear"})


def _pool(stride: int) -> ConfigSection:
    return ConfigSection("maxpool", {"size": "2", "stride": str(stride)})


YOLOV3_TINY: tuple[ConfigSection, ...] = (
    *(s for filters in (16, 32, 64, 128, 256) for s in (_conv(filters), _pool(2))),
    *(
        _conv(512),
        _pool(1),
        _conv(1024),
        _conv(256, 1),
        _conv(512),
        _head(255),
        ConfigSection("yolo"),
    ),
    *(
        ConfigSection("route", {"layers": "-4"}),
        _conv(128, 1),
        ConfigSection("upsample", {"stride": "2"}),
    ),
    *(ConfigSection("route", {"layers": "-1, 8"}), _conv(256), _head(255), ConfigSection("yolo")),
)
"""The layers of yolov3-tiny.cfg for 80 classes."""


@dataclass(slots=True)
class _Graph:
    """The ONNX graph under construction."""

    numbers: NDArray[np.float32]
    """All weights of the file."""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    layers: list[tuple[str, int]] = field(default_factory=list)
    """(output tensor, its channels) of each section so far."""
    heads: list[str] = field(default_factory=list)
    """Tensors that [yolo] sections read: the graph's outputs."""
    taken: int = 0
    """Weights used so far."""

    def take(self, *shape: int) -> NDArray[np.float32]:
        """The next weights of the file, in that shape."""
        count = int(np.prod(shape))
        if self.taken + count > len(self.numbers):
            raise ModelError(
                f"Darknet weights: layer {len(self.layers)} needs {count} numbers, "
                f"{len(self.numbers) - self.taken} are left: cut short, or of another model"
            )
        self.taken += count
        return self.numbers[self.taken - count : self.taken].reshape(shape)

    def constant(self, name: str, values: NDArray[np.float32]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add an operator; returns the name of its output."""
        output = f"layer{len(self.layers)}_{op.lower()}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output

    def layer(self, index: str) -> tuple[str, int]:
        """An earlier layer, by its number or, if negative, relative to this one."""
        try:
            number = int(index) if int(index) >= 0 else len(self.layers) + int(index)
            if number < 0:
                raise IndexError(index)
            return self.layers[number]
        except (ValueError, IndexError) as e:
            raise ModelError(
                f"Darknet configuration: layer {len(self.layers)} refers to {index!r}, "
                "which is no layer before it"
            ) from e


def _convolutional(graph: _Graph, section: ConfigSection) -> tuple[str, int]:
    source, channels = graph.layers[-1] if graph.layers else ("image", 3)
    filters, size = section.number("filters", 1), section.number("size", 1)
    if section.number("groups", 1) != 1:
        raise ModelError("Darknet configuration: expected convolutions of one group")
    bias = graph.take(filters)
    gain = np.ones(filters, np.float32)
    if section.number("batch_normalize", 0):
        scale, mean, variance = graph.take(3, filters)
        gain = scale / (np.sqrt(variance) + np.float32(EPSILON))
        bias = bias - mean * gain
    weight = graph.take(filters, channels, size, size) * gain[:, None, None, None]
    pad = size // 2 if section.number("pad", 0) else section.number("padding", 0)
    name = f"layer{len(graph.layers)}"
    inputs = (
        source,
        graph.constant(f"{name}_weight", weight),
        graph.constant(f"{name}_bias", bias),
    )
    output = graph.node(
        "Conv",
        inputs,
        kernel_shape=[size, size],
        strides=[section.number("stride", 1)] * 2,
        pads=[pad] * 4,
    )
    match section.options.get("activation", "logistic"):
        case "linear":
            pass
        case "leaky":
            output = graph.node("LeakyRelu", [output], alpha=LEAK)
        case other:
            raise ModelError(
                f"Darknet configuration: expected activation leaky or linear, got {other!r}"
            )
    return output, filters


def _maxpool(graph: _Graph, section: ConfigSection) -> tuple[str, int]:
    source, channels = graph.layer("-1")
    stride = section.number("stride", 1)
    size = section.number("size", stride)
    pad = section.number("padding", size - 1)
    pads = [pad // 2] * 2 + [pad - pad // 2] * 2
    output = graph.node(
        "MaxPool", [source], kernel_shape=[size, size], strides=[stride] * 2, pads=pads
    )
    return output, channels


def _route(graph: _Graph, section: ConfigSection) -> tuple[str, int]:
    layers = [graph.layer(i.strip()) for i in section.options.get("layers", "").split(",")]
    if len(layers) == 1:
        return layers[0]
    output = graph.node("Concat", [name for name, _ in layers], axis=1)
    return output, sum(channels for _, channels in layers)


def _shortcut(graph: _Graph, section: ConfigSection) -> tuple[str, int]:
    here, other = graph.layer("-1"), graph.layer(section.options.get("from", ""))
    if here[1] != other[1] or section.options.get("activation", "linear") != "linear":
        raise ModelError("Darknet configuration: expected a linear [shortcut] of equal channels")
    return graph.node("Add", [here[0], other[0]]), here[1]


def _upsample(graph: _Graph, section: ConfigSection) -> tuple[str, int]:
    source, channels = graph.layer("-1")
    stride = section.number("stride", 2)
    scales = np.array([1, 1, stride, stride], np.float32)
    name = graph.constant(f"layer{len(graph.layers)}_scales", scales)
    output = graph.node(
        "Resize",
        [source, "", name],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return output, channels


def _yolo(graph: _Graph, section: ConfigSection) -> tuple[str, int]:
    graph.heads.append(graph.layer("-1")[0])
    return graph.layer("-1")


LAYERS: dict[str, Callable[[_Graph, ConfigSection], tuple[str, int]]] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "route": _route,
    "shortcut": _shortcut,
    "upsample": _upsample,
    "yolo": _yolo,
}


def convert(sections: Sequence[ConfigSection], weights: Path) -> bytes:
    """The bytes of an ONNX file: input `image` (1, 3, height, width), an output for each [yolo].

    Raises ModelError when a layer is not in LAYERS, or the file is not of this model.
    """
    graph = _Graph(_numbers(weights))
    for section in sections:
        if section.kind == "net":
            continue
        if section.kind not in LAYERS:
            raise ModelError(
                f"Darknet configuration: layer {len(graph.layers)} [{section.kind}] is not "
                f"supported; supported: {', '.join(LAYERS)}"
            )
        graph.layers.append(LAYERS[section.kind](graph, section))
    if not graph.heads:
        raise ModelError("Darknet configuration: expected at least one [yolo] section")
    if graph.taken != len(graph.numbers):
        raise ModelError(
            f"{weights.name}: expected {graph.taken} numbers, got {len(graph.numbers)}: "
            "the weights are of another model"
        )
    proto = helper.make_graph(
        graph.nodes,
        weights.stem,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, "height", "width"))],
        [helper.make_tensor_value_info(h, TensorProto.FLOAT, None) for h in graph.heads],
        graph.constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=7)
    return bytes(model.SerializeToString())


def _numbers(weights: Path) -> NDArray[np.float32]:
    """The weights after the header of three version numbers and the count of images seen."""
    content = weights.read_bytes()
    if len(content) < 20:
        raise ModelError(f"{weights.name}: expected Darknet weights, got {len(content)} bytes")
    major, minor, _ = np.frombuffer(content, "<i4", 3).tolist()
    header = 20 if major * 10 + minor >= 2 else 16  # the count has 64 bits from version 0.2 on
    if (len(content) - header) % 4:
        raise ModelError(f"{weights.name}: expected whole 4-byte numbers, the file is cut short")
    return np.frombuffer(content, "<f4", offset=header).astype(np.float32)
