"""The search for tolerances: on made-up networks whose best is known, and on a small real one."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillframe.errors import QualityError, SourceError, UsageError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections
from stillframe.pipeline.cli import status
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.studies.tune import tune as tuning
from stillframe.pipeline.studies.tune.passage import SHARES, passages, windows
from stillframe.pipeline.studies.tune.search import (
    CLOSER,
    EVERY,
    MOST,
    Evaluate,
    Search,
    Stopped,
    Trial,
    groups,
    ladder,
    moved,
)
from stillframe.pipeline.studies.tune.trial import Outcome, TrialSetting, TuneBench
from stillframe.pipeline.studies.tune.trial_judge import TrialJudge
from stillframe.pipeline.studies.tune.tune import tune
from stillframe.reuse.gate.gate_settings import GateSettings
from tests import networks
from tests.reuse.test_session import net

CLIP = "sample:plaza?size=128x96&seconds=2&fps=10"
LAYERS = ("a", "b", "c", "d")
WORK = {"a": 0.1, "b": 0.5, "c": 0.3, "d": 0.1}
HURTS = {"a": 1.0, "b": 0.02, "c": 0.05, "d": 4.0}  # loss of a share of 1


def made_up(setting: TrialSetting) -> Outcome:
    """A layer's work falls with its share, and each hurts differently; the gate adds to both."""
    work = sum(WORK[name] / (1 + 20 * setting.shares[name]) for name in LAYERS)
    work *= (4 / setting.gate.pixel) ** 0.5
    loss = sum(HURTS[name] * setting.shares[name] for name in LAYERS)
    loss += 0.01 * max(0.0, setting.gate.pixel - 4)
    return Outcome(work, loss, 1 - 0.1 * loss, 1 - 0.1 * loss)


SPREADS = {"uniform": dict.fromkeys(LAYERS, 1.0)}


def test_the_search_spends_the_loss_where_it_gains_most() -> None:
    search = Search(made_up, 0.98)
    search.run(SPREADS, LAYERS)
    assert search.best is not None
    assert search.uniform is not None
    assert search.best.outcome.quality >= search.aim == pytest.approx(0.98 + CLOSER * 0.02)
    assert search.uniform.outcome.cost > 1.4 * search.best.outcome.cost
    shares = search.best.setting.shares
    assert min(shares["b"], shares["c"]) > 2 * max(shares["a"], shares["d"])


def test_a_scan_ends_just_within_the_aim() -> None:
    search = Search(made_up, 0.98)
    search.run(SPREADS, ())
    assert search.uniform is not None
    largest = (1 - search.aim) / 0.1 / sum(HURTS.values())
    share = search.uniform.setting.shares["a"]
    assert largest / 2**0.125 <= share <= largest
    assert search.uniform.setting.gate == GateSettings()


def test_the_search_is_deterministic() -> None:
    runs = []
    for _ in range(2):
        search = Search(made_up, 0.98)
        search.run(SPREADS, LAYERS)
        runs.append([(each.what, each.setting) for each in search.trials])
    assert runs[0] == runs[1]


def test_where_nothing_agrees_there_is_no_best() -> None:
    search = Search(lambda setting: Outcome(0.5, 1.0, 0.9, 0.9), 0.98)
    search.run(SPREADS, LAYERS)
    assert (search.best, search.uniform) == (None, None)


def test_agreement_must_be_steady() -> None:
    """A few boxes that happen to agree at one confidence are not enough, unless they do not even
    without any tolerance."""

    def wavering(setting: TrialSetting) -> Outcome:
        return replace(made_up(setting), steady=0.9 if any(setting.shares.values()) else 0.95)

    search = Search(wavering, 0.98)
    search.run(SPREADS, LAYERS)
    assert search.uniform is None
    noisy = Search(lambda setting: replace(made_up(setting), steady=0.9), 0.98)
    noisy.run(SPREADS, LAYERS)
    assert noisy.uniform is not None


def test_what_is_found_loses_no_more_than_the_best_single_tolerance() -> None:
    """Agreement jumps, here it never falls: the smooth loss is what says how far to go."""

    def lucky(setting: TrialSetting) -> Outcome:
        outcome = made_up(setting)
        agreement = 1.0 if len(set(setting.shares.values())) > 1 else outcome.quality
        return replace(outcome, quality=agreement, steady=agreement)

    search = Search(lucky, 0.98)
    search.run(SPREADS, LAYERS)
    assert search.best is not None
    assert search.uniform is not None
    assert search.best.outcome.loss <= search.uniform.outcome.loss == search.most_loss
    assert search.best.outcome.cost < search.uniform.outcome.cost / 1.4


