"""Two limits: a near one where exactness matters, a far one elsewhere."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.errors import UsageError
from stillframe.reuse.compile import compile_graph
from stillframe.reuse.ir.graph import ISLAND
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.plan.plan import Plan
from stillframe.reuse.plan.tolerance import MOST_FAR, Tolerance, measure
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.far_map import is_in_proportion
from stillframe.reuse.runtime.workers import Workers
from stillframe.reuse.session import ReuseSession
from tests.random_graphs import random_graph
from tests.reuse.gate.test_settling import network, stored
from tests.reuse.runtime.test_engine import bits, clip, is_persistent

Map = NDArray[np.bool_]


@pytest.fixture
def workers() -> Iterator[Workers]:
    pool = Workers(2)
    yield pool
    pool.close()


def stretched(near: Map, size: tuple[int, int]) -> Map:
    """Whether a position of a tensor of that size overlaps a cell that is near."""
    spans = []
    for cells, side in zip(near.shape, size, strict=True):
        at = np.arange(side)
        spans.append(list(zip(at * cells // side, -(-(at + 1) * cells // side), strict=True)))
    return np.array(
        [
            [near[top:bottom, left:right].any() for left, right in spans[1]]
            for top, bottom in spans[0]
        ]
    )


def limits(plan: Plan, name: str, near: Map, picture: tuple[int, ...]) -> NDArray[np.float64]:
    """The limit of each position of a tensor."""
    height, width, _ = plan.graph.shapes[name]
    close, far = plan.threshold(name), plan.threshold(name, far=True)
    if not is_in_proportion((height, width), picture):
        return np.full((height, width), close)
    return np.where(stretched(near, (height, width)), close, far)


@pytest.mark.parametrize("seed", range(40))
def test_every_stored_value_is_within_the_limit_of_its_position(
    seed: int, workers: Workers
) -> None:
    graph = random_graph(seed)
    plan = compile_graph(graph, workers.count, exact=False)
    engine = PlanRunner(plan, workers)
    rng = np.random.default_rng(seed)
    near = rng.random((int(rng.integers(1, 7)), int(rng.integers(1, 7)))) < 0.3
    picture = graph.shapes[graph.inputs[0].name]
    by_output = {node.output: node for node in graph.nodes if node.op != ISLAND}
    for number, feeds in enumerate(clip(graph, seed, 8)):
        engine.step(feeds)
        if number == 0:
            Tolerance(0.05, far=8.0).apply(plan, measure(plan))
            engine.attend(near)
        for name in plan.cutoffs:
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
            slack = 1e-9 + 1e-8 * float(np.square(fresh, dtype=np.float64).sum())
            most = limits(plan, name, near, picture) * (1 + 1e-4) + slack
            assert (distance <= most).all(), f"frame {number}, {name!r}"


@pytest.mark.parametrize("seed", range(12))
def test_without_a_far_zone_or_a_far_limit_every_bit_is_the_same(
    seed: int, workers: Workers
) -> None:
    graph = random_graph(seed)
    rng = np.random.default_rng(seed)
    settings: list[tuple[float, Map | None]] = [
        (8.0, None),  # the plain tolerance
        (8.0, np.ones((3, 4), bool)),
        (1.0, rng.random((3, 4)) < 0.5),
    ]
    plans = [compile_graph(graph, workers.count, exact=False) for _ in settings]
    engines = [PlanRunner(plan, workers) for plan in plans]
    for number, feeds in enumerate(clip(graph, seed, 6)):
        for plan, engine, (far, near) in zip(plans, engines, settings, strict=True):
            engine.step(feeds)
            if number == 0:
                Tolerance(0.1, far=far).apply(plan, measure(plan))
                engine.attend(near)
        for port in graph.outputs:
            plain, *others = (bits(engine.output(port.name)) for engine in engines)
            assert all(np.array_equal(plain, other) for other in others), f"frame {number}"


@pytest.fixture(scope="module")
def session() -> Iterator[ReuseSession]:
    with ReuseSession(
        network(),
        tolerance=Tolerance(0.1, far=3.0),
        threads=1,
        break_even=9.0,
        memory_budget=1 << 40,
    ) as opened:
        yield opened


@pytest.mark.parametrize(
    ("near", "change", "where"),
    [
        (None, 0.2, [10, 60, 124, 125, 200]),  # no map: one limit
        ([[True, False]], 0.2, [10, 60, 124]),
        ([[False, True]], 0.2, [125, 200]),
        ([[False, False]], 0.2, []),
        ([[False], [True]], 0.2, [10, 60, 124, 125, 200]),  # row 2 of 5 overlaps both cells
        ([[True, True]], 0.05, []),
        ([[True, False]], 0.5, [10, 60, 124, 125, 200]),  # a new object is far beyond either limit
    ],
)
def test_a_change_counts_by_the_limit_of_its_place(
    session: ReuseSession, near: list[list[bool]] | None, change: float, where: list[int]
) -> None:
    session.attend(None if near is None else np.array(near))
    changed = stored(session, {(2, x): change for x in (10, 60, 124, 125, 200)})
    assert changed[2].nonzero()[0].tolist() == where


def test_a_map_that_is_none_is_refused(session: ReuseSession) -> None:
    for wrong in (np.ones(3, bool), np.ones((0, 3), bool), np.ones((2, 2, 1), bool)):
        with pytest.raises(UsageError, match=r"attend: expected a map \(h, w\), got shape"):
            session.attend(wrong)


def test_what_is_in_proportion_is_a_picture() -> None:
    assert is_in_proportion((34, 60), (544, 960, 3))
    assert is_in_proportion((13, 13), (416, 416, 3))
    assert is_in_proportion((107, 191), (224, 391, 3))  # without padding sides shrink a little
    assert not is_in_proportion((60, 34), (544, 960, 3))
    assert not is_in_proportion((1, 1), (416, 416, 3))
    assert not is_in_proportion((1, 400), (320, 320, 3))
    assert not is_in_proportion((400, 64), (320, 320, 3))


def test_the_far_limit_is_bounded() -> None:
    assert Tolerance(0.05, far=4.0).far_of("any") == pytest.approx(0.2)
    assert Tolerance(0.2, far=4.0).far_of("any") == MOST_FAR
    assert Tolerance(0.7, far=8.0).far_of("any") == 0.7, "never below the near limit"
    assert Tolerance(0.1, {"a": 0.02}, far=5.0).scaled(2.0).far_of("a") == pytest.approx(0.2)
    with pytest.raises(UsageError, match="far: expected a number >= 1"):
        Tolerance(0.1, far=0.5)
