"""Which positions must be computed where some tensors are computed again instead of kept.

This is the one authority on it: the plan's tables follow it, and `rematerialize`, which chooses
what to recompute, asks it. It is bounds inference as in Halide (Ragan-Kelley et al., PLDI 2013),
with change masks in place of output rectangles.

A recomputed tensor holds nothing but what this frame put there. So whatever its readers look at is
computed first: it is required, not only active. Required regions follow from the masks of tensors
that are persistent, through the windows of readers and down again:

    persistent P ──► recomputed T ──► reader R      R is active where it reads, through T, a mark
                                                    of P
                                                    T is required where an active position of R
                                                    reads it

Marks of a required tensor say nothing about change, so nobody reads them: readers, too, take theirs
from tensors further up. What lives within the frame and is read together with a recomputed tensor
is required in the same way, or it would be read where it was not written.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from stillframe.reuse.ir.windows import Window, identity
from stillframe.reuse.memory.dataflow import INPUT, Dataflow

Sources = tuple[tuple[str, Window], ...]
"""Change masks, and what each position reads of them: it is computed where it reads a mark."""


class UnforeseenError(ValueError):
    """A required region depends on a mark that is only known later."""

    def __init__(self, node: int, mask: str, writer: int) -> None:
        super().__init__(
            f"node {node} would have to know what changes in {mask!r}, written by node {writer}"
        )
        self.mask = mask


@dataclass(frozen=True, slots=True)
class RequiredRegions:
    """The regions of one plan."""

    required: AbstractSet[str]
    """Tensors that are computed wherever they are required."""
    sources: Mapping[str, Sources]
    """Output of a node -> what it is computed for, where that is not simply its inputs' marks."""
    exports: Mapping[str, Sources]
    """Likewise of what is copied out."""


NOTHING = RequiredRegions(frozenset(), {}, {})


def required_regions(
    flow: Dataflow,
    persistent: AbstractSet[str],
    opaque: AbstractSet[str],
    recomputed: AbstractSet[str],
) -> RequiredRegions:
    """What has to be computed so that recomputing these tensors is safe.

    persistent: the roots that survive the frame. opaque: the cut-offs, whose marks follow from
    nothing. Raises UnforeseenError.
    """
    tracer = RegionTracer(flow, frozenset(persistent), frozenset(opaque))
    return tracer.drop({name for name in recomputed if tracer.is_transient(name)}).regions


@dataclass(frozen=True, slots=True)
class RegionTracer:
    """Required regions while one tensor after the other is dropped.

    A drop changes the regions of what is required along with it and of those who read that, and of
    nothing else. Only these are traced, so the time of a drop does not grow with the graph.
    """

    flow: Dataflow
    persistent: frozenset[str]
    """Roots that survive the frame."""
    opaque: frozenset[str]
    """Cut-offs: their marks follow from nothing."""
    regions: RequiredRegions = NOTHING
    changed: AbstractSet[str] = frozenset()
    """Outputs of nodes whose regions the last drop has changed."""
    traced: int = 0
    """How many regions all drops together have traced."""
    _users: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def drop(self, names: AbstractSet[str]) -> "RegionTracer":
        """The regions once these are recomputed, which are all that lies in some roots. Raises
        UnforeseenError."""
        flow = self.flow
        after = replace(
            self,
            persistent=self.persistent.difference(map(flow.root, names)),
            opaque=self.opaque - names,
        )
        added = after._read_together(names)
        trace = _Trace(
            flow,
            after.opaque,
            self.regions.required | added,
            dict(self.regions.sources),
            dict(self.regions.exports),
        )
        changed, traced = trace.run(added.union(*map(self.users, added)))
        users = dict(self._users)
        for name in changed:
            for mask, _ in (*trace.sources[name], *trace.exports.get(name, ())):
                users[mask] = users.get(mask, frozenset()) | {name}
        regions = RequiredRegions(trace.required, trace.sources, trace.exports)
        return replace(
            after, regions=regions, changed=changed, traced=self.traced + traced, _users=users
        )

    def is_transient(self, name: str) -> bool:
        """Whether a tensor lives within the frame."""
        return self.flow.writer(name) != INPUT and self.flow.root(name) not in self.persistent

    def users(self, mask: str) -> frozenset[str]:
        """Who may be computed for a mark of this mask: its readers, and those who take it from
        further down."""
        readers = self.flow.region_readers(mask)
        outputs = (self.flow.graph.nodes[reader].output for reader in readers)
        return self._users.get(mask, frozenset()).union(outputs)

    def _read_together(self, names: AbstractSet[str]) -> set[str]:
        """The dropped tensors, and what is read together with them or for them."""
        flow = self.flow
        together: set[str] = set()
        front = list(names)
        while front:
            name = front.pop()
            if name in together or name in self.regions.required or not self.is_transient(name):
                continue
            together.add(name)
            front += [read.name for read in flow.reads_of(name)]
            for reader in flow.region_readers(name):
                front += [read.name for read in flow.reads[reader]]
                output = flow.graph.nodes[reader].output
                view = flow.storage.views.get(output)
                if view is not None and not view.own_mask:  # its mask is that of what it cuts
                    front.append(output)
        return together


