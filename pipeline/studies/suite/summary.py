"""What the rows of a suite come to: gains over all pairs, and frame skipping at equal cost."""

import math
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
HELD_OUT = "held out"


def mean_gain(rows: Sequence[Row], name: str = "times_as_fast") -> float:
    """Geometric mean of a gain over the rows, of which there is at least one."""
    return math.exp(sum(math.log(row[name]) for row in rows) / len(rows))


def summary_text(rows: Sequence[Row], quality: float) -> str:
    """Mean and worst gain, and in how many windows enough was kept, in one line for people."""
    windows_held = sum(row["windows_held"] for row in rows)
    windows = sum(row["windows"] for row in rows)
    worst = min(row["times_as_fast"] for row in rows)
    return (
        f"geometric mean x{mean_gain(rows):.2f}, worst x{worst:.2f}; "
        f"kept at least {quality:g}, or what the network repeats, in {windows_held} of {windows} "
        "windows of ten seconds"
    )


def best_skipping(row: Row, between: str) -> Row | None:
    """The frame skipping that keeps most and costs no more processor time than the run.

    between: "keep" or "follow", what stands in the frames that are skipped. None: all cost more.
    """
    affordable = [
        each
        for each in row["skipping"]
        if each["between"] == between and each["cpu_ms"] <= row["auto_cpu_ms"]
    ]
    return max(affordable, key=lambda each: each["kept"], default=None)


def truth_text(row: Row) -> str:
    """F1 against the ground truth of the dense network, then of the run; empty: no truth."""
    if row["truth_boxes"] is None:
        return ""
    return f"{row['truth_dense_f1']:.3f}, {row['truth_auto_f1']:.3f}"


def choice_text(chosen: dict[str, Any]) -> str:
    """What a run chose for itself: the tolerance, or whole frames, and which frames it computes."""
    tolerance, every = chosen["tolerance"], chosen["every"]
    how = "whole frames" if tolerance is None else f"tolerance {tolerance:g}"
    if every > 1:
        how += f", 1 of {every} that change"
    return how