def test_a_picture_that_stood_still_makes_no_layer_blind() -> None:
    search = Search(lambda setting: replace(made_up(setting), quality=1.0, steady=1.0), 0.98)
    search.run(SPREADS, LAYERS)
    assert search.uniform is not None
    assert max(search.uniform.setting.shares.values()) == MOST
    assert all(max(each.setting.shares.values()) <= MOST for each in search.trials)


def test_the_scale_of_the_loss_does_not_matter() -> None:
    def small(setting: TrialSetting) -> Outcome:
        outcome = made_up(setting)
        return replace(outcome, loss=outcome.loss / 64)

    best = []
    for evaluate in (made_up, small):
        search = Search(evaluate, 0.98)
        search.run(SPREADS, LAYERS)
        assert search.best is not None
        best.append(search.best.setting)
    assert best[0] == best[1]


def test_where_the_default_gate_does_not_agree_another_one_is_tried() -> None:
    def narrow(setting: TrialSetting) -> Outcome:
        outcome = made_up(setting)
        return replace(outcome, quality=outcome.quality - 0.02 * (setting.gate.margin < 8))

    search = Search(narrow, 0.98)
    search.run(SPREADS, LAYERS)
    assert search.uniform is not None
    assert search.uniform.setting.gate == GateSettings(margin=8)
    assert search.best is not None
    assert search.best.outcome.cost < search.uniform.outcome.cost


def test_a_spread_that_cannot_win_is_given_up() -> None:
    search = Search(made_up, 0.98)
    spreads = {**SPREADS, "bad": {"a": 1.0, "b": 0.01, "c": 0.01, "d": 1.0}}
    search.run(spreads, ())
    assert sum(each.what.startswith("bad") for each in search.trials) == 1


def paced(price: float, works: float = 1.0) -> Evaluate:
    """The made-up network, in which each frame that is left out costs nothing but some loss."""

    def evaluate(setting: TrialSetting) -> Outcome:
        outcome, skipping = made_up(setting), setting.frame_skipping
        lost = price * (skipping.every - 1) * (0.5 if skipping.between == "follow" else 1.0)
        loss, quality = outcome.loss + lost, outcome.quality - 0.1 * lost
        following = 0.1 * works if skipping.follows else 0.0
        return Outcome(outcome.cost / skipping.every + following, loss, quality, quality)

    return evaluate


def test_frames_are_left_out_while_what_is_lost_stays_fair() -> None:
    search = Search(paced(0.01), 0.98)
    search.run(SPREADS, LAYERS)
    assert search.best is not None
    assert search.uniform is not None
    assert search.best.setting.frame_skipping.every == EVERY[-1]
    assert search.best.outcome.loss <= search.uniform.outcome.loss
    assert search.uniform.setting.frame_skipping == FrameSkipping()
    assert search.descended is not None
    assert search.descended.setting.frame_skipping == FrameSkipping()
    assert search.best in search.good


def test_where_a_frame_is_missed_none_is_left_out() -> None:
    search = Search(paced(5.0), 0.98, between=("follow", "keep"))
    search.run(SPREADS, LAYERS)
    assert search.best is not None
    assert {each.setting.frame_skipping.every for each in search.good} == {1}


@pytest.mark.parametrize(("works", "between"), [(0.0, "follow"), (100.0, "keep")])
def test_boxes_are_followed_where_that_pays(works: float, between: str) -> None:
    search = Search(paced(0.04, works), 0.98, between=("follow", "keep"))
    search.run(SPREADS, LAYERS)
    assert search.best is not None
    assert search.best.setting.frame_skipping.every > 1
    assert search.best.setting.frame_skipping.between == between


def test_no_more_frames_are_skipped_than_windows_can_judge() -> None:
    search = Search(paced(0.01), 0.98, most_every=3)
    search.run(SPREADS, LAYERS)
    assert search.best is not None
    assert search.best.setting.frame_skipping.every == 3
    assert max(each.setting.frame_skipping.every for each in search.trials) == 3


def test_a_ladder_begins_with_the_cheapest_and_has_steps() -> None:
    costs = (0.5, 0.101, 0.1, 0.2, 0.109, 0.205)
    tries = [Trial("", TrialSetting({}), Outcome(cost, 0.0, 1.0, 1.0)) for cost in costs]
    assert [each.outcome.cost for each in ladder(tries, 1.08)] == [0.1, 0.109, 0.2, 0.5]
    assert ladder([]) == []


