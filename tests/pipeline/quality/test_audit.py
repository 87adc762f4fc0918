"""The audit: which frames it draws, what it counts, and that a run goes on without it."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stillframe.errors import ModelError, UsageError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Evidence, Tensors
from stillframe.native_calls import RunEndedError, native_call
from stillframe.pipeline.cli import status
from stillframe.pipeline.inference.backends import OnnxRuntimeBackend, ReuseBackend
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.stages import without_pixels
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.quality import audit as audit_module
from stillframe.pipeline.quality.agreement import TensorAgreement
from stillframe.pipeline.quality.audit import REPEATED_FIRST, WAITING, Audit, _is_telling
from stillframe.pipeline.quality.audited import Audited
from stillframe.pipeline.quality.tolerance_steering import ToleranceSteering
from stillframe.reuse.plan.tolerance import Tolerance
from tests.hang_guard import HANGS_S, ends
from tests.reuse.test_session import net

OFTEN = 1e-9
"""A mean gap: every frame is drawn."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    where = tmp_path_factory.mktemp("model") / "net.onnx"
    where.write_bytes(net((1, 3, 96, 128), gate=True))
    return zoo.load(str(where), task="tensors")


@pytest.fixture(scope="module")
def step(model: Model) -> StepResult:
    """The second step of a run, which is computed in part."""
    with Runner(model, Settings(reuse="layer", threads=1, tolerance=0.001)) as runner:
        last = [runner.step(frame(index)) for index in range(2)][-1]
    assert last.result.evidence.provenance == "partial"
    return last


def frame(index: int) -> Frame:
    """Noise that is the same in all frames, and a square that moves over it."""
    image = np.random.default_rng(2).integers(60, 120, (96, 128, 3)).astype(np.uint8)
    image[20:60, 3 * (index % 24) : 3 * (index % 24) + 40] = 210
    return Frame(image, index, index / 10, index, Fraction(1, 10))


def at(step: StepResult, index: int) -> StepResult:
    """The step as if it were of another frame."""
    return replace(step, frame=replace(step.frame, index=index, time_s=index / 8))


def wrong(step: StepResult) -> StepResult:
    """The step with a result that has nothing in common with the dense one."""
    arrays = step.result.arrays  # type: ignore[union-attr]
    result = Tensors({name: np.zeros_like(values) for name, values in arrays.items()})
    return replace(step, result=result.with_evidence(step.result.evidence))


def whole(step: StepResult) -> StepResult:
    """The step as if the run had computed it whole."""
    return replace(step, result=step.result.with_evidence(Evidence("computed")))


# --- which frames are audited --------------------------------------------------------------------


def test_all_frames_that_go_out_are_drawn_from(model: Model, step: StepResult) -> None:
    seen: list[Audited] = []
    with Audit(0.1, [seen.append], mean_gap=OFTEN, in_line=True) as audit:
        for kind in ("computed", "unchanged", "skipped"):
            assert audit.offer(replace(step, kind=kind), model)
        reused = replace(step, result=step.result.with_evidence(Evidence("reused", 0.1)))
        assert audit.offer(reused, model)
    assert [each.step.kind for each in seen] == ["computed", "unchanged", "skipped", "computed"]
    assert (audit.report.audits, audit.report.others) == (4, 4)


def test_frames_that_agree_by_definition_are_counted(model: Model, step: StepResult) -> None:
    with Audit(0.5, mean_gap=OFTEN, in_line=True) as audit:
        for _ in range(300):
            assert not audit.offer(whole(step), model)
        alone = audit.report
        assert (alone.whole, alone.audits, alone.kept, alone.lower) == (300, 0, 1.0, 1.0)
        assert str(alone) == "kept 1: each of 300 frames was computed whole"
        for _ in range(100):
            assert audit.offer(wrong(step), model)
    report = audit.report
    assert (report.whole, report.others, report.audits) == (300, 100, 100)
    assert report.kept == pytest.approx(0.75, abs=0.01)
    assert 0.7 < (report.lower or 0) <= 0.75


def test_of_corrupt_frames_nothing_is_claimed(model: Model, step: StepResult) -> None:
    damaged = replace(step, frame=replace(step.frame, corrupt=True))
    with Audit(0.1, mean_gap=OFTEN, in_line=True) as audit:
        assert not audit.offer(damaged, model)
    assert (audit.report.corrupt, audit.report.others, audit.report.lower) == (1, 0, None)
    assert str(audit.report).endswith("1 corrupt frames are not covered")


