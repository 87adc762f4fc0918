"""The planner on made-up profiles: prediction, choice, hysteresis; and what a run does then."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from stillframe.errors import UsageError
from stillframe.pipeline import cli, placement
from stillframe.pipeline.competition import Competition
from stillframe.pipeline.engine import OnnxRuntimeEngine
from stillframe.pipeline.granularity import Granularity, choices
from stillframe.pipeline.pacing import Pacer, share_of
from stillframe.pipeline.placement import Placer, Wish, plan
from stillframe.pipeline.planner import (
    Candidate,
    Cost,
    Hysteresis,
    Prediction,
    Profile,
    candidates,
    choose,
    predict,
)
from stillframe.pipeline.segments import SplitEngine, UncuttableError, best_cut, cuts
from stillframe.pipeline.settings import Settings
from stillframe.pipeline.staged import Placing, parse_place
from tests import networks
from tests.hostile import media

ONE, TWO = Granularity("reuse", 1), Granularity("reuse", 2)
HALVES = Granularity("segments")
WINDOWS = (1, 2, 4, 8)
FRAMES = 120


def profile(**changes: Any) -> Profile:
    """Decode, draw and encode take as long as the network; two threads halve that nearly."""
    base = Profile(
        stages={"decode": Cost(10, 10), "draw": Cost(5, 5), "encode": Cost(15, 15)},
        infer={
            ONE: (Cost(30, 30),),
            TWO: (Cost(17, 34),),
            HALVES: (Cost(16, 16), Cost(15, 15)),
        },
        cores=(0, 1),
    )
    return replace(base, **changes)


def at(prof: Profile, granularity: Granularity, window: int) -> Prediction:
    return predict(prof, Candidate(granularity, window))


# --- predictions ---------------------------------------------------------------------------------


def test_one_after_the_other_takes_the_sum() -> None:
    found = at(profile(), ONE, 1)
    assert found.frame_ms == found.latency_ms == pytest.approx(60, abs=1)
    assert found.cpu_ms == 60
    assert at(profile(), TWO, 1).frame_ms == pytest.approx(47, abs=1)


def test_overlapped_is_bound_by_the_slowest_stage_and_by_the_cores() -> None:
    many = profile(cores=tuple(range(8)))
    assert at(many, ONE, 8).frame_ms == pytest.approx(30, abs=1)
    assert at(many, HALVES, 8).frame_ms == pytest.approx(16, abs=1)
    assert at(profile(), HALVES, 8).frame_ms == pytest.approx(61 / 2, abs=1)
    assert at(profile(cores=(0,)), ONE, 8).frame_ms == pytest.approx(60, abs=1)


def test_a_wider_window_never_predicts_fewer_frames_nor_less_latency() -> None:
    for prof in (profile(), profile(others=3.0), profile(cores=tuple(range(6)))):
        for granularity in (ONE, TWO, HALVES):
            found = [at(prof, granularity, window) for window in (2, 3, 4, 8)]
            for narrow, wide in pairwise(found):
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
    found = predict(heavy, Candidate(ONE, 8, (("infer", frozenset({0})), *rest)))
    assert found.frame_ms == pytest.approx(60, abs=1)


# --- candidates and choice -----------------------------------------------------------------------


def test_every_granularity_window_and_layout_is_considered() -> None:
    found = list(candidates(profile(), {}, WINDOWS))
    assert len(set(found)) == len(found)
    assert {c.infer for c in found} == {ONE, TWO, HALVES}
    assert {c.window for c in found} == set(WINDOWS)
    apart = next(c for c in found if c.infer == ONE and c.pins)
    assert apart.cores("infer") == {0}
    assert apart.cores("decode") == apart.cores("encode") == {1}
    halves = next(c for c in found if c.infer == HALVES and c.pins)
    assert (halves.cores("infer"), halves.cores("infer-2")) == ({0}, {1})
    assert all(c.window > 1 for c in found if c.infer == HALVES)


def test_what_was_pinned_by_hand_stays() -> None:
    hand = {"infer": frozenset({1}), "decode": frozenset({0})}
    found = list(candidates(profile(), hand, WINDOWS))
    assert {c.infer for c in found} == {ONE, TWO, HALVES}
    assert all(dict(c.pins) == hand for c in found)


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
    fast = plan(many, Wish("throughput"), WINDOWS)[0]
    soon = plan(many, Wish("latency"), WINDOWS)[0]
    assert fast.candidate.infer == HALVES
    assert soon.candidate.infer == TWO
    assert soon.candidate.window <= 2
    assert fast.frame_ms < soon.frame_ms
    assert soon.latency_ms < fast.latency_ms
    little = plan(many, Wish("share", budget=0.5), WINDOWS)[0]
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
            ranked = plan(prof, Wish(aim), WINDOWS)
            value = "frame_ms" if aim == "throughput" else "latency_ms"
            best = min(getattr(each, value) for each in ranked)
            assert getattr(ranked[0], value) <= best * 1.02 + 1e-9


def test_of_equals_the_one_that_takes_least_is_chosen() -> None:
    same = [
        Prediction(Candidate(TWO, 1), 20, 20, 34),
        Prediction(Candidate(ONE, 1), 20.2, 20.2, 20),
    ]
    assert choose(same, "throughput").candidate.infer == ONE
    pins = (("infer", frozenset({0})),)
    alike = [Prediction(Candidate(ONE, 2, p), 20, 20, 20) for p in ((), pins)]
    assert choose(alike, "throughput").candidate.pins
    assert not choose(alike, "throughput", shared=True).candidate.pins


def test_a_live_source_is_not_outrun() -> None:
    """Where frames come every 33 ms, the way that takes least processor time is best."""
    ranked = plan(profile(cores=tuple(range(8))), Wish(floor_ms=33.3), WINDOWS)
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
    told = [rule.agrees(100, chosen, float(i)) for i, chosen in enumerate([50, 90, 50, 90, 50])]
    assert not any(told)


def test_changes_that_bring_nothing_become_rarer() -> None:
    rule = Hysteresis(rest_s=4)
    rule.changed(100, 0)
    rule.judged(99)
    assert rule.rest_s == 8
    rule.changed(100, 0)
    rule.judged(60)
    assert rule.rest_s == 8


# --- the placer ----------------------------------------------------------------------------------


class Quiet(Competition):
    def look(self) -> float:
        return self.others


def placer(monkeypatch: pytest.MonkeyPatch, prof: Profile, wish: Wish | None = None) -> Placer:
    """A placer whose changes are noted and not carried out."""
    made = Placer(prof, wish or Wish("latency"), WINDOWS, Quiet())
    changes: list[Prediction] = []

    def change(best: Prediction, why: str, now: float, now_s: float) -> None:
        changes.append(best)
        made.now, made.replans = best, made.replans + 1
        made._hysteresis.changed(now, now_s)
        made._say(f"re-planned: {best.candidate}; {why}")

    monkeypatch.setattr(made, "_change", change)
    return made


def measured(placer: Placer, factor: float) -> Prediction:
    return predict(placer.profile, placer.now.candidate).scaled(factor)


def test_an_engine_that_no_frame_reached_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    class Made:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    class Look:
        def use(self, engine: Made) -> None:
            self.wanted = engine

    class Analysis:
        look = Look()

    watch = placer(monkeypatch, profile())
    analysis: Any = Analysis()
    watch._give(analysis, Made("first"))
    watch._give(analysis, Made("second"))  # nobody holds the first one any more
    watch._built.append(Made("third"))
    watch.close()
    assert sorted(closed) == ["second", "third"]


def test_it_changes_when_others_come_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = placer(monkeypatch, profile())
    assert watch.now.candidate.infer == TWO
    for second in range(5):
        watch.compare(measured(watch, 1.0), float(second))
    assert watch.replans == 0
    watch.profile = replace(watch.profile, others=3.0)
    for second in range(5, 10):
        watch.compare(measured(watch, 1.0), float(second))
    assert watch.replans == 1
    assert watch.now.candidate.infer == ONE
    assert "3.0 threads of others compete; latency takes" in watch.decisions[-1]
    watch.profile = replace(watch.profile, others=0.0)
    for second in range(20, 30):
        watch.compare(measured(watch, 1.0), float(second))
    assert watch.now.candidate.infer == TWO


def test_a_static_plan_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = placer(monkeypatch, profile(), Wish("latency", replans=False))
    watch.profile = replace(watch.profile, others=5.0)
    for second in range(10):
        watch.compare(measured(watch, 9.0), float(second))
    assert watch.replans == 0


def test_a_prediction_that_proves_false_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes elsewhere, once; there it stays, though the model still believes in the first."""
    watch = placer(monkeypatch, profile())
    first = watch.now.candidate
    for second in range(60):
        factor = 4.0 if watch.now.candidate.infer == first.infer else 1.0
        watch.compare(measured(watch, factor), float(second))
    assert watch.now.candidate.infer == ONE
    assert watch.replans <= 3


