"""Partition by rows, and its promises on random graphs."""

import sys
from dataclasses import dataclass
from itertools import pairwise
from types import FrameType
from typing import Any

import numpy as np
import pytest

from stillframe.reuse.frontend import partition as partition_module
from stillframe.reuse.frontend.partition import CALL_US, Partition, Piece, partition, summary

LARGE = 100_000.0
"""Work in microseconds that is worth any hand-over of these tests."""


def piece(text: str, work_us: float = 0.0) -> Piece:
    """ "a b -> c": region; "a b -> c !": an island for the reason "Op: c"."""
    reads, _, writes = text.partition("->")
    names = writes.split()
    reason = f"Op: {names[0]}" if names[-1] == "!" else None
    return Piece(tuple(reads.split()), tuple(n for n in names if n != "!"), reason, work_us)


@dataclass(frozen=True)
class Row:
    """Pieces, and the groups expected of their outputs: islands in brackets."""

    name: str
    pieces: tuple[Piece, ...]
    expected: str
    bytes: int = 1000

    def __str__(self) -> str:
        return self.name


ROWS = (
    Row("one region", (piece("x -> a"), piece("a -> b")), "a b"),
    Row("one island", (piece("x -> a !"), piece("a -> b !")), "[a b]"),
    Row(
        "a head",
        (piece("x -> a", LARGE), piece("a -> b !"), piece("b -> c !")),
        "a [b c]",
    ),
    Row(
        "heads of two scales in one island",
        (piece("x -> a", LARGE), piece("a -> b !"), piece("a -> c", LARGE), piece("c -> d !")),
        "a c [b d]",
    ),
    Row(
        "a head whose last word needs a region later on",
        (
            piece("x -> a", LARGE),
            piece("a -> p !"),
            piece("p -> q", LARGE),
            piece("a -> r !"),
            piece("q r -> s !"),
        ),
        "a [p] q [r s]",
    ),
    Row(
        "an island between large regions",
        (piece("x -> a", LARGE), piece("a -> b !"), piece("b -> c", LARGE)),
        "a [b] c",
    ),
    Row(
        "a small region between islands",
        (piece("x -> a", LARGE), piece("a -> b !"), piece("b -> c", 10), piece("c -> d !")),
        "a [b c d]",
    ),
    Row(
        "a region that pays for one call, but not for its hand-over",
        (piece("x -> a", LARGE), piece("a -> b !"), piece("b -> c", CALL_US * 3)),
        "a [b c]",
        10_000_000,
    ),
    Row(
        "a small region that reads what callers feed",
        (piece("x -> a", LARGE), piece("x -> s", 1), piece("s -> t !"), piece("a t -> u", LARGE)),
        "a s [t] u",
    ),
)


def shown(pieces: tuple[Piece, ...], steps: list[Partition]) -> str:
    groups = []
    for step in steps:
        names = " ".join(pieces[index].outputs[0] for index in step.pieces)
        groups.append(names if step.reason is None else f"[{names}]")
    return " ".join(groups)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_pieces_fall_into_few_regions_and_islands(row: Row) -> None:
    sizes = {name: row.bytes for each in row.pieces for name in each.outputs}
    assert shown(row.pieces, partition(row.pieces, sizes)) == row.expected


def test_reasons_are_given_once_per_operator() -> None:
    reasons = ["A: one", None, "", "B: two", "A: three", "C: four", "D: five", "E: six", "F: seven"]
    assert summary(reasons) == "A: one; B: two; C: four; D: five; and E, F"


def random_pieces(seed: int, count: int) -> list[Piece]:
    rng = np.random.default_rng(seed)
    pieces: list[Piece] = []
    for index in range(count):
        recent = rng.integers(max(0, index - 6), index + 1, size=int(rng.integers(1, 4)))
        inputs = tuple({f"t{number - 1}" if number else "x" for number in recent})
        reason = f"Op{index}: no" if rng.random() < 0.3 else None
        pieces.append(Piece(inputs, (f"t{index}",), reason, float(10 ** rng.uniform(0, 5))))
    return pieces


@pytest.mark.parametrize("seed", range(60))
def test_steps_run_everything_once_after_what_it_reads(seed: int) -> None:
    pieces = random_pieces(seed, 30)
    sizes = {f"t{index}": 10 ** (index % 8) for index in range(30)}
    steps = partition(pieces, sizes)
    order = [index for step in steps for index in step.pieces]
    assert sorted(order) == list(range(len(pieces)))
    written = {"x"}
    for step in steps:
        for index in step.pieces:
            assert set(pieces[index].inputs) <= written, "read before it is written"
            written |= set(pieces[index].outputs)
            if pieces[index].reason is not None:
                assert step.reason is not None, "the engine was given what it cannot run"
    for before, after in pairwise(steps):
        assert (before.reason is None) != (after.reason is None), "two of a kind in a row"


def test_a_large_graph_is_partitioned_without_comparing_all_pairs() -> None:
    """Counts the lines that run: fewer than there are pairs of nodes."""
    pieces = random_pieces(0, 2000)
    lines = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != partition_module.__file__:
            return None
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        partition(pieces, {})
    finally:
        sys.settrace(before)
    assert 0 < lines < len(pieces) * (len(pieces) - 1) / 2
