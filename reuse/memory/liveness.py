"""Which activations the next frame still needs, and how long the others live.

A position that is not active keeps what it holds. So a tensor must survive to the next frame, it is
persistent, if some reader may look at a position that was not written this frame:

- a reader that looks at several positions, only some of which are new;
- a reader of several tensors, where only another one changed, unless the marks of this one are sure
  to cover those of the others (`dominance`);
- a reader of the whole: pooling over the picture, an island, the caller;
- a cut-off, which compares with what it stored before.

Everything else is transient: its bytes are free after its last reader. Views live in the bytes of
another tensor, their root; if one of them is persistent all are.

Instructions are the indices of the graph's nodes.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import prod

from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.ir.windows import Window
from stillframe.reuse.memory.arena import ALIGNMENT, ArenaRequest
from stillframe.reuse.memory.buffers import NO_RING, Storage, lay_out, region_tensors
from stillframe.reuse.memory.mask_implication import Masks, meet, reads, single

JOIN = "Concat"  # the operator that writes its output part by part
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a tensor must survive: a kind of KINDS, the node that forces it, and both in words."""

    kind: str
    reader: int | None
    words: str


KINDS = {
    "input": "the picture that the caches stand for",
    "output": "callers get all of it",
    "island": "it arrives whole and is compared with the last one",
    "cut-off": "it is compared with what it stored before",
    "ring": "the zeros around it must stay",
    "window": "a reader looks at several positions",
    "others": "a reader looks where only another tensor changed",
    "whole": "a reader looks at all of it",
}


@dataclass(frozen=True, slots=True)
class LiveRange:
    """One activation.

    root: the tensor in whose bytes it lies, itself if it is no view. bytes: of a root with its
    ring, 0 of a view. why: in words, also for a transient. first: the instruction that writes it,
    -1 for a graph input. last: the last one that reads it. last_reader: in words, "" if nothing
    does. persistent, and reasons only its own: a view may have none.
    """

    name: str
    root: str
    bytes: int
    persistent: bool
    why: str
    reasons: tuple[Reason, ...]
    first: int
    last: int
    last_reader: str


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """The lives of all activations of the regions, by name, in the order in which they begin.

    relied_on: tensors that must not be cut off, else some transient would have to be kept.
    """

    lives: Mapping[str, LiveRange]
    relied_on: frozenset[str]

    @property
    def persistent(self) -> frozenset[str]:
        """Roots that survive."""
        return frozenset(n for n, life in self.lives.items() if life.root == n and life.persistent)

    @property
    def persistent_bytes(self) -> int:
        """Of all persistent roots side by side, each rounded up to the arena's alignment."""
        sizes = (self.lives[name].bytes for name in self.persistent)
        return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)

    def requests(self) -> tuple[ArenaRequest, ...]:
        """What the arena must hold: transient roots, alive while any of their views is."""
        spans: dict[str, tuple[int, int]] = {}
        for life in self.lives.values():
            if not life.persistent:
                first, last = spans.get(life.root, (life.first, life.last))
                spans[life.root] = min(first, life.first), max(last, life.last)
        return tuple(ArenaRequest(n, self.lives[n].bytes, *span) for n, span in spans.items())

    def __str__(self) -> str:
        kept, shared = self.persistent, self.requests()
        return (
            f"{len(kept)} persistent tensors, {self.persistent_bytes / 1e6:.1f} MB; {len(shared)} "
            f"transient, {sum(request.size for request in shared) / 1e6:.1f} MB"
        )


