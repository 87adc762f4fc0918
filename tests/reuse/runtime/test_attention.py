"""Networks with attention: exact without a tolerance, sparse and within it with one."""

import functools

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.reuse.compile import compile_graph, load_graph
from stillframe.reuse.introspection import ISLAND, layer_stats, layers
from stillframe.reuse.ir import interpreter
from stillframe.reuse.ir.graph import ISLAND as ISLAND_OP
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.kernels.attention import RENEWED
from stillframe.reuse.plan.tolerance import Tolerance, measure
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.workers import Workers
from stillframe.reuse.session import ReuseSession
from tests.attention_nets import area_detector, bins_head, cross_attention, detector, vit
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
            if node.op != ISLAND_OP or not set(node.outputs) & set(plan.arrivals):
                continue
            inputs = {
                port.name: interpreter.to_region(
                    engine.output(port.name), port, graph.shapes[port.name]
                )
                for port in node.attrs["reads"]
            }
            fresh = interpreter.run_island(node, inputs, graph.shapes)
            for name in set(node.outputs) & set(plan.arrivals):
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


NETS = {
    "one attention block": detector(96, 128),
    "attention in strips": area_detector(64, 96),
    "transformer": vit(),
    "transformer without a class token": vit(class_token=False),
    "transformer in single operators": vit(expanded=True),
    "transformer with windows": vit(56, 84, window=(4, 6), class_token=False),
    "head with bins": bins_head(),
}


@functools.cache
def size_of(source: bytes) -> tuple[int, int]:
    shape = onnxruntime.InferenceSession(source).get_inputs()[0].shape
    return shape[2], shape[3]


def wandering(height: int, width: int, frames: int, seed: int = 0) -> list[Picture]:
    """A small patch that is somewhere else in each frame; in the third nothing changes."""
    rng = np.random.default_rng(seed)
    still = rng.random((1, 3, height, width)).astype(np.float32)
    pictures = [still]
    for _ in range(frames - 1):
        picture = still.copy()
        top, left = int(rng.integers(height - 12)), int(rng.integers(width - 12))
        picture[:, :, top : top + 12, left : left + 12] = rng.random((1, 3, 12, 12))
        pictures.append(picture)
    pictures[2:2] = pictures[1:2]
    return pictures


@pytest.mark.parametrize("name", NETS)
def test_networks_of_tokens_have_no_island_and_give_what_onnxruntime_gives(name: str) -> None:
    graph = load_graph(NETS[name])
    assert all(node.op != ISLAND_OP for node in graph.nodes)
    picture = wandering(*size_of(NETS[name]), 2)[0]
    (expected,) = onnxruntime.InferenceSession(NETS[name]).run(None, {"x": picture})
    (oracle,) = interpreter.run(graph, {"x": picture}).values()
    np.testing.assert_allclose(oracle, expected, atol=1e-5 * np.abs(expected).max())
    with ReuseSession(NETS[name], threads=1) as session:
        (ours,) = session.run(None, {"x": picture})
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


@functools.cache
def whole_answers(name: str) -> list[Picture]:
    """What a network gives for each frame of `wandering`, computed whole. The same answers hold
    for every budget and number of threads."""
    with ReuseSession(NETS[name], threads=1) as whole:
        pictures = wandering(*size_of(NETS[name]), 6)
        return [whole.step({"x": picture}, dense=True)[0][0].copy() for picture in pictures]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("budget", [None, 0, KEEP_ALL])
@pytest.mark.parametrize("name", NETS)
def test_networks_of_tokens_are_exact_bit_for_bit(
    name: str, budget: int | None, threads: int
) -> None:
    with ReuseSession(NETS[name], threads=threads, break_even=9.0, memory_budget=budget) as session:
        frames = zip(wandering(*size_of(NETS[name]), 6), whole_answers(name), strict=True)
        for number, (picture, theirs) in enumerate(frames):
            (ours,), stats = session.step({"x": picture})
            np.testing.assert_array_equal(ours, theirs, err_msg=f"frame {number}")
            assert stats.dense == (number == 0)


def attention_gaps(session: ReuseSession) -> list[tuple[float, float]]:
    """Of each attention: the largest squared distance of a stored row to what its stored queries,
    keys and values give, and the threshold."""
    plan, gaps = session.plan, []
    for node in plan.graph.nodes:
        if node.op == "Attention":
            arrays = [plan.view(name) for name in node.inputs]
            fresh = OPS["Attention"].reference(node, arrays)
            gap = np.square(fresh - plan.view(node.output), dtype=np.float64).sum(axis=2)
            gaps.append((float(gap.max()), plan.threshold(node.output)))
    return gaps


