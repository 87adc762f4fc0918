"""What counts as changed within a tolerance: alone from all of it on, together from a third on."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from stillframe.reuse.session import ReuseSession

CHANNELS, HEIGHT, WIDTH = 8, 5, 250  # a row is longer than a chunk of results
TOLERANCE = 0.3
LAYER = "copy"


def network() -> bytes:
    """A copy of the input, which is compared, and a sum over 3x3, which reads it."""
    same = np.eye(CHANNELS, dtype=np.float32).reshape(CHANNELS, CHANNELS, 1, 1)
    total = np.ones((CHANNELS, CHANNELS, 3, 3), np.float32)
    shape = (1, CHANNELS, HEIGHT, WIDTH)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "same"], ["linear"]),
            helper.make_node("Relu", ["linear"], [LAYER]),  # else the two are folded into one
            helper.make_node("Conv", [LAYER, "total"], ["y"], pads=[1, 1, 1, 1]),
        ],
        "settling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(same, "same"), numpy_helper.from_array(total, "total")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def session() -> Iterator[ReuseSession]:
    with ReuseSession(
        network(), tolerance=TOLERANCE, threads=1, break_even=9.0, memory_budget=1 << 40
    ) as opened:
        yield opened


def stored(session: ReuseSession, changes: dict[tuple[int, int], float]) -> NDArray[np.bool_]:
    """Where a picture of ones that changes by so much at (y, x) is stored anew."""
    picture = np.ones((1, CHANNELS, HEIGHT, WIDTH), np.float32)
    session.reset()
    session.step({"x": picture})
    before = session.plan.view(LAYER).copy()
    picture = picture.copy()
    for (y, x), change in changes.items():
        picture[0, :, y, x] += change
    session.step({"x": picture})
    return np.asarray((session.plan.view(LAYER) != before).any(axis=2))


def where(changed: NDArray[np.bool_]) -> list[tuple[int, int]]:
    return [(int(y), int(x)) for y, x in np.argwhere(changed)]


def test_the_layer_is_compared(session: ReuseSession) -> None:
    session.step({"x": np.ones((1, CHANNELS, HEIGHT, WIDTH), np.float32)})
    assert LAYER in session.plan.cutoffs


@pytest.mark.parametrize("x", [0, 7, WIDTH - 1])
def test_alone_it_takes_all_of_the_tolerance(session: ReuseSession, x: int) -> None:
    assert where(stored(session, {(2, x): 0.29})) == []
    assert where(stored(session, {(2, x): 0.31})) == [(2, x)]


def test_together_it_takes_a_third(session: ReuseSession) -> None:
    assert where(stored(session, {(2, x): 0.11 for x in (6, 7, 8)})) == [(2, 7)]
    assert where(stored(session, {(2, x): 0.09 for x in (6, 7, 8)})) == []
    beside_more = {(2, 6): 0.31, (2, 7): 0.11, (2, 8): 0.11, (2, 9): 0.01}
    assert where(stored(session, beside_more)) == [(2, 6), (2, 7)]


@pytest.mark.parametrize("first", range(3))
def test_where_a_chunk_ends_makes_no_difference(session: ReuseSession, first: int) -> None:
    row = {(2, x): 0.2 for x in range(first, WIDTH)}
    assert where(stored(session, row)) == [(2, x) for x in range(first + 1, WIDTH - 1)]
    every = {(y, x): 0.2 for y in range(HEIGHT) for x in range(first, WIDTH)}
    changed = stored(session, every)
    assert changed[:, first + 1 : WIDTH - 1].all()
    assert not changed[:, [first, WIDTH - 1]].any()  # the end of a row is not beside the next one


def test_a_gap_parts_two_neighbours(session: ReuseSession) -> None:
    assert where(stored(session, {(2, x): 0.2 for x in (6, 7, 9, 10)})) == []
    assert where(stored(session, {(y, 7): 0.2 for y in range(HEIGHT)})) == []


def test_what_is_not_a_number_has_changed(session: ReuseSession) -> None:
    assert (2, 7) in where(stored(session, {(2, 7): float("nan")}))
