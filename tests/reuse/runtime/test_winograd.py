"""Convolutions in tiles by Winograd's transforms: bits, accuracy, epilogues, threads, frames."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.reuse.compile import compile_graph
from stillframe.reuse.ir import interpreter
from stillframe.reuse.ir.graph import ISLAND, Act, Graph, Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.kernels import abi
from stillframe.reuse.plan.tolerance import Tolerance, measure
from stillframe.reuse.plan.winograd_choice import (
    LARGEST_RANGE,
    choose_winograd,
    is_possible,
    weights_fault,
)
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.workers import Workers
from tests.nets import Net
from tests.random_graphs import random_graph

EVERYTHING = 1 << 40
NEVER_DENSE = 2.0
SIDES = (2, 4)
ERRORS = {2: 2e-6, 4: 6e-6}
"""Of each side: largest error against float64, relative to the largest output."""


def in_tiles(graph: Graph, side: int) -> Graph:
    """A graph whose convolutions run in tiles wherever that is possible."""
    nodes = [
        node.with_(attrs={**node.attrs, "winograd": side})
        if node.op == "Conv" and is_possible(node, graph)
        else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


def bits(values: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.ascontiguousarray(values).view(np.int32)


def clip(graph: Graph, seed: int, frames: int) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Feeds in which a few random rectangles change from frame to frame."""
    rng = np.random.default_rng(seed)
    now = {port.name: rng.standard_normal(port.shape).astype(np.float32) for port in graph.inputs}
    for _ in range(frames):
        yield {name: value.copy() for name, value in now.items()}
        for value in now.values():
            _, height, width, _ = value.shape
            for _ in range(int(rng.integers(0, 4))):
                top, left = int(rng.integers(height)), int(rng.integers(width))
                tall, wide = (int(size) for size in rng.integers(1, 6, 2))
                part = value[:, top : top + tall, left : left + wide]
                part += rng.standard_normal(part.shape).astype(np.float32)


def poison(runner: PlanRunner) -> None:
    """Fill the transients' arena with NaN: nothing of it may be read in the next frame."""
    memory = runner.plan.memory
    end = memory.persistent_bytes + memory.arena_bytes
    runner.plan.arena[memory.persistent_bytes : end].view(np.float32)[...] = np.nan


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    pool = Workers(getattr(request, "param", 1))
    yield pool
    pool.close()


def assert_steps_are_dense(graph: Graph, workers: Workers, budget: int | None, seed: int) -> int:
    """Partial steps give the bits of dense ones, with one worker or several; -> positions computed
    in partial steps."""
    dense = PlanRunner(compile_graph(graph, memory_budget=EVERYTHING), Workers(1))
    plan = compile_graph(graph, workers.count, memory_budget=budget)
    runner = PlanRunner(plan, workers, NEVER_DENSE)
    computed = 0
    for number, feeds in enumerate(clip(graph, seed, 8)):
        if number:
            poison(runner)
        runner.step(feeds)
        computed += int(plan.records[:, abi.ACTIVE].sum()) if number else 0
        dense.step(feeds, dense=True)
        for port in graph.outputs:
            got, want = runner.output(port.name), dense.output(port.name)
            assert np.array_equal(bits(got), bits(want)), f"frame {number}, {port.name!r}"
    return computed


@pytest.mark.parametrize("budget", [None, 0, EVERYTHING])
@pytest.mark.parametrize("workers", [1, 3], indirect=True)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", range(16))
def test_random_networks_give_the_dense_answer_bit_for_bit(
    seed: int, side: int, workers: Workers, budget: int | None
) -> None:
    graph = in_tiles(random_graph(seed, wide=bool(seed % 2)), side)
    assert_steps_are_dense(graph, workers, budget, seed)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", range(16))
def test_random_networks_agree_with_plain_numpy(seed: int, side: int, workers: Workers) -> None:
    graph = in_tiles(random_graph(seed), side)
    runner = PlanRunner(compile_graph(graph, workers.count), workers)
    feeds = next(clip(graph, seed, 1))
    runner.step(feeds)
    expected = interpreter.run(graph, feeds)
    for port in graph.outputs:
        got = runner.output(port.name).reshape(expected[port.name].shape)
        scale = max(1.0, float(np.nanmax(np.abs(expected[port.name]))))
        np.testing.assert_allclose(got, expected[port.name], rtol=0, atol=5e-5 * scale)


