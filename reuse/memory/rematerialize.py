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

from stillframe.reuse.memory.arena import align
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.liveness import (
    LIFTED,
    LiveRanges,
    Reasons,
    arena_requests,
    live_ranges,
    persistent_roots,
)
from stillframe.reuse.memory.required_regions import Extension, RegionTracer, UnforeseenError
from stillframe.reuse.memory.work_estimate import WorkChange, WorkEstimate

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
    order = _greedy(_Outlook(flow, reasons, cutoffs, active_share), budget_bytes)
    needless = _needless(order, _Footprint(flow, live_ranges(flow, reasons)), budget_bytes)
    while True:
        outlook = _Outlook(flow, reasons, cutoffs, active_share)
        try:
            return _replayed([group for _, group in order if group.name not in needless], outlook)
        except UnforeseenError as error:  # a needless drop has made another one foreseeable
            culprit = flow.root(error.mask)
            needless = needless - {culprit} if culprit in needless else frozenset()


@dataclass(frozen=True, slots=True)
class _Group:
    """A root with its views, and when any of them lives."""

    name: str
    tensors: frozenset[str]
    bytes: int
    first: int
    last: int


class _Footprint:
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

    def drop(self, group: _Group) -> None:
        """Make a persistent group transient."""
        self._move(group, align(group.bytes))

    def keep(self, group: _Group) -> None:
        """The opposite."""
        self._move(group, -align(group.bytes))

    def _move(self, group: _Group, size: int) -> None:
        self._persistent -= size
        self._alive[group.first : group.last + 1] += size


@dataclass(frozen=True, slots=True)
class _Trial:
    """What dropping one more group changes."""

    group: _Group
    regions: Extension
    work: WorkChange


class _Outlook:
    """Memory, required regions and work with some groups dropped."""

    def __init__(
        self, flow: Dataflow, reasons: Reasons, cutoffs: AbstractSet[str], active_share: float
    ) -> None:
        self.ranges = live_ranges(flow, reasons)
        self.footprint = _Footprint(flow, self.ranges)
        self._tracer = RegionTracer(flow, set(persistent_roots(self.ranges)), set(cutoffs))
        self._work = WorkEstimate(self._tracer, active_share)
        self.flow = flow

    @property
    def work(self) -> int:
        return self._work.work

    @property
    def traced(self) -> int:
        return self._tracer.traced

    def candidates(self) -> list[_Group]:
        """Persistent roots that only readers keep. A vector is none: nothing is gained, and all of
        its readers would wait for it."""
        groups = []
        for root, names in self.flow.sharing.items():
            lives = [self.ranges[name] for name in {root: None, **dict.fromkeys(names)}]
            kinds = {reason.kind for life in lives for reason in life.reasons}
            if any(self.flow.is_vector(name) for name in names):
                continue
            if kinds & LIFTED and kinds <= LIFTED | {"cut-off"}:
                first, last = min(life.first for life in lives), max(life.last for life in lives)
                groups.append(_Group(root, frozenset(names), self.ranges[root].bytes, first, last))
        return groups

    def trial(self, group: _Group) -> _Trial:
        """Raises UnforeseenError where the group cannot be dropped."""
        regions = self._tracer.drop(group.tensors)
        return _Trial(group, regions, self._work.after(regions))

    def accept(self, trial: _Trial) -> None:
        self.footprint.drop(trial.group)
        self._tracer.accept(trial.regions)
        self._work.accept(trial.work)


def _greedy(outlook: _Outlook, budget_bytes: int | None) -> list[tuple[float, _Group]]:
    """Groups to drop and their prices, least extra work per byte first.

    A price is out of date once a neighbour was dropped, and can only have risen much; so the
    cheapest is looked at again, and dropped if it still is.
    """
    order: list[tuple[float, _Group]] = []
    queue = [(0.0, group.name, group) for group in outlook.candidates()]
    heapify(queue)
    while queue and (budget_bytes is None or outlook.footprint.bytes > budget_bytes):
        promised, name, group = heappop(queue)
        try:
            trial = outlook.trial(group)
        except UnforeseenError:
            continue
        price = trial.work.extra_work / group.bytes
        if price > promised and queue and price > queue[0][0]:
            heappush(queue, (price, name, group))
            continue
        outlook.accept(trial)
        order.append((price, group))
    return order


def _needless(
    order: Sequence[tuple[float, _Group]], footprint: _Footprint, budget_bytes: int | None
) -> frozenset[str]:
    """Groups that need not be dropped after all, dearest first.

    The first that go into an empty arena save nothing, and a later one may make an earlier one
    needless.
    """
    for _, group in order:
        footprint.drop(group)
    aim = footprint.bytes if budget_bytes is None else max(footprint.bytes, budget_bytes)
    needless = set[str]()
    for _, group in sorted(order, key=lambda entry: -entry[0]):
        footprint.keep(group)
        if footprint.bytes <= aim:
            needless.add(group.name)
        else:
            footprint.drop(group)
    return frozenset(needless)


def _replayed(groups: Sequence[_Group], outlook: _Outlook) -> Choice:
    """These drops one after the other, with their figures. Raises UnforeseenError."""
    drops = []
    start, memory = outlook.work, outlook.footprint.bytes
    for group in groups:
        trial = outlook.trial(group)
        outlook.accept(trial)
        saved, memory = memory - outlook.footprint.bytes, outlook.footprint.bytes
        drops.append(Drop(group.name, group.tensors, saved, trial.work.extra_work))
    return Choice(tuple(drops), memory, start, outlook.traced)
