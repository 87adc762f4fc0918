"""Measuring, once a host, which micro-kernel is fastest for a convolution, and the break-even.

Both depend on the host and on the layer's geometry. A few rows of the layer are run alone, with
every micro-kernel whose padding does not rule it out. The choice does not change a bit of the
result, because every output is summed in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.ir.graph import Graph, Node, Port
from stillframe.reuse.kernels import abi
from stillframe.reuse.kernels.conv import TILES
from stillframe.reuse.plan.lower_conv import EFFICIENCY, choose_tile, tile_width
from stillframe.reuse.plan.plan import Plan, Tuning
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.workers import Workers

LEAST_WORK = 1_000_000  # multiply-adds below which measuring costs more than it gains
ROWS_WORK = 8_000_000  # multiply-adds of one measurement
ROUNDS = 5
CLOSE = 1.7  # a micro-kernel with more padded work than this factor of the least is not tried
CLEARLY = 0.97  # share of the usual one's time below which another one is faster for sure
LEAST_BREAK_EVEN = 0.6
LONGEST_NS = 1 << 60
EVERYTHING = 1 << 40  # bytes: no layer takes more
NEVER_DENSE = 2.0  # a break-even that no share of work reaches

Compile = Callable[..., Plan]  # `compile.compile_graph`


@dataclass(frozen=True, slots=True)
class Measured:
    """A convolution on this host."""

    tile: int
    """Row of TILES of the fastest micro-kernel."""
    dense_ns: int
    """Time of the measured rows in a dense step."""
    sparse_ns: int
    """Time of the same rows, all active: listed, compared and marked as well."""


def signature(node: Node, graph: Graph) -> str:
    """What the speed of a convolution depends on."""
    taps_y, taps_x, depth, channels = graph.shapes[node.inputs[1]]
    stride, dilation = (":".join(map(str, node.attrs[name])) for name in ("stride", "dilation"))
    width = graph.shapes[node.output][1]
    tiles = f" t{side}" if (side := node.attrs.get("winograd", 0)) else ""
    return f"conv {taps_y}x{taps_x} {depth}>{channels} s{stride} d{dilation} w{width}{tiles}"


def tunable(node: Node, graph: Graph) -> bool:
    return node.op == "Conv" and node.attrs["group"] == 1 and work_of(node, graph) >= LEAST_WORK


def work_of(node: Node, graph: Graph) -> int:
    height, width, _ = graph.shapes[node.output]
    return height * width * int(np.prod(graph.shapes[node.inputs[1]]))


def tune(graph: Graph, disk_cache: DiskCache, compile_graph: Compile) -> Tuning:
    """The measurements of a graph's convolutions; measures those that the disk cache lacks.

    compile_graph: `compile.compile_graph`, which this module does not import: it lies above.
    """
    layers = {node.output: signature(node, graph) for node in graph.nodes if tunable(node, graph)}
    measured: dict[str, Measured] = {}
    new: dict[str, list[int]] = {}
    for node in graph.nodes:
        name = layers.get(node.outputs[0])  # an island may have more
        if name is None or name in measured:
            continue
        stored = read(disk_cache.get(name))
        if stored is None:
            stored = measure(node, graph, compile_graph)
            new[name] = [stored.tile, stored.dense_ns, stored.sparse_ns]
        measured[name] = stored
    disk_cache.add(new)
    dense = sparse = 0.0
    for node in graph.nodes:
        if node.outputs[0] in layers:
            each = measured[layers[node.outputs[0]]]
            dense += work_of(node, graph)
            sparse += work_of(node, graph) * each.sparse_ns / max(each.dense_ns, 1)
    limit = min(max(dense / sparse, LEAST_BREAK_EVEN), 1.0) if sparse else 1.0
    return Tuning({name: measured[each].tile for name, each in layers.items()}, limit)


def read(note: object) -> Measured | None:
    """What [tile, dense_ns, sparse_ns] in the disk cache means; None for anything else."""
    if not isinstance(note, list) or [type(number) for number in note] != [int, int, int]:
        return None
    tile, dense_ns, sparse_ns = note
    if not 0 <= tile < len(TILES) or not (0 < dense_ns < LONGEST_NS and 0 < sparse_ns < LONGEST_NS):
        return None
    return Measured(tile, dense_ns, sparse_ns)


def measure(node: Node, graph: Graph, compile_graph: Compile) -> Measured:
    """Time the micro-kernels on the first rows of a convolution, in turn; the quickest wins."""
    channels = graph.shapes[node.output][2]
    padded = [-(-channels // tile_width(tile)) * tile_width(tile) for tile in range(len(TILES))]
    costs = [width / efficiency for width, efficiency in zip(padded, EFFICIENCY, strict=True)]
    tried = [tile for tile, cost in enumerate(costs) if cost <= CLOSE * min(costs)]
    if node.attrs.get("winograd", 0):  # rows of tiles take long, and shapes differ little
        tried = [choose_tile(channels)]
    alone = excerpt(node, graph)
    feed = np.random.default_rng(0).random(alone.inputs[0].shape, np.float32)
    every = np.ones(alone.shapes["x"][:2], np.uint8)
    engines = {
        tile: PlanRunner(
            compile_graph(alone, tuning=Tuning({"y": tile}), memory_budget=EVERYTHING),
            Workers(1),
            NEVER_DENSE,
        )
        for tile in tried
    }
    dense = dict.fromkeys(tried, LONGEST_NS)
    sparse = dict.fromkeys(tried, LONGEST_NS)
    for _ in range(ROUNDS):
        for tile, engine in engines.items():
            at = engine.plan.cutoffs["y"]
            engine.step({"x": feed}, dense=True)
            dense[tile] = min(dense[tile], int(engine.plan.records[at, abi.NANOSECONDS]))
            feed += 0.001
            engine.step({"x": feed}, {"x": every})
            sparse[tile] = min(sparse[tile], int(engine.plan.records[at, abi.NANOSECONDS]))
    usual = choose_tile(channels)
    best = min(tried, key=dense.__getitem__)
    if dense[best] > CLEARLY * dense[usual]:
        best = usual
    return Measured(best, dense[best], sparse[best])


def excerpt(node: Node, graph: Graph) -> Graph:
    """A graph of some rows of one convolution, and a reader that makes its output persistent."""
    taps_y, taps_x, depth, channels = graph.shapes[node.inputs[1]]
    height, width, _ = graph.shapes[node.output]
    side = node.attrs.get("winograd", 0)
    least = 2 * side if side else 1  # rows of whole tiles
    rows = min(height, max(ROWS_WORK * height // max(work_of(node, graph), 1), least))
    stride, dilation = node.attrs["stride"], node.attrs["dilation"]
    inside = (
        (rows - 1) * stride[0] + (taps_y - 1) * dilation[0] + 1,
        (width - 1) * stride[1] + (taps_x - 1) * dilation[1] + 1,
        depth,
    )
    rng = np.random.default_rng(0)
    weights = rng.random((taps_y, taps_x, depth, channels), np.float32)
    shapes = {
        "x": inside,
        "w": weights.shape,
        "b": (channels,),
        "y": (rows, width, channels),
        "z": (rows, width, channels),
    }
    plain = {"stride": stride, "dilation": dilation, "pad": (0, 0, 0, 0), "group": 1, "act": None}
    plain |= {"winograd": side}
    pool: dict[str, object] = {
        "kernel": (3, 3),
        "stride": (1, 1),
        "dilation": (1, 1),
        "pad": (1, 1, 1, 1),
    }
    pool["ceil_mode"] = False
    return Graph(
        nodes=(
            Node("Conv", ("x", "w", "b"), ("y",), plain | {"residual_first": False}),
            Node("MaxPool", ("y",), ("z",), pool),
        ),
        inputs=(Port("x", (1, *inside), "float32", "NHWC"),),
        outputs=(Port("z", (1, rows, width, channels), "float32", "NHWC"),),
        shapes=shapes,
        constants={"w": weights, "b": np.zeros(channels, np.float32)},
    )
