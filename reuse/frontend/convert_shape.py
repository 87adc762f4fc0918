"""ONNX operator -> the engine's operators: those that only move or select numbers."""

from collections.abc import Callable, Sequence

import numpy as np

from stillframe.reuse.frontend import convert_tokens, factors
from stillframe.reuse.frontend.context import (
    POINTWISE_CONV,
    ImportContext,
    OnnxNode,
    TensorLayout,
    UnsupportedError,
    full_slice,
    picture_grid,
)
from stillframe.reuse.ir.graph import Array


def identity(context: ImportContext, node: OnnxNode) -> None:
    """Identity, and what has no effect at inference: Dropout, Expand to the same shape."""
    if len([output for output in node.outputs if output]) > 1:
        raise UnsupportedError("its mask output")
    if context.onnx_shape(node.inputs[0]) != context.onnx_shape(node.output):
        raise UnsupportedError("changes the shape")
    context.alias(node.inputs[0], node.output)


def reshape(context: ImportContext, node: OnnxNode) -> None:
    """The same numbers in the same order under another shape."""
    name = node.inputs[0]
    layout, out = context.layout_of(name), context.onnx_shape(node.output)
    if layout.axes is None:
        grid = picture_grid(layout.order, out, layout.shape)
        if grid is None:
            context.alias(name, node.output)
        else:
            context.emit("Regrid", [name], node.output, {"size": grid})
            context.set_layout(node.output, layout.order)
        return
    axes = factors.split(factors.flattened(layout.axes), out)
    if axes is None:
        raise UnsupportedError(f"to {list(out)}, which cuts an axis at an odd place")
    context.alias_axes(name, node.output, axes)


def transpose(context: ImportContext, node: OnnxNode) -> None:
    """Between NCHW and NHWC, or of axes of size 1: nothing moves in the (H, W, C) array."""
    name = node.inputs[0]
    layout, shape = context.layout_of(name), context.onnx_shape(name)
    perm = tuple(node.attrs.get("perm") or reversed(range(len(shape))))
    moved = [axis for axis in perm if shape[axis] != 1]
    if layout.axes is None:
        if moved == sorted(moved):
            context.alias(name, node.output)
            return
        order = order_after_transpose(layout, shape, perm)
        if order is not None:
            context.alias(name, node.output, order)
            return
    axes = context.factored(name)
    context.alias_axes(name, node.output, tuple(axes[axis] for axis in perm))


def order_after_transpose(
    layout: TensorLayout, shape: Sequence[int], perm: tuple[int, ...]
) -> str | None:
    """The order after a Transpose that brings channels last or first; None for any other."""
    depth = layout.shape[2]
    if layout.order == "NCHW":
        first = next(axis for axis in range(len(shape)) if shape[axis] != 1)
        rest = [axis for axis in perm if axis != first and shape[axis] != 1]
        last = [axis for axis in perm if shape[axis] != 1][-1]
        if shape[first] == depth and last == first and rest == sorted(rest):
            return "NHWC"
    else:
        last = next(axis for axis in reversed(range(len(shape))) if shape[axis] != 1)
        rest = [axis for axis in perm if axis != last and shape[axis] != 1]
        first = next(axis for axis in perm if shape[axis] != 1)
        if shape[last] == depth and first == last and rest == sorted(rest):
            return "NCHW"
    return None


def concat(context: ImportContext, node: OnnxNode) -> None:
    """Along rows, columns or channels; or tokens one after the other."""
    try:
        concat_plain(context, node)
    except UnsupportedError:
        context.nodes, context.shapes, context.constants = [], {}, {}
        convert_tokens.concat(context, node)


