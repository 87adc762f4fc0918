"""The state of one import: the layout of each ONNX tensor, and the nodes written so far.

A graph tensor is (H, W, C); the ONNX tensor holds the same numbers in one of two orders. "NCHW":
the ONNX tensor is the channels-first array, perhaps reshaped; "NHWC": the channels-last array,
perhaps reshaped. So a Transpose between the two orders, a Flatten, or the Reshape of a head moves
nothing: it only renames a tensor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from stillframe.reuse.frontend import factors
from stillframe.reuse.frontend.factors import Axes
from stillframe.reuse.ir.graph import Array, Node, Shape
from stillframe.reuse.ir.ops import OPS

HWC_AXIS = {"NCHW": {1: 2, 2: 0, 3: 1}, "NHWC": {1: 0, 2: 1, 3: 2}}
"""Axis of a 4-D ONNX tensor in this order -> axis of (H, W, C)."""

FACTORED = "factored"
"""The order of a tensor whose axes are factors of (H, W, C) in any sequence, such as the heads of
attention. No island reads or writes one."""

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

INTEGER_INPUTS = ("uint8", "int8", "uint16", "int16")
"""Input dtypes accepted where a Cast to float32 follows: float32 holds each value exactly."""

POINTWISE_CONV: Mapping[str, Any] = {
    "stride": (1, 1),
    "pad": (0, 0, 0, 0),
    "dilation": (1, 1),
    "group": 1,
    "act": None,
    "residual_first": False,
}
"""The attributes of a 1 × 1 convolution."""

INPUT_ORDER = {
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
    "LayerNormalization": "NHWC",
    "RMSNormalization": "NHWC",
}
"""Operators that ONNX defines for one order of their input only, or that are used with one."""


class UnsupportedError(Exception):
    """The engine cannot run this node; the message becomes the island's reason."""


class WrongShapeError(Exception):
    """ONNX shape inference is wrong about a tensor (a known gap for pools with ceil_mode)."""

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__(f"{name!r} has shape {shape}")
        self.name = name
        self.shape = shape


