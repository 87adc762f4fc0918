"""Offsets for the tensors that share one arena: no two that are alive at once may overlap.

Three steps, each taken only where the ones before miss the lower bound (the largest sum of bytes
alive at one instruction, which no placement can go below):

1. best fit, largest first, as TFLite and XNNPACK do;
2. lowest fit in a few other orders;
3. a search: branch and bound over canonical placements, then local search over orders.

The search counts its steps and never looks at the clock, so the answer depends on nothing but the
requests. Inside, sizes and offsets are counted in units of the alignment.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes: a cache line
SEARCH_LIMIT = 1000  # steps of branch and bound, each about 50 µs
FEW = 200  # tensors up to which branch and bound is tried at all
EXACT_SHARE = 0.75  # of the limit for branch and bound, the rest for local search
PAIRS_PER_STEP = 200  # neighbours that `_fit` looks at in the time of one such step

Offsets = list[int]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ArenaRequest:
    """A tensor of `size` bytes, alive from instruction `first` to `last`, both included."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ArenaLayout:
    """Byte offsets by name, the bytes of the whole arena, and the least that any arena needs."""

    offsets: dict[str, int]
    size: int
    lower_bound: int


def align(size: int, unit: int = ALIGNMENT) -> int:
    """Rounded up to a whole number of units."""
    return -(-size // unit) * unit


def place(
    requests: Iterable[ArenaRequest],
    *,
    alignment: int = ALIGNMENT,
    search_limit: int = SEARCH_LIMIT,
) -> ArenaLayout:
    """An offset, a multiple of `alignment`, for every request.

    Each takes its size rounded up to the alignment. `search_limit` bounds the search, in steps of
    branch and bound; 0 is best fit alone. The arena is never larger than best fit's. Raises
    ValueError for a negative size, a life that ends before it begins, a name that is given twice
    and an alignment below 1.
    """
    requests = tuple(requests)
    _check(requests, alignment)
    offsets = {request.name: 0 for request in requests}
    solid = [request for request in requests if request.size > 0]
    problem = _problem(solid, alignment)
    best = _fit(problem, problem.by(lambda item: -problem.sizes[item]), tightest=True)
    if search_limit > 0:
        best = _improve(problem, best, search_limit)
    for request, at in zip(solid, best, strict=True):
        offsets[request.name] = at * alignment
    return ArenaLayout(offsets, problem.top(best) * alignment, problem.bound * alignment)


def lower_bound(requests: Iterable[ArenaRequest], *, alignment: int = ALIGNMENT) -> int:
    """The largest sum of bytes alive at one instruction, as in a placement of these requests."""
    grows: dict[int, int] = {}
    for request in requests:
        size = align(request.size, alignment)
        grows[request.first] = grows.get(request.first, 0) + size
        grows[request.last + 1] = grows.get(request.last + 1, 0) - size
    return max(accumulate(grows[instruction] for instruction in sorted(grows)), default=0)


def _check(requests: Sequence[ArenaRequest], alignment: int) -> None:
    if alignment < 1:
        raise ValueError(f"the alignment must be at least 1 byte, got {alignment}")
    seen = set[str]()
    for request in requests:
        if request.name in seen:
            raise ValueError(f"tensor {request.name!r} is requested twice")
        if request.size < 0:
            raise ValueError(f"tensor {request.name!r} has a negative size: {request.size} bytes")
        if request.last < request.first:
            raise ValueError(
                f"tensor {request.name!r} ends at instruction {request.last}, "
                f"before it begins at {request.first}"
            )
        seen.add(request.name)


@dataclass(frozen=True, slots=True)
class _Problem:
    """Items 0..n-1: sizes in units, lives, who meets whom in time, and the crowds.

    A crowd is a largest set of items alive together; crowds (number of them, n) says who is in it.
    """

    sizes: list[int]
    lives: list[tuple[int, int]]
    neighbours: list[list[int]]
    crowds: Flags
    bound: int

    def top(self, offsets: Offsets) -> int:
        """Where the last unit ends."""
        return max((at + size for at, size in zip(offsets, self.sizes, strict=True)), default=0)

    def by(self, key: Callable[[int], Any]) -> list[int]:
        """All items, least key first; ties go to the earlier and then the shorter life."""
        return sorted(range(len(self.sizes)), key=lambda item: (key(item), self.lives[item]))


def _problem(requests: Sequence[ArenaRequest], unit: int) -> _Problem:
    lives = [(request.first, request.last) for request in requests]
    sizes = [-(-request.size // unit) for request in requests]
    items = range(len(requests))
    neighbours: list[list[int]] = [
        [
            other
            for other in items
            if other != item and lives[other][0] <= last and first <= lives[other][1]
        ]
        for item, (first, last) in enumerate(lives)
    ]
    alive = [
        frozenset(item for item in items if lives[item][0] <= start <= lives[item][1])
        for start in sorted({first for first, _ in lives})
    ]
    # a crowd that some later one contains is contained in the next one already
    largest = [crowd for crowd, after in pairwise(alive) if not crowd < after] + alive[-1:]
    crowds = np.array([[item in crowd for item in items] for crowd in largest], bool)
    crowds = crowds.reshape(len(largest), len(requests))
    bound = lower_bound(requests, alignment=unit) // unit
    return _Problem(sizes, lives, neighbours, crowds, bound)


def _fit(
    problem: _Problem, order: Iterable[int], *, tightest: bool = False, below: int | None = None
) -> Offsets:
    """Put items down in `order`, each into the lowest gap that takes it, or the tightest.

    Gives up and returns an empty list where an item would reach `below`.
    """
    sizes = problem.sizes
    offsets = [-1] * len(sizes)
    for item in order:
        size = sizes[item]
        taken = sorted(
            (offsets[other], sizes[other])
            for other in problem.neighbours[item]
            if offsets[other] >= 0
        )
        end, best, spare = 0, -1, -1
        for start, length in taken:
            left = start - end - size
            if left >= 0 and (best < 0 or left < spare):
                best, spare = end, left
                if not tightest:
                    break
            end = max(end, start + length)
        offsets[item] = best if best >= 0 else end
        if below is not None and offsets[item] + size >= below:
            return []
    return offsets


def _improve(problem: _Problem, best: Offsets, limit: int) -> Offsets:
    """The best placement of all three steps, stopping at the lower bound."""
    sizes, lives, neighbours = problem.sizes, problem.lives, problem.neighbours
    orders = [
        problem.by(lambda item: -sizes[item] * (lives[item][1] - lives[item][0] + 1)),
        problem.by(lambda item: lives[item][0] - lives[item][1]),
        problem.by(lambda item: lives[item][0]),
        problem.by(lambda item: -sum(sizes[other] for other in neighbours[item])),
        problem.by(lambda item: -sizes[item]),
        problem.by(lambda item: -len(neighbours[item])),
    ]
    for order in orders:
        if problem.top(best) > problem.bound:
            best = min(best, _fit(problem, order), key=problem.top)
    exact = int(limit * EXACT_SHARE) if len(sizes) <= FEW else 0
    best, used = _branch_and_bound(problem, best, orders[:3], exact)
    return _local_search(problem, best, (limit - used) * PAIRS_PER_STEP)


def _branch_and_bound(
    problem: _Problem, best: Offsets, orders: Sequence[list[int]], limit: int
) -> tuple[Offsets, int]:
    """Try to pack into the lower bound, then into sizes half-way up; also returns the steps used.

    One bad early choice can use up any limit, so every size is tried in each of the orders.
    """
    low, used = problem.bound, 0
    capacity = low
    while low < problem.top(best):
        packed: Offsets | None = None
        for order in orders:
            share = min(max(limit // 4, 2 * len(order)), limit - used)
            if share <= 0:
                return best, used
            packed, steps, finished = _pack(problem, order, capacity, share)
            used += steps
            if finished:
                break
        if packed:
            best = packed
        else:
            low = capacity + 1  # proven not to fit, or given up
        capacity = (low + problem.top(best) - 1) // 2
    return best, used


def _pack(
    problem: _Problem, order: list[int], capacity: int, limit: int
) -> tuple[Offsets | None, int, bool]:
    """A placement within `capacity` or None, the steps it took, and whether that is certain.

    The search of MiniMalloc (Moffitt, ASPLOS 2023). Any placement can be settled: let every item
    drop until it rests on another, then list the items from the lowest up. So only such lists are
    tried: each next item rests on those before it, no lower than the last. A list is dropped as
    soon as a crowd has more still to come than there is room above its lowest free place, or an
    item still to come could slide under the new one (then it was not settled).
    """
    sizes = np.array(problem.sizes, np.int64)[order]
    crowds = problem.crowds[:, order]
    meets = crowds.T.astype(np.float32) @ crowds.astype(np.float32) > 0
    never = np.int64(2**62)

    count = len(order)
    trail = [(0, 0)] * count
    nothing = np.zeros(count, np.int64)
    # a pending step: (rests, free, to come of each crowd) before it, its item, how many came before
    stack: list[tuple[Numbers, Flags, Numbers, int, int]] = []
    rests, free, coming = nothing, np.ones(count, bool), crowds @ sizes
    item, level, done, steps = -1, 0, 0, 0
    while True:
        steps += 1
        ceiling = np.where(free, rests + sizes, never).min()
        lowest = np.where(crowds & free, np.maximum(rests, level), never).min(axis=1)
        if ceiling > level and not ((lowest + coming > capacity) & (coming > 0)).any():
            later = (rests > level) | ((rests == level) & (np.arange(count) > item))
            able = np.flatnonzero(free & later & (rests < ceiling))
            for choice in able[np.argsort(rests[able], kind="stable")][::-1]:
                stack.append((rests, free, coming, int(choice), done))
        if not stack:
            return None, steps, True
        if steps >= limit:
            return None, steps, False
        rests, free, coming, item, done = stack.pop()
        level = int(rests[item])
        trail[done] = (order[item], level)
        done += 1
        if done == count:
            offsets = [0] * count
            for original, at in trail:
                offsets[original] = at
            return offsets, steps, True
        free = free.copy()
        free[item] = False
        coming = coming - sizes[item] * crowds[:, item]
        rests = np.where(meets[item], np.maximum(rests, level + sizes[item]), rests)


def _local_search(problem: _Problem, best: Offsets, pairs: int) -> Offsets:
    """Lowest fit over orders that change a little at a time, always about an item at the top."""
    draw = random.Random(len(problem.sizes))
    order = problem.by(lambda item: best[item])
    height = problem.top(best)
    cost = sum(map(len, problem.neighbours))
    while height > problem.bound and (pairs := pairs - cost) >= 0:
        trial = list(order)
        highest = draw.choice(
            [item for item in order if best[item] + problem.sizes[item] == height]
        )
        if draw.random() < 0.5:  # earlier
            index = trial.index(highest)
            trial.insert(draw.randrange(index + 1), trial.pop(index))
        else:  # swap something in its way with anything
            one = trial.index(draw.choice([highest, *problem.neighbours[highest]]))
            two = draw.randrange(len(trial))
            trial[one], trial[two] = trial[two], trial[one]
        offsets = _fit(problem, trial, below=height + 1)
        if offsets:
            best, order, height = offsets, trial, problem.top(offsets)
    return best
