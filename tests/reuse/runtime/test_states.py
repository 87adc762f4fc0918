"""Inputs that are fed with outputs of the frame before."""

from collections.abc import Iterator

import numpy as np
import pytest

from stillframe.errors import UsageError
from stillframe.reuse.introspection import layers
from stillframe.reuse.session import ReuseSession
from tests.graph_cases import model, number, w
from tests.reuse.test_session import Picture

SIZE = (1, 3, 24, 32)


def recurrent() -> bytes:
    """A state that slowly follows what the picture gives, and an output of both."""
    steps = [
        ("Conv", ["x", w(6, 3, 3, 3, scale=0.2)], "a", {"pads": [1] * 4}),
        ("Tanh", ["a"], "b", {}),
        ("Mul", ["s", number(0.9)], "c", {}),
        ("Mul", ["b", number(0.1)], "d", {}),
        ("Add", ["c", "d"], "next", {}),
        ("Concat", ["b", "next"], "both", {"axis": 1}),
        ("Conv", ["both", w(4, 12, 3, 3, scale=0.2)], "y", {"pads": [1] * 4}),
    ]
    return model(steps, {"x": SIZE, "s": (1, 6, 24, 32)}, ["y", "next"])


def frames(count: int) -> Iterator[Picture]:
    rng = np.random.default_rng(0)
    still = rng.random(SIZE).astype(np.float32)
    for number_ in range(count):
        picture = still.copy()
        picture[:, :, 4:9, number_ % 20 : number_ % 20 + 5] = 1
        yield picture


@pytest.mark.parametrize(("states", "sparse"), [((), False), (("s",), True), (None, True)])
def test_a_state_that_hardly_moves_leaves_most_of_the_network_alone(
    states: tuple[str, ...] | None, sparse: bool
) -> None:
    state = np.zeros((1, 6, 24, 32), np.float32)
    with ReuseSession(
        recurrent(), tolerance=0.1, threads=1, break_even=9.0, states=states
    ) as session:
        for picture in frames(60):
            (_, following), stats = session.step({"x": picture, "s": state})
            state = np.array(following)
        assert (stats.work < 0.6) == sparse


def test_what_is_stored_of_a_state_is_within_tolerance_of_what_was_fed() -> None:
    state = np.zeros((1, 6, 24, 32), np.float32)
    with ReuseSession(
        recurrent(), tolerance=0.1, threads=1, break_even=9.0, states=("s",)
    ) as session:
        for picture in frames(40):
            fed = state
            (_, following), _ = session.step({"x": picture, "s": state})
            state = np.array(following)
            gaps = np.square(fed[0].transpose(1, 2, 0) - session.plan.view("s")).sum(axis=2)
            assert gaps.max() <= session.plan.threshold("s") * (1 + 1e-4)


def test_without_a_tolerance_states_are_compared_bit_by_bit() -> None:
    state = np.zeros((1, 6, 24, 32), np.float32)
    with (
        ReuseSession(recurrent(), threads=1, break_even=9.0, states=None) as session,
        ReuseSession(recurrent(), threads=1) as whole,
    ):
        for picture in frames(5):
            ours, _ = session.step({"x": picture, "s": state})
            theirs, _ = whole.step({"x": picture, "s": state}, dense=True)
            for one, two in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(one, two)
            state = np.array(ours[1])


def test_layers_after_a_state_are_compared_so_that_what_hardly_moves_stops_there() -> None:
    """As in the decoder of a matting network: convolutions of a state that need not persist."""
    steps = [
        ("Conv", ["x", w(6, 3, 3, 3, scale=0.2)], "a", {"pads": [1] * 4}),
        ("Mul", ["s", number(0.9)], "c", {}),
        ("Mul", ["a", number(0.1)], "d", {}),
        ("Add", ["c", "d"], "next", {}),
        ("Conv", ["next", w(8, 6, 1, 1)], "e", {}),
        ("Relu", ["e"], "f", {}),
        ("Conv", ["f", w(16, 8, 1, 1)], "g", {}),
        ("Tanh", ["g"], "h", {}),
        ("Conv", ["h", w(4, 16, 1, 1)], "y", {}),
    ]
    network = model(steps, {"x": SIZE, "s": (1, 6, 24, 32)}, ["y", "next"])
    work = {}
    for states in (("s",), ()):
        state = np.zeros((1, 6, 24, 32), np.float32)
        with ReuseSession(
            network, tolerance=0.2, threads=1, break_even=9.0, states=states, memory_budget=10**9
        ) as session:
            compared = {layer.name for layer in layers(session) if layer.cut_off}
            assert ({"f", "h"} <= compared) == bool(states)
            for picture in frames(12):
                (_, following), stats = session.step({"x": picture, "s": state})
                state = np.array(following)
            work[states] = stats.work
    assert work[("s",)] < 0.8 * work[()]


def test_a_state_that_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="got 'r'"):
        ReuseSession(recurrent(), threads=1, states=("r",))
