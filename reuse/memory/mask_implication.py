"""Proofs that a mark in one change mask implies a mark in another, before any frame has come.

A change mask marks the positions of a tensor that were stored anew this frame. An operator's output
is active where its windows meet a mark; without a cut-off it is marked wherever it is active. So
marks can be followed along windows, and two bounds follow:

- least: a mask holds whatever a path of operators without cut-offs surely passes on to it;
- most: a mask holds no more than all of its writers together may pass on.

Where the most of one mask lies within the least of another, a mark in the first implies one in the
second.
"""

from collections.abc import Collection
from heapq import heappop, heappush

import numpy as np

from stillframe.reuse.ir.graph import Node
from stillframe.reuse.ir.windows import Span, Window, identity
from stillframe.reuse.memory.dataflow import INPUT, Dataflow

Paths = dict[str, Window]  # ancestor -> what is read of it

LONGEST = 200
"""Tensors that one proof may pass. The longest in known models passes 71; in a deep chain of
residual blocks a vain search would go on to the picture."""


class MaskImplication:
    """The change masks of a graph.

    opaque: cut-offs. Their masks follow from nothing, like those of graph inputs and of what
    islands write: they may hold less than was active, or more where a refresh forces it.
    """

    def __init__(self, flow: Dataflow, opaque: Collection[str]) -> None:
        self._flow = flow
        self._opaque = frozenset(opaque)
        self._least: dict[str, _LeastPaths] = {}

    def implies(self, cause: str, window: Window, name: str, at: Window) -> bool:
        """Whether it is proven that wherever `window` meets a mark of `cause`, the one position of
        `name` that `at` gives is marked."""
        least = self._least.setdefault(name, _LeastPaths(self, name))
        most = {cause: window}
        queue = [(-self._flow.writer(cause), cause)]
        for _ in range(LONGEST):  # up from the cause, latest writer first, until all is covered
            if not queue:
                return True
            _, tensor = heappop(queue)
            reached = most.pop(tensor)
            path = least.of(tensor)
            covered = None if path is None else at.compose_exactly(path)
            if covered is not None and covered.contains(reached):
                continue
            if not self.passes_on(tensor):
                return False
            for source, inner, _ in self._flow.reads_of(tensor):
                seen = reached.compose(inner)
                if source in most:
                    most[source] = most[source].hull(seen)
                else:
                    most[source] = seen
                    heappush(queue, (-self._flow.writer(source), source))
        return False

    def passes_on(self, name: str) -> bool:
        """Whether the mask of a tensor follows from those of what its writer reads."""
        writer = self._flow.writer(name)
        return name not in self._opaque and writer != INPUT and not self._flow.is_island(writer)


class _LeastPaths:
    """Ancestor -> what is surely passed on from it to one tensor; found as far up as asked."""

    def __init__(self, masks: MaskImplication, name: str) -> None:
        self._masks, self._flow = masks, masks._flow
        self._paths: Paths = {name: identity(*self._flow.graph.shapes[name][:2])}
        self._queue = [(-self._flow.writer(name), name)]

    def of(self, ancestor: str) -> Window | None:
        writer = self._flow.writer(ancestor)
        while self._queue and -self._queue[0][0] > writer:
            self._step()
        return self._paths.get(ancestor)

    def _step(self) -> None:
        _, tensor = heappop(self._queue)
        if not self._masks.passes_on(tensor):
            return
        node = self._flow.graph.nodes[self._flow.writer(tensor)]
        for source, window, _ in self._flow.reads_of(tensor):
            sure = surely_read(node, window)
            seen = None if sure is None else self._paths[tensor].compose_exactly(sure)
            if seen is None:
                continue
            if source not in self._paths:
                heappush(self._queue, (-self._flow.writer(source), source))
            if source not in self._paths or not self._paths[source].contains(seen):
                self._paths[source] = seen


def surely_read(node: Node, window: Window) -> Window | None:
    """The part of a window that is read without doubt.

    A dilated kernel leaves gaps: of it only the middle tap is taken, if it lies on the position.
    """
    if node.op == "Regrid":  # its window holds more than is read
        return None
    dilation = node.attrs.get("dilation", (1, 1))
    spans = []
    for axis, span in enumerate((window.rows, window.cols)):
        if dilation[axis] == 1:
            spans.append(span)
            continue
        here = np.arange(len(span.low), dtype=np.int32)
        on_a_tap = node.attrs["stride"][axis] == 1 and node.attrs["pad"][axis] % dilation[axis] == 0
        if not (on_a_tap and bool(np.all((span.low <= here) & (here < span.high)))):
            return None
        spans.append(Span(here, here + 1))
    return Window(spans[0], spans[1])
