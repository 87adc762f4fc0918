"""A compiled model seen from outside: what its layers are, and what the last step did in each.

    infos = layers(session)        one LayerInfo a layer, in the order in which they run
    stats = layer_stats(session)   arrays with one entry for each of them

Nobody outside `reuse` reads the tables of a plan: they ask here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import ISLAND, Graph, Node
from stillframe.reuse.kernels import abi
from stillframe.reuse.memory.liveness import described
from stillframe.reuse.plan.memory_report import MemoryReport
from stillframe.reuse.plan.plan import IslandStep, Plan
from stillframe.reuse.session import ReuseSession

__all__ = [
    "CALLER",
    "EXPORT",
    "GLOBAL",
    "ISLAND",
    "LayerInfo",
    "LayerStats",
    "MemoryReport",
    "activation",
    "changed_positions",
    "compared_layers",
    "computed_positions",
    "layer_stats",
    "layers",
]

EXPORT = "Export"
"""`LayerInfo.op` of a copy for an island or the caller."""
CALLER = "the copy for islands or the caller"
"""`LayerInfo.last_reader` of what no layer reads."""
GLOBAL = frozenset({"GlobalPool", "Moments"})
"""Operators that read the whole picture: one changed position changes their whole output."""

Integers = NDArray[np.int64]
Marks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer: an instruction of the plan, or an island. Fixed once the model is compiled."""

    name: str
    """The tensor that it writes; an island's, joined by commas."""
    op: str
    """The engine's operator, `ISLAND` or `EXPORT`."""
    shape: tuple[int, ...]
    """(H, W, C); of an island its first output's own."""
    positions: int
    """H * W, what a step can compute at most; 1 of an island."""
    multiply_adds: int
    """To compute all positions; 0 where an operator has none, and in islands where not known."""
    persistent: bool | None
    """Whether the values survive to the next frame; None where the engine stores none."""
    why: str
    """In words: why it persists, or why it need not."""
    bytes: int
    """What the values take; 0 for a view of another tensor."""
    last_reader: str
    """The last layer that reads it, in words; `CALLER` if none does."""
    cut_off: bool
    """Whether a result near the stored one is left unstored and counts as unchanged."""
    after_global: str
    """The tensor of the first global operator that this depends on; empty if there is none."""
    reason: str = ""
    """Why an island is one."""
    nodes: tuple[str, ...] = ()
    """The model's nodes that an island holds."""
    algorithm: str = ""
    """How a convolution is computed, if not directly, or why it must be; else empty."""


@dataclass(frozen=True, slots=True)
class LayerStats:
    """What the last step did, one entry a layer in the order of `layers`. The arrays are copies."""

    positions: Integers
    """Of each layer, never 0; see `LayerInfo.positions`."""
    computed: Integers
    """Positions computed; of an island 1 where it ran."""
    changed: Integers
    """Positions whose stored value changed; a dense step, which compares nothing, counts all."""
    nanoseconds: Integers
    """Time that the layer took; of an island the time of ONNX Runtime."""

    @property
    def computed_share(self) -> NDArray[np.float64]:
        return self.computed / self.positions

    @property
    def changed_share(self) -> NDArray[np.float64]:
        return self.changed / self.positions


def layers(session: ReuseSession) -> tuple[LayerInfo, ...]:
    """All layers in the order in which they run.

    Raises UsageError before the first feed of a model with open shapes, as do all functions here.
    """
    plan = session.plan
    after = _after_global(plan.graph)
    infos: list[LayerInfo] = []
    for step in plan.steps:
        if isinstance(step, IslandStep):
            infos.append(_island(plan, step.node))
        else:
            infos += [_layer(plan, index, after) for index in range(step.first, step.end)]
    return tuple(infos)


def layer_stats(session: ReuseSession) -> LayerStats:
    """What the last step did in each layer; all 0 where nothing had changed."""
    plan = session.plan
    written = plan.tensors[plan.instructions[:, abi.TARGET]]
    positions = np.maximum(written[:, abi.HEIGHT] * written[:, abi.WIDTH], 1)
    parts, islands = [], 0
    for step in plan.steps:
        if isinstance(step, IslandStep):
            parts.append(np.insert(plan.island_records[islands], 0, 1)[None])
            islands += 1
        else:
            part = slice(step.first, step.end)
            parts.append(np.column_stack([positions[part], plan.records[part]]))
    rows = np.concatenate(parts) if parts else np.zeros((0, 1 + abi.RECORD_COLUMNS), np.int64)
    return LayerStats(
        positions=rows[:, 0],
        computed=rows[:, 1 + abi.ACTIVE],
        changed=rows[:, 1 + abi.CHANGED],
        nanoseconds=rows[:, 1 + abi.NANOSECONDS],
    )


def compared_layers(session: ReuseSession) -> tuple[str, ...]:
    """The layers that a tolerance applies to, in the order in which they run."""
    return session.plan.compared


