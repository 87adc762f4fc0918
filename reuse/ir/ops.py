"""The engine's operators: one row of OPS each, read by the compiler, the planner and the tests.

Region tensors are (H, W, C) float32, C-contiguous.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir import reference, windows
from stillframe.reuse.ir.graph import Node, Shape
from stillframe.reuse.ir.windows import Window

Attrs = Mapping[str, Any]
Shapes = Mapping[str, Shape]
Tensor = NDArray[Any]
ShapeRule = Callable[[Attrs, Sequence[Shape]], Shape]
WindowRule = Callable[[Node, Shapes], tuple[Window | None, ...]]
Compute = Callable[[Node, Sequence[Tensor], Shape], Tensor]


@dataclass(frozen=True, slots=True)
class Op:
    """What the engine knows of one operator."""

    shape: ShapeRule
    """(attrs, input shapes) -> output shape."""
    window: WindowRule
    """(node, shapes) -> per input, its Window; None where every output reads all of it."""
    compute: Compute
    """(node, input arrays, output shape) -> output array, in plain NumPy."""

    def reference(self, node: Node, arrays: Sequence[Tensor]) -> Tensor:
        """The node's output (H', W', C') float32 for its inputs, constants included."""
        out = self.shape(node.attrs, [tuple(array.shape) for array in arrays])
        result = self.compute(node, arrays, out)
        if result.shape != out:
            raise ValueError(f"{node.op} -> {node.output!r}: expected {out}, got {result.shape}")
        return np.ascontiguousarray(result, np.float32)


def window_count(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> int:
    """Outputs of a sliding kernel of `kernel` taps along an axis of `size` padded positions."""
    return (size + before + after - (kernel - 1) * dilation - 1) // stride + 1


def window_count_ceil(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int
) -> int:
    """As `window_count`, rounded up, without a last window that begins in the end padding."""
    count = -(-(size + before + after - (kernel - 1) * dilation - 1) // stride) + 1
    return count - 1 if (count - 1) * stride >= size + before else count


def conv_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    (height, width, _), (kernel_h, kernel_w, _, depth) = shapes[:2]
    (stride_h, stride_w), (dilation_h, dilation_w) = attrs["stride"], attrs["dilation"]
    top, left, bottom, right = attrs["pad"]
    return (
        window_count(height, kernel_h, stride_h, dilation_h, top, bottom),
        window_count(width, kernel_w, stride_w, dilation_w, left, right),
        depth,
    )


def pool_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    ((height, width, depth),) = shapes
    (kernel_h, kernel_w), (stride_h, stride_w) = attrs["kernel"], attrs["stride"]
    dilation_h, dilation_w = attrs["dilation"]
    top, left, bottom, right = attrs["pad"]
    count = window_count_ceil if attrs["ceil_mode"] else window_count
    return (
        count(height, kernel_h, stride_h, dilation_h, top, bottom),
        count(width, kernel_w, stride_w, dilation_w, left, right),
        depth,
    )


def same_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    return shapes[0]


def vector_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    return (1, 1, shapes[0][2])


def one_channel_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    return (*shapes[0][:2], 1)


def moments_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    return (1, 1, 2 * shapes[0][2])


def binary_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    return tuple(np.broadcast_shapes(shapes[0], shapes[1]))


def concat_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    out = list(shapes[0])
    out[attrs["axis"]] = sum(shape[attrs["axis"]] for shape in shapes)
    return tuple(out)


def slice_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    return tuple(attrs["size"])


def pad_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    (height, width, depth), (top, left, bottom, right, front, back) = shapes[0], attrs["pad"]
    return (top + height + bottom, left + width + right, front + depth + back)


def resize_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    return (len(attrs["rows"][0]), len(attrs["cols"][0]), shapes[0][2])


def depth_to_space_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    (height, width, depth), block = shapes[0], attrs["block"]
    return (height * block, width * block, depth // block**2)


def space_to_depth_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    (height, width, depth), block = shapes[0], attrs["block"]
    return (height // block, width // block, depth * block**2)


def regrid_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    (height, width, depth), size = shapes[0], attrs["size"]
    if height * width != size[0] * size[1]:
        raise ValueError(f"Regrid: {height} x {width} positions to {size[0]} x {size[1]}")
    return (*size, depth)


def attention_shape(attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
    queries, _, values = shapes
    return (queries[0], queries[1], values[2])


def pointwise_window(*tensors: int) -> WindowRule:
    """Inputs of these indices are read at the output position (at 0 along axes of size 1)."""

    def window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
        out = shapes[node.output]
        reads: list[Window | None] = []
        for index, name in enumerate(node.inputs):
            shape = shapes[name]
            rows_cols = (windows.broadcast(out[axis], shape[axis]) for axis in (0, 1))
            reads.append(Window(*rows_cols) if index in tensors else None)
        return tuple(reads)

    return window


def kernel_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    """A convolution or pool; a residual is read at the output position."""
    in_shape, out = shapes[node.inputs[0]], shapes[node.output]
    kernel = node.attrs["kernel"] if node.op != "Conv" else shapes[node.inputs[1]][:2]
    side = node.attrs.get("winograd", 0)
    rows, cols = (
        windows.tiled(out[axis], in_shape[axis], side, node.attrs["pad"][axis])
        if side
        else windows.sliding(
            out[axis],
            in_shape[axis],
            kernel[axis],
            node.attrs["stride"][axis],
            node.attrs["dilation"][axis],
            node.attrs["pad"][axis],
        )
        for axis in (0, 1)
    )
    reads: list[Window | None] = [Window(rows, cols)]
    for name in node.inputs[1:]:
        same = Window(windows.same(out[0]), windows.same(out[1]))
        reads.append(same if len(shapes[name]) == 3 else None)
    return tuple(reads)


def no_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    """Every output reads all of every input."""
    return (None,) * len(node.inputs)


def attention_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    """A query at its own position, keys and values in all of its window."""
    queries, keys = (shapes[name] for name in node.inputs[:2])
    spans = []
    for axis in (0, 1):
        size = node.attrs["window"][axis]
        if size == queries[axis]:  # one window: all keys, of another picture perhaps
            low = np.zeros(queries[axis], int)
            spans.append(windows.span(low, low + keys[axis], keys[axis]))
        else:
            low = np.arange(queries[axis]) // size * size
            spans.append(windows.span(low, low + size, keys[axis]))
    same = Window(windows.same(queries[0]), windows.same(queries[1]))
    return (same, Window(*spans), Window(*spans))


def regrid_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    """The rows in which a row's positions lie, and all columns: more than is read."""
    (height, width, _), out = shapes[node.inputs[0]], shapes[node.output]
    first = np.arange(out[0]) * out[1]
    rows = windows.span(first // width, (first + out[1] - 1) // width + 1, height)
    whole = windows.span(np.zeros(out[1], int), np.full(out[1], width), width)
    return (Window(rows, windows.same(width) if width == out[1] else whole),)


def concat_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    out, axis = shapes[node.output], node.attrs["axis"]
    reads = []
    offset = 0
    for name in node.inputs:
        spans = [windows.same(out[0]), windows.same(out[1])]
        if axis < 2:
            spans[axis] = windows.strided(out[axis], shapes[name][axis], -offset, 1)
            offset += shapes[name][axis]
        reads.append(Window(*spans))
    return tuple(reads)


def slice_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    in_shape, out = shapes[node.inputs[0]], shapes[node.output]
    start, step = node.attrs["start"], node.attrs["step"]
    spans = (windows.strided(out[axis], in_shape[axis], start[axis], step[axis]) for axis in (0, 1))
    return (Window(*spans),)


def pad_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    in_shape, out = shapes[node.inputs[0]], shapes[node.output]
    spans = []
    for axis in (0, 1):
        source = windows.pad_source(
            out[axis], in_shape[axis], node.attrs["pad"][axis], node.attrs["mode"]
        )
        low = np.where(source < 0, 0, source)
        spans.append(windows.span(low, np.where(source < 0, 0, source + 1), in_shape[axis]))
    return (Window(*spans),)


def resize_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    in_shape = shapes[node.inputs[0]]
    spans = []
    for axis, (low, high, weight) in enumerate((node.attrs["rows"], node.attrs["cols"])):
        spans.append(windows.listed(low, np.where(weight > 0, high, low), in_shape[axis]))
    return (Window(*spans),)


def blocks_window(node: Node, shapes: Shapes) -> tuple[Window | None, ...]:
    """DepthToSpace: a block of outputs reads one position; SpaceToDepth: the other way round."""
    in_shape, out, block = shapes[node.inputs[0]], shapes[node.output], node.attrs["block"]
    spans = []
    for axis in (0, 1):
        if node.op == "DepthToSpace":
            index = np.arange(out[axis]) // block
            spans.append(windows.span(index, index + 1, in_shape[axis]))
        else:
            spans.append(windows.sliding(out[axis], in_shape[axis], block, block))
    return (Window(*spans),)


OPS: dict[str, Op] = {
    "Conv": Op(conv_shape, kernel_window, reference.conv),
    "MaxPool": Op(pool_shape, kernel_window, reference.max_pool),
    "AveragePool": Op(pool_shape, kernel_window, reference.average_pool),
    "GlobalPool": Op(vector_shape, no_window, reference.global_pool),
    "Unary": Op(same_shape, pointwise_window(0), reference.unary),
    "Binary": Op(binary_shape, pointwise_window(0, 1), reference.binary),
    "Affine": Op(same_shape, pointwise_window(0), reference.affine),
    "Moments": Op(moments_shape, no_window, reference.moments),
    "Modulate": Op(same_shape, pointwise_window(0, 1), reference.modulate),
    "Softmax": Op(same_shape, pointwise_window(0), reference.softmax),
    "ChannelMax": Op(one_channel_shape, pointwise_window(0), reference.channel_max),
    "LayerNorm": Op(same_shape, pointwise_window(0), reference.layer_norm),
    "Attention": Op(attention_shape, attention_window, reference.attention),
    "Regrid": Op(regrid_shape, regrid_window, reference.regrid),
    "Concat": Op(concat_shape, concat_window, reference.concat),
    "Slice": Op(slice_shape, slice_window, reference.slice_),
    "Pad": Op(pad_shape, pad_window, reference.pad),
    "Resize": Op(resize_shape, resize_window, reference.resize),
    "DepthToSpace": Op(depth_to_space_shape, blocks_window, reference.depth_to_space),
    "SpaceToDepth": Op(space_to_depth_shape, blocks_window, reference.space_to_depth),
}
