"""The rows of OPS: what a window promises, seen by changing inputs; and who reads nothing else."""

import numpy as np
import pytest

from stillframe.reuse.compile import load_graph
from stillframe.reuse.ir import reference
from stillframe.reuse.ir.graph import ISLAND, Graph, Node, Shape
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.ir.windows import Span, Window, pad_source
from tests.graph_cases import CASES, Case
from tests.random_graphs import random_graph


def arrays_of(graph: Graph, node: Node, rng: np.random.Generator) -> list[np.ndarray]:
    return [
        graph.constants[name]
        if name in graph.constants
        else np.abs(rng.normal(size=graph.shapes[name])).astype(np.float32) + np.float32(0.1)
        for name in node.inputs
    ]


def readers(span: Span, position: int) -> np.ndarray:
    """Output positions whose span holds an input position."""
    low, high = span
    return np.flatnonzero((low <= position) & (position < high))


def assert_window(graph: Graph, node: Node, seed: int) -> None:
    """Change one position of one input at a time: no output outside its readers may change."""
    rng = np.random.default_rng(seed)
    arrays = arrays_of(graph, node, rng)
    before = OPS[node.op].reference(node, arrays)
    assert before.shape == graph.shapes[node.output]
    windows = OPS[node.op].window(node, graph.shapes)
    assert len(windows) == len(node.inputs)
    for index, (name, window) in enumerate(zip(node.inputs, windows, strict=True)):
        if name in graph.constants:
            continue
        height, width, _ = graph.shapes[name]
        if window is None:
            assert node.op in ("GlobalPool", "Moments")
            continue
        check_spans(window, (height, width), before.shape)
        for _ in range(6):
            y, x = int(rng.integers(height)), int(rng.integers(width))
            changed = [array.copy() for array in arrays]
            changed[index][y, x] += np.float32(50)
            after = OPS[node.op].reference(node, changed)
            allowed = np.zeros(before.shape[:2], bool)
            allowed[np.ix_(readers(window.rows, y), readers(window.cols, x))] = True
            moved = (before != after).any(2)
            assert not (moved & ~allowed).any(), f"{node.op} reads {name} outside its window"


def check_spans(window: Window, inside: Shape, out: Shape) -> None:
    for axis, (low, high) in enumerate((window.rows, window.cols)):
        assert low.dtype == high.dtype == np.int32
        assert len(low) == len(high) == out[axis]
        assert (low >= 0).all()
        assert (low <= high).all()
        assert (high <= inside[axis]).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_reads_only_its_window(case: Case) -> None:
    graph = load_graph(case.model())
    for node in graph.nodes:
        assert node.op != ISLAND
        assert_window(graph, node, seed=3)


@pytest.mark.parametrize("seed", range(60))
def test_operators_of_random_networks_read_only_their_windows(seed: int) -> None:
    graph = random_graph(seed)
    for number, node in enumerate(graph.nodes):
        assert_window(graph, node, seed=100 * seed + number)


def test_random_networks_hold_every_operator_and_join_branches() -> None:
    graphs = [random_graph(seed) for seed in range(60)]
    assert {node.op for graph in graphs for node in graph.nodes} == set(OPS)
    joined = [
        any(
            len({name for name in node.inputs if name not in graph.constants}) > 1
            for node in graph.nodes
        )
        for graph in graphs
    ]
    assert sum(joined) >= 55
    assert all(np.isfinite(value).all() for graph in graphs for value in graph.constants.values())


def test_a_window_is_not_wider_than_it_must_be() -> None:
    """The middle of a picture: a 3 × 3 kernel with stride 2 reads 3 rows, a copy reads one."""
    attrs = {"kernel": (3, 3), "stride": (2, 2), "dilation": (1, 1), "pad": (1, 1, 1, 1)}
    node = Node("MaxPool", ("x",), ("y",), attrs)
    (window,) = OPS["MaxPool"].window(node, {"x": (9, 11, 3), "y": (5, 6, 3)})
    assert window is not None
    assert window.rows[0].tolist() == [0, 1, 3, 5, 7]
    assert window.rows[1].tolist() == [2, 4, 6, 8, 9]
    assert window.cols[1].tolist() == [2, 4, 6, 8, 10, 11]
    node = Node("Slice", ("x",), ("y",), {"start": (1, 2, 0), "step": (3, 1, 1), "size": (2, 4, 3)})
    (window,) = OPS["Slice"].window(node, {"x": (9, 11, 3), "y": (2, 4, 3)})
    assert window is not None
    assert [edge.tolist() for edge in window.rows] == [[1, 4], [2, 5]]
    assert [edge.tolist() for edge in window.cols] == [[2, 3, 4, 5], [3, 4, 5, 6]]


def test_reflection_goes_back_and_forth() -> None:
    assert pad_source(9, 3, 2, "reflect").tolist() == [2, 1, 0, 1, 2, 1, 0, 1, 2]
    assert pad_source(5, 1, 2, "reflect").tolist() == [0] * 5
    assert pad_source(6, 3, 2, "edge").tolist() == [0, 0, 0, 1, 2, 2]
    assert pad_source(6, 3, 2, "constant").tolist() == [-1, -1, 0, 1, 2, -1]


def test_the_error_function_is_good_to_14_digits() -> None:
    known = {0.0: 0.0, 0.5: 0.5204998778130465, 1.0: 0.8427007929497149, 2.0: 0.9953222650189527}
    known |= {2.5: 0.999593047982555, 3.5: 0.9999992569016276, 30.0: 1.0}
    x = np.array(list(known))
    np.testing.assert_allclose(reference.erf(x), list(known.values()), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(reference.erf(-x), -reference.erf(x))
