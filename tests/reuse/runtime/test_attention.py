"""Networks with attention: exact without a tolerance, sparse and within it with one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.reuse.compile import compile_graph
from stillframe.reuse.introspection import ISLAND, layer_stats, layers
from stillframe.reuse.ir import interpreter
from stillframe.reuse.ir.graph import ISLAND as ISLAND_OP
from stillframe.reuse.plan.tolerance import Tolerance, measure
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.workers import Workers
from stillframe.reuse.session import ReuseSession
from tests.attention_nets import detector
from tests.random_graphs import random_graph
from tests.reuse.plan.test_refresh_schedule import sweep
from tests.reuse.runtime.test_engine import clip

KEEP_ALL = 1 << 40
Picture = NDArray[np.float32]


def clip_of(height: int, width: int, frames: int, seed: int = 3) -> list[Picture]:
    """A still picture, then a patch that wanders over it."""
    rng = np.random.default_rng(seed)
    still = rng.random((1, 3, height, width)).astype(np.float32)
    pictures = [still]
    for number in range(frames - 1):
        picture = still.copy()
        top, left = height // 3, width // 8 + number * 10
        patch = picture[:, :, top : top + height // 6, left : left + width // 6]
        patch[...] = rng.random(patch.shape)
        pictures.append(picture)
    return pictures


def share_behind(session: ReuseSession, operators: frozenset[str]) -> float:
    """Multiply-adds done after the last of these operators, as a share of all after it."""
    infos, stats = layers(session), layer_stats(session)
    last = max(index for index, info in enumerate(infos) if info.op in operators)
    work = np.array([info.multiply_adds for info in infos], float)[last + 1 :]
    return float(work @ stats.computed_share[last + 1 :] / work.sum())


ATTENTION = frozenset({ISLAND, "Attention"})


@pytest.mark.parametrize(("tolerance", "most"), [(0.0, 1.0), (0.1, 0.35), (0.3, 0.35)])
def test_what_follows_attention_stays_sparse_with_a_tolerance(
    tolerance: float, most: float
) -> None:
    with ReuseSession(
        detector(), tolerance=tolerance, threads=1, break_even=9.0, memory_budget=KEEP_ALL
    ) as session:
        for number, picture in enumerate(clip_of(320, 320, 4)):
            session.step({"x": picture})
            if number:
                assert share_behind(session, ATTENTION) <= most
        if not tolerance:
            assert share_behind(session, ATTENTION) > 0.9


def test_without_a_tolerance_attention_is_exact_bit_for_bit() -> None:
    with (
        ReuseSession(detector(160, 192), threads=2, break_even=9.0) as session,
        ReuseSession(detector(160, 192), threads=1) as whole,
    ):
        for picture in clip_of(160, 192, 5):
            (ours,), stats = session.step({"x": picture})
            (theirs,), _ = whole.step({"x": picture}, dense=True)
            np.testing.assert_array_equal(ours, theirs)
        assert not stats.dense


@pytest.mark.parametrize("rows", [32, 96, 160])
def test_a_sweep_renews_what_islands_return_and_all_that_follows(rows: int) -> None:
    old, *_, new = clip_of(160, 192, 4)
    with ReuseSession(detector(160, 192), threads=1) as session:
        expected = session.run(None, {"x": new})
    with ReuseSession(detector(160, 192), tolerance=1e3, threads=1, break_even=9.0) as session:
        session.step({"x": old})
        outputs, _ = session.step({"x": new}, np.ones((160, 192), np.uint8))
        assert not np.array_equal(outputs[0], expected[0])
        np.testing.assert_array_equal(sweep(session, new, rows)[0], expected[0])


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("seed", range(24))
def test_what_is_stored_of_an_island_is_within_tolerance_of_its_inputs(
    seed: int, share: float
) -> None:
    """However many frames have passed: the comparison is with what is stored."""
    graph = random_graph(seed, wide=True)
    plan = compile_graph(graph, exact=False)
    workers = Workers(1)
    engine = PlanRunner(plan, workers, break_even=9.0)
    for number, feeds in enumerate(clip(graph, seed, 8)):
        engine.step(feeds)
        if number == 0:
            Tolerance(share).apply(plan, measure(plan))
        for node in graph.nodes:
            if node.op != ISLAND_OP or not set(node.outputs) & set(plan.island_cutoffs):
                continue
            inputs = {
                port.name: interpreter.to_region(engine.output(port.name).reshape(port.shape), port)
                for port in node.attrs["reads"]
            }
            fresh = interpreter.run_island(node, inputs)
            for name in set(node.outputs) & set(plan.island_cutoffs):
                gaps = np.square(fresh[name] - plan.view(name), dtype=np.float64).sum(axis=2)
                assert gaps.max() <= plan.threshold(name) * (1 + 1e-4) + 1e-9, (number, name)
    workers.close()


def test_the_work_of_islands_counts() -> None:
    with ReuseSession(detector(), threads=1, break_even=9.0) as session:
        pictures = clip_of(320, 320, 2)
        session.step({"x": pictures[0]})
        _, stats = session.step({"x": pictures[1]})
        infos, done = layers(session), layer_stats(session)
        work = np.array([info.multiply_adds for info in infos], float)
        assert stats.work == pytest.approx(float(work @ done.computed_share) / work.sum())
        for info in infos:
            if info.op == ISLAND:
                assert info.multiply_adds >= 100 * 100 * (8 + 16) * 2
