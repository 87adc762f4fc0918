"""Frames of a video through a planned graph, without numbers: who may read which position.

A tensor's floats hold tokens: of the tensor that was written there and, for a transient, of the
frame. Transients lie in one arena where `place` put them, so a token is lost when another tensor
takes the place. Whoever reads a position with a wrong token reads rubbish.

What an operator reads is defined here a second time, operator by operator, independently of `ops`.
"""

import random
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import ISLAND, Graph, Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.memory.arena import place
from stillframe.reuse.memory.buffers import Storage
from stillframe.reuse.memory.liveness import LiveRanges, arena_requests, persistent_roots

Flags = NDArray[np.bool_]
Position = tuple[int, int]


def looked_at(graph: Graph, node: Node, number: int, y: int, x: int) -> Iterator[Position]:
    """Positions of input `number` that go into the output's position (y, x), padding included."""
    attrs = node.attrs
    height, width, _ = graph.shapes[node.inputs[number]]
    if node.op in ("Conv", "MaxPool", "AveragePool") and number == 0:
        kernel = attrs["kernel"] if node.op != "Conv" else graph.shapes[node.inputs[1]][:2]
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                yield (
                    y * attrs["stride"][0] - attrs["pad"][0] + i * attrs["dilation"][0],
                    x * attrs["stride"][1] - attrs["pad"][1] + j * attrs["dilation"][1],
                )
    elif node.op in ("GlobalPool", "Moments", ISLAND):
        for row in range(height):
            for column in range(width):
                yield row, column
    elif node.op == "Concat":
        if attrs["axis"] == 2:
            yield y, x
        else:
            before = sum(graph.shapes[name][attrs["axis"]] for name in node.inputs[:number])
            yield (y - before, x) if attrs["axis"] == 0 else (y, x - before)
    elif node.op == "Slice":
        (top, left, _), (down, right, _) = attrs["start"], attrs["step"]
        yield top + y * down, left + x * right
    elif node.op == "Pad":
        row, column = y - attrs["pad"][0], x - attrs["pad"][1]
        if attrs["mode"] == "edge":
            row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
        if attrs["mode"] == "reflect":
            row, column = abs(row), abs(column)
            row = 2 * (height - 1) - row if row >= height else row
            column = 2 * (width - 1) - column if column >= width else column
        yield row, column
    elif node.op == "Resize":
        rows, columns = attrs["rows"], attrs["cols"]
        for row in {int(rows[0][y]), int(rows[1][y]) if rows[2][y] > 0 else int(rows[0][y])}:
            low, high = int(columns[0][x]), int(columns[1][x])
            for column in {low, high if columns[2][x] > 0 else low}:
                yield row, column
    elif node.op == "DepthToSpace":
        yield y // attrs["block"], x // attrs["block"]
    elif node.op == "SpaceToDepth":
        for i in range(attrs["block"]):
            for j in range(attrs["block"]):
                yield y * attrs["block"] + i, x * attrs["block"] + j
    else:
        yield (y if height > 1 else 0), (x if width > 1 else 0)


def by_definition(graph: Graph, node: Node, number: int) -> Flags:
    """(positions of the output, positions of the input): whether one goes into the other."""
    out, inside = graph.shapes[node.outputs[0]], graph.shapes[node.inputs[number]]
    covered = np.zeros((out[0], out[1], inside[0], inside[1]), bool)
    for y in range(out[0]):
        for x in range(out[1]):
            for row, column in looked_at(graph, node, number, y, x):
                if 0 <= row < inside[0] and 0 <= column < inside[1]:
                    covered[y, x, row, column] = True
    return covered.reshape(out[0] * out[1], -1)


def by_window(graph: Graph, node: Node, number: int) -> Flags:
    """As `by_definition`, but all that the operator's window covers, as the engine spreads."""
    out, inside = graph.shapes[node.outputs[0]], graph.shapes[node.inputs[number]]
    window = OPS[node.op].window(node, graph.shapes)[number] if node.op != ISLAND else None
    if window is None:
        return np.ones((out[0] * out[1], inside[0] * inside[1]), bool)
    rows, columns = (
        (low[:, None] <= np.arange(size)) & (np.arange(size) < high[:, None])
        for (low, high), size in ((window.rows, inside[0]), (window.cols, inside[1]))
    )
    covered: Flags = rows[:, None, :, None] & columns[None, :, None, :]
    return covered.reshape(out[0] * out[1], -1)


def sources(goes_into: Flags, positions: Flags) -> Flags:
    """The input's positions that go into any of these output positions."""
    read: Flags = np.logical_or.reduce(goes_into[positions], axis=0)
    return read


class RubbishError(AssertionError):
    """Somebody read positions that do not hold what they should."""


