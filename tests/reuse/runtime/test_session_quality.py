"""ReuseSession(quality=…): what it measures, how it steers, what it promises."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import UsageError
from stillframe.reuse.runtime.session_quality import (
    FIRST,
    MOST,
    QualityKeeper,
    closeness,
)
from stillframe.reuse.session import ReuseSession
from tests.graph_cases import model
from tests.reuse.test_session import net

SIZE = (1, 3, 96, 128)
STREAMS = 200


def vectors(x: float) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Outputs of closeness x, and whole ones."""
    return [np.array([x, 0.0])], [np.array([1.0, 0.0])]


def stream(
    keeper: QualityKeeper, loss_of: Callable[[int, float], float], steps: int
) -> tuple[float, list[float]]:
    """Steps at the keeper's tolerance; -> their true mean, and the tolerances."""
    kept, tolerances = [], []
    for index in range(steps):
        x = min(1.0, max(0.0, 1 - loss_of(index, keeper.tolerance)))
        kept.append(x)
        tolerances.append(keeper.tolerance)
        if keeper.draws(whole=False, spent_s=0.01):
            keeper.add_audit(*vectors(x), 0.02)
    return float(np.mean(kept)), tolerances


def test_closeness_is_of_the_worst_output() -> None:
    whole = [np.array([3.0, 4.0]), np.array([1, 2])]
    assert closeness(whole, whole) == 1
    assert closeness([np.array([3.0, 4.5]), whole[1]], whole) == pytest.approx(0.9)
    assert closeness([np.array([-30.0, 4.0]), whole[1]], whole) == 0
    assert closeness([np.array([3.0]), whole[1]], whole) == 0, "another shape"
    assert closeness([np.zeros(2)], [np.zeros(2)]) == 1
    assert closeness([np.array([0.0, 0.1])], [np.zeros(2)]) == 0
    assert closeness([np.array([1.0, np.nan])], [np.array([1.0, np.nan])]) is None
    assert closeness([np.array(["a"])], [np.array(["b"])]) == 0


@pytest.mark.parametrize("loss_per_tolerance", [0.02, 0.2, 2.0, 8.0])
def test_the_tolerance_follows_the_loss(loss_per_tolerance: float) -> None:
    """Whatever a network loses at a tolerance, the mean comes to lie within what was asked for."""
    rng = np.random.default_rng(1)

    def loss_of(index: int, tolerance: float) -> float:
        return loss_per_tolerance * tolerance * rng.uniform(0.5, 1.5)

    keeper = QualityKeeper(0.98)
    mean, tolerances = stream(keeper, loss_of, 3000)
    later = float(np.median(tolerances[1500:]))
    assert 0.004 < later * loss_per_tolerance < 0.014 or later == MOST
    assert mean > 0.975
    assert keeper.report.kept == pytest.approx(mean, abs=0.006)


def test_it_answers_a_stream_that_becomes_harder() -> None:
    keeper = QualityKeeper(0.98)
    _, tolerances = stream(keeper, lambda index, t: (0.1 if index < 2000 else 3.0) * t, 4000)
    assert tolerances[1999] > FIRST
    assert tolerances[-1] * 3.0 < 0.02
    assert tolerances[2400] < 0.3 * tolerances[1999]


def test_the_bound_is_below_the_true_mean_in_19_of_20_streams() -> None:
    """Under steering, under drift, and at every moment that was looked at."""
    rng = np.random.default_rng(7)
    wrong = 0
    for number in range(STREAMS):
        keeper = QualityKeeper(0.95, seed=number)
        kept: list[float] = []
        failed = False
        for index in range(600):
            level = 1.0 + np.sin(index / 40 + number)
            loss = rng.uniform(0, 2) * level * keeper.tolerance * 2 + (rng.random() < 0.01) * 0.8
            kept.append(min(1.0, max(0.0, 1 - loss)))
            if keeper.draws(whole=False, spent_s=0.01):
                keeper.add_audit(*vectors(kept[-1]), 0.01)
                lower = keeper.report.lower
                failed |= lower is not None and lower > float(np.mean(kept))
        wrong += failed
    assert wrong <= 0.05 * STREAMS


def test_a_bound_that_is_never_reached_is_reported_as_unproven() -> None:
    keeper = QualityKeeper(0.999)
    stream(keeper, lambda index, t: 0.01, 200)
    report = keeper.report
    assert not report.certified
    assert "0.999 is not proven" in str(report)
    keeper = QualityKeeper(0.9)
    stream(keeper, lambda index, t: 0.0, 6000)
    assert keeper.report.certified
    assert "closeness 1.000 (>= 0.9" in str(keeper.report)
    assert "not proven" not in str(keeper.report)
    assert "unknown meaning" in str(keeper.report)


def test_outputs_that_are_not_numbers_give_no_certificate() -> None:
    keeper = QualityKeeper(0.9)
    for _ in range(300):
        if keeper.draws(whole=False, spent_s=0.01):
            keeper.add_audit([np.array([np.nan])], [np.array([np.nan])], 0.01)
    report = keeper.report
    assert report.undefined == report.audits > 0
    assert report.kept is None
    assert report.lower is None
    assert not report.certified
    assert "no certificate" in str(report)


@pytest.mark.parametrize("quality", [0, -1, 1.5, float("nan")])
def test_quality_is_a_share_above_zero(quality: float) -> None:
    with pytest.raises(UsageError, match="quality: expected more than 0 and at most 1"):
        ReuseSession(net(), quality=quality)