def analyse(
    graph: Graph,
    cutoffs: AbstractSet[str],
    *,
    storage: Storage | None = None,
    exports: AbstractSet[str] = frozenset(),
    recomputed: AbstractSet[str] = frozenset(),
) -> Lifetimes:
    """The lives of a partitioned graph's activations.

    cutoffs: the tensors that are compared with what they hold; every other operator must mark all
    that was active. storage: views and rings, by default those of `lay_out`. exports: graph outputs
    and inputs of islands whose changes are copied out right behind their writer, so that nobody
    else looks at all of them. recomputed: tensors that need not survive on behalf of their readers,
    because whatever a reader looks at is computed again each frame, between zeros that are written
    again too (`halo`).

    Raises ValueError for names that are no activations, and for cut-offs without values of their
    own or that are recomputed.
    """
    storage = lay_out(graph) if storage is None else storage
    _check(set(region_tensors(graph)), storage, cutoffs, exports, recomputed)
    forced = reasons(graph, cutoffs, storage=storage, exports=exports)
    return settle(graph, forced, storage=storage, exports=exports, recomputed=recomputed)


def settle(
    graph: Graph,
    forced: "Forced",
    *,
    storage: Storage,
    exports: AbstractSet[str],
    recomputed: AbstractSet[str],
) -> Lifetimes:
    """The lives that follow from reasons; as `analyse`, which finds those first."""
    names = region_tensors(graph)
    held = {
        name: tuple(
            r for r in forced.reasons[name] if name not in recomputed or r.kind not in LIFTED
        )
        for name in names
    }
    roots = {name: storage.root(name) for name in names}
    sharing: dict[str, list[str]] = {}
    for name in names:
        sharing.setdefault(roots[name], []).append(name)
    writers = {name: index for index, node in enumerate(graph.nodes) for name in node.outputs}
    readers = graph.readers()
    lives: dict[str, LiveRange] = {}
    for name in sorted(names, key=lambda name: writers.get(name, -1)):
        first = writers.get(name, -1)
        seen = [
            index
            for index in readers.get(name, ())
            if graph.nodes[index].op != ISLAND or name not in exports
        ]
        root = roots[name]
        lives[name] = LiveRange(
            name,
            root,
            _bytes(graph, storage, name) if root == name else 0,
            any(held[other] for other in sharing[root]),
            _why(held, name, sharing[root]),
            held[name],
            first,
            max([first, *seen]),
            described(graph, seen[-1]) if seen else "",
        )
    used = [forced.proofs[name] for name in names if not lives[name].persistent]
    return Lifetimes(lives, frozenset[str]().union(*used))


def free_cutoffs(
    graph: Graph,
    able: AbstractSet[str],
    *,
    storage: Storage | None = None,
    exports: AbstractSet[str] = frozenset(),
) -> frozenset[str]:
    """Those of `able`, the tensors that could cut off, that can do so without costing memory: they
    survive anyway, and no transient relies on their marks."""
    lifetimes = analyse(graph, frozenset(), storage=storage, exports=exports)
    kept = {name for name, life in lifetimes.lives.items() if life.persistent}
    return frozenset((able & kept) - lifetimes.relied_on)


LIFTED = frozenset({"window", "others", "ring"})
"""Reasons that fall away if what a reader looks at is computed again, and the ring is cleared."""


def _check(
    known: AbstractSet[str],
    storage: Storage,
    cutoffs: AbstractSet[str],
    exports: AbstractSet[str],
    recomputed: AbstractSet[str],
) -> None:
    for what, group in (("cut-off", cutoffs), ("export", exports), ("recomputed", recomputed)):
        for name in sorted(group - known):
            raise ValueError(f"{what} {name!r} is no activation of the graph's regions")
    for name in sorted(cutoffs & recomputed):
        raise ValueError(f"cut-off {name!r} is recomputed: nothing is stored to compare with")
    for name in sorted(cutoffs):
        view = storage.views.get(name)
        if view is not None and not view.own_mask:
            raise ValueError(
                f"cut-off {name!r} is a slice of {view.parent!r} and has no values of its own"
            )


@dataclass(frozen=True, slots=True)
class Forced:
    """By activation: all that forces it to survive; and what must not be cut off, or there would be
    more."""

    reasons: Mapping[str, tuple[Reason, ...]]
    proofs: Mapping[str, frozenset[str]]


