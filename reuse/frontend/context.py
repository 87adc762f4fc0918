"""The state of one import: which ONNX tensor lies how in the region, and what was written so far.

A region tensor is (H, W, C); ONNX holds the same numbers in some order and shape. "NCHW": the
ONNX tensor is the channels-first array, reshaped; "NHWC": the channels-last array, reshaped. Where
the reshape does nothing but add the batch axis, the tensor is called plain. So a Transpose between
the two orders, a Flatten or a Reshape of a head only rename a tensor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from stillframe.reuse.ir.graph import Array, Node, Shape
from stillframe.reuse.ir.ops import OPS

AXES = {"NCHW": {1: 2, 2: 0, 3: 1}, "NHWC": {1: 0, 2: 1, 3: 2}}
"""ONNX axis of a plain tensor -> axis of (H, W, C)."""

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

INTEGER_INPUTS = ("uint8", "int8", "uint16", "int16")
"""What callers may feed where a Cast to float32 comes first: float32 holds each value exactly."""

POINT_CONV: Mapping[str, Any] = {
    "stride": (1, 1),
    "pad": (0, 0, 0, 0),
    "dilation": (1, 1),
    "group": 1,
    "act": None,
    "residual_first": False,
}
"""The attributes of a 1 × 1 convolution."""

FIXED = {
    "Conv": "NCHW",
    "ConvTranspose": "NCHW",
    "MaxPool": "NCHW",
    "AveragePool": "NCHW",
    "GlobalAveragePool": "NCHW",
    "GlobalMaxPool": "NCHW",
    "BatchNormalization": "NCHW",
    "InstanceNormalization": "NCHW",
    "DepthToSpace": "NCHW",
    "SpaceToDepth": "NCHW",
}
"""Operators that say how their input lies."""


class UnsupportedError(Exception):
    """The engine has no such operator; the message is the island's reason."""


