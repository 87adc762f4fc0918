"""A model cut in two segments, so that two threads work on consecutive frames.

    frame 2: ─head─┐ on one processor        frame 1: ┌─tail─ on another
                   └────── boundary tensors ──────────┘

The cut is where the halves have about the same multiply-adds and few bytes cross.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillframe.pipeline.inference.backends import (
    Device,
    Feed,
    island_providers,
    scale_tolerance,
    step_session,
)
from stillframe.reuse.gate.change_map import ChangeMap

if TYPE_CHECKING:  # only where a model is cut
    import onnx

MOST_BOUNDARY = 6
"""Tensors that may cross."""
UNEVEN = 0.2
"""How far from a half the head's share of the work may be."""
FLOAT = 1
"""`onnx.TensorProto.FLOAT`."""


class UncuttableError(Exception):
    """No cut divides the model well; the message says why."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A place between two nodes where a model can be divided."""

    names: tuple[str, ...]
    """The boundary: the tensors that cross."""
    share: float
    """Of all multiply-adds, before the cut."""
    size: int
    """Bytes of the boundary."""


def best_cut(model: "onnx.ModelProto") -> Cut:
    """Where to cut. Raises UncuttableError."""
    options = [cut for cut in cuts(model) if abs(cut.share - 0.5) <= UNEVEN]
    if not options:
        raise UncuttableError("no place divides its work well with few tensors crossing")
    largest = max(cut.size for cut in options)
    return min(options, key=lambda cut: abs(cut.share - 0.5) + 0.2 * cut.size / largest)


def cuts(model: "onnx.ModelProto") -> Iterator[Cut]:
    """Every place between two nodes where only whole float tensors of known shape cross."""
    graph = model.graph
    shapes = _shapes(graph)
    weights = {each.name for each in graph.initializer}
    inputs = {each.name for each in graph.input} - weights
    outputs = {each.name for each in graph.output}
    last_read: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        last_read.update({name: index for name in node.input if name and name not in weights})
    total = sum(_work(node, shapes, graph) for node in graph.node) or 1.0
    done, alive = 0.0, set(inputs)
    for index, node in enumerate(graph.node):
        done += _work(node, shapes, graph)
        alive |= {name for name in node.output if last_read.get(name, -1) > index}
        alive = {name for name in alive if last_read.get(name, -1) > index}
        if outputs & set(node.output):
            return  # the tail could not return what the head computes
        if not alive or alive & inputs or len(alive) > MOST_BOUNDARY:
            continue
        if all(len(shapes.get(name, ())) == 4 for name in alive):
            size = sum(4 * int(np.prod(shapes[name])) for name in alive)
            yield Cut(tuple(sorted(alive)), done / total, size)


def halves(path: Path) -> tuple[bytes, bytes, Cut]:
    """The models of head and tail, serialized, and the cut. Raises UncuttableError."""
    import onnx.utils
    from onnx import shape_inference

    model = shape_inference.infer_shapes(onnx.load(str(path)))
    weights = {each.name for each in model.graph.initializer}
    inputs = [each.name for each in model.graph.input if each.name not in weights]
    if len(inputs) > 1:
        raise UncuttableError("it has a state that is fed back")
    cut = best_cut(model)
    extractor: Any = onnx.utils.Extractor(model)
    names = list(cut.names)
    head = extractor.extract_model(inputs, names)
    tail = extractor.extract_model(names, [each.name for each in model.graph.output])
    return head.SerializeToString(), tail.SerializeToString(), cut


