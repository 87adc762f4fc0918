"""Choosing what to compute again instead of keeping it: work for memory.

This is rematerialisation, as of values in a compiler that runs out of registers (Briggs, Cooper and
Torczon, PLDI 1992) or of activations in training (Chen et al. 2016), by a greedy rule: least extra
work per byte first. A tensor that persists only for the sake of its readers (they look at several
positions, or where only another tensor changed) need not: whatever they look at can be computed
again each frame, and the tensor shares the arena. A tensor that is dropped no longer cuts off, so
changes spread further.

What must be computed after a drop is asked of `required_regions`. How much work that is depends on
the video. It is counted for one changed rectangle in the middle of the picture, which cut-offs
bring back to its own outline wherever they are.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from stillframe.reuse.memory.arena import ArenaRequest, align
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.liveness import (
    LIFTED,
    LiveRange,
    LiveRanges,
    Reasons,
    arena_requests,
    live_ranges,
    persistent_roots,
    root_requests,
)
from stillframe.reuse.memory.required_regions import RegionTracer, UnforeseenError
from stillframe.reuse.memory.work_estimate import WorkEstimate

ACTIVE_SHARE = 0.1
"""Of the picture, covered by the assumed rectangle."""


@dataclass(frozen=True, slots=True)
class Drop:
    """A root that need not persist; figures count from the drops before it."""

    name: str
    tensors: frozenset[str]
    """It and its views."""
    bytes_saved: int
    """Of persistent and transient tensors together."""
    extra_work: int
    """Multiply-adds a frame, for the assumed rectangle."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to drop, cheapest work per byte first, and what that comes to."""

    drops: tuple[Drop, ...]
    bytes: int
    """Persistent tensors and the least that the others need; may still be above the budget."""
    work: int
    """Multiply-adds a frame for the assumed rectangle, before any drop."""
    traced: int
    """How many regions were traced to find it."""

    @property
    def recomputed(self) -> frozenset[str]:
        return frozenset[str]().union(*(drop.tensors for drop in self.drops))


def choose_recomputed(
    flow: Dataflow,
    reasons: Reasons,
    cutoffs: AbstractSet[str],
    budget_bytes: int | None,
    *,
    active_share: float = ACTIVE_SHARE,
) -> Choice:
    """Which persistent tensors to drop until everything fits the budget; None: all that can be.

    reasons: those of `reasons_to_persist` with these cut-offs. Raises ValueError for a share that
    is not above 0 and at most 1.
    """
    if not 0 < active_share <= 1:
        raise ValueError(f"the active share must be above 0 and at most 1, got {active_share}")
    ranges = live_ranges(flow, reasons)
    tracer = RegionTracer(flow, persistent_roots(ranges), frozenset(cutoffs))
    start = WorkEstimate.of(tracer, active_share)
    order = _greedy(flow, start, ranges, budget_bytes)
    needless = _needless(order, Footprint(flow, ranges), budget_bytes)
    while True:
        roots = [root for _, root in order if root.name not in needless]
        try:
            return _in_figures(roots, start, Footprint(flow, ranges))
        except UnforeseenError as error:  # a needless drop has made another one foreseeable
            culprit = flow.root(error.mask)
            needless = needless - {culprit} if culprit in needless else frozenset()


class Footprint:
    """Bytes of persistent tensors, and of transients at each instruction."""

    def __init__(self, flow: Dataflow, ranges: LiveRanges) -> None:
        self._persistent = sum(align(ranges[name].bytes) for name in persistent_roots(ranges))
        self._alive = np.zeros(len(flow.graph.nodes) + 1, np.int64)
        for request in arena_requests(ranges):
            self._alive[request.first : request.last + 1] += align(request.size)

    @property
    def bytes(self) -> int:
        """Persistent tensors, and the least that any arena of the others needs."""
        return self._persistent + int(self._alive.max())

    def drop(self, root: ArenaRequest) -> None:
        """Make a persistent root transient."""
        self._move(root, align(root.size))

    def keep(self, root: ArenaRequest) -> None:
        """The opposite."""
        self._move(root, -align(root.size))

    def _move(self, root: ArenaRequest, size: int) -> None:
        self._persistent -= size
        self._alive[root.first : root.last + 1] += size


def candidates(flow: Dataflow, ranges: LiveRanges) -> list[ArenaRequest]:
    """Persistent roots that only readers keep, as they would be requested of the arena. A vector is
    none: nothing is gained by dropping it, and all of its readers would wait for it."""
    return [
        request
        for request in root_requests(ranges)
        if _only_for_readers([ranges[name] for name in flow.sharing[request.name]])
        and not any(flow.is_vector(name) for name in flow.sharing[request.name])
    ]


def _only_for_readers(lives: Sequence[LiveRange]) -> bool:
    kinds = {reason.kind for life in lives for reason in life.reasons}
    return bool(kinds & LIFTED) and kinds <= LIFTED | {"cut-off"}


def _greedy(
    flow: Dataflow, estimate: WorkEstimate, ranges: LiveRanges, budget_bytes: int | None
) -> list[tuple[float, ArenaRequest]]:
    """Roots to drop and their prices, least extra work per byte first.

    A price may have risen since it was worked out, for a neighbour was dropped; so the cheapest is
    looked at again, and dropped if it still is the cheapest.
    """
    footprint = Footprint(flow, ranges)
    order: list[tuple[float, ArenaRequest]] = []
    queue = [(0.0, root.name, root) for root in candidates(flow, ranges)]
    heapify(queue)
    while queue and (budget_bytes is None or footprint.bytes > budget_bytes):
        promised, name, root = heappop(queue)
        try:
            trial = estimate.drop(frozenset(flow.sharing[name]))
        except UnforeseenError:
            continue
        price = (trial.work - estimate.work) / root.size
        if price > promised and queue and price > queue[0][0]:
            heappush(queue, (price, name, root))
            continue
        estimate = trial
        footprint.drop(root)
        order.append((price, root))
    return order


def _needless(
    order: Sequence[tuple[float, ArenaRequest]], footprint: Footprint, budget_bytes: int | None
) -> frozenset[str]:
    """Roots that need not be dropped after all, dearest first.

    The first that go into an empty arena save nothing, and a later one may make an earlier one
    needless.
    """
    for _, root in order:
        footprint.drop(root)
    aim = footprint.bytes if budget_bytes is None else max(footprint.bytes, budget_bytes)
    needless = set[str]()
    for _, root in sorted(order, key=lambda entry: -entry[0]):
        footprint.keep(root)
        if footprint.bytes <= aim:
            needless.add(root.name)
        else:
            footprint.drop(root)
    return frozenset(needless)


def _in_figures(
    roots: Sequence[ArenaRequest], estimate: WorkEstimate, footprint: Footprint
) -> Choice:
    """These drops one after the other. Raises UnforeseenError."""
    drops = []
    start = estimate.work
    for root in roots:
        work, memory = estimate.work, footprint.bytes
        tensors = frozenset(estimate.tracer.flow.sharing[root.name])
        estimate = estimate.drop(tensors)
        footprint.drop(root)
        drops.append(Drop(root.name, tensors, memory - footprint.bytes, estimate.work - work))
    return Choice(tuple(drops), footprint.bytes, start, estimate.tracer.traced)
