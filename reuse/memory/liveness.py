"""Which activations the next frame still needs, and how long the others live.

This is liveness analysis as in a compiler (Appel, Modern Compiler Implementation, chapter 10), with
one addition: a position that is not active keeps its value from an earlier frame. So a tensor must
survive to the next frame, it is persistent, if some reader may look at a position that was not
written this frame:

- a reader that looks at several positions, only some of which are new;
- a reader of several tensors, where only another one changed, unless the marks of this one are
  proven to cover those of the others (`mask_implication`);
- a reader of the whole: pooling over the picture, an island, the caller;
- a cut-off, which compares with what it stored before.

Everything else is transient: its bytes are free after its last reader. Views live in the bytes of
another tensor, their root; if one of them is persistent all are.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import prod

from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.ir.windows import Window
from stillframe.reuse.memory.arena import ArenaRequest
from stillframe.reuse.memory.buffers import NO_PAD
from stillframe.reuse.memory.dataflow import Dataflow, Read
from stillframe.reuse.memory.mask_implication import MaskImplication

JOIN = "Concat"  # the operator that writes its output part by part
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a tensor must survive."""

    kind: str
    """One of KINDS."""
    reader: int | None
    """The node that forces it, if one does."""
    words: str


KINDS = {
    "input": "the picture that the caches stand for",
    "output": "callers get all of it",
    "island": "it arrives whole and is compared with the last one",
    "cut-off": "it is compared with what it stored before",
    "zero padding": "the zeros around it must stay",
    "window": "a reader looks at several positions",
    "others": "a reader looks where only another tensor changed",
    "whole": "a reader looks at all of it",
    "attention": "queries whose keys hardly moved keep their row",
}
LIFTED = frozenset({"window", "others", "zero padding"})
"""Reasons that fall away if what readers look at is computed again each frame and the zero padding
is cleared again."""
TRANSIENT = "every reader looks only at positions that were written this frame"

Reasons = Mapping[str, tuple[Reason, ...]]


@dataclass(frozen=True, slots=True)
class LiveRange:
    """One activation."""

    name: str
    root: str
    """The tensor in whose bytes it lies, itself if it is no view."""
    bytes: int
    """Of a root with its zero padding; 0 of a view."""
    persistent: bool
    why: str
    """In words, also for a transient."""
    reasons: tuple[Reason, ...]
    """Only its own: a view may have none and still persist with its root."""
    first: int
    """The instruction that writes it, -1 for a graph input."""
    last: int
    """The last instruction that reads it."""
    last_reader: str
    """In words, empty if nothing reads it."""


LiveRanges = Mapping[str, LiveRange]


def reasons_to_persist(flow: Dataflow, cutoffs: AbstractSet[str]) -> Reasons:
    """All that forces each activation to survive, with these tensors compared with stored values.

    Every other operator must mark all that was active. Raises ValueError for cut-offs that are no
    activations or have no values of their own.
    """
    reasons: dict[str, list[Reason]] = {name: [] for name in flow.names}
    for name in sorted(cutoffs):
        view = flow.storage.views.get(name)
        if name not in reasons:
            raise ValueError(f"cut-off {name!r} is no activation of the graph's regions")
        if view is not None and not view.own_mask:
            raise ValueError(
                f"cut-off {name!r} is a slice of {view.parent!r} and has no values of its own"
            )

    def force(name: str, kind: str, words: str = "", reader: int | None = None) -> None:
        if name in reasons:
            reasons[name].append(Reason(kind, reader, words or KINDS[kind]))

    for port in flow.graph.inputs:
        force(port.name, "input")
    for port in flow.graph.outputs:
        if port.name not in flow.exports:
            force(port.name, "output")
    masks = MaskImplication(flow, cutoffs)
    for index, node in enumerate(flow.graph.nodes):
        where = described(flow.graph, index)
        if node.op == ISLAND:
            for name in node.outputs:
                force(name, "island")
            for name in dict.fromkeys(node.inputs):
                if name not in flow.exports:
                    force(name, "whole", f"{where} looks at all of it", index)
            continue
        if node.op == "Attention":  # which looks at the marks of each of them by itself
            force(node.output, "attention")
            for name in dict.fromkeys(node.inputs):
                force(name, "whole", f"{where} looks at all of it", index)
        reads = flow.reads[index]
        for position, (name, window, whole) in enumerate(reads):
            if whole:
                force(name, "whole", f"{where} looks at all of it", index)
            elif not window.is_single:
                words = f"{where} looks at {_extent(window)} positions at once"
                force(name, "window", words, index)
            elif other := _changes_alone(masks, reads, position):
                if node.op == JOIN:
                    words = f"{where} joins {name!r} and {other!r}, which can change apart"
                    force(node.output, "others", words, index)
                else:
                    force(name, "others", f"{where} looks where only {other!r} changed", index)
    for name in cutoffs:
        force(name, "cut-off")
    for name, pad in flow.storage.zero_pads.items():
        if pad != NO_PAD:
            force(name, "zero padding")
    return {name: tuple(each) for name, each in reasons.items()}


