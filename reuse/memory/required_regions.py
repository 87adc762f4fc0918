"""Which positions must be computed where some tensors are computed again instead of kept.

A tensor that is dropped after each frame (`halo`) holds nothing but what this frame put there. So
whatever its readers look at is computed first: it is wanted, not only active. Wanted positions
follow from the masks of tensors that are kept, through the windows of readers and forward again:

    kept K ──► dropped T ──► reader R        R is active where it reads, through T, a mark of K
                                             T is wanted where an active position of R reads it

Marks of a wanted tensor say nothing about change, so nobody reads them: readers, too, take theirs
from tensors further up. What lives within the frame and is read together with a dropped tensor is
wanted in the same way, or it would be read where it was not written.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.ir.windows import Span, Window
from stillframe.reuse.memory.buffers import Storage
from stillframe.reuse.memory.mask_implication import everything, hull, identity, reads, through

Sources = tuple[tuple[str, Window], ...]


class UnforeseenError(ValueError):
    """What is wanted of a dropped tensor depends on a mark that is only known later."""


@dataclass(frozen=True, slots=True)
class Demand:
    """widened: the tensors that are computed where they are wanted. sources: output of a node ->
    the marks that make its positions active or wanted, where these are not simply those of its
    inputs. exports: likewise, for what is copied out."""

    widened: frozenset[str]
    sources: Mapping[str, Sources]
    exports: Mapping[str, Sources]


NOTHING = Demand(frozenset(), {}, {})


def demand(
    graph: Graph,
    storage: Storage,
    kept: AbstractSet[str],
    opaque: AbstractSet[str],
    recomputed: AbstractSet[str],
    exports: AbstractSet[str] = frozenset(),
) -> Demand:
    """What has to be computed so that dropping `recomputed` is safe.

    kept: the roots that survive the frame. opaque: the cut-offs, whose marks follow from nothing.
    exports: tensors that are copied out behind their writer. Raises UnforeseenError.
    """
    if not recomputed:
        return NOTHING
    return _Tracer(graph, storage, kept, opaque, recomputed, exports).trace()


class _Tracer:
    def __init__(
        self,
        graph: Graph,
        storage: Storage,
        kept: AbstractSet[str],
        opaque: AbstractSet[str],
        recomputed: AbstractSet[str],
        exports: AbstractSet[str],
    ) -> None:
        self._graph = graph
        self._storage = storage
        self._kept = kept
        self._opaque = opaque
        self._exports = exports
        self._writers = {n: index for index, node in enumerate(graph.nodes) for n in node.outputs}
        self._reads: list[list[tuple[str, Window]]] = [
            []
            if node.op == ISLAND
            else [
                (name, window or everything(graph.shapes[node.output], graph.shapes[name]))
                for name, window in reads(node, graph)
            ]
            for node in graph.nodes
        ]
        self._widened = self._closure(recomputed)

    def _lives_shortly(self, name: str) -> bool:
        return name in self._writers and self._storage.root(name) not in self._kept

    def _closure(self, recomputed: AbstractSet[str]) -> frozenset[str]:
        """The dropped tensors, and what is read together with them or for them."""
        found: set[str] = set()
        front = [name for name in recomputed if self._lives_shortly(name)]
        readers = self._graph.readers()

        def beside(index: int) -> list[str]:
            return [name for name, _ in self._reads[index] if self._lives_shortly(name)]

        while front:
            name = front.pop()
            if name in found:
                continue
            found.add(name)
            front += beside(self._writers[name])
            for index in readers.get(name, ()):
                front += beside(index)
                output = self._graph.nodes[index].output
                view = self._storage.views.get(output)
                if view is not None and not view.own_mask:  # its mask is that of what it cuts
                    front.append(output)
        return frozenset(found)

    def trace(self) -> Demand:
        sources: dict[str, Sources] = {}
        exports: dict[str, Sources] = {}
        readers = self._graph.readers()
        for index in range(len(self._graph.nodes) - 1, -1, -1):
            node = self._graph.nodes[index]
            if node.op == ISLAND:
                continue
            name = node.output
            if name not in self._widened:
                if any(read in self._widened for read, _ in self._reads[index]):
                    sources[name] = self._origins(self._reads[index], index)
                continue
            size = self._graph.shapes[name]
            wanted: list[tuple[str, Window]] = []
            if name in self._exports:
                exports[name] = self._origins([(name, identity(*size[:2]))], index + 1)
                wanted += exports[name]
            for reader in readers.get(name, ()):
                for read, window in self._reads[reader]:
                    if read == name:
                        marks = sources[self._graph.nodes[reader].output]
                        wanted += [(m, turned(window, through_it, size)) for m, through_it in marks]
            sources[name] = self._origins(wanted, index)
        return Demand(self._widened, sources, exports)

    def _origins(self, marks: Sequence[tuple[str, Window]], before: int) -> Sources:
        """The same marks, by masks that tell of change and are known before an instruction."""
        found: list[tuple[str, Window]] = []
        pending: dict[str, Window] = {}
        queue: list[tuple[int, str]] = []

        def follow(name: str, window: Window) -> None:
            if name in pending:
                pending[name] = hull(pending[name], window)
            else:
                pending[name] = window
                heappush(queue, (-self._writers.get(name, -1), name))

        for name, window in marks:
            follow(name, window)
        while queue:
            _, name = heappop(queue)
            window = pending.pop(name)
            writer = self._writers.get(name, -1)
            if name not in self._widened and writer < before:
                found.append((name, window))
                continue
            if name in self._opaque or self._graph.nodes[writer].op == ISLAND:
                raise UnforeseenError(
                    f"node {before} would have to know what changes in {name!r}, written by node "
                    f"{writer}"
                )
            for source, inner in self._reads[writer]:
                seen = through(window, inner, at_least=False)
                assert seen is not None
                follow(source, seen)
        return tuple(found)


def turned(window: Window, marks: Window, size: Sequence[int]) -> Window:
    """A reader's positions read `window` of a tensor of this (H, W, C) and depend on `marks` of
    another: what each position of the tensor depends on, on behalf of those that read it."""
    rows = _turned(window.rows, marks.rows, size[0])
    return Window(rows, _turned(window.cols, marks.cols, size[1]))


def _turned(window: Span, marks: Span, size: int) -> Span:
    (low, high), (first, end) = window, marks
    nothing = np.int32(np.iinfo(np.int32).max)
    lowest = np.full(size, nothing)
    highest = np.zeros(size, np.int32)
    for step in range(int(np.max(high - low, initial=0))):
        reading = (low + step < high) & (first < end)
        np.minimum.at(lowest, (low + step)[reading], first[reading])
        np.maximum.at(highest, (low + step)[reading], end[reading])
    empty = lowest == nothing
    return np.where(empty, 0, lowest).astype(np.int32), np.where(empty, 0, highest).astype(np.int32)
