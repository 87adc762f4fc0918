"""Feeds whose shape changes, and the ways of onnxruntime to feed and to bind."""

import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from stillframe.errors import UsageError
from stillframe.reuse import session as session_module
from stillframe.reuse.runtime.engine import StepStats
from stillframe.reuse.session import RecompiledWarning, ReuseSession
from tests.reuse.test_session import Picture, frame, net, reference

OPEN = net((1, 3, -1, -1))
FIXED = net()


@pytest.fixture
def session() -> Iterator[ReuseSession]:
    with ReuseSession(FIXED, threads=1) as opened:
        yield opened


def feed(session: ReuseSession, width: int, atol: float = 2e-5) -> Picture:
    picture = frame(1, 3, 13, width)
    (got,) = session.run(None, {"x": picture})
    np.testing.assert_allclose(got, reference(OPEN, picture)[0], rtol=0, atol=atol)
    return picture


def feed_each(session: ReuseSession, widths: tuple[int, ...], atol: float) -> None:
    for width in widths:
        feed(session, width, atol)


def feed_all(session: ReuseSession, *widths: int, atol: float = 2e-5) -> None:
    """To a session that has seen none of them: all but the first are announced, once each."""
    with pytest.warns(RecompiledWarning) as caught:
        feed_each(session, widths, atol)
    assert len(caught) == len(set(widths)) - 1


def test_shapes_that_alternate_compile_once_each() -> None:
    with ReuseSession(OPEN, threads=1) as session:
        feed_all(session, 15, 22, 31)
        plans = {}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for width in (15, 31, 22, 15, 22, 31):
                feed(session, width)
                assert plans.setdefault(width, session.plan) is session.plan


def test_a_shape_that_comes_back_goes_on_with_its_own_stream() -> None:
    with ReuseSession(OPEN, threads=1) as session:
        first = feed(session, 15)
        with pytest.warns(RecompiledWarning):
            feed(session, 22)
        _, stats = session.step({"x": first})
        assert (stats.changed, stats.dense) == (0.0, False)


def test_a_change_map_is_about_the_last_feed_so_not_about_another_shape() -> None:
    with ReuseSession(OPEN, threads=1) as session:
        feed(session, 15)
        with pytest.warns(RecompiledWarning):
            feed(session, 22)
        picture = frame(1, 3, 13, 15)
        (got,), _ = session.step({"x": picture}, np.zeros((13, 15), np.uint8))
        np.testing.assert_allclose(got, reference(OPEN, picture)[0], rtol=0, atol=2e-5)


def test_the_least_recently_used_shape_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MOST_SHAPES", 2)
    with ReuseSession(OPEN, threads=1) as session:
        feed_all(session, 15, 22, 15, 31)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            feed(session, 15)
        with pytest.warns(RecompiledWarning):
            feed(session, 22)


def test_the_bytes_of_other_shapes_are_bounded_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ReuseSession(OPEN, threads=1) as session:
        feed(session, 15)
        assert session.memory.other_shapes == 0
        before = session.memory.total
        with pytest.warns(RecompiledWarning):
            feed(session, 22)
        assert session.memory.other_shapes == before
        monkeypatch.setattr(session_module, "SHAPES_BYTES", before)
        with pytest.warns(RecompiledWarning):
            feed(session, 31)
        assert session.memory.other_shapes <= before


def test_a_tolerance_holds_for_every_shape() -> None:
    with ReuseSession(OPEN, threads=1, tolerance=0.1) as session:
        feed_all(session, 15, 22, atol=10.0)
        picture = frame(1, 3, 13, 15)
        limits = []
        for tolerance in (session.tolerance, session.tolerance.scaled(0.5)):
            session.tolerance = tolerance
            session.run(None, {"x": picture})
            limits.append([session.plan.threshold(name) for name in session.plan.compared])
        np.testing.assert_allclose(np.array(limits[1]) * 4, limits[0], rtol=1e-5)


def test_lists_and_ort_values_are_feeds(session: ReuseSession) -> None:
    picture = frame()
    (expected,) = session.run(None, {"x": picture})
    for each in (picture.tolist(), ort.OrtValue.ortvalue_from_numpy(picture)):
        np.testing.assert_array_equal(session.run(None, {"x": each})[0], expected)
    (value,) = session.run_with_ort_values(None, {"x": ort.OrtValue.ortvalue_from_numpy(picture)})
    np.testing.assert_array_equal(value.numpy(), expected)
    with pytest.raises(UsageError, match="expected numbers of float32"):
        session.run(None, {"x": [["a"]]})


def test_a_binding_reads_and_writes_where_it_was_bound(session: ReuseSession) -> None:
    picture = frame()
    (expected,) = session.run(None, {"x": picture})
    binding = session.io_binding()
    binding.bind_cpu_input("x", picture)
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], expected)
    np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), expected)

    there, here = picture.copy(), np.zeros_like(expected)
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, np.float32, there.shape, there.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, here.shape, here.ctypes.data)
    there += 1  # read as the run begins
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(here, session.run(None, {"x": picture + 1})[0])

    value = ort.OrtValue.ortvalue_from_numpy(np.zeros_like(expected))
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(picture))
    binding.bind_ortvalue_output("y", value)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(value.numpy(), expected)