def concat_plain(context: ImportContext, node: OnnxNode) -> None:
    names = [name for name in node.inputs if name not in context.weights]
    if len(names) != len(node.inputs):
        raise UnsupportedError("a constant among its inputs")
    layouts = [context.layout_of(name) for name in names]
    axes = {context.hwc_axis(name, node.attrs["axis"]) for name in names}
    fixed_orders = {each.order for each in layouts if not each.order_free}
    if len(axes) > 1 or len(fixed_orders) > 1:
        raise UnsupportedError("its inputs differ in layout")
    order = fixed_orders.pop() if fixed_orders else layouts[0].order
    reshaped = [
        context.onnx_shape(name) != each.with_order(order).onnx_shape
        for name, each in zip(names, layouts, strict=True)
    ]
    axis = axes.pop()
    other_sizes = [each.shape[:axis] + each.shape[axis + 1 :] for each in layouts]
    if any(sizes != other_sizes[0] for sizes in other_sizes):
        raise UnsupportedError("its inputs differ in layout")
    if any(reshaped) and not all(reshaped):
        raise UnsupportedError("its inputs differ in layout")
    context.emit("Concat", names, node.output, {"axis": axis})
    context.set_layout(node.output, order)


def emit_slice(
    context: ImportContext, name: str, output: str, axis: int, start: int, step: int, size: int
) -> None:
    """Write a Slice of one axis of (H, W, C): `size` positions from `start`, `step` apart."""
    shape = context.shape(name)
    attrs = full_slice(shape)
    for key, value in (("start", start), ("step", step), ("size", size)):
        attrs[key] = (*attrs[key][:axis], value, *attrs[key][axis + 1 :])
    context.emit("Slice", [name], output, attrs)