def reasons(
    graph: Graph,
    cutoffs: AbstractSet[str],
    *,
    storage: Storage,
    exports: AbstractSet[str] = frozenset(),
) -> Forced:
    masks = Masks(graph, cutoffs)
    names = region_tensors(graph)
    found: dict[str, list[Reason]] = {name: [] for name in names}
    proofs = dict.fromkeys(names, frozenset[str]())

    def force(name: str, kind: str, words: str = "", reader: int | None = None) -> None:
        if name in found:
            found[name].append(Reason(kind, reader, words or KINDS[kind]))

    for port in graph.inputs:
        force(port.name, "input")
    for port in graph.outputs:
        if port.name not in exports:
            force(port.name, "output")
    for index, node in enumerate(graph.nodes):
        where = described(graph, index)
        if node.op == ISLAND:
            for name in node.outputs:
                force(name, "island")
            for name in dict.fromkeys(node.inputs):
                if name not in exports:
                    force(name, "whole", f"{where} looks at all of it", index)
            continue
        seen = reads(node, graph)
        for position, (name, window) in enumerate(seen):
            if window is None:
                force(name, "whole", f"{where} looks at all of it", index)
            elif not single(window):
                words = f"{where} looks at {_extent(window)} positions at once"
                force(name, "window", words, index)
            else:
                bare, proof = _bare(masks, seen, position, window)
                looked_at = node.output if node.op == JOIN else name
                proofs[looked_at] |= proof
                if bare and node.op == JOIN:
                    words = f"{where} joins {name!r} and {bare!r}, which can change apart"
                    force(node.output, "others", words, index)
                elif bare:
                    force(name, "others", f"{where} looks where only {bare!r} changed", index)
    for name in cutoffs:
        force(name, "cut-off")
    for name, ring in storage.rings.items():
        if ring != NO_RING:
            force(name, "ring")
    return Forced({name: tuple(each) for name, each in found.items()}, proofs)


Seen = list[tuple[str, Window | None]]


def _bare(masks: Masks, seen: Seen, position: int, window: Window) -> tuple[str, frozenset[str]]:
    """The first other input whose marks can make a reader look at unmarked positions of this one,
    or "" and what must not be cut off for that."""
    name = seen[position][0]
    relied_on = frozenset[str]()
    for index, (other, theirs) in enumerate(seen):
        if index == position or (theirs is not None and not meet(window, theirs)):
            continue
        proof = None if theirs is None else masks.follows(name, window, other, theirs)
        if proof is None:
            return other, frozenset()
        relied_on |= proof
    return "", relied_on


def described(graph: Graph, index: int) -> str:
    node = graph.nodes[index]
    return f"node {index} {node.op} -> {', '.join(map(repr, node.outputs))}"


def _extent(window: Window) -> str:
    rows, cols = (int((high - low).max()) for low, high in (window.rows, window.cols))
    return f"{rows}x{cols}"


def _why(forced: Mapping[str, tuple[Reason, ...]], name: str, sharing: Collection[str]) -> str:
    """Of a tensor and those that share its bytes; a ring is told last, it has a cause itself."""
    ranked = sorted(
        (reason.kind == "ring", other != name, other, reason.words)
        for other in sharing
        for reason in forced[other][:1]
    )
    if not ranked:
        return "every reader looks only at positions that were written this frame"
    _, shared, other, words = ranked[0]
    return f"it shares the bytes of {other!r}: {words}" if shared else words


def _bytes(graph: Graph, storage: Storage, root: str) -> int:
    """(H + ring) x (W + ring) x C floats."""
    height, width, channels = graph.shapes[root]
    top, left, bottom, right = storage.ring(root)
    return (top + height + bottom) * (left + width + right) * channels * FLOAT_BYTES


def naive_bytes(graph: Graph) -> int:
    """What keeping the output of every operator of the regions would take."""
    return sum(
        prod(graph.shapes[node.output]) * FLOAT_BYTES for node in graph.nodes if node.op != ISLAND
    )
