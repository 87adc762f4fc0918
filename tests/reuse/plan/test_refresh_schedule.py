"""Rolling refresh: once a sweep is through, nothing old is left, whatever the tolerance."""

import numpy as np
import pytest

from stillframe.errors import UsageError
from stillframe.reuse.plan.refresh_schedule import RefreshSchedule
from stillframe.reuse.session import ReuseSession
from tests.graph_cases import model
from tests.reuse.test_session import Picture, frame, net, weights

HUGE = 1e3  # a tolerance that cuts everything off
ALL = 1 << 40  # a memory budget that keeps every layer


def deep(height: int = 61, width: int = 40) -> bytes:
    """Strides, a skip connection, pooling and upsampling: rows of many heights."""
    rng = np.random.default_rng(1)
    steps = [
        ("Conv", ["x", weights(rng, 8, 3, 3, 3), weights(rng, 8)], "a", {"pads": [1] * 4}),
        ("Relu", ["a"], "a2", {}),
        ("Conv", ["a2", weights(rng, 12, 8, 3, 3), weights(rng, 12)], "b",
         {"pads": [1] * 4, "strides": [2] * 2}),
        ("Relu", ["b"], "b2", {}),
        ("Conv", ["b2", weights(rng, 12, 12, 5, 5), weights(rng, 12)], "c", {"pads": [2] * 4}),
        ("Add", ["b2", "c"], "d", {}),
        ("MaxPool", ["d"], "e", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        ("Conv", ["e", weights(rng, 12, 12, 3, 3), weights(rng, 12)], "f", {"pads": [1] * 4}),
        ("Conv", ["f", weights(rng, 16, 12, 3, 3), weights(rng, 16)], "g", {"pads": [1] * 4}),
        ("Conv", ["d", weights(rng, 16, 12, 3, 3), weights(rng, 16)], "h", {"pads": [1] * 4}),
        ("Conv", ["h", weights(rng, 5, 16, 3, 3), weights(rng, 5)], "y", {"pads": [1] * 4}),
        ("Conv", ["g", weights(rng, 5, 16, 3, 3), weights(rng, 5)], "z", {"pads": [1] * 4}),
    ]  # fmt: skip
    return model(steps, {"x": (1, 3, height, width)}, ["y", "z"])


NETS = {"deep": deep(), "residual": net((1, 3, 61, 40)), "global": net((1, 3, 61, 40), gate=True)}


def dense(source: bytes, picture: Picture) -> list[Picture]:
    with ReuseSession(source, threads=1) as session:
        return session.run(None, {"x": picture})


def sweep(session: ReuseSession, picture: Picture, rows: int) -> list[Picture]:
    """Renew the picture from top to bottom; -> the outputs then."""
    height, width = picture.shape[2:]
    outputs: list[Picture] = []
    for top in range(0, height, rows):
        end = min(top + rows, height)
        mask = np.zeros((height, width), np.uint8)
        mask[top:end] = 1
        outputs, _ = session.step({"x": picture}, mask, renewed=(top, end))
    return outputs


@pytest.mark.parametrize("rows", [1, 4, 7, 61])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("budget", [ALL, None])
def test_a_sweep_leaves_nothing_old(name: str, threads: int, rows: int, budget: int | None) -> None:
    old, new = frame(1, 3, 61, 40), frame(1, 3, 61, 40)
    expected = dense(NETS[name], new)
    with ReuseSession(
        NETS[name], tolerance=HUGE, threads=threads, break_even=9.0, memory_budget=budget
    ) as session:
        session.step({"x": old})
        outputs, _ = session.step({"x": new}, np.ones((61, 40), np.uint8))
        assert session.plan.cutoffs or budget is None
        if session.plan.cutoffs:
            assert not all(np.array_equal(a, b) for a, b in zip(outputs, expected, strict=True))
        outputs = sweep(session, new, rows)
        for ours, theirs in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_stripes_cost_little_more_than_their_share() -> None:
    picture = frame(1, 3, 256, 64)
    with ReuseSession(deep(256, 64), tolerance=0.1, threads=1, memory_budget=ALL) as session:
        session.step({"x": picture})
        works = []
        for top in range(0, 256, 8):
            mask = np.zeros((256, 64), np.uint8)
            mask[top : top + 8] = 1
            _, stats = session.step({"x": picture}, mask, renewed=(top, top + 8))
            works.append(stats.work)
        assert 1 < sum(works) < 2.6
        assert max(works) < 4 / 32


def test_rows_come_in_order_and_each_once() -> None:
    with ReuseSession(deep(), tolerance=0.1, threads=1, memory_budget=ALL) as session:
        schedule = RefreshSchedule(session.plan)
        seen = dict.fromkeys(session.plan.cutoffs.values(), 0)
        for top in range(0, 61, 5):
            bands = schedule.bands(top, min(top + 5, 61))
            for at, before in seen.items():
                assert bands[at, 0] == before
                seen[at] = int(bands[at, 1])
        for name, at in session.plan.cutoffs.items():
            assert seen[at] == session.plan.graph.shapes[name][0]


def test_rows_that_are_not_marked_are_refused() -> None:
    picture = frame(1, 3, 61, 40)
    mask = np.zeros((61, 40), np.uint8)
    mask[3:9] = 1
    with ReuseSession(deep(), tolerance=0.1, threads=1, memory_budget=ALL) as session:
        session.step({"x": picture})
        for change, rows in ((None, (3, 9)), (mask, (2, 9)), (mask, (60, 62)), (mask, (-2, 1))):
            with pytest.raises(UsageError, match="expected rows that the change map marks"):
                session.step({"x": picture}, change, renewed=rows)
        session.step({"x": picture}, mask, renewed=(3, 9))
