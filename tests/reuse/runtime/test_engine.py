"""The heart: stepping a clip through a network gives what computing each frame alone gives."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.reuse.compile import UNMEASURED, compile_graph, load_graph
from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.ir import interpreter
from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.kernels import abi
from stillframe.reuse.memory.buffers import lay_out, region_tensors
from stillframe.reuse.memory.planner import MemoryPlan, plan_memory
from stillframe.reuse.plan.build import build_plan, island_reads
from stillframe.reuse.plan.plan import Plan
from stillframe.reuse.plan.tolerance import Tolerance, measure
from stillframe.reuse.plan.winograd_choice import choose_winograd
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.workers import Workers
from tests.graph_cases import CASES, Case
from tests.random_graphs import random_graph

SEEDS = (*range(60), 1062, 1135, 770458, 31030)
"""The last: what longer runs found, and what they find where a rule of `demand` is taken out."""

KEEP_ALL = 1 << 40  # bytes that any network's activations are below
Picture = NDArray[np.float32]


def bits(values: Picture) -> NDArray[np.int32]:
    return np.ascontiguousarray(values).view(np.int32)


def clip(graph: Graph, seed: int, frames: int) -> Iterator[dict[str, Picture]]:
    """Feeds of a clip in which a random rectangle changes, at times nothing and at times all."""
    rng = np.random.default_rng(seed)
    now = {port.name: rng.standard_normal(port.shape).astype(np.float32) for port in graph.inputs}
    for _ in range(frames):
        yield {name: value.copy() for name, value in now.items()}
        for name, value in now.items():
            *_, height, width = value.shape
            top, left = int(rng.integers(height)), int(rng.integers(width))
            tall, wide = (int(size) for size in rng.integers(0, 4, 2))
            if rng.random() < 0.1:
                top, left, tall, wide = 0, 0, height, width
            part = value[..., top : top + tall, left : left + wide]
            part += rng.standard_normal(part.shape).astype(np.float32)
            now[name] = value


@functools.cache
def graph_of(seed: int, wide: bool = False) -> Graph:
    """The random graph of a seed. No test changes it."""
    return random_graph(seed, wide=wide)


@functools.cache
def dense_answers(seed: int, wide: bool, frames: int) -> list[dict[str, NDArray[np.int32]]]:
    """The bits of a graph's outputs in each frame of its clip, computed whole.

    By seed, so that every way to recompute only what changed is held to the same answers.
    """
    graph = graph_of(seed, wide)
    plan = compile_graph(graph, memory_budget=KEEP_ALL) if wide else compiled(seed, 1, KEEP_ALL)
    dense = PlanRunner(plan, Workers(1))
    answers = []
    for feeds in clip(graph, seed, frames):
        dense.step(feeds, dense=True)
        answers.append({port.name: bits(dense.output(port.name)).copy() for port in graph.outputs})
    return answers


@functools.cache
def memory_of(
    seed: int, budget: int | None, exact: bool
) -> tuple[Graph, frozenset[str], MemoryPlan]:
    """A random graph with its memory plan, which is the same for any number of workers."""
    graph = choose_winograd(graph_of(seed), exact)
    exported = frozenset(island_reads(graph))
    return graph, exported, plan_memory(graph, exported, budget)


def compiled(seed: int, workers: int, budget: int | None = None, exact: bool = True) -> Plan:
    """What `compile_graph` makes of a random graph."""
    graph, exported, memory = memory_of(seed, budget, exact)
    return build_plan(graph, memory, exported, workers, exact, UNMEASURED)


def poison(plan: Plan) -> None:
    """Fill the transients' arena with NaN: nothing of it may be read in the next frame."""
    start, size = plan.memory.persistent_bytes, plan.memory.arena_bytes
    plan.arena[start : start + size].view(np.float32)[...] = np.nan


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    pool = Workers(getattr(request, "param", 1))
    yield pool
    pool.close()