@dataclass(frozen=True, slots=True)
class _Trace:
    """Regions that are brought up to date, from the last node that is concerned up to the first."""

    flow: Dataflow
    opaque: AbstractSet[str]
    required: AbstractSet[str]
    sources: dict[str, Sources]
    exports: dict[str, Sources]

    def run(self, names: AbstractSet[str]) -> tuple[set[str], int]:
        """Trace these outputs and whatever depends on them: which have changed, and how many were
        traced."""
        changed: set[str] = set()
        queue = sorted({-self.flow.writer(name) for name in names})
        queued = set(queue)
        while queue:
            node = -heappop(queue)
            name, reads = self.flow.graph.nodes[node].output, self.flow.reads[node]
            if name in self.required:
                sources = self._for_readers(name, node)
            else:
                sources = self._origins([(read.name, read.window) for read in reads], node)
            if sources == self.sources.get(name):
                continue
            changed.add(name)
            self.sources[name] = sources
            for read in reads:
                above = -self.flow.writer(read.name)
                if read.name in self.required and above not in queued:
                    queued.add(above)
                    heappush(queue, above)
        return changed, len(queued)

    def _for_readers(self, name: str, node: int) -> Sources:
        """What a required tensor is computed for: whatever its readers are."""
        height, width, _ = self.flow.graph.shapes[name]
        needs: list[tuple[str, Window]] = []
        if name in self.flow.exports:
            self.exports[name] = self._origins([(name, identity(height, width))], node + 1)
            needs += self.exports[name]
        for reader in self.flow.region_readers(name):
            for read in self.flow.reads[reader]:
                if read.name == name:
                    needs += [
                        (mask, read.window.for_readers(window, height, width))
                        for mask, window in self.sources[self.flow.graph.nodes[reader].output]
                    ]
        return self._origins(needs, node)

    def _origins(self, marks: Iterable[tuple[str, Window]], before: int) -> Sources:
        """The same marks, by masks that tell of change and are known before an instruction."""
        flow = self.flow
        origins: list[tuple[str, Window]] = []
        pending: dict[str, Window] = {}
        queue: list[tuple[int, str]] = []

        def follow(name: str, window: Window) -> None:
            if name in pending:
                pending[name] = pending[name].hull(window)
            else:
                pending[name] = window
                heappush(queue, (-flow.writer(name), name))

        for name, window in marks:
            follow(name, window)
        while queue:
            _, name = heappop(queue)
            window, writer = pending.pop(name), flow.writer(name)
            if name not in self.required and writer < before:
                origins.append((name, window))
                continue
            if name in self.opaque or flow.is_island(writer):
                raise UnforeseenError(before, name, writer)
            for source, inner, _ in flow.reads[writer]:
                follow(source, window.compose(inner))
        return tuple(origins)
