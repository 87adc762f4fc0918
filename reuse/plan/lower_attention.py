"""Attention as three instructions: which rows have moved, packed keys and values, rows."""

from math import lcm

import numpy as np

from stillframe.reuse.ir.graph import Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.ir.windows import identity
from stillframe.reuse.kernels import abi, attention, conv
from stillframe.reuse.memory.work_estimate import attention_work
from stillframe.reuse.plan.instruction import Lowered
from stillframe.reuse.plan.lower_conv import choose_tile, tile_width
from stillframe.reuse.plan.tables import TableBuilder

ROWS = 48
"""Queries that are gathered, about: their scores stay in the second-level cache."""


def lower_attention(builder: TableBuilder, node: Node) -> list[Lowered]:
    graph = builder.graph
    (queries, keys, values), out = node.inputs, graph.shapes[node.output]
    q, k, v = (graph.shapes[name] for name in node.inputs)
    heads, (height, width) = node.attrs["heads"], node.attrs["window"]
    depth, value_depth = q[2] // heads, v[2] // heads
    whole = (height, width) == q[:2]
    key_window = k[:2] if whole else (height, width)
    count = key_window[0] * key_window[1]
    windows = (q[0] // height) * (q[1] // width)
    key_tile, value_tile = choose_tile(count), choose_tile(value_depth)
    slices = [tile_width(tile) for tile in (key_tile, value_tile)]
    tiles = [conv.TILES[tile][0] for tile in (key_tile, value_tile)]
    unit = lcm(*tiles)
    rows = -(-ROWS // unit) * unit
    shape = builder.constant(
        np.array(
            [
                *(heads, depth, value_depth, height, width, *key_window, q[1] // width),
                *(*slices, *tiles, rows, builder.workers),
            ],
            np.int64,
        )
    )
    panels, value_panels = -(-count // slices[0]), -(-value_depth // slices[1])
    packed_keys = builder.state(windows * heads * panels * slices[0] * depth)
    packed_values = builder.state(windows * heads * value_panels * slices[1] * count)
    products = [
        product(builder, tile, size)
        for tile, size in ((key_tile, max(count, 1)), (value_tile, value_depth))
    ]
    builder.attention_bytes = max(
        builder.attention_bytes, scratch_bytes(rows, count, heads, depth, value_depth, slices)
    )
    common = {
        abi.INPUT: builder.tensor(queries),
        abi.SECOND: builder.tensor(keys),
        attention.VALUES: builder.tensor(values),
        attention.SHAPE: shape,
        attention.PACKED_KEYS: packed_keys,
        attention.PACKED_VALUES: packed_values,
        attention.KEY_PRODUCT: products[0],
        attention.VALUE_PRODUCT: products[1],
        attention.STORED: builder.tensor(node.output),
    }
    scale = {abi.SCALAR: node.attrs["scale"]}
    in_window = OPS["Attention"].window(node, graph.shapes)
    lowered: list[Lowered] = []
    own = identity(*q[:2])
    moved = f"{node.output}~moved"
    if not builder.exact:
        common[attention.STATE] = builder.state(q[0] * q[1] * heads * (value_depth + 2))
        common[attention.ROUNDS] = builder.constant(np.zeros(1, np.int64))
        address, sources = builder.sources(
            [
                builder.source(name, window, out)
                for name, window in zip(node.inputs[1:], in_window[1:], strict=True)
            ]
        )
        lowered.append(
            Lowered(
                common
                | {
                    abi.KERNEL: attention.drift.address,
                    abi.PREPARE: attention.count_rounds.address,
                    abi.TARGET: builder.marks(moved, q[0], q[1]),
                    abi.SOURCES: address,
                    abi.SOURCE_COUNT: sources,
                    abi.CUTOFF: abi.Cutoff.NORM,
                },
                scale,
                label="Drift",
            )
        )
    address, sources = builder.sources(
        [builder.source(name, identity(*k[:2]), k) for name in dict.fromkeys((keys, values))]
    )
    lowered.append(
        Lowered(
            common
            | {
                abi.KERNEL: attention.pack.address,
                abi.TARGET: builder.marks(f"{node.output}~packed", k[0], k[1]),
                abi.SOURCES: address,
                abi.SOURCE_COUNT: sources,
            },
            label="Pack",
        )
    )
    reads = list(zip(node.inputs, in_window, strict=True)) if builder.exact else []
    reads = reads or [(queries, own), (moved, own)]
    address, sources = builder.sources([builder.source(name, read, out) for name, read in reads])
    lowered.append(
        Lowered(
            common
            | {
                abi.KERNEL: attention.attend.address,
                abi.TARGET: builder.tensor(node.output),
                abi.SOURCES: address,
                abi.SOURCE_COUNT: sources,
            },
            scale,
            out[0] * out[1] * attention_work(node, graph.shapes),
            out[2],
            compares=True,
        )
    )
    return lowered


def product(builder: TableBuilder, tile: int, columns: int) -> int:
    """Address of the instruction of a 1 × 1 convolution whose weights are named later."""
    width = tile_width(tile)
    entry = np.zeros(abi.INSTRUCTION_COLUMNS, np.int64)
    zeros = np.zeros(-(-columns // width) * width, np.float32)
    entry[conv.MULTIPLY] = conv.MULTIPLY_TILES[tile].address
    entry[conv.BIAS] = builder.constant(zeros)
    entry[conv.RUNS] = builder.constant(np.zeros(1, np.int64))
    entry[conv.RUN_COUNT] = 1
    entry[conv.AHEAD] = builder.constant(np.zeros(1, np.int64))
    return builder.constant(entry)


def scratch_bytes(
    rows: int, count: int, heads: int, depth: int, value_depth: int, slices: list[int]
) -> int:
    """No less than what `kernels.attention` uses of a worker's scratch."""
    columns = (count // slices[0] + 2) * slices[0]
    part = (value_depth // slices[1] + 2) * slices[1]
    gathered = abi.INSTRUCTION_COLUMNS * 8 + rows * (8 * 8 + 4 * (columns + part))
    gathered += rows * heads * value_depth * 4
    changed = count * 24 + heads * columns * (depth + part) * 4
    return gathered + changed + 1024
