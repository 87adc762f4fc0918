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
from dataclasses import dataclass, field
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
    tracer = RegionTracer(flow, set(persistent), set(opaque))
    tracer.accept(tracer.drop({name for name in recomputed if tracer.is_transient(name)}))
    return RequiredRegions(tracer.required, tracer.sources, tracer.exports)


@dataclass(frozen=True, slots=True)
class Extension:
    """What recomputing a few more tensors changes: the tensors, those that become required, and
    regions that replace those there were."""

    dropped: AbstractSet[str]
    required: AbstractSet[str]
    sources: Mapping[str, Sources]
    exports: Mapping[str, Sources]


@dataclass(slots=True)
class RegionTracer:
    """Required regions while one tensor after the other is dropped.

    A drop changes the regions of what is required along with it and of those who read that, and of
    nothing else; so only these are traced, and the time of a drop does not grow with the graph.
    """

    flow: Dataflow
    persistent: set[str]
    """Roots that survive the frame."""
    opaque: set[str]
    """Cut-offs: their marks follow from nothing."""
    required: set[str] = field(default_factory=set)
    sources: dict[str, Sources] = field(default_factory=dict)
    exports: dict[str, Sources] = field(default_factory=dict)
    traced: int = 0
    """How many regions were traced so far, accepted or not."""
    _users: dict[str, set[str]] = field(default_factory=dict)

    def drop(self, names: AbstractSet[str]) -> Extension:
        """What recomputing these, which are all that lies in some roots, would change; so far
        nothing does. Raises UnforeseenError."""
        return _Drop(self, names).trace()

    def accept(self, extension: Extension) -> None:
        """Change it."""
        self.persistent -= {self.flow.root(name) for name in extension.dropped}
        self.opaque -= extension.dropped
        self.required |= extension.required
        self.sources |= extension.sources
        self.exports |= extension.exports
        for regions in (extension.sources, extension.exports):
            for name, sources in regions.items():
                for mask, _ in sources:
                    self._users.setdefault(mask, set()).add(name)

    def is_transient(self, name: str) -> bool:
        """Whether a tensor lives within the frame."""
        return self.flow.writer(name) != INPUT and self.flow.root(name) not in self.persistent

    def users(self, mask: str) -> set[str]:
        """Who may be computed for a mark of this mask: its readers, and those who take it from
        further down."""
        outputs = (self.flow.graph.nodes[at].output for at in self.flow.region_readers(mask))
        return self._users.get(mask, set()).union(outputs)


class _Drop:
    """One extension while it is traced, from the last node that it concerns up to the first."""

    def __init__(self, tracer: RegionTracer, names: AbstractSet[str]) -> None:
        self._tracer, self._flow, self._dropped = tracer, tracer.flow, names
        self._transient = {tracer.flow.root(name) for name in names}
        self._required = self._read_together(names)
        self._sources: dict[str, Sources] = {}
        self._exports: dict[str, Sources] = {}

    def trace(self) -> Extension:
        flow = self._flow
        queue: list[int] = []  # of negative nodes
        queued: set[int] = set()

        def enqueue(name: str) -> None:
            node = flow.writer(name)
            if node not in queued:
                queued.add(node)
                heappush(queue, -node)

        for name in self._required:
            enqueue(name)
            for user in self._tracer.users(name):
                enqueue(user)
        while queue:
            node = -heappop(queue)
            name = flow.graph.nodes[node].output
            self._tracer.traced += 1
            if self._is_required(name):
                sources = self._for_readers(name, node)
            else:
                sources = self._origins(
                    [(read.name, read.window) for read in flow.reads[node]], node
                )
            if sources != self._sources_of(name):
                self._sources[name] = sources
                for read in flow.reads[node]:
                    if self._is_required(read.name):
                        enqueue(read.name)
        return Extension(self._dropped, self._required, self._sources, self._exports)

    def _read_together(self, names: AbstractSet[str]) -> set[str]:
        """The dropped tensors, and what is read together with them or for them."""
        flow = self._flow
        together: set[str] = set()
        front = list(names)
        while front:
            name = front.pop()
            if name in together or name in self._tracer.required or not self._is_transient(name):
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

    def _is_transient(self, name: str) -> bool:
        return self._flow.root(name) in self._transient or self._tracer.is_transient(name)

    def _is_required(self, name: str) -> bool:
        return name in self._required or name in self._tracer.required

    def _sources_of(self, name: str) -> Sources | None:
        return self._sources.get(name, self._tracer.sources.get(name))

    def _for_readers(self, name: str, node: int) -> Sources:
        """What a required tensor is computed for: whatever its readers are."""
        height, width, _ = self._flow.graph.shapes[name]
        needs: list[tuple[str, Window]] = []
        if name in self._flow.exports:
            self._exports[name] = self._origins([(name, identity(height, width))], node + 1)
            needs += self._exports[name]
        for reader in self._flow.region_readers(name):
            sources = self._sources_of(self._flow.graph.nodes[reader].output)
            assert sources is not None, "readers are traced first"
            for read in self._flow.reads[reader]:
                if read.name == name:
                    needs += [
                        (mask, read.window.for_readers(window, height, width))
                        for mask, window in sources
                    ]
        return self._origins(needs, node)

    def _origins(self, marks: Iterable[tuple[str, Window]], before: int) -> Sources:
        """The same marks, by masks that tell of change and are known before an instruction."""
        flow = self._flow
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
            if not self._is_required(name) and writer < before:
                origins.append((name, window))
                continue
            if (name in self._tracer.opaque and name not in self._dropped) or flow.is_island(
                writer
            ):
                raise UnforeseenError(before, name, writer)
            for source, inner, _ in flow.reads[writer]:
                follow(source, window.compose(inner))
        return tuple(origins)
