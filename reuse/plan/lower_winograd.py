"""A convolution by Winograd's transforms as one instruction: transformed weights and batches."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import Node
from stillframe.reuse.kernels import abi, conv, epilogue, winograd
from stillframe.reuse.kernels.microkernel import LANES
from stillframe.reuse.kernels.winograd_tile import FAR, NEAR
from stillframe.reuse.plan.columns import act_columns, mask_columns
from stillframe.reuse.plan.instruction import Lowered
from stillframe.reuse.plan.tables import TableBuilder

Floats = NDArray[np.float32]

BATCH_BYTES = 384 << 10
"""Transformed inputs and products of a batch of tiles: they stay in the second-level cache."""
LEAST_BATCH, MOST_BATCH = 12, 96
GROUP_POSITIONS = abi.CHUNK
APART = 64
"""Bytes between planes of factors, so that the same channel of all does not meet in one set of a
cache."""


def weight_transform(side: int) -> NDArray[np.float64]:
    """(side + 2, 3): the weights of one axis -> their factors."""
    if side == 2:
        return np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    rows = [[1 / (NEAR * FAR) ** 2, 0, 0]]
    for point, other in ((NEAR, FAR), (FAR, NEAR)):
        scale = 2 * point**2 * (point**2 - other**2)
        rows += [[1 / scale, sign * point / scale, point**2 / scale] for sign in (1, -1)]
    return np.array([*rows, [0, 0, 1]])


def transformed(weights: NDArray[Any], side: int) -> NDArray[np.float64]:
    """(3, 3, C, M) -> [factor][C][M], in float64."""
    axis = weight_transform(side)
    taps = weights.reshape(9, -1).astype(np.float64)
    factors: NDArray[np.float64] = np.kron(axis, axis) @ taps
    return factors.reshape(-1, *weights.shape[2:])


def pack_factors(weights: Floats, side: int, tile: int) -> tuple[Floats, int]:
    """(3, 3, C, M) -> [factor][panel][C][width of a row of conv.TILES], number of panels."""
    depth, channels = weights.shape[2:]
    width = conv.TILES[tile][1] * LANES
    panels = -(-channels // width)
    packed = np.zeros(((side + 2) ** 2, panels, depth, width), np.float32)
    padded = np.zeros((len(packed), depth, panels * width), np.float32)
    padded[:, :, :channels] = transformed(weights, side)
    packed[...] = padded.reshape(len(packed), depth, panels, width).transpose(0, 2, 1, 3)
    return packed, panels


def whole_vectors(values: NDArray[Any], channels: int) -> Floats:
    """One float a channel, as many as fill vectors."""
    padded = np.zeros(-(-channels // LANES) * LANES, np.float32)
    padded[:channels] = values
    return padded


def bends_and_bounds(builder: TableBuilder, node: Node) -> tuple[NDArray[Any], float, float] | None:
    """(slopes below 0, low, high) if the output transform can apply the activation."""
    act = node.attrs.get("act")
    channels = builder.graph.shapes[node.output][2]
    straight, low, high = np.ones(channels, np.float32), -float("inf"), float("inf")
    if act is None:
        return straight, low, high
    if node.attrs["residual_first"] and len(node.inputs) - int(act.kind == "prelu") > 3:
        return None
    if act.kind == "prelu":
        slopes = np.asarray(builder.graph.constants[node.inputs[-1]], np.float32).ravel()
        return np.broadcast_to(slopes, (channels,)), low, high
    if act.kind == "leaky":
        return straight * np.float32(act.a), low, high
    if act.kind == "relu":
        return straight, 0.0, high
    return (straight, act.a, act.b) if act.kind == "clip" else None


def lower_winograd(builder: TableBuilder, node: Node, tile: int) -> list[Lowered]:
    """tile: row of conv.TILES whose shape computes products of positions and output channels."""
    side = node.attrs["winograd"]
    weights = np.asarray(builder.graph.constants[node.inputs[1]], np.float32)
    bias = np.asarray(builder.graph.constants[node.inputs[2]], np.float32)
    depth, channels = weights.shape[2:]
    height, width, _ = builder.graph.shapes[node.output]
    columns = mask_columns(builder, node)
    store = bends_and_bounds(builder, node)
    extra, floats = act_columns(builder, node) if store is None else ({}, {})
    bends, low, high = store or (np.ones(channels, np.float32), -float("inf"), float("inf"))
    floats |= {abi.LOW: low, abi.HIGH: high}
    prelu = node.attrs.get("act") is not None and node.attrs["act"].kind == "prelu"
    residual = len(node.inputs) - 3 - int(prelu)
    if residual:
        first = node.attrs["residual_first"]
        columns |= {
            abi.SECOND: builder.tensor(node.inputs[3]),
            epilogue.RESIDUAL: epilogue.RESIDUAL_BEFORE if first else epilogue.RESIDUAL_AFTER,
        }
    packed, panels = pack_factors(weights, side, tile)
    positions, _ = conv.TILES[tile]
    columns[winograd.DIRECT] = int(not residual and not extra and channels % LANES == 0)
    columns |= layout_columns(builder, node, packed, positions)
    columns |= extra | {
        abi.KERNEL: winograd.convolve_tiles.address,
        abi.PAD_TOP: node.attrs["pad"][0],
        abi.PAD_LEFT: node.attrs["pad"][1],
        winograd.PRODUCTS: winograd.MULTIPLY_FACTORS[side, tile].address,
        winograd.INPUTS: winograd.TRANSFORM_INPUTS[side].address,
        winograd.OUTPUTS: winograd.TRANSFORM_OUTPUTS[side].address,
        winograd.WEIGHTS: builder.constant(packed),
        winograd.BIAS: builder.constant(whole_vectors(bias, channels)),
        winograd.BENDS: builder.constant(whole_vectors(bends, channels)),
        abi.TILE_SIDE: side,
        winograd.DEPTH: depth,
        winograd.PANELS: panels,
        winograd.POSITIONS: positions,
    }
    work = height * width * channels * 9 * depth
    return [Lowered(columns, floats, work, compares=True)]


def layout_columns(
    builder: TableBuilder, node: Node, packed: Floats, positions: int
) -> dict[int, int]:
    """How a batch lies in a worker's scratch memory, which grows to hold it."""
    side = node.attrs["winograd"]
    height, width, channels = builder.graph.shapes[node.output]
    depth = builder.graph.shapes[node.inputs[0]][2]
    _, row, pixel = builder.geometry(node.inputs[0])
    factor_step, sum_step = -(-depth // LANES) * LANES * 4, packed.shape[1] * packed.shape[3] * 4
    result_step = -(-channels // LANES) * LANES * 4
    tiles = -(-height // side) * -(-width // side)
    fitting = BATCH_BYTES // ((side + 2) ** 2 * (factor_step + sum_step))
    batch = min(max(fitting, LEAST_BATCH), MOST_BATCH, tiles)
    batch = -(-batch // positions) * positions
    group = min(max(min(GROUP_POSITIONS, 65536 // result_step) // side**2, 1), batch)
    slots = group * side + 1
    layout = np.zeros(winograd.LAYOUT_ENTRIES, np.int64)
    layout[winograd.DOWN], layout[winograd.ACROSS] = row, pixel
    layout[winograd.FACTOR_STEP] = factor_step
    layout[winograd.FACTOR_PLANE] = batch * factor_step + APART
    layout[winograd.SUM_STEP] = sum_step
    layout[winograd.PANEL_BYTES] = packed[0, 0].nbytes
    layout[winograd.SUM_PLANE] = batch * sum_step + APART
    layout[winograd.STREAM_RESULTS], layout[winograd.STREAM_SLOTS] = slots * result_step, slots
    layout[winograd.SUMS] = (side + 2) ** 2 * layout[winograd.FACTOR_PLANE]
    layout[winograd.RESULTS] = layout[winograd.SUMS] + (side + 2) ** 2 * layout[winograd.SUM_PLANE]
    layout[winograd.SPARE] = layout[winograd.RESULTS] + side * slots * result_step
    layout[winograd.LISTS] = layout[winograd.SPARE] + result_step
    entries = winograd.list_entries(side, batch, group, slots, -(-width // side))
    builder.tiles_bytes = max(builder.tiles_bytes, int(layout[winograd.LISTS]) + entries * 8)
    return {
        winograd.LAYOUT: builder.constant(layout),
        winograd.BATCH: batch,
        winograd.GROUP: group,
        epilogue.RESULT_STEP: result_step,
    }
