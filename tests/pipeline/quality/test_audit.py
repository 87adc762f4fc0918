"""The audit: what it measures, how it steers, and that a run goes on without it."""

import json
import threading
import time
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stillframe.errors import ModelError, UsageError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Picture, Tensors
from stillframe.native_calls import RunEndedError, native_call
from stillframe.pipeline.cli import status
from stillframe.pipeline.inference.backends import ReuseBackend
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.stages import without_pixels
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.quality import audit as audit_module
from stillframe.pipeline.quality.agreement import BoxAgreement, TensorAgreement, agreement_with
from stillframe.pipeline.quality.audit import IN_FLIGHT, LEAST, MOST, Audit, Steering
from stillframe.reuse.plan.tolerance import Tolerance
from tests.hang_guard import HANGS_S, ends
from tests.reuse.test_session import net


def boxes(true: int, missed: int = 0) -> BoxAgreement:
    return BoxAgreement(matched=true, missed=missed, missed_objects=missed)


def test_a_shortfall_lowers_the_tolerance_and_plenty_raises_it() -> None:
    steering = Steering(0.9)
    lowered = [steering.add(boxes(3, 1)) for _ in range(3)]
    assert lowered == [None, None, pytest.approx(0.7)]
    assert steering.agreement is None
    raised = [steering.add(boxes(5)) for _ in range(8)]
    assert raised == [None] * 7 + [pytest.approx(0.77)]


def test_the_further_off_the_larger_the_step_and_the_sooner() -> None:
    steering = Steering(0.98)
    assert [steering.add(boxes(0, 4)) for _ in range(2)] == [None, pytest.approx(0.02 ** (1 / 3))]
    steering = Steering(0.98)
    steps = [steering.add(boxes(9, 2)) for _ in range(3)]  # F1 0.9
    assert steps == [None, None, pytest.approx(0.2 ** (1 / 3))]
    exact = Steering(1.0)
    assert [exact.add(boxes(9, 2)) for _ in range(3)] == [None, None, 0.25]


def test_decibels_tell_how_far_off_it_is() -> None:
    steering = Steering(45.0)
    for _ in range(3):
        judge = agreement_with(Picture(np.zeros((4, 4, 3), np.uint8)))
        judge.add(Picture(np.full((4, 4, 3), 3, np.uint8)), Picture(np.zeros((4, 4, 3), np.uint8)))
        factor = steering.add(judge)
    assert judge.strict == pytest.approx(38.59, abs=0.01)
    assert factor == pytest.approx(10 ** ((judge.strict - 45) / 20))


def test_far_below_where_it_fell_short_it_rises_faster() -> None:
    steering = Steering(0.9)
    for _ in range(2):
        steering.add(boxes(0, 1))
    low = steering.factor
    rises = [steering.add(boxes(5)) for _ in range(32)]
    seen = [each / before for before, each in pairwise([low, *filter(None, rises)])]
    assert low == pytest.approx(0.1 ** (1 / 3))
    assert seen == pytest.approx([1.3, 1.1, 1.1, 1.1])


def test_it_is_unsure_until_agreement_was_seen_to_hold() -> None:
    steering = Steering(0.9)
    assert not steering.unsure  # an empty scene must not be looked at all the time
    seen = []
    for measured in (boxes(5), boxes(5), boxes(5), boxes(0, 5), boxes(0, 5), boxes(5)):
        steering.add(measured)
        seen.append(steering.unsure)
    assert seen == [True, True, False, True, True, True]


def test_what_is_good_enough_but_not_plenty_changes_nothing() -> None:
    steering = Steering(0.9)
    assert {steering.add(boxes(13, 2)) for _ in range(30)} == {None}  # F1 0.93
    assert steering.agreement == pytest.approx(26 / 28)


def test_counts_are_summed_before_they_are_judged() -> None:
    """One missed box of a frame with one is no reason where others have hundred."""
    steering = Steering(0.9)
    for each in (boxes(100), boxes(0, 1), boxes(100), boxes(0, 1)):
        assert steering.add(each) is None
    assert steering.agreement == pytest.approx(400 / 402)


def test_empty_scenes_tell_nothing() -> None:
    steering = Steering(0.9)
    assert {steering.add(boxes(0)) for _ in range(50)} == {None}
    assert (steering.agreement, steering.factor) == (None, 1.0)


