"""Lost, skipped and moving boxes stay hidden for a while, and not for ever."""

import numpy as np
import pytest

from stillframe.pipeline.filter.box_hold import (
    MAX_DRIFT,
    Boxes,
    BoxHold,
    add_drift,
    box_iou,
    grow_boxes,
    match_boxes,
)


def boxes(*rows: tuple[float, float, float, float]) -> Boxes:
    return np.array(rows, np.float32).reshape(-1, 4)


A = (10.0, 10.0, 30.0, 40.0)
NEAR_A = (12.0, 11.0, 32.0, 41.0)
B = (100.0, 10.0, 120.0, 40.0)
NONE = boxes()


def covers(outer: Boxes, inner: tuple[float, float, float, float]) -> bool:
    """Whether one of the boxes contains the other."""
    return any(
        row[0] <= inner[0] and row[1] <= inner[1] and row[2] >= inner[2] and row[3] >= inner[3]
        for row in outer.tolist()
    )


def test_detected_boxes_are_returned_unchanged() -> None:
    hold = BoxHold(0.5)
    np.testing.assert_array_equal(hold.update(boxes(A, B), 0.0, fresh=True), boxes(A, B))
    np.testing.assert_array_equal(hold.update(boxes(NEAR_A, B), 0.04, fresh=True), boxes(NEAR_A, B))


def test_a_lost_box_stays_for_the_hold_time_and_grows() -> None:
    hold = BoxHold(0.5)
    hold.update(boxes(A, B), 0.0, fresh=True)
    widths = []
    for time_s in (0.1, 0.3, 0.5):
        got = hold.update(boxes(B), time_s, fresh=True)
        assert len(got) == 2
        np.testing.assert_array_equal(got[0], B)
        assert covers(got, A)
        widths.append(float(got[1, 2] - got[1, 0]))
    assert 20 < widths[0] < widths[1] <= widths[2] <= 20 + 2 * MAX_DRIFT * 30
    np.testing.assert_array_equal(hold.update(boxes(B), 0.51, fresh=True), boxes(B))


def test_two_close_boxes_need_two_new_ones_to_match() -> None:
    hold = BoxHold(1.0)
    hold.update(boxes(A, NEAR_A), 0.0, fresh=True)
    assert len(hold.update(boxes(A), 0.1, fresh=True)) == 2
    assert len(hold.update(boxes(A, NEAR_A), 0.2, fresh=True)) == 2


def test_a_box_that_jumps_is_hidden_in_both_places() -> None:
    hold = BoxHold(0.5)
    hold.update(boxes(A), 0.0, fresh=True)
    got = hold.update(boxes(B), 0.04, fresh=True)
    assert covers(got, A)
    assert covers(got, B)


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_skipped_frames_keep_all_boxes_grown_by_their_possible_drift(
    seconds: float,
) -> None:
    hold = BoxHold(seconds)
    hold.update(boxes(A, B), 0.0, fresh=True)
    got = hold.update(boxes(A, B), 0.1, fresh=False)
    assert len(got) == 2
    by = 0.1 * 2.0 * 30
    for row, was in zip(got.tolist(), (A, B), strict=True):
        assert row == pytest.approx([was[0] - by, was[1] - by, was[2] + by, was[3] + by])


def test_skipping_neither_shortens_nor_lengthens_a_hold() -> None:
    hold = BoxHold(0.5)
    hold.update(boxes(A), 0.0, fresh=True)
    assert len(hold.update(NONE, 0.2, fresh=True)) == 1
    assert len(hold.update(NONE, 0.9, fresh=False)) == 1  # nobody looked: better too long
    assert len(hold.update(NONE, 0.9, fresh=True)) == 0


def test_a_hold_of_zero_keeps_no_box() -> None:
    hold = BoxHold(0.0)
    hold.update(boxes(A), 0.0, fresh=True)
    assert len(hold.update(NONE, 0.04, fresh=True)) == 0


def test_times_that_restart_clear_the_hold() -> None:
    hold = BoxHold(10.0)
    hold.update(boxes(A), 100.0, fresh=True)
    assert len(hold.update(NONE, 0.0, fresh=True)) == 0


def test_overlap_and_matching() -> None:
    both = box_iou(boxes(A, B), boxes(A, NEAR_A, (0, 0, 0, 0)))
    assert both[0, 0] == pytest.approx(1)
    assert 0.7 < both[0, 1] < 1
    assert not both[1].any()
    assert not both[:, 2].any()
    assert match_boxes(boxes(A, B), boxes(NEAR_A)).tolist() == [True, False]
    assert match_boxes(NONE, boxes(A)).tolist() == []
    assert match_boxes(boxes(A), NONE).tolist() == [False]


def test_growing_is_by_a_share_of_each_side_on_each_side() -> None:
    np.testing.assert_allclose(grow_boxes(boxes(A), 0.3), [[4, 1, 36, 49]])
    assert grow_boxes(NONE, 0.3).shape == (0, 4)
    assert add_drift(NONE, np.empty(0)).shape == (0, 4)