@dataclass
class Video:
    """A graph that is stepped through frames, each with random changes.

    Raises RubbishError. refresh: cut-offs are now and then computed and marked where nothing was
    active, and transients behind them where that looks. broad: marks spread by windows.
    computed: positions of each tensor in the last frame.
    """

    graph: Graph
    ranges: LiveRanges
    storage: Storage
    cutoffs: AbstractSet[str]
    draw: random.Random
    exports: AbstractSet[str] = frozenset()
    recomputed: AbstractSet[str] = frozenset()
    refresh: bool = False
    broad: bool = False
    frame: int = -1
    active: dict[str, Flags] = field(default_factory=dict)
    computed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.graph
        self.spread: dict[tuple[int, int], Flags] = {}
        self.goes_into: dict[tuple[int, int], Flags] = {}
        for index, node in enumerate(graph.nodes):
            for number, name in enumerate(node.inputs):
                if name not in graph.constants:
                    exact = by_definition(graph, node, number)
                    self.goes_into[index, number] = exact
                    self.spread[index, number] = (
                        by_window(graph, node, number) if self.broad else exact
                    )
        placement = place(arena_requests(self.ranges))
        self.at: dict[str, NDArray[np.int64]] = {}
        self.token: dict[str, int] = {}
        end = placement.size // 4
        for name, life in self.ranges.items():
            if life.root != name:
                continue
            first = placement.offsets[name] // 4 if not life.persistent else end
            count = int(np.prod(graph.shapes[name]))
            self.at[name] = first + np.arange(count).reshape(graph.shapes[name])
            self.token[name] = len(self.token) + 1
            end = max(end, first + count)
        self.memory = np.zeros(end, np.int64)
        self.persistent = persistent_roots(self.ranges)

    def places(self, name: str) -> NDArray[np.int64]:
        """(positions, channels) of a tensor, in memory."""
        height, width, channels = self.graph.shapes[name]
        starts, steps = (0, 0, 0), (1, 1)
        while name in self.storage.views:
            view = self.storage.views[name]
            starts = (
                view.start[0] + starts[0] * view.step[0],
                view.start[1] + starts[1] * view.step[1],
                view.start[2] + starts[2],
            )
            steps = steps[0] * view.step[0], steps[1] * view.step[1]
            name = view.parent
        rows = starts[0] + np.arange(height) * steps[0]
        columns = starts[1] + np.arange(width) * steps[1]
        depth = starts[2] + np.arange(channels)
        return self.at[name][np.ix_(rows, columns, depth)].reshape(height * width, channels)

    def expected(self, name: str) -> int:
        root = self.storage.root(name)
        return self.token[root] + (0 if root in self.persistent else 10_000 * (self.frame + 1))

    def write(self, name: str, positions: Flags) -> None:
        self.memory[self.places(name)[positions]] = self.expected(name)

    def read(self, reader: str, name: str, positions: Flags) -> None:
        if name not in self.ranges:
            return
        wrong = positions & (self.memory[self.places(name)] != self.expected(name)).any(axis=1)
        if wrong.any():
            raise RubbishError(
                f"frame {self.frame}: {reader} reads {wrong.sum()} positions of {name!r} that "
                "hold something else"
            )

    def some(self, size: int, share: float) -> Flags:
        return np.array([self.draw.random() < share for _ in range(size)], bool)

    def size(self, name: str) -> int:
        height, width, _ = self.graph.shapes[name]
        return height * width

    def transient(self, name: str) -> bool:
        return self.storage.root(name) not in self.persistent

    def step(self, changed: dict[str, Flags] | None = None) -> None:
        """One frame; the first one is dense. changed: marks of the graph inputs, else at random."""
        self.frame += 1
        dense = self.frame == 0
        marks: dict[str, Flags] = {}
        for port in self.graph.inputs:
            share = 1.0 if dense else self.draw.choice([0.0, 0.02, 0.1, 0.1, 0.5, 1.0])
            marks[port.name] = self.some(self.size(port.name), share)
            if changed is not None and not dense:
                marks[port.name] = changed[port.name]
        stays, forced = {}, {}
        for node in self.graph.nodes:
            for name in node.outputs:
                stays[name], forced[name] = self._compared(node, name, dense)
        active = self._mark(marks, stays, forced, dense)
        required = self._required(active, forced)
        if self.recomputed and not dense and not self.refresh:
            self._foresee(marks, stays, forced, required)
        for name, positions in required.items():
            self.computed[name] = int(positions.sum())
        self.active = active

        for port in self.graph.inputs:
            if port.name in self.ranges:  # else no region reads it
                self.write(port.name, marks[port.name])
                self._export(port.name, marks)
        for index, node in enumerate(self.graph.nodes):
            if node.op == ISLAND:
                self._run_island(node, marks)
            elif node.op == "Concat":
                self._join(index, node, marks, required)
            elif not self._alias(node.output):
                self._compute(index, node, required)
            for name in node.outputs:
                self._export(name, marks)
        for port in self.graph.outputs:
            if port.name not in self.exports:
                self.read("the caller", port.name, np.ones(self.size(port.name), bool))

    def _alias(self, name: str) -> bool:
        return name in self.storage.views and not self.storage.views[name].own_mask

    def _export(self, name: str, marks: dict[str, Flags]) -> None:
        if name in self.exports:
            self.read("its export", name, marks[name])

    def _compared(self, node: Node, name: str, dense: bool) -> tuple[Flags, Flags]:
        """Where a tensor stays marked if it was active, and where it is forced."""
        size = self.size(name)
        stays, forced = np.ones(size, bool), np.zeros(size, bool)
        if dense:
            return stays, forced
        if node.op == ISLAND:
            stays = self.some(size, 0.5)
        elif name in self.cutoffs:
            stays = self.some(size, self.draw.choice([0.0, 0.5, 0.9]))
            if self.refresh and not self._alias(name) and node.op != "Concat":
                forced = self.some(size, 0.1)
        return stays, forced

    def _mark(
        self,
        marks: dict[str, Flags],
        stays: dict[str, Flags],
        forced: dict[str, Flags],
        dense: bool,
    ) -> dict[str, Flags]:
        """Add the marks of all tensors to those of the inputs; -> where they are active."""
        active: dict[str, Flags] = {}
        for index, node in enumerate(self.graph.nodes):
            for name in node.outputs:
                spread = np.full(self.size(name), dense)
                for number, source in enumerate(node.inputs):
                    if (index, number) in self.spread:
                        spread |= (self.spread[index, number] & marks[source]).any(axis=1)
                active[name] = spread
                marks[name] = spread & stays[name] | forced[name]
        return active

    def _foresee(
        self,
        marks: dict[str, Flags],
        stays: dict[str, Flags],
        forced: dict[str, Flags],
        required: dict[str, Flags],
    ) -> None:
        """What is computed must not depend on what a later comparison finds out."""
        for index, node in enumerate(self.graph.nodes):
            if node.op == ISLAND or not self.transient(node.output):
                continue
            later = [name for after in self.graph.nodes[index:] for name in after.outputs]
            other = stays | {
                name: self.some(self.size(name), 0.3)
                for name in later
                if not stays[name].all() or name in self.cutoffs
            }
            again = {port.name: marks[port.name] for port in self.graph.inputs}
            if not np.array_equal(
                self._required(self._mark(again, other, forced, False), forced)[node.output],
                required[node.output],
            ):
                raise RubbishError(
                    f"node {index} {node.op} -> {node.output!r} would have to know the future"
                )

    def _required(self, active: dict[str, Flags], forced: dict[str, Flags]) -> dict[str, Flags]:
        """What each tensor is computed at: active, forced, and looked at beyond what is active."""
        required = {name: active[name] | forced[name] for name in active}
        for index in reversed(range(len(self.graph.nodes))):
            node = self.graph.nodes[index]
            if node.op == ISLAND:
                continue
            out = node.output
            for number, source in enumerate(node.inputs):
                if source not in required or not self.transient(source):
                    continue
                joined = node.op == "Concat" and out in self.recomputed
                beyond = (
                    required[out]
                    if source in self.recomputed or joined
                    else (required[out] & ~active[out])
                )
                required[source] = required[source] | sources(self.goes_into[index, number], beyond)
        return required

    def _run_island(self, node: Node, marks: dict[str, Flags]) -> None:
        if any(marks[name].any() for name in node.inputs):
            for name in node.inputs:
                if name not in self.exports:
                    self.read("an island", name, np.ones(self.size(name), bool))
        for name in node.outputs:
            if name in self.ranges:
                if self.frame > 0:
                    self.read("its comparison", name, np.ones(self.size(name), bool))
                self.write(name, marks[name])

    def _compute(self, index: int, node: Node, required: dict[str, Flags]) -> None:
        name = node.output
        for number, source in enumerate(node.inputs):
            if (index, number) in self.goes_into:
                read = sources(self.goes_into[index, number], required[name])
                self.read(f"node {index} {node.op}", source, read)
        if name in self.cutoffs and self.frame > 0:
            self.read("its own cut-off", name, required[name])
        self.write(name, required[name])

    def _join(
        self, index: int, node: Node, marks: dict[str, Flags], required: dict[str, Flags]
    ) -> None:
        """Copies the parts that are not written in place, each where it is marked itself."""
        offset = 0
        axis = node.attrs["axis"]
        for number, source in enumerate(node.inputs):
            shape = self.graph.shapes[source]
            begin, offset = offset, offset + shape[axis]
            view = self.storage.views.get(source)
            if view is not None and view.own_mask and view.parent == node.output:
                continue
            goes = self.goes_into[index, number]
            beyond = required[node.output] & ~self.active[node.output]
            if node.output in self.recomputed:
                beyond = required[node.output]
            at = marks[source] | sources(goes, beyond)
            self.read(f"node {index} Concat", source, at)
            ranges = [np.arange(size) for size in self.graph.shapes[node.output]]
            ranges[axis] = np.arange(begin, offset)
            height, width, channels = self.graph.shapes[node.output]
            whole = self.places(node.output).reshape(height, width, channels)
            part = whole[np.ix_(*ranges)].reshape(shape[0] * shape[1], -1)
            self.memory[part[at]] = self.expected(node.output)
