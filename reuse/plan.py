"""From the optimised graph to the tables that the kernels walk.

Everything is decided here: where each tensor lies, which micro-kernel runs, what is compared.
A step only walks. The tables hold addresses into buffers that the `Plan` keeps alive.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.arena import place
from stillframe.reuse.graph import ISLAND, Graph, Node
from stillframe.reuse.kernels import move
from stillframe.reuse.kernels import table as t
from stillframe.reuse.lifetimes import Lifetimes, analyse, naive_bytes
from stillframe.reuse.lowering import LOWER, Lowered
from stillframe.reuse.packing import aligned
from stillframe.reuse.pages import zeroed
from stillframe.reuse.storage import Storage, View, lay_out, region_tensors
from stillframe.reuse.windows import Span, Window

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]

COMPARING = frozenset({"Conv", "GlobalPool", "Moments"})  # whose kernels can cut off
SLACK = 1024  # bytes behind the arena: vector loads of the last position may reach past it


@dataclass(frozen=True, slots=True)
class Region:
    """Instructions [first, end): one native call a worker."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class IslandStep:
    """One node that ONNX Runtime runs; the instructions before it exported its inputs."""

    node: Node


@dataclass(frozen=True, slots=True)
class Layer:
    """What an instruction is, in words and figures; `Plan.layers` has one each."""

    name: str
    op: str
    shape: tuple[int, ...]
    multiply_adds: int
    node: int  # index into the graph; -1 for a border


@dataclass(frozen=True, slots=True)
class Placed:
    """Where the roots lie in the arena, and what that takes; bytes."""

    offsets: Mapping[str, int]
    size: int
    persistent: int
    transient: int
    lower_bound: int
    every_activation: int