def split(context: ImportContext, node: OnnxNode) -> None:
    name = node.inputs[0]
    context.layout_of(name)
    onnx_axis = node.attrs.get("axis", 0) % len(context.onnx_shape(name))
    total = context.onnx_shape(name)[onnx_axis]
    count = len(node.outputs)
    largest = -(-total // count)
    sizes: Sequence[int] = [min(largest, total - largest * index) for index in range(count)]
    if node.input(1):
        sizes = context.constant(node.inputs[1], "the list of sizes").tolist()
    elif node.attrs.get("split"):
        sizes = node.attrs["split"]
    start = 0
    for output, size in zip(node.outputs, sizes, strict=True):
        if output:
            take(context, name, output, onnx_axis, range(start, start + size))
        start += size


def take(context: ImportContext, name: str, output: str, axis: int, taken: Sequence[int]) -> None:
    """Evenly spaced indices of one axis of an ONNX tensor."""
    layout = context.layout_of(name)
    try:
        hwc_axis = context.hwc_axis(name, axis)
    except UnsupportedError:
        convert_tokens.select(context, name, output, axis, taken, True)
        return
    step = taken[1] - taken[0] if len(taken) > 1 else 1
    emit_slice(context, name, output, hwc_axis, taken[0], step, len(taken))
    context.set_layout(output, layout.order)


def slice_(context: ImportContext, node: OnnxNode) -> None:
    name = node.inputs[0]
    layout, shape = context.layout_of(name), context.onnx_shape(name)
    if context.opset < 10:
        starts, ends = node.attrs["starts"], node.attrs["ends"]
        axes = node.attrs.get("axes") or range(len(starts))
        steps: Sequence[int] = [1] * len(starts)
    else:
        starts = context.constant(node.inputs[1], "the start").tolist()
        ends = context.constant(node.inputs[2], "the end").tolist()
        axes = range(len(starts))
        if node.input(3):
            axes = context.constant(node.inputs[3], "the list of axes").tolist()
        steps = [1] * len(starts)
        if node.input(4):
            steps = context.constant(node.inputs[4], "the step").tolist()
    attrs = full_slice(layout.shape)
    values = {key: list(value) for key, value in attrs.items()}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis + len(shape) if axis < 0 else axis
        if step < 1:
            raise UnsupportedError(f"step {step}")
        taken = range(*slice(start, end, step).indices(shape[axis]))
        if len(taken) == shape[axis]:
            continue
        if not taken:
            raise UnsupportedError("takes nothing")
        try:
            hwc_axis = context.hwc_axis(name, axis)
        except UnsupportedError:
            if (
                sum(
                    len(range(*slice(*each).indices(size))) != size
                    for *each, size in zip(
                        starts, ends, steps, (shape[at] for at in axes), strict=True
                    )
                )
                > 1
            ):
                raise
            convert_tokens.select(context, name, node.output, axis, taken, True)
            return
        values["start"][hwc_axis], values["step"][hwc_axis] = taken.start, step
        values["size"][hwc_axis] = len(taken)
    context.emit("Slice", [name], node.output, {key: tuple(v) for key, v in values.items()})
    context.set_layout(node.output, layout.order)


def gather(context: ImportContext, node: OnnxNode) -> None:
    """Evenly spaced positions along one axis (a Slice), or any channels (a 1 × 1 Conv)."""
    name = node.inputs[0]
    layout, shape = context.layout_of(name), context.onnx_shape(name)
    axis = node.attrs.get("axis", 0)
    indices = context.constant(node.inputs[1], "the list of indices")
    taken = indices.reshape(-1)
    axis = axis % len(shape)
    taken = np.where(taken < 0, taken + shape[axis], taken)
    try:
        hwc_axis = context.hwc_axis(name, axis)
    except UnsupportedError:
        if indices.ndim > 1:
            raise
        keep = indices.ndim == 1
        convert_tokens.select(context, name, node.output, axis, taken.tolist(), keep)
        return
    steps = np.diff(taken)
    step = int(steps[0]) if len(steps) else 1
    if indices.ndim > 1:
        raise UnsupportedError(f"indices of shape {list(indices.shape)}")
    if step > 0 and bool((steps == step).all()):
        emit_slice(context, name, node.output, hwc_axis, int(taken[0]), step, len(taken))
    elif hwc_axis == 2:
        emit_channel_selection(context, name, node.output, taken)
    else:
        raise UnsupportedError("rows or columns that are not evenly spaced")
    context.set_layout(node.output, layout.order)


def emit_channel_selection(context: ImportContext, name: str, output: str, channels: Array) -> None:
    """Select channels with a 1 × 1 convolution of zeros and ones; passes fold it away."""
    depth = context.shape(name)[2]
    weights = np.zeros((1, 1, depth, len(channels)))
    weights[0, 0, channels, np.arange(len(channels))] = 1
    names = [
        name,
        context.add_constant(f"{output}~weights", weights),
        context.add_constant(f"{output}~bias", np.zeros(len(channels))),
    ]
    context.emit("Conv", names, output, POINTWISE_CONV)


def pad(context: ImportContext, node: OnnxNode) -> None:
    name = node.inputs[0]
    layout = context.require_4d(name)
    mode = node.attrs.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise UnsupportedError(f"mode {mode}")
    if context.opset < 11:
        pads, value = node.attrs["pads"], node.attrs.get("value", 0.0)
    else:
        pads = context.constant(node.inputs[1], "the padding").tolist()
        value = 0.0
        if node.input(2):
            value = float(context.constant(node.inputs[2], "the value").reshape(()))
    axes: Sequence[int] = range(len(pads) // 2)
    if node.input(3):
        axes = context.constant(node.inputs[3], "the list of axes").tolist()
    before, after = [0, 0, 0], [0, 0, 0]
    for axis, first, last in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if first or last:
            hwc_axis = context.hwc_axis(name, axis)
            before[hwc_axis], after[hwc_axis] = int(first), int(last)
    source = name
    if min(before + after) < 0:
        source = f"{node.output}~cropped"
        attrs = full_slice(layout.shape)
        attrs["start"] = tuple(max(-first, 0) for first in before)
        attrs["size"] = tuple(
            size + min(first, 0) + min(last, 0)
            for size, first, last in zip(layout.shape, before, after, strict=True)
        )
        context.emit("Slice", [name], source, attrs)
    (top, left, front), (bottom, right, back) = (
        [max(amount, 0) for amount in amounts] for amounts in (before, after)
    )
    shape = context.shape(source)
    if mode == "reflect":
        widest = [max(first, last) for first, last in zip(before, after, strict=True)]
        if any(wide >= size > 0 and wide for wide, size in zip(widest, shape, strict=True)):
            raise UnsupportedError("reflects more rows, columns or channels than there are")
    attrs = {"pad": (top, left, bottom, right, front, back), "mode": mode, "value": value}
    context.emit("Pad", [source], node.output, attrs)
    context.set_layout(node.output, layout.order)


REARRANGEMENTS: dict[tuple[int, ...], str] = {
    (0, 3, 4, 1, 5, 2): "DepthToSpace DCR",
    (0, 1, 4, 2, 5, 3): "DepthToSpace CRD",
    (0, 3, 5, 1, 2, 4): "SpaceToDepth DCR",
    (0, 1, 3, 5, 2, 4): "SpaceToDepth CRD",
    (0, 2, 1, 3, 4): "shuffle",
}
"""perm of a Transpose between two Reshapes -> the one operator that the three nodes are."""


def merge_nodes(
    nodes: Sequence[OnnxNode], context: ImportContext, model_outputs: Sequence[str]
) -> list[list[OnnxNode]]:
    """One group per node, but one for each Reshape -> Transpose -> Reshape that is one operator,
    and for each attention from the scores to the values."""
    groups: dict[int, list[OnnxNode]] = {node.index: [node] for node in nodes}
    for attention in convert_tokens.merge_attention(nodes, context, model_outputs):
        for node in attention[:-1]:
            del groups[node.index]
        groups[attention[-1].index] = attention
    for first in nodes:
        chain = [first]
        for op in ("Transpose", "Reshape"):
            readers = context.readers.get(chain[-1].output, ())
            if len(readers) != 1 or readers[0].op != op or chain[-1].output in model_outputs:
                break
            chain.append(readers[0])
        if first.op == "Reshape" and len(chain) == 3 and match_rearrangement(context, chain):
            for node in chain[:2]:
                del groups[node.index]
            groups[chain[2].index] = chain
    return list(groups.values())


def match_rearrangement(
    context: ImportContext, chain: Sequence[OnnxNode]
) -> tuple[str, int] | None:
    """(value of REARRANGEMENTS, block size or number of groups) of a chain; None: no match."""
    first, middle, last = chain
    shapes = [context.onnx_shapes.get(name, ()) for name in (first.inputs[0], first.output)]
    (before, inner), after = shapes, context.onnx_shapes.get(last.output, ())
    name = REARRANGEMENTS.get(tuple(middle.attrs.get("perm") or ()))
    if name is None or len(before) != 4 or len(inner) != len(middle.attrs["perm"]):
        return None
    depth, height, width = before[1:]
    if name == "shuffle":
        same = before == after and inner[0] == before[0] and inner[3:] == before[2:]
        return (name, inner[1]) if same else None
    if name.startswith("DepthToSpace"):
        block = inner[1] if name.endswith("DCR") else inner[2]
        split = (block, block, depth // block**2)
        split = split if name.endswith("DCR") else (split[2], block, block)
        expected = (before[0], *split, height, width)
        out = (before[0], depth // block**2, height * block, width * block)
    else:
        block = inner[3]
        expected = (before[0], depth, height // block, block, width // block, block)
        out = (before[0], depth * block**2, height // block, width // block)
    return (name, block) if inner == expected and after == out else None


def convert_chain(context: ImportContext, chain: Sequence[OnnxNode]) -> None:
    """Write the operator that several nodes are."""
    if chain[0].op == "MatMul":
        convert_tokens.convert_attention(context, chain)
    else:
        convert_rearrangement(context, chain)


def convert_rearrangement(context: ImportContext, chain: Sequence[OnnxNode]) -> None:
    """Write the operator that Reshape -> Transpose -> Reshape is; a shuffle selects channels."""
    name, output = chain[0].inputs[0], chain[-1].output
    layout = context.require_nchw(name)
    match = match_rearrangement(context, chain)
    if match is None:
        raise UnsupportedError("rearranges axes")
    kind, block = match
    if kind == "shuffle":
        depth = layout.shape[2]
        order = np.arange(depth).reshape(block, -1).T.reshape(-1)
        emit_channel_selection(context, name, output, order)
    else:
        op, mode = kind.split()
        context.emit(op, [name], output, {"block": block, "mode": mode})
    context.set_layout(output, "NCHW")


SHAPE_CONVERTERS: dict[str, Callable[[ImportContext, OnnxNode], None]] = {
    "Identity": identity,
    "Dropout": identity,
    "Expand": identity,
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Gather": gather,
    "Pad": pad,
}