def live_ranges(
    flow: Dataflow, reasons: Reasons, recomputed: AbstractSet[str] = frozenset()
) -> LiveRanges:
    """The life of each activation, in the order in which they begin.

    recomputed: tensors that need not survive on behalf of their readers, because what a reader
    looks at is computed again each frame (`required_regions`). Raises ValueError for those that are
    no activations or are compared with stored values.
    """
    for name in sorted(recomputed):
        if name not in reasons:
            raise ValueError(f"recomputed {name!r} is no activation of the graph's regions")
        if any(reason.kind == "cut-off" for reason in reasons[name]):
            raise ValueError(f"cut-off {name!r} is recomputed: nothing is stored to compare with")
    remaining = {
        name: tuple(r for r in each if name not in recomputed or r.kind not in LIFTED)
        for name, each in reasons.items()
    }
    ranges = {}
    for name in sorted(flow.names, key=flow.writer):
        root, first = flow.root(name), flow.writer(name)
        sharing = flow.sharing[root]
        reads = [
            index
            for index in flow.readers.get(name, ())
            if not flow.is_island(index) or name not in flow.exports
        ]
        ranges[name] = LiveRange(
            name,
            root,
            _bytes(flow, root) if root == name else 0,
            any(remaining[other] for other in sharing),
            _why(remaining, name, sharing),
            remaining[name],
            first,
            max([first, *reads]),
            described(flow.graph, reads[-1]) if reads else "",
        )
    return ranges


def persistent_roots(ranges: LiveRanges) -> frozenset[str]:
    """Roots that survive."""
    return frozenset(n for n, life in ranges.items() if life.root == n and life.persistent)


def root_requests(ranges: LiveRanges) -> tuple[ArenaRequest, ...]:
    """The bytes of each root, alive while any of its views is."""
    spans: dict[str, tuple[int, int]] = {}
    for life in ranges.values():
        first, last = spans.get(life.root, (life.first, life.last))
        spans[life.root] = min(first, life.first), max(last, life.last)
    return tuple(ArenaRequest(name, ranges[name].bytes, *span) for name, span in spans.items())


def arena_requests(ranges: LiveRanges) -> tuple[ArenaRequest, ...]:
    """What the arena must hold: the transient roots."""
    return tuple(each for each in root_requests(ranges) if not ranges[each.name].persistent)


def every_activation_bytes(graph: Graph) -> int:
    """What keeping the output of every operator of the regions would take."""
    return sum(
        prod(graph.shapes[node.output]) * FLOAT_BYTES for node in graph.nodes if node.op != ISLAND
    )


def described(graph: Graph, index: int) -> str:
    node = graph.nodes[index]
    return f"node {index} {node.op} -> {', '.join(map(repr, node.outputs))}"


def _changes_alone(masks: MaskImplication, reads: Sequence[Read], position: int) -> str:
    """The first other input whose marks can make the reader look at unmarked positions of this one,
    or ""."""
    name, window, _ = reads[position]
    for index, (other, theirs, _) in enumerate(reads):
        if index == position or not window.intersects(theirs):
            continue
        if not masks.implies(other, theirs, name, window):
            return other
    return ""


def _extent(window: Window) -> str:
    rows, cols = (int((span.high - span.low).max()) for span in (window.rows, window.cols))
    return f"{rows}x{cols}"


def _why(reasons: Reasons, name: str, sharing: Sequence[str]) -> str:
    """Of a tensor and those that share its bytes; zero padding last, for it has a cause itself."""
    ranked = sorted(
        (reason.kind == "zero padding", other != name, other, reason.words)
        for other in sharing
        for reason in reasons[other][:1]
    )
    if not ranked:
        return TRANSIENT
    _, shared, other, words = ranked[0]
    return f"it shares the bytes of {other!r}: {words}" if shared else words


def _bytes(flow: Dataflow, root: str) -> int:
    """(H + padding) x (W + padding) x C floats."""
    height, width, channels = flow.graph.shapes[root]
    top, left, bottom, right = flow.storage.zero_pad(root)
    return (top + height + bottom) * (left + width + right) * channels * FLOAT_BYTES
