"""What explain measures, what it draws and what it concludes, on tiny networks and drawn clips."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stillframe.errors import ModelError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.pipeline import cli
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.studies.explain.explain import explain
from stillframe.pipeline.studies.explain.explanation import Explanation, Row, Totals
from stillframe.pipeline.studies.explain.heatmap import HeatmapCounter, draw
from stillframe.pipeline.studies.explain.verdict import judge
from stillframe.reuse.introspection import (
    CALLER,
    EXPORT,
    computed_positions,
    layer_stats,
    layers,
)
from stillframe.reuse.runtime.dense_switch import DenseSwitch
from stillframe.reuse.session import ReuseSession

SIDE = 64
BLOCK = slice(24, 40)


def network(path: Path, kind: str) -> Path:
    """Two convolutions at half and quarter size. gate: a squeeze-and-excite between them; island:
    they are followed by an operator that only ONNX Runtime has."""
    rng = np.random.default_rng(3)
    weights: dict[str, NDArray[Any]] = {
        "w1": rng.standard_normal((16, 3, 3, 3)) * 0.01,
        "w2": rng.standard_normal((32, 16, 3, 3)) * 0.1,
        "w3": rng.standard_normal((16, 16, 1, 1)),
    }
    conv: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [helper.make_node("Conv", ["image", "w1"], ["half"], **conv)]
    last = "half"
    if kind == "gate":
        nodes += [
            helper.make_node("GlobalAveragePool", ["half"], ["pooled"]),
            helper.make_node("Conv", ["pooled", "w3"], ["squeezed"]),
            helper.make_node("Sigmoid", ["squeezed"], ["factor"]),
            helper.make_node("Mul", ["half", "factor"], ["gated"]),
        ]
        last = "gated"
    nodes.append(helper.make_node("Conv", [last, "w2"], ["quarter"], **conv))
    result, shape = "quarter", [1, 32, SIDE // 4, SIDE // 4]
    if kind == "island":
        nodes.append(helper.make_node("CumSum", ["quarter", "axis"], ["sums"]))
        weights["axis"] = np.array(3)
        result = "sums"
    used = {name for node in nodes for name in node.input}
    tensors = [
        numpy_helper.from_array(v.astype(np.int64 if n == "axis" else np.float32), n)
        for n, v in weights.items()
        if n in used
    ]
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, shape)],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLFRAME_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def models(cache: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("explain")
    return {
        kind: zoo.load(network(folder / f"{kind}.onnx", kind), task="tensors")
        for kind in ("plain", "gate", "island")
    }


def clip(count: int = 5, *, still: bool = False, all_over: bool = False) -> Iterator[Frame]:
    """A square of other brightness in each frame, on a picture that stays."""
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 120, (SIDE, SIDE, 3), np.uint8)
    for index in range(count):
        image = ground.copy()
        if not still:
            image[BLOCK, BLOCK] = 130 + 20 * (index % 5)
        if all_over:
            image = rng.integers(0, 256, image.shape, np.uint8)
        yield Frame(image, index, index / 10, index, Fraction(1, 10))


def row(explained: Explanation, name: str, operator: str = "Conv") -> Row:
    return next(r for r in explained.rows if name in r.name and r.operator == operator)


def test_active_shares_are_those_that_the_windows_reach(models: dict[str, Model]) -> None:
    explained = explain(models["plain"], clip(), gate="exact", threads=1)
    assert explained.totals.frames == 4
    assert explained.totals.input == pytest.approx((16 / 64) ** 2)
    half, quarter = row(explained, "half"), row(explained, "quarter")
    assert half.active == pytest.approx((9 / 32) ** 2)  # rows 12..20 of 32 look at 24..39
    assert quarter.active == pytest.approx((5 / 16) ** 2)
    done = half.multiply_adds * (9 / 32) ** 2 + quarter.multiply_adds * (5 / 16) ** 2
    assert explained.totals.work == pytest.approx(done / explained.totals.multiply_adds)
    assert half.multiply_adds == 32 * 32 * 16 * 27
    assert half.shape == (32, 32, 16)


def test_memory_and_readers_are_named(models: dict[str, Model]) -> None:
    explained = explain(models["plain"], threads=1)
    half = row(explained, "half")
    assert half.persistent is True
    assert "3x3" in half.why
    assert "Conv -> 'quarter'" in half.last_reader
    assert half.bytes >= 32 * 32 * 16 * 4
    assert row(explained, "quarter").last_reader == CALLER
    assert row(explained, "quarter", "Export").persistent is None
    assert explained.memory.persistent >= half.bytes


def test_without_a_clip_only_the_static_part_is_given(models: dict[str, Model]) -> None:
    explained = explain(models["plain"], threads=1, heatmap=True)
    assert explained.totals.reuse_ms is None
    assert explained.totals.dense_ms > 0
    assert all(r.active is None and r.reuse_ms is None for r in explained.rows)
    assert explained.heatmap is None
    assert judge(explained)[0].kind == "open"
    assert "give a clip" in judge(explained)[0].words


def test_what_is_computed_and_left_unstored_is_active_but_not_changed(
    models: dict[str, Model],
) -> None:
    explained = explain(models["plain"], clip(), gate="exact", tolerance=1000.0, threads=1)
    half, quarter = row(explained, "half"), row(explained, "quarter")
    assert half.cut_off
    assert half.active == pytest.approx((9 / 32) ** 2)
    assert half.changed == 0
    assert quarter.active == 0


def test_still_frames_do_no_work(models: dict[str, Model]) -> None:
    explained = explain(models["island"], clip(still=True), threads=1, heatmap=True)
    assert explained.totals.unchanged == explained.totals.frames == 4
    assert explained.totals.work == 0
    assert {r.active for r in explained.rows} == {0.0}
    assert explained.heatmap is not None
    assert max(float(level.shares.max()) for level in explained.heatmap.levels) == 0


def test_an_island_says_why_and_how_often_it_ran(models: dict[str, Model]) -> None:
    frames = [*clip(3), *list(clip(3))[2:], *list(clip(3))[2:]]  # changes, changes, then still
    explained = explain(models["island"], frames, gate="exact", threads=1)
    island = row(explained, "sums", "Island")
    assert "CumSum" in island.reason
    assert any("CumSum" in node for node in island.nodes)
    assert island.active == pytest.approx(2 / 4)
    assert island.dense_ms > 0


def test_what_lies_behind_a_global_operator_is_named_and_judged(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the break-even measured on this host is low, the second frame would be computed whole.
    monkeypatch.setattr(DenseSwitch, "is_dense", lambda *_: False)
    explained = explain(models["gate"], clip(), gate="exact", threads=1)
    assert not row(explained, "half").after_global
    assert row(explained, "quarter").after_global == next(
        r.name for r in explained.rows if r.operator == "GlobalPool"
    )
    assert row(explained, "quarter").active == 1.0
    verdict = next(v for v in judge(explained) if v.kind == "global operators")
    assert verdict.figures["active_behind"] == 1.0
    assert verdict.figures["active_before"] < 0.1
    assert verdict.figures["moved"] == 1.0
    assert "100% active against 8%" in verdict.words
    kinds = {v.kind for v in judge(explain(models["plain"], clip(), gate="exact", threads=1))}
    assert "global operators" not in kinds


def test_a_moving_picture_is_judged(models: dict[str, Model]) -> None:
    explained = explain(models["plain"], clip(all_over=True), threads=1)
    assert explained.totals.dense == explained.totals.frames == 4
    verdict = next(v for v in judge(explained) if v.kind == "moving picture")
    assert verdict.figures["input"] == 1.0
    assert "4 of 4 frames" in verdict.words


def explanation(rows: list[Row], **totals: Any) -> Explanation:
    figures: dict[str, Any] = {"multiply_adds": 100, "dense_ms": 100.0, "reuse_ms": 20.0}
    figures |= {"reuse_mean_ms": 20.0, "gate_ms": 2.0, "input": 0.05, "work": 0.2, "frames": 10}
    memory: Any = None
    return Explanation(
        "made", (8, 8), 0.0, "exact", 1, tuple(rows), Totals(**figures | totals), memory, ()
    )


LAYER = Row("a", "Conv", (8, 8, 4), 100, 100.0, active=0.2)
ISLAND = Row("i", "Island", (1, 9), 0, 60.0, active=1.0, reason="NonMaxSuppression: not ours")
ALL_ISLAND = {"does not pay", "islands"}
VERDICTS: list[tuple[Explanation, set[str]]] = [
    (explanation([LAYER]), {"pays"}),
    (explanation([LAYER], reuse_mean_ms=99.0, work=0.9), {"does not pay", "spreading", "overhead"}),
    (explanation([LAYER], reuse_mean_ms=45.0), {"pays"}),  # what was needed is no overhead
    (explanation([LAYER], work=0.7), {"pays", "spreading"}),
    (explanation([LAYER], input=0.9, work=0.9, dense=9), {"pays", "moving picture"}),
    (explanation([replace(LAYER, dense_ms=40.0), ISLAND]), {"pays", "islands"}),
    # an island that is quick while others are slow, and one whose multiply-adds nobody knows
    (explanation([LAYER, replace(ISLAND, multiply_adds=80, dense_ms=1.0)]), {"pays", "islands"}),
    (explanation([LAYER, replace(ISLAND, dense_ms=20.0)]), {"pays"}),
    (replace(explanation([ISLAND], reuse_mean_ms=40.0), all_island=True), ALL_ISLAND),
    (replace(explanation([ISLAND], reuse_mean_ms=None), all_island=True), ALL_ISLAND),
    (explanation([LAYER], ort_ms=20.0), {"does not pay"}),  # ONNX Runtime is as fast
    (explanation([LAYER], ort_ms=60.0), {"pays"}),
    (
        explanation([replace(LAYER, dense_ms=2.0)], dense_ms=2.0, reuse_mean_ms=1.5),
        {"does not pay", "tiny network"},
    ),
    (explanation([LAYER], reuse_mean_ms=None, dense_ms=1.0), {"open", "tiny network"}),
]


@pytest.mark.parametrize(("explained", "kinds"), VERDICTS)
def test_each_obstacle_is_judged_by_its_figures(explained: Explanation, kinds: set[str]) -> None:
    verdicts = judge(explained)
    assert {v.kind for v in verdicts} == kinds
    assert all(v.figures for v in verdicts)


@pytest.mark.parametrize("kind", ["plain", "gate", "island"])
def test_what_the_heatmap_counts_is_what_the_engine_computed(
    models: dict[str, Model], kind: str
) -> None:
    model = models[kind]
    with ReuseSession(model.path, threads=1) as session:
        pictures = [frame.image for frame in clip(3)]
        session.step(model.feed(pictures[0]))
        meter = HeatmapCounter(session, pictures[0])
        session.step(model.feed(pictures[1]))
        meter.add()
        computed, stats = computed_positions(session), layer_stats(session)
        work = dict.fromkeys(computed, 0)
        checked = 0
        for index, layer in enumerate(layers(session)):
            if layer.op in (EXPORT, "Island") or layer.shape[:2] == (1, 1):
                continue
            assert computed[layer.name].sum() == stats.computed[index], layer.name
            work[layer.name] += layer.multiply_adds
            checked += 1
        assert checked >= 2
        for level in meter.heatmap().levels:
            names = [name for name, marks in computed.items() if marks.shape == level.shares.shape]
            assert len(names) == level.layers
            weights = [work[name] for name in names] if any(work[name] for name in names) else None
            marks = np.array([computed[name] for name in names], np.float32)
            assert level.shares == pytest.approx(np.average(marks, axis=0, weights=weights))


def test_the_heatmap_shows_where_the_clip_changed(models: dict[str, Model]) -> None:
    explained = explain(models["plain"], clip(), gate="exact", threads=1, heatmap=True)
    assert explained.heatmap is not None
    assert [level.shares.shape for level in explained.heatmap.levels] == [(32, 32), (16, 16)]
    assert sum(level.work for level in explained.heatmap.levels) == pytest.approx(1)
    assert explained.heatmap.levels[0].shares[16, 16] == 1
    assert explained.heatmap.levels[0].shares[2, 2] == 0
    assert explained.heatmap.input[30, 30] == 1
    image = draw(explained.heatmap, "title", "subtitle")
    assert image.dtype == np.uint8
    assert image.std() > 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "clip").mkdir()
    for index, frame in enumerate(clip()):
        cv2.imwrite(str(folder / "clip" / f"{index:03}.png"), frame.image)
    return str(network(folder / "unknown.onnx", "gate")), str(folder / "clip")


def test_the_command_prints_json_and_draws(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, source = files
    png = tmp_path / "heat.png"
    command = ["explain", model, source, "--gate", "exact", "--threads", "1", "--json"]
    assert cli.status([*command, "--max-frames", "3", "--heatmap", str(png)]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["totals"]["frames"] == 2
    assert output["clip"] == source
    assert {"name", "operator", "shape", "multiply_adds", "active", "last_reader"} <= set(
        output["rows"][0]
    )
    assert "global operators" in {verdict["kind"] for verdict in output["verdicts"]}
    picture = cv2.imread(str(png))
    assert picture is not None
    assert picture.shape[1] > 400
    assert cli.status([*command, "--heatmap", str(png)]) == 5
    assert "--force" in capsys.readouterr().err


def test_a_file_of_unknown_task_is_explained_by_its_tensors(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = zoo.load

    def unsure(name: str, *, task: str | None = None) -> Model:
        if task is None:
            raise ModelError(f"{name}: its outputs mean nothing to us")
        return load(name, task=task)

    monkeypatch.setattr(zoo, "load", unsure)
    assert cli.status(["explain", files[0], "--threads", "1"]) == 0
    assert "give a clip" in capsys.readouterr().out
    assert cli.status(["explain", "centerface"]) == 4


def test_the_clip_is_measured_with_warm_kernels(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[bool, bool]] = []
    step, reset = ReuseSession.step, ReuseSession.reset

    def counted(self: ReuseSession, feeds: Any, change: Any = None, **rest: Any) -> Any:
        steps.append((change is not None and not np.all(change), rest.get("dense", False)))
        return step(self, feeds, change, **rest)

    def forgotten(self: ReuseSession) -> None:
        partial.extend(part for part, dense in steps if not dense)
        steps.clear()
        reset(self)

    partial: list[bool] = []
    monkeypatch.setattr(ReuseSession, "step", counted)
    monkeypatch.setattr(ReuseSession, "reset", forgotten)
    explained = explain(models["plain"], clip(), threads=1)
    assert partial == [True]  # a partial step before the frames that are measured
    assert explained.totals.frames == 4


def test_onnx_runtime_is_timed_beside_the_engine(models: dict[str, Model]) -> None:
    explained = explain(models["plain"], threads=1)
    assert explained.totals.ort_ms is not None
    assert explained.totals.fastest_ms == min(explained.totals.dense_ms, explained.totals.ort_ms)
    assert "ONNX Runtime" in judge(explained)[0].words


LONG = "a_layer_of_a_module_of_a_module_whose_name_is_longer_than_anybody_would_like_it_to_be"


def test_the_verdict_comes_first_and_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = network(tmp_path / "long.onnx", "island")
    model = onnx.load(path)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = LONG if name == "half" else name
    onnx.save(model, path)
    assert cli.status(["explain", str(path), "--threads", "1"]) == 0
    piped = capsys.readouterr().out
    lines = piped.splitlines()
    assert lines[0].startswith("open: ")
    assert "ONNX Runtime" in lines[0]
    assert lines[0].endswith("run again.")  # one line, whatever the width
    assert any(line.startswith("island sums: CumSum sums: CumSum") for line in lines)
    row = next(line for line in lines if line.startswith(f" {LONG}"))
    assert "looks at 3x3 positions at once" in row
    assert lines.index(row) > lines.index(lines[0]) + 3
    assert not any(line != line.rstrip() for line in lines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.status(["explain", str(path), "--threads", "1"]) == 0
    shown = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    assert all(len(line) <= 120 for line in shown.splitlines())
    folded = "".join(line[:80].strip().split(" ")[0] for line in shown.splitlines())
    assert LONG in folded
    assert "…" not in piped + shown


def test_the_command_prints_a_table(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.status(["explain", files[0], files[1], "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "GlobalPool" in out
    assert "persistent" in out
    assert "multiply-adds" in out
    assert cli.status(["explain", files[0], "--heatmap", "x.png"]) == 2
    assert "CLIP" in capsys.readouterr().err