# --- single layers ------------------------------------------------------------------------------

PRELU = Act("prelu")
LAYERS = {
    "plain": {"act": None},
    "relu": {"act": Act("relu")},
    "clip": {"act": Act("clip", 0.0, 0.5)},
    "leaky": {"act": Act("leaky", 0.1)},
    "prelu": {"act": PRELU},
    "silu": {"act": Act("silu")},
    "odd channels": {"act": Act("relu"), "channels": 13},
    "residual": {"act": None, "residual_first": True},
    "relu of the sum": {"act": Act("relu"), "residual_first": True},
    "sum of relu": {"act": Act("relu"), "residual_first": False},
    "prelu of the sum": {"act": PRELU, "residual_first": True},
    "sum of prelu": {"act": PRELU, "residual_first": False},
    "no padding": {"act": None, "pad": (0, 0, 0, 0)},
    "uneven padding": {"act": None, "pad": (2, 0, 1, 3)},
}


def layer(
    side: int,
    size: tuple[int, int, int] = (23, 30, 11),
    channels: int = 24,
    act: Act | None = None,
    pad: tuple[int, int, int, int] = (1, 1, 1, 1),
    residual_first: bool | None = None,
) -> Graph:
    """A convolution of 3 × 3 taps, joined with another one, and a reader."""
    net, rng = Net(), np.random.default_rng(0)
    source = net.input(*size)
    other = net.point(source, channels, "other") if residual_first is not None else None
    name = net.conv(source, channels, pad=pad, residual=other, name="y")
    node = net.nodes[-1]
    attrs = {**node.attrs, "act": act, "residual_first": bool(residual_first), "winograd": side}
    inputs = (*node.inputs, *([net.constant(channels)] if act is PRELU else []))
    net.nodes[-1] = Node("Conv", inputs, node.outputs, attrs)
    graph = net.graph(net.concat(name, net.point(name, 3), name="joined"))
    constants = {
        each: rng.standard_normal(value.shape).astype(np.float32) * np.float32(0.3)
        for each, value in graph.constants.items()
    }
    return replace(graph, constants=constants)


@pytest.mark.parametrize("workers", [1, 2], indirect=True)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", LAYERS)
def test_whatever_follows_a_convolution_is_right(kind: str, side: int, workers: Workers) -> None:
    graph = layer(side, **LAYERS[kind])  # type: ignore[arg-type]
    assert assert_steps_are_dense(graph, workers, EVERYTHING, 3) > 0
    runner = PlanRunner(compile_graph(graph, workers.count), workers)
    feeds = next(clip(graph, 3, 1))
    runner.step(feeds)
    expected = interpreter.run(graph, feeds)["joined"]
    scale = float(np.abs(expected).max())
    got = runner.output("joined").reshape(expected.shape)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("side", SIDES)
def test_what_is_computed_is_what_the_bits_depend_on(side: int, workers: Workers) -> None:
    graph = layer(side, (16, 16, 8))
    runner = PlanRunner(compile_graph(graph, memory_budget=EVERYTHING), workers, NEVER_DENSE)
    feeds = next(clip(graph, 1, 1))
    runner.step(feeds)
    before = runner.plan.view("y").copy()
    feeds["x"] = feeds["x"].copy()
    feeds["x"][0, 5, 7] += 1  # rows and columns 5 and 7 of tiles 4 .. 7
    runner.step(feeds)
    rows, columns = np.nonzero((bits(before) != bits(runner.plan.view("y"))).any(axis=2))
    written = runner.plan.instructions[:, abi.TARGET] == runner.plan.index["y"]
    computed = int(runner.plan.records[written, abi.ACTIVE][0])
    limits = {2: (4, 6, 6, 8, 9), 4: (4, 7, 4, 8, 20)}[side]
    assert (rows.min(), rows.max(), columns.min(), columns.max(), computed) == limits


