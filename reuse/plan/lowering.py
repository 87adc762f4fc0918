"""Operators of the graph -> instructions of the plan: one rule each, in LOWER."""

from collections.abc import Callable, Sequence

import numpy as np

from stillframe.reuse.ir.graph import Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.ir.windows import Window, identity, pad_source
from stillframe.reuse.kernels import abi, layout, pointwise, pool, reduce
from stillframe.reuse.plan.columns import (
    act_columns,
    mask_columns,
    move_columns,
    sliding_columns,
)
from stillframe.reuse.plan.instruction import Lowered, MaskSource
from stillframe.reuse.plan.lower_attention import lower_attention
from stillframe.reuse.plan.lower_conv import lower_conv
from stillframe.reuse.plan.tables import TableBuilder

Rule = Callable[[TableBuilder, Node], Sequence[Lowered]]


def lower_pool(builder: TableBuilder, node: Node) -> list[Lowered]:
    taps_y, taps_x = node.attrs["kernel"]
    columns = mask_columns(builder, node, sliding_columns(node, taps_x))
    average = node.op == "AveragePool"
    counted = (0, 0)
    if average and node.attrs["count_include_pad"]:
        height, width, _ = builder.graph.shapes[node.inputs[0]]
        top, left, bottom, right = node.attrs["pad"]
        counted = (top + height + bottom, left + width + right)
    columns |= {
        abi.KERNEL: (pool.average_pool if average else pool.max_pool).address,
        abi.STRIDE_Y: node.attrs["stride"][0],
        abi.STRIDE_X: node.attrs["stride"][1],
        abi.PAD_TOP: node.attrs["pad"][0],
        abi.PAD_LEFT: node.attrs["pad"][1],
        pool.KERNEL_Y: taps_y,
        pool.KERNEL_X: taps_x,
        pool.DILATION_Y: node.attrs["dilation"][0],
        pool.DILATION_X: node.attrs["dilation"][1],
        pool.COUNTED_HEIGHT: counted[0],
        pool.COUNTED_WIDTH: counted[1],
    }
    depth = builder.graph.shapes[node.output][2]
    return [Lowered(columns, {}, 0, depth, compares=not average)]


def lower_unary(builder: TableBuilder, node: Node) -> list[Lowered]:
    extra, floats = act_columns(builder, node)
    return [
        Lowered(mask_columns(builder, node) | extra | {abi.KERNEL: pointwise.unary.address}, floats)
    ]


def lower_binary(builder: TableBuilder, node: Node) -> list[Lowered]:
    out = builder.graph.shapes[node.output]
    extra, floats = act_columns(builder, node)
    columns = mask_columns(builder, node) | extra
    left, right = (builder.broadcast(name, out) for name in node.inputs[:2])
    steps = [int(builder.graph.shapes[name][2] == out[2]) for name in node.inputs[:2]]
    columns |= {
        abi.KERNEL: pointwise.binary.address,
        abi.INPUT: left,
        abi.SECOND: right,
        pointwise.KIND: pointwise.BINARY_KINDS[node.attrs["kind"]],
        pointwise.CHANNEL_STEP_A: steps[0],
        pointwise.CHANNEL_STEP_B: steps[1],
    }
    return [Lowered(columns, floats)]


def lower_affine(builder: TableBuilder, node: Node) -> list[Lowered]:
    extra, floats = act_columns(builder, node)
    scale, shift = (
        builder.constant(np.asarray(builder.graph.constants[name], np.float32).ravel())
        for name in node.inputs[1:3]
    )
    columns = mask_columns(builder, node) | extra
    columns |= {
        abi.KERNEL: pointwise.normalize.address,
        pointwise.SCALE: scale,
        pointwise.SHIFT: shift,
    }
    return [Lowered(columns, floats)]


def lower_modulate(builder: TableBuilder, node: Node) -> list[Lowered]:
    extra, floats = act_columns(builder, node)
    columns = mask_columns(builder, node) | extra
    columns |= {abi.KERNEL: pointwise.modulate.address, abi.SECOND: builder.tensor(node.inputs[1])}
    return [Lowered(columns, floats)]


def lower_softmax(builder: TableBuilder, node: Node) -> list[Lowered]:
    columns = mask_columns(builder, node) | {abi.KERNEL: pointwise.softmax.address}
    size = node.attrs.get("size", builder.graph.shapes[node.output][2])
    return [Lowered(columns | {pointwise.BINS: size})]