def test_groups_are_consecutive_and_of_about_the_same_size() -> None:
    assert groups("abcdefg", 3) == ["ab", "cd", "efg"]
    assert groups("ab", 5) == ["a", "b"]
    assert groups("", 5) == []


def test_frames_to_check_on_ask_for_no_more_than_they_can_give() -> None:
    search = Search(made_up, 0.98)
    fair, poor = Outcome(0.1, 0.1, 0.985, 0.985), Outcome(0.1, 0.1, 0.97, 0.97)
    assert search.holds(fair, None)
    assert not search.agrees(fair, None)
    assert not search.holds(poor, Outcome(0.3, 0.0, 0.99, 0.99))
    assert search.holds(poor, Outcome(0.3, 0.0, 0.965, 0.97))


def test_stopping_keeps_the_best_so_far() -> None:
    turns = iter(range(100))

    def evaluate(setting: TrialSetting) -> Outcome:
        if next(turns) > 12:
            raise Stopped
        return made_up(setting)

    search = Search(evaluate, 0.98)
    search.run(SPREADS, LAYERS)
    assert search.best is not None
    assert len(search.trials) == 13


def test_what_is_kept_in_hand_is_a_part_of_what_there_is() -> None:
    """Where even no tolerance hardly agrees, the aim does not shut out every tolerance."""

    def capped(setting: TrialSetting) -> Outcome:
        outcome = made_up(setting)
        return replace(outcome, quality=outcome.quality - 0.014, steady=outcome.steady - 0.014)

    search = Search(capped, 0.98)
    search.run(SPREADS, ())
    assert search.none is not None
    assert search.none.quality == pytest.approx(0.986)
    assert search.aim == pytest.approx(0.98 + CLOSER * 0.006)
    assert search.uniform is not None
    assert search.uniform.outcome.quality < 0.983


def test_a_gate_moves_within_its_ranges() -> None:
    gate = GateSettings(margin=2, hold=0, pixel=40.0)
    assert moved(gate, "margin", lambda v: v - 2) is None
    assert moved(gate, "hold", lambda v: v - 2) is None
    assert moved(gate, "pixel", lambda v: v * 1.3) is None
    assert moved(gate, "margin", lambda v: v + 2) == GateSettings(margin=4, hold=0, pixel=40.0)


def boxes(*scores: float) -> Detections:
    xyxy = np.array([(20 * i, 0, 20 * i + 10, 10) for i in range(len(scores))], np.float32)
    ids = np.zeros(len(scores), np.int64)
    return Detections(xyxy.reshape(-1, 4), np.array(scores, np.float32), ids, ("x",))


def test_steady_agreement_looks_at_several_confidences() -> None:
    judge = TrialJudge(0.5)
    judge.add(boxes(0.32, 0.9), boxes(0.65, 0.9))
    assert judge.quality == 1.0  # 0.32 is faint at 0.5
    assert judge.steady == pytest.approx(14 / 15)  # and less than faint at 0.6, of 15 boxes in all
    assert judge.loss == pytest.approx(0.33 / (0.4 + 0.65))


# --- on a small network --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("model") / "net.onnx"
    where.write_bytes(net((1, 3, 96, 128), gate=True))
    return where


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return zoo.load(str(path), task="tensors")


def test_parts_take_turns_and_share_no_frame(model: Model) -> None:
    parts = passages(CLIP, model, 20)
    assert {p.role: p.windows for p in parts} == {
        "search": ((0, 4), (12, 16)),
        "held out": ((4, 8), (16, 20)),
        "check": ((8, 12),),
    }
    assert [len(p.pictures) for p in parts] == [8, 8, 4]
    (judged,) = passages(CLIP, model, 20, {"held out": 1.0})
    assert judged.windows == ((0, 20),)
    assert np.array_equal(parts[1].pictures[5], judged.pictures[17])
    with pytest.raises(SourceError, match="expected a clip of at least 8 frames to tune on, got 2"):
        passages("sample:screen?size=128x96&seconds=0.2&fps=10", model, 20)


@pytest.mark.parametrize("frames", [8, 9, 11, 40, 57, 160])
def test_windows_cover_the_clip_by_their_shares(frames: int) -> None:
    turns = windows(frames, SHARES)
    assert [at for (first, end), _ in turns for at in range(first, end)] == list(range(frames))
    counts = {role: sum(turn == role for _, turn in turns) for role in SHARES}
    assert min(counts.values()) >= 1
    assert frames < 40 or counts == {"search": 4, "held out": 4, "check": 2}
    assert min(end - first for (first, end), _ in turns) >= 2


