"""Reuse against skipping at equal compute."""

import json
from pathlib import Path
from typing import Any

import pytest

from stillframe.pipeline.studies.sweep.equal_compute import (
    best_of,
    equal_compute,
    sentence,
    verdict,
)
from stillframe.pipeline.studies.sweep.report_page import render
from stillframe.pipeline.studies.sweep.sweep import Sweep

HEAD = {
    "key": [], "clip": "c", "spec": "c", "options": [], "model": "m", "task": "detection",
    "size": [1, 1], "source_size": [1, 1], "rate": 10.0, "threads": 1, "cpus": 2, "machine": "",
    "date": "", "versions": {"stillframe": "", "onnxruntime": ""},
}  # fmt: skip


def row(name: str, family: str, cpu_s: float, work: float, quality: float, **more: Any) -> Any:
    return {
        "name": name, "title": f"the {name}", "family": family, "cpu_s": cpu_s, "work": work,
        "quality": quality, "kind": "f1", "gain": 1 / cpu_s, "fps": 1 / cpu_s, "options": None,
        "complete": True, "frames": 4, "frame_quality": [quality] * 4, "frame_work": [work] * 4,
        **more,
    }  # fmt: skip


ROWS = [
    row("dense", "dense", 1.0, 1.0, 1.0, ap50_by_box=1.0),
    row("wide", "reuse", 0.1, 0.05, 0.60, ap50_by_box=0.5),
    row("near", "reuse", 0.3, 0.25, 0.90, ap50_by_box=0.9),
    row("beaten", "gate", 0.4, 0.35, 0.80, ap50_by_box=0.95),
    row("best", "exact", 0.5, 0.45, 1.00, ap50_by_box=1.0),
    row("off", "dense", 0.01, 0.01, 1.0, ap50_by_box=1.0),
    row("every-2", "every", 0.6, 0.50, 0.95, ap50_by_box=0.9),
    row("every-4", "every", 0.2, 0.25, 0.85, ap50_by_box=0.2),
    row("tracked-8", "tracked", 0.05, 0.15, 0.70),
]


def test_reuse_is_read_between_its_own_settings_at_the_cost_of_skipping() -> None:
    second, fourth, tracked = equal_compute(ROWS)
    assert (second["name"], second["quality"]) == ("every-2", 0.95)
    # its dearest setting costs less: that is what it has
    assert second["reuse_quality_at_cpu_s"] == second["reuse_quality_at_work"] == 1.0
    # halfway from `wide` to `near`; and just there
    assert fourth["reuse_quality_at_cpu_s"] == pytest.approx(0.75)
    assert fourth["reuse_quality_at_work"] == pytest.approx(0.90)
    assert fourth["reuse_ap50_by_box_at_cpu_s"] == pytest.approx(0.7)
    # nothing is so cheap; and what has no such figure is not told
    assert tracked["reuse_quality_at_cpu_s"] is None
    assert tracked["reuse_quality_at_work"] == pytest.approx(0.75)
    assert "ap50_by_box" not in tracked


def test_the_settings_that_no_cheaper_one_matches() -> None:
    reuse = ROWS[1:5]
    assert [each["name"] for each in best_of(reuse, "cpu_s", "quality")] == ["wide", "near", "best"]
    by_boxes = best_of(reuse, "work", "ap50_by_box")
    assert [each["name"] for each in by_boxes] == ["wide", "near", "beaten", "best"]


def test_the_verdict_counts_what_can_be_compared() -> None:
    equal = equal_compute(ROWS)
    assert (verdict(equal, "cpu_s"), verdict(equal, "work")) == ((1, 2), (3, 3))
    assert sentence(ROWS) == (
        "Of variants that skip frames: at equal processor time reuse agrees at least as well as 1 "
        "of 2, at equal multiply-adds reuse agrees at least as well as 3 of 3."
    )


@pytest.mark.parametrize("missing", ["every", "reuse"])
def test_without_one_side_there_is_nothing_to_compare(missing: str) -> None:
    present = {"every": ("dense", "reuse"), "reuse": ("dense", "every")}[missing]
    rows = [each for each in ROWS if each["family"] in present]
    assert (equal_compute(rows), sentence(rows)) == ([], "")


def test_it_stands_in_the_figures_and_on_the_page(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    sweep = Sweep(HEAD, ROWS)
    sweep.write(tmp_path / "s.json")
    figures = json.loads((tmp_path / "s.json").read_text())
    assert figures["equal_compute"] == equal_compute(ROWS)
    page = render(sweep, [])
    table = page[page.index("Reuse against skipping") :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 2 + 3
    assert table.count('class="best"') == 8
    assert '<td class="best">0.9000</td>' in table
    assert "–" in table
    assert "Reuse against skipping" not in render(Sweep(HEAD, ROWS[:5]), [])
