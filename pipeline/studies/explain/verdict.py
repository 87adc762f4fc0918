"""Whether reuse pays for a network on a clip, in plain words, and what stands in its way.

One function a judgement; each returns None where it does not apply.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stillframe.pipeline.studies.explain.explanation import Explanation, Row
from stillframe.reuse.introspection import GLOBAL, ISLAND

PAYS = 1.1  # times faster, below which the gain is not worth having
MOVING = 0.5  # share of the picture that is new
SPREAD = 0.5  # share of the multiply-adds done though little of the picture is new
REDONE = 0.25  # by how much more layers after a global operator are active than those before
AFTER = 0.2  # share of multiply-adds after global operators that matters
ISLANDS = 0.3  # share of the dense time
OVERHEAD = 0.3  # of the dense time
TINY_MS = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One judgement."""

    kind: str
    """Its name."""
    words: str
    figures: dict[str, float] = field(default_factory=dict)
    """What the words rest on, by name."""


def judge(explained: Explanation) -> tuple[Verdict, ...]:
    """The headline first, then every obstacle."""
    return tuple(verdict for rule in RULES if (verdict := rule(explained)) is not None)


def headline(explained: Explanation) -> Verdict | None:
    total = explained.totals
    fastest = total.fastest_ms
    dense = f"{fastest:.1f} ms to compute everything"
    figures = {"dense_ms": total.dense_ms}
    if total.ort_ms is not None:
        figures["ort_ms"] = total.ort_ms
        dense += f" (ONNX Runtime {total.ort_ms:.1f} ms, this engine {total.dense_ms:.1f} ms)"
    if explained.all_island:
        return Verdict(
            "does not pay",
            "Reuse cannot pay here: nearly all of the network is left to ONNX Runtime, which "
            f"computes it whole whenever the picture changes: {dense}. Use --reuse frame, or auto, "
            "which finds that out by itself.",
            figures,
        )
    if total.reuse_mean_ms is None or total.gate_ms is None or total.work is None:
        return Verdict(
            "open",
            f"A frame takes {dense}. Whether reuse pays "
            "depends on the video: give a clip to see the active share and the time of each "
            "layer, how far changes spread, and how often islands and global operators run again.",
            figures,
        )
    spent = total.reuse_mean_ms + total.gate_ms
    gain = fastest / max(spent, 1e-6)
    kind = "pays" if gain >= PAYS else "does not pay"
    words = (
        f"Reuse {'pays' if gain >= PAYS else 'will not pay'} here: {gain:.1f} times as fast. "
        f"{dense[0].upper()}{dense[1:]}, {spent:.1f} ms with reuse, {total.gate_ms:.1f} ms of them "
        f"to find the change, with {total.work:.0%} of the multiply-adds; mean over {total.frames} "
        "frames."
    )
    figures |= {"gain": gain, "reuse_ms": spent, "work": total.work}
    return Verdict(kind, words, figures)


def moving(explained: Explanation) -> Verdict | None:
    total = explained.totals
    if total.input is None or total.input < MOVING:
        return None
    return Verdict(
        "moving picture",
        f"{total.input:.0%} of the picture is new in the mean frame, and {total.dense} of "
        f"{total.frames} frames were computed whole: the camera moves, the light flickers or most "
        "of the scene does. Nothing inside the network can win that back.",
        {"input": total.input, "dense_share": total.dense / max(total.frames, 1)},
    )


def redone(explained: Explanation) -> Verdict | None:
    """Squeeze-and-excite, instance norm: a value from the whole picture goes to every position."""
    everything = sum(row.multiply_adds for row in explained.rows)
    after = [row for row in explained.rows if row.after_global]
    share = sum(row.multiply_adds for row in after) / max(everything, 1)
    if not after or share < AFTER:
        return None
    sources = [row for row in explained.rows if row.operator in GLOBAL]
    named = f"{len(sources)} global operators ({', '.join(sorted({r.operator for r in sources}))})"
    figures = {"operators": float(len(sources)), "work_behind": share}
    if explained.totals.work is None:
        words = (
            f"{named} hand a value to every position, and {share:.0%} of the multiply-adds come "
            "after them: whenever such a value moves, the layer that takes it is redone whole."
        )
        return Verdict("global operators", words, figures)
    active = _active(after)
    before = _active([row for row in explained.rows if not row.after_global])
    moved = sum(row.changed or 0.0 for row in sources) / max(len(sources), 1)
    if active - before < REDONE:
        return None
    figures |= {"active_behind": active, "active_before": before, "moved": moved}
    return Verdict(
        "global operators",
        f"{named} hand a value to every position; it moved in {moved:.0%} of the frames and had "
        f"the layers after them redone: {active:.0%} active against {before:.0%} before them, and "
        f"{share:.0%} of the multiply-adds come after. A larger --tolerance lets such values rest.",
        figures,
    )


