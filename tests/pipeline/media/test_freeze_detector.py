"""When identical pictures count as a camera that hangs."""

import inspect
from collections.abc import Iterable

import av
import pytest

from stillframe.pipeline.media.freeze_detector import FreezeDetector
from stillframe.pipeline.media.live import FROZEN_REPEATS, FROZEN_S
from stillframe.pipeline.media.open_source import open_source

AFTER_S = inspect.signature(open_source).parameters["frozen_after_s"].default


def shown(number: int) -> av.VideoFrame:
    frame = av.VideoFrame(32, 32, "gray")
    frame.planes[0].update(bytes([number % 256]) * frame.planes[0].buffer_size)
    return frame


class Watched:
    """A detector with the limits of a live source, and a clock."""

    def __init__(self) -> None:
        self.detector = FreezeDetector(AFTER_S, FROZEN_REPEATS, FROZEN_S)
        self.now_s = 0.0

    def first_frozen_s(self, numbers: Iterable[int], rate: float) -> float | None:
        """Seconds from the first of these pictures until the source is frozen."""
        began_s, frozen_s = self.now_s, None
        for number in numbers:
            if self.detector.update(shown(number), self.now_s) and frozen_s is None:
                frozen_s = self.now_s - began_s
            self.now_s += 1 / rate
        return frozen_s

    def stands_still(self, number: int, seconds: float, rate: float = 25) -> float | None:
        return self.first_frozen_s([number] * round(seconds * rate), rate)


@pytest.mark.parametrize("rate", [6, 15, 30, 60])
def test_a_camera_that_hangs_is_seen_within_two_seconds(rate: float) -> None:
    assert Watched().first_frozen_s(range(100), rate) is None
    frozen_s = Watched().stands_still(1, 60, rate)
    assert frozen_s is not None
    assert frozen_s < 1.9  # what is left is for the report


@pytest.mark.parametrize(("rate", "expected_s"), [(2, 4.0), (1, 8.0), (0.5, 10.0), (0.1, 20.0)])
def test_two_pictures_of_a_slow_camera_are_not_enough(rate: float, expected_s: float) -> None:
    assert Watched().stands_still(1, 60, rate) == pytest.approx(expected_s)


def test_a_source_that_pauses_by_habit_is_reported_once_and_then_only_at_length() -> None:
    screen = Watched()
    pauses = [screen.stands_still(number, 4.0) is not None for number in range(20)]
    assert pauses == [True] + [False] * 19
    frozen_s = screen.stands_still(99, 60)
    assert frozen_s is not None
    assert 7.5 <= frozen_s <= FROZEN_S


def test_a_camera_that_hung_for_long_is_no_slower_noticed_the_next_time() -> None:
    camera = Watched()
    for number in range(3):
        frozen_s = camera.stands_still(number, 60)
        assert frozen_s is not None
        assert frozen_s < 1.9
        assert camera.first_frozen_s(range(100, 200), 25) is None


def test_a_habit_outlives_a_connection_and_a_picture_does_not() -> None:
    screen = Watched()
    assert screen.stands_still(1, 4.0) is not None
    assert screen.stands_still(2, 4.0) is None
    screen.detector.restart()
    assert screen.stands_still(2, 4.0) is None