@dataclass(frozen=True, slots=True)
class OnnxNode:
    """One ONNX node with its attributes as plain Python values."""

    index: int
    """Position in the model's list of nodes."""
    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    """Tensor names; '' where an optional input is absent."""
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any]

    @property
    def output(self) -> str:
        """The first output."""
        return self.outputs[0]

    @property
    def operator(self) -> str:
        """The operator, with its domain unless that is ONNX's own."""
        return self.op if self.domain in ("", "ai.onnx") else f"{self.domain}.{self.op}"

    def input(self, index: int) -> str:
        """The name of an input, '' if it is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def __str__(self) -> str:
        return f"node {self.name or self.output!r} ({self.operator})"


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """How an ONNX tensor maps to its graph tensor."""

    order: str
    """Either "NCHW" or "NHWC", or FACTORED."""
    shape: Shape
    """(H, W, C) of the graph tensor."""
    axes: Axes | None = None
    """Of a FACTORED tensor: the factors of each of its ONNX axes."""

    @property
    def onnx_shape(self) -> Shape:
        """The 4-D shape, batch included, that the ONNX tensor has if nothing reshaped it."""
        height, width, depth = self.shape
        if self.order == FACTORED:
            return ()
        if self.order == "NCHW":
            return (1, depth, height, width)
        return (1, height, width, depth)

    @property
    def order_free(self) -> bool:
        """Both orders hold the numbers in the same sequence: one channel, or one position."""
        height, width, depth = self.shape
        return depth == 1 or height * width == 1

    def with_order(self, order: str) -> "TensorLayout":
        return self if order == self.order else TensorLayout(order, self.shape)

    def factor(self, onnx_shape: Sequence[int]) -> Axes | None:
        """The factors of each axis of the ONNX tensor; None where they cannot be told apart."""
        if self.axes is not None:
            return self.axes
        return factors.split(factors.natural(self.shape, self.order), onnx_shape)


@dataclass(slots=True)
class ImportContext:
    """Everything the converters read and write."""

    opset: int
    onnx_shapes: dict[str, Shape]
    """ONNX tensor -> shape, where known."""
    dtypes: dict[str, str]
    """ONNX tensor -> NumPy's name of its dtype, where known."""
    weights: Mapping[str, Array]
    """The ONNX constants."""
    input_names: Sequence[str]
    """The model's inputs."""
    readers: Mapping[str, Sequence[OnnxNode]]
    """ONNX tensor -> the nodes that read it."""
    layouts: dict[str, TensorLayout] = field(default_factory=dict)
    """Layout of every tensor that a region touches."""

    # What converting the present node wrote; the importer takes or drops it as a whole.
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    # --- questions about ONNX tensors -----------------------------------------------------------

    def constant(self, name: str, role: str) -> Array:
        """The value of a constant input; UnsupportedError names its role if it is computed."""
        if name not in self.weights:
            raise UnsupportedError(f"{role} is computed, not constant")
        return self.weights[name]

    def onnx_shape(self, name: str) -> Shape:
        """The shape of an ONNX tensor; UnsupportedError unless every size is known."""
        shape = self.onnx_shapes.get(name)
        if shape is None or any(size < 0 for size in shape):
            raise UnsupportedError(f"the shape of {name!r} is not known before a run")
        return shape

    def layout_of(self, name: str) -> TensorLayout:
        """The layout of a tensor; decided here for model inputs and outputs of islands.

        Raises UnsupportedError for anything but a float32 tensor of 4 axes and batch 1.
        """
        if name in self.layouts:
            return self.layouts[name]
        if name in self.weights:
            raise UnsupportedError("expected a computed tensor, got a constant")
        shape = self.onnx_shape(name)
        dtype = self.dtypes.get(name, "unknown")
        if dtype != "float32":
            raise UnsupportedError(f"{name!r} is {dtype}, not float32")
        if len(shape) != 4 or 0 in shape:
            raise UnsupportedError(f"{name!r} has shape {list(shape)}, not 4 axes of 1 or more")
        if shape[0] != 1:
            raise UnsupportedError(f"{name!r} has batch {shape[0]}; the engine runs batch 1")
        order = self.preferred_order(name)
        sizes = {hwc: shape[axis] for axis, hwc in HWC_AXIS[order].items()}
        self.layouts[name] = TensorLayout(order, (sizes[0], sizes[1], sizes[2]))
        return self.layouts[name]

    def preferred_order(self, name: str) -> str:
        """The order that the nearest reader with a fixed one expects; NCHW if there is none."""
        visited, queue = {name}, [name]
        while queue:
            tensor = queue.pop(0)
            for node in self.readers.get(tensor, ()):
                if node.op == "Transpose":
                    perm = tuple(node.attrs.get("perm", ()))
                    if perm in (TO_NCHW, TO_NHWC):
                        return "NHWC" if perm == TO_NCHW else "NCHW"
                if node.operator in INPUT_ORDER and node.inputs[0] == tensor:
                    return INPUT_ORDER[node.op]
                for output in node.outputs[:1]:
                    if output not in visited and len(self.onnx_shapes.get(output, ())) == 4:
                        visited.add(output)
                        queue.append(output)
        return "NCHW"

    def require_nchw(self, name: str) -> TensorLayout:
        """The layout of a tensor that is (1, C, H, W); UnsupportedError for any other."""
        layout = self.layout_of(name)
        nchw = layout.with_order("NCHW")
        if layout.order != "NCHW" and not layout.order_free:
            raise UnsupportedError(f"{name!r} is {layout.order}, not NCHW")
        if self.onnx_shapes[name] != nchw.onnx_shape:
            raise self.reshaped(name, nchw)
        return nchw

    def require_4d(self, name: str) -> TensorLayout:
        """The layout of a tensor that is (1, C, H, W) or (1, H, W, C); else UnsupportedError."""
        layout = self.layout_of(name)
        for order in (layout.order, "NCHW", "NHWC"):
            if order == layout.order or layout.order_free:
                candidate = layout.with_order(order)
                if self.onnx_shapes[name] == candidate.onnx_shape:
                    return candidate
        raise self.reshaped(name, layout)

    def reshaped(self, name: str, layout: TensorLayout) -> UnsupportedError:
        shape = list(self.onnx_shapes[name])
        return UnsupportedError(
            f"{name!r} was reshaped from {layout.order} {list(layout.onnx_shape)} to {shape}"
        )

    def hwc_axis(self, name: str, axis: int) -> int:
        """The axis of (H, W, C) that an axis of the ONNX tensor stands for."""
        layout, shape = self.layout_of(name), self.onnx_shape(name)
        axis = axis + len(shape) if axis < 0 else axis
        for order in (layout.order, "NCHW", "NHWC"):
            candidate = layout.with_order(order)
            possible = order == layout.order or layout.order_free
            if possible and shape == candidate.onnx_shape and axis:
                return HWC_AXIS[order][axis]
        depth = layout.shape[2]
        positions = prod(shape) // depth
        if shape[axis] == depth:
            before, after = prod(shape[:axis]), prod(shape[axis + 1 :])
            if layout.order == "NHWC" and before == positions:
                return 2
            if layout.order == "NCHW" and after == positions:
                return 2
        raise UnsupportedError(
            f"axis {axis} of {name!r}, shape {list(shape)}, is not rows, columns or channels"
        )

    # --- writing graph nodes --------------------------------------------------------------------

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
        """(H, W, C) of a graph tensor, or the shape of a constant written for the present node."""
        return self.shapes[name] if name in self.shapes else self.layouts[name].shape

    def add_constant(self, name: str, value: Any) -> str:
        """Add a float32 constant for the present node; returns its name."""
        array = np.ascontiguousarray(value, np.float32)
        array = array.reshape(np.shape(value))
        self.constants[name] = array
        self.shapes[name] = array.shape
        return name

    def set_layout(self, output: str, order: str, shape: Shape | None = None) -> None:
        """Declare the layout of an ONNX output; shape is (H, W, C) if no emitted node wrote it."""
        if order == FACTORED:
            raise UnsupportedError(f"its input's axes are no picture's: {output!r}")
        layout = TensorLayout(order, self.shapes[output] if shape is None else shape)
        known = self.onnx_shapes.get(output)
        if known is None or any(size < 0 for size in known):
            self.onnx_shapes[output] = layout.onnx_shape
        elif prod(known) != prod(layout.shape):
            raise UnsupportedError(
                f"{output!r} should have shape {list(known)}, not {layout.shape}"
            )
        elif layout.order_free and known == layout.with_order("NCHW").onnx_shape:
            layout = layout.with_order("NCHW")
        elif layout.order_free and known == layout.with_order("NHWC").onnx_shape:
            layout = layout.with_order("NHWC")
        self.layouts[output] = layout

    def alias(self, source: str, output: str, order: str | None = None) -> None:
        """The output is the same (H, W, C) array; written as a copy, which passes remove."""
        layout = self.layout_of(source)
        self.emit("Slice", [source], output, full_slice(layout.shape))
        self.set_layout(output, order or layout.order)

    # --- factored tensors -----------------------------------------------------------------------

    def factored(self, name: str) -> Axes:
        """The factors of each axis of a tensor; UnsupportedError where there are none."""
        axes = self.layout_of(name).factor(self.onnx_shape(name))
        if axes is None:
            raise UnsupportedError(
                f"axes of {list(self.onnx_shape(name))} cut rows, columns or channels of"
                f" {list(self.layout_of(name).shape)} at odd places"
            )
        return axes

    def set_axes(self, output: str, axes: Axes, shape: Shape | None = None) -> None:
        """Declare the layout of an ONNX output by the factors of its axes."""
        shape = self.shapes[output] if shape is None else shape
        order = factors.order_of(axes, shape)
        known = self.onnx_shapes.get(output)
        sizes = tuple(prod(each.size for each in axis) for axis in axes)
        if known is None or any(size < 0 for size in known):
            self.onnx_shapes[output] = known = sizes
        if order is not None:
            self.set_layout(output, order, shape)
            return
        if tuple(known) != sizes:
            raise UnsupportedError(f"{output!r} should have shape {list(known)}, not {list(sizes)}")
        self.layouts[output] = TensorLayout(FACTORED, shape, axes)

    def set_like(self, output: str, source: str) -> None:
        """Declare an output of the same ONNX shape as another tensor, with the same layout."""
        layout = self.layout_of(source)
        known = self.onnx_shapes.get(output)
        if known is None or any(size < 0 for size in known):
            self.onnx_shapes[output] = self.onnx_shape(source)
        if layout.axes is None:
            self.set_layout(output, layout.order)
        else:
            self.set_axes(output, layout.axes)

    def alias_axes(self, source: str, output: str, axes: Axes) -> None:
        """The output is the same array under other axes; moved to another grid of positions where
        it then is a picture of another size."""
        shape = self.layout_of(source).shape
        order = factors.order_of(axes, shape)
        sizes = tuple(prod(each.size for each in axis) for axis in axes)
        grid = picture_grid(order, sizes, shape)
        if grid is None:
            self.emit("Slice", [source], output, full_slice(shape))
            self.set_axes(output, axes)
        else:
            self.emit("Regrid", [source], output, {"size": grid})
            self.set_layout(output, order or "NHWC")

    def regrid(self, source: str, output: str, size: tuple[int, int]) -> str:
        """The name of a tensor with the same positions in rows of another length."""
        if self.shape(source)[:2] == size:
            return source
        self.emit("Regrid", [source], output, {"size": size})
        return output


def picture_grid(order: str | None, sizes: Sequence[int], shape: Shape) -> tuple[int, int] | None:
    """(H, W) of a channels-first or channels-last tensor of 4 axes if its positions lie in another
    grid than those of its (H, W, C) array."""
    if order not in ("NCHW", "NHWC") or len(sizes) != 4 or sizes[0] != 1:
        return None
    rows, columns, depth = (1, 2, 3) if order == "NHWC" else (2, 3, 1)
    grid = (sizes[rows], sizes[columns])
    free = shape[2] == 1 or shape[0] * shape[1] == 1
    return grid if sizes[depth] == shape[2] and grid != shape[:2] and not free else None


def full_slice(shape: Shape) -> dict[str, Any]:
    """The attributes of a Slice that takes everything."""
    return {"start": (0, 0, 0), "step": (1, 1, 1), "size": shape}
