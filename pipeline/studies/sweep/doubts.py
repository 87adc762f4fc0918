"""Whether a clip can tell settings apart: what has to be known before one is recommended."""

from stillframe.pipeline.quality.doubts import Doubt, too_little
from stillframe.pipeline.studies.sweep.sweep import LEAST_TURNS, Row, Sweep, too_short_for
from stillframe.pipeline.studies.sweep.variants import BASELINE

ALL_AGREE = 0.9995
"""If every variant that gives quality away keeps this, the clip asks nothing of them."""
LEAST_VARIANTS = 3
"""So many that give quality away have to be compared before that is said."""
EXACT = ("dense", "exact")
"""Families that give no quality away."""


def doubts(sweep: Sweep) -> list[Doubt]:
    """All reasons; empty where the clip can."""
    dense = sweep.row(BASELINE)
    if dense is None:
        return []
    frames, telling, objects = dense["frames"], dense.get("telling"), dense.get("boxes")
    reasons = too_little(frames, telling, objects)
    lossy = [row for row in sweep.rows if row["family"] not in EXACT]
    worst = min((row["quality"] for row in lossy), default=0.0)
    if telling and len(lossy) >= LEAST_VARIANTS and worst >= ALL_AGREE:
        text = f"all {len(lossy)} variants keep {worst:.4f} or more, whatever they leave out"
        reasons.append(Doubt(text, True))
    short = [row["title"] for row in lossy if too_short_for(row)]
    if short:
        reasons.append(Doubt(_too_short(short, frames), False))
    return reasons


def _too_short(titles: list[str], frames: int) -> str:
    names = titles[0] if len(titles) == 1 else f"{titles[0]} and {len(titles) - 1} more"
    return (
        f"{frames} frames are too few for variants that skip so many ({names}): the network should "
        f"run at least {LEAST_TURNS} times"
    )


def hopeless(sweep: Sweep) -> str:
    """Why nothing can be recommended; empty where something can."""
    return "; ".join(each.text for each in doubts(sweep) if each.hopeless)


def gains_text(row: Row, fastest: Row | None) -> str:
    """How many times as fast as the fastest dense engine, and as ONNX Runtime if it is another."""
    gain = row.get("gain_fastest")
    if gain is None or fastest is None:
        return f"{row['gain'] or 0:.2f} times everything dense"
    engine = fastest["title"].removeprefix("everything, ")
    text = f"{gain:.2f} times {engine}, the fastest here that computes everything"
    if row.get("gain_ort") is not None and fastest["name"] != "off":
        text += f", {row['gain_ort']:.2f} times ONNX Runtime"
    return text


def truth_text(sweep: Sweep, row: Row | None) -> str:
    """Accuracy against the ground truth of dense and of a variant; empty where there is none."""
    dense = sweep.row(BASELINE)
    if dense is None or dense.get("truth_f1") is None:
        return ""
    sides = [("everything dense", dense)] + ([] if row is None else [(row["title"], row)])
    figures = ", ".join(f"{name} F1 {each['truth_f1']:.3f}" for name, each in sides)
    return f"Against the ground truth of this drawn clip: {figures}."
