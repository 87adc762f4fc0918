"""How marks spread: eight at a time, and with windows of every kind, against one at a time."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.reuse.ir.windows import Span
from stillframe.reuse.kernels.active_set import reach, thin, widen

Marks = NDArray[np.uint8]


def marks(rng: np.random.Generator, count: int, share: float) -> Marks:
    """(count + 16,) bytes: marks, then bytes that must neither count as marks nor be written."""
    values = np.full(count + 16, 2, np.uint8)
    values[:count] = rng.random(count) < share
    return values


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31, 64, 100])
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_widened_marks_are_those_of_each_window(width: int, taps: int, share: float) -> None:
    rng = np.random.default_rng(width * 10 + taps)
    line, target = marks(rng, width + taps - 1, share), marks(rng, width, 0.1)
    expected = target.copy()
    for x in range(width):
        expected[x] |= line[x : x + taps].max()
    widen(line.ctypes.data, taps, target.ctypes.data, width)
    assert np.array_equal(target, expected)
    own = line.copy()  # in its own place
    widen(own.ctypes.data, taps, own.ctypes.data, width)
    assert np.array_equal(own[:width], [line[x : x + taps].max() for x in range(width)])
    assert np.array_equal(own[width:], line[width:])


def test_thinned_marks_are_every_nth() -> None:
    rng = np.random.default_rng(0)
    line, target = marks(rng, 61, 0.2), marks(rng, 31, 0.1)
    expected = target.copy()
    expected[:31] |= line[0:61:2]
    thin(line.ctypes.data, 2, target.ctypes.data, 31)
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("seed", range(60))
def test_irregular_windows_reach_what_they_read(seed: int) -> None:
    """Windows whose ends never fall, some of them empty at either side."""
    rng = np.random.default_rng(seed)
    read, width = int(rng.integers(1, 90)), int(rng.integers(1, 90))
    low = np.sort(rng.integers(0, read, width)).astype(np.int32)
    high = np.maximum.accumulate(np.minimum(low + rng.integers(1, 6, width), read)).astype(np.int32)
    for part in (slice(0, seed % 4), slice(width - seed % 3, width)):
        low[part] = high[part] = 0
    windows = Span(low, high).as_monotonic()
    assert windows is not None
    line, target = marks(rng, read, (0.0, 0.03, 0.3)[seed % 3]), marks(rng, width, 0.05)
    expected = target.copy()
    for x in range(width):
        expected[x] |= line[low[x] : high[x]].max(initial=0)
    lows, highs = (np.ascontiguousarray(half, np.int32) for half in windows)
    reach(line.ctypes.data, read, lows.ctypes.data, highs.ctypes.data, target.ctypes.data, width)
    assert np.array_equal(target, expected)


def test_windows_that_go_back_are_no_rising_ones() -> None:
    back = np.array([3, 2, 1, 0], np.int32)
    assert Span(back, back + 1).as_monotonic() is None
    holes = np.array([0, 0, 1], np.int32), np.array([2, 0, 3], np.int32)
    assert Span(*holes).as_monotonic() is None
    nothing = np.zeros(3, np.int32)
    assert Span(nothing, nothing).as_monotonic() is not None
