"""Rising times within one stream and across reconnections."""

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stillframe.pipeline.media.timestamps import TimestampNormalizer, TimestampStitcher


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=40, unique=True))
def test_rising_times_are_kept_exactly(times: list[int]) -> None:
    # ticks so short that no gap is ten seconds long
    timeline = TimestampNormalizer(Fraction(1, 10**7), Fraction(25))
    times.sort()
    assert [timeline.normalize(pts) for pts in times] == [(pts, False) for pts in times]


@given(
    st.lists(st.one_of(st.none(), st.integers(-(10**7), 10**7)), max_size=60),
    st.sampled_from([Fraction(1, 25), Fraction(1, 1000), Fraction(1, 90_000)]),
)
def test_times_always_rise_whatever_the_container_says(
    times: list[int | None], time_base: Fraction
) -> None:
    timeline = TimestampNormalizer(time_base, None)
    placed = [timeline.normalize(pts, 3)[0] for pts in times]
    assert all(later > earlier for earlier, later in pairwise(placed))


def test_missing_times_continue_at_the_rate() -> None:
    timeline = TimestampNormalizer(Fraction(1, 1000), Fraction(25))
    placed = [timeline.normalize(pts) for pts in (None, None, 80, None, 81, 5)]
    assert placed == [(pts, False) for pts in (0, 40, 80, 120, 121, 122)]


def test_a_long_gap_is_a_jump_only_where_no_duration_covers_it() -> None:
    covered, uncovered = (TimestampNormalizer(Fraction(1, 10), Fraction(10)) for _ in range(2))
    covered.normalize(0, 500)
    assert covered.normalize(500, 1) == (500, False)
    uncovered.normalize(0, 1)
    assert uncovered.normalize(500, 1) == (1, True)
    assert uncovered.normalize(501, 1) == (2, False)


def test_times_of_connections_are_joined_in_the_first_time_base() -> None:
    times = TimestampStitcher()
    times.start(1000, Fraction(1, 1000), Fraction(1), now_s=50.0)
    assert times.stitch(1000, Fraction(1, 1000), 50.0) == (1000, 0.0)
    assert times.stitch(1500, Fraction(1, 1000), 50.5) == (1500, 0.5)
    times.start(7, Fraction(1, 10), Fraction(0), now_s=53.5)  # three seconds were lost
    assert times.stitch(7, Fraction(1, 10), 53.5) == (4500, 3.5)
    assert times.stitch(8, Fraction(1, 10), 53.6) == (4600, 3.6)
