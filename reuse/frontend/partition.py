"""Which nodes the engine runs (regions) and which go to ONNX Runtime as sub-models (islands).

Levels keep islands few and the steps free of cycles: a node is one level above what it reads if it
is of the other kind, so everything that can run together shares a level. Then islands absorb the
parts of regions that do not pay.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from stillframe.reuse.ir.graph import Node, Shape

CALL_US = 60.0
"""Overhead of one call of ONNX Runtime."""
TO_ISLAND_US_PER_BYTE = 0.0001
"""Updating an island's copy of a tensor: only where the region changed it."""
FROM_ISLAND_US_PER_BYTE = 0.0004
"""Detecting what an island changed in its output: every number is compared."""
SAVED = 0.6
"""Share of a region's work that reuse is expected to save; an island saves none."""
MULTIPLY_ADDS_PER_US = 40_000.0
NUMBERS_PER_US = 2_000.0
REASONS_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """One ONNX node, or a group converted as one, as far as partitioning needs to know it."""

    inputs: tuple[str, ...]
    """Tensors that it reads, without constants."""
    outputs: tuple[str, ...]
    reason: str | None
    """Why the engine cannot run it; None if it can."""
    work_us: float
    """Roughly its time in microseconds when everything is computed."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Consecutive pieces that run together: an island, or part of a region."""

    pieces: tuple[int, ...]
    """Indices of the pieces, in execution order."""
    reason: str | None
    """Why this is an island; None for a region."""


def partition(pieces: Sequence[Piece], sizes: Mapping[str, int]) -> list[Partition]:
    """Partitions of all pieces, in execution order.

    pieces: in execution order. sizes: tensor name -> bytes.
    """
    current = list(pieces)
    reasons = [piece.reason for piece in pieces]
    edges = Edges(pieces)
    while absorbed := [
        members
        for members in components(current, edges)
        if gain_us(current, edges, members, sizes) > 0
    ]:
        for index in (index for members in absorbed for index in members):
            current[index] = replace(current[index], reason="")
    level_of = levels(current, edges)
    partitions = []
    for level in sorted(set(level_of)):
        members = tuple(index for index in range(len(current)) if level_of[index] == level)
        island = current[members[0]].reason is not None
        reason = summary(reasons[index] for index in members) if island else None
        partitions.append(Partition(members, reason))
    return partitions


def work_us(node: Node, shapes: Mapping[str, Shape]) -> float:
    """Roughly the time of a graph node when everything is computed."""
    numbers = prod(shapes[node.output])
    if node.op != "Conv":
        return numbers / NUMBERS_PER_US
    height, width, depth, _ = shapes[node.inputs[1]]
    return numbers * height * width * depth / MULTIPLY_ADDS_PER_US


def summary(reasons: Iterable[str | None]) -> str:
    """The first reason of each operator, "Operator: reason"; absorbed pieces have none."""
    by_operator: dict[str, str] = {}
    for reason in filter(None, reasons):
        by_operator.setdefault(reason.split(":")[0], reason)
    shown = "; ".join(list(by_operator.values())[:REASONS_SHOWN])
    more = list(by_operator)[REASONS_SHOWN:]
    return f"{shown}; and {', '.join(more)}" if more else shown


class Edges:
    """The piece that writes each tensor and the pieces that read it, by index."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.writer = {name: index for index, piece in enumerate(pieces) for name in piece.outputs}
        self.readers: dict[str, list[int]] = {}
        for index, piece in enumerate(pieces):
            for name in piece.inputs:
                self.readers.setdefault(name, []).append(index)


def levels(pieces: Sequence[Piece], edges: Edges) -> list[int]:
    """Level of each piece: even for regions, odd for islands, islands as late as possible."""
    writer = edges.writer
    island = [piece.reason is not None for piece in pieces]
    level_of: list[int] = []
    for index, piece in enumerate(pieces):
        level = int(island[index])
        for name in piece.inputs:
            if name in writer:
                source = writer[name]
                level = max(level, level_of[source] + (island[source] != island[index]))
        level_of.append(level)
    last = max((level for level, each in zip(level_of, island, strict=True) if each), default=0)
    latest = [last] * len(pieces)
    for index in reversed(range(len(pieces))):
        if island[index]:
            level_of[index] = max(level_of[index], latest[index])
        for name in pieces[index].inputs:
            if name in writer:
                source = writer[name]
                limit = level_of[index] - (island[source] != island[index])
                latest[source] = min(latest[source], limit)
    return level_of


def components(pieces: Sequence[Piece], edges: Edges) -> list[list[int]]:
    """Connected region pieces of one level (union-find over the tensors between them)."""
    writer, level_of = edges.writer, levels(pieces, edges)
    parent = list(range(len(pieces)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, piece in enumerate(pieces):
        for name in piece.inputs:
            source = writer.get(name)
            if source is not None and level_of[source] == level_of[index]:
                parent[root(index)] = root(source)
    groups: dict[int, list[int]] = {}
    for index, piece in enumerate(pieces):
        if piece.reason is None:
            groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def gain_us(
    pieces: Sequence[Piece], edges: Edges, members: Sequence[int], sizes: Mapping[str, int]
) -> float:
    """Microseconds a frame saves if the neighbouring islands absorb this component of a region.

    Gains the transfers to and from those islands, and one call where two islands become one; loses
    what reuse would save in the component and the transfers to the regions around it.
    """
    inside = set(members)
    gain = -SAVED * sum(pieces[index].work_us for index in members)
    from_islands, to_islands = set(), set()
    for name in {name for index in members for name in pieces[index].inputs}:
        source = edges.writer.get(name)
        if source is None or source in inside:
            continue
        if pieces[source].reason is None:
            gain -= sizes.get(name, 0) * TO_ISLAND_US_PER_BYTE
        else:
            from_islands.add(name)
    for name in (name for index in members for name in pieces[index].outputs):
        outside = [index for index in edges.readers.get(name, ()) if index not in inside]
        if any(pieces[index].reason is not None for index in outside):
            to_islands.add(name)
        if any(pieces[index].reason is None for index in outside):
            gain -= sizes.get(name, 0) * FROM_ISLAND_US_PER_BYTE
    gain += sum(sizes.get(name, 0) for name in from_islands) * FROM_ISLAND_US_PER_BYTE
    gain += sum(sizes.get(name, 0) for name in to_islands) * TO_ISLAND_US_PER_BYTE
    return gain + CALL_US if from_islands and to_islands else gain
