"""Whatever is claimed of masks must hold: proofs against the truth, by following every mark."""

import random
from collections.abc import Callable, Collection, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.ir.windows import everything, identity
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.mask_implication import MaskImplication
from tests.frames import by_definition, by_window
from tests.nets import Net, random_net

Flags = NDArray[np.bool_]


def masks_of(graph: Graph, opaque: Collection[str] = ()) -> MaskImplication:
    return MaskImplication(Dataflow.of(graph), opaque)


def dominates(masks: MaskImplication, graph: Graph, name: str, other: str) -> bool:
    """Whether each marked position of `other` is proven to be marked in `name`, of equal size."""
    shape = graph.shapes[name][:2]
    if shape != graph.shapes[other][:2]:
        return False
    at = identity(*shape)
    return masks.implies(other, at, name, at)


Truth = dict[str, dict[str, Flags]]


def marks_that_reach(graph: Graph, opaque: frozenset[str], broad: bool) -> Truth:
    """Tensor -> source -> (its positions, the source's): which mark of a source leads to which.

    Sources are graph inputs, cut-offs and what islands write. Marks only ever add up, so if a rule
    holds for every single mark it holds for all sets of them.
    """
    reaching: Truth = {}
    spread = by_window if broad else by_definition

    def source(name: str) -> None:
        height, width, _ = graph.shapes[name]
        reaching[name] = {name: np.eye(height * width, dtype=bool)}

    for port in graph.inputs:
        source(port.name)
    for node in graph.nodes:
        for name in node.outputs:
            if node.op == ISLAND or name in opaque:
                source(name)
                continue
            reached: dict[str, Flags] = {}
            for number, read in enumerate(node.inputs):
                if read in graph.constants:
                    continue
                goes = spread(graph, node, number)
                for origin, marks in reaching[read].items():
                    step = (goes.astype(np.float32) @ marks.astype(np.float32)) > 0
                    reached[origin] = reached.get(origin, np.zeros_like(step)) | step
            reaching[name] = reached
    return reaching


def implied(cause: Mapping[str, Flags], effect: Mapping[str, Flags]) -> bool:
    """Whether every mark that reaches a position of the one reaches it in the other."""
    return all(
        origin in effect and bool(np.all(effect[origin] | ~marks)) if marks.any() else True
        for origin, marks in cause.items()
    )


@pytest.mark.parametrize("seed", range(100))
def test_no_tensor_dominates_another_falsely(seed: int) -> None:
    graph = random_net(seed)
    draw = random.Random(seed)
    names = [name for node in graph.nodes for name in node.outputs]
    opaque = frozenset(name for name in names if draw.random() < 0.15)
    masks = masks_of(graph, opaque)
    truth = marks_that_reach(graph, opaque, broad=draw.random() < 0.5)
    for one in truth:
        for two in truth:
            if graph.shapes[one][:2] == graph.shapes[two][:2] and dominates(masks, graph, one, two):
                assert implied(truth[two], truth[one]), f"{one!r} does not dominate {two!r}"


@pytest.mark.parametrize("seed", range(100))
def test_what_is_implied_of_the_inputs_of_one_reader_holds(seed: int) -> None:
    """As the lifetimes ask it: other sizes too, by windows of all kinds."""
    graph = random_net(seed)
    flow = Dataflow.of(graph)
    masks = MaskImplication(flow, frozenset())
    truth = marks_that_reach(graph, frozenset(), broad=False)
    for index, node in enumerate(graph.nodes):
        if node.op == ISLAND:
            continue
        seen = flow.reads[index]
        numbers = [i for i, name in enumerate(node.inputs) if name not in graph.constants]
        for (name, at, _), number in zip(seen, numbers, strict=True):
            for (other, window, _), other_number in zip(seen, numbers, strict=True):
                if number == other_number or not at.is_single:
                    continue
                if not masks.implies(other, window, name, at):
                    continue
                here, there = (
                    {
                        origin: (
                            by_window(graph, node, which).astype(np.float32)
                            @ marks.astype(np.float32)
                        )
                        > 0
                        for origin, marks in truth[read].items()
                    }
                    for read, which in ((name, number), (other, other_number))
                )
                assert implied(there, here), f"{node.op}: {name!r} does not follow {other!r}"


def residual(net: Net) -> tuple[str, str]:
    x = net.input(6, 7, 2)
    return net.conv(net.point(x, 4), 2, name="y"), x


def bottleneck(net: Net) -> tuple[str, str]:
    x = net.point(net.input(6, 7, 2))
    wide = net.conv(net.point(x, 6, "e"), 6, name="d")
    return wide, x


def squeezed(net: Net) -> tuple[str, str]:
    """Stride 2, kernel 3 against stride 2, kernel 1: the first sees all that the second sees."""
    x = net.input(7, 7, 2)
    return net.conv(x, stride=(2, 2)), net.point(x, stride=(2, 2))


def skipping(net: Net) -> tuple[str, str]:
    """3x3 behind a 1x1 of stride 2 never sees the odd positions that a 3x3 of stride 2 sees."""
    x = net.input(7, 7, 2)
    return net.conv(net.point(x, stride=(2, 2))), net.conv(x, stride=(2, 2))