@pytest.mark.parametrize("share", [0.003, 0.02, 0.3])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [name for name in NETS if name != "head with bins"])
def test_every_stored_row_of_attention_is_within_tolerance(
    name: str, threads: int, share: float
) -> None:
    """However many frames have passed since it was computed."""
    reused = 0.0
    with ReuseSession(
        NETS[name], tolerance=share, threads=threads, break_even=9.0, memory_budget=KEEP_ALL
    ) as session:
        for picture in wandering(*size_of(NETS[name]), 30):
            session.step({"x": picture})
            for gap, limit in attention_gaps(session):
                assert gap <= limit * (1 + 1e-3) + 1e-12
            stats, infos = layer_stats(session), layers(session)
            reused += sum(
                1 - stats.computed_share[index]
                for index, info in enumerate(infos)
                if info.op == "Attention"
            )
    assert reused > 1


@pytest.mark.parametrize("keys", [0, 1, 20, 120])
def test_a_query_that_changed_is_computed_whatever_its_keys_do(keys: int) -> None:
    """No key changes; a few do, so that rows are only brought up to date; or most of them do."""
    rng = np.random.default_rng(keys)
    with ReuseSession(
        cross_attention(), tolerance=0.1, threads=1, break_even=9.0, memory_budget=KEEP_ALL
    ) as session:
        picture = rng.normal(size=(1, 6, 16, 16)).astype(np.float32)
        session.step({"x": picture})
        for _ in range(12):
            flat = picture.reshape(6, 256)
            query, *changed = rng.permutation(256)[: 1 + keys]
            flat[:3, query] = 3 * rng.normal(size=3)
            flat[3:, changed] += rng.normal(size=(3, keys)) / 20
            session.step({"x": picture})
            for gap, limit in attention_gaps(session):
                assert gap <= limit * (1 + 1e-3) + 1e-12


def test_sums_that_tell_which_rows_have_moved_do_not_wear_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Far more frames than a row goes without being computed."""
    source = vit(42, 49, blocks=1)
    with ReuseSession(source, tolerance=0.05, threads=1, break_even=9.0) as session:
        for picture in wandering(42, 49, 400, seed=1):
            session.step({"x": picture})
        for gap, limit in attention_gaps(session):
            assert gap <= limit * (1 + 1e-3)


def test_rows_that_do_not_move_are_computed_anew_in_turn() -> None:
    """So rounding of the sums that tell is bounded however long nothing moves. With as many rows as
    turns, one is due in each frame in which a key changes."""
    picture = np.random.default_rng(0).normal(size=(1, 6, 16, 16)).astype(np.float32)
    assert RENEWED == 16 * 16
    with ReuseSession(
        cross_attention(), tolerance=0.5, threads=1, break_even=9.0, memory_budget=KEEP_ALL
    ) as session:
        session.step({"x": picture})
        index = next(i for i, info in enumerate(layers(session)) if info.op == "Attention")
        for number in range(40):
            other = picture.copy()
            other[0, 3:, number % 16, number // 16] *= 2.5
            session.step({"x": other})
            assert layer_stats(session).computed_share[index] >= 1 / RENEWED


@pytest.mark.parametrize("name", ["transformer", "transformer with windows", "attention in strips"])
@pytest.mark.parametrize("rows", [8, 28])
def test_a_sweep_renews_tokens_and_attention(name: str, rows: int) -> None:
    height, width = size_of(NETS[name])
    old, *_, new = wandering(height, width, 4, seed=5)
    new = np.clip(new + 0.3, 0, 1).astype(np.float32)
    with ReuseSession(NETS[name], threads=1) as session:
        expected = session.run(None, {"x": new})
    with ReuseSession(NETS[name], tolerance=1e3, threads=2, break_even=9.0) as session:
        session.step({"x": old})
        outputs, _ = session.step({"x": new}, np.ones((height, width), np.uint8))
        assert not np.array_equal(outputs[0], expected[0])
        np.testing.assert_array_equal(sweep(session, new, rows)[0], expected[0])


def test_windows_that_nothing_touched_are_not_computed() -> None:
    source = NETS["transformer with windows"]
    with ReuseSession(source, threads=1, break_even=9.0) as session:
        still = wandering(56, 84, 1)[0]
        session.step({"x": still})
        picture = still.copy()
        picture[:, :, 1:3, 1:3] += 0.5
        session.step({"x": picture})
        stats, infos = layer_stats(session), layers(session)
        for index, info in enumerate(infos):
            if info.op == "Attention":
                assert stats.computed[index] == 4 * 6


def test_changed_keys_are_counted_as_work() -> None:
    source = NETS["transformer"]
    with ReuseSession(source, tolerance=0.3, threads=2, break_even=9.0) as session:
        for picture in wandering(56, 70, 3):
            _, stats = session.step({"x": picture})
        infos, done = layers(session), layer_stats(session)
        work = np.array([info.multiply_adds for info in infos], float)
        rows = float(work @ done.computed_share) / work.sum()
        assert stats.work >= rows