class SplitBackend:
    """Two reuse sessions, one for each half. `head` and `tail` may run in two threads at once.

    Outputs are views until the next call of the same half. tolerance, islands: see `ReuseBackend`.
    threads: of each half. Raises UncuttableError.

    A backend that is closed while frames are between its halves, as when another one takes its
    place, closes its tail after the last of them; `abandon` says that none of them will come.
    """

    incremental = True

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        tolerance: float = 0.0,
        islands: Device | None = None,
    ) -> None:
        from stillframe.reuse.session import ReuseSession

        head, tail, self.cut = halves(path)
        providers = island_providers(islands)
        self._head, self._tail = (
            ReuseSession(half, threads=threads, tolerance=tolerance, island_providers=providers)
            for half in (head, tail)
        )
        self._tail.follow_refresh(self._head.refresh_order)
        self._tolerance = self._head.tolerance
        self._lock = threading.Lock()
        self._between = 0
        """Frames that the head has run and the tail has not."""
        self._closing = False

    @property
    def cache_bytes(self) -> int:
        return self._head.memory.persistent + self._tail.memory.persistent

    @property
    def exact(self) -> bool:
        """Whether the tolerance is 0; `steer` then does nothing."""
        return self._tolerance.exact

    def steer(self, factor: float, lowered: bool) -> None:
        """Both halves, see `ReuseBackend.steer`."""
        for half in (self._head, self._tail):
            scale_tolerance(half, self._tolerance, factor, lowered)

    def head(self, feed: Feed, change: ChangeMap | None) -> list[NDArray[Any]]:
        """The boundary tensors, in the order of `cut.names`."""
        with self._lock:
            self._between += 1
        try:
            return step_session(self._head, feed, change)
        except BaseException:
            self._leave()
            raise

    def tail(self, boundary: list[NDArray[Any]], change: ChangeMap | None) -> list[NDArray[Any]]:
        """The outputs. change: of the picture that the head made this boundary of.

        What differs from the last boundary is found by comparing. Where the change renews rows of
        the picture, so are those rows of the boundary that the head renewed with them: they may be
        as they were, and yet layers of the tail may have cut off what led there.
        """
        try:
            feed = dict(zip(self.cut.names, boundary, strict=True))
            outputs, _ = self._tail.step(feed, dense=change is None or change.kind == "all")
            renewed = (0, 0) if change is None else change.renewed
            if renewed != (0, 0) and (marks := self._tail.refresh_marks(renewed)):
                outputs, _ = self._tail.step(feed, marks, renewed=renewed)
            return outputs
        finally:
            self._leave()

    def run(self, feed: Feed, change: ChangeMap | None) -> list[NDArray[Any]]:
        """Both halves, one after the other."""
        return self.tail(self.head(feed, change), change)

    def close(self) -> None:
        """Close the head now, and the tail once no frame is between them. From any thread."""
        self._head.close()
        with self._lock:
            self._closing = True
            finished = self._between == 0
        if finished:
            self._tail.close()

    def abandon(self) -> None:
        """No tail is run any more: frames between the halves do not keep it open."""
        with self._lock:
            self._between = 0
            closing = self._closing
        if closing:
            self._tail.close()

    def _leave(self) -> None:
        """A frame is no longer between the halves."""
        with self._lock:
            self._between = max(0, self._between - 1)
            finished = self._closing and self._between == 0
        if finished:
            self._tail.close()


def _shapes(graph: "onnx.GraphProto") -> dict[str, tuple[int, ...]]:
    """Fixed shapes of float tensors by name."""
    shapes = {}
    for each in (*graph.value_info, *graph.input, *graph.output):
        kind = each.type.tensor_type
        sizes = tuple(dim.dim_value for dim in kind.shape.dim)
        if kind.elem_type == FLOAT and all(sizes):
            shapes[each.name] = sizes
    return shapes


def _work(
    node: "onnx.NodeProto", shapes: dict[str, tuple[int, ...]], graph: "onnx.GraphProto"
) -> float:
    """Multiply-adds of a convolution; of any other node the elements that it writes."""
    out = float(np.prod(shapes.get(node.output[0], (0,))))
    if node.op_type != "Conv":
        return out
    for weights in graph.initializer:
        if weights.name == node.input[1]:
            return out * float(np.prod(weights.dims[1:]))
    return out
