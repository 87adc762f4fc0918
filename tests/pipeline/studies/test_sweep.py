"""Sweeps on a small model: what is measured, kept, resumed, chosen and refused."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillframe.errors import SourceError, UsageError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections
from stillframe.pipeline.cli import execute_run, status
from stillframe.pipeline.cli.run_request import RunRequest
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.quality.ground_truth import of_known, true_boxes
from stillframe.pipeline.studies.sweep import report_page, rounds
from stillframe.pipeline.studies.sweep import sweep as sweeping
from stillframe.pipeline.studies.sweep.report_frames import moments
from stillframe.pipeline.studies.sweep.sweep import Sweep
from stillframe.pipeline.studies.sweep.variants import chosen, options_of, variants
from stillframe.reuse.gate.gate_settings import GateSettings
from tests.reuse.test_session import net

CLIP = "sample:plaza?size=128x96&seconds=1&fps=12"
FRAMES = 8


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("model") / "net.onnx"
    where.write_bytes(net((1, 3, 96, 128)))
    return where


@pytest.fixture(scope="module")
def model(path: Path) -> Model:
    return zoo.load(str(path), task="tensors")


@pytest.fixture(scope="module")
def results(model: Model) -> Sweep:
    sweep = rounds.begin(CLIP, model, 1, FRAMES, ["--model", "net.onnx"])
    assert rounds.measure(sweep, CLIP, model, variants(1))
    return sweep


def test_every_variant_that_suits_the_task_has_a_row(results: Sweep) -> None:
    names = {row.name for row in variants(1) if not row.tasks}
    assert {row["name"] for row in results.rows} == names | {"dense"}
    for row in results.rows:
        assert (row["frames"], row["complete"], row["kind"]) == (FRAMES, True, "closeness")
        assert row["cpu_s"] > 0
        assert row["fps"] == pytest.approx(row["gain"] * results.row("dense")["fps"], rel=1e-3)  # type: ignore[index]
        assert len(row["frame_quality"]) == len(row["frame_work"]) == FRAMES


def test_what_computes_everything_agrees_and_what_skips_does_not(results: Sweep) -> None:
    rows = {row["name"]: row for row in results.rows}
    assert rows["exact"]["quality"] == rows["dense"]["quality"] == 1.0
    assert rows["off"]["quality"] > 0.999
    assert rows["every-8"]["quality"] < rows["every-2"]["quality"] < 1
    assert rows["reuse-0.4"]["work"] < rows["exact"]["work"] <= 1
    assert rows["every-4"]["work"] == pytest.approx(1 / 7, abs=1e-3)
    assert rows["every-8"]["stale_p95_s"] > 0.4
    assert rows["reuse-0.1"]["layers"]
    assert "layers" not in rows["off"]


def test_repeatability_is_measured_and_no_floor_exceeds_it(results: Sweep) -> None:
    figures = results.repeatability
    assert 0.5 < figures["kept"] == figures["strict"] < 1  # of raw outputs
    assert (figures["frames"], figures["noise_level"] >= 0.5) == (FRAMES, True)
    assert sweeping.attainable(results, 0.999999) == figures["kept"]
    assert sweeping.attainable(results, 0.5) == 0.5
    assert sweeping.attainable(results, 1.0) == 1.0  # exactness can be held


def test_gains_are_over_the_fastest_that_computes_everything(results: Sweep) -> None:
    fastest = sweeping.fastest_dense(results)
    assert fastest is not None
    dense = [row for row in results.rows if row["family"] == "dense"]
    assert fastest["gain"] == max(row["gain"] for row in dense)
    for row in results.rows:
        assert row["gain_fastest"] == pytest.approx(row["gain"] / fastest["gain"], rel=1e-3)
    off = results.row("off")
    assert off is not None
    assert off["gain_ort"] == 1.0


def test_a_sweep_that_was_ended_is_resumed(model: Model, results: Sweep, tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    sweep = rounds.begin(CLIP, model, 1, FRAMES)
    rows = chosen(variants(1), ["exact", "frame", "every", "off", "reuse"])
    asked = iter([False] * (FRAMES + 3) + [True] * 99)
    done = rounds.measure(
        sweep, CLIP, model, rows, stop=lambda: next(asked), on_round=lambda s: s.write(file)
    )
    assert not done
    assert {row["complete"] for row in sweep.rows} == {True, False}
    again = rounds.begin(CLIP, model, 1, FRAMES)
    again.resume(file)
    complete = {row["name"]: row["ms"] for row in again.rows if row["complete"]}
    assert rounds.measure(again, CLIP, model, rows)
    assert all(row["complete"] for row in again.rows)
    assert {name: again.row(name)["ms"] for name in complete if name != "dense"} == {  # type: ignore[index]
        name: ms for name, ms in complete.items() if name != "dense"
    }
    other = rounds.begin(CLIP, model, 2, FRAMES)
    with pytest.raises(UsageError, match="holds a sweep of something else"):
        other.resume(file)
    file.write_text("{}")
    with pytest.raises(UsageError, match="expected the figures of an earlier sweep"):
        other.resume(file)


def rows_of(*rows: tuple[str, float, float, float, str | None]) -> Sweep:
    head = {
        "rate": 10.0, "cpus": 2, "spec": "a b.mp4", "options": ["--model", "m"], "threads": 1,
    }  # fmt: skip
    names = ("name", "gain", "quality", "cpu_s", "options")
    return Sweep(head, [dict(zip(names, row, strict=True)) for row in rows])


TABLE = rows_of(
    ("dense", 1.0, 1.0, 0.12, None),
    ("exact", 1.1, 1.0, 0.11, "--reuse exact"),
    ("near", 3.0, 0.985, 0.04, "--reuse layer --tolerance 0.1"),
    ("worse", 2.0, 0.98, 0.05, "--reuse layer --tolerance 0.3"),
    ("far", 5.0, 0.7, 0.02, "--reuse layer --tolerance 0.4"),
    ("tracked", 4.0, 0.99, 0.03, None),
)


def test_the_front_has_no_row_that_another_one_dominates() -> None:
    assert [row["name"] for row in sweeping.front(TABLE.rows)] == ["far", "tracked", "exact"]


@pytest.mark.parametrize(
    ("least", "name"), [(0.98, "near"), (0.99, "exact"), (0.5, "far"), (1.1, None)]
)
def test_the_fastest_that_is_good_enough_and_can_be_run(least: float, name: str | None) -> None:
    row = sweeping.fastest(TABLE, least)
    assert (row["name"] if row else None) == name


@pytest.mark.parametrize(
    ("share", "name"), [(0.6, "exact"), (0.3, "near"), (0.1, "far"), (0.05, None)]
)
def test_the_best_that_leaves_the_cpus_free(share: float, name: str | None) -> None:
    """At 10 frames a second on 2 CPUs, 0.04 s a frame are 20 % of them."""
    row = sweeping.best_within(TABLE, share)
    assert (row["name"] if row else None) == name


def test_the_command_line_can_be_pasted() -> None:
    row = sweeping.fastest(TABLE, 0.98)
    assert row is not None
    assert sweeping.command(TABLE, row) == (
        "stillframe run 'a b.mp4' --model m --reuse layer --tolerance 0.1 --threads 1"
    )


def test_options_write_out_the_settings() -> None:
    gate = GateSettings(pixel=3.5, margin=2)
    settings = Settings(reuse="layer", tolerance=0.07, gating=gate)
    assert options_of(settings) == "--reuse layer --tolerance 0.07 --gate pixel=3.5 --gate margin=2"
    assert options_of(Settings(reuse="off", every=4)) == "--reuse off --every 4"
    assert options_of(Settings(reuse="exact")) == "--reuse exact"


def test_options_of_every_variant_are_those_of_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is taken by the command line and gives the variant's settings; the last one is run."""
    requests: list[RunRequest] = []
    rows = [row for row in variants(1) if row.options is not None]
    common = ["run", CLIP, "--model", str(path), "--task", "tensors", "-q", "--max-frames", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(execute_run, "execute", requests.append)
        for row in rows:
            assert status([*common, *str(row.options).split()]) == 0
    assert [options_of(request.settings()) for request in requests] == [row.options for row in rows]
    out = tmp_path / "summary.json"
    assert status([*common, *str(rows[-1].options).split(), "--summary-json", str(out)]) == 0
    assert out.exists()


def test_the_page_is_whole_and_loads_nothing(results: Sweep, model: Model, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    page = tmp_path / "r.html"
    report_page.write_html(results, CLIP, model, variants(1), page)
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 3
    assert text.count("data:image/jpeg") >= 4
    assert "prefers-color-scheme: dark" in text
    assert "#010203" not in text
    assert not [w for w in ("http-equiv", "<script", "<link", 'src="http') if w in text]
    for row in results.rows:
        assert row["title"] in text
    report_page.write_png(results, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_and_the_charts_show_names_and_obey_none(results: Sweep, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    name = "$\\bad{$<script>\x1b[31m\u202e"
    rows = [row | ({"layers": {name: 0.5}} if "layers" in row else {}) for row in results.rows]
    hostile = Sweep(results.head | {"model": name, "clip": name}, rows)
    text = report_page.render(hostile, [])
    assert "<script>" not in text
    assert not set("\x1b\u202e") & set(text)
    assert text.count(r"$\bad{$&lt;script&gt;\x1b[31m\u202e") >= 4
    report_page.write_png(hostile, tmp_path / "r.png")


def test_moments_are_never_the_first_frame() -> None:
    row = {"frame_quality": [1.0, 0.9, 0.2, 1.0, 1.0], "frame_work": [1.0, 0.1, 0.2, 0.3, 0.1]}
    assert moments(row) == {2: "least agreement", 3: "most work"}
    assert moments({"frame_quality": [1.0], "frame_work": [1.0]}) == {}


def test_truth_has_the_labels_that_can_be_drawn() -> None:
    labels = ("person", "car", "giraffe")
    truth = true_boxes(CLIP, labels, 3)
    assert truth is not None
    assert len(truth) == 3
    assert {name for each in truth for name in each.names} <= {"person", "car"}
    assert sum(map(len, truth)) > 0
    assert true_boxes(CLIP, ("giraffe",), 3) is None
    assert true_boxes("some.mp4", labels, 3) is None
    some = Detections(
        np.array([(0, 0, 9, 9)] * 2, np.float32), np.ones(2, np.float32), np.array([0, 2]), labels
    )
    assert of_known(some).names == ["person"]


def test_too_short_a_clip_is_refused(model: Model) -> None:
    with pytest.raises(SourceError, match="expected a clip of at least 4 frames, got 2"):
        rounds.begin("sample:screen?size=128x96&seconds=0.2&fps=10", model, 1, None)


# --- the command ---------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    caught = capsys.readouterr()
    return caught.out, " ".join(caught.err.split())


def base(path: Path) -> list[str]:
    only = ["--only", "exact", "--only", "every-2"]
    return ["sweep", CLIP, "--model", str(path), "--task", "tensors", "--max-frames", "5", *only]


def test_the_command_writes_what_it_is_asked_for(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"s.{name}" for name in ("json", "csv", "png", "report")}
    arguments = [each for name, file in files.items() for each in (f"--{name}", str(file))]
    assert status([*base(path), *arguments, "--min-quality", "0.98", "--max-cpu", "100%"]) == 0
    out, _ = printed(capsys)
    lines = out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"stillframe run '{CLIP}' --model {path}") for line in lines)
    assert {row["name"] for row in json.loads(files["json"].read_text())["rows"]} == {
        "dense", "exact", "every-2",
    }  # fmt: skip
    assert len(files["csv"].read_text().splitlines()) == 4
    assert status([*base(path), *arguments]) == 5
    assert "overwrite it with --force" in printed(capsys)[1]
    assert status([*base(path), *arguments, "--resume"]) == 0


REFUSED: list[tuple[list[str], int, str]] = [
    (["--report", "/nowhere/r.html"], 5, "there is no folder /nowhere"),
    (["--resume"], 2, "expected --json FILE"),
    (["--max-cpu", "lots"], 2, "expected a percentage such as 50%, got 'lots'"),
    (["--only", "nobody"], 2, "expected one of"),
    (["--profile", "/nowhere.json"], 2, "cannot read it"),
    (["--min-quality", "1.5"], 6, "no setting reaches quality 1.5; the best is 1"),
]


@pytest.mark.parametrize(("more", "code", "words"), REFUSED)
def test_what_is_refused(
    path: Path, more: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status([*base(path), *more]) == code
    assert words in printed(capsys)[1]


def test_an_unwritable_report_is_found_before_anything_is_measured(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(rounds, "measure", never)
    (tmp_path / "r.html").mkdir()
    assert status([*base(path), "--report", str(tmp_path / "r.html")]) == 5
    assert "a folder; name a file in it" in printed(capsys)[1]


def test_ctrl_c_keeps_what_was_measured(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    play = rounds.VariantRecord.play

    def interrupted(self: Any, frame: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == 7:
            signal.raise_signal(signal.SIGINT)
        return play(self, frame)

    monkeypatch.setattr(rounds.VariantRecord, "play", interrupted)
    file = tmp_path / "s.json"
    assert status([*base(path), "--json", str(file)]) == 130
    rows = json.loads(file.read_text())["rows"]
    assert {row["frames"] for row in rows} == {3}
    assert not any(row["complete"] for row in rows)