class WrongShapeError(Exception):
    """Shape inference says another shape than the one a run gives; ONNX has such a gap."""

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__(f"{name!r} has shape {shape}")
        self.name = name
        self.shape = shape


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One ONNX node with its attributes as plain Python values; absent inputs are ''."""

    index: int
    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]

    @property
    def output(self) -> str:
        return self.outputs[0]

    @property
    def operator(self) -> str:
        """The operator with its domain, if that is not ONNX's own."""
        return self.op if self.domain in ("", "ai.onnx") else f"{self.domain}.{self.op}"

    def input(self, index: int) -> str:
        """The name of an input, '' if it was left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def __str__(self) -> str:
        return f"node {self.name or self.output!r} ({self.operator})"


@dataclass(frozen=True, slots=True)
class TensorLayout:
    layout: str
    shape: Shape

    @property
    def plain(self) -> Shape:
        height, width, depth = self.shape
        if self.layout == "NCHW":
            return (1, depth, height, width)
        return (1, height, width, depth)

    @property
    def flexible(self) -> bool:
        """Both orders hold the numbers in the same sequence."""
        height, width, depth = self.shape
        return depth == 1 or height * width == 1

    def turned(self, layout: str) -> "TensorLayout":
        return TensorLayout(layout, self.shape)


@dataclass(slots=True)
class ImportContext:
    """Everything the converters read and write.

    onnx_shapes, dtypes: of the ONNX tensors, where known. weights: the ONNX constants. feeds: what
    callers give. readers: ONNX tensor -> calls. placed: region tensors. nodes, shapes, constants:
    what the conversion of the present call wrote; the importer takes or drops it as a whole.
    """

    opset: int
    onnx_shapes: dict[str, Shape]
    dtypes: dict[str, str]
    weights: Mapping[str, Array]
    feeds: Sequence[str]
    readers: Mapping[str, Sequence[OnnxNode]]
    placed: dict[str, TensorLayout] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    # what an ONNX tensor is

    def constant(self, name: str, what: str) -> Array:
        """The value of a constant input, or UnsupportedError."""
        if name not in self.weights:
            raise UnsupportedError(f"{what} is computed, not constant")
        return self.weights[name]

    def onnx_shape(self, name: str) -> Shape:
        shape = self.onnx_shapes.get(name)
        if shape is None or any(size < 0 for size in shape):
            raise UnsupportedError(f"the shape of {name!r} is not known before a run")
        return shape

    def place(self, name: str) -> TensorLayout:
        """How a tensor lies; decided here for what nothing has placed: inputs, islands' outputs."""
        if name in self.placed:
            return self.placed[name]
        if name in self.weights:
            raise UnsupportedError("a constant stands where a computed tensor is expected")
        shape = self.onnx_shape(name)
        dtype = self.dtypes.get(name, "unknown")
        if dtype != "float32":
            raise UnsupportedError(f"{name!r} is {dtype}, not float32")
        if len(shape) != 4 or 0 in shape:
            raise UnsupportedError(f"{name!r} has shape {list(shape)}, which is no picture")
        if shape[0] != 1:
            raise UnsupportedError(f"{name!r} has batch {shape[0]}; the engine runs batch 1")
        layout = self.expected_layout(name)
        found = {axis: shape[at] for at, axis in AXES[layout].items()}
        self.placed[name] = TensorLayout(layout, (found[0], found[1], found[2]))
        return self.placed[name]

    def expected_layout(self, name: str) -> str:
        """What the first reader that says so takes the tensor for; NCHW if none does."""
        seen, front = {name}, [name]
        while front:
            tensor = front.pop(0)
            for call in self.readers.get(tensor, ()):
                if call.op == "Transpose":
                    perm = tuple(call.attrs.get("perm", ()))
                    if perm in (TO_NCHW, TO_NHWC):
                        return "NHWC" if perm == TO_NCHW else "NCHW"
                if call.operator in FIXED and call.inputs[0] == tensor:
                    return FIXED[call.op]
                for output in call.outputs[:1]:
                    if output not in seen and len(self.onnx_shapes.get(output, ())) == 4:
                        seen.add(output)
                        front.append(output)
        return "NCHW"

    def picture(self, name: str, layout: str = "NCHW") -> TensorLayout:
        """A tensor that is plain in this layout, or UnsupportedError."""
        placed = self.place(name)
        turned = placed.turned(layout)
        if placed.layout != layout and not placed.flexible:
            raise UnsupportedError(f"{name!r} lies {placed.layout}, not {layout}")
        if self.onnx_shapes[name] != turned.plain:
            raise UnsupportedError(f"{name!r} has shape {list(self.onnx_shapes[name])}, no picture")
        return turned

    def any_picture(self, name: str) -> TensorLayout:
        """A tensor that is plain in the layout that it has, or in the other if that is the same."""
        placed = self.place(name)
        for layout in (placed.layout, "NCHW", "NHWC"):
            if layout == placed.layout or placed.flexible:
                turned = placed.turned(layout)
                if self.onnx_shapes[name] == turned.plain:
                    return turned
        raise UnsupportedError(f"{name!r} has shape {list(self.onnx_shapes[name])}, no picture")

    def axis(self, name: str, axis: int) -> int:
        """Axis of (H, W, C) that an axis of the ONNX tensor stands for."""
        placed, shape = self.place(name), self.onnx_shape(name)
        axis = axis + len(shape) if axis < 0 else axis
        for layout in (placed.layout, "NCHW", "NHWC"):
            turned = placed.turned(layout)
            if (layout == placed.layout or placed.flexible) and shape == turned.plain and axis:
                return AXES[layout][axis]
        depth = placed.shape[2]
        others = prod(shape) // depth
        if shape[axis] == depth:
            before, behind = prod(shape[:axis]), prod(shape[axis + 1 :])
            if placed.layout == "NHWC" and before == others:
                return 2
            if placed.layout == "NCHW" and behind == others:
                return 2
        raise UnsupportedError(
            f"axis {axis} of {name!r}, shape {list(shape)}, is no axis of a picture"
        )

    # what the engine gets

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        attrs: Mapping[str, Any] | None = None,
    ) -> Shape:
        """Write one node; returns the shape of its output."""
        node = Node(op, tuple(inputs), (output,), dict(attrs or {}))
        shape = OPS[op].shape(node.attrs, [self.shape(name) for name in inputs])
        if min(shape) < 1:
            raise UnsupportedError(f"{output!r} would be empty: {shape}")
        self.nodes.append(node)
        self.shapes[output] = shape
        return shape

    def shape(self, name: str) -> Shape:
        """(H, W, C) of a region tensor, or the shape of one of the engine's constants."""
        return self.shapes[name] if name in self.shapes else self.placed[name].shape

    def hold(self, name: str, value: Any) -> str:
        """Keep a float32 constant under a name for this call."""
        array = np.ascontiguousarray(value, np.float32)
        array = array.reshape(np.shape(value))
        self.constants[name] = array
        self.shapes[name] = array.shape
        return name

    def bind(self, output: str, layout: str, shape: Shape | None = None) -> None:
        """Declare how an ONNX output lies; shape (H, W, C) if no node of this call wrote it."""
        placed = TensorLayout(layout, self.shapes[output] if shape is None else shape)
        known = self.onnx_shapes.get(output)
        if known is None or any(size < 0 for size in known):
            self.onnx_shapes[output] = placed.plain
        elif prod(known) != prod(placed.shape):
            raise UnsupportedError(
                f"{output!r} should have shape {list(known)}, not {placed.shape}"
            )
        elif placed.flexible and known == placed.turned("NCHW").plain:
            placed = placed.turned("NCHW")
        elif placed.flexible and known == placed.turned("NHWC").plain:
            placed = placed.turned("NHWC")
        self.placed[output] = placed

    def alias(self, source: str, output: str, layout: str | None = None) -> None:
        """The output holds the same (H, W, C) array; passes take the copy out again."""
        placed = self.place(source)
        self.emit("Slice", [source], output, whole(placed.shape))
        self.bind(output, layout or placed.layout)


def whole(shape: Shape) -> dict[str, Any]:
    """The attributes of a Slice that takes all."""
    return {"start": (0, 0, 0), "step": (1, 1, 1), "size": shape}