def test_outcomes_are_repeatable_and_follow_the_shares(model: Model) -> None:
    parts = passages(CLIP, model, 12, {"search": 1.0})
    bench = TuneBench(model, parts, 1)
    none, some, much = (
        bench.outcome(TrialSetting(dict.fromkeys(bench.layers, share)), parts)
        for share in (1e-9, 0.1, 1.0)
    )
    again = bench.outcome(TrialSetting(dict.fromkeys(bench.layers, 0.1)), parts)
    assert some == again
    assert none.work >= some.work >= much.work > 0
    assert none.loss <= some.loss <= much.loss
    spreads = bench.spreads(parts[0])
    assert set(spreads["uniform"].values()) == {1.0}
    for spread in spreads.values():
        assert set(spread) == set(bench.layers)
        assert all(math.isfinite(share) and share > 0 for share in spread.values())
    bench.close()


def test_the_first_frame_of_a_window_does_not_count(model: Model) -> None:
    """It is computed whole: it would agree, and cost, whatever the setting is."""
    parts = passages(CLIP, model, 20)
    bench = TuneBench(model, parts, 1)
    none = TrialSetting(dict.fromkeys(bench.layers, 0.0), GateSettings(exact=True))
    assert bench.outcome(none, parts[:1]).quality == 1.0
    loose = TrialSetting(dict.fromkeys(bench.layers, 1e5), GateSettings(flush=1.0))
    assert bench.outcome(loose, parts[:1]).work < 1
    wrong, before = parts[0].dense[1], bench.outcome(none, parts[:1])
    for first in (0, 4):  # where its windows begin
        parts[0].dense[first] = wrong
    assert bench.outcome(none, parts[:1]) == before
    bench.close()


def test_frames_that_are_left_out_take_no_work_and_keep_the_result(model: Model) -> None:
    parts = passages(CLIP, model, 12, {"search": 1.0})
    bench = TuneBench(model, parts, 1)
    exact = TrialSetting(dict.fromkeys(bench.layers, 0.0), GateSettings(exact=True))
    every, third = (
        bench.outcome(replace(exact, frame_skipping=FrameSkipping(number)), parts)
        for number in (1, 3)
    )
    assert third.work == pytest.approx(every.work * 3 / 11, rel=0.2)  # frames 3, 6 and 9
    assert third.cost == pytest.approx(every.cost * 3 / 11, rel=0.2)
    assert third.quality < every.quality == 1.0
    dense = parts[0].dense
    parts[0].dense = [dense[at - at % 3] for at in range(12)]
    assert bench.outcome(replace(exact, frame_skipping=FrameSkipping(3)), parts).quality == 1.0
    bench.close()


def test_boxes_are_followed_in_tuning_as_in_a_run(tmp_path: Path) -> None:
    network = networks.brightness(tmp_path / "brightness.onnx")
    detector = zoo.load(str(network), confidence=0.0)
    (part,) = passages(CLIP, detector, 12, {"search": 1.0})
    assert len(part.greys) == len(part.pictures) == 12
    assert part.frame_s == pytest.approx(0.1)
    assert part.shape == (96, 128, 3)