def activation(session: ReuseSession, name: str) -> NDArray[np.float32]:
    """(H, W, C) float32: what is stored of a layer. A view that the next step overwrites; what a
    transient layer stored is lost as soon as the step goes on."""
    return session.plan.view(name)


def changed_positions(session: ReuseSession, name: str) -> Marks:
    """(H, W) bool: the positions of an input or a layer that the last step marked as changed. A
    dense step marks all."""
    plan, stats = session.plan, session.last_stats
    if stats is None or not stats.dense:
        return _changed(plan, name)
    return np.ones(plan.graph.shapes[name][:2], bool)


def computed_positions(session: ReuseSession) -> dict[str, Marks]:
    """(H, W) bool by layer: the positions that the last step computed.

    Of operators whose output has more than one position, in the order of the network; one that is
    a view of another tensor is computed where that changed. A layer computes more than it marks as
    changed, for a result near the stored one is not marked.
    """
    plan, stats = session.plan, session.last_stats
    graph = plan.graph
    if stats is not None and stats.dense:
        return {name: np.ones(graph.shapes[name][:2], bool) for name in _operators(graph)}
    changed: dict[str, Marks] = {}
    computed: dict[str, Marks] = {}
    for layer, reads in zip(plan.layers, plan.reads, strict=True):
        if layer.op == EXPORT:
            continue
        for name, _ in reads:
            if name not in changed:
                changed[name] = _changed(plan, name)
        if layer.op == "Regrid" and layer.name not in plan.memory.regions.sources:
            computed[layer.name] = changed[reads[0][0]].reshape(layer.shape[:2])
            continue
        reached = [window.image(changed[name]) for name, window in reads]
        if reached:  # of several instructions for one operator the last covers the whole output
            computed[layer.name] = np.logical_or.reduce(reached)
    return {
        name: computed[name] if name in computed else _changed(plan, name)
        for name in _operators(graph)
    }


def _operators(graph: Graph) -> list[str]:
    """Outputs of the engine's own operators that have more than one position."""
    return [
        node.output
        for node in graph.nodes
        if node.op != ISLAND and graph.shapes[node.output][:2] != (1, 1)
    ]


def _layer(plan: Plan, index: int, after: dict[str, str]) -> LayerInfo:
    layer = plan.layers[index]
    target = plan.tensors[plan.instructions[index, abi.TARGET]]
    live_range = plan.memory.ranges.get(layer.name) if layer.op != EXPORT else None
    root = plan.memory.ranges[live_range.root] if live_range else None
    return LayerInfo(
        name=layer.name,
        op=layer.op,
        shape=tuple(map(int, layer.shape)),
        positions=max(int(target[abi.HEIGHT] * target[abi.WIDTH]), 1),
        multiply_adds=int(layer.multiply_adds),
        persistent=root.persistent if root else None,
        why=live_range.why if live_range else "",
        bytes=live_range.bytes if live_range else 0,
        last_reader=(live_range.last_reader or CALLER) if live_range else "",
        cut_off=plan.cutoffs.get(layer.name) == index,
        after_global=after.get(layer.name, ""),
        algorithm=_algorithm(plan.graph.nodes[layer.node]) if layer.op == "Conv" else "",
    )


def _algorithm(node: Node) -> str:
    if side := node.attrs.get("winograd", 0):
        return f"Winograd, tiles of {side} x {side}"
    reason = node.attrs.get("why_direct", "")
    return f"direct: {reason}" if reason else ""


def _island(plan: Plan, node: Node) -> LayerInfo:
    graph = plan.graph
    readers = graph.readers()
    last = max((index for name in node.outputs for index in readers.get(name, ())), default=None)
    return LayerInfo(
        name=", ".join(node.outputs),
        op=ISLAND,
        shape=tuple(map(int, node.attrs["writes"][0].shape)),
        positions=1,
        multiply_adds=int(node.attrs["multiply_adds"]),
        persistent=None,
        why="",
        bytes=0,
        last_reader=CALLER if last is None else described(graph, last),
        cut_off=any(name in plan.arrivals for name in node.outputs),
        after_global="",
        reason=node.attrs["reason"],
        nodes=tuple(node.attrs["nodes"]),
    )


def _after_global(graph: Graph) -> dict[str, str]:
    """Tensor -> the first global operator's output that it depends on, where there is one.

    Vectors that no position reads any more, such as scores, are left out.
    """
    source: dict[str, str] = {}
    for node in graph.nodes:
        first = next((source[name] for name in node.inputs if name in source), "")
        if node.op in GLOBAL:
            first = node.output
        if first:
            source |= dict.fromkeys(node.outputs, first)
    return {
        name: first
        for name, first in source.items()
        if len(graph.shapes[name]) == 3 and graph.shapes[name][0] * graph.shapes[name][1] > 1
    }


def _changed(plan: Plan, name: str) -> Marks:
    """The mask after a step that was not dense; it is stale where no position of it is live."""
    mask = plan.mask(name)
    return mask != 0 if plan.left_active(name) else np.zeros(mask.shape, bool)
