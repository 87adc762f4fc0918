"""How much a frame computes in which an assumed rectangle of the picture changed.

Cut-offs bring a change back to the rectangle's own outline; elsewhere it spreads by windows. What
is computed where tensors are recomputed is asked of `required_regions`; nothing is predicted here.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from heapq import heappop, heappush

import numpy as np

from stillframe.reuse.ir.graph import Node, Shape
from stillframe.reuse.ir.windows import Flags, Window
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.liveness import JOIN
from stillframe.reuse.memory.required_regions import RegionTracer


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """A rectangle of a tensor, perhaps with gaps."""

    rows: Flags
    cols: Flags

    @property
    def positions(self) -> int:
        return int(np.count_nonzero(self.rows)) * int(np.count_nonzero(self.cols))

    def equals(self, other: "Extent") -> bool:
        return np.array_equal(self.rows, other.rows) and np.array_equal(self.cols, other.cols)

    def image(self, window: Window) -> "Extent":
        """The output positions that read one of these."""
        return Extent(window.rows.image(self.rows), window.cols.image(self.cols))

    def __or__(self, other: "Extent") -> "Extent":
        """The smallest extent that holds both."""
        if not self.positions or not other.positions:
            return self if self.positions else other
        return Extent(self.rows | other.rows, self.cols | other.cols)

    def __and__(self, other: "Extent") -> "Extent":
        return Extent(self.rows & other.rows, self.cols & other.cols)


@dataclass(frozen=True, slots=True)
class WorkEstimate:
    """Where each tensor is computed and marked, and the multiply-adds that this takes."""

    tracer: RegionTracer
    """Knows what is computed for which marks."""
    active_share: float
    """Of the picture, covered by the rectangle."""
    per_position: Sequence[int]
    """Multiply-adds of each node for one position."""
    computed: Mapping[str, Extent]
    marks: Mapping[str, Extent]
    work: int = 0

    @classmethod
    def of(cls, tracer: RegionTracer, active_share: float) -> "WorkEstimate":
        flow = tracer.flow
        nodes = range(len(flow.graph.nodes))
        per_position = [work_per_position(flow, index) for index in nodes]
        marks = {
            name: outline(flow, name, active_share)
            for name in flow.names
            if not flow.reads_of(name)
        }
        start = cls(tracer, active_share, per_position, {}, marks)
        return start._spread([index for index in nodes if not flow.is_island(index)])

    def drop(self, names: AbstractSet[str]) -> "WorkEstimate":
        """Once these are recomputed too; looks only at where that changes anything. Raises
        UnforeseenError."""
        after = replace(self, tracer=self.tracer.drop(names))
        return after._spread([self.tracer.flow.writer(name) for name in after.tracer.changed])

    def _spread(self, nodes: Sequence[int]) -> "WorkEstimate":
        """From these nodes on down, as far as anything changes."""
        tracer, flow = self.tracer, self.tracer.flow
        computed, marks, work = dict(self.computed), dict(self.marks), self.work
        queue = sorted(nodes)
        queued = set(queue)
        while queue:
            node = heappop(queue)
            name = flow.graph.nodes[node].output
            height, width, _ = flow.graph.shapes[name]
            extent = Extent(np.zeros(height, bool), np.zeros(width, bool))
            plain = [(read.name, read.window) for read in flow.reads[node]]
            for mask, window in tracer.regions.sources.get(name, plain):
                extent |= marks[mask].image(window)
            before = computed[name].positions if name in computed else 0
            work += (extent.positions - before) * self.per_position[node]
            computed[name] = extent
            if name in tracer.opaque:
                extent &= outline(flow, name, self.active_share)
            if name in marks and extent.equals(marks[name]):
                continue
            marks[name] = extent
            for user in map(flow.writer, tracer.users(name)):
                if user not in queued:
                    queued.add(user)
                    heappush(queue, user)
        return replace(self, computed=computed, marks=marks, work=work)


def attention_work(node: Node, shapes: Mapping[str, Shape]) -> int:
    """Multiply-adds of an Attention for one query."""
    queries, keys, values = (shapes[name] for name in node.inputs)
    height, width = node.attrs["window"]
    count = keys[0] * keys[1] if (height, width) == queries[:2] else height * width
    return count * (queries[2] + values[2])


def outline(flow: Dataflow, name: str, active_share: float) -> Extent:
    """The assumed rectangle as a tensor sees it."""
    lines = []
    for size in flow.graph.shapes[name][:2]:
        flags = np.zeros(size, bool)
        length = max(round(size * active_share**0.5), 1)
        flags[(size - length) // 2 :][:length] = True
        lines.append(flags)
    return Extent(lines[0], lines[1])


def work_per_position(flow: Dataflow, index: int) -> int:
    """Multiply-adds for one output position, roughly where there are no weights."""
    node, constants = flow.graph.nodes[index], flow.graph.constants
    kernels = [constants[name] for name in node.inputs if name in constants]
    sizes = [int(value.size) for value in kernels if value.ndim == 4]
    if sizes:
        return sum(sizes)
    if node.op == JOIN or flow.is_island(index):
        return 0
    if node.op == "Attention":
        return attention_work(node, flow.graph.shapes)
    taps = 1
    for read in flow.reads[index][:1]:
        if not read.whole:
            for span in (read.window.rows, read.window.cols):
                taps *= int(np.max(span.high - span.low, initial=1))
    return taps * flow.graph.shapes[node.output][2]