def test_where_a_profile_gains_nothing_it_is_the_single_tolerance(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What seemed to gain on the frames of the search may lose it again, until it holds on the
    others."""
    outcome = TuneBench.outcome

    def disappointing(bench: TuneBench, setting: TrialSetting, over: Any) -> Outcome:
        result = outcome(bench, setting, over)
        searching = all(each.role == "search" for each in over)
        special = setting.frame_skipping.every > 1 or len(set(setting.shares.values())) > 1
        result = replace(result, quality=0.99, steady=0.99, loss=0.1)
        return replace(result, cost=result.cost + 1.0) if special and not searching else result

    monkeypatch.setattr(TuneBench, "outcome", disappointing)
    profile = tune(model, [CLIP], quality=0.9, frames=20).profile
    assert profile.frame_skipping == FrameSkipping()
    assert len(set(profile.layers.values())) == 1


def test_a_pace_that_does_not_hold_on_other_frames_is_not_taken(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = TuneBench.outcome

    def lucky(bench: TuneBench, setting: TrialSetting, over: Any) -> Outcome:
        fails = setting.frame_skipping.every > 2 and any(each.role != "search" for each in over)
        quality = 0.5 if fails else 0.99
        return replace(outcome(bench, setting, over), quality=quality, steady=quality, loss=0.1)

    monkeypatch.setattr(TuneBench, "outcome", lucky)
    profile = tune(model, [CLIP], quality=0.9, frames=20).profile
    assert profile.frame_skipping.every == 2
    assert {part.quality for part in profile.parts} == {0.99}


def test_a_profile_says_how_long_frames_may_pass(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = TuneBench.outcome

    def pleased(bench: TuneBench, setting: TrialSetting, over: Any) -> Outcome:
        return replace(outcome(bench, setting, over), quality=0.99, steady=0.99, loss=0.1)

    monkeypatch.setattr(TuneBench, "outcome", pleased)
    skipping = tune(model, [CLIP], quality=0.9, frames=20).profile.frame_skipping
    assert skipping.every > 1
    assert skipping.within_s == pytest.approx((skipping.every - 1) * 0.1 * 1.1, rel=0.01)


def test_a_profile_comes_out_and_a_session_takes_it(model: Model, tmp_path: Path) -> None:
    tuned = tune(model, [CLIP], quality=0.9, frames=20)
    assert [part.role for part in tuned.profile.parts] == ["search", "held out", "check"]
    assert all(part.kind == "closeness" for part in tuned.profile.parts)
    assert tuned.profile.target == 0.9
    tuned.profile.write(tmp_path / "p.json")
    arguments = ["run", CLIP, "--model", str(model.origin), "--task", "tensors", "-q"]
    arguments += ["--max-frames", "3", "--profile", str(tmp_path / "p.json")]
    assert status([*arguments, "--summary-json", str(tmp_path / "s.json")]) == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["profile"]["layers"] == tuned.profile.layers
    assert summary["settings"]["reuse"] == "layer"


def test_what_cannot_be_tuned(model: Model) -> None:
    with pytest.raises(UsageError, match="expected a clip to tune on"):
        tune(model, [])
    with pytest.raises(UsageError, match="expected at most 1"):
        tune(model, [CLIP], quality=2.0, frames=20)
    with pytest.raises(QualityError, match="no tolerance agrees to 1"):
        tune(model, [CLIP], quality=1.0, frames=20)


def test_no_more_is_asked_for_than_the_network_repeats(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured here, and lowered where the floor is above it; 1 asks for exactness and stays."""
    figures = {"kept": 0.7, "strict": 0.6, "place": None, "noise_level": 0.5, "frames": 8}
    measured: list[Any] = []

    def repeated(bench: TuneBench, over: Any) -> Any:
        measured.append(repeatability(bench, over))
        return figures

    repeatability = TuneBench.repeatability
    monkeypatch.setattr(TuneBench, "repeatability", repeated)
    tuned = tune(model, [CLIP], quality=0.9, frames=20)
    assert (tuned.asked, tuned.profile.target, tuned.repeatability) == (0.9, 0.7, figures)
    (real,) = measured
    assert 0.5 < real["kept"] == real["strict"] < 1
    assert real["noise_level"] >= 0.5
    assert real["frames"] == 8
    assert "8 of its frames have anything to compare, 30 are needed" in tuned.doubts
    with pytest.raises(QualityError, match="no tolerance agrees to 1"):
        tune(model, [CLIP], quality=1.0, frames=20)


def test_clips_in_which_nothing_is_found_tune_nothing(tmp_path: Path) -> None:
    path = networks.painter(tmp_path / "painter.onnx")
    painter = zoo.load(str(path))

    def blind(outputs: Any, view: Any, form: Any) -> Detections:
        return Detections.none(("x",))

    form = replace(painter.form, task="detection", decoder=blind, labels=("x",))
    with pytest.raises(QualityError, match="nothing can be tuned on these clips: the network does"):
        tune(replace(painter, form=form), [CLIP], frames=20)


def test_ctrl_c_writes_the_best_so_far(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    outcome = TuneBench.outcome

    def interrupted(self: Any, *arguments: Any) -> Outcome:
        nonlocal seen
        seen += 1
        if seen == 5:
            signal.raise_signal(signal.SIGINT)
        return outcome(self, *arguments)

    monkeypatch.setattr(TuneBench, "outcome", interrupted)
    out = tmp_path / "p.json"
    arguments = ["tune", CLIP, "--model", str(path), "--task", "tensors", "--quality", "0.5", "-q"]
    assert status([*arguments, "-o", str(out), "--max-frames", "20"]) == 130
    assert TuningProfile.read(out).model == "net"
    assert seen < 40


def test_the_command_refuses_before_it_searches(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: pytest.fail("searched"))
    arguments = ["tune", CLIP, "--model", str(path), "-o"]
    assert status([*arguments, "/nowhere/p.json"]) == 5
    assert "there is no folder /nowhere" in capsys.readouterr().err
    (tmp_path / "p.json").write_text("mine")
    assert status([*arguments, str(tmp_path / "p.json")]) == 5
    assert (tmp_path / "p.json").read_text() == "mine"