@dataclass(slots=True)
class Plan:
    """The compiled network. Tables are described in `kernels.table`."""

    graph: Graph
    instructions: Integers
    floats: Floats
    tensors: Integers
    live: Integers  # (tensors, workers): positions of each mask left active
    work: Integers
    records: Integers
    barrier: int
    steps: tuple[Region | IslandStep, ...]
    layers: tuple[Layer, ...]
    index: Mapping[str, int]  # tensor name -> row of `tensors`
    exports: Mapping[str, Floats]  # tensor name -> the array that EXPORT keeps up to date
    cutoffs: Mapping[str, int]  # tensor name -> instruction that compares it
    arena: NDArray[np.uint8]
    placement: Placed
    lifetimes: Lifetimes
    weights_bytes: int
    kept: list[Any] = field(default_factory=list)

    def view(self, name: str) -> Floats:
        """The (H, W, C) floats of a tensor, where they lie; for tests, tuning and islands."""
        row = self.tensors[self.index[name]]
        start = int(row[t.DATA]) - self.arena.ctypes.data
        shape = tuple(int(row[column]) for column in (t.HEIGHT, t.WIDTH, t.CHANNELS))
        strides = (int(row[t.ROW]), int(row[t.PIXEL]), 4)
        flat: Floats = np.ndarray(shape, np.float32, self.arena.data, start, strides)
        return flat

    def left_active(self, name: str) -> bool:
        """Whether the last step marked any position of a tensor; a view has its parent's count."""
        where = int(self.tensors[self.index[name], t.LIVE]) - self.live.ctypes.data
        return bool(self.live[where // self.live.strides[0]].any())

    def mask(self, name: str) -> NDArray[np.uint8]:
        """The (H, W) mask of a tensor as the last step left it."""
        row = self.tensors[self.index[name]]
        start = int(row[t.MASK]) - self.masks.ctypes.data
        shape = (int(row[t.HEIGHT]), int(row[t.WIDTH]))
        strides = (int(row[t.MASK_ROW]), int(row[t.MASK_PIXEL]))
        return np.ndarray(shape, np.uint8, self.masks.data, start, strides)

    @property
    def masks(self) -> NDArray[np.uint8]:
        return self.kept[0]  # type: ignore[no-any-return]


class Builder:
    """The tables while they grow. Lowering rules call `add`, `constant`, `tensor`."""

    def __init__(
        self, graph: Graph, storage: Storage, offsets: Mapping[str, int], size: int, workers: int
    ) -> None:
        self.graph = graph
        self.storage = storage
        self.workers = workers
        self.kept: list[Any] = [np.zeros(0, np.uint8)]
        self.arena = zeroed(size + SLACK)
        self._arena_start = self.arena.ctypes.data
        self._offsets = offsets
        self.rows: list[list[int]] = []
        self.index: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = dict(graph.shapes)
        self.views: dict[str, View] = dict(storage.views)
        self.instructions: list[list[int]] = []
        self.floats: list[list[float]] = []
        self.layers: list[Layer] = []
        self.weights_bytes = 0
        self._mask_bytes = 0
        self._mask_rows: list[tuple[int, int, int]] = []  # tensor row, mask offset, flags offset
        self._aliases: list[tuple[int, int, tuple[int, int], tuple[int, int]]] = []
        self.largest_spans = 1
        self.longest_line = 64
        self.widest_result = 64

    # --- memory ---------------------------------------------------------------------------------
    def constant(self, values: NDArray[Any]) -> int:
        """Keep a copy of the values for the life of the plan; its address."""
        copy = aligned(np.ascontiguousarray(values))
        self.kept.append(copy)
        self.weights_bytes += copy.nbytes
        return int(copy.ctypes.data)

    def geometry(self, name: str) -> tuple[int, int, int]:
        """(address of element (0, 0, 0), row stride, pixel stride) in bytes."""
        view = self.views.get(name)
        if view is not None:
            address, row, pixel = self.geometry(view.parent)
            y, x, c = view.start
            return address + y * row + x * pixel + c * 4, row * view.step[0], pixel * view.step[1]
        _, width, channels = self.shapes[name]
        top, left, _, right = self.storage.ring(name)
        pixel = channels * 4
        row = (left + width + right) * pixel
        return self._arena_start + self._offsets[name] + top * row + left * pixel, row, pixel

    # --- tensors --------------------------------------------------------------------------------
    def _row(self, shape: Sequence[int], address: int, row: int, pixel: int) -> int:
        self.rows.append([0] * t.TENSOR_COLUMNS)
        entry = self.rows[-1]
        entry[t.DATA], entry[t.ROW], entry[t.PIXEL] = address, row, pixel
        entry[t.HEIGHT], entry[t.WIDTH], entry[t.CHANNELS] = shape
        return len(self.rows) - 1

    def _own_mask(self, tensor: int, height: int, width: int) -> None:
        self._mask_rows.append((tensor, self._mask_bytes, self._mask_bytes + height * width))
        self._mask_bytes += height * width + height
        self.largest_spans = max(self.largest_spans, height * (width // 2 + 1))
        self.longest_line = max(self.longest_line, width)

    def tensor(self, name: str) -> int:
        """The table row of a region tensor or constant; made at the first call."""
        if name in self.index:
            return self.index[name]
        if name in self.graph.constants:
            return self.constant_tensor(name)
        shape = self.shapes[name]
        view = self.views.get(name)
        parent = -1
        if view is not None and not view.own_mask:
            parent = self.tensor(view.parent)
        tensor = self._row(shape, *self.geometry(name))
        self.index[name] = tensor
        if parent >= 0 and view is not None:
            self._aliases.append((tensor, parent, (view.start[0], view.start[1]), view.step))
        else:
            self._own_mask(tensor, shape[0], shape[1])
        return tensor

    def part(
        self, name: str, parent: str, start: tuple[int, int, int], shape: tuple[int, ...]
    ) -> int:
        """A row for a part of `parent` that a copy fills, with a mask of its own."""
        self.views[name] = View(parent, start, (1, 1), True)
        self.shapes[name] = shape
        return self.tensor(name)

    def channels_of(self, name: str, start: int, count: int) -> int:
        """A row for some channels of a tensor, sharing its mask."""
        tensor = self.tensor(name)
        address, row, pixel = self.geometry(name)
        height, width, _ = self.shapes[name]
        alias = self._row((height, width, count), address + start * 4, row, pixel)
        self._aliases.append((alias, tensor, (0, 0), (1, 1)))
        return alias

    def port(self, height: int, width: int) -> int:
        """A row with a mask and no data: the target of an EXPORT."""
        tensor = self._row((height, width, 0), 0, 0, 0)
        self._own_mask(tensor, height, width)
        return tensor

    def constant_tensor(self, name: str) -> int:
        values = np.asarray(self.graph.constants[name], np.float32)
        height, width, channels = values.shape
        tensor = self._row(values.shape, self.constant(values), width * channels * 4, channels * 4)
        self.index[name] = tensor
        self._own_mask(tensor, height, width)
        return tensor

    def broadcast(self, name: str, shape: Sequence[int]) -> int:
        """A row to read a tensor by where it is stretched over `shape`: strides of 0."""
        tensor = self.tensor(name)
        own = self.shapes[name]
        stretched = [own[axis] == 1 and shape[axis] != 1 for axis in (0, 1)]
        if not any(stretched):
            return tensor
        _, row, pixel = entry = tuple(self.rows[tensor][: t.PIXEL + 1])
        return self._row(
            (shape[0], shape[1], own[2]),
            entry[0],
            0 if stretched[0] else row,
            0 if stretched[1] else pixel,
        )

    # --- masks ----------------------------------------------------------------------------------
    def source(
        self,
        name: str,
        window: Window | None,
        out: Sequence[int],
        regular: tuple[int, int, int] | None = None,
    ) -> list[int]:
        """A mask source: what the output reads of `name`; regular: its columns as (taps, stride,
        pad)."""
        height, width, _ = self.shapes[name]
        if window is None:
            everything = np.zeros(out[0], np.int32), np.full(out[0], height, np.int32)
            columns = np.zeros(out[1], np.int32), np.full(out[1], width, np.int32)
            window = Window(everything, columns)
        plain = (1, 1, 0) if _same(window.cols, width) else (0, 1, 0)
        taps, stride, pad = regular or plain
        self.longest_line = max(
            self.longest_line, (out[1] - 1) * stride + taps, width + pad, out[1]
        )
        columns_at = [0, 0]
        if taps == 0:
            columns_at = [self.constant(np.asarray(half, np.int32)) for half in window.cols]
        rows_at = [self.constant(np.asarray(half, np.int32)) for half in window.rows]
        return [self.tensor(name), *rows_at, taps, stride, pad, *columns_at]

    def sources(self, entries: Sequence[list[int]]) -> tuple[int, int]:
        return self.constant(np.array(entries, np.int64)), len(entries)

    # --- instructions ---------------------------------------------------------------------------
    def add(self, lowered: Lowered, layer: Layer) -> int:
        entry = [0] * t.INSTRUCTION_COLUMNS
        for column, value in lowered.columns.items():
            entry[column] = int(value)
        self.instructions.append(entry)
        floats = [0.0] * t.FLOAT_COLUMNS
        for column, number in lowered.floats.items():
            floats[column] = number
        self.floats.append(floats)
        self.layers.append(layer)
        self.widest_result = max(self.widest_result, lowered.result_floats)
        return len(self.instructions) - 1

    def finish_tensors(self) -> tuple[Integers, Integers]:
        """Give every row its mask and counts; -> (tensors, live)."""
        masks = np.zeros(self._mask_bytes + 64, np.uint8)
        self.kept[0] = masks
        base = masks.ctypes.data
        rows = np.array(self.rows, np.int64).reshape(-1, t.TENSOR_COLUMNS)
        live = np.zeros((len(rows), self.workers), np.int64)
        rows[:, t.LIVE] = live.ctypes.data + np.arange(len(rows)) * live.strides[0]
        for tensor, mask, flags in self._mask_rows:
            rows[tensor, t.MASK] = base + mask
            rows[tensor, t.MASK_ROW] = rows[tensor, t.WIDTH]
            rows[tensor, t.MASK_PIXEL] = 1
            rows[tensor, t.ROW_FLAGS] = base + flags
            rows[tensor, t.ROW_FLAGS_STEP] = 1
        for tensor, parent, (y, x), (step_y, step_x) in self._aliases:
            above = rows[parent]
            rows[tensor, t.MASK] = above[t.MASK] + y * above[t.MASK_ROW] + x * above[t.MASK_PIXEL]
            rows[tensor, t.MASK_ROW] = above[t.MASK_ROW] * step_y
            rows[tensor, t.MASK_PIXEL] = above[t.MASK_PIXEL] * step_x
            rows[tensor, t.ROW_FLAGS] = above[t.ROW_FLAGS] + y * above[t.ROW_FLAGS_STEP]
            rows[tensor, t.ROW_FLAGS_STEP] = above[t.ROW_FLAGS_STEP] * step_y
            rows[tensor, t.LIVE] = above[t.LIVE]
        return rows, live


def _same(span: Span, width: int) -> bool:
    low, high = span
    return len(low) == width and bool(
        np.array_equal(low, np.arange(width)) and np.array_equal(high, low + 1)
    )


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


def place_roots(graph: Graph, lifetimes: Lifetimes) -> Placed:
    """Offsets of all roots: persistent ones side by side, then the arena of the transients."""
    offsets: dict[str, int] = {}
    end = 0
    for name in region_tensors(graph):
        if name in lifetimes.persistent:
            offsets[name] = end
            end += -(-lifetimes.lives[name].bytes // 64) * 64
    arena = place(lifetimes.requests())
    offsets |= {name: end + offset for name, offset in arena.offsets.items()}
    return Placed(offsets, end + arena.size, end, arena.size, arena.lower_bound, naive_bytes(graph))


def island_reads(graph: Graph) -> list[str]:
    """Region tensors that islands or callers read: each has an EXPORT right behind its writer."""
    region = set(region_tensors(graph))
    wanted = {name for node in graph.nodes if node.op == ISLAND for name in node.inputs}
    wanted |= {port.name for port in graph.outputs if port.layout != "raw"}
    return [name for name in region_tensors(graph) if name in wanted & region]


def export_layouts(graph: Graph) -> dict[str, str]:
    """Tensor name -> layout in which it leaves the region."""
    layouts: dict[str, str] = {}
    for node in graph.nodes:
        if node.op == ISLAND:
            layouts.update({port.name: port.layout for port in node.attrs["reads"]})
    layouts.update({port.name: port.layout for port in graph.outputs if port.layout != "raw"})
    return layouts


def export(builder: Builder, name: str, layout: str, node: int) -> Floats:
    """Add the instruction that keeps an array of the caller's layout up to date."""
    height, width, channels = builder.shapes[name]
    planar = layout == "NCHW"
    array = np.zeros((channels, height, width) if planar else (height, width, channels), np.float32)
    strides = [step // 4 for step in array.strides]
    row, pixel, channel = strides[1:] + strides[:1] if planar else strides
    same = Window(
        *(
            (np.arange(size, dtype=np.int32), np.arange(1, size + 1, dtype=np.int32))
            for size in (height, width)
        )
    )
    address, count = builder.sources([builder.source(name, same, (height, width))])
    columns = {
        t.KERNEL: move.export.address,
        t.TARGET: builder.port(height, width),
        t.INPUT: builder.tensor(name),
        t.SOURCES: address,
        t.SOURCE_COUNT: count,
        t.PARAMETER: array.ctypes.data,
        t.PARAMETER + 1: row,
        t.PARAMETER + 2: pixel,
        t.PARAMETER + 3: channel,
    }
    builder.add(Lowered(columns), Layer(name, "Export", array.shape, 0, node))
    builder.kept.append(array)
    return array


def compile_plan(graph: Graph, workers: int = 1, *, exact: bool = True) -> Plan:
    """Compile a partitioned graph for so many workers.

    exact: a cut-off asks for equal bits; otherwise for a small distance, with thresholds of 0 until
    `Tolerance.calibrate` sets them.
    """
    storage = lay_out(graph)
    wanted = set(island_reads(graph))
    compared = choose_cutoffs(graph, storage, wanted)
    lifetimes = analyse(graph, compared, storage=storage, exports=wanted)
    placed = place_roots(graph, lifetimes)
    builder = Builder(graph, storage, placed.offsets, placed.size, workers)
    for port in graph.inputs:
        if port.layout != "raw":
            builder.tensor(port.name)
    layouts = export_layouts(graph)
    exports: dict[str, Floats] = {}
    steps: list[Region | IslandStep] = []
    cutoffs: dict[str, int] = {}
    begun = 0

    def close_region() -> None:
        nonlocal begun
        if len(builder.instructions) > begun:
            steps.append(Region(begun, len(builder.instructions)))
            begun = len(builder.instructions)

    for port in graph.inputs:
        if port.name in wanted:
            exports[port.name] = export(builder, port.name, layouts[port.name], -1)
    for number, node in enumerate(graph.nodes):
        if node.op == ISLAND:
            close_region()
            steps.append(IslandStep(node))
            for port in node.attrs["writes"]:
                if port.layout != "raw":
                    builder.tensor(port.name)
                    if port.name in wanted:
                        exports[port.name] = export(builder, port.name, layouts[port.name], -1)
            continue
        for lowered in LOWER[node.op](builder, node):
            layer = Layer(
                node.output, node.op, graph.shapes[node.output], lowered.multiply_adds, number
            )
            at = builder.add(lowered, layer)
            if lowered.compares and node.output in compared:
                kind = t.Cutoff.EQUAL if exact else t.Cutoff.NORM
                builder.instructions[at][t.CUTOFF] = kind
                cutoffs[node.output] = at
        if node.output in wanted:
            exports[node.output] = export(builder, node.output, layouts[node.output], number)
    close_region()
    return finish(builder, placed, lifetimes, steps, exports, cutoffs)


def finish(
    builder: Builder,
    placed: Placed,
    lifetimes: Lifetimes,
    steps: Sequence[Region | IslandStep],
    exports: Mapping[str, Floats],
    cutoffs: Mapping[str, int],
) -> Plan:
    tensors, live = builder.finish_tensors()
    work = np.zeros((builder.workers, t.WORKER_COLUMNS), np.int64)
    sizes = {
        t.FOUND: builder.largest_spans * t.SPAN_INTS * 4,
        t.SHARE: builder.largest_spans * t.SPAN_INTS * 4,
        t.LINE: builder.longest_line + 64,
        t.POINTERS: t.CHUNK * 8 * 5 + 64,
        t.RESULTS: builder.widest_result * 4 + 256,
    }
    for worker in range(builder.workers):
        for column, size in sizes.items():
            work[worker, column] = builder.constant(np.zeros(size, np.uint8))
            builder.weights_bytes -= size
    count = len(builder.instructions)
    return Plan(
        graph=builder.graph,
        instructions=np.array(builder.instructions, np.int64).reshape(count, t.INSTRUCTION_COLUMNS),
        floats=np.array(builder.floats, np.float32).reshape(count, t.FLOAT_COLUMNS),
        tensors=tensors,
        live=live,
        work=work,
        records=np.zeros((count, t.RECORD_COLUMNS), np.int64),
        barrier=builder.constant(np.zeros(16, np.int64)),
        steps=tuple(steps),
        layers=tuple(builder.layers),
        index=dict(builder.index),
        exports=dict(exports),
        cutoffs=dict(cutoffs),
        arena=builder.arena,
        placement=placed,
        lifetimes=lifetimes,
        weights_bytes=builder.weights_bytes,
        kept=builder.kept,
    )
