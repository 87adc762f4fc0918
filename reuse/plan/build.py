"""The optimised graph and its memory plan -> the tables that the kernels run through."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.ir.windows import identity
from stillframe.reuse.kernels import abi
from stillframe.reuse.kernels.layout import export as export_kernel
from stillframe.reuse.memory.buffers import region_tensors
from stillframe.reuse.memory.planner import MemoryPlan
from stillframe.reuse.plan.instruction import Lowered, PlannedLayer
from stillframe.reuse.plan.lowering import LOWER
from stillframe.reuse.plan.plan import (
    BARRIER_BYTES,
    IslandStep,
    Plan,
    Region,
    Tuning,
)
from stillframe.reuse.plan.tables import TableBuilder

Floats = NDArray[np.float32]


def island_reads(graph: Graph) -> list[str]:
    """Region tensors that islands or callers read; an EXPORT follows the writer of each."""
    region = set(region_tensors(graph))
    read = {name for node in graph.nodes if node.op == ISLAND for name in node.inputs}
    read |= {port.name for port in graph.outputs if port.layout != "raw"}
    return [name for name in region_tensors(graph) if name in read & region]


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
    marks = builder.regions.exports.get(name, ((name, identity(height, width)),))
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
    builder.buffers.append(array)
    return array


def build_plan(
    graph: Graph,
    memory: MemoryPlan,
    exported: AbstractSet[str],
    workers: int,
    exact: bool,
    tuning: Tuning,
    states: Collection[str] = (),
) -> Plan:
    """Lower every operator in order; consecutive ones form a region, an island ends it.

    exported: tensors that islands or callers read. See `compile_graph` for the rest.
    """
    builder = TableBuilder(graph, memory, workers, tuning.tiles, exact)
    layouts = export_layouts(graph)
    exports: dict[str, Floats] = {}
    steps: list[Region | IslandStep] = []
    cutoffs: dict[str, int] = {}
    compared: list[str] = []

    def export_if_read(name: str, node: int) -> None:
        if name in exported:
            exports[name] = export(builder, name, layouts[name], node)

    def close_region() -> None:
        first = next((step.end for step in reversed(steps) if isinstance(step, Region)), 0)
        if len(builder.instructions) > first:
            steps.append(Region(first, len(builder.instructions)))

    for port in graph.inputs:
        if port.layout != "raw":
            builder.tensor(port.name)
            if port.name in states and not exact:
                compared.append(port.name)
    for port in graph.inputs:
        export_if_read(port.name, -1)
    for number, node in enumerate(graph.nodes):
        if node.op == ISLAND:
            close_region()
            steps.append(IslandStep(node))
            for port in node.attrs["writes"]:
                if port.layout != "raw":
                    builder.tensor(port.name)
                    export_if_read(port.name, -1)
                    if not exact:
                        compared.append(port.name)
            continue
        shape, root = graph.shapes[node.output], memory.storage.root(node.output)
        for lowered in LOWER[node.op](builder, node):
            name = f"{node.output}~{lowered.label.lower()}" if lowered.label else node.output
            op = lowered.label or node.op
            layer = PlannedLayer(name, op, shape, lowered.multiply_adds, number)
            at = builder.add(lowered, layer)
            if root in memory.recomputed:
                builder.clear_zero_pad(at, root)
            if lowered.compares and node.output in memory.cutoffs:
                kind = abi.Cutoff.EQUAL if exact else abi.Cutoff.NORM
                builder.instructions[at][abi.CUTOFF] = kind
                cutoffs[node.output] = at
                compared.append(node.output)
        export_if_read(node.output, number)
    close_region()
    return finish(builder, memory, steps, exports, cutoffs, compared, tuning)


def finish(
    builder: TableBuilder,
    memory: MemoryPlan,
    steps: Sequence[Region | IslandStep],
    exports: Mapping[str, Floats],
    cutoffs: Mapping[str, int],
    compared: Sequence[str],
    tuning: Tuning,
) -> Plan:
    tensors, live = builder.finish_tensors()
    work = np.zeros((builder.workers, abi.WORKER_COLUMNS), np.int64)
    sizes = {
        abi.ACTIVE_SPANS: builder.largest_spans * abi.SPAN_INTS * 4,
        abi.SHARE: builder.largest_spans * abi.SPAN_INTS * 4,
        abi.LINE: builder.longest_line + 64,
        abi.POINTERS: abi.POINTER_ARRAYS * abi.SLOTS * 8 + 64,
        abi.GAPS: (abi.SLOTS + 1) * 4 + 64,
        abi.RESULTS: builder.widest_result * 4 + 256,
        abi.ATTENTION: builder.attention_bytes,
        abi.TILES: builder.tiles_bytes + 256,
    }
    for worker in range(builder.workers):
        for column, size in sizes.items():
            work[worker, column] = builder.constant(np.zeros(size, np.uint8))
            if column != abi.TILES:  # which may be large, and counts
                builder.weights_bytes -= size
    count = len(builder.instructions)
    arriving = [name for name in compared if name not in cutoffs]
    arrivals = {name: at for at, name in enumerate(arriving)}
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
        barrier=builder.constant(np.zeros(BARRIER_BYTES, np.uint8)),
        steps=tuple(steps),
        layers=tuple(builder.layers),
        reads=tuple(builder.reads),
        targets=tuple(builder.targets),
        mask_rows={name: builder.mask_rows(name) for name in builder.index},
        index=dict(builder.index),
        exports=dict(exports),
        cutoffs=dict(cutoffs),
        arrivals=arrivals,
        arrival_thresholds=np.zeros(len(arrivals), np.float32),
        compared=tuple(compared),
        arena=builder.arena,
        memory=memory,
        weights_bytes=builder.weights_bytes,
        tuning=tuning,
        buffers=builder.buffers,
    )
