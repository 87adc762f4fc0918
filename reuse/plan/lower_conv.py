"""A convolution as one instruction: its micro-kernel, and its weights in that one's order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import Act, Node
from stillframe.reuse.kernels import abi, conv, epilogue
from stillframe.reuse.kernels.microkernel import LANES
from stillframe.reuse.plan.columns import act_columns, mask_columns, sliding_columns
from stillframe.reuse.plan.instruction import Lowered
from stillframe.reuse.plan.lower_winograd import lower_winograd
from stillframe.reuse.plan.tables import TableBuilder

Floats = NDArray[np.float32]

EFFICIENCY = (1.0, 0.9, 0.62)
"""Of each row of TILES: speed relative to the fastest, measured where tiles fit exactly. Only the
order matters; `runtime.autotune` measures the close cases."""


PLAIN = (1.0, -float("inf"), float("inf"))
"""`bend_and_bounds` without an activation."""


def tile_width(tile: int) -> int:
    """Output channels that one micro-kernel call computes."""
    return conv.TILES[tile][1] * LANES


def choose_tile(channels: int) -> int:
    """The micro-kernel with the least waste for so many output channels."""

    def cost(tile: int) -> float:
        panels = -(-channels // tile_width(tile))
        return panels * tile_width(tile) / EFFICIENCY[tile]

    return min(range(len(conv.TILES)), key=cost)


def pack_panels(weights: Floats, bias: Floats, tile: int) -> tuple[Floats, Floats, int]:
    """(KH, KW, C, M), (M,) -> [panel][tap][C][width], [panel * width], number of panels."""
    depth, channels = int(np.prod(weights.shape[:3])), weights.shape[3]
    width = tile_width(tile)
    panels = -(-channels // width)
    padded = np.zeros((depth, panels * width), np.float32)
    padded[:, :channels] = weights.reshape(depth, channels)
    packed = padded.reshape(depth, panels, width).transpose(1, 0, 2)
    shift = np.zeros(panels * width, np.float32)
    shift[:channels] = bias
    return np.ascontiguousarray(packed), shift, panels


def pack_depthwise(weights: Floats, bias: Floats) -> tuple[Floats, Floats, int]:
    """(KH, KW, 1, C), (C,) -> [tap][panel * LANES], [panel * LANES], number of panels."""
    channels = weights.shape[3]
    panels = -(-channels // LANES)
    packed = np.zeros((weights.shape[0] * weights.shape[1], panels * LANES), np.float32)
    packed[:, :channels] = weights.reshape(-1, channels)
    shift = np.zeros(panels * LANES, np.float32)
    shift[:channels] = bias
    return packed, shift, panels


def bend_and_bounds(node: Node) -> tuple[float, float, float] | None:
    """(slope below 0, low, high) if a micro-kernel can apply the activation as it stores.

    It then runs before the residual is added, so None if the residual comes first.
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


def lower_conv(builder: TableBuilder, node: Node) -> list[Lowered]:
    if node.attrs.get("winograd"):
        channels = builder.graph.shapes[node.output][2]
        tile = builder.tiles.get(node.output, choose_tile(channels))
        return lower_winograd(builder, node, tile)
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
            epilogue.RESIDUAL: epilogue.RESIDUAL_BEFORE if first else epilogue.RESIDUAL_AFTER,
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
        epilogue.RESULT_STEP: step * 4,
        conv.CHUNK_POSITIONS: chunk,
    }
    work = height * width * channels * taps_y * taps_x * depth
    return [Lowered(columns, floats, work, (chunk + positions) * step, compares=True)]


def lines_ahead(
    node: Node, lines: Sequence[int], taps_x: int, pixel: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """conv.AHEAD: offsets, from a window's origin, of the lines that the window FAR positions on is
    the first to read."""
    stride_y, stride_x = node.attrs["stride"]
    far = conv.FAR * stride_x * pixel
    new = [
        line + x * node.attrs["dilation"][1] * pixel + far
        for line in lines[-stride_y:]
        for x in range(max(taps_x - stride_x, 0), taps_x)
    ]
    return np.array([len(new), *new], np.int64)
