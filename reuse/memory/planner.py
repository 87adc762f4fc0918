"""The memory plan of a network: what persists from frame to frame, within a budget, and where.

First everything persists that saves work: whatever a reader looks at beside the new positions, and
every layer that can be compared with what it stored. Where that is beyond the budget, what costs
least to compute again is dropped (`rematerialize`), until it fits.
"""

import contextlib
from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256

from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.ir import windows
from stillframe.reuse.ir.graph import Graph, Node
from stillframe.reuse.memory.arena import align, place
from stillframe.reuse.memory.buffers import Storage
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.liveness import (
    LiveRanges,
    Reasons,
    arena_requests,
    every_activation_bytes,
    live_ranges,
    persistent_roots,
    reasons_to_persist,
)
from stillframe.reuse.memory.rematerialize import choose_recomputed
from stillframe.reuse.memory.required_regions import (
    RequiredRegions,
    UnforeseenError,
    required_regions,
)

COMPARING = frozenset({"Conv", "GlobalPool", "Moments", "Attention"})  # whose kernels can cut off
FIRST_LAYERS = 3  # after attention, an island or a state: compared even if they persist for that
FIXPOINT_ROUNDS = 4  # of cut-offs that make others persistent
BUDGET_SHARE = 0.6
"""Of keeping every activation: the budget of those who name none."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Everything that is decided about the activations of one network; bytes."""

    storage: Storage
    """Which tensors share a buffer, and the zero padding around each."""
    ranges: LiveRanges
    """By activation: whether it persists and why, its bytes, and when it lives."""
    cutoffs: frozenset[str]
    """Tensors that are compared with their stored values: near enough, and nothing is marked."""
    recomputed: frozenset[str]
    """Tensors that would persist for their readers, and are computed again instead."""
    regions: RequiredRegions
    """What must be computed for that."""
    offsets: Mapping[str, int]
    """Where each root begins: the persistent ones side by side, then the arena of the others."""
    persistent_bytes: int
    arena_bytes: int
    """Shared by all transients."""
    lower_bound: int
    """The least that any arena for them needs."""
    every_activation: int
    """What keeping the output of every operator would take."""

    @property
    def persistent(self) -> frozenset[str]:
        """The roots that survive the frame."""
        return persistent_roots(self.ranges)

    @property
    def size(self) -> int:
        """Of all activations together."""
        return self.persistent_bytes + self.arena_bytes

    def __str__(self) -> str:
        transient = len(self.offsets) - len(self.persistent)
        return (
            f"{len(self.persistent)} persistent tensors, {self.persistent_bytes / 1e6:.1f} MB; "
            f"{transient} transient in an arena of {self.arena_bytes / 1e6:.1f} MB"
        )


def plan_memory(
    graph: Graph,
    exports: AbstractSet[str],
    budget_bytes: int | None = None,
    disk_cache: DiskCache | None = None,
    states: Collection[str] = (),
) -> MemoryPlan:
    """Keep what saves most within so many bytes of activations, persistent and shared together.

    exports: graph outputs and inputs of islands whose changes are copied out right behind their
    writer. budget_bytes: None is BUDGET_SHARE of what keeping every activation takes; where even
    the least is more than the budget, the plan is the least. disk_cache: where the choice is looked
    up and noted; with any choice, even one made for another network, results are right. states:
    inputs that are fed back, which move a little everywhere.
    """
    try:
        return _planned(Dataflow.of(graph, exports), budget_bytes, disk_cache, states)
    finally:
        windows.forget()


def _planned(
    flow: Dataflow,
    budget_bytes: int | None,
    disk_cache: DiskCache | None,
    states: Collection[str],
) -> MemoryPlan:
    graph, cutoffs = flow.graph, choose_cutoffs(flow, states)
    reasons = reasons_to_persist(flow, cutoffs)
    budget = budget_bytes
    if budget is None:
        budget = int(BUDGET_SHARE * every_activation_bytes(graph))
    key = f"dropped within {budget} of {digest(graph)}"
    key += f" with states {', '.join(states)}" if states else ""
    noted = None if disk_cache is None else disk_cache.get(key)
    if isinstance(noted, list) and all(isinstance(each, str) for each in noted):
        with contextlib.suppress(ValueError):  # then it was of another network
            return arrange(flow, reasons, cutoffs, frozenset(noted))
    choice = choose_recomputed(flow, reasons, cutoffs, budget)
    if disk_cache is not None:
        disk_cache.add({key: sorted(choice.recomputed)})
    return arrange(flow, reasons, cutoffs, choice.recomputed)


def compares(node: Node) -> bool:
    """Whether an operator cuts off: those whose kernels can, but of pools only those of stride 1,
    such as the three in a row of a YOLO. They widen every mark, and most results stay equal."""
    if node.op == "MaxPool":
        return tuple(node.attrs["stride"]) == (1, 1)
    return node.op in COMPARING


