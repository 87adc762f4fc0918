"""Rising times within one stream and across reconnections."""

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.pipeline.media.timestamps import (
    FAR_JUMP_AHEAD_S,
    TimestampNormalizer,
    TimestampStitcher,
)


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


@pytest.mark.parametrize("jump", [50_000, 20, -20])
def test_a_jump_goes_on_at_the_usual_interval_and_is_counted(jump: int) -> None:
    timeline = TimestampNormalizer(Fraction(1, 1000), Fraction(25))
    times = [*range(0, 1000, 40), *(jump * 1000 + pts for pts in range(1000, 2000, 40))]
    placed = [timeline.normalize(pts) for pts in times]
    assert [ticks for ticks, _ in placed] == list(range(0, 2000, 40))
    assert [n for n, (_, jumped) in enumerate(placed) if jumped] == [25]
    assert timeline.rebased == 1


def test_a_gap_of_minutes_is_believed_where_times_do_not_restart() -> None:
    timeline = TimestampNormalizer(Fraction(1, 1000), Fraction(25), FAR_JUMP_AHEAD_S)
    timeline.normalize(0)
    assert timeline.normalize(120_000) == (120_000, True)
    assert timeline.normalize(50_000_000) == (120_040, True)
    assert timeline.rebased == 1


def test_a_live_picture_after_a_silence_was_held_back_until_its_time_has_caught_up() -> None:
    timeline = TimestampNormalizer(Fraction(1, 1000), Fraction(10))
    late = []
    # a parser keeps the last picture until the next one comes, 20 s later
    for pts, now_s in ((0, 50.0), (100, 50.1), (200, 70.1), (20_100, 70.1), (20_200, 70.2)):
        ticks, jumped = timeline.normalize(pts, now_s=now_s)
        assert (ticks, jumped) == (pts, False)  # the step makes up for the silence: no jump
        late.append(timeline.late_s)
    assert late == pytest.approx([0, 0, 19.9, 0, 0])


def test_a_camera_that_pauses_its_own_clock_is_late_once() -> None:
    timeline = TimestampNormalizer(Fraction(1, 1000), Fraction(10))
    late = []
    for pts, now_s in ((0, 50.0), (100, 70.0), (200, 70.1), (300, 70.2)):
        timeline.normalize(pts, now_s=now_s)
        late.append(timeline.late_s > 0)
    assert late == [False, True, False, False]


def test_a_live_jump_goes_on_by_the_clock() -> None:
    timeline = TimestampNormalizer(Fraction(1, 1000), Fraction(10))
    timeline.normalize(0, now_s=50.0)
    assert timeline.normalize(50_000_000, now_s=55.0) == (5000, True)
    assert timeline.normalize(50_000_100, now_s=55.1) == (5100, False)