def test_frames_are_drawn_at_random_whatever_is_in_them(model: Model, step: StepResult) -> None:
    """Every fourth result is wrong: with a fixed pace all audits, or none, would see those."""
    with Audit(0.1, mean_gap=4.0, seed=3, in_line=True) as audit:
        drawn = [
            index
            for index in range(1200)
            if audit.offer(at(wrong(step) if index % 4 == 0 else step, index), model)
        ]
    assert len(drawn) == pytest.approx(1200 / 4, rel=0.25)
    shares = np.bincount([index % 4 for index in drawn]) / len(drawn)
    assert shares == pytest.approx(np.full(4, 0.25), abs=0.08)
    assert audit.report.kept == pytest.approx(0.75, abs=0.08)


def test_a_frame_without_its_picture_is_refused(model: Model, step: StepResult) -> None:
    bare = replace(step, frame=without_pixels(step.frame))
    refused = pytest.raises(ValueError, match="expected a frame with its picture")
    with Audit(0.9, in_line=True) as audit, refused:
        audit.offer(bare, model)


def test_pictures_may_be_overwritten_once_they_were_offered(model: Model, step: StepResult) -> None:
    """As a caller does who reads each picture into the same array, or draws on it."""
    overwritten = threading.Event()
    kept: list[float | None] = []

    def waits(path: Path) -> OnnxRuntimeBackend:
        assert overwritten.wait(60)
        return OnnxRuntimeBackend(path, 1)

    image = step.frame.image.copy()
    borrowed = replace(step, frame=replace(step.frame, image=image))
    audit = Audit(
        0.5, [lambda a: kept.append(a.kept)], copies=True, mean_gap=OFTEN, make_backend=waits
    )
    with audit:
        assert audit.offer(borrowed, model)
        image[:] = 255
        overwritten.set()
    assert len(kept) == 1
    assert kept[0] is not None
    assert kept[0] > 0.9


def test_who_steers_sees_the_step_without_its_picture(model: Model, step: StepResult) -> None:
    seen: list[Audited] = []
    with Audit(0.5, [seen.append], mean_gap=OFTEN, in_line=True) as audit:
        audit.offer(at(step, 7), model)
    (one,) = seen
    assert one.step.frame.index == one.newest == 7
    assert one.step.frame.image.strides[0] == 0
    assert one.kept == pytest.approx(1, abs=0.1)
    line = one.to_dict()
    assert (line["event"], line["index"], line["time_s"]) == ("audit", 7, 0.875)
    assert line["kept"] == pytest.approx(one.kept, abs=1e-4)


# --- what it proves ------------------------------------------------------------------------------


def test_it_certifies_what_is_kept(model: Model, step: StepResult) -> None:
    with Audit(0.9, mean_gap=OFTEN, in_line=True) as audit:
        for index in range(80):
            audit.offer(at(step, index), model)
    report = audit.report
    assert report.certified
    assert 0.9 < (report.lower or 0) < (report.kept or 0) <= 1
    words = str(report)
    assert words.startswith(f"kept {int((report.kept or 0) * 1000) / 1000:.3f} of the raw outputs")
    assert ", 80 audits, " in words
    assert words.endswith("% of the work")


def test_it_says_what_it_cannot_prove(model: Model, step: StepResult) -> None:
    with Audit(0.98, mean_gap=OFTEN, in_line=True) as audit:
        for index in range(12):
            audit.offer(at(step, index), model)
    assert not audit.report.certified
    assert "; 0.98 is not proven" in str(audit.report)


def test_results_that_are_no_numbers_get_no_certificate(model: Model, step: StepResult) -> None:
    class Undefined(OnnxRuntimeBackend):
        def run(self, feed: Any, change: Any) -> Any:
            return [np.full_like(each, np.nan) for each in super().run(feed, change)]

    backend = Undefined(model.path, 1)
    seen: list[Audited] = []
    with Audit(
        0.5, [seen.append], mean_gap=OFTEN, in_line=True, make_backend=lambda path: backend
    ) as audit:
        for _ in range(3):
            audit.offer(step, model)
            audit.offer(whole(step), model)
    report = audit.report
    assert (report.undefined, report.kept, report.lower, report.certified) == (3, None, None, False)
    assert str(report) == ("the network's outputs are not numbers in 3 of 3 audits: no certificate")
    assert [(each.agreement, each.kept, each.telling) for each in seen] == [(None, None, False)] * 3
    assert json.dumps(seen[0].to_dict(), allow_nan=False)
    assert json.dumps(report.to_dict(), allow_nan=False)


