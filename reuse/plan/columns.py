"""Instruction columns that several lowering rules share."""

from typing import Any

import numpy as np

from stillframe.reuse.ir.graph import Act, Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.kernels import abi, layout
from stillframe.reuse.kernels.activation import ACTIVATIONS
from stillframe.reuse.plan.tables import TableBuilder


def act_columns(builder: TableBuilder, node: Node) -> tuple[dict[int, int], dict[int, float]]:
    act: Act | None = node.attrs.get("act")
    if act is None:
        return {}, {}
    columns = {abi.ACTIVATE: ACTIVATIONS[act.kind].address}
    if act.kind == "prelu":
        slopes = np.asarray(builder.graph.constants[node.inputs[-1]], np.float32).ravel()
        columns[abi.SLOPES] = builder.constant(slopes)
    return columns, {abi.ACT_A: act.a, abi.ACT_B: act.b}


def mask_columns(
    builder: TableBuilder, node: Node, regular: tuple[int, int, int] | None = None
) -> dict[int, int]:
    """TARGET, SOURCES and SOURCE_COUNT from the operator's windows; constants never change."""
    required = builder.regions.sources.get(node.output)
    out = builder.graph.shapes[node.output]
    if required is not None:
        entries = [builder.source(name, window, out) for name, window in required]
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


def move_columns(builder: TableBuilder, rows: Any, columns: Any) -> dict[int, int]:
    return {
        abi.KERNEL: layout.move.address,
        layout.ROWS: builder.constant(np.asarray(rows, np.int32)),
        layout.COLUMNS: builder.constant(np.asarray(columns, np.int32)),
    }
