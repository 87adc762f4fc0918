"""Reuse against skipping at equal compute: how well reuse agrees where both cost the same.

    rows = equal_compute(sweep)      # a row for each variant that skips frames

Reuse has many settings, each with a cost and a quality. Those that no cheaper one beats are joined
by straight lines, and read where a skipping variant's cost is. Where even the dearest of them costs
less, its quality stands; where the cheapest costs more there is nothing to compare, and None.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

REUSE = ("exact", "reuse", "gate", "profile", "frame", "both")
SKIPPING = ("every", "tracked")
COSTS = {"cpu_s": "processor time", "work": "multiply-adds"}
FIGURES = ("quality", "ap50_by_box")


def equal_compute(rows: Iterable[Row]) -> list[Row]:
    """For each skipping variant its costs, its figures, and what reuse reaches at the same cost.

    The latter as `reuse_FIGURE_at_COST`. Empty if no variant skips, or none reuses.
    """
    every = list(rows)
    reuse = [row for row in every if row["family"] in REUSE]
    skipping = [row for row in every if row["family"] in SKIPPING]
    figures = []
    for row in skipping if reuse else []:
        entry = {name: row[name] for name in ("name", "title", *COSTS)}
        for figure in FIGURES:
            if row.get(figure) is None:
                continue
            entry[figure] = row[figure]
            for cost in COSTS:
                at = _along(reuse, cost, figure, row[cost])
                entry[f"reuse_{figure}_at_{cost}"] = None if at is None else round(at, 5)
        figures.append(entry)
    return figures


def best_of(rows: Iterable[Row], cost: str, figure: str) -> list[Row]:
    """Those that no cheaper one reaches in the figure, the cheapest first."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row[cost], -row[figure])):
        if not best or row[figure] > best[-1][figure]:
            best.append(row)
    return best


def verdict(equal: Sequence[Row], cost: str) -> tuple[int, int]:
    """Of how many skipping variants reuse agrees at least as well at that cost,
    and with how many it could be compared."""
    pairs = [(row[f"reuse_quality_at_{cost}"], row["quality"]) for row in equal]
    known = [(ours, theirs) for ours, theirs in pairs if ours is not None]
    return sum(ours >= theirs for ours, theirs in known), len(known)


def sentence(rows: Iterable[Row]) -> str:
    """In words; empty where there is nothing to compare."""
    equal = equal_compute(rows)
    parts = []
    for cost, name in COSTS.items():
        better, known = verdict(equal, cost)
        if known:
            parts.append(f"at equal {name} reuse agrees at least as well as {better} of {known}")
    return f"Of variants that skip frames: {', '.join(parts)}." if parts else ""


def _along(rows: Iterable[Row], cost: str, figure: str, at: float) -> float | None:
    known = [row for row in rows if row.get(figure) is not None and row[cost] is not None]
    best = best_of(known, cost, figure)
    if not best or at < best[0][cost]:
        return None
    costs = [row[cost] for row in best]
    return float(np.interp(at, costs, [row[figure] for row in best]))
