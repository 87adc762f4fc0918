"""The planner's choice beside the best of all candidates, which are all measured."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.placement.cost_model import Aim

WINDOWS = (1, 2, 8)  # frames under way
DUELS = 2
SETTINGS: tuple[tuple[Aim, int], ...] = tuple(
    (aim, others) for others in range(5) for aim in ("throughput", "latency")
)
MEASURES: dict[Aim, str] = {"throughput": "frame_ms", "latency": "latency_p50_ms"}

Ask = Callable[..., dict[str, Any]]


def planner(
    ask: Ask, on_event: Callable[[str], None], settings: int, ways: Sequence[BackendChoice]
) -> list[dict[str, Any]]:
    """The first so many of SETTINGS: an aim, and so many competing processes.

    ask: measures a condition, by its name and fields. ways: in which the network can run.
    """
    return [_setting(ask, on_event, aim, others, ways) for aim, others in SETTINGS[:settings]]


def _setting(
    ask: Ask, on_event: Callable[[str], None], aim: Aim, others: int, ways: Sequence[BackendChoice]
) -> dict[str, Any]:
    setting, measure = f"{aim}, {others} others", MEASURES[aim]

    def chosen(turn: int) -> dict[str, Any]:
        return ask(f"{setting}, the planner ({turn})", aim=aim, competitors=others)

    def fixed(way: BackendChoice, window: int, turn: int = 0) -> dict[str, Any]:
        name = f"{setting}, {way}, {window} under way" + f" ({turn})" * bool(turn)
        return ask(name, granularity=str(way), window=window, competitors=others)

    measured = {
        (way, window): float(fixed(way, window)[measure])
        for way in ways
        for window in WINDOWS
        if window > 1 or way.kind != "segments"
    }
    best = min(measured, key=lambda each: measured[each])
    # the least of many noisy figures is too small: both once more, in turn
    duels = [(chosen(turn), fixed(*best, turn)) for turn in range(1, DUELS + 1)]
    ours = statistics.median(row[measure] for row, _ in duels)
    theirs = statistics.median(row[measure] for _, row in duels)
    on_event(f"{setting}: what the planner chose takes {ours / theirs:.2f} of the best")
    return {
        "aim": aim,
        "others": others,
        "plans": [row["plan"] for row, _ in duels],
        "chosen": ours,
        "best": f"{best[0]}, {best[1]}",
        "best_measured": theirs,
        "ratio": ours / theirs,
        "measured": {f"{way}, {window}": value for (way, window), value in measured.items()},
    }