@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", range(12))
def test_every_stored_value_is_within_tolerance_of_its_stored_inputs(
    seed: int, side: int, share: float, workers: Workers
) -> None:
    graph = in_tiles(random_graph(seed), side)
    plan = compile_graph(graph, exact=False)
    runner = PlanRunner(plan, workers)
    by_output = {node.output: node for node in graph.nodes if node.op != ISLAND}
    ranges = plan.memory.ranges
    for number, feeds in enumerate(clip(graph, seed, 8)):
        runner.step(feeds)
        if number == 0:
            Tolerance(share).apply(plan, measure(plan))
        for name, instruction in plan.cutoffs.items():
            node = by_output[name]
            stored = [each for each in node.inputs if each in ranges]
            if not all(ranges[ranges[each].root].persistent for each in stored):
                continue
            arrays = [
                np.asarray(graph.constants[each], np.float32)
                if each in graph.constants
                else plan.view(each)
                for each in node.inputs
            ]
            fresh = OPS[node.op].reference(node, arrays)
            distance = np.square(fresh - plan.view(name), dtype=np.float64).sum(axis=2)
            limit = float(plan.floats[instruction, abi.THRESHOLD])
            slack = 1e-9 + 1e-8 * float(np.square(fresh, dtype=np.float64).sum())
            assert distance.max() <= limit * (1 + 1e-4) + slack, f"frame {number}, {name!r}"


# --- accuracy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
def test_the_error_against_float64_is_within_its_limit(side: int, workers: Workers) -> None:
    graph = layer(side, (40, 40, 64), 64)
    runner = PlanRunner(compile_graph(graph, memory_budget=EVERYTHING), workers)
    feeds = next(clip(graph, 5, 1))
    feeds["x"] = np.maximum(feeds["x"], 0)
    runner.step(feeds)
    node = next(node for node in graph.nodes if node.output == "y")
    weights, bias = (graph.constants[name].astype(np.float64) for name in node.inputs[1:])
    padded = np.pad(feeds["x"][0].astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    exact = bias + sum(
        padded[y : y + 40, x : x + 40] @ weights[y, x] for y in range(3) for x in range(3)
    )
    error = np.abs(runner.plan.view("y") - exact).max() / np.abs(exact).max()
    assert error <= ERRORS[side]


# --- the choice ---------------------------------------------------------------------------------


def chosen(graph: Graph, exact: bool) -> Node:
    return next(node for node in choose_winograd(graph, exact).nodes if node.output == "y")


def test_tiles_are_small_where_equal_bits_are_asked_for() -> None:
    graph = large()
    assert chosen(graph, exact=True).attrs["winograd"] == 2
    assert chosen(graph, exact=False).attrs["winograd"] == 4
    again = choose_winograd(choose_winograd(graph, exact=False), exact=True)
    assert {node.attrs.get("winograd") for node in again.nodes if node.op == "Conv"} == {4, None}


def large() -> Graph:
    graph = layer(0, (64, 64, 64), 64)
    nodes = [
        node.with_(attrs={key: value for key, value in node.attrs.items() if key != "winograd"})
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


def test_weights_of_a_large_range_are_convolved_directly() -> None:
    graph = large()
    name = graph.nodes[0].inputs[1]
    wide = np.array(graph.constants[name])
    wide[1, 1, 0, 5] = 10 * LARGEST_RANGE
    node = chosen(replace(graph, constants={**graph.constants, name: wide}), exact=False)
    assert node.attrs["winograd"] == 0
    assert "accuracy" in node.attrs["why_direct"]
    plan = compile_graph(replace(graph, constants={**graph.constants, name: wide}), exact=False)
    written = plan.instructions[:, abi.TARGET] == plan.index["y"]
    assert plan.instructions[written, abi.TILE_SIDE].tolist() == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e35])
def test_weights_that_would_overflow_are_convolved_directly(value: float) -> None:
    weights = np.ones((3, 3, 16, 16), np.float32)
    assert not weights_fault(weights)
    weights[2, 0, 3, 4] = value
    assert "not finite" in weights_fault(weights)


def test_ordinary_weights_pass() -> None:
    rng = np.random.default_rng(0)
    assert not weights_fault(rng.standard_normal((3, 3, 64, 64)) ** 3)
    assert not weights_fault(np.zeros((3, 3, 16, 16)))