def spreading(explained: Explanation) -> Verdict | None:
    total = explained.totals
    if total.input is None or total.work is None or redone(explained) is not None:
        return None
    if total.input >= MOVING or total.work < SPREAD:
        return None
    return Verdict(
        "spreading",
        f"{total.input:.0%} of the picture is new, yet {total.work:.0%} of the multiply-adds are "
        "done: changes are scattered and each layer's window widens them. A larger --tolerance "
        f"(now {explained.tolerance:g}) stops them earlier.",
        {"input": total.input, "work": total.work, "tolerance": explained.tolerance},
    )


def islands(explained: Explanation) -> Verdict | None:
    """By time and by multiply-adds: a few products can wait for much else, and the reverse."""
    rows = [row for row in explained.rows if row.operator == ISLAND]
    spent = sum(row.dense_ms for row in rows)
    share = spent / max(explained.totals.dense_ms, 1e-6)
    everything = sum(row.multiply_adds for row in explained.rows)
    work = sum(row.multiply_adds for row in rows) / max(everything, 1)
    if not rows or max(share, work) < ISLANDS:
        return None
    again = ""
    figures = {"islands": float(len(rows)), "islands_ms": spent, "share": share, "work": work}
    if explained.totals.frames:
        runs = sum((row.active or 0.0) * row.dense_ms for row in rows) / max(spent, 1e-9)
        again = f", and run again in {runs:.0%} of the frames"
        figures["active"] = runs
    worst = max(rows, key=lambda row: row.dense_ms)
    largest = f", {len(worst.nodes)} nodes from {worst.nodes[0]} on" if worst.nodes else ""
    hold, count = ("holds", "1 island") if len(rows) == 1 else ("hold", f"{len(rows)} islands")
    return Verdict(
        "islands",
        f"{count}, which ONNX Runtime runs whole, {hold} {min(share, 1):.0%} of the time of a "
        f"dense frame ({spent:.1f} of {explained.totals.dense_ms:.1f} ms) and {work:.0%} of the "
        f"multiply-adds{again}. The largest{largest}: {worst.reason}.",
        figures,
    )


def overhead(explained: Explanation) -> Verdict | None:
    total = explained.totals
    if total.reuse_mean_ms is None or total.gate_ms is None:
        if total.dense_ms >= TINY_MS:
            return None
        return Verdict(
            "tiny network",
            f"All of it takes {total.dense_ms:.2f} ms: finding what changed may cost as much as "
            "computing it.",
            {"dense_ms": total.dense_ms},
        )
    needed = sum(row.dense_ms * (row.active or 0.0) for row in explained.rows)
    fixed = max(total.reuse_mean_ms + total.gate_ms - needed, 0.0)
    share = fixed / max(total.dense_ms, 1e-6)
    if share < OVERHEAD or explained.all_island:
        return None
    tiny = total.dense_ms < TINY_MS
    cause = "the network is tiny" if tiny else "many small or scattered pieces cost more than whole"
    return Verdict(
        "tiny network" if tiny else "overhead",
        f"{fixed:.2f} ms of a frame go into finding, marking and handing over, {share:.0%} of the "
        f"{total.dense_ms:.2f} ms that computing everything takes: {cause}.",
        {"overhead_ms": fixed, "share": share, "dense_ms": total.dense_ms},
    )


def _active(rows: Sequence[Row]) -> float:
    """Mean active share, weighted by multiply-adds."""
    work = sum(row.multiply_adds for row in rows)
    return sum((row.active or 0.0) * row.multiply_adds for row in rows) / max(work, 1)


RULES: tuple[Callable[[Explanation], Verdict | None], ...] = (
    headline,
    moving,
    redone,
    spreading,
    islands,
    overhead,
)