def test_a_binding_that_does_not_fit_is_an_error(session: ReuseSession) -> None:
    binding = session.io_binding()
    with pytest.raises(UsageError, match="cannot bind 'z'"):
        binding.bind_cpu_input("z", frame())
    with pytest.raises(UsageError, match="on cuda"):
        binding.bind_output("y", "cuda")
    binding.bind_cpu_input("x", frame())
    wrong = np.zeros(3, np.float32)
    binding.bind_output("y", "cpu", 0, np.float32, wrong.shape, wrong.ctypes.data)
    with pytest.raises(UsageError, match="expected memory for float32"):
        session.run_with_iobinding(binding)


def test_run_async_calls_back_with_outputs_or_with_a_text(session: ReuseSession) -> None:
    picture, done = frame(), threading.Event()
    got: list[Any] = []

    def callback(outputs: list[Picture], user_data: Any, problem: str) -> None:
        got.append((outputs, user_data, problem))
        done.set()

    session.run_async(["y"], {"x": picture}, callback, "mine")
    assert done.wait(60)
    outputs, mine, problem = got[0]
    assert (mine, problem) == ("mine", "")
    np.testing.assert_array_equal(outputs[0], session.run(None, {"x": picture})[0])
    done.clear()
    session.run_async(["y"], {"x": picture[:, :2]}, callback)
    assert done.wait(60)
    assert got[1][0] == []
    assert "expected shape" in got[1][2]


def test_providers_are_those_of_islands_and_can_be_set() -> None:
    with ReuseSession(net(heads=True), threads=1) as session:
        picture = frame()
        expected = session.run(None, {"x": picture})
        assert session.get_providers() == ["StillframeExecutionProvider", "CPUExecutionProvider"]
        session.set_providers(["CPUExecutionProvider"], [{}])
        outputs, stats = session.step({"x": picture})
        assert stats.dense
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(UsageError, match="not here"):
            session.set_providers(["NoSuchProvider"])


def test_each_row_of_a_batch_can_be_a_stream_of_its_own() -> None:
    source = net((-1, 3, 13, 15))
    with ReuseSession(source, threads=1, batch="streams", break_even=9.0) as session:
        batch = frame(3, 3, 13, 15)
        for number in range(4):
            outputs, stats = session.step({"x": batch})
            np.testing.assert_allclose(outputs[0], reference(source, batch)[0], rtol=0, atol=2e-5)
            assert stats.dense == (number == 0)
            batch = batch.copy()
            batch[1, :, 2:4, 3:5] += 1  # the second stream moves, the others are still
        assert 0 < stats.work < 0.3
        session.reset()
        assert session.step({"x": batch})[1].dense
        with pytest.raises(UsageError, match="no change map"):
            session.step({"x": batch}, np.ones((13, 15), np.uint8))
        (alone,) = session.run(None, {"x": batch[:1]})
        np.testing.assert_allclose(alone, reference(source, batch[:1])[0], rtol=0, atol=2e-5)


def test_a_batch_is_dense_unless_its_rows_are_streams() -> None:
    source = net((-1, 3, 13, 15))
    batch = frame(2, 3, 13, 15)
    with ReuseSession(source, threads=1) as session:
        (got,) = session.run(None, {"x": batch})
        np.testing.assert_allclose(got, reference(source, batch)[0], rtol=0, atol=2e-5)
    with pytest.raises(UsageError, match="expected 'dense' or 'streams'"):
        ReuseSession(source, batch="rows")
    with (
        ReuseSession(net((2, 3, 13, 15)), threads=1, batch="streams") as session,
        pytest.raises(UsageError, match="leaves open"),
    ):
        session.run(None, {"x": batch})


def test_batches_of_any_shape_run_without_being_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a text recogniser is fed: so many lines at once, as wide as the widest."""
    source = net((-1, 3, -1, -1))
    with ReuseSession(source, threads=1) as session:
        monkeypatch.setattr(session_module, "compile_model", None)  # would fail if it were called
        for count, width in ((2, 15), (3, 17), (4, 21), (2, 22)):
            batch = frame(count, 3, 13, width)
            outputs, stats = session.step({"x": batch})
            assert stats.dense
            np.testing.assert_allclose(outputs[0], reference(source, batch)[0], rtol=0, atol=2e-5)
            again, stats = session.step({"x": batch.copy()})
            assert session.last_stats is stats
            assert stats == StepStats(0.0, False, 0.0, 0)
            np.testing.assert_array_equal(again[0], outputs[0])
            assert session.step({"x": batch}, dense=True)[1].dense
        batch = batch + 1
        outputs, stats = session.step({"x": batch})
        assert stats.dense
        np.testing.assert_allclose(outputs[0], reference(source, batch)[0], rtol=0, atol=2e-5)
        with pytest.raises(UsageError, match="no change map"):
            session.step({"x": batch}, np.ones((13, 15), np.uint8))
        assert not outputs[0].flags.writeable
        session.run(None, {"x": batch})[0][:] = 0  # the caller's own
        np.testing.assert_array_equal(session.step({"x": batch})[0][0], outputs[0])
        session.reset()
        assert session.step({"x": batch})[1].dense
        session.set_providers(["CPUExecutionProvider"])
        assert session.step({"x": batch})[1].dense
    with pytest.raises(UsageError, match="was closed"):
        session.run(None, {"x": batch})


def test_layers_are_measured_for_the_first_shape_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []
    tune = session_module.tune

    def counted(graph: Any, *rest: Any) -> Any:
        graphs.append(graph)
        return tune(graph, *rest)

    monkeypatch.setattr(session_module, "tune", counted)
    with ReuseSession(OPEN, threads=1) as session:
        feed_all(session, 15, 22, 31)
    assert len(graphs) == 1
