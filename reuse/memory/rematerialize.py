"""What may be computed again instead of kept: work for memory.

A tensor that survives only for the sake of its readers (they look at several positions, or where
only another tensor changed) need not: compute again each frame whatever they look at, its halo,
and it can share the arena. What is behind it and lives within the frame too grows its halo with it,
up to the next tensor that is kept. A dropped tensor no longer cuts off, so changes spread further.

How much more work that is depends on the video. It is estimated for one changed rectangle in the
middle of the picture, which cut-offs bring back to its own outline wherever they are.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import ISLAND, Graph, Node
from stillframe.reuse.ir.windows import Span, Window
from stillframe.reuse.memory.arena import lower_bound, place
from stillframe.reuse.memory.buffers import Storage, lay_out
from stillframe.reuse.memory.liveness import JOIN, LIFTED, Forced, Lifetimes, reasons, settle
from stillframe.reuse.memory.mask_implication import reads

Line = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Extent:
    """A rectangle of a tensor: (H,) and (W,) flags."""

    rows: Line
    cols: Line

    @property
    def positions(self) -> int:
        return int(self.rows.sum()) * int(self.cols.sum())

    def __or__(self, other: "Extent") -> "Extent":
        """At least both."""
        if not self.positions or not other.positions:
            return self if self.positions else other
        return Extent(self.rows | other.rows, self.cols | other.cols)


@dataclass(frozen=True, slots=True)
class Drop:
    """A root that need not be kept, in the order of the choice; figures count from the one before.

    tensors: it and its views. bytes_saved: of what is kept and shared together.
    extra_work: multiply-adds a frame, for the rectangle that was assumed.
    """

    name: str
    tensors: frozenset[str]
    bytes_saved: int
    extra_work: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What to drop, cheapest work per byte first, and what that comes to.

    bytes: kept and shared, with all drops; it may still be above the budget. work: multiply-adds a
    frame for the assumed rectangle before any drop.
    """

    drops: tuple[Drop, ...]
    bytes: int
    work: int

    @property
    def recomputed(self) -> frozenset[str]:
        """For `analyse`, whose cut-offs must then be without them."""
        return frozenset[str]().union(*(drop.tensors for drop in self.drops))


def choose_transients(
    graph: Graph,
    budget_bytes: int | None,
    *,
    cutoffs: AbstractSet[str] = frozenset(),
    storage: Storage | None = None,
    exports: AbstractSet[str] = frozenset(),
    active_share: float = 0.1,
) -> Choice:
    """Which persistent tensors to drop until everything fits `budget_bytes`; None: all that can be.

    active_share: of the picture, covered by the assumed rectangle. The rest is as for `analyse`.
    Raises ValueError for a share that is not above 0 and at most 1.
    """
    if not 0 < active_share <= 1:
        raise ValueError(f"the active share must be above 0 and at most 1, got {active_share}")
    storage = lay_out(graph) if storage is None else storage
    forced = reasons(graph, cutoffs, storage=storage, exports=exports)
    seen = [[] if node.op == ISLAND else reads(node, graph) for node in graph.nodes]
    model = _Model(graph, storage, cutoffs, exports, active_share, forced, seen)
    chosen = frozenset[str]()
    start = work = model.work(chosen)
    memory = model.memory(chosen)
    drops: list[Drop] = []
    for group in _greedy(model, budget_bytes):
        chosen |= group.tensors
        less, more = model.memory(chosen), model.work(chosen)
        drops.append(Drop(group.name, group.tensors, memory - less, more - work))
        memory, work = less, more
    lifetimes = model.lifetimes(chosen)
    used = lifetimes.persistent_bytes + place(lifetimes.requests()).size
    return Choice(tuple(drops), used, start)


@dataclass(frozen=True, slots=True)
class _Group:
    """A root with its views, and the bytes that keeping it takes."""

    name: str
    tensors: frozenset[str]
    bytes: int


