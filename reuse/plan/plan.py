"""From the optimised graph to the tables that the kernels walk.

Everything is decided here: where each tensor lies, which micro-kernel runs, what is compared.
A step only walks. The tables hold addresses into buffers that the `Plan` keeps alive.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.ir.graph import ISLAND, Graph, Node
from stillframe.reuse.kernels import abi
from stillframe.reuse.kernels.layout import export as export_kernel
from stillframe.reuse.memory.arena import place
from stillframe.reuse.memory.buffers import lay_out, region_tensors
from stillframe.reuse.memory.liveness import Lifetimes, naive_bytes
from stillframe.reuse.memory.mask_implication import identity
from stillframe.reuse.memory.planner import plan_memory
from stillframe.reuse.plan.lowering import LOWER, Lowered
from stillframe.reuse.plan.tables import PlannedLayer, Reads, TableBuilder

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]


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
class PlacedTensor:
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
    island_records: Integers  # the same columns, a row an island, in the order of `steps`
    barrier: int
    steps: tuple[Region | IslandStep, ...]
    layers: tuple[PlannedLayer, ...]
    reads: tuple[Reads, ...]  # of each instruction: the tensors whose marks make it compute
    index: Mapping[str, int]  # tensor name -> row of `tensors`
    exports: Mapping[str, Floats]  # tensor name -> the array that EXPORT keeps up to date
    cutoffs: Mapping[str, int]  # tensor name -> instruction that compares it
    arena: NDArray[np.uint8]
    placement: PlacedTensor
    lifetimes: Lifetimes
    weights_bytes: int
    kept: list[Any] = field(default_factory=list)

    def view(self, name: str) -> Floats:
        """The (H, W, C) floats of a tensor, where they lie; for tests, tuning and islands."""
        row = self.tensors[self.index[name]]
        start = int(row[abi.DATA]) - self.arena.ctypes.data
        shape = tuple(int(row[column]) for column in (abi.HEIGHT, abi.WIDTH, abi.CHANNELS))
        strides = (int(row[abi.ROW]), int(row[abi.PIXEL]), 4)
        flat: Floats = np.ndarray(shape, np.float32, self.arena.data, start, strides)
        return flat

    def left_active(self, name: str) -> bool:
        """Whether the last step marked any position of a tensor; a view has its parent's count."""
        where = int(self.tensors[self.index[name], abi.LIVE]) - self.live.ctypes.data
        return bool(self.live[where // self.live.strides[0]].any())

    def mask(self, name: str) -> NDArray[np.uint8]:
        """The (H, W) mask of a tensor as the last step left it."""
        row = self.tensors[self.index[name]]
        start = int(row[abi.MASK]) - self.masks.ctypes.data
        shape = (int(row[abi.HEIGHT]), int(row[abi.WIDTH]))
        strides = (int(row[abi.MASK_ROW]), int(row[abi.MASK_PIXEL]))
        return np.ndarray(shape, np.uint8, self.masks.data, start, strides)

    @property
    def masks(self) -> NDArray[np.uint8]:
        return self.kept[0]  # type: ignore[no-any-return]


def place_roots(graph: Graph, lifetimes: Lifetimes) -> PlacedTensor:
    """Offsets of all roots: persistent ones side by side, then the arena of the transients."""
    offsets: dict[str, int] = {}
    end = 0
    for name in region_tensors(graph):
        if name in lifetimes.persistent:
            offsets[name] = end
            end += -(-lifetimes.lives[name].bytes // 64) * 64
    arena = place(lifetimes.requests())
    offsets |= {name: end + offset for name, offset in arena.offsets.items()}
    return PlacedTensor(
        offsets, end + arena.size, end, arena.size, arena.lower_bound, naive_bytes(graph)
    )


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


def export(builder: TableBuilder, name: str, layout: str, node: int) -> Floats:
    """Add the instruction that keeps an array of the caller's layout up to date."""
    height, width, channels = builder.shapes[name]
    planar = layout == "NCHW"
    array = np.zeros((channels, height, width) if planar else (height, width, channels), np.float32)
    strides = [step // 4 for step in array.strides]
    row, pixel, channel = strides[1:] + strides[:1] if planar else strides
    marks = builder.demand.exports.get(name, ((name, identity(height, width)),))
    address, count = builder.sources([builder.source(*each, (height, width)) for each in marks])
    columns = {
        abi.KERNEL: export_kernel.address,
        abi.TARGET: builder.port(height, width),
        abi.INPUT: builder.tensor(name),
        abi.SOURCES: address,
        abi.SOURCE_COUNT: count,
        abi.PARAMETER: array.ctypes.data,
        abi.PARAMETER + 1: row,
        abi.PARAMETER + 2: pixel,
        abi.PARAMETER + 3: channel,
    }
    builder.add(Lowered(columns), PlannedLayer(name, "Export", array.shape, 0, node))
    builder.kept.append(array)
    return array


def compile_plan(
    graph: Graph,
    workers: int = 1,
    *,
    exact: bool = True,
    memory_budget: int | None = None,
    tiles: Mapping[str, int] | None = None,
    notebook: DiskCache | None = None,
) -> Plan:
    """Compile a partitioned graph for so many workers.

    exact: a cut-off asks for equal bits; otherwise for a small distance, with thresholds of 0 until
    `Tolerance.calibrate` sets them. memory_budget: bytes of activations, see `plan_memory`.
    tiles: micro-kernels by output, as `tuning` measures; by the shape alone where there is none.
    notebook: where choices that take long are noted.
    """
    storage = lay_out(graph)
    wanted = set(island_reads(graph))
    keeping = plan_memory(graph, storage, wanted, memory_budget, notebook)
    placed = place_roots(graph, keeping.lifetimes)
    builder = TableBuilder(
        graph, storage, keeping.demand, placed.offsets, placed.size, workers, tiles or {}
    )
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
            layer = PlannedLayer(
                node.output, node.op, graph.shapes[node.output], lowered.multiply_adds, number
            )
            at = builder.add(lowered, layer)
            if storage.root(node.output) in keeping.recomputed:
                builder.clear_ring(at, storage.root(node.output))
            if lowered.compares and node.output in keeping.cutoffs:
                kind = abi.Cutoff.EQUAL if exact else abi.Cutoff.NORM
                builder.instructions[at][abi.CUTOFF] = kind
                cutoffs[node.output] = at
        if node.output in wanted:
            exports[node.output] = export(builder, node.output, layouts[node.output], number)
    close_region()
    return finish(builder, placed, keeping.lifetimes, steps, exports, cutoffs)


def finish(
    builder: TableBuilder,
    placed: PlacedTensor,
    lifetimes: Lifetimes,
    steps: Sequence[Region | IslandStep],
    exports: Mapping[str, Floats],
    cutoffs: Mapping[str, int],
) -> Plan:
    tensors, live = builder.finish_tensors()
    work = np.zeros((builder.workers, abi.WORKER_COLUMNS), np.int64)
    sizes = {
        abi.FOUND: builder.largest_spans * abi.SPAN_INTS * 4,
        abi.SHARE: builder.largest_spans * abi.SPAN_INTS * 4,
        abi.LINE: builder.longest_line + 64,
        abi.POINTERS: abi.POINTER_ARRAYS * abi.SLOTS * 8 + 64,
        abi.GAPS: (abi.SLOTS + 1) * 4 + 64,
        abi.RESULTS: builder.widest_result * 4 + 256,
    }
    for worker in range(builder.workers):
        for column, size in sizes.items():
            work[worker, column] = builder.constant(np.zeros(size, np.uint8))
            builder.weights_bytes -= size
    count = len(builder.instructions)
    return Plan(
        graph=builder.graph,
        instructions=np.array(builder.instructions, np.int64).reshape(
            count, abi.INSTRUCTION_COLUMNS
        ),
        floats=np.array(builder.floats, np.float32).reshape(count, abi.FLOAT_COLUMNS),
        tensors=tensors,
        live=live,
        work=work,
        records=np.zeros((count, abi.RECORD_COLUMNS), np.int64),
        island_records=np.zeros(
            (sum(isinstance(step, IslandStep) for step in steps), abi.RECORD_COLUMNS), np.int64
        ),
        barrier=builder.constant(np.zeros(16, np.int64)),
        steps=tuple(steps),
        layers=tuple(builder.layers),
        reads=tuple(builder.reads),
        index=dict(builder.index),
        exports=dict(exports),
        cutoffs=dict(cutoffs),
        arena=builder.arena,
        placement=placed,
        lifetimes=lifetimes,
        weights_bytes=builder.weights_bytes,
        kept=builder.kept,
    )