def test_no_floor_is_above_what_the_network_repeats(model: Model, step: StepResult) -> None:
    """A network that answers noise with noise: no two answers to a scene agree."""

    class Fickle(OnnxRuntimeBackend):
        calls = 0

        def run(self, feed: Any, change: Any) -> Any:
            Fickle.calls += 1
            outputs = super().run(feed, change)
            return [each * (1.0 if Fickle.calls % 2 else 0.7) for each in outputs]

    backend = Fickle(model.path, 1)
    with Audit(0.98, mean_gap=OFTEN, in_line=True, make_backend=lambda path: backend) as audit:
        for index in range(REPEATED_FIRST):
            audit.offer(at(step, index), model)
    report = audit.report
    assert Fickle.calls == 2 * REPEATED_FIRST
    assert report.repeatability == pytest.approx(0.7, abs=0.05)
    assert (report.floor, report.goal) == (report.repeatability, 0.98)
    assert "the network repeats itself to 0." in str(report)
    assert "0.98 was asked for" in str(report)


def test_repeatability_is_measured_at_first_and_then_rarely(model: Model, step: StepResult) -> None:
    calls = 0

    class Counted(OnnxRuntimeBackend):
        def run(self, feed: Any, change: Any) -> Any:
            nonlocal calls
            calls += 1
            return super().run(feed, change)

    backend = Counted(model.path, 1)
    with Audit(0.5, mean_gap=OFTEN, in_line=True, make_backend=lambda path: backend) as audit:
        for index in range(64):
            audit.offer(at(step, index), model)
    assert audit.report.audits == 64
    assert 64 + REPEATED_FIRST <= calls <= 64 + REPEATED_FIRST + 4
    assert (audit.report.repeatability or 0) > 0.9
    assert audit.report.floor == 0.5


# --- beside a runner -----------------------------------------------------------------------------


def run(model: Model, goal: float, frames: int, tolerance: float) -> tuple[Any, Any, list[float]]:
    """-> the report, the steering, and the closeness to the whole model of the last third."""
    settings = Settings(reuse="layer", threads=1, tolerance=tolerance, max_age_s=float("inf"))
    closeness = []
    with Runner(model, settings) as runner, Runner(model, Settings(reuse="off")) as dense_runner:

        def steer(factor: float, lowered: bool) -> None:
            engine = runner.backend
            assert isinstance(engine, ReuseBackend)
            engine.steer(factor, lowered)

        steering = ToleranceSteering(goal, steer)
        with Audit(goal, [steering.on_audit], mean_gap=2.5, in_line=True) as audit:
            for index in range(frames):
                step = runner.step(frame(index))
                audit.offer(step, runner.model)
                if index >= frames * 2 // 3:
                    judge = TensorAgreement()
                    result: Any = step.result
                    dense: Any = dense_runner.step(frame(index)).result
                    judge.add(result, dense)
                    closeness.append(judge.value)
    return audit.report, steering, closeness


def test_the_audit_brings_agreement_to_what_is_wanted(model: Model) -> None:
    _, _, without = run(model, 1e-9, 90, 1.5)
    report, steering, closeness = run(model, 0.97, 180, 1.5)
    assert np.mean(without) < 0.9
    assert np.mean(closeness) > 0.96
    assert steering.factor < 0.8
    assert report.audits >= 45
    assert report.kind == "closeness"
    assert report.kept > 0.9
    assert report.lower < report.kept


def test_a_thread_audits_beside_the_run_and_ends(model: Model) -> None:
    with Runner(model, Settings(reuse="layer", threads=1)) as runner:
        audit = Audit(0.5)
        with audit:
            for index in range(40):
                audit.offer(runner.step(frame(index)), runner.model)
                time.sleep(0.002)
        assert audit.report.audits >= 1
        assert audit.report.failed == 0
        assert 0 < audit.report.share <= 1
        assert not audit._thread
        audit.close()


