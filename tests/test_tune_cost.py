"""What `tune` expects a frame to take."""

import numpy as np
import pytest

from stillframe.pipeline.tune_cost import Costs, _middle
from stillframe.reuse.kernels import table as t


def test_a_frame_costs_what_its_positions_cost_and_what_every_frame_takes() -> None:
    costs = Costs(np.array([2.0, 4.0]), gate=10.0, around=5.0, dense=100.0)
    assert costs.step(np.array([3.0, 1.0])) == pytest.approx((10 + 5 + 6 + 4) / 100)
    assert costs.unchanged == pytest.approx(0.1)


def test_a_layer_that_once_had_to_wait_costs_no_more_for_it() -> None:
    records = np.zeros((5, t.RECORD_COLUMNS))
    records[:, t.ACTIVE] = (10, 20, 0, 30, 20)
    records[:, t.NANOSECONDS] = 7 * records[:, t.ACTIVE]
    records[2, t.NANOSECONDS] = 500  # looked, found nothing
    records[4, t.NANOSECONDS] *= 100  # another process ran
    assert _middle(records) == 7
    assert np.isnan(_middle(np.zeros((3, t.RECORD_COLUMNS))))
