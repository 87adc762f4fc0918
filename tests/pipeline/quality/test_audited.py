"""What audits found, in words: what is proven, what is not, and why."""

import json

import pytest

from stillframe.pipeline.quality.audited import AuditReport, check_quality, rounded_down

REPORT = AuditReport(
    0.98, 0.98, 415, 412, 3, 0.99449, 0.98199, certified=True, kind="f1", others=9000, share=0.058
)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (
            REPORT,
            "kept 0.994 (>= 0.981 at 95 %), 412 audits, 6 % of the work; "
            "nothing to compare in 3 more",
        ),
        (
            AuditReport(0.98, 0.98, 9, 9, 0, 1.0, 0.4, kind="f1", others=240, share=0.1, alarms=2),
            "kept 1.000 (>= 0.400 at 95 %), 9 audits, 10 % of the work; 0.98 is not proven; "
            "it fell below the floor 2 times during the run",
        ),
        (
            AuditReport(0.98, 0.93, 9, 9, 0, 0.95, 0.4, kind="closeness", others=240, share=0.1),
            "kept 0.950 of the raw outputs (>= 0.400 at 95 %), 9 audits, 10 % of the work; the "
            "network repeats itself to 0.930 only, when the camera's noise changes: no floor above "
            "that can be held, 0.98 was asked for",
        ),
        (
            AuditReport(0.98, 0.98, 40, 0, 40, others=800),
            "nothing to compare in 40 audits: no certificate",
        ),
        (AuditReport(0.98, 0.98, others=3), "no frame was audited: no certificate"),
        (
            AuditReport(0.98, 0.98, kept=1.0, lower=1.0, certified=True, whole=10),
            "kept 1: each of 10 frames was computed whole",
        ),
        (
            AuditReport(0.98, 0.98, lower=0.99, certified=True, whole=990, others=10),
            "kept (>= 0.990 at 95 %): 990 frames were computed whole, no other was audited",
        ),
        (
            AuditReport(0.98, 0.98, 5, 0, undefined=5, others=100, failed=2, why="no memory"),
            "the network's outputs are not numbers in 5 of 5 audits: no certificate; "
            "2 audits failed: no memory",
        ),
    ],
)
def test_in_words(report: AuditReport, words: str) -> None:
    assert str(report) == words
    assert json.dumps(report.to_dict(), allow_nan=False)


def test_no_bound_is_rounded_up() -> None:
    assert rounded_down(0.97999) == 0.9799
    assert str(AuditReport(0.98, 0.98, 9, 9, 0, 0.99999, 0.97999)).startswith(
        "kept 0.999 (>= 0.979"
    )


@pytest.mark.parametrize("quality", [0.001, 0.98, 1.0])
def test_a_share_that_can_be_kept(quality: float) -> None:
    check_quality(quality)


def test_whole_frames_with_nothing_in_them_prove_nothing() -> None:
    """Such as those of a stream without any object, or outputs that are not numbers."""
    assert str(AuditReport(0.98, 0.98, whole=9)) == (
        "each of 9 frames was computed whole, and there was nothing to compare in them: "
        "no certificate"
    )
    certain = AuditReport(0.98, 0.98, whole=9, kept=1.0, lower=1.0, certified=True)
    assert str(certain) == "kept 1: each of 9 frames was computed whole"


def test_live_figures_are_never_rounded_up() -> None:
    report = AuditReport(0.98, 0.98, 12, 9, 3, 0.98796, 0.97199, kind="f1", others=240)
    expected = {"kept": "0.987", "bound": ">= 0.971 at 95 %", "audits": "9"}
    assert report.live_figures() == expected
    nothing = {"kept": "not known yet", "bound": "none", "audits": "0"}
    assert AuditReport(0.98, 0.98).live_figures() == nothing
