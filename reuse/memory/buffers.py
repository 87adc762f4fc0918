"""Where every region tensor lies: which share a buffer, and how much zero padding surrounds it.

A buffer (a root) holds rows of pixels with as many zeros around them as its widest reader needs, so
that convolutions never test for the border. Slices are views of what they cut, and what a Concat
joins is written straight into its place, unless something stands against it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stillframe.reuse.ir.graph import ISLAND, Graph, Node

ZeroPad = tuple[int, int, int, int]  # top, left, bottom, right
NO_PAD: ZeroPad = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class BufferView:
    """A tensor inside another one's storage: element (y, x, c) is the parent's
    (start + (y, x, c) * step)."""

    parent: str
    start: tuple[int, int, int]
    step: tuple[int, int]
    own_mask: bool
    """It is written by its own producer and marked apart (a part of a Concat). Otherwise it is only
    read and its mask is the parent's."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The buffers of a graph."""

    views: Mapping[str, BufferView]
    """By tensor; every other region tensor is a root."""
    zero_pads: Mapping[str, ZeroPad]
    """By root; every other root has none."""

    def root(self, name: str) -> str:
        """The tensor in whose bytes this one lies, itself if it is no view."""
        while name in self.views:
            name = self.views[name].parent
        return name

    def zero_pad(self, name: str) -> ZeroPad:
        return self.zero_pads.get(name, NO_PAD)


def region_tensors(graph: Graph) -> list[str]:
    """Names of the tensors that region nodes read or write, constants excluded, in order."""
    layouts = {port.name: port.layout for port in graph.inputs}
    names = dict.fromkeys(
        name
        for node in graph.nodes
        if node.op != ISLAND
        for name in (*node.inputs, *node.outputs)
        if name not in graph.constants
    )
    return [name for name in names if layouts.get(name) != "raw"]


def needed_pad(node: Node, graph: Graph) -> ZeroPad:
    """Zeros that a Conv reads around its first input."""
    height, width, _ = graph.shapes[node.inputs[0]]
    out_height, out_width, _ = graph.shapes[node.output]
    taps_y, taps_x = graph.shapes[node.inputs[1]][:2]
    (stride_y, stride_x), (dilation_y, dilation_x) = node.attrs["stride"], node.attrs["dilation"]
    top, left = node.attrs["pad"][:2]
    side = node.attrs.get("winograd", 0)
    if side:  # whole tiles
        out_height, out_width = (-(-size // side) * side for size in (out_height, out_width))
    bottom = (out_height - 1) * stride_y - top + (taps_y - 1) * dilation_y + 1 - height
    right = (out_width - 1) * stride_x - left + (taps_x - 1) * dilation_x + 1 - width
    return top, left, max(bottom, 0), max(right, 0)


def widest(pads: Iterable[ZeroPad]) -> ZeroPad:
    """As many zeros on each side as any of them has."""
    top, left, bottom, right = zip(NO_PAD, *pads, strict=True)
    return max(top), max(left), max(bottom), max(right)


def lay_out(graph: Graph) -> Storage:
    """Decide views and zero padding for a partitioned graph."""
    needed: dict[str, ZeroPad] = {}
    for node in graph.nodes:
        if node.op == "Conv":
            name = node.inputs[0]
            needed[name] = widest([needed.get(name, NO_PAD), needed_pad(node, graph)])
    views = _slices(graph, needed)
    views |= _joined_parts(graph, needed, views)
    roots = Storage(views, {})
    pads: dict[str, ZeroPad] = {}
    for name, pad in needed.items():
        root = roots.root(name)
        pads[root] = widest([pads.get(root, NO_PAD), pad])
    return Storage(views, pads)


def _slices(graph: Graph, needed: Mapping[str, ZeroPad]) -> dict[str, BufferView]:
    """Slices as views of what they cut; not where a Conv wants zeros around a part of a picture,
    for there lies more of the picture."""
    views: dict[str, BufferView] = {}
    partial: set[str] = set()
    for node in graph.nodes:
        if node.op != "Slice":
            continue
        start, step = node.attrs["start"], node.attrs["step"]
        view = BufferView(node.inputs[0], tuple(start), (step[0], step[1]), own_mask=False)
        same_size = graph.shapes[node.output][:2] == graph.shapes[view.parent][:2]
        whole = view.step == (1, 1) and same_size and view.parent not in partial
        padded = needed.get(node.output, NO_PAD) != NO_PAD
        if view.parent not in graph.constants and (whole or not padded):
            views[node.output] = view
            if not whole:
                partial.add(node.output)
    return views


def _joined_parts(
    graph: Graph, needed: Mapping[str, ZeroPad], slices: Mapping[str, BufferView]
) -> dict[str, BufferView]:
    """What a Concat joins as views of the whole, where nothing else holds a part elsewhere."""
    readers = graph.readers()
    writers = {name: node for node in graph.nodes for name in node.outputs}
    cut = {view.parent for view in slices.values()}
    views = dict(slices)

    def padded_within(whole: str) -> bool:
        """Whether a Conv reads zeros around a tensor or around one that lies in its bytes."""
        for name, pad in needed.items():
            while name != whole and name in views:
                name = views[name].parent
            if name == whole and pad != NO_PAD:
                return True
        return False

    for node in graph.nodes:
        if node.op != "Concat":
            continue
        axis, offset = node.attrs["axis"], 0
        for name in node.inputs:
            start = [0, 0, 0]
            start[axis] = offset
            offset += graph.shapes[name][axis]
            writer = writers.get(name)
            in_place = (
                writer is not None
                and writer.op != ISLAND
                and name not in views
                and node.inputs.count(name) == 1
                and (axis == 2 or not (name in cut or padded_within(name)))
                and not any(
                    graph.nodes[index].op == "Concat" and graph.nodes[index] is not node
                    for index in readers[name]
                )
            )
            if in_place:
                views[name] = BufferView(node.output, (start[0], start[1], start[2]), (1, 1), True)
    return views