@pytest.mark.parametrize("finish_s", [60.0, 0.0])
def test_what_was_drawn_is_finished_at_the_end_but_not_for_long(
    model: Model, step: StepResult, finish_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "FINISH_S", finish_s)
    running, go_on = threading.Event(), threading.Event()

    class Slow(OnnxRuntimeBackend):
        def run(self, feed: Any, change: Any) -> Any:
            running.set()
            assert go_on.wait(HANGS_S)
            return super().run(feed, change)

    with Audit(0.5, mean_gap=OFTEN, make_backend=lambda path: Slow(path, 1)) as audit:
        assert audit.offer(step, model)
        assert running.wait(HANGS_S)
        drawn = [audit.offer(step, model) for _ in range(WAITING + 5)]
        assert drawn == [True] * WAITING + [False] * 5  # the next draw would stand for these
        threading.Timer(0.1, go_on.set).start()
    assert audit.report.others == WAITING + 6
    assert audit.report.audits == (WAITING + 1 if finish_s else 1)


@pytest.mark.parametrize("in_line", [True, False])
def test_a_run_goes_on_where_the_audit_fails(model: Model, step: StepResult, in_line: bool) -> None:
    """And an audit that failed counts as if nothing was kept: who knows what it would have seen."""

    def broken(path: Path) -> Any:
        raise ModelError("no memory")

    with Audit(0.9, mean_gap=OFTEN, in_line=in_line, make_backend=broken) as audit:
        assert audit.offer(step, model)
    report = audit.report
    assert (report.failed, report.why, report.audits) == (1, "no memory", 0)
    assert (report.kept, report.lower) == (None, 0.0)
    assert "1 audits failed: no memory" in str(report)


def test_an_audit_without_end_is_ended_with_the_run(
    model: Model, step: StepResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "HANG_S", 0.1)
    asked = threading.Event()

    def endless(feed: Any, change: Any) -> Any:
        with native_call("the model", asked.set):
            asked.wait(HANGS_S)
            raise RunEndedError("the model: a run was ended")

    backend: Any = SimpleNamespace(run=endless, close=lambda: None)
    audit = Audit(0.9, mean_gap=OFTEN, make_backend=lambda path: backend)
    assert audit.offer(step, model)
    ends(audit.close)
    assert (audit.report.failed, audit.report.audits) == (1, 0)
    assert audit.report.why == "the model: a run was ended"


def test_a_failed_audit_weakens_the_bound(model: Model, step: StepResult) -> None:
    class Breaking(OnnxRuntimeBackend):
        calls = 0

        def run(self, feed: Any, change: Any) -> Any:
            Breaking.calls += 1
            if Breaking.calls == 40:
                raise ModelError("no memory")
            return super().run(feed, change)

    lowers = []
    for make in (Breaking, OnnxRuntimeBackend):
        backend = make(model.path, 1)
        with Audit(
            0.9, mean_gap=OFTEN, in_line=True, make_backend=lambda path, b=backend: b
        ) as audit:
            for index in range(60):
                audit.offer(at(step, index), model)
        lowers.append(audit.report.lower or 0)
        kept = audit.report.kept
    assert kept == pytest.approx(1, abs=0.1)
    assert 0.5 < lowers[0] < lowers[1] - 0.02


def test_the_first_audit_shows_what_others_cost(model: Model, step: StepResult) -> None:
    """Until then no other frame is drawn; from then on the budget sets the pace."""
    running, go_on = threading.Event(), threading.Event()

    class Slow(OnnxRuntimeBackend):
        def run(self, feed: Any, change: Any) -> Any:
            running.set()
            assert go_on.wait(HANGS_S)
            return super().run(feed, change)

    seen = threading.Event()
    with Audit(0.5, [lambda audited: seen.set()], make_backend=lambda path: Slow(path, 1)) as audit:
        first = next(index for index in range(1000) if audit.offer(at(step, index), model))
        assert running.wait(HANGS_S)
        assert not any(audit.offer(at(step, first + n), model) for n in range(200))
        go_on.set()
        assert seen.wait(HANGS_S)
        assert any(audit.offer(at(step, first + n), model) for n in range(200, 5000))
    assert audit.report.uncovered > 150


