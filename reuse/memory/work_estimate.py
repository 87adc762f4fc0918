"""How much a frame computes in which an assumed rectangle of the picture changed.

Cut-offs bring a change back to the rectangle's own outline; elsewhere it spreads by windows. What
is computed where tensors are recomputed is asked of `required_regions`; nothing is predicted here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from stillframe.reuse.ir.windows import Flags, Window
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.liveness import JOIN
from stillframe.reuse.memory.required_regions import Extension, RegionTracer, Sources

NO_EXTENSION = Extension(frozenset(), frozenset(), {}, {})


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """A rectangle of a tensor, perhaps with gaps."""

    rows: Flags
    cols: Flags

    @property
    def positions(self) -> int:
        return int(np.count_nonzero(self.rows)) * int(np.count_nonzero(self.cols))

    def equals(self, other: "Extent | None") -> bool:
        return (
            other is not None
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.cols, other.cols)
        )

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
class WorkChange:
    """What an extension of the required regions changes."""

    computed: Mapping[str, Extent]
    marks: Mapping[str, Extent]
    extra_work: int


class WorkEstimate:
    """Where each tensor is computed and marked, and the multiply-adds that this takes."""

    def __init__(self, tracer: RegionTracer, active_share: float) -> None:
        self._tracer, self._flow = tracer, tracer.flow
        self._share = active_share
        graph = self._flow.graph
        self._per_position = [work_per_position(self._flow, at) for at in range(len(graph.nodes))]
        self._computed: dict[str, Extent] = {}
        self._marks = {
            name: self.outline(name) for name in self._flow.names if not self._flow.reads_of(name)
        }
        self.work = 0
        region = [
            node.output for at, node in enumerate(graph.nodes) if not self._flow.is_island(at)
        ]
        self.accept(self._spread(region, NO_EXTENSION))

    def after(self, extension: Extension) -> WorkChange:
        """What an extension would change, looking only at where it does."""
        return self._spread(extension.sources, extension)

    def accept(self, change: WorkChange) -> None:
        self._computed |= change.computed
        self._marks |= change.marks
        self.work += change.extra_work

    def outline(self, name: str) -> Extent:
        """The assumed rectangle as this tensor sees it."""
        lines = []
        for size in self._flow.graph.shapes[name][:2]:
            flags = np.zeros(size, bool)
            length = max(round(size * self._share**0.5), 1)
            flags[(size - length) // 2 :][:length] = True
            lines.append(flags)
        return Extent(lines[0], lines[1])

    def _spread(self, names: Iterable[str], extension: Extension) -> WorkChange:
        """From these tensors on down, as far as anything changes."""
        computed: dict[str, Extent] = {}
        marks: dict[str, Extent] = {}
        extra_work = 0
        queue: list[int] = []
        queued: set[int] = set()

        def enqueue(name: str) -> None:
            node = self._flow.writer(name)
            if node not in queued:
                queued.add(node)
                heappush(queue, node)

        for name in names:
            enqueue(name)
        while queue:
            node = heappop(queue)
            name = self._flow.graph.nodes[node].output
            height, width, _ = self._flow.graph.shapes[name]
            extent = Extent(np.zeros(height, bool), np.zeros(width, bool))
            for mask, window in self._sources(name, extension):
                marked = marks[mask] if mask in marks else self._marks[mask]
                extent |= marked.image(window)
            before = self._computed.get(name)
            computed[name] = extent
            positions = extent.positions - (before.positions if before else 0)
            extra_work += positions * self._per_position[node]
            if name in self._tracer.opaque and name not in extension.dropped:
                extent &= self.outline(name)
            if not extent.equals(self._marks.get(name)):
                marks[name] = extent
                for user in self._tracer.users(name):
                    enqueue(user)
        return WorkChange(computed, marks, extra_work)

    def _sources(self, name: str, extension: Extension) -> Sources:
        sources = extension.sources.get(name, self._tracer.sources.get(name))
        if sources is None:
            return tuple((read.name, read.window) for read in self._flow.reads_of(name))
        return sources


def work_per_position(flow: Dataflow, index: int) -> int:
    """Multiply-adds for one output position, roughly where there are no weights."""
    node, constants = flow.graph.nodes[index], flow.graph.constants
    kernels = [constants[name] for name in node.inputs if name in constants]
    sizes = [int(value.size) for value in kernels if value.ndim == 4]
    if sizes:
        return sum(sizes)
    if node.op == JOIN or flow.is_island(index):
        return 0
    taps = 1
    for read in flow.reads[index][:1]:
        if not read.whole:
            for span in (read.window.rows, read.window.cols):
                taps *= int(np.max(span.high - span.low, initial=1))
    return taps * flow.graph.shapes[node.output][2]
