"""The suite: what is measured of a pair, what all pairs come to, and the page of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillframe.models import zoo
from stillframe.models.results import Detections
from stillframe.pipeline.cli import status
from stillframe.pipeline.quality.ground_truth import true_boxes
from stillframe.pipeline.studies.suite import measure, pairs, report_page
from stillframe.pipeline.studies.suite.accuracy import accuracy
from stillframe.pipeline.studies.suite.pairs import Pair
from stillframe.pipeline.studies.suite.summary import best_skipping, choice_text, summary_text
from tests.reuse.test_session import net

CLIP = "sample:plaza?size=128x96&seconds=1&fps=12"


def skipping(between: str, every: int, kept: float, cpu_ms: float) -> dict[str, Any]:
    return {"between": between, "every": every, "kept": kept, "place": None, "cpu_ms": cpu_ms}


def row(pair: str, gain: float, **more: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "pair": pair, "shows": "people", "role": "developed", "frames": 100, "kind": "f1",
        "dense_cpu_ms": 80.0, "dense_wall_ms": 75.0, "auto_cpu_ms": 80 / gain,
        "auto_wall_ms": 21.5, "times_as_fast": gain, "times_as_fast_later": 2 * gain,
        "kept": 0.99, "strict": 0.9, "place": 0.97, "telling": True, "repeatability": 1.0,
        "truth_boxes": None, "truth_dense_f1": None, "truth_auto_f1": None,
        "windows": 3, "windows_held": 2,
        "auto_chosen": {"tolerance": 0.1, "every": 4},
        "skipping": [
            skipping("keep", 2, 0.9, 45.0), skipping("keep", 4, 0.7, 25.0),
            skipping("follow", 2, 0.999, 46.0), skipping("follow", 4, 0.95, 26.0),
        ],
    }  # fmt: skip
    return figures | more


def record(*rows: dict[str, Any]) -> dict[str, Any]:
    machine = {"system": "Linux", "python": "3.11"}
    return {"machine": machine, "quality": 0.98, "threads": 1, "rows": list(rows)}


def test_skipping_is_compared_at_equal_cost() -> None:
    affordable = row("a", 2.0)  # 40 ms: every 2nd frame costs more
    assert best_skipping(affordable, "keep") == skipping("keep", 4, 0.7, 25.0)
    assert best_skipping(affordable, "follow") == skipping("follow", 4, 0.95, 26.0)
    assert best_skipping(row("a", 4.0), "follow") is None
    assert report_page.most_kept(affordable) == {"kept"}
    assert report_page.most_kept(row("a", 1.0)) == {report_page.FOLLOW}
    assert report_page.most_kept(row("a", 1.0, telling=False)) == set()


def test_accuracy_is_of_both_against_the_truth_of_a_drawn_clip() -> None:
    labels = ("person", "giraffe")
    pair, frames = Pair("net", CLIP, ""), 6
    truth = true_boxes(CLIP, labels, frames)
    assert truth
    boxes = sum(map(len, truth))
    nothing = [each.rows(np.zeros(len(each), bool)) for each in truth]
    stale = [truth[0], *nothing[1:]]
    matched = len(truth[0])
    assert accuracy(pair, labels, truth, stale) == {
        "truth_boxes": boxes,
        "truth_dense_f1": 1.0,
        "truth_auto_f1": pytest.approx(2 * matched / (boxes + matched)),
    }
    assert 0 < matched < boxes


@pytest.mark.parametrize(
    ("pair", "labels"),
    [
        (Pair("net", "some.mp4", ""), ("person",)),
        (Pair("net", CLIP, "", crop="64x64+0+0"), ("person",)),
        (Pair("net", CLIP, ""), ("giraffe",)),
    ],
)
def test_there_is_no_accuracy_where_there_is_no_truth(pair: Pair, labels: tuple[str, ...]) -> None:
    results = [Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32),
                          np.empty(0, np.int64), labels)]  # fmt: skip
    assert set(accuracy(pair, labels, results, results).values()) == {None}


def test_the_summary_has_the_geometric_mean_and_the_worst() -> None:
    text = summary_text([row("a", 4.0), row("b", 1.0)], 0.98)
    assert text.startswith("geometric mean x2.00, worst x1.00; kept at least 0.98")
    assert "in 4 of 6 windows" in text


def test_what_a_run_chose_in_a_few_words() -> None:
    assert choice_text({"tolerance": None, "every": 1}) == "whole frames"
    assert choice_text({"tolerance": 0.1, "every": 4}) == "tolerance 0.1, 1 of 4 that change"


def test_the_page_is_whole_and_loads_nothing() -> None:
    pytest.importorskip("jinja2")
    truth = {"truth_boxes": 9, "truth_dense_f1": 0.8125, "truth_auto_f1": 0.75}
    rows = [
        row("first", 2.0, **truth),
        row("second", 0.9, role="held out", strict=39.04, kind="psnr"),
    ]
    text = report_page.render(record(*rows, row("third", 1.0, telling=False, windows=0)))
    assert text.count("<svg") == 1
    assert "prefers-color-scheme: dark" in text
    assert "#010203" not in text
    assert not [w for w in ("http-equiv", "<script", "<link", 'src="http', "@import") if w in text]
    assert text.count("second *") == 2, "in the chart and in the table"
    for cell in (
        "2.00",
        "0.90",
        "39.0 dB",
        "0.7000 (1 of 4)",
        "2 of 3",
        "0.812, 0.750",
        "nothing to compare",
    ):
        assert f">{cell}</td>" in text
    assert text.count('class="best"') == 2, "what keeps most, where there is anything to keep"


def test_the_page_shows_names_and_obeys_none() -> None:
    pytest.importorskip("jinja2")
    text = report_page.render(record(row("$\\bad{$<script>\x1b[31m\u202e", 2.0)))
    assert "<script>" not in text
    assert not set("\x1b\u202e") & set(text)
    assert text.count(r"$\bad{$&lt;script&gt;\x1b[31m\u202e") == 2


def test_the_command_writes_what_was_measured_as_json_and_as_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    path = tmp_path / "net.onnx"
    path.write_bytes(net((1, 3, 96, 128)))
    monkeypatch.setattr(pairs, "PAIRS", (Pair("net", CLIP, "a small net"),))
    model = zoo.load(str(path), task="tensors")
    monkeypatch.setattr(zoo, "load", lambda name: model)
    figures, page = tmp_path / "figures.json", tmp_path / "page.html"
    command = ["bench", "suite", "--max-frames", "8"]
    command += ["--json", str(figures), "--report", str(page)]
    assert status(command) == 0
    written = json.loads(figures.read_text("utf-8"))
    assert (written["quality"], written["threads"]) == (0.98, 1)
    assert written["rows"][0]["frames"] == 8
    assert "net on plaza?size=128x96" in page.read_text("utf-8")
    page.write_text("mine", "utf-8")
    figures.unlink()
    monkeypatch.setattr(measure, "measure", lambda *_: pytest.fail("measured before it was asked"))
    assert status(command) != 0
    assert page.read_text("utf-8") == "mine"
