"""What makes a step dense is learnt from what earlier steps did."""

import pytest

from stillframe.reuse.runtime.dense_switch import MARGIN, RELAX, DenseSwitch


def test_before_anything_is_learnt_the_break_even_decides() -> None:
    switch = DenseSwitch(0.8)
    assert not switch.is_dense(0.8)
    assert switch.is_dense(0.81)


def test_a_step_that_did_most_of_the_work_lowers_the_limit() -> None:
    switch = DenseSwitch(0.8)
    switch.learn(0.5, work=0.79, dense=False)
    assert not switch.is_dense(0.5)
    switch.learn(0.5, work=0.81, dense=False)
    assert switch.is_dense(0.5 * MARGIN + 1e-9)
    assert not switch.is_dense(0.5 * MARGIN - 1e-9)
    switch.reset()
    assert not switch.is_dense(0.8)


def test_dense_steps_raise_the_limit_slowly_up_to_the_break_even() -> None:
    switch = DenseSwitch(0.8)
    switch.learn(0.5, work=1.0, dense=False)
    switch.learn(0.6, work=1.0, dense=True)
    assert switch.is_dense(0.5 * MARGIN * RELAX + 1e-9)
    assert not switch.is_dense(0.5 * MARGIN * RELAX - 1e-9)
    for _ in range(1000):
        switch.learn(1.0, work=1.0, dense=True)
    assert switch.is_dense(0.8 + 1e-9)
    assert not switch.is_dense(0.8)


@pytest.mark.parametrize("break_even", [0.0, 1.0, 2.0])
def test_a_break_even_may_be_out_of_reach(break_even: float) -> None:
    assert DenseSwitch(break_even).is_dense(1.0) == (break_even < 1)