def _greedy(model: "_Model", budget_bytes: int | None) -> list[_Group]:
    """Groups to drop, least extra work per byte first.

    The first that go into an empty arena save nothing, and a later one may make an earlier one
    needless: so whatever can be taken back without missing the aim is, dearest first.
    """
    chosen = frozenset[str]()
    memory, work = model.memory(chosen), model.work(chosen)
    order: list[tuple[float, _Group]] = []
    queue = [(0.0, group.name, group) for group in model.candidates()]
    heapify(queue)
    while queue and (budget_bytes is None or memory > budget_bytes):
        promised, name, group = heappop(queue)
        trial = chosen | group.tensors
        if not model.foreseeable(trial):
            continue
        less, more = model.memory(trial), model.work(trial)
        price = (more - work) / group.bytes
        if price > promised and queue and price > queue[0][0]:
            heappush(queue, (price, name, group))
            continue
        chosen, memory, work = trial, less, more
        order.append((price, group))
    aim = memory if budget_bytes is None else max(memory, budget_bytes)
    for entry in sorted(order, key=lambda entry: -entry[0]):
        without = chosen - entry[1].tensors
        if model.memory(without) <= aim and model.foreseeable(without):
            chosen = without
            order.remove(entry)
    return [group for _, group in order]


Seen = list[tuple[str, Window | None]]


