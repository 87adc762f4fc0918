"""Operators of the graph -> instructions of the plan: one rule each, in LOWER."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stillframe.reuse.ir.graph import Act, Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.ir.windows import Window, pad_source
from stillframe.reuse.kernels import abi, conv, layout, pointwise, pool, reduce
from stillframe.reuse.kernels.activation import ACTIVATIONS
from stillframe.reuse.kernels.microkernel import LANES
from stillframe.reuse.memory.mask_implication import identity
from stillframe.reuse.memory.required_regions import turned
from stillframe.reuse.plan.lower_conv import choose_tile, pack_depthwise, pack_panels

if TYPE_CHECKING:
    from stillframe.reuse.plan.tables import MaskSource, TableBuilder


@dataclass(frozen=True, slots=True)
class Lowered:
    """One instruction: its table columns and floats.

    multiply_adds: per output position, times positions: the dense total.
    result_floats: what it needs of a worker's RESULTS.
    compares: the target may be left as it was (a cut-off).
    """

    columns: Mapping[int, int]
    floats: Mapping[int, float] = field(default_factory=dict)
    multiply_adds: int = 0
    result_floats: int = 0
    compares: bool = False


Rule = Callable[["TableBuilder", Node], Sequence[Lowered]]


def act_columns(builder: "TableBuilder", node: Node) -> tuple[dict[int, int], dict[int, float]]:
    act: Act | None = node.attrs.get("act")
    if act is None:
        return {}, {}
    columns = {abi.ACTIVATE: ACTIVATIONS[act.kind].address}
    if act.kind == "prelu":
        slopes = np.asarray(builder.graph.constants[node.inputs[-1]], np.float32).ravel()
        columns[abi.SLOPES] = builder.constant(slopes)
    return columns, {abi.ACT_A: act.a, abi.ACT_B: act.b}


def mask_columns(
    builder: "TableBuilder", node: Node, regular: tuple[int, int, int] | None = None
) -> dict[int, int]:
    """TARGET, SOURCES and SOURCE_COUNT from the operator's windows; constants never change."""
    wanted = builder.demand.sources.get(node.output)
    out = builder.graph.shapes[node.output]
    if wanted is not None:
        entries = [builder.source(name, window, out) for name, window in wanted]
    else:
        windows = OPS[node.op].window(node, builder.graph.shapes)
        entries = [
            builder.source(name, window, out, regular if index == 0 else None)
            for index, (name, window) in enumerate(zip(node.inputs, windows, strict=True))
            if name not in builder.graph.constants
        ]
    address, count = builder.sources(entries)
    return {
        abi.TARGET: builder.tensor(node.output),
        abi.INPUT: builder.tensor(node.inputs[0]),
        abi.SOURCES: address,
        abi.SOURCE_COUNT: count,
    }


def sliding_columns(node: Node, taps: int) -> tuple[int, int, int]:
    """Columns of a sliding window as (taps, stride, pad)."""
    return (
        (taps - 1) * node.attrs["dilation"][1] + 1,
        node.attrs["stride"][1],
        node.attrs["pad"][1],
    )


PLAIN = (1.0, -float("inf"), float("inf"))


def bend_and_bounds(node: Node) -> tuple[float, float, float] | None:
    """(slope below 0, low, high) where a micro-kernel can apply the activation as it stores.

    That is before a residual, so one that is to be added first must wait for the activation.
    """
    act: Act | None = node.attrs.get("act")
    if act is None:
        return PLAIN
    if len(node.inputs) > 3 and act.kind != "prelu" and node.attrs["residual_first"]:
        return None
    forms = {
        "relu": (1.0, 0.0, float("inf")),
        "clip": (1.0, act.a, act.b),
        "leaky": (act.a, -float("inf"), float("inf")),
    }
    return forms.get(act.kind)


