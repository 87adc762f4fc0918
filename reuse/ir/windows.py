"""Which input positions an output position reads: what change maps and partial updates follow.

A window is a rectangle per output position, rows and columns apart, so four short vectors say it
for the whole tensor. It may hold more than what is read, never less; padding is left out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Span = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Window:
    """Output row y reads input rows lo[y] .. hi[y] - 1 of rows = (lo, hi); columns likewise.

    lo == hi: that output row reads nothing of this input.
    """

    rows: Span
    cols: Span


def span(low: NDArray[np.integer], high: NDArray[np.integer], size: int) -> Span:
    """(lo, hi) clipped to 0 .. size; empty where nothing is left."""
    low = np.clip(low, 0, size)
    high = np.clip(high, low, size)
    return low.astype(np.int32), high.astype(np.int32)


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