@dataclass(frozen=True, slots=True)
class _Model:
    """Memory and work of a graph with some tensors recomputed. seen: what each node reads."""

    graph: Graph
    storage: Storage
    cutoffs: AbstractSet[str]
    exports: AbstractSet[str]
    share: float
    forced: Forced
    seen: list[Seen]

    def lifetimes(self, recomputed: AbstractSet[str]) -> Lifetimes:
        held = {
            name: tuple(r for r in each if name not in recomputed or r.kind != "cut-off")
            for name, each in self.forced.reasons.items()
        }
        return settle(
            self.graph,
            Forced(held, self.forced.proofs),
            storage=self.storage,
            exports=self.exports,
            recomputed=recomputed,
        )

    def candidates(self) -> list[_Group]:
        """Persistent roots that only readers keep."""
        lives = self.lifetimes(frozenset()).lives
        sharing: dict[str, set[str]] = {}
        for name, life in lives.items():
            sharing.setdefault(life.root, {life.root}).add(name)
        found = []
        for root, names in sharing.items():
            kinds = {reason.kind for name in names for reason in lives[name].reasons}
            if any(self.graph.shapes[name][:2] == (1, 1) for name in names):
                continue  # a vector: nothing to gain, and all of its readers would wait for it
            if kinds & LIFTED and kinds <= LIFTED | {"cut-off"}:
                found.append(_Group(root, frozenset(names), lives[root].bytes))
        return found

    def memory(self, recomputed: AbstractSet[str]) -> int:
        """Bytes that are kept, and the least that the others need."""
        lifetimes = self.lifetimes(recomputed)
        return lifetimes.persistent_bytes + lower_bound(lifetimes.requests())

    def work(self, recomputed: AbstractSet[str]) -> int:
        """Multiply-adds of a frame in which the assumed rectangle changed."""
        kept = self.lifetimes(recomputed).persistent
        active = self._active(recomputed)
        wanted = dict(active)
        work = 0
        for node, seen in zip(reversed(self.graph.nodes), reversed(self.seen), strict=True):
            if node.op == ISLAND:
                continue
            work += wanted[node.output].positions * work_per_position(node, self.graph, seen)
            beyond = wanted[node.output].positions > active[node.output].positions
            joins = node.op == JOIN and node.output in recomputed
            for name, window in seen:
                if name not in wanted or self.storage.root(name) in kept:
                    continue
                if beyond or joins or name in recomputed:
                    wanted[name] |= looked_at(wanted[node.output], window, self.graph.shapes[name])
        return work

    def _active(self, recomputed: AbstractSet[str]) -> dict[str, Extent]:
        """Where each tensor is computed before anybody asks for more."""
        marks = {port.name: self.outline(port.name) for port in self.graph.inputs}
        active = {}
        for node, seen in zip(self.graph.nodes, self.seen, strict=True):
            for name in node.outputs:
                if node.op == ISLAND:
                    marks[name] = self.outline(name)
                    continue
                found = _nothing(self.graph.shapes[name])
                for source, window in seen:
                    found |= reached(marks[source], window, self.graph.shapes[name])
                active[name] = marks[name] = found
                if name in self.cutoffs and name not in recomputed:
                    outline = self.outline(name)
                    marks[name] = Extent(found.rows & outline.rows, found.cols & outline.cols)
        return active

    def outline(self, name: str) -> Extent:
        """The assumed rectangle as this tensor sees it."""
        shape = self.graph.shapes[name]
        if len(shape) != 3:
            return _nothing((1, 1))
        side = self.share**0.5
        lines = []
        for size in shape[:2]:
            flags = np.zeros(size, bool)
            length = max(round(size * side), 1)
            flags[(size - length) // 2 :][:length] = True
            lines.append(flags)
        return Extent(lines[0], lines[1])

    # --- order ----------------------------------------------------------------------------------
    def foreseeable(self, recomputed: AbstractSet[str]) -> bool:
        """Whether each halo is known before the first instruction that has to compute it: no mask
        that it depends on comes from a comparison, or from an island, that runs later."""
        kept = self.lifetimes(recomputed).persistent
        writers = {n: index for index, node in enumerate(self.graph.nodes) for n in node.outputs}
        readers = self.graph.readers()
        compared = self.cutoffs - recomputed

        def lives_shortly(name: str) -> bool:
            return name in self.forced.reasons and self.storage.root(name) not in kept

        for name in recomputed:
            involved: set[int] = set()
            begin = writers[name]
            front = [name]
            while front:  # what is computed again along with it
                index = writers[front.pop()]
                begin = min(begin, index)
                if index not in involved:
                    involved.add(index)
                    front += [n for n in self.graph.nodes[index].inputs if lives_shortly(n)]
            # Who asks for it. What a reader is asked for itself is the concern of those who ask.
            involved.update(readers.get(name, ()))
            unknown = set[str]()
            for index, node in enumerate(self.graph.nodes[begin:], begin):
                blind = node.op == ISLAND or any(n in unknown for n in node.inputs)
                if index in involved and any(n in unknown for n in node.inputs):
                    return False
                unknown.update(n for n in node.outputs if blind or n in compared)
        return True


def work_per_position(node: Node, graph: Graph, seen: Seen) -> int:
    """Multiply-adds for one output position, roughly where there are no weights."""
    weights = [graph.constants[name] for name in node.inputs if name in graph.constants]
    kernels = [int(value.size) for value in weights if value.ndim == 4]
    if kernels:
        return sum(kernels)
    if node.op == JOIN:
        return 0
    taps = 1
    for _, window in seen[:1]:
        if window is not None:
            taps = int(np.max(window.rows[1] - window.rows[0], initial=1))
            taps *= int(np.max(window.cols[1] - window.cols[0], initial=1))
    return taps * graph.shapes[node.output][2]


def reached(marks: Extent, window: Window | None, shape: tuple[int, ...]) -> Extent:
    """Output positions that read a mark."""
    if not marks.positions:
        return _nothing(shape)
    if window is None:
        return Extent(np.ones(shape[0], bool), np.ones(shape[1], bool))
    return Extent(_reached(marks.rows, window.rows), _reached(marks.cols, window.cols))


def _reached(marks: Line, span: Span) -> Line:
    before = np.concatenate(([0], np.cumsum(marks)))
    found: Line = before[span[1]] > before[span[0]]
    return found


def looked_at(wanted: Extent, window: Window | None, shape: tuple[int, ...]) -> Extent:
    """Input positions that these output positions read."""
    if not wanted.positions:
        return _nothing(shape)
    if window is None:
        return Extent(np.ones(shape[0], bool), np.ones(shape[1], bool))
    return Extent(
        _looked_at(wanted.rows, window.rows, shape[0]),
        _looked_at(wanted.cols, window.cols, shape[1]),
    )


def _looked_at(wanted: Line, span: Span, size: int) -> Line:
    edges = np.zeros(size + 1, np.int64)
    np.add.at(edges, span[0][wanted], 1)
    np.add.at(edges, span[1][wanted], -1)
    found: Line = np.cumsum(edges)[:size] > 0
    return found


def _nothing(shape: tuple[int, ...]) -> Extent:
    return Extent(np.zeros(shape[0], bool), np.zeros(shape[1], bool))