def lower_layer_norm(builder: TableBuilder, node: Node) -> list[Lowered]:
    scale, shift = (
        builder.constant(np.asarray(builder.graph.constants[name], np.float32).ravel())
        for name in node.inputs[1:3]
    )
    columns = mask_columns(builder, node) | {
        abi.KERNEL: pointwise.layer_norm.address,
        pointwise.SCALE: scale,
        pointwise.SHIFT: shift,
        pointwise.CENTRED: int(node.attrs["centred"]),
    }
    return [Lowered(columns, {abi.SCALAR: node.attrs["epsilon"]})]


def lower_channel_max(builder: TableBuilder, node: Node) -> list[Lowered]:
    columns = mask_columns(builder, node) | {abi.KERNEL: pointwise.channel_max.address}
    return [Lowered(columns | {pointwise.INDEX: int(node.attrs["index"])})]


def lower_regrid(builder: TableBuilder, node: Node) -> list[Lowered]:
    columns = mask_columns(builder, node) | {abi.KERNEL: layout.regrid.address}
    if node.output not in builder.regions.sources:
        (window,) = OPS["Regrid"].window(node, builder.graph.shapes)
        out = builder.graph.shapes[node.output]
        source = builder.source(node.inputs[0], window, out, (abi.FLAT, 1, 0))
        columns[abi.SOURCES], columns[abi.SOURCE_COUNT] = builder.sources([source])
    return [Lowered(columns)]


def lower_reduction(builder: TableBuilder, node: Node) -> list[Lowered]:
    height, _, channels = builder.graph.shapes[node.inputs[0]]
    sums = np.zeros((height, 2, channels), np.float64)
    columns = mask_columns(builder, node)
    columns |= {
        abi.KERNEL: reduce.reduce_all.address,
        abi.PREPARE: reduce.reduce_rows.address,
        reduce.SUMS: builder.constant(sums),
    }
    floats: dict[int, float] = {}
    if node.op == "Moments":
        gamma, beta = (
            np.asarray(builder.graph.constants[name], np.float32).ravel()
            for name in node.inputs[1:3]
        )
        columns |= {
            reduce.REDUCTION: reduce.MOMENTS,
            reduce.GAMMA: builder.constant(gamma),
            reduce.BETA: builder.constant(beta),
        }
        floats[abi.SCALAR] = node.attrs["epsilon"]
    else:
        kinds = {"mean": reduce.MEAN, "max": reduce.LARGEST}
        columns[reduce.REDUCTION] = kinds[node.attrs["kind"]]
    return [Lowered(columns, floats, 0, 2 * channels, compares=True)]


def lower_concat(builder: TableBuilder, node: Node) -> list[Lowered]:
    """Copy the parts that are not written in place, then mark the whole where a part is active."""
    out = builder.graph.shapes[node.output]
    windows = OPS["Concat"].window(node, builder.graph.shapes)
    required = builder.regions.sources.get(node.output)
    axis = node.attrs["axis"]
    offset = 0
    instructions: list[Lowered] = []
    entries: list[MaskSource] = []
    for number, (name, window) in enumerate(zip(node.inputs, windows, strict=True)):
        shape = builder.graph.shapes[name]
        start = [0, 0, 0]
        start[axis] = offset
        offset += shape[axis]
        view = builder.storage.views.get(name)
        if view is not None and view.own_mask and view.parent == node.output:
            entries.append(builder.source(name, window, out))
            continue
        if name in builder.graph.constants:
            raise ValueError(f"Concat -> {node.output!r}: a constant part is not supported")
        label = f"{node.output}[{number}]"
        target = builder.part(label, node.output, (start[0], start[1], start[2]), shape)
        reads = (
            ((name, identity(*shape[:2])),)
            if required is None
            else required_of_part(required, window, shape)
        )
        address, count = builder.sources([builder.source(*read, shape) for read in reads])
        instructions.append(
            Lowered(
                move_columns(builder, np.arange(shape[0]), np.arange(shape[1]))
                | {
                    abi.TARGET: target,
                    abi.INPUT: builder.tensor(name),
                    abi.SOURCES: address,
                    abi.SOURCE_COUNT: count,
                }
            )
        )
        entries.append(builder.source(label, window, out))
    if required is not None:
        entries = [builder.source(name, window, out) for name, window in required]
    address, count = builder.sources(entries)
    instructions.append(
        Lowered(
            {
                abi.TARGET: builder.tensor(node.output),
                abi.SOURCES: address,
                abi.SOURCE_COUNT: count,
            }
        )
    )
    return instructions