def test_a_finding_that_cannot_be_written_ends_no_run(model: Model, step: StepResult) -> None:
    def broken(audited: Audited) -> None:
        raise BrokenPipeError

    with Audit(0.5, [broken], mean_gap=OFTEN) as audit:
        assert audit.offer(step, model)
    assert audit.report.audits == 1


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


# --- from the command line -----------------------------------------------------------------------


@pytest.mark.parametrize("goal", [0.0, -1.0, float("nan"), 1.01])
def test_a_quality_that_cannot_be(goal: float) -> None:
    with pytest.raises(UsageError, match="quality: expected more than 0 and at most 1"):
        Audit(goal)


def test_a_floor_in_decibels_is_explained() -> None:
    with pytest.raises(UsageError, match="got 45; it is a share: pictures are compared by SSIM"):
        Audit(45.0)


Cli = Callable[..., dict[str, Any]]


@pytest.fixture
def audited_run(tmp_path: Path) -> Cli:
    """Runs the command line; -> its summary, with the exit code as "code"."""
    network = tmp_path / "net.onnx"
    network.write_bytes(net((1, 3, 96, 128), gate=True))
    clip = "sample:plaza?size=128x96&seconds=4&fps=10"

    def go(*more: str) -> dict[str, Any]:
        summary = tmp_path / "s.json"
        arguments = ["run", clip, "--model", str(network), "--task", "tensors", "--force", *more]
        code = status([*arguments, "--summary-json", str(summary)])
        return {"code": code, **json.loads(summary.read_text())}

    return go


LAYER = ("--reuse", "layer", "--tolerance", "0.001")


@pytest.mark.parametrize("more", [(), ("--jsonl", "r.jsonl"), ("--out", "r.mp4")])
def test_a_run_is_audited_against_its_own_frames(
    audited_run: Cli, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without stages that draw and write: they must leave the audit the picture."""
    monkeypatch.chdir(tmp_path)
    audit = audited_run(*LAYER, "--quality", "0.5", "-q", *more)["audit"]
    assert (audit["wanted"], audit["missed"], audit["failed"]) == (0.5, 0, 0)
    assert audit["audits"] >= 1
    assert audit["kept"] == audit["agreement"] > 0.9
    assert 0 < audit["lower"] < audit["kept"]
    assert audit["whole"] + audit["others"] == 40
    if "--jsonl" in more:
        lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
        findings = [line for line in lines if line.get("event") == "audit"]
        assert len(findings) == audit["audits"]
        assert len(lines) == 40 + len(findings)
        assert all(0.9 < line["kept"] <= 1 for line in findings)


def test_the_closing_words_tell_the_bound(
    audited_run: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    audited_run(*LAYER, "--quality", "0.5")
    assert "of the raw outputs (>= 0." in capsys.readouterr().err.replace("\n", " ")


def test_a_stream_of_ten_frames_gets_no_certificate(audited_run: Cli) -> None:
    audit = audited_run(*LAYER, "--quality", "0.98", "--max-frames", "10", "-q")["audit"]
    assert audit["whole"] + audit["others"] == 10
    assert not audit["certified"]
    assert audit["lower"] < 0.9


def test_a_run_fails_under_what_it_cannot_prove(
    audited_run: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audited_run(*LAYER, "--fail-under", "0.999", "-q")["code"] == 8
    error = capsys.readouterr().err
    assert error.startswith("stillframe: error: --fail-under 0.999 is not proven: kept ")
    assert " at 95 %), " in error
    assert audited_run(*LAYER, "--fail-under", "0.01", "-q")["code"] == 0
    assert audited_run("--reuse", "off", "--fail-under", "1", "-q")["code"] == 0


@pytest.mark.parametrize("option", ["--quality", "--fail-under"])
def test_shares_are_checked_before_any_work(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(["run", "nowhere.mp4", "--reuse", "layer", option, "45"]) == 2
    assert f"{option}: expected more than 0 and at most 1" in capsys.readouterr().err


def test_whole_outputs_that_are_not_numbers_do_not_count_as_kept() -> None:
    for value, telling in ((1.0, True), (float("nan"), False)):
        assert _is_telling(Tensors({"y": np.array([value])})) == telling
