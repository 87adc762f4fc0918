"""The controller that watches a plan: what makes it change, and what it learns."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import UsageError
from stillframe.native_calls import hanging
from stillframe.pipeline.executor.hardware.contention import ContentionMeter
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.placement import controller as controller_module
from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.placement.controller import PlacementController
from stillframe.pipeline.placement.cost_model import (
    Goal,
    Prediction,
    StageCosts,
    plan,
    predict,
)
from tests.hang_guard import HANGS_S, ends
from tests.pipeline.placement.test_cost_model import ONE, TWO, WINDOWS, profile


class Quiet(ContentionMeter):
    def sample(self) -> float:
        return self.others


def controller(
    monkeypatch: pytest.MonkeyPatch, costs: StageCosts, goal: Goal | None = None
) -> PlacementController:
    """A controller whose changes are recorded and not carried out."""
    placement = PlacementController(costs, goal or Goal("latency"), WINDOWS, Quiet())
    changes: list[Prediction] = []

    def change(best: Prediction, why: str, now: float, now_s: float) -> None:
        changes.append(best)
        placement.current, placement.replans = best, placement.replans + 1
        placement._hysteresis.changed(now, now_s)
        placement._report(f"re-planned: {best.candidate}; {why}")

    monkeypatch.setattr(placement, "_change", change)
    return placement


def measured(placement: PlacementController, factor: float) -> Prediction:
    return predict(placement.costs, placement.current.candidate).scaled(factor)


def test_a_backend_that_no_frame_reached_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Named:
        incremental = False

        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    class Analysis:
        slot = BackendSlot(lambda path: pytest.fail("not asked for"), incremental=False)
        model = Named("model")
        settings = None

    monkeypatch.setattr(BackendChoice, "make", lambda *_: Named("first"))
    placement = controller(monkeypatch, profile())
    analysis: Any = Analysis()
    analysis.model.path = Path("net.onnx")
    placement.install_backend(analysis)
    analysis.slot.swap(Named("second"), Path("net.onnx"))
    assert closed == ["first"]  # no frame was decided for it
    placement._built.append((Named("third"), Path("net.onnx")))
    placement.close()
    assert sorted(closed) == ["first", "second", "third"]
    placement.close()
    assert len(closed) == 3


def test_it_changes_when_others_come_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = controller(monkeypatch, profile())
    assert placement.current.candidate.infer == TWO
    for second in range(5):
        placement.compare(measured(placement, 1.0), float(second))
    assert placement.replans == 0
    placement.costs = replace(placement.costs, others=3.0)
    for second in range(5, 10):
        placement.compare(measured(placement, 1.0), float(second))
    assert placement.replans == 1
    assert placement.current.candidate.infer == ONE
    assert "3.0 threads of others compete; latency takes" in placement.decisions[-1]
    placement.costs = replace(placement.costs, others=0.0)
    for second in range(20, 30):
        placement.compare(measured(placement, 1.0), float(second))
    assert placement.current.candidate.infer == TWO


def test_a_static_plan_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = controller(monkeypatch, profile(), Goal("latency", replans=False))
    placement.costs = replace(placement.costs, others=5.0)
    for second in range(10):
        placement.compare(measured(placement, 9.0), float(second))
    assert placement.replans == 0


def test_a_prediction_that_proves_false_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes elsewhere, once; there it stays, though the model still believes in the first."""
    placement = controller(monkeypatch, profile())
    first = placement.current.candidate
    for second in range(60):
        factor = 4.0 if placement.current.candidate.infer == first.infer else 1.0
        placement.compare(measured(placement, factor), float(second))
    assert placement.current.candidate.infer == ONE
    assert placement.replans <= 3


def test_a_machine_that_is_slower_in_all_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = controller(monkeypatch, profile())
    for second in range(120):
        placement.compare(measured(placement, 2.2), float(second))
    assert placement.replans == 0


def test_a_core_that_disappears_is_acted_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    placement = controller(monkeypatch, profile(), Goal("throughput", replans=False))
    placement.costs = replace(placement.costs, cores=(0,))
    placement.compare(measured(placement, 1.0), 1.0, lost=frozenset({1}))
    assert placement.replans == 1
    assert "core 1 disappeared" in placement.decisions[-1]


def test_nothing_that_can_run_it_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing here can run the network"):
        plan(profile(infer={}), Goal(), WINDOWS)


def test_a_backend_that_is_made_for_ever_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "HANG_S", 0.1)
    placement = controller(monkeypatch, profile())
    freed = threading.Event()
    placement._builder = threading.Thread(target=freed.wait, args=(HANGS_S,), daemon=True)
    placement._builder.start()
    ends(placement.close)
    assert hanging()  # so that the process does not shut the interpreter down beside it
    freed.set()