def test_a_machine_that_is_slower_in_all_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = placer(monkeypatch, profile())
    for second in range(120):
        watch.compare(measured(watch, 2.2), float(second))
    assert watch.replans == 0


def test_a_core_that_disappears_is_acted_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = placer(monkeypatch, profile(), Wish("throughput", replans=False))
    watch.profile = replace(watch.profile, cores=(0,))
    watch.compare(measured(watch, 1.0), 1.0, lost=frozenset({1}))
    assert watch.replans == 1
    assert "core 1 disappeared" in watch.decisions[-1]


def test_nothing_that_can_run_it_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing here can run the network"):
        plan(profile(infer={}), Wish(), WINDOWS)


# --- what there is to choose from ----------------------------------------------------------------


def test_exact_keeps_our_engine_and_layer_may_take_another() -> None:
    exact = {g.kind for g in choices(Settings(reuse="exact"), 4)}
    assert exact == {"reuse", "segments"}
    assert {"reuse", "segments", "onnxruntime"} <= {
        g.kind for g in choices(Settings(reuse="layer"), 4)
    }
    assert "reuse" not in {g.kind for g in choices(Settings(reuse="frame"), 4)}
    assert [g.threads for g in choices(Settings(reuse="frame"), 4)][:3] == [1, 2, 4]
    assert {g.threads for g in choices(Settings(reuse="frame", threads=3), 4)} == {3}
    assert "segments" not in {g.kind for g in choices(Settings(reuse="layer"), 1)}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six convolutions in a row, with a branch around two of them."""
    path = tmp_path_factory.mktemp("models") / "deep.onnx"
    onnx.save(deep_model(), path)
    return path


def deep_model() -> onnx.ModelProto:
    draw = np.random.default_rng(2)
    nodes, weights, last = [], [], "image"
    for index in range(6):
        shape = (8, 3 if index == 0 else 8, 3, 3)
        values = draw.normal(0, 0.2, shape).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"w{index}"))
        name = f"c{index}"
        nodes.append(onnx.helper.make_node("Conv", [last, f"w{index}"], [name], pads=[1, 1, 1, 1]))
        last = name
        if index == 4:
            nodes.append(onnx.helper.make_node("Add", [name, "c2"], ["sum"]))
            last = "sum"
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "deep",
        [value("image", onnx.TensorProto.FLOAT, [1, 3, 24, 40])],
        [value("c5", onnx.TensorProto.FLOAT, [1, 8, 24, 40])],
        weights,
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)


def test_a_network_is_cut_where_its_halves_weigh_the_same() -> None:
    model = onnx.shape_inference.infer_shapes(deep_model())
    found = list(cuts(model))
    assert [cut.share for cut in found] == sorted(cut.share for cut in found)
    assert all("image" not in cut.names for cut in found)
    assert best_cut(model).names in {("c2",), ("c3", "c2"), ("c2", "c3")}
    assert 0.3 <= best_cut(model).share <= 0.7
    across = next(cut for cut in found if "c3" in cut.names)
    assert set(across.names) == {"c2", "c3"}  # the branch crosses too


def test_the_picture_itself_never_crosses() -> None:
    """What the head reads would have to be handed on beside it."""
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    shape = [1, 3, 8, 8]
    names = [("image",), ("a",), ("b", "image"), ("c",)]
    nodes = [
        node("Add" if len(reads) > 1 else "Relu", list(reads), [name])
        for reads, name in zip(names, ("a", "b", "c", "out"), strict=True)
    ]
    ends = [[value(name, onnx.TensorProto.FLOAT, shape)] for name in ("image", "out")]
    graph = onnx.helper.make_graph(nodes, "late", *ends)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    found = list(cuts(onnx.shape_inference.infer_shapes(model)))
    assert [cut.names for cut in found] == [("c",)]


def test_both_halves_give_what_the_whole_gives(deep: Path) -> None:
    engine, whole = SplitEngine(deep), OnnxRuntimeEngine(deep, 1)
    draw = np.random.default_rng(4)
    picture = draw.random((1, 3, 24, 40), np.float32)
    for _ in range(4):
        feed = {"image": picture.copy()}
        boundary = [each.copy() for each in engine.head(feed, None)]
        (found,) = engine.tail(boundary)
        (expected,) = whole.run(feed, None)
        assert np.allclose(found, expected, atol=1e-4)
        picture[..., 5:9, 7:12] = draw.random()
    engine.close()


def test_a_network_that_no_cut_divides_says_so(tmp_path: Path) -> None:
    with pytest.raises(UncuttableError, match="no place divides its work well"):
        best_cut(onnx.load(networks.brightness(tmp_path / "brightness.onnx")))


# --- pace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "cores"), [(0.5, 2.0), (0.25, 1.0), (0.1, 8.0)])
def test_the_pace_holds_the_measured_share_at_the_target(share: float, cores: float) -> None:
    """On a clock of our own: work of uneven size on all cores, and the waits that are asked for."""
    now, used = [0.0], [0.0]
    pace = Pacer(share, cores, lambda: now[0], lambda: used[0])
    draw = np.random.default_rng(1)
    for _ in range(2000):
        work = float(draw.uniform(0.001, 0.2))
        used[0] += work
        now[0] += work / cores
        now[0] += pace()
    assert used[0] / (now[0] * cores) == pytest.approx(share, abs=0.02)


def test_what_was_not_used_for_long_cannot_be_made_up_for() -> None:
    now, used = [0.0], [0.0]
    pace = Pacer(0.5, 1.0, lambda: now[0], lambda: used[0])
    now[0] = 100.0
    assert pace() == 0
    used[0] = 1.0
    assert pace() == pytest.approx(2.0 - 0.2)


@pytest.mark.parametrize(("text", "share"), [("50%", 0.5), ("0.25", 0.25), ("100%", 1.0)])
def test_shares_are_read(text: str, share: float) -> None:
    assert share_of(text) == share


@pytest.mark.parametrize("text", ["0", "0%", "120%", "half", "-5%", "nan"])
def test_shares_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"CPU share: expected a share such as 50% or 0\.5"):
        share_of(text)


# --- who competes --------------------------------------------------------------------------------


def test_others_are_counted_without_our_own(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu 1 2\nprocs_running 5\nprocs_blocked 0\n")
    for thread, state in (("7", "R"), ("8", "S"), ("9", "R")):
        (tmp_path / "task" / thread).mkdir(parents=True)
        (tmp_path / "task" / thread / "stat").write_text(f"{thread} (a ) b) {state} 1 2")
    seen = Competition(tmp_path / "stat", tmp_path / "task")
    assert seen.look() == 3
    (tmp_path / "stat").write_text("procs_running 2\n")
    assert 0 < seen.look() < 3
    assert Competition(tmp_path / "none").look() == 0


@pytest.mark.parametrize(("others_share", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_a_queue_that_took_no_time_was_our_own(
    tmp_path: Path, others_share: float, expected: float
) -> None:
    """One of ours runs, the queue says two; how much the second had of this core decides."""
    core, ticks = min(os.sched_getaffinity(0)), os.sysconf("SC_CLK_TCK")
    (tmp_path / "task" / "7").mkdir(parents=True)
    (tmp_path / "task" / "7" / "stat").write_text("7 (a) R 1 2")
    clock = {"at": 0.0, "spent": 0.0, "busy": 0.0}
    seen = Competition(
        tmp_path / "stat", tmp_path / "task", lambda: clock["at"], lambda: clock["spent"]
    )
    cores = len(os.sched_getaffinity(0))
    for _ in range(60):
        clock["at"] += 1.0
        clock["spent"] += cores / 2
        clock["busy"] += cores / 2 * (1 + others_share)
        busy = round(clock["busy"] * ticks)
        (tmp_path / "stat").write_text(
            f"cpu 1 1 1 9 9 1 1 0\ncpu{core} 0 0 {busy} 99999 99999 0 0 0\nprocs_running 2\n"
        )
        seen.look()
    assert seen.others == pytest.approx(expected, abs=0.02)


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("infer=cpu:0-1,decode=cpu:1", {"infer": "cpu:0-1", "decode": "cpu:1"}),
        ("infer=cpu:0,2,infer-2=cpu:1", {"infer": "cpu:0,2", "infer-2": "cpu:1"}),
        ("infer=openvino:CPU", {"infer": "openvino:CPU"}),
    ],
)
def test_places_are_read(text: str, found: dict[str, str]) -> None:
    assert parse_place(text) == found


def test_aims_that_make_no_sense_are_refused() -> None:
    for build in (
        lambda: Placing(aim="speed"),  # type: ignore[arg-type]
        lambda: Placing(aim="share"),
        lambda: Placing(aim="latency", share=0.5),
        lambda: parse_place("infer"),
    ):
        with pytest.raises(UsageError):
            build()


Run = Any


@pytest.fixture
def run(deep: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    clip = media.clip(tmp_path / "clip.mp4", FRAMES)
    metrics = tmp_path / "metrics.json"

    def run(*arguments: str) -> tuple[int, str, dict[str, Any]]:
        given = ["run", str(clip), "--model", str(deep), "--task", "tensors"]
        given += ["--metrics-json", str(metrics), "--force", "--explain-placement", *arguments]
        code = cli.status(given)
        told = json.loads(metrics.read_text()) if code == 0 else {}
        return code, capfd.readouterr().err, told

    yield run
    assert not any(t.name.startswith("stillframe-") for t in threading.enumerate())


@pytest.mark.parametrize("aim", ["throughput", "latency"])
def test_a_run_is_planned_and_says_so(aim: str, run: Run) -> None:
    code, told, metrics = run("--aim", aim, "--reuse", "layer")
    assert code == 0, told
    assert "placed: " in told
    assert "ms a frame" in told
    assert metrics["placement"]["aim"] == aim
    assert metrics["placement"]["decisions"][0].startswith("placed: ")
    assert metrics["frames"] == FRAMES
    assert {row["items"] for row in metrics["stages"].values()} == {FRAMES}


@pytest.mark.parametrize(("aim", "splits"), [("latency", False), ("throughput", True)])
def test_latency_goes_without_a_stage_for_a_second_segment(
    aim: str, splits: bool, run: Run
) -> None:
    """No frame is sooner through two segments, and every hand-off waits for a processor."""
    code, told, metrics = run("--aim", aim, "--reuse", "layer")
    assert code == 0, told
    assert ("infer-2" in metrics["stages"]) is splits


def test_a_share_is_planned_and_paced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[int] = []  # not really: this process has more to do
    monkeypatch.setattr(
        "stillframe.pipeline.staged.lower_priority", lambda nice: lowered.append(nice) or ""
    )
    code, told, metrics = run("--cpu-share", "60%", "--reuse", "frame")
    assert code == 0, told
    assert metrics["placement"]["aim"] == "share"
    assert lowered == [10]


def test_priority_is_really_lowered() -> None:
    code = (
        "import os, threading; from stillframe.pipeline.staged import lower_priority\n"
        "thread = threading.Thread(target=threading.Event().wait, daemon=True); thread.start()\n"
        "assert not lower_priority(7)\n"
        "for each in (threading.get_native_id(), thread.native_id):\n"
        "    print(os.getpriority(os.PRIO_PROCESS, each), os.sched_getscheduler(each))\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["7", str(os.SCHED_BATCH)] * 2


def test_a_live_source_is_planned_and_gives_its_newest_frames(run: Run) -> None:
    code, told, metrics = run("--policy", "newest", "--aim", "latency", "--reuse", "frame")
    assert code == 0, told
    assert metrics["window"] in (1, 2, 3)
    assert 0 < metrics["frames"] <= FRAMES - metrics["dropped"]
    assert run("--policy", "block")[2]["frames"] == FRAMES


def test_what_is_pinned_by_hand_is_checked_and_told(run: Run) -> None:
    code, told, metrics = run("--place", "infer=cpu:0,decode=cpu:0")
    assert code == 0
    assert "stage infer runs on core 0, as asked" in told
    assert metrics["stages"]["infer"]["cores"] == [0]
    assert metrics["stages"]["draw"]["cores"] == []
    assert metrics["placement"]["by_hand"] == {"infer": "cpu:0", "decode": "cpu:0"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--place", "infer=cpu:99"], "core 99 is not there .* there is cpu:"),
        (["--place", "draw=openvino:NPU"], "not here; there is cpu:"),
        (["--place", "paint=cpu:0"], "no stage 'paint'; there is decode, preprocess, infer"),
        (["--reuse", "layer", "--place", "islands=cpu:0"], "provider .* not on cpu:0; .* none but"),
        (["--cpu-share", "150%"], "expected a share such as 50%"),
        (["--aim", "share"], "go together"),
    ],
)
def test_what_is_not_there_is_refused(arguments: list[str], says: str, run: Run) -> None:
    code, told, _ = run(*arguments)
    assert code == 2
    assert re.search(says, told), told


def test_islands_are_placed_apart_from_the_rest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no device here, so one is claimed, and what the engine is asked for is noted."""
    asked: list[Any] = []
    for module in ("staged", "processors"):
        monkeypatch.setattr(
            f"stillframe.pipeline.{module}.PROVIDERS", {"cuda": "CPUExecutionProvider"}
        )

    def noted(providers: list[Any]) -> list[str]:
        asked.append(providers)
        return ["CPUExecutionProvider"]

    monkeypatch.setattr("stillframe.reuse.session.checked", noted)
    code, told, metrics = run("--place", "islands=cuda:0,decode=cpu:0", "--reuse", "layer")
    assert code == 0, told
    wanted = [("CPUExecutionProvider", {"device_id": "0"}), "CPUExecutionProvider"]
    assert wanted in asked
    assert metrics["placement"]["by_hand"]["islands"] == "cuda:0"
    code, told, _ = run("--place", "islands=cuda:0", "--reuse", "frame")
    assert code == 2
    assert "islands are of reuse layer and exact" in told
    code, told, _ = run("--place", "islands=cuda:0,infer=cuda:0", "--reuse", "layer")
    assert code == 2
    assert "there are no islands to place" in told


def test_affinity_that_is_denied_is_told_and_the_run_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(thread: int, cores: frozenset[int]) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.sched_setaffinity", denied)
    code, told, metrics = run("--place", "infer=cpu:0")
    assert code == 0
    assert "stage infer: core 0 could not be had (operation not permitted)" in told
    assert metrics["frames"] == FRAMES


def test_plans_change_in_the_middle_of_a_run_without_a_frame_lost(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every review wants another way to run; results stay those of a plain run."""
    monkeypatch.setattr(placement, "REVIEW_S", 0.0)
    monkeypatch.setattr(placement, "FEWEST_FRAMES", 2)
    monkeypatch.setattr(Hysteresis, "agrees", lambda self, now, chosen, now_s: True)
    turn = iter(range(1000))

    def another(found: Any, *_: Any, **__: Any) -> Prediction:
        ranked = sorted(found, key=lambda p: str(p.candidate))
        return ranked[next(turn) * 7 % len(ranked)]

    monkeypatch.setattr(placement, "choose", another)
    code, told, metrics = run("--aim", "throughput", "--reuse", "layer", "--tolerance", "0")
    assert code == 0, told
    assert metrics["frames"] == FRAMES
    assert metrics["replans"] >= 2
    assert "re-planned at frame" in told
