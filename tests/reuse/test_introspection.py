"""What introspection shows is what the plan holds and what the engine did, layer by layer."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from stillframe.errors import UsageError
from stillframe.reuse import introspection
from stillframe.reuse.introspection import (
    CALLER,
    EXPORT,
    ISLAND,
    LayerInfo,
    activation,
    changed_positions,
    compared_layers,
    computed_positions,
    layer_stats,
    layers,
)
from stillframe.reuse.session import ReuseSession
from tests.graph_cases import model
from tests.reuse.frontend.test_layouts import random_model
from tests.reuse.test_session import frame, net

PLENTY = 1 << 30  # bytes: every activation that saves work is stored


def named(infos: tuple[LayerInfo, ...], name: str, op: str = "Conv") -> int:
    (index,) = (i for i, info in enumerate(infos) if name == info.name and info.op == op)
    return index


def test_layers_come_in_the_order_in_which_they_run() -> None:
    with ReuseSession(net(heads=True), threads=1) as session:
        infos = layers(session)
        assert [(info.name, info.op) for info in infos] == [
            ("b", "Conv"),
            ("d", "Conv"),
            ("y", "Conv"),
            ("y", EXPORT),
            ("r", EXPORT),
            ("z", ISLAND),
        ]


def test_a_layer_tells_its_size_its_cost_and_its_memory() -> None:
    with ReuseSession(net(), threads=1, memory_budget=PLENTY) as session:
        infos = layers(session)
        first = infos[named(infos, "b")]
        assert first.shape == (11, 13, 16)
        assert first.positions == 11 * 13
        assert first.multiply_adds == 11 * 13 * 16 * 27
        assert first.persistent is True
        assert "3x3" in first.why
        assert first.bytes >= 11 * 13 * 16 * 4
        assert "Conv -> 'd'" in first.last_reader
        assert first.cut_off
        assert first.after_global == first.reason == ""
        assert infos[named(infos, "y")].last_reader == CALLER
        copy = infos[named(infos, "y", EXPORT)]
        assert (copy.persistent, copy.bytes, copy.cut_off) == (None, 0, False)
        with pytest.raises(FrozenInstanceError):
            first.bytes = 0  # type: ignore[misc]


def test_an_island_tells_why_it_is_one_and_what_it_holds() -> None:
    with ReuseSession(net(heads=True), threads=1) as session:
        (island,) = (info for info in layers(session) if info.op == ISLAND)
        assert island.reason
        assert island.nodes
        assert island.last_reader == CALLER
        assert (island.positions, island.multiply_adds, island.persistent) == (1, 0, None)


def test_what_depends_on_a_global_operator_names_the_first_one() -> None:
    with ReuseSession(net(gate=True), threads=1) as session:
        infos = layers(session)
        (pool,) = (info for info in infos if info.op == "GlobalPool")
        assert infos[named(infos, "y")].after_global == pool.name
        assert infos[named(infos, "b")].after_global == ""


def test_stats_are_what_the_last_step_did() -> None:
    with ReuseSession(net(heads=True), threads=2) as session:
        picture = frame()
        session.step({"x": picture})
        infos, whole = layers(session), layer_stats(session)
        assert list(whole.positions) == [info.positions for info in infos]
        assert list(whole.computed) == list(whole.positions)
        assert (whole.nanoseconds > 0).all()

        picture[0, :, 10, 10] += 1
        _, step = session.step({"x": picture})
        stats = layer_stats(session)
        work = np.array([info.multiply_adds for info in infos])
        assert step.work == pytest.approx(float(stats.computed_share @ work) / work.sum())
        assert stats.computed[named(infos, "y")] == 9  # 3 x 3 around the one that read the pixel
        assert stats.computed[-1] == stats.changed_share[-1] == step.islands_run == 1
        assert stats.nanoseconds[-1] > 0

        before = stats.computed.copy()
        session.step({"x": picture})
        assert not layer_stats(session).computed.any()
        np.testing.assert_array_equal(stats.computed, before)  # a copy, not a view


@pytest.mark.parametrize("budget", [0, PLENTY])
@pytest.mark.parametrize("gate", [False, True])
def test_computed_positions_are_those_that_the_engine_counted(gate: bool, budget: int) -> None:
    with ReuseSession(net(gate=gate), threads=1, memory_budget=budget) as session:
        picture = frame()
        session.step({"x": picture})
        assert all(marks.all() for marks in computed_positions(session).values())
        assert changed_positions(session, "x").all()
        picture[0, :, 3:6, 20:23] += 1
        session.step({"x": picture})
        changed = np.zeros((21, 26), bool)
        changed[3:6, 20:23] = True
        np.testing.assert_array_equal(changed_positions(session, "x"), changed)
        marks, stats = computed_positions(session), layer_stats(session)
        checked = 0
        for index, info in enumerate(layers(session)):
            if info.op not in (EXPORT, ISLAND) and info.positions > 1:
                assert marks[info.name].shape == info.shape[:2]
                assert marks[info.name].sum() == stats.computed[index], info.name
                changes = changed_positions(session, info.name).sum()
                assert changes == stats.changed[index], info.name
                checked += 1
        assert checked >= 3
        session.step({"x": picture})
        assert not any(marks.any() for marks in computed_positions(session).values())
        assert not changed_positions(session, "x").any()


def test_a_tolerance_applies_to_the_layers_that_are_cut_off() -> None:
    with ReuseSession(net(gate=True), threads=1, tolerance=0.1) as session:
        names = [info.name for info in layers(session) if info.cut_off]
        assert list(compared_layers(session)) == names == ["d", "g", "d2~moments"]


def test_an_activation_is_what_is_stored() -> None:
    with ReuseSession(net(), threads=1) as session:
        (y,) = session.run(None, {"x": frame()})
        np.testing.assert_array_equal(activation(session, "y").transpose(2, 0, 1)[None], y)


def test_an_input_that_only_islands_read_takes_no_change_map() -> None:
    with ReuseSession(net(), threads=1) as session:
        assert session.picture_inputs == ("x",)
        assert session.reads_pixels


def test_a_model_with_open_shapes_is_fed_first() -> None:
    source = net(size=(1, 3, 21, "w"))  # type: ignore[arg-type]
    asked = pytest.raises(UsageError, match="feed it once, then ask")
    with ReuseSession(source, threads=1) as session, asked:
        layers(session)


def test_everything_in_all_is_there() -> None:
    assert all(hasattr(introspection, name) for name in introspection.__all__)


@pytest.mark.parametrize("seed", range(12))
def test_counts_and_masks_agree_on_random_models(seed: int) -> None:
    steps, feeds, outputs = random_model(seed)
    rng = np.random.default_rng(seed)
    picture = rng.normal(size=feeds["x"]).astype(np.float32)
    with ReuseSession(model(steps, feeds, outputs), threads=2, break_even=1.0) as session:
        infos = layers(session)
        # of several instructions for one operator the last covers the whole output
        last = {info.name: i for i, info in enumerate(infos) if info.op not in (EXPORT, ISLAND)}
        session.step({"x": picture})
        for _ in range(3):
            picture[..., rng.integers(picture.shape[-1])] += 1
            assert not session.step({"x": picture})[1].dense
            marks, stats = computed_positions(session), layer_stats(session)
            for name, index in last.items():
                assert name not in marks or marks[name].sum() == stats.computed[index], name
                assert changed_positions(session, name).sum() == stats.changed[index], name
