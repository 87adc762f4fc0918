"""Who writes and who reads each activation of a partitioned graph, and where it lies.

The planner asks the same few questions of a graph thousands of times; here they are answered once.
An activation is a tensor that a region writes or reads; what only islands touch is none, nor are
constants. Nodes are named by their index in the graph, which is also the instruction that liveness
counts in.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple

from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.ir.windows import Span, Window, everything
from stillframe.reuse.memory.buffers import Storage, lay_out, region_tensors

INPUT = -1  # writes the graph's inputs


class Read(NamedTuple):
    """One activation that a node reads."""

    name: str
    window: Window
    whole: bool
    """The operator asks for all of it (pooling over the picture), whatever its size."""


@dataclass(frozen=True, slots=True)
class Dataflow:
    """A graph as the memory planner sees it."""

    graph: Graph
    storage: Storage
    exports: AbstractSet[str]
    """Copied out right behind their writer, so that no caller or island reads them later."""
    names: tuple[str, ...]
    """All activations, in the order in which a region first touches them."""
    reads: tuple[tuple[Read, ...], ...]
    """Of each node; nothing for an island, which reads whole arrays."""
    readers: Mapping[str, tuple[int, ...]]
    """The nodes that read an activation, islands included, in order."""
    sharing: Mapping[str, tuple[str, ...]]
    """Root -> the activations that lie in its bytes, itself included."""
    _writers: Mapping[str, int]

    @classmethod
    def of(cls, graph: Graph, exports: AbstractSet[str] = frozenset()) -> "Dataflow":
        """Raises ValueError for an export that is no activation."""
        storage = lay_out(graph)
        names = tuple(region_tensors(graph))
        for name in sorted(set(exports).difference(names)):
            raise ValueError(f"export {name!r} is no activation of the graph's regions")
        sharing: dict[str, tuple[str, ...]] = {}
        for name in names:
            root = storage.root(name)
            sharing[root] = (*sharing.get(root, ()), name)
        return cls(
            graph,
            storage,
            exports,
            names,
            reads=_reads(graph),
            readers={name: tuple(dict.fromkeys(at)) for name, at in graph.readers().items()},
            sharing=sharing,
            _writers={n: at for at, node in enumerate(graph.nodes) for n in node.outputs},
        )

    def writer(self, name: str) -> int:
        """The node that writes a tensor, INPUT for an input of the graph."""
        return self._writers.get(name, INPUT)

    def reads_of(self, name: str) -> tuple[Read, ...]:
        """What goes into a tensor through windows; nothing for inputs and outputs of islands."""
        writer = self.writer(name)
        return () if writer == INPUT else self.reads[writer]

    def region_readers(self, name: str) -> tuple[int, ...]:
        """The nodes that read an activation through windows."""
        return tuple(at for at in self.readers.get(name, ()) if not self.is_island(at))

    def root(self, name: str) -> str:
        """The tensor in whose bytes this one lies."""
        return self.storage.root(name)

    def is_island(self, index: int) -> bool:
        return index != INPUT and self.graph.nodes[index].op == ISLAND

    def is_vector(self, name: str) -> bool:
        """One position, such as the output of global pooling."""
        return tuple(self.graph.shapes[name][:2]) == (1, 1)


def _reads(graph: Graph) -> tuple[tuple[Read, ...], ...]:
    """Equal spans are one object, so that compositions that recur are found at once."""
    spans: dict[Span, Span] = {}

    def shared(window: Window) -> Window:
        rows, cols = (spans.setdefault(each, each) for each in (window.rows, window.cols))
        return Window(rows, cols)

    reads: list[tuple[Read, ...]] = []
    for node in graph.nodes:
        if node.op == ISLAND:
            reads.append(())
            continue
        windows = OPS[node.op].window(node, graph.shapes)
        out = graph.shapes[node.output]
        reads.append(
            tuple(
                Read(name, shared(window or everything(out, graph.shapes[name])), window is None)
                for name, window in zip(node.inputs, windows, strict=True)
                if name not in graph.constants
            )
        )
    return tuple(reads)
