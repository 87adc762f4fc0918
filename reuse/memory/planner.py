"""What a plan keeps from one frame to the next, within a memory budget.

First everything is kept that saves work: whatever a reader looks at beside the new positions, and
every layer that can be compared with what it held. Where that is beyond the budget, what costs
least to compute again is dropped (`halo`), until it fits.
"""

import contextlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256

from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.ir.graph import Graph
from stillframe.reuse.memory.buffers import Storage
from stillframe.reuse.memory.liveness import Lifetimes, analyse, naive_bytes
from stillframe.reuse.memory.rematerialize import choose_transients
from stillframe.reuse.memory.required_regions import Demand, UnforeseenError, demand

COMPARING = frozenset({"Conv", "GlobalPool", "Moments"})  # whose kernels can cut off
BUDGET_SHARE = 0.6
"""Of keeping every activation: the budget of those who name none."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """cutoffs: tensors that are compared with what they hold. recomputed: tensors that readers
    would have had kept."""

    cutoffs: frozenset[str]
    recomputed: frozenset[str]
    lifetimes: Lifetimes
    demand: Demand


def choose_cutoffs(graph: Graph, storage: Storage, exports: AbstractSet[str]) -> frozenset[str]:
    """The tensors that are compared with what they hold: those that are kept in any case.

    Vectors, such as the gates behind a global pool, are always compared: it costs nothing, and a
    changed one makes a whole layer new.
    """
    lives = analyse(graph, frozenset(), storage=storage, exports=exports).lives
    found = set()
    for node in graph.nodes:
        if node.op in COMPARING:
            vector = graph.shapes[node.output][:2] == (1, 1)
            if lives[node.output].persistent or vector:
                found.add(node.output)
    return frozenset(found)


def plan_memory(
    graph: Graph,
    storage: Storage,
    exports: AbstractSet[str],
    budget_bytes: int | None = None,
    notebook: DiskCache | None = None,
) -> MemoryPlan:
    """Keep what saves most within so many bytes of activations, kept and shared together.

    None: BUDGET_SHARE of what keeping every activation takes. Where even the least is more than the
    budget, it is the least that is kept. notebook: where the choice is looked up and noted; with
    any choice, even one made for another network, results are right.
    """
    cutoffs = choose_cutoffs(graph, storage, exports)
    budget = int(BUDGET_SHARE * naive_bytes(graph)) if budget_bytes is None else budget_bytes
    name = f"dropped within {budget} of {digest(graph)}"
    noted = None if notebook is None else notebook.get(name)
    if isinstance(noted, list) and all(isinstance(each, str) for each in noted):
        with contextlib.suppress(ValueError):  # then it was of another network
            return kept(graph, storage, exports, cutoffs, frozenset(noted))
    choice = choose_transients(graph, budget, cutoffs=cutoffs, storage=storage, exports=exports)
    found = kept(graph, storage, exports, cutoffs, frozenset())
    for drops in (choice.drops, *((drop,) for drop in choice.drops)):
        more = found.recomputed.union(*(drop.tensors for drop in drops))
        if more == found.recomputed:
            continue
        try:
            found = kept(graph, storage, exports, cutoffs, more)
        except UnforeseenError:  # then as many of them as there can be, one by one
            continue
    if notebook is not None:
        notebook.add({name: sorted(found.recomputed)})
    return found


def digest(graph: Graph) -> str:
    """Twelve digits for the structure of a graph: operators, names and shapes."""
    told = [(node.op, node.inputs, node.outputs) for node in graph.nodes]
    sizes = [(port.name, port.shape) for port in (*graph.inputs, *graph.outputs)]
    return sha256(repr((told, sizes)).encode()).hexdigest()[:12]


def kept(
    graph: Graph,
    storage: Storage,
    exports: AbstractSet[str],
    cutoffs: AbstractSet[str],
    recomputed: frozenset[str],
) -> MemoryPlan:
    """What follows from dropping these. Raises UnforeseenError where that cannot be, ValueError for
    names that are no activations and for vectors, which `choose_transients` never drops."""
    for name in sorted(recomputed):
        if graph.shapes.get(name, ())[:2] == (1, 1):
            raise ValueError(f"{name!r} is a vector: nothing is gained by dropping it")
    compared = frozenset(cutoffs - recomputed)
    lifetimes = analyse(graph, compared, storage=storage, exports=exports, recomputed=recomputed)
    wanted = demand(graph, storage, lifetimes.persistent, compared, recomputed, exports)
    return MemoryPlan(compared, recomputed, lifetimes, wanted)
