"""Which parts the engine runs and which parts, the islands, go whole to ONNX Runtime.

Levels make islands few and free of cycles: a node is one level higher than what it reads if it is
of the other kind, so all that can run together shares a level and anything that lies between two
nodes of one kind separates their levels. Then islands swallow the regions that do not pay.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from stillframe.reuse.ir.graph import Node, Shape

CALL_US = 60.0
"""What one call of ONNX Runtime costs beside the work."""
HAND_OUT_US_PER_BYTE = 0.0001
"""Bringing an island's copy of a tensor up to date: only where the region changed it."""
HAND_IN_US_PER_BYTE = 0.0004
"""Finding out what an island changed: every number is compared."""
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
class Partition:
    """Pieces that run one after the other: an island with its reason, or part of a region."""

    pieces: tuple[int, ...]
    reason: str | None


def partition(pieces: Sequence[Piece], sizes: Mapping[str, int]) -> list[Partition]:
    """Steps in execution order over all pieces, which come in execution order themselves.

    sizes: bytes of each tensor.
    """
    kept = list(pieces)
    reasons = [piece.reason for piece in pieces]
    wires = Wires(pieces)
    while swallowed := [
        each for each in components(kept, wires) if gain_us(kept, wires, each, sizes) > 0
    ]:
        for index in (index for members in swallowed for index in members):
            kept[index] = replace(kept[index], reason="")
    found = levels(kept, wires)
    steps = []
    for level in sorted(set(found)):
        step = tuple(index for index in range(len(kept)) if found[index] == level)
        island = kept[step[0]].reason is not None
        steps.append(Partition(step, joined(reasons[index] for index in step) if island else None))
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


class Wires:
    """Who writes and who reads each tensor: piece numbers."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.writer = {name: index for index, piece in enumerate(pieces) for name in piece.outputs}
        self.readers: dict[str, list[int]] = {}
        for index, piece in enumerate(pieces):
            for name in piece.inputs:
                self.readers.setdefault(name, []).append(index)


def levels(pieces: Sequence[Piece], wires: Wires) -> list[int]:
    """Even levels for regions, odd ones for islands; islands as late as their readers allow."""
    written = wires.writer
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


def components(pieces: Sequence[Piece], wires: Wires) -> list[list[int]]:
    """Region pieces of one level that hang together by the tensors they write."""
    written, found = wires.writer, levels(pieces, wires)
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


def gain_us(
    pieces: Sequence[Piece], wires: Wires, members: Sequence[int], sizes: Mapping[str, int]
) -> float:
    """What a frame gains, where reuse works, if islands swallow this component of a region.

    Hand-overs and perhaps a call fall away; reuse saves nothing in it any more.
    """
    inside = set(members)
    gain = -SAVED * sum(pieces[index].work_us for index in members)
    from_islands, to_islands = set(), set()
    for name in {name for index in members for name in pieces[index].inputs}:
        before = wires.writer.get(name)
        if before is None or before in inside:
            continue
        if pieces[before].reason is None:
            gain -= sizes.get(name, 0) * HAND_OUT_US_PER_BYTE
        else:
            from_islands.add(name)
    for name in (name for index in members for name in pieces[index].outputs):
        outside = [index for index in wires.readers.get(name, ()) if index not in inside]
        if any(pieces[index].reason is not None for index in outside):
            to_islands.add(name)
        if any(pieces[index].reason is None for index in outside):
            gain -= sizes.get(name, 0) * HAND_IN_US_PER_BYTE
    gain += sum(sizes.get(name, 0) for name in from_islands) * HAND_IN_US_PER_BYTE
    gain += sum(sizes.get(name, 0) for name in to_islands) * HAND_OUT_US_PER_BYTE
    return gain + CALL_US if from_islands and to_islands else gain
