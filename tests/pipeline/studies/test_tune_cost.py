"""What `tune` expects a frame to take."""

from pathlib import Path

import numpy as np
import pytest

from stillframe.models import zoo
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.studies.tune.cost import LayerCosts, _middle, with_surroundings
from stillframe.reuse.session import ReuseSession
from tests import networks


def test_a_frame_costs_what_its_positions_cost_and_what_every_frame_takes() -> None:
    costs = LayerCosts(np.array([2.0, 4.0]), gate=10.0, around=5.0, dense=100.0)
    assert costs.step(np.array([3.0, 1.0])) == pytest.approx((10 + 5 + 6 + 4) / 100)
    assert costs.unchanged == pytest.approx(0.1)


def test_what_lies_around_the_network_costs_too() -> None:
    costs = LayerCosts(
        np.array([2.0]), 10.0, 5.0, 200.0, fit=20.0, decode=8.0, grey=3.0, follow=6.0
    )
    assert costs.step(np.array([3.0])) == pytest.approx((20 + 10 + 5 + 6 + 8) / 200)
    assert costs.unchanged == pytest.approx((20 + 10) / 200)
    keeps, follows = FrameSkipping(2), FrameSkipping(2, "follow")
    assert (costs.skipped(keeps), costs.added(keeps)) == (0, 0)
    assert costs.skipped(follows) == pytest.approx((3 + 6) / 200)
    assert costs.added(follows) == pytest.approx(3 / 200)
    assert costs.added(FrameSkipping(1, "follow")) == 0


def test_what_lies_around_the_network_is_measured(tmp_path: Path) -> None:
    model = zoo.load(str(networks.brightness(tmp_path / "b.onnx")), confidence=0.0)
    shape = (120, 160, 3)
    fixed = model.for_source(*shape[:2])
    picture, view = fixed.fit(np.zeros(shape, np.uint8))
    with ReuseSession(fixed.path) as session:
        outputs, _ = session.step(fixed.feed(picture), dense=True)
        result = fixed.decode(outputs, view)
        bare = LayerCosts(np.zeros(1), 10.0, 5.0, 100.0)
        greys = [np.zeros((120, 160), np.uint8)] * 2
        costs = with_surroundings(bare, fixed, shape, outputs, [result, result], greys)
        without_following = with_surroundings(bare, fixed, shape, outputs, [result], [])
    assert costs.dense == 100 + costs.fit + costs.decode
    assert min(costs.fit, costs.decode, costs.grey, costs.follow) > 0
    assert (without_following.grey, without_following.follow) == (0, 0)


def test_a_layer_that_once_had_to_wait_costs_no_more_for_it() -> None:
    records = np.zeros((5, 2))  # positions, nanoseconds
    records[:, 0] = (10, 20, 0, 30, 20)
    records[:, 1] = 7 * records[:, 0]
    records[2, 1] = 500  # examined, nothing to do
    records[4, 1] *= 100  # another process ran
    assert _middle(records) == 7
    assert np.isnan(_middle(np.zeros((3, 2))))
