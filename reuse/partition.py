"""Which parts the engine runs and which parts, the islands, go whole to ONNX Runtime.

Levels make islands few and free of cycles: a node is one level higher than what it reads if it is
of the other kind, so all that can run together shares a level and anything that lies between two
nodes of one kind separates their levels. Then islands swallow the regions that do not pay.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from stillframe.reuse.graph import Node, Shape

CALL_US = 60.0
"""What one call of ONNX Runtime costs beside the work."""
HAND_OVER_US_PER_BYTE = 0.0005
"""Copying a tensor between the two layouts, and comparing it on the way back."""
SAVED = 0.6
"""The share of a region's work that reuse is expected to save; an island saves none."""
MULTIPLY_ADDS_PER_US = 40_000.0
NUMBERS_PER_US = 2_000.0
REASONS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """One node as far as partition cares; reason says why the engine cannot run it, None: it can.

    work_us is its dense time in microseconds, roughly.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str | None
    work_us: float


@dataclass(frozen=True, slots=True)
class Step:
    """Pieces that run one after the other: an island with its reason, or part of a region."""

    pieces: tuple[int, ...]
    reason: str | None


def partition(pieces: Sequence[Piece], sizes: Mapping[str, int]) -> list[Step]:
    """Steps in execution order over all pieces, which come in execution order themselves.

    sizes: bytes of each tensor.
    """
    kept = list(pieces)
    reasons = [piece.reason for piece in pieces]
    while True:
        now = cost_us(kept, sizes)
        tried = []
        for members in components(kept):
            swallowed = list(kept)
            for index in members:
                swallowed[index] = replace(kept[index], reason="")
            tried.append((cost_us(swallowed, sizes), swallowed))
        best = min(tried, key=lambda each: each[0], default=(now, kept))
        if best[0] >= now:
            break
        kept = best[1]
    found = levels(kept)
    steps = []
    for level in sorted(set(found)):
        step = tuple(index for index in range(len(kept)) if found[index] == level)
        island = kept[step[0]].reason is not None
        steps.append(Step(step, joined(reasons[index] for index in step) if island else None))
    return steps


def work_us(node: Node, shapes: Mapping[str, Shape]) -> float:
    """Roughly what a node of the engine costs when all is computed."""
    numbers = prod(shapes[node.output])
    if node.op != "Conv":
        return numbers / NUMBERS_PER_US
    height, width, depth, _ = shapes[node.inputs[1]]
    return numbers * height * width * depth / MULTIPLY_ADDS_PER_US


def joined(reasons: Iterable[str | None]) -> str:
    """The first reason of each operator ("Operator: reason"); swallowed neighbours have none."""
    different: dict[str, str] = {}
    for reason in filter(None, reasons):
        different.setdefault(reason.split(":")[0], reason)
    shown = "; ".join(list(different.values())[:REASONS_SHOWN])
    more = list(different)[REASONS_SHOWN:]
    return f"{shown}; and {', '.join(more)}" if more else shown


def writers(pieces: Sequence[Piece]) -> dict[str, int]:
    return {name: index for index, piece in enumerate(pieces) for name in piece.outputs}


def levels(pieces: Sequence[Piece]) -> list[int]:
    """Even levels for regions, odd ones for islands; islands as late as their readers allow."""
    written = writers(pieces)
    island = [piece.reason is not None for piece in pieces]
    found: list[int] = []
    for index, piece in enumerate(pieces):
        level = int(island[index])
        for name in piece.inputs:
            if name in written:
                before = written[name]
                level = max(level, found[before] + (island[before] != island[index]))
        found.append(level)
    last = max((level for level, each in zip(found, island, strict=True) if each), default=0)
    limit = [last] * len(pieces)
    for index in reversed(range(len(pieces))):
        if island[index]:
            found[index] = max(found[index], limit[index])
        for name in pieces[index].inputs:
            if name in written:
                before = written[name]
                room = found[index] - (island[before] != island[index])
                limit[before] = min(limit[before], room)
    return found


def components(pieces: Sequence[Piece]) -> list[list[int]]:
    """Region pieces of one level that hang together by the tensors they write."""
    written, found = writers(pieces), levels(pieces)
    parent = list(range(len(pieces)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, piece in enumerate(pieces):
        for name in piece.inputs:
            before = written.get(name)
            if before is not None and found[before] == found[index]:
                parent[root(index)] = root(before)
    groups: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        if piece.reason is None:
            groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def cost_us(pieces: Sequence[Piece], sizes: Mapping[str, int]) -> float:
    """Expected time of a frame where reuse works: the work left, hand-overs, and calls."""
    written, found = writers(pieces), levels(pieces)
    crossings = set()
    total = 0.0
    for index, piece in enumerate(pieces):
        island = piece.reason is not None
        total += piece.work_us * (1.0 if island else 1.0 - SAVED)
        for name in piece.inputs:
            before = written.get(name)
            if before is not None and (pieces[before].reason is not None) != island:
                crossings.add((name, found[index] if island else -1))
    total += sum(sizes.get(name, 0) for name, _ in crossings) * HAND_OVER_US_PER_BYTE
    calls = {found[index] for index, piece in enumerate(pieces) if piece.reason is not None}
    return total + CALL_US * len(calls)
