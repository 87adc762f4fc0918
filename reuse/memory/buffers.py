"""Where every region tensor lies: which share a buffer, and how much zero padding surrounds it.

A buffer (a root) holds rows of pixels with a ring of zeros as wide as its widest reader needs, so
that convolutions never test for the border. Slices are views of what they cut, and what a Concat
joins is written straight into its place, unless something stands against it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stillframe.reuse.ir.graph import ISLAND, Graph, Node

Ring = tuple[int, int, int, int]  # top, left, bottom, right
NO_RING: Ring = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class BufferView:
    """A tensor inside another one's storage: element (y, x, c) is the parent's
    (start + (y, x, c) * step).

    own_mask: it is written by its own producer and marked apart (a part of a Concat); otherwise it
    is only read and its mask is the parent's.
    """

    parent: str
    start: tuple[int, int, int]
    step: tuple[int, int]
    own_mask: bool


@dataclass(frozen=True, slots=True)
class Storage:
    """views by tensor name; rings by root; every other region tensor is a root without a ring."""

    views: Mapping[str, BufferView]
    rings: Mapping[str, Ring]

    def root(self, name: str) -> str:
        while name in self.views:
            name = self.views[name].parent
        return name

    def ring(self, name: str) -> Ring:
        return self.rings.get(name, NO_RING)


def region_tensors(graph: Graph) -> list[str]:
    """Names of the tensors that region nodes read or write, constants excluded, in order."""
    found: dict[str, None] = {}
    layouts = {port.name: port.layout for port in graph.inputs}
    for node in graph.nodes:
        if node.op == ISLAND:
            continue
        for name in (*node.inputs, *node.outputs):
            if name not in graph.constants:
                found[name] = None
    return [name for name in found if layouts.get(name) != "raw"]


def needed_ring(node: Node, graph: Graph) -> Ring:
    """Zeros that a Conv reads around its first input."""
    height, width, _ = graph.shapes[node.inputs[0]]
    out_height, out_width, _ = graph.shapes[node.output]
    taps_y, taps_x = graph.shapes[node.inputs[1]][:2]
    (stride_y, stride_x), (dilation_y, dilation_x) = node.attrs["stride"], node.attrs["dilation"]
    top, left = node.attrs["pad"][:2]
    below = (out_height - 1) * stride_y - top + (taps_y - 1) * dilation_y + 1 - height
    right = (out_width - 1) * stride_x - left + (taps_x - 1) * dilation_x + 1 - width
    return top, left, max(below, 0), max(right, 0)


def widest(rings: Iterable[Ring]) -> Ring:
    found = NO_RING
    for ring in rings:
        found = tuple(map(max, found, ring))  # type: ignore[assignment]
    return found


def lay_out(graph: Graph) -> Storage:
    """Decide views and rings for a partitioned graph."""
    readers = graph.readers()
    wanted: dict[str, Ring] = {}
    for node in graph.nodes:
        if node.op == "Conv":
            name = node.inputs[0]
            wanted[name] = widest([wanted.get(name, NO_RING), needed_ring(node, graph)])
    producer = {name: node for node in graph.nodes for name in node.outputs}
    views: dict[str, BufferView] = {}
    partial: set[str] = set()  # views of a part of a picture: around them lies more of it
    for node in graph.nodes:
        if node.op == "Slice":
            view = slice_view(node, graph)
            same_size = graph.shapes[node.output][:2] == graph.shapes[view.parent][:2]
            whole = view.step == (1, 1) and same_size and view.parent not in partial
            padded = wanted.get(node.output, NO_RING) != NO_RING
            if view.parent not in graph.constants and (whole or not padded):
                views[node.output] = view
                if not whole:
                    partial.add(node.output)
    sliced = {view.parent for view in views.values()}

    def padded_within(whole: str) -> bool:
        """Whether a Conv reads zeros around a tensor or around one that lies in its bytes."""
        for name, ring in wanted.items():
            while name != whole and name in views:
                name = views[name].parent
            if name == whole and ring != NO_RING:
                return True
        return False

    for node in graph.nodes:
        if node.op != "Concat":
            continue
        axis = node.attrs["axis"]
        offset = 0
        for name in node.inputs:
            start = [0, 0, 0]
            start[axis] = offset
            offset += graph.shapes[name][axis]
            made = producer.get(name)
            in_place = (
                made is not None
                and made.op != ISLAND
                and name not in views
                and node.inputs.count(name) == 1
                and (axis == 2 or not (name in sliced or padded_within(name)))
                and not any(
                    graph.nodes[index].op == "Concat" and graph.nodes[index] is not node
                    for index in readers[name]
                )
            )
            if in_place:
                views[name] = BufferView(node.output, (start[0], start[1], start[2]), (1, 1), True)
    storage = Storage(views, {})
    rings: dict[str, Ring] = {}
    for name, ring in wanted.items():
        root = storage.root(name)
        rings[root] = widest([rings.get(root, NO_RING), ring])
    return Storage(views, rings)


def slice_view(node: Node, graph: Graph) -> BufferView:
    start, step = node.attrs["start"], node.attrs["step"]
    return BufferView(node.inputs[0], tuple(start), (step[0], step[1]), False)