def halves(net: Net) -> tuple[str, str]:
    """Two grouped branches of equal windows over slices of one tensor."""
    x = net.conv(net.input(6, 7, 4), 4)
    return net.conv(net.cut(x, (0, 0, 2))), net.conv(net.cut(x, (0, 0, 0), (6, 7, 2)))


def gate(net: Net) -> tuple[str, str]:
    """y = x * sigmoid(x)"""
    x = net.conv(net.input(6, 7, 2))
    return x, net.unary(x)


def branches(net: Net) -> tuple[str, str]:
    x = net.input(6, 7, 2)
    return net.conv(x, kernel=(5, 5)), net.conv(net.conv(x))


def two_inputs(net: Net) -> tuple[str, str]:
    x, z = net.input(6, 7, 2), net.input(6, 7, 2, "z")
    return net.conv(net.binary(x, z, "sum")), net.binary(z, x)


def one_of_two(net: Net) -> tuple[str, str]:
    x, z = net.input(6, 7, 2), net.input(6, 7, 2, "z")
    return net.conv(x), net.binary(x, z)


def dilated(net: Net) -> tuple[str, str]:
    x = net.input(9, 9, 2)
    return net.conv(x, dilation=(2, 2)), x


def holes(net: Net) -> tuple[str, str]:
    """A dilated kernel does not see the neighbours that a plain one sees."""
    x = net.input(9, 9, 2)
    return net.conv(x, dilation=(2, 2)), net.conv(x)


def beside(net: Net) -> tuple[str, str]:
    """Two taps that lie on both sides of the position, and not on it."""
    x = net.input(9, 9, 2)
    return net.conv(x, kernel=(2, 2), dilation=(2, 2), pad=(1, 1, 1, 1)), x


def shifted(net: Net) -> tuple[str, str]:
    """A 2x2 kernel padded on one side covers its position; padded on the other it does so too."""
    x = net.input(6, 6, 2)
    return net.conv(x, kernel=(2, 2), pad=(1, 1, 0, 0)), net.conv(
        x, kernel=(2, 2), pad=(0, 0, 1, 1)
    )


def edged(net: Net) -> tuple[str, str]:
    """Padding by a constant moves positions: the crop behind it moves them back."""
    x = net.input(6, 6, 2)
    return net.cut(net.pad(x, (1, 1, 1, 1, 0, 0), "constant"), (1, 1, 0), (6, 6, 2)), x


def through_an_island(net: Net) -> tuple[str, str]:
    x = net.input(6, 6, 2)
    return net.island(x, shape=(6, 6, 2)), x


def behind_an_island(net: Net) -> tuple[str, str]:
    island = net.island(net.input(6, 6, 2), shape=(6, 6, 2))
    return net.conv(island), net.unary(island)


# what it is, what is cut off in it, whether the first dominates the second
CLAIMS: list[tuple[Callable[[Net], tuple[str, str]], set[str], bool]] = [
    (residual, set(), True),
    (residual, {"y"}, False),
    (bottleneck, set(), True),
    (bottleneck, {"e"}, False),
    (bottleneck, {"d"}, False),
    (squeezed, set(), True),
    (skipping, set(), False),
    (halves, set(), True),
    (gate, set(), True),
    (branches, set(), True),
    (two_inputs, set(), True),
    (two_inputs, {"sum"}, False),
    (one_of_two, set(), False),
    (dilated, set(), True),
    (holes, set(), False),
    (beside, set(), False),
    (shifted, set(), False),
    (edged, set(), True),
    (through_an_island, set(), False),
    (behind_an_island, set(), True),
]


@pytest.mark.parametrize(("draw", "cutoffs", "claim"), CLAIMS)
def test_dominance(draw: Callable[[Net], tuple[str, str]], cutoffs: set[str], claim: bool) -> None:
    net = Net()
    one, two = draw(net)
    graph = net.graph(one, two)
    assert dominates(masks_of(graph, cutoffs), graph, one, two) is claim
    if claim:
        truth = marks_that_reach(graph, frozenset(cutoffs), broad=False)
        assert implied(truth[two], truth[one])


def test_a_proof_falls_with_a_cut_off_on_its_way() -> None:
    net = Net()
    one, two = bottleneck(net)
    graph = net.graph(one, two)
    assert dominates(masks_of(graph), graph, one, two)
    for name in ("d", "e"):
        assert not dominates(masks_of(graph, {name}), graph, one, two)


def test_a_vector_pooled_from_a_picture_changes_with_it() -> None:
    net = Net()
    x = net.conv(net.input(6, 7, 2))
    vector = net.point(net.mean(x))
    y = net.binary(x, vector)
    graph = net.graph(y)
    (_, at_x, _), (_, at_vector, _) = Dataflow.of(graph).reads[-1]
    masks = masks_of(graph)
    assert masks.implies(x, at_x, vector, at_vector)
    assert not masks.implies(vector, at_vector, x, at_x)
    assert not masks_of(graph, {vector}).implies(x, at_x, vector, at_vector)
    assert not dominates(masks, graph, vector, x)
    assert masks.implies(x, everything((6, 7), (6, 7)), vector, at_vector)