def required_of_part(
    required: Sequence[tuple[str, Window]], window: Window | None, shape: Sequence[int]
) -> list[tuple[str, Window]]:
    """What a part of a concatenation must be computed from, from what the whole must."""
    assert window is not None
    return [(name, window.for_readers(marks, shape[0], shape[1])) for name, marks in required]


def lower_slice(builder: TableBuilder, node: Node) -> list[Lowered]:
    view = builder.storage.views.get(node.output)
    if view is not None and not view.own_mask:
        builder.tensor(node.output)
        return []
    out = builder.graph.shapes[node.output]
    start, step = node.attrs["start"], node.attrs["step"]
    columns = mask_columns(builder, node)
    columns[abi.INPUT] = builder.channels_of(node.inputs[0], start[2], out[2])
    columns |= move_columns(
        builder, *(start[axis] + np.arange(out[axis]) * step[axis] for axis in (0, 1))
    )
    return [Lowered(columns)]


def lower_pad(builder: TableBuilder, node: Node) -> list[Lowered]:
    inside, out = builder.graph.shapes[node.inputs[0]], builder.graph.shapes[node.output]
    top, left = node.attrs["pad"][:2]
    columns = mask_columns(builder, node) | move_columns(
        builder,
        pad_source(out[0], inside[0], top, node.attrs["mode"]),
        pad_source(out[1], inside[1], left, node.attrs["mode"]),
    )
    columns[layout.FRONT] = node.attrs["pad"][4]
    return [Lowered(columns, {abi.SCALAR: float(node.attrs["value"])})]


def lower_resize(builder: TableBuilder, node: Node) -> list[Lowered]:
    rows, columns = node.attrs["rows"], node.attrs["cols"]
    entry = mask_columns(builder, node)
    if not (np.any(rows[2]) or np.any(columns[2])):
        return [Lowered(entry | move_columns(builder, rows[0], columns[0]))]
    entry |= {abi.KERNEL: layout.linear_resize.address}
    names = (
        (layout.ROWS, layout.ROWS_HIGH, layout.ROW_WEIGHTS),
        (layout.COLUMNS, layout.COLUMNS_HIGH, layout.COLUMN_WEIGHTS),
    )
    for (low, high, weight), column in zip((rows, columns), names, strict=True):
        read = np.where(np.asarray(weight) > 0, high, low)  # no more than the operator's window
        entry |= {
            column[0]: builder.constant(np.asarray(low, np.int32)),
            column[1]: builder.constant(np.asarray(read, np.int32)),
            column[2]: builder.constant(np.asarray(weight, np.float32)),
        }
    return [Lowered(entry)]


def lower_blocks(builder: TableBuilder, node: Node) -> list[Lowered]:
    kernel = layout.depth_to_space if node.op == "DepthToSpace" else layout.space_to_depth
    columns = mask_columns(builder, node) | {
        abi.KERNEL: kernel.address,
        layout.BLOCK: node.attrs["block"],
        layout.DEPTH_FIRST: int(node.attrs["mode"] == "DCR"),
    }
    return [Lowered(columns)]


LOWER: dict[str, Rule] = {
    "Conv": lower_conv,
    "MaxPool": lower_pool,
    "AveragePool": lower_pool,
    "GlobalPool": lower_reduction,
    "Unary": lower_unary,
    "Binary": lower_binary,
    "Affine": lower_affine,
    "Moments": lower_reduction,
    "Modulate": lower_modulate,
    "Softmax": lower_softmax,
    "ChannelMax": lower_channel_max,
    "LayerNorm": lower_layer_norm,
    "Attention": lower_attention,
    "Regrid": lower_regrid,
    "Concat": lower_concat,
    "Slice": lower_slice,
    "Pad": lower_pad,
    "Resize": lower_resize,
    "DepthToSpace": lower_blocks,
    "SpaceToDepth": lower_blocks,
}
