"""Clips that cannot tell settings apart: the sweep says so instead of recommending one."""

from typing import Any

import pytest
from rich.console import Console

from stillframe.errors import QualityError
from stillframe.pipeline.cli.sweep import answer
from stillframe.pipeline.studies.sweep import doubts, report_page
from stillframe.pipeline.studies.sweep import sweep as sweeping
from stillframe.pipeline.studies.sweep.sweep import Sweep


def row(name: str, gain: float, kept: float, **more: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "name": name, "title": name, "family": "reuse", "gain": gain, "ms": 10 / gain,
        "quality": kept, "strict": kept, "kind": "f1", "frames": 100, "telling": 100, "boxes": 200,
        "cpu_s": 0.1 / gain, "options": f"--{name}", "every": 1,
    }  # fmt: skip
    return figures | more


def sweep(*rows: dict[str, Any], kept: float | None = None, **dense: Any) -> Sweep:
    head = {
        "task": "detection", "rate": 10.0, "cpus": 2, "spec": "a.mp4", "options": [], "threads": 1,
    }  # fmt: skip
    own: dict[str, Any] = {
        "family": "dense",
        "options": None,
        "title": "everything, own engine",
    } | dense
    off = {"family": "dense", "title": "everything, ONNX Runtime"}
    every = [row("dense", 1, 1) | own, row("off", 1.25, 1, **off), *rows]
    repeated = {} if kept is None else {"kept": kept, "strict": 0.8, "noise_level": 1.0}
    measured = Sweep(head, every, repeated)
    measured.level()
    return measured


LOSSY = (row("near", 4, 0.99), row("far", 8, 0.9), row("skips", 5, 0.97, family="every"))


def test_a_clip_in_which_settings_differ_raises_no_doubt() -> None:
    assert doubts.doubts(sweep(*LOSSY)) == []
    assert doubts.hopeless(sweep(*LOSSY)) == ""


HOPELESS: dict[str, tuple[Sweep, str]] = {
    "nothing in it": (sweep(*LOSSY, telling=0, boxes=0), "does not find objects in its 100 frames"),
    "everything agrees": (
        sweep(*(each | {"quality": 1.0} for each in LOSSY)),
        "all 3 variants keep 1.0000 or more, whatever they leave out",
    ),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_nothing_is_recommended_from_such_a_clip(name: str) -> None:
    measured, words = HOPELESS[name]
    assert words in doubts.hopeless(measured)
    assert report_page.pick(measured) is None
    for least, share in ((0.98, None), (None, 0.5)):
        with pytest.raises(QualityError, match="no setting can be recommended from this clip"):
            answer(Console(quiet=True), measured, least, share)
    answer(Console(quiet=True), measured, 0.0, None)  # whatever it keeps


DOUBTFUL: dict[str, tuple[Sweep, str]] = {
    "few objects": (sweep(*LOSSY, boxes=12), "finds 12 objects in all frames, 30 are needed"),
    "few frames": (sweep(*LOSSY, telling=8), "8 of its frames have anything to compare, 30 are"),
    "long skips": (
        sweep(*LOSSY, row("eighth", 9, 1.0, every=8, frames=31)),
        "too few for variants that skip so many (eighth)",
    ),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_is_doubtful_is_named(name: str) -> None:
    measured, words = DOUBTFUL[name]
    (doubt,) = doubts.doubts(measured)
    assert words in doubt.text
    assert not doubt.hopeless


def test_what_skips_more_than_the_clip_can_judge_is_not_chosen() -> None:
    eighth = row("eighth", 9, 1.0, every=8, frames=31)
    for figures, name in ((eighth, "near"), (eighth | {"frames": 32}, "eighth")):
        best = sweeping.fastest(sweep(*LOSSY, figures), 0.98)
        assert best is not None
        assert best["name"] == name


def test_the_floor_is_never_above_repeatability(capsys: pytest.CaptureFixture[str]) -> None:
    measured = sweep(*LOSSY, kept=0.9)
    assert sweeping.floor(measured) == 0.9
    answer(Console(stderr=True, width=200), measured, 0.98, None)
    out, err = capsys.readouterr()
    assert "keeps 0.9 of its own results on this clip, so 0.98 cannot be held" in err
    assert out.strip() == "stillframe run a.mp4 --far --threads 1"


def test_speed_is_against_the_fastest_that_computes_everything() -> None:
    measured = sweep(*LOSSY)
    near = measured.row("near")
    assert near is not None
    assert (near["gain_fastest"], near["gain_ort"]) == (3.2, 3.2)
    text = doubts.gains_text(near, sweeping.fastest_dense(measured))
    assert text == "3.20 times ONNX Runtime, the fastest here that computes everything"
    slow = sweep(*LOSSY, gain=2.0)
    near = slow.row("near")
    assert near is not None
    text = doubts.gains_text(near, sweeping.fastest_dense(slow))
    assert text.startswith("2.00 times own engine, the fastest here")
    assert text.endswith(", 3.20 times ONNX Runtime")


def test_accuracy_against_the_truth_is_side_by_side() -> None:
    measured = sweep(*(each | {"truth_f1": 0.81} for each in LOSSY), truth_f1=0.83)
    assert doubts.truth_text(measured, measured.row("near")) == (
        "Against the ground truth of this drawn clip: everything dense F1 0.830, near F1 0.810."
    )
    assert doubts.truth_text(sweep(*LOSSY), None) == ""
