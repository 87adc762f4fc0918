"""The algebra of windows against masks: which input positions each output position reads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillframe.reuse.ir import windows
from stillframe.reuse.ir.windows import Span, Window

Flags = NDArray[np.bool_]
quick = settings(deadline=None, max_examples=150, derandomize=True)


@st.composite
def spans(draw: st.DrawFn, outputs: int, size: int) -> Span:
    """Any intervals in 0 .. size: of one position, rising, or wild, some empty."""
    longest = draw(st.sampled_from([1, 1, 3, size]))
    low = np.array(draw(st.lists(st.integers(0, size), min_size=outputs, max_size=outputs)))
    length = draw(st.lists(st.integers(0, longest), min_size=outputs, max_size=outputs))
    if draw(st.booleans()):
        low = np.sort(low)
    high = np.minimum(low + np.array(length), size)
    if draw(st.booleans()):
        low, high = np.minimum(low, size - 1), np.minimum(np.maximum(high, low + 1), size)
    if draw(st.booleans()):
        high = np.maximum.accumulate(high)
    return Span(low.astype(np.int32), high.astype(np.int32))


def mask(span: Span, size: int) -> Flags:
    """(outputs, size): whether an output position reads an input position."""
    positions = np.arange(size)
    flags: Flags = (span.low[:, None] <= positions) & (positions < span.high[:, None])
    return flags


def hull(flags: Flags) -> Flags:
    """Each row filled between its first and its last position."""
    after = np.logical_or.accumulate(flags, axis=1)
    before = np.logical_or.accumulate(flags[:, ::-1], axis=1)[:, ::-1]
    between: Flags = after & before
    return between


def through(outer: Flags, inner: Flags) -> Flags:
    """What is read by way of a tensor in between."""
    flags: Flags = (outer.astype(int) @ inner.astype(int)) > 0
    return flags


def whole(window: Window, height: int, width: int) -> Flags:
    """(outputs, inputs): positions of both in reading order."""
    rows, cols = mask(window.rows, height), mask(window.cols, width)
    flags: Flags = rows[:, None, :, None] & cols[None, :, None, :]
    return flags.reshape(len(rows) * len(cols), height * width)


@quick
@given(st.data())
def test_compose_is_the_hull_of_what_is_read_by_way_of_a_tensor(data: st.DataObject) -> None:
    outputs, between, size = (data.draw(st.integers(1, 7)) for _ in range(3))
    outer, inner = data.draw(spans(outputs, between)), data.draw(spans(between, size))
    exact = through(mask(outer, between), mask(inner, size))
    composed = outer.compose(inner)
    assert np.array_equal(mask(composed, size), hull(exact))
    assert composed.low.dtype == composed.high.dtype == np.int32
    sure = outer.compose_exactly(inner)
    if sure is not None:
        assert np.array_equal(mask(sure, size), exact)


def test_compose_exactly_knows_intervals_that_follow_without_gaps() -> None:
    three = Span(np.array([0, 0, 1, 2], np.int32), np.array([2, 3, 4, 4], np.int32))
    five = three.compose_exactly(three)
    assert five is not None
    assert list(zip(*five, strict=True)) == [(0, 3), (0, 4), (0, 4), (1, 4)]
    every_other = windows.strided(3, 5, 0, 2)
    assert windows.sliding(2, 3, 2).compose_exactly(every_other) is None
    loose = windows.sliding(2, 3, 2).compose(every_other)
    assert list(zip(*loose, strict=True)) == [(0, 3), (2, 5)]


@quick
@given(st.data())
def test_a_position_depends_on_the_hull_of_what_its_readers_depend_on(data: st.DataObject) -> None:
    outputs, size, above = (data.draw(st.integers(1, 7)) for _ in range(3))
    window, depends = data.draw(spans(outputs, size)), data.draw(spans(outputs, above))
    span = window.for_readers(depends, size)
    exact = through(mask(window, size).T, mask(depends, above))
    assert np.array_equal(mask(span, above), hull(exact))
    assert span.low.dtype == span.high.dtype == np.int32


@quick
@given(st.data())
def test_hull_contains_intersects_and_is_single_are_those_of_the_masks(data: st.DataObject) -> None:
    outputs, size = (data.draw(st.integers(1, 5)) for _ in range(2))
    one, two = data.draw(spans(outputs, size)), data.draw(spans(outputs, size))
    here, there = mask(one, size), mask(two, size)
    assert np.array_equal(mask(one.hull(two), size), hull(here | there))
    assert one.contains(two) == (not (there & ~here).any())
    assert one.is_single == bool((here.sum(1) <= 1).all())
    assert np.array_equal(one.is_empty, ~here.any(1))


@quick
@given(st.data())
def test_a_window_is_its_two_spans(data: st.DataObject) -> None:
    """All in both directions at once, against masks of all positions."""
    out, between, size = (
        (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))) for _ in "abc"
    )
    outer, other, inner = (
        Window(data.draw(spans(a[0], b[0])), data.draw(spans(a[1], b[1])))
        for a, b in ((out, between), (out, between), (between, size))
    )
    here, there, below = whole(outer, *between), whole(other, *between), whole(inner, *size)
    assert outer.intersects(other) == bool((here.any(1) & there.any(1)).any())
    assert outer.is_single == (outer.rows.is_single and outer.cols.is_single)
    assert not (there & ~here).any() or not outer.contains(other)
    assert not ((here | there) & ~whole(outer.hull(other), *between)).any()
    assert not (through(here, below) & ~whole(outer.compose(inner), *size)).any()
    sure = outer.compose_exactly(inner)
    assert sure is None or np.array_equal(whole(sure, *size), through(here, below))
    back = outer.for_readers(other, *between)
    assert not (through(here.T, there) & ~whole(back, *between)).any()
    marks = np.array(
        data.draw(st.lists(st.booleans(), min_size=here.shape[1], max_size=here.shape[1]))
    )
    image = outer.image(marks.reshape(between))
    assert np.array_equal(image, (here & marks).any(1).reshape(out))
    assert outer == Window(Span(*map(np.copy, outer.rows)), Span(*map(np.copy, outer.cols)))
    assert (outer == other) == (
        all(map(np.array_equal, outer.rows, other.rows))
        and all(map(np.array_equal, outer.cols, other.cols))
    )


@quick
@given(st.data())
def test_the_image_of_flags_is_who_reads_one_of_them(data: st.DataObject) -> None:
    outputs, size = (data.draw(st.integers(1, 7)) for _ in range(2))
    span = data.draw(spans(outputs, size))
    flags = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    assert np.array_equal(span.image(flags), (mask(span, size) & flags).any(1))


@quick
@given(st.data())
def test_monotonic_intervals_read_the_same_and_never_fall(data: st.DataObject) -> None:
    outputs, size = (data.draw(st.integers(1, 7)) for _ in range(2))
    span = data.draw(spans(outputs, size))
    monotonic = span.as_monotonic()
    if monotonic is None:
        reads = np.flatnonzero(~span.is_empty)
        between = slice(reads[0], reads[-1] + 1)
        falls = [np.diff(end[between]).min(initial=0) < 0 for end in span]
        assert any(falls)
    else:
        assert np.array_equal(mask(monotonic, size), mask(span, size))
        assert all(np.all(np.diff(end) >= 0) for end in monotonic)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
@pytest.mark.parametrize("outputs", [1, 3, 12])
def test_strided_intervals_are_described_by_three_numbers(size: int, outputs: int) -> None:
    def described(taps: int, stride: int, pad: int) -> Span:
        low = np.arange(outputs) * stride - pad
        return windows.span(low, low + taps, size)

    count = 0
    for taps in (1, 2, 3, 5):
        for stride in (1, 2, 3):
            for pad in (0, 1, 2):
                span = described(taps, stride, pad)
                strided = span.as_strided(size)
                if strided is not None:
                    assert described(*strided) == span
                    count += 1
    assert count or size < 3 or outputs < 3
    assert windows.sliding(12, 12, 3, 1, 1, 1).as_strided(12) == (3, 1, 1)
    assert windows.same(size).as_strided(size) == (1, 1, 0)
    assert windows.broadcast(12, 1).as_strided(1) is None
    assert windows.listed(np.array([0, 1, 3]), np.array([1, 3, 4]), 6).as_strided(6) is None


def test_identity_and_everything() -> None:
    assert np.array_equal(whole(windows.identity(2, 3), 2, 3), np.eye(6, dtype=bool))
    assert whole(windows.everything((2, 3), (4, 1)), 4, 1).all()
