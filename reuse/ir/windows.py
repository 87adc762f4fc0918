"""Which input positions each output position reads, and the algebra of such relations.

A window gives every output position one rectangle of input positions. Rows and columns are apart,
so two short lists of intervals (spans) describe a whole tensor. An interval may hold more than what
is read, never less; padding is left out. Change masks, proofs about them and partial updates all
follow windows: `compose` goes up through several operators, `for_readers` back from the readers,
`image` tells which outputs a change reaches.

The same intervals are the basis of bounds inference in Halide (Ragan-Kelley et al., PLDI 2013).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]
Flags = NDArray[np.bool_]

LARGEST = np.int32(np.iinfo(np.int32).max)

_remembered = lru_cache(maxsize=512)  # networks repeat their layers, and so do their compositions


class Span(NamedTuple):
    """One axis of a window: output position i reads the input positions low[i] .. high[i] - 1; none
    where both are equal."""

    low: Indices
    high: Indices

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Span) and all(map(np.array_equal, self, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.low.tobytes(), self.high.tobytes()))

    @property
    def is_empty(self) -> Flags:
        """Which output positions read nothing."""
        empty: Flags = self.low == self.high
        return empty

    @property
    def is_single(self) -> bool:
        """No output position reads more than one."""
        return bool(np.all(self.high - self.low <= 1))

    @property
    def is_gapless(self) -> bool:
        """Each interval begins within the one before or right after it, and ends no earlier."""
        low, high = self
        rising = np.all(low[1:] >= low[:-1]) and np.all(high[1:] >= high[:-1])
        return bool(rising and np.all(high > low) and np.all(low[1:] <= high[:-1]))

    def contains(self, other: "Span") -> bool:
        """Every output position reads at least what it reads through `other`."""
        inside = (self.low <= other.low) & (other.high <= self.high)
        return bool(np.all(other.is_empty | inside))

    @_remembered
    def hull(self, other: "Span") -> "Span":
        """The smallest intervals that hold both."""
        low = np.where(self.is_empty, other.low, np.minimum(self.low, other.low))
        high = np.where(self.is_empty, other.high, np.maximum(self.high, other.high))
        return Span(
            np.where(other.is_empty, self.low, low), np.where(other.is_empty, self.high, high)
        )

    @_remembered
    def compose(self, inner: "Span") -> "Span":
        """What is read by way of a tensor in between, which itself reads `inner`: the smallest
        intervals that hold it."""
        low = np.append(np.where(inner.is_empty, LARGEST, inner.low), LARGEST)
        high = np.append(np.where(inner.is_empty, 0, inner.high), np.int32(0))
        begin, end = np.where(self.is_empty, 0, self.low), np.where(self.is_empty, 1, self.high)
        between = np.stack([begin, end], 1).ravel()  # reduceat: from each even entry to the odd one
        first = np.minimum.reduceat(low, between)[::2]
        last = np.maximum.reduceat(high, between)[::2]
        nothing = self.is_empty | (first >= last)
        return Span(np.where(nothing, 0, first), np.where(nothing, 0, last))

    @_remembered
    def compose_exactly(self, inner: "Span") -> "Span | None":
        """As `compose` where all of each interval is read; None where that is not known."""
        return self.compose(inner) if self.is_single or inner.is_gapless else None

    @_remembered
    def for_readers(self, depends: "Span", size: int) -> "Span":
        """Output i depends on depends[i] of something. What each of `size` input positions depends
        on if it is to be there for all outputs that read it: the smallest intervals that hold it.
        """
        reads = np.where(depends.is_empty, 0, self.high - self.low)
        reader = np.repeat(np.arange(len(reads)), reads)
        starts = np.cumsum(reads) - reads
        position = np.arange(len(reader)) + np.repeat(self.low - starts, reads)
        low, high = np.full(size, LARGEST), np.zeros(size, np.int32)
        np.minimum.at(low, position, depends.low[reader])
        np.maximum.at(high, position, depends.high[reader])
        return Span(np.where(high > 0, low, np.int32(0)), high)

    def image(self, mask: NDArray[np.generic]) -> Flags:
        """(n,) input flags -> which output positions read one that is set."""
        before = np.concatenate(([0], np.cumsum(mask != 0)))
        marked: Flags = before[self.high] > before[self.low]
        return marked

    def as_monotonic(self) -> "Span | None":
        """The same intervals with ends that never fall, empty ones at the two ends moved aside;
        None where others go back."""
        reads = np.flatnonzero(self.high > self.low)
        if not len(reads):
            return Span(np.zeros_like(self.low), np.zeros_like(self.high))
        low, high = self.low.copy(), self.high.copy()
        first, last = reads[0], reads[-1]
        low[:first] = high[:first] = low[first]
        low[last + 1 :] = high[last + 1 :] = high[last]
        falls = np.any(np.diff(low) < 0) or np.any(np.diff(high) < 0)
        return None if falls else Span(low, high)

    def as_strided(self, size: int) -> tuple[int, int, int] | None:
        """(taps, stride, pad) where position i reads i * stride - pad + [0, taps) as far as that
        lies within 0 .. size - 1; None where no such numbers describe it."""
        low, high = self.low.astype(np.int64), self.high.astype(np.int64)
        index = np.arange(len(low))
        if len(low) == size and np.array_equal(low, index) and np.array_equal(high, index + 1):
            return 1, 1, 0
        whole = (low > 0) & (high < size)
        at = np.flatnonzero(whole[1:] & whole[:-1])
        if not len(at):
            return None
        i = int(at[0])
        taps, stride = int(high[i] - low[i]), int(low[i + 1] - low[i])
        pad = i * stride - int(low[i])
        start = index * stride - pad
        clipped = np.clip(start, 0, size), np.clip(start + taps, 0, size)
        plain = taps == 1 and stride == 1 and pad == 0  # which asks for equal sizes
        regular = stride > 0 and taps > 0 and pad >= 0 and not plain
        same_ends = np.array_equal(low, clipped[0]) and np.array_equal(high, clipped[1])
        return (taps, stride, pad) if regular and same_ends else None


@dataclass(frozen=True, slots=True)
class Window:
    """Output position (y, x) reads the rows rows[y] and the columns cols[x] of an input."""

    rows: Span
    cols: Span

    @property
    def is_single(self) -> bool:
        """No output position reads more than one position."""
        return self.rows.is_single and self.cols.is_single

    def contains(self, other: "Window") -> bool:
        """Every output position reads at least what it reads through `other`."""
        return self.rows.contains(other.rows) and self.cols.contains(other.cols)

    def intersects(self, other: "Window") -> bool:
        """Some output position reads through both."""
        return bool(
            np.any(~self.rows.is_empty & ~other.rows.is_empty)
            and np.any(~self.cols.is_empty & ~other.cols.is_empty)
        )

    def hull(self, other: "Window") -> "Window":
        """The smallest rectangles that hold both."""
        return Window(self.rows.hull(other.rows), self.cols.hull(other.cols))

    def compose(self, inner: "Window") -> "Window":
        """What is read by way of a tensor in between, which itself reads `inner`; no less."""
        return Window(self.rows.compose(inner.rows), self.cols.compose(inner.cols))

    def compose_exactly(self, inner: "Window") -> "Window | None":
        """As `compose` where all of it is read; None where that is not known."""
        rows, cols = self.rows.compose_exactly(inner.rows), self.cols.compose_exactly(inner.cols)
        return None if rows is None or cols is None else Window(rows, cols)

    def for_readers(self, depends: "Window", height: int, width: int) -> "Window":
        """Each output depends on a rectangle of something. What each input position, of this size,
        depends on if it is to be there for all outputs that read it; no less."""
        return Window(
            self.rows.for_readers(depends.rows, height), self.cols.for_readers(depends.cols, width)
        )

    def image(self, mask: NDArray[np.generic]) -> Flags:
        """(H, W) mask of an input -> (H', W'): the outputs that read a position that is set."""
        sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int32)
        np.cumsum(np.cumsum(mask != 0, 0, np.int32), 1, out=sums[1:, 1:])
        bands = sums[self.rows.high] - sums[self.rows.low]
        marked: Flags = bands[:, self.cols.high] > bands[:, self.cols.low]
        return marked


def forget() -> None:
    """Free the memory of remembered results; they are found again where they are asked for."""
    for method in (Span.hull, Span.compose, Span.compose_exactly, Span.for_readers):
        method.cache_clear()


# --- what operators read ------------------------------------------------------------------------
def identity(height: int, width: int) -> Window:
    """Each position reads itself."""
    return Window(same(height), same(width))


def everything(out: tuple[int, ...], inside: tuple[int, ...]) -> Window:
    """Each of out's (H, W) positions reads all of inside's."""
    rows, cols = (
        Span(np.zeros(out[axis], np.int32), np.full(out[axis], inside[axis], np.int32))
        for axis in (0, 1)
    )
    return Window(rows, cols)


def span(low: NDArray[np.integer], high: NDArray[np.integer], size: int) -> Span:
    """The intervals clipped to 0 .. size; empty where nothing is left."""
    low = np.clip(low, 0, size)
    high = np.clip(high, low, size)
    return Span(low.astype(np.int32), high.astype(np.int32))


@_remembered
def same(size: int) -> Span:
    """Position i reads position i."""
    index = np.arange(size)
    return span(index, index + 1, size)


def broadcast(out_size: int, in_size: int) -> Span:
    """As `same`, or position 0 for all where the input has only one."""
    if in_size == out_size:
        return same(out_size)
    return span(np.zeros(out_size, int), np.ones(out_size, int), in_size)


def sliding(
    out_size: int, in_size: int, kernel: int, stride: int = 1, dilation: int = 1, pad: int = 0
) -> Span:
    """A kernel of `kernel` taps; pad is what is added before the first position."""
    low = np.arange(out_size) * stride - pad
    return span(low, low + (kernel - 1) * dilation + 1, in_size)


def tiled(out_size: int, in_size: int, side: int, pad: int) -> Span:
    """A kernel of three taps in tiles of `side` outputs, computed by Winograd's transforms.

    The first and the last output of a tile of four read, beside all inputs between them, the first
    and the last input. In exact arithmetic the others cancel out, in floats they change bits. In
    tiles of two nothing has to cancel.
    """
    at = np.arange(out_size)
    if side == 2:
        return sliding(out_size, in_size, 3, pad=pad)
    low = at // side * side - pad
    return span(low + (at % side != 0), low + side + 1 + (at % side == side - 1), in_size)


def strided(out_size: int, in_size: int, start: int, step: int) -> Span:
    """Position i reads position start + i * step, or nothing where that is outside."""
    low = start + np.arange(out_size) * step
    return span(low, low + 1, in_size)


def listed(low: NDArray[np.integer], high: NDArray[np.integer], in_size: int) -> Span:
    """Position i reads from low[i] to high[i], both included."""
    return span(low, high + 1, in_size)


def pad_source(out_size: int, in_size: int, before: int, mode: str) -> NDArray[np.int64]:
    """Where each padded position comes from; -1: from nowhere (constant padding)."""
    index = np.arange(out_size) - before
    if mode == "edge":
        return np.clip(index, 0, in_size - 1)
    if mode == "reflect":
        period = max(2 * (in_size - 1), 1)
        index = np.abs(index) % period
        return np.where(index >= in_size, period - index, index)
    return np.where((index >= 0) & (index < in_size), index, -1)
