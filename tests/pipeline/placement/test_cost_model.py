"""The planner on made-up profiles: prediction, choice, hysteresis."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.placement.cost_model import (
    Candidate,
    Cost,
    Goal,
    Hysteresis,
    Prediction,
    StageCosts,
    candidates,
    choose,
    plan,
    predict,
)

ONE, TWO = BackendChoice("reuse", 1), BackendChoice("reuse", 2)
HALVES = BackendChoice("segments")
WINDOWS = (1, 2, 4, 8)


def profile(**changes: Any) -> StageCosts:
    """Decode, draw and encode take as long as the network; two threads halve that nearly."""
    base = StageCosts(
        stages={"decode": Cost(10, 10), "draw": Cost(5, 5), "encode": Cost(15, 15)},
        infer={
            ONE: (Cost(30, 30),),
            TWO: (Cost(17, 34),),
            HALVES: (Cost(16, 16), Cost(15, 15)),
        },
        cores=(0, 1),
    )
    return replace(base, **changes)


def at(prof: StageCosts, choice: BackendChoice, window: int) -> Prediction:
    return predict(prof, Candidate(choice, window))


# --- predictions ---------------------------------------------------------------------------------


def test_one_after_the_other_takes_the_sum() -> None:
    prediction = at(profile(), ONE, 1)
    assert prediction.frame_ms == prediction.latency_ms == pytest.approx(60, abs=1)
    assert prediction.cpu_ms == 60
    assert at(profile(), TWO, 1).frame_ms == pytest.approx(47, abs=1)


def test_overlapped_is_bound_by_the_slowest_stage_and_by_the_cores() -> None:
    many = profile(cores=tuple(range(8)))
    assert at(many, ONE, 8).frame_ms == pytest.approx(30, abs=1)
    assert at(many, HALVES, 8).frame_ms == pytest.approx(16, abs=1)
    assert at(profile(), HALVES, 8).frame_ms == pytest.approx(61 / 2, abs=1)
    assert at(profile(cores=(0,)), ONE, 8).frame_ms == pytest.approx(60, abs=1)


def test_a_wider_window_never_predicts_fewer_frames_nor_less_latency() -> None:
    for prof in (profile(), profile(others=3.0), profile(cores=tuple(range(6)))):
        for choice in (ONE, TWO, HALVES):
            prediction = [at(prof, choice, window) for window in (2, 3, 4, 8)]
            for narrow, wide in pairwise(prediction):
                assert wide.frame_ms <= narrow.frame_ms + 1e-9
                assert wide.latency_ms >= narrow.latency_ms - 1e-9


def test_competition_slows_all_and_threads_that_meet_most() -> None:
    quiet, loud = profile(), profile(others=3.0)
    slower = {g: at(loud, g, 1).frame_ms / at(quiet, g, 1).frame_ms for g in (ONE, TWO)}
    assert slower[ONE] == pytest.approx(2.0, abs=0.1)  # 2 cores for 4 threads
    assert slower[TWO] > 1.3 * slower[ONE]
    assert at(quiet, TWO, 1).frame_ms < at(quiet, ONE, 1).frame_ms
    assert at(loud, TWO, 1).frame_ms > at(loud, ONE, 1).frame_ms


def test_a_quota_and_slow_cores_count() -> None:
    many = tuple(range(8))
    assert at(profile(cores=many, capacity=1.0), ONE, 8).frame_ms == pytest.approx(60, rel=0.1)
    little = profile(speed={0: 1.0, 1: 0.5})
    pinned = Candidate(ONE, 8, (("infer", frozenset({1})),))
    assert predict(little, pinned).frame_ms == pytest.approx(60, abs=1)


def test_stages_that_share_a_core_share_its_time() -> None:
    rest = tuple((name, frozenset({1})) for name in profile().stages)
    heavy = profile(stages={"decode": Cost(20, 20), "draw": Cost(20, 20), "encode": Cost(20, 20)})
    prediction = predict(heavy, Candidate(ONE, 8, (("infer", frozenset({0})), *rest)))
    assert prediction.frame_ms == pytest.approx(60, abs=1)


# --- candidates and choice -----------------------------------------------------------------------


def test_every_choice_window_and_layout_is_considered() -> None:
    options = list(candidates(profile(), {}, WINDOWS))
    assert len(set(options)) == len(options)
    assert {c.infer for c in options} == {ONE, TWO, HALVES}
    assert {c.window for c in options} == set(WINDOWS)
    apart = next(c for c in options if c.infer == ONE and c.pins)
    assert apart.cores("infer") == {0}
    assert apart.cores("decode") == apart.cores("encode") == {1}
    halves = next(c for c in options if c.infer == HALVES and c.pins)
    assert (halves.cores("infer"), halves.cores("infer-2")) == ({0}, {1})
    assert all(c.window > 1 for c in options if c.infer == HALVES)


def test_what_was_pinned_by_hand_stays() -> None:
    manual_pins = {"infer": frozenset({1}), "decode": frozenset({0})}
    options = list(candidates(profile(), manual_pins, WINDOWS))
    assert {c.infer for c in options} == {ONE, TWO, HALVES}
    assert all(dict(c.pins) == manual_pins for c in options)


def test_one_core_has_nothing_to_place_apart() -> None:
    alone = profile(cores=(3,), infer={ONE: (Cost(30, 30),)})
    assert all(not c.pins for c in candidates(alone, {}, WINDOWS))


def test_the_fastest_cores_are_the_network_s() -> None:
    mixed = profile(cores=(0, 1, 2, 3), speed={0: 0.5, 1: 0.5, 2: 1.0, 3: 1.0})
    apart = next(c for c in candidates(mixed, {}, (4,)) if c.infer == TWO and c.pins)
    assert apart.cores("infer") == {2, 3}
    assert apart.cores("draw") == {0, 1}


def test_each_aim_takes_what_it_wants() -> None:
    many = profile(cores=(0, 1, 2, 3))
    fast = plan(many, Goal("throughput"), WINDOWS)[0]
    soon = plan(many, Goal("latency"), WINDOWS)[0]
    assert fast.candidate.infer == HALVES
    assert soon.candidate.infer == TWO
    assert soon.candidate.window <= 2
    assert fast.frame_ms < soon.frame_ms
    assert soon.latency_ms < fast.latency_ms
    little = plan(many, Goal("share", budget=0.5), WINDOWS)[0]
    assert little.candidate.infer == ONE  # the least processor time gives most frames under a cap


def test_the_choice_is_never_worse_than_any_other() -> None:
    draw = np.random.default_rng(11)
    for _ in range(200):
        ms = draw.uniform(0.5, 60, 8)
        prof = profile(
            stages={"decode": Cost(ms[0], ms[0]), "encode": Cost(ms[1], 1.5 * ms[1])},
            infer={
                ONE: (Cost(ms[2], ms[2]),),
                TWO: (Cost(ms[3], 2 * ms[3]),),
                HALVES: (Cost(ms[4], ms[4]), Cost(ms[5], ms[5])),
            },
            cores=tuple(range(int(draw.integers(1, 9)))),
            others=float(draw.choice([0, 1, 3])),
        )
        for aim in ("throughput", "latency"):
            ranked = plan(prof, Goal(aim), WINDOWS)
            value = "frame_ms" if aim == "throughput" else "latency_ms"
            best = min(getattr(each, value) for each in ranked)
            assert getattr(ranked[0], value) <= best * 1.02 + 1e-9


def test_of_equals_the_one_that_takes_least_is_chosen() -> None:
    same = [
        Prediction(Candidate(TWO, 1), 20, 20, 34),
        Prediction(Candidate(ONE, 1), 20.2, 20.2, 20),
    ]
    assert choose(same, Goal()).candidate.infer == ONE
    pins = (("infer", frozenset({0})),)
    alike = [Prediction(Candidate(ONE, 2, p), 20, 20, 20) for p in ((), pins)]
    assert choose(alike, Goal()).candidate.pins
    assert not choose(alike, Goal(), shared=True).candidate.pins


def test_a_live_source_is_not_outrun() -> None:
    """Where frames come every 33 ms, the way that takes least processor time is best."""
    ranked = plan(profile(cores=tuple(range(8))), Goal(floor_ms=33.3), WINDOWS)
    assert ranked[0].candidate.infer == ONE


# --- hysteresis ----------------------------------------------------------------------------------


def test_a_change_needs_a_clear_and_lasting_gain() -> None:
    rule = Hysteresis(gain=0.2, patience=3, rest_s=4)
    assert not any(rule.agrees(100, 85, float(s)) for s in range(10))
    assert [rule.agrees(100, 70, float(s)) for s in range(10, 13)] == [False, False, True]
    rule.changed(100, 13.0)
    assert not any(rule.agrees(100, 50, 13.0 + s) for s in (0.5, 1, 1.5, 2, 3))
    assert rule.agrees(100, 50, 17.5)


def test_one_glance_is_not_enough() -> None:
    urgent = Hysteresis(gain=0.2, patience=3, rest_s=4)  # half the time, and one time less will do
    assert [urgent.agrees(100, 40, float(s)) for s in range(2)] == [False, True]
    rule = Hysteresis(patience=2, rest_s=0)
    verdicts = [rule.agrees(100, chosen, float(i)) for i, chosen in enumerate([50, 90, 50, 90, 50])]
    assert not any(verdicts)


def test_changes_that_bring_nothing_become_rarer() -> None:
    rule = Hysteresis(rest_s=4)
    rule.changed(100, 0)
    rule.judge(99)
    assert rule.rest_s == 8
    rule.changed(100, 0)
    rule.judge(60)
    assert rule.rest_s == 8