def finds_peaks(graph: Graph, node: Node) -> bool:
    """Whether a pool is compared with its own input: what is left unstored would be no peak."""
    return node.op == "MaxPool" and any(
        reader.op == "Binary" and {node.output, node.inputs[0]} <= {*reader.inputs}
        for reader in graph.nodes
    )


def choose_cutoffs(flow: Dataflow, states: Collection[str] = ()) -> frozenset[str]:
    """The tensors that are compared with their stored values: those that persist in any case.

    Vectors, such as the gates behind a global pool, are always compared: it costs nothing, and a
    changed one makes a whole layer new. After attention, an island or a state that is fed back,
    which move everything a little, the first layers are compared and all that the other cut-offs
    make persistent.
    """
    ranges = live_ranges(flow, reasons_to_persist(flow, frozenset()))
    comparing = [
        node.output
        for node in flow.graph.nodes
        if compares(node) and not finds_peaks(flow.graph, node)
    ]
    chosen = frozenset(
        name for name in comparing if ranges[name].persistent or flow.is_vector(name)
    )
    after, first = _after_mixing(flow, states)
    if not after:
        return chosen
    chosen |= first
    for _ in range(FIXPOINT_ROUNDS):
        ranges = live_ranges(flow, reasons_to_persist(flow, chosen))
        more = {name for name in comparing if name in after and ranges[name].persistent}
        if more <= chosen:
            break
        chosen |= more
    return chosen


def _after_mixing(flow: Dataflow, states: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
    """What depends on attention, an island or a state, and the first layers there that can be
    compared."""
    distance = dict.fromkeys(states, 0)
    first: set[str] = set()
    for index, node in enumerate(flow.graph.nodes):
        if node.op == "Attention" or flow.is_island(index):
            distance |= dict.fromkeys(node.outputs, 0)
            continue
        reached = [distance[name] for name in node.inputs if name in distance]
        if not reached:
            continue
        steps = min(reached) + int(compares(node))
        distance[node.output] = steps
        view = flow.storage.views.get(node.output)
        if compares(node) and steps <= FIRST_LAYERS and (view is None or view.own_mask):
            first.add(node.output)
    return frozenset(distance), frozenset(first)


def arrange(
    flow: Dataflow, reasons: Reasons, cutoffs: AbstractSet[str], recomputed: frozenset[str]
) -> MemoryPlan:
    """The plan that follows from recomputing these.

    reasons: those of `reasons_to_persist` with all of the cut-offs. A recomputed tensor is none, so
    more may be proven of the masks that is was part of, and fewer tensors persist. Raises
    UnforeseenError where a tensor cannot be recomputed, ValueError for names that are no
    activations and for vectors, which are never dropped.
    """
    for name in sorted(recomputed):
        if flow.graph.shapes.get(name, ())[:2] == (1, 1):
            raise ValueError(f"{name!r} is a vector: nothing is gained by dropping it")
    compared = frozenset(cutoffs - recomputed)
    if compared == cutoffs:
        return _arranged(flow, reasons, compared, recomputed)
    try:
        return _arranged(flow, reasons_to_persist(flow, compared), compared, recomputed)
    except UnforeseenError:  # what persists on older reasons is known in time
        older = {
            name: tuple(r for r in each if name not in recomputed or r.kind != "cut-off")
            for name, each in reasons.items()
        }
        return _arranged(flow, older, compared, recomputed)


def _arranged(
    flow: Dataflow, reasons: Reasons, cutoffs: frozenset[str], recomputed: frozenset[str]
) -> MemoryPlan:
    ranges = live_ranges(flow, reasons, recomputed)
    persistent = persistent_roots(ranges)
    regions = required_regions(flow, persistent, cutoffs, recomputed)
    offsets: dict[str, int] = {}
    end = 0
    for name in flow.names:
        if name in persistent:
            offsets[name] = end
            end += align(ranges[name].bytes)
    arena = place(arena_requests(ranges))
    offsets |= {name: end + offset for name, offset in arena.offsets.items()}
    return MemoryPlan(
        storage=flow.storage,
        ranges=ranges,
        cutoffs=cutoffs,
        recomputed=recomputed,
        regions=regions,
        offsets=offsets,
        persistent_bytes=end,
        arena_bytes=arena.size,
        lower_bound=arena.lower_bound,
        every_activation=every_activation_bytes(flow.graph),
    )


def digest(graph: Graph) -> str:
    """Twelve digits for the structure of a graph: operators, names and shapes."""
    nodes = [(node.op, node.inputs, node.outputs, *_tiles(node)) for node in graph.nodes]
    sizes = [(port.name, port.shape) for port in (*graph.inputs, *graph.outputs)]
    return sha256(repr((nodes, sizes)).encode()).hexdigest()[:12]


def _tiles(node: Node) -> list[int]:
    """Where windows depend on more than shapes: the side of the tiles that are computed whole."""
    side = node.attrs.get("winograd", 0)
    return [side] if side else []