def lower_conv(builder: "TableBuilder", node: Node) -> list[Lowered]:
    weights = np.asarray(builder.graph.constants[node.inputs[1]], np.float32)
    bias = np.asarray(builder.graph.constants[node.inputs[2]], np.float32)
    taps_y, taps_x, depth, channels = weights.shape
    groups = node.attrs["group"]
    height, width, _ = builder.graph.shapes[node.output]
    columns = mask_columns(builder, node, sliding_columns(node, taps_x))
    store = bend_and_bounds(node)
    extra, floats = act_columns(builder, node) if store is None else ({}, {})
    floats |= dict(zip((abi.BEND, abi.LOW, abi.HIGH), store or PLAIN, strict=True))
    prelu = node.attrs.get("act") is not None and node.attrs["act"].kind == "prelu"
    residual = len(node.inputs) - 3 - int(prelu)
    _, row, pixel = builder.geometry(node.inputs[0])
    dilation_y, dilation_x = node.attrs["dilation"]
    lines = [y * dilation_y * row for y in range(taps_y)]
    taps = [line + x * dilation_x * pixel for line in lines for x in range(taps_x)]
    runs, length = taps, depth
    if groups == 1:
        tile = builder.tiles.get(node.output, choose_tile(channels))
        packed, shift, panels = pack_panels(weights, bias, tile)
        multiply, positions = conv.MULTIPLY_TILES[tile], conv.TILES[tile][0]
        panel_width = packed.shape[2]
        step = panels * panel_width
        columns |= {conv.PANEL_BYTES: packed[0].nbytes, conv.DEPTH_BYTES: depth * 4}
        if dilation_x == 1 and pixel == depth * 4:  # the taps of a line lie side by side
            runs, length = lines, taps_x * depth
    elif depth == 1 and groups == channels:
        packed, shift, panels = pack_depthwise(weights, bias)
        near = node.attrs["stride"][1] == 1
        multiply = conv.multiply_depthwise if near else conv.multiply_depthwise_apart
        positions, step = conv.DEPTHWISE_POSITIONS, shift.size
        panel_width = LANES
    else:
        packed, shift, panels, panel_width = weights, bias, 1, channels
        multiply, positions, step = conv.multiply_grouped, 1, -(-channels // LANES) * LANES
        columns |= {conv.OUTPUTS: channels, conv.GROUPS: groups}
    columns[conv.DIRECT] = int(not residual and not extra and panel_width * panels == channels)
    chunk = max(min(abi.CHUNK, 16384 // step) // positions, 1) * positions
    if residual:
        first = node.attrs["residual_first"]
        columns |= {
            abi.SECOND: builder.tensor(node.inputs[3]),
            conv.RESIDUAL: conv.RESIDUAL_BEFORE if first else conv.RESIDUAL_AFTER,
        }
    columns[conv.AHEAD] = builder.constant(lines_ahead(node, lines, taps_x, pixel))
    columns |= extra | {
        abi.KERNEL: conv.convolve.address,
        abi.STRIDE_Y: node.attrs["stride"][0],
        abi.STRIDE_X: node.attrs["stride"][1],
        abi.PAD_TOP: node.attrs["pad"][0],
        abi.PAD_LEFT: node.attrs["pad"][1],
        conv.MULTIPLY: multiply.address,
        conv.WEIGHTS: builder.constant(packed),
        conv.BIAS: builder.constant(shift),
        conv.RUNS: builder.constant(np.array(runs, np.int64)),
        conv.RUN_COUNT: len(runs),
        conv.RUN_LENGTH: length,
        conv.PANELS: panels,
        conv.TILE_POSITIONS: positions,
        conv.RESULT_STEP: step * 4,
        conv.CHUNK_POSITIONS: chunk,
    }
    work = height * width * channels * taps_y * taps_x * depth
    return [Lowered(columns, floats, work, (chunk + positions) * step, compares=True)]


def lines_ahead(
    node: Node, lines: Sequence[int], taps_x: int, pixel: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """conv.AHEAD: where, seen from a window's origin, that window begins to read which lies FAR
    positions further; only what its neighbours have not read before."""
    stride_y, stride_x = node.attrs["stride"]
    far = conv.FAR * stride_x * pixel
    new = [
        line + x * node.attrs["dilation"][1] * pixel + far
        for line in lines[-stride_y:]
        for x in range(max(taps_x - stride_x, 0), taps_x)
    ]
    return np.array([len(new), *new], np.int64)


def lower_pool(builder: "TableBuilder", node: Node) -> list[Lowered]:
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
    return [Lowered(columns)]


def lower_unary(builder: "TableBuilder", node: Node) -> list[Lowered]:
    extra, floats = act_columns(builder, node)
    return [
        Lowered(mask_columns(builder, node) | extra | {abi.KERNEL: pointwise.unary.address}, floats)
    ]


def lower_binary(builder: "TableBuilder", node: Node) -> list[Lowered]:
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


def lower_affine(builder: "TableBuilder", node: Node) -> list[Lowered]:
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


def lower_modulate(builder: "TableBuilder", node: Node) -> list[Lowered]:
    extra, floats = act_columns(builder, node)
    columns = mask_columns(builder, node) | extra
    columns |= {abi.KERNEL: pointwise.modulate.address, abi.SECOND: builder.tensor(node.inputs[1])}
    return [Lowered(columns, floats)]


def lower_softmax(builder: "TableBuilder", node: Node) -> list[Lowered]:
    return [Lowered(mask_columns(builder, node) | {abi.KERNEL: pointwise.softmax.address})]


def lower_reduction(builder: "TableBuilder", node: Node) -> list[Lowered]:
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
            reduce.WANTED: reduce.MOMENTS,
            reduce.GAMMA: builder.constant(gamma),
            reduce.BETA: builder.constant(beta),
        }
        floats[abi.SCALAR] = node.attrs["epsilon"]
    else:
        kinds = {"mean": reduce.MEAN, "max": reduce.LARGEST}
        columns[reduce.WANTED] = kinds[node.attrs["kind"]]
    return [Lowered(columns, floats, 0, 2 * channels, compares=True)]


def move_columns(builder: "TableBuilder", rows: Any, columns: Any) -> dict[int, int]:
    return {
        abi.KERNEL: layout.move.address,
        layout.ROWS: builder.constant(np.asarray(rows, np.int32)),
        layout.COLUMNS: builder.constant(np.asarray(columns, np.int32)),
    }


def lower_concat(builder: "TableBuilder", node: Node) -> list[Lowered]:
    """Copy what could not be written in place; then the whole is active where a part is."""
    out = builder.graph.shapes[node.output]
    windows = OPS["Concat"].window(node, builder.graph.shapes)
    wanted = builder.demand.sources.get(node.output)
    axis = node.attrs["axis"]
    offset = 0
    found: list[Lowered] = []
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
        reads = ((name, identity(*shape[:2])),) if wanted is None else copied(wanted, window, shape)
        address, count = builder.sources([builder.source(*read, shape) for read in reads])
        found.append(
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
    if wanted is not None:
        entries = [builder.source(name, window, out) for name, window in wanted]
    address, count = builder.sources(entries)
    found.append(
        Lowered(
            {
                abi.TARGET: builder.tensor(node.output),
                abi.SOURCES: address,
                abi.SOURCE_COUNT: count,
            }
        )
    )
    return found


def copied(
    wanted: Sequence[tuple[str, Window]], window: Window | None, shape: Sequence[int]
) -> list[tuple[str, Window]]:
    """The marks on which a joined part depends, from those of the whole."""
    assert window is not None
    return [(name, turned(window, marks, shape)) for name, marks in wanted]


def lower_slice(builder: "TableBuilder", node: Node) -> list[Lowered]:
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


def lower_pad(builder: "TableBuilder", node: Node) -> list[Lowered]:
    inside, out = builder.graph.shapes[node.inputs[0]], builder.graph.shapes[node.output]
    top, left = node.attrs["pad"][:2]
    columns = mask_columns(builder, node) | move_columns(
        builder,
        pad_source(out[0], inside[0], top, node.attrs["mode"]),
        pad_source(out[1], inside[1], left, node.attrs["mode"]),
    )
    columns[layout.FRONT] = node.attrs["pad"][4]
    return [Lowered(columns, {abi.SCALAR: float(node.attrs["value"])})]


def lower_resize(builder: "TableBuilder", node: Node) -> list[Lowered]:
    rows, columns = node.attrs["rows"], node.attrs["cols"]
    found = mask_columns(builder, node)
    if not (np.any(rows[2]) or np.any(columns[2])):
        return [Lowered(found | move_columns(builder, rows[0], columns[0]))]
    found |= {abi.KERNEL: layout.linear_resize.address}
    names = (
        (layout.ROWS, layout.ROWS_HIGH, layout.ROW_WEIGHTS),
        (layout.COLUMNS, layout.COLUMNS_HIGH, layout.COLUMN_WEIGHTS),
    )
    for (low, high, weight), column in zip((rows, columns), names, strict=True):
        read = np.where(np.asarray(weight) > 0, high, low)  # no more than the operator's window
        found |= {
            column[0]: builder.constant(np.asarray(low, np.int32)),
            column[1]: builder.constant(np.asarray(read, np.int32)),
            column[2]: builder.constant(np.asarray(weight, np.float32)),
        }
    return [Lowered(found)]


def lower_blocks(builder: "TableBuilder", node: Node) -> list[Lowered]:
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
    "Concat": lower_concat,
    "Slice": lower_slice,
    "Pad": lower_pad,
    "Resize": lower_resize,
    "DepthToSpace": lower_blocks,
    "SpaceToDepth": lower_blocks,
}
