"""How much a layer may change before the change is passed on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from stillframe.errors import UsageError
from stillframe.reuse.kernels import abi as t
from stillframe.reuse.plan.plan import Plan


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A share for each layer: a position has changed when the root mean square over channels of
    its change is more than that share of the root mean square of the whole layer; or more than a
    third of that share, together with both its neighbours in the row, see `kernels.commit`.

    share: of the layers that `layers`, by the names of their outputs, does not list. A layer at 0
    passes every change on; 0 for all of them is exact: unchanged means that every bit is equal.
    """

    share: float
    layers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, share in (("tolerance", self.share), *self.layers.items()):
            if not (share >= 0 and np.isfinite(share)):
                raise UsageError(f"{name}: expected a number >= 0, got {share}")

    @property
    def exact(self) -> bool:
        return self.share == 0.0 and not any(self.layers.values())

    def of(self, name: str) -> float:
        """The share of one layer."""
        return self.layers.get(name, self.share)

    def scaled(self, factor: float) -> "Tolerance":
        """All shares times the factor: 1 is the same, 0 exact."""
        layers = {name: share * factor for name, share in self.layers.items()}
        return Tolerance(self.share * factor, layers)

    def calibrate(self, plan: Plan) -> None:
        """Turn shares into thresholds, from the activations of a dense step."""
        self.apply(plan, measure(plan))

    def apply(self, plan: Plan, magnitudes: Mapping[str, float]) -> None:
        """Turn shares into thresholds. magnitudes: of each layer, see below; none: all are 0."""
        if self.exact:
            return
        for name, instruction in plan.cutoffs.items():
            channels = plan.graph.shapes[name][2]
            with np.errstate(over="ignore"):
                limit = np.float32((self.of(name) * magnitudes.get(name, 0.0)) ** 2 * channels)
            plan.floats[instruction, t.THRESHOLD] = limit if np.isfinite(limit) else 0.0


def measure(plan: Plan) -> dict[str, float]:
    """The root mean square of each layer that compares, from what is stored after a dense step."""
    found = {}
    for name in plan.cutoffs:
        values = plan.view(name)
        flat = values.reshape(-1) if values.flags.c_contiguous else values.ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            found[name] = float(np.sqrt(np.dot(flat, flat) / max(flat.size, 1)))
    return found
