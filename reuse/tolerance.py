"""How much a layer may change before the change is passed on."""

from dataclasses import dataclass

import numpy as np

from stillframe.reuse.kernels import table as t
from stillframe.reuse.plan import Plan


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One share for all layers: a position counts as unchanged while the root mean square over
    channels of its change is at most `share` times the root mean square of the whole layer.

    0 is exact: unchanged means that every bit is equal.
    """

    share: float

    @property
    def exact(self) -> bool:
        return self.share == 0.0

    def calibrate(self, plan: Plan) -> None:
        """Turn shares into thresholds, from the activations of a dense step."""
        if self.exact:
            return
        for name, instruction in plan.cutoffs.items():
            values = plan.view(name)
            mean_square = float(np.mean(np.square(values, dtype=np.float64)))
            limit = self.share**2 * mean_square * values.shape[2]
            plan.floats[instruction, t.THRESHOLD] = limit if np.isfinite(limit) else 0.0
