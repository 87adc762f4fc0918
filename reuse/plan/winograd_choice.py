"""Which convolutions run by Winograd's transforms, and in tiles of which side.

A plan computes a layer in one way, whatever is active, because the last bits of the two ways
differ. The choice depends on the graph alone, so it is the same on every host.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import Graph, Node

EXACT_SIDE, TOLERANT_SIDE = 2, 4
"""In tiles of two, an output depends on its own window only. In tiles of four, rounding makes it
depend on all inputs of its tile: where equal bits are asked for, each layer would spread a change
to whole tiles."""

LEAST_CHANNELS = 32
"""Of inputs and of outputs: with fewer, the transforms cost what they save."""
MOST_TOLERANT = 10_000
"""Largest product of input and output channels for tiles of four. Their weights are 4 times as
many, with more channels they are read from memory, not from a cache, and a step in which few tiles
are active is slower than direct convolution. In tiles of two they are 16/9 times as many."""
MOST_WEIGHTS = 1 << 20
"""Largest product of input and output channels for any tiles."""
LEAST_POSITIONS = 100
"""Of outputs: fewer make too few tiles."""
LARGEST_RANGE = 1e4
"""Largest weight of an output channel over the median of those that are not 0. Rounding is relative
to the largest numbers of a tile. Beyond this range, outputs that come from small weights alone
would lose more than a thousandth."""
LARGEST_WEIGHT = 1e30
"""Transforms add up to 100 times a weight, and inputs may be large as well."""


def choose_winograd(graph: Graph, exact: bool) -> Graph:
    """The graph with attribute "winograd" in its convolutions: the side of their tiles, 0: direct.

    exact: equal bits are asked for. Nodes that have the attribute keep it. "why_direct" says why a
    convolution that would gain is computed directly.
    """
    nodes = [_chosen(node, graph, exact) for node in graph.nodes]
    return replace(graph, nodes=tuple(nodes))


def _chosen(node: Node, graph: Graph, exact: bool) -> Node:
    if node.op != "Conv" or "winograd" in node.attrs:
        return node
    if not (is_possible(node, graph) and pays(node, graph)):
        return node
    fault = weights_fault(np.asarray(graph.constants[node.inputs[1]]))
    if fault:
        return node.with_(attrs={**node.attrs, "winograd": 0, "why_direct": fault})
    _, _, depth, channels = graph.shapes[node.inputs[1]]
    small = exact or depth * channels > MOST_TOLERANT
    side = EXACT_SIDE if small else TOLERANT_SIDE
    return node.with_(attrs={**node.attrs, "winograd": side})


def is_possible(node: Node, graph: Graph) -> bool:
    """Whether a convolution is one of 3 × 3 taps, stride 1, without groups."""
    return (
        node.inputs[1] in graph.constants
        and graph.shapes[node.inputs[1]][:2] == (3, 3)
        and tuple(node.attrs["stride"]) == tuple(node.attrs["dilation"]) == (1, 1)
        and node.attrs["group"] == 1
    )


def pays(node: Node, graph: Graph) -> bool:
    """Whether Winograd's transforms are quicker, as measured for convolutions of many sizes."""
    _, _, depth, channels = graph.shapes[node.inputs[1]]
    height, width, _ = graph.shapes[node.output]
    return (
        min(depth, channels) >= LEAST_CHANNELS
        and depth * channels <= MOST_WEIGHTS
        and height * width >= LEAST_POSITIONS
    )


def weights_fault(weights: NDArray[np.floating]) -> str:
    """Why weights (3, 3, C, M) would lose accuracy when transformed; empty: they do not."""
    sizes = np.abs(weights.reshape(-1, weights.shape[3]).astype(np.float64))
    if not np.all(sizes <= LARGEST_WEIGHT):  # NaN as well
        return f"a weight is not finite or beyond {LARGEST_WEIGHT:.0e}"
    is_small = (sizes > 0) & (sizes < sizes.max(axis=0) / LARGEST_RANGE)
    suspect = np.count_nonzero(is_small, axis=0) * 2 >= np.count_nonzero(sizes, axis=0)
    ranges = [
        column.max() / np.median(column[column > 0])
        for column in sizes.T[suspect].copy()
        if column.any()
    ]
    largest = max(ranges, default=0.0)
    if largest > LARGEST_RANGE:
        return (
            f"a weight is {largest:.0e} times as large as most of its channel, "
            "transforms would lose accuracy"
        )
    return ""