@pytest.mark.parametrize("budget", [None, 0, KEEP_ALL])
@pytest.mark.parametrize("workers", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("seed", SEEDS)
def test_recomputing_what_changed_gives_the_dense_answer_bit_for_bit(
    seed: int, workers: Workers, budget: int | None
) -> None:
    plan = compiled(seed, workers.count, budget)
    graph = plan.graph
    engine = PlanRunner(plan, workers)
    answers = dense_answers(seed, False, 12)
    for number, (feeds, dense) in enumerate(zip(clip(graph, seed, 12), answers, strict=True)):
        if number:
            poison(plan)
        engine.step(feeds)
        for port in graph.outputs:
            same = np.array_equal(bits(engine.output(port.name)), dense[port.name])
            assert same, f"seed {seed}, frame {number}, output {port.name!r}"


class Dropping(DiskCache):
    """A disk cache that drops these tensors, whatever the network."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def __repr__(self) -> str:
        return f"dropping {self.names}"

    def get(self, name: str) -> list[str] | None:
        return self.names if name.startswith("dropped") else None

    def add(self, notes: dict[str, object]) -> None:
        pass


def drop_any(graph: Graph, seed: int) -> Dropping:
    """One to four roots of a graph, with their views, at random."""
    rng, storage = np.random.default_rng(seed), lay_out(graph)
    names = region_tensors(graph)
    roots = sorted({storage.root(name) for name in names})
    chosen = rng.choice(roots, min(int(rng.integers(1, 5)), len(roots)), replace=False)
    vectors = {storage.root(name) for name in names if graph.shapes[name][:2] == (1, 1)}
    return Dropping([name for name in names if storage.root(name) in {*chosen} - vectors])


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("workers", [1, 3], indirect=True)
@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_dropped_results_are_right(seed: int, workers: Workers, wide: bool) -> None:
    graph = graph_of(seed, wide)
    dropping = drop_any(graph, seed)
    plan = compile_graph(graph, workers.count, memory_budget=KEEP_ALL, disk_cache=dropping)
    engine = PlanRunner(plan, workers)
    answers = dense_answers(seed, wide, 8)
    for number, (feeds, dense) in enumerate(zip(clip(graph, seed, 8), answers, strict=True)):
        if number:
            poison(plan)
        engine.step(feeds)
        for port in graph.outputs:
            same = np.array_equal(bits(engine.output(port.name)), dense[port.name])
            assert same, f"{dropping}, frame {number}, output {port.name!r}"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dense_step_agrees_with_plain_numpy(seed: int, workers: Workers) -> None:
    graph = graph_of(seed)
    engine = PlanRunner(compile_graph(graph), workers)
    feeds = next(clip(graph, seed, 1))
    engine.step(feeds)
    expected = interpreter.run(graph, feeds)
    for port in graph.outputs:
        got = engine.output(port.name).reshape(expected[port.name].shape)
        scale = max(1.0, float(np.nanmax(np.abs(expected[port.name]))))
        np.testing.assert_allclose(got, expected[port.name], rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_stored_value_is_within_tolerance_of_its_stored_inputs(
    seed: int, share: float, workers: Workers
) -> None:
    graph = graph_of(seed)
    plan = compiled(seed, workers.count, exact=False)
    engine = PlanRunner(plan, workers)
    by_output = {node.output: node for node in graph.nodes if node.op != ISLAND}
    for number, feeds in enumerate(clip(graph, seed, 8)):
        engine.step(feeds)
        if number == 0:
            Tolerance(share).apply(plan, measure(plan))
        for name, instruction in plan.cutoffs.items():
            node = by_output[name]
            if not all(is_persistent(plan, each) for each in node.inputs):
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


def is_persistent(plan: Plan, name: str) -> bool:
    lives = plan.memory.ranges
    return name not in lives or lives[lives[name].root].persistent


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_engine_agrees_with_the_oracle_and_reuses_exactly(case: Case, workers: Workers) -> None:
    graph = load_graph(case.model(), case.feeds)
    engine = PlanRunner(compile_graph(graph), workers)
    dense = PlanRunner(compile_graph(graph), Workers(1))
    for seed in range(4):
        feeds = case.inputs(0)
        for value in feeds.values():
            if value.dtype == np.float32 and seed:
                value.reshape(-1)[seed::97] += seed
        engine.step(feeds)
        dense.step(feeds, dense=True)
        expected = interpreter.run(graph, feeds)
        for port in graph.outputs:
            got = engine.output(port.name)
            assert np.array_equal(got, dense.output(port.name), equal_nan=True)
            want = expected[port.name].reshape(got.shape)
            if want.dtype == np.float32:
                scale = max(1.0, float(np.abs(want).max(initial=0)))
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * scale)