def test_the_factor_keeps_within_its_bounds() -> None:
    low, high = Steering(0.9), Steering(0.9)
    for _ in range(200):
        low.add(boxes(0, 1))
        high.add(boxes(1))
    assert (low.factor, high.factor) == (LEAST, MOST)


@pytest.mark.parametrize("start", [0.05, 1.0])
def test_steering_settles_where_the_quality_is_what_was_asked_for(start: float) -> None:
    """A plant whose agreement falls as the factor grows: 0.98 at 0.6."""
    steering = Steering(0.98, factor=start)
    seen = []
    for _ in range(600):
        measured = TensorAgreement()
        expected = np.ones(4)
        error = 0.02 / 0.6 * steering.factor
        measured.add(Tensors({"y": expected * (1 + error)}), Tensors({"y": expected}))
        steering.add(measured)
        seen.append(steering.factor)
    assert 0.25 < min(seen[300:]) <= max(seen[300:]) < 0.62


# --- beside a runner -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    where = tmp_path_factory.mktemp("model") / "net.onnx"
    where.write_bytes(net((1, 3, 96, 128), gate=True))
    return zoo.load(str(where), task="tensors")


def frame(index: int) -> Frame:
    """Noise that is the same in all frames, and a square that moves over it."""
    image = np.random.default_rng(2).integers(60, 120, (96, 128, 3)).astype(np.uint8)
    image[20:60, 3 * (index % 24) : 3 * (index % 24) + 40] = 210
    return Frame(image, index, index / 10, index, Fraction(1, 10))


def run(model: Model, goal: float, frames: int, tolerance: float) -> tuple[Audit, list[float]]:
    """-> the audit and the closeness to the whole model of the last third of frames."""
    settings = Settings(reuse="layer", threads=1, tolerance=tolerance, max_age_s=float("inf"))
    closeness = []
    with Runner(model, settings) as runner, Runner(model, Settings(reuse="off")) as whole:

        def steer(factor: float, lowered: bool) -> None:
            engine = runner.backend
            assert isinstance(engine, ReuseBackend)
            engine.steer(factor, lowered)

        with Audit(goal, steer, every_s=0.3, in_line=True) as audit:
            for index in range(frames):
                step = runner.step(frame(index))
                audit.offer(step, runner.model)
                if index >= frames * 2 // 3:
                    judge = TensorAgreement()
                    result: Any = step.result
                    dense: Any = whole.step(frame(index)).result
                    judge.add(result, dense)
                    closeness.append(judge.value)
    return audit, closeness


def test_the_audit_brings_agreement_to_what_is_wanted(model: Model) -> None:
    _, without = run(model, 1e-9, 90, 1.5)
    audit, closeness = run(model, 0.97, 180, 1.5)
    assert np.mean(without) < 0.9
    assert np.mean(closeness) > 0.96
    assert audit.report.factor < 0.8
    assert audit.report.audits >= 45
    assert audit.report.kind == "closeness"
    assert (audit.report.agreement or 0) > 0.95


def test_a_thread_audits_beside_the_run_and_ends(model: Model) -> None:
    with Runner(model, Settings(reuse="layer", threads=1)) as runner:
        audit = Audit(0.5, lambda factor, lowered: None, every_s=0.1)
        with audit:
            for index in range(40):
                audit.offer(runner.step(frame(index)), runner.model)
                time.sleep(0.002)
        assert audit.report.audits >= 1
        assert audit.report.missed == 0
        assert not audit._thread
        audit.close()


def test_a_run_goes_on_where_the_audit_fails(model: Model) -> None:
    def broken(path: Path) -> Any:
        raise ModelError("no memory")

    with Runner(model, Settings(reuse="layer", threads=1)) as runner:
        step = [runner.step(frame(index)) for index in range(2)][-1]
        with Audit(0.9, lambda factor, lowered: None, make_backend=broken) as audit:
            assert audit.offer(step, runner.model)
        assert (audit.report.missed, audit.report.why) == (1, "no memory")
        assert audit.report.agreement is None


def test_an_audit_without_end_is_ended_with_the_run(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "HANG_S", 0.1)
    asked = threading.Event()

    def endless(feed: Any, change: Any) -> Any:
        with native_call("the model", asked.set):
            asked.wait(HANGS_S)
            raise RunEndedError("the model: a run was ended")

    backend = SimpleNamespace(run=endless, close=lambda: None)
    with Runner(model, Settings(reuse="layer", threads=1)) as runner:
        step = [runner.step(frame(index)) for index in range(2)][-1]
        audit = Audit(0.9, lambda factor, lowered: None, make_backend=lambda path: backend)
        assert audit.offer(step, runner.model)
        ends(audit.close)
    assert (audit.report.missed, audit.report.audits) == (1, 0)
    assert audit.report.why == "the model: a run was ended"