@pytest.mark.parametrize(
    "more", [{"tolerance": 0.1}, {"batch": "streams"}, {"states": ["x"]}], ids=str
)
def test_quality_stands_alone(more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="quality: expected no tolerance"):
        ReuseSession(net(), quality=0.9, **more)


def picture(index: int, noise: float = 0.01) -> dict[str, NDArray[np.float32]]:
    values = np.random.default_rng(0).random(SIZE, np.float32)
    values += np.random.default_rng(index).normal(0, noise, SIZE).astype(np.float32)
    values[:, :, 20:50, index % 60 : index % 60 + 30] = 0.9
    return {"x": values}


def ready(session: ReuseSession) -> None:
    """Wait for the engine."""
    assert session.plan is not None


def test_perfect_quality_is_exact() -> None:
    with (
        ReuseSession(net(SIZE, gate=True), quality=1, threads=1) as session,
        ReuseSession(net(SIZE, gate=True), threads=1) as exact,
    ):
        for index in range(5):
            ours, theirs = (each.run(None, picture(index)) for each in (session, exact))
            np.testing.assert_array_equal(ours[0], theirs[0])
        report = session.quality
        assert report is not None
        assert report.certified
        assert (report.kept, report.lower, report.tolerance) == (1, 1, 0)
        assert str(report).startswith("exact: ")
        assert exact.quality is None


def test_a_session_holds_the_closeness_that_was_asked_for() -> None:
    onnx = net(SIZE)
    reference = onnxruntime.InferenceSession(onnx)
    with ReuseSession(onnx, quality=0.95, threads=1, break_even=1.0) as session:
        ready(session)
        close, partial = [], 0
        for index in range(150):
            outputs = session.run(None, picture(index))
            whole = reference.run(None, picture(index))
            value = closeness(outputs, whole)
            assert value is not None
            close.append(value)
            assert session.last_stats is not None
            partial += not session.last_stats.dense
        report = session.quality
        assert report is not None
        assert report.audits > 5
        assert partial > 100
        assert report.lower is not None
        assert report.lower <= np.mean(close)
        assert np.mean(close[50:]) >= 0.95
        assert session.tolerance.share == report.tolerance
        with pytest.raises(UsageError, match="chooses its own"):
            session.tolerance = session.tolerance


def test_first_results_come_while_the_engine_is_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_end, prepare = threading.Event(), ReuseSession._prepared

    def slow(session: ReuseSession, shapes: Any) -> Any:
        assert may_end.wait(60)
        return prepare(session, shapes)

    monkeypatch.setattr(ReuseSession, "_prepared", slow)
    onnx = net(SIZE)
    reference = onnxruntime.InferenceSession(onnx)
    with ReuseSession(onnx, quality=0.9, threads=1, break_even=1.0) as session:
        for index in range(3):
            outputs = session.run(None, picture(index))
            np.testing.assert_allclose(
                outputs[0], reference.run(None, picture(index))[0], rtol=1e-4, atol=1e-4
            )
        report = session.quality
        assert report is not None
        assert (report.whole, report.others) == (3, 0)
        assert str(report).startswith("each of 3 steps computed everything")
        may_end.set()
        deadline = time.monotonic() + 60
        while session._start is not None and time.monotonic() < deadline:
            session.run(None, picture(3))
        assert session._start is None, "ONNX Runtime's weights are let go"
        for index in range(4, 8):
            session.run(None, picture(index))
        assert session.last_stats is not None
        assert not session.last_stats.dense


def test_steps_with_a_change_map_wait_for_the_engine_and_are_not_covered() -> None:
    """Outside the map the feed is not read, so it must not be computed whole."""
    with ReuseSession(net(SIZE), quality=0.9, threads=1) as session:
        marks = np.zeros(SIZE[2:], np.uint8)
        marks[20:50] = 1
        for index in range(60):
            session.step(picture(index), marks)
        report = session.quality
        assert report is not None
        assert report.audits == 0
        assert report.uncovered == 59
        assert "59 steps with a change map are not covered" in str(report)


def test_a_model_whose_outputs_are_not_numbers_runs_and_is_not_certified() -> None:
    onnx = model([("Log", ["x"], "y", {})], {"x": SIZE}, ["y"])
    with ReuseSession(onnx, quality=0.9, threads=1) as session:
        ready(session)
        with np.errstate(invalid="ignore"):
            for index in range(80):
                session.run(None, {"x": picture(index)["x"] - 0.5})
        report = session.quality
        assert report is not None
        assert report.lower is None or report.undefined == 0
        assert report.undefined or not report.audits
        assert "certificate" in str(report) or "everything" in str(report)


def test_a_session_may_be_closed_while_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    monkeypatch.setattr("stillframe.reuse.session.CLOSE_GRACE_S", 0.05)
    monkeypatch.setattr(ReuseSession, "_prepared", lambda session, shapes: may_end.wait(60))
    session = ReuseSession(net(SIZE), quality=0.9, threads=1)
    session.run(None, picture(0))
    session.close()
    may_end.set()
    with pytest.raises(UsageError, match="was closed"):
        session.run(None, picture(1))


def test_open_shapes_are_prepared_for_the_first_feed() -> None:
    onnx = net(("n", 3, "h", "w"))  # type: ignore[arg-type]
    with ReuseSession(onnx, quality=0.9, threads=1) as session:
        first = session.run(None, picture(0))
        ready(session)
        np.testing.assert_allclose(session.run(None, picture(0))[0], first[0], atol=1e-4)
        small = {"x": picture(0)["x"][:, :, :64, :64].copy()}
        with pytest.warns(Warning, match="compiling again"):
            session.run(None, small)
