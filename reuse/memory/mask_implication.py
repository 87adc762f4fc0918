"""What is certain about change masks before any frame has come: where one is set, so is another.

A mask marks the positions of a tensor that were stored anew this frame. An operator's output is
active where its windows meet a mark; without a cut-off it is marked wherever it is active. So marks
can be followed along windows, and two bounds follow: a mask holds at least what a chain without
cut-offs passes on to it, and at most what all its producers together can pass on.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import ISLAND, Graph, Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.ir.windows import Span, Window, same

Numbers = NDArray[np.int32]


def reads(node: Node, graph: Graph) -> list[tuple[str, Window | None]]:
    """The activations that a node reads, one entry per input; None: all of it for every output."""
    if node.op == ISLAND:
        windows: tuple[Window | None, ...] = (None,) * len(node.inputs)
    else:
        windows = OPS[node.op].window(node, graph.shapes)
    pairs = zip(node.inputs, windows, strict=True)
    return [(name, window) for name, window in pairs if name not in graph.constants]


@cache
def identity(height: int, width: int) -> Window:
    """Each position reads itself; always the same object, so that `through` need not compare."""
    return Window(same(height), same(width))


def everything(out: tuple[int, ...], inside: tuple[int, ...]) -> Window:
    """Each of out's (H, W) positions reads all of inside's."""
    rows, cols = (
        (np.zeros(out[axis], np.int32), np.full(out[axis], inside[axis], np.int32))
        for axis in (0, 1)
    )
    return Window(rows, cols)


def single(window: Window) -> bool:
    """Whether no output position reads more than one position."""
    return all(bool(np.all(high - low <= 1)) for low, high in (window.rows, window.cols))


def meet(one: Window, two: Window) -> bool:
    """Whether some output position reads through both."""
    pairs = ((one.rows, two.rows), (one.cols, two.cols))
    return all(bool(np.any((a[1] > a[0]) & (b[1] > b[0]))) for a, b in pairs)


def within(small: Window, large: Window) -> bool:
    """Whether `large` holds every position that `small` holds, for each output position."""
    return all(
        bool(np.all((low == high) | ((least <= low) & (high <= most))))
        for (low, high), (least, most) in ((small.rows, large.rows), (small.cols, large.cols))
    )


def through(outer: Window, inner: Window, *, at_least: bool) -> Window | None:
    """What is read by way of a tensor in between; windows can only say intervals.

    at_least: no more than what is surely read, None where that is no interval; otherwise no less
    than what may be read.
    """
    sizes = len(inner.rows[0]), len(inner.cols[0])
    if inner is identity(*sizes):
        return outer
    if outer is identity(*sizes):
        return inner
    rows = _span_through(outer.rows, inner.rows, at_least)
    cols = _span_through(outer.cols, inner.cols, at_least)
    return None if rows is None or cols is None else Window(rows, cols)


def _span_through(outer: Span, inner: Span, at_least: bool) -> Span | None:
    (low, high), (first, end) = outer, inner
    empty = low == high
    begin, last = np.where(empty, 0, low), np.where(empty, 0, high - 1)
    if bool(np.all(begin == last)):
        found = first[begin], end[begin]
    else:
        rising = bool(np.all(np.diff(first) >= 0) and np.all(np.diff(end) >= 0))
        if rising and bool(np.all(end > first)):
            if at_least and bool(np.any(first[1:] > end[:-1])):
                return None
            found = first[begin], end[last]
        elif at_least:
            return None
        else:
            found = np.full_like(first[begin], first.min()), np.full_like(first[begin], end.max())
    return np.where(empty, 0, found[0]), np.where(empty, 0, found[1])


def surely(node: Node, window: Window) -> Window | None:
    """The part of a window that is read without doubt.

    A dilated kernel leaves gaps: of it only the middle tap is taken, if it lies on the position.
    """
    dilation = node.attrs.get("dilation", (1, 1))
    if tuple(dilation) == (1, 1):
        return window
    spans = []
    for axis, (low, high) in enumerate((window.rows, window.cols)):
        if dilation[axis] == 1:
            spans.append((low, high))
            continue
        here = np.arange(len(low), dtype=np.int32)
        on_a_tap = node.attrs["stride"][axis] == 1 and node.attrs["pad"][axis] % dilation[axis] == 0
        if not (on_a_tap and bool(np.all((low <= here) & (here < high)))):
            return None
        spans.append((here, here + 1))
    return Window(spans[0], spans[1])


class Masks:
    """The masks of a graph.

    opaque: cut-offs. Their masks follow from nothing, like those of graph inputs and of what
    islands write: they may hold less than was active, or more where a refresh forces it.
    """

    def __init__(self, graph: Graph, opaque: Collection[str]) -> None:
        self._graph = graph
        self._opaque = frozenset(opaque)
        self._certain: dict[str, dict[str, Path]] = {}

    @cached_property
    def _writers(self) -> Mapping[str, int]:
        nodes = enumerate(self._graph.nodes)
        return {name: index for index, node in nodes for name in node.outputs}

    @cached_property
    def _reads(self) -> list[list[tuple[str, Window]]]:
        """As `reads`, with windows for what is read as a whole; nothing of what islands read."""
        found = []
        for node in self._graph.nodes:
            shapes = self._graph.shapes
            found.append(
                []
                if node.op == ISLAND
                else [
                    (name, _recognised(window or everything(shapes[node.output], shapes[name])))
                    for name, window in reads(node, self._graph)
                ]
            )
        return found

    def _sources(self, name: str) -> int | None:
        """The node that passes marks on to a tensor; None: nothing is known of where they come
        from."""
        index = None if name in self._opaque else self._writers.get(name)
        return None if index is None or self._graph.nodes[index].op == ISLAND else index

    def certain(self, name: str) -> Mapping[str, "Path"]:
        """Ancestor -> how each of its marks becomes a mark of `name`."""
        if name in self._certain:
            return self._certain[name]
        found = {name: Path(identity(*self._graph.shapes[name][:2]), frozenset())}
        queue = [(-self._writers.get(name, -1), name)]
        while queue:
            _, tensor = heappop(queue)
            index = self._sources(tensor)
            if index is None:
                continue
            passed = found[tensor].passed | {tensor}
            for source, window in self._reads[index]:
                sure = surely(self._graph.nodes[index], window)
                seen = through(found[tensor].window, sure, at_least=True) if sure else None
                if seen is None:
                    continue
                if source not in found:
                    heappush(queue, (-self._writers.get(source, -1), source))
                if source not in found or not within(seen, found[source].window):
                    found[source] = Path(seen, passed)
        self._certain[name] = found
        return found

    def follows(self, name: str, at: Window, cause: str, window: Window) -> frozenset[str] | None:
        """The proof that wherever `window` meets a mark of `cause`, the one position of `name` that
        `at` gives is marked: the tensors that must not be cut off for it. None: there is no proof.
        """
        paths: dict[str, Path] = {}
        for source, path in self.certain(name).items():
            seen = through(at, path.window, at_least=True)
            if seen is not None:
                paths[source] = Path(seen, path.passed)
        possible = {cause: window}
        queue = [(-self._writers.get(cause, -1), cause)]
        passed = frozenset[str]()
        while queue:
            _, tensor = heappop(queue)
            found = possible.pop(tensor)
            if tensor in paths and within(found, paths[tensor].window):
                passed |= paths[tensor].passed
                continue
            index = self._sources(tensor)
            if index is None:
                return None
            passed |= {tensor}
            for source, inner in self._reads[index]:
                seen = through(found, inner, at_least=False)
                assert seen is not None
                if source in possible:
                    possible[source] = hull(possible[source], seen)
                else:
                    possible[source] = seen
                    heappush(queue, (-self._writers.get(source, -1), source))
        return passed

    def dominates(self, name: str, other: str) -> bool:
        """Whether each marked position of `other` is sure to be marked in `name`, of equal size."""
        shape = self._graph.shapes[name][:2]
        if shape != self._graph.shapes[other][:2]:
            return False
        return self.follows(name, identity(*shape), other, identity(*shape)) is not None


@dataclass(frozen=True, slots=True)
class Path:
    """What is read of an ancestor, and the tensors on the way, which must not be cut off."""

    window: Window
    passed: frozenset[str]


def _recognised(window: Window) -> Window:
    """`identity` itself where a window is equal to it."""
    plain = identity(len(window.rows[0]), len(window.cols[0]))
    equal = within(window, plain) and within(plain, window)
    return plain if equal else window


def hull(one: Window, two: Window) -> Window:
    return Window(_span_hull(one.rows, two.rows), _span_hull(one.cols, two.cols))


def _span_hull(one: Span, two: Span) -> Span:
    (low, high), (first, end) = one, two
    nothing, nothing_more = low == high, first == end
    return (
        np.where(nothing, first, np.where(nothing_more, low, np.minimum(low, first))),
        np.where(nothing, end, np.where(nothing_more, high, np.maximum(high, end))),
    )