def test_frames_that_tell_nothing_and_near_ones_are_passed_over(model: Model) -> None:
    with Runner(model, Settings(reuse="layer", threads=1)) as runner:
        whole, step = (runner.step(frame(index)) for index in range(2))
        with Audit(0.1, lambda factor, lowered: None, in_line=True) as audit:
            damaged: StepResult = replace(step, frame=replace(step.frame, corrupt=True))
            assert not audit.offer(damaged, runner.model)
            assert not audit.offer(whole, runner.model)  # it was computed whole by the run itself
            left_out = replace(step, kind="skipped")  # no tolerance is at fault
            assert not audit.offer(left_out, runner.model)
            taken = [n for n in range(1, 40) if audit.offer(at(step, n), runner.model)]
            assert taken == [1, 3, 5, 13, 21, 29, 37]  # sooner, until it is known to hold
            assert audit.offer(at(step, 2), runner.model)  # the clip begins again


def at(step: StepResult, index: int) -> StepResult:
    """The step as if it were of a later frame."""
    return replace(step, frame=replace(step.frame, index=index, time_s=index / 8))


def test_what_was_under_way_while_the_tolerance_changed_is_passed_over(model: Model) -> None:
    steered = []
    with Runner(model, Settings(reuse="layer", threads=1)) as runner:
        step = [runner.step(frame(index)) for index in range(2)][-1]
        wrong = replace(step, result=Tensors({"y": np.zeros_like(step.result.arrays["y"])}))  # type: ignore[union-attr]
        wrong = replace(wrong, result=wrong.result.with_evidence(step.result.evidence))
        with Audit(0.9, lambda f, low: steered.append((f, low)), in_line=True) as audit:
            taken = [n for n in range(1, 22) if audit.offer(at(wrong, n), runner.model)]
    assert taken == [1, 3, 3 + IN_FLIGHT + 1, 3 + IN_FLIGHT + 3]
    assert steered == [(pytest.approx(0.1 ** (n / 3)), True) for n in (1, 2)]


def test_an_engine_is_steered(model: Model) -> None:
    engine = ReuseBackend(model.path, 1, 0.2)
    engine.steer(0.5, False)
    assert engine.session.tolerance == Tolerance(0.1)
    engine.steer(0.25, True)
    assert engine.session.tolerance == Tolerance(0.05)
    engine.close()
    exact = ReuseBackend(model.path, 1)
    exact.steer(0.5, True)
    assert exact.session.tolerance.exact
    exact.close()


@pytest.mark.parametrize("goal", [0.0, -1.0, 100.0])
def test_a_quality_that_cannot_be(goal: float) -> None:
    with pytest.raises(UsageError, match="quality: expected more than 0"):
        Audit(goal, lambda factor, lowered: None)


def test_a_run_is_audited_against_its_own_frames(tmp_path: Path) -> None:
    """With and without stages that draw and write: they must leave the audit the picture."""
    network = tmp_path / "net.onnx"
    network.write_bytes(net((1, 3, 96, 128), gate=True))
    clip = "sample:plaza?size=128x96&seconds=4&fps=10"
    for more in ([], ["--jsonl", str(tmp_path / "r.jsonl")], ["--out", str(tmp_path / "r.mp4")]):
        summary = tmp_path / "s.json"
        arguments = ["run", clip, "--model", str(network), "--task", "tensors", "--reuse", "layer"]
        arguments += ["--tolerance", "0.001", "--quality", "0.5", "--summary-json", str(summary)]
        assert status([*arguments, "-q", "--force", *more]) == 0
        audit = json.loads(summary.read_text())["audit"]
        assert (audit["wanted"], audit["missed"]) == (0.5, 0)
        assert audit["agreement"] > 0.9


def test_a_frame_without_its_picture_is_refused(model: Model) -> None:
    with Runner(model, Settings(reuse="layer", threads=1)) as runner:
        step = [runner.step(frame(index)) for index in range(2)][-1]
        bare = replace(step, frame=without_pixels(step.frame))
        refused = pytest.raises(ValueError, match="expected a frame with its picture")
        with Audit(0.9, lambda factor, lowered: None, in_line=True) as audit, refused:
            audit.offer(bare, runner.model)
