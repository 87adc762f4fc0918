"""What frames would take: the time of a layer for a position, measured once, times the positions.

Multiply-adds alone mislead a search: one of a depthwise or an early layer takes several times as
long as one of a deep layer, and what every frame takes anyway cannot be saved at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.follow import Follower, Grey
from stillframe.reuse.cadence import Cadence
from stillframe.reuse.change import ChangeGate
from stillframe.reuse.kernels import table as t
from stillframe.reuse.session import ReuseSession

Numbers = NDArray[np.float64]
DENSE_STEPS = 3


@dataclass(frozen=True, slots=True)
class Costs:
    """In nanoseconds. layers (instructions,): of one position. gate: of the change gate, a frame.
    around: of a step, besides its layers. dense: of a frame of which everything is computed. grey,
    follow: of a frame, to make the picture that boxes are followed on, and to follow them."""

    layers: Numbers
    gate: float
    around: float
    dense: float
    grey: float = 0.0
    follow: float = 0.0

    def step(self, computed: Numbers) -> float:
        """Of a frame of which so many positions a layer are computed, as a share of `dense`."""
        return (self.gate + self.around + float(computed @ self.layers)) / self.dense

    @property
    def unchanged(self) -> float:
        """Of a frame without change, as a share of `dense`."""
        return self.gate / self.dense

    def added(self, cadence: Cadence) -> float:
        """By a cadence to every frame, as a share of `dense`."""
        return self.grey / self.dense if cadence.follows else 0.0

    def passed(self, cadence: Cadence) -> float:
        """Of a frame that passes the network by, as a share of `dense`."""
        return (self.grey + self.follow) / self.dense if cadence.follows else 0.0


def computed(session: ReuseSession) -> Numbers:
    """Positions of each layer that the last step computed."""
    return session.plan.records[:, t.ACTIVE].astype(np.float64)


def measure(session: ReuseSession, model: Model, pictures: Sequence[NDArray[np.uint8]]) -> Costs:
    """Play pictures of the model's size at the session's tolerance. Another process that takes the
    processor for a while does not matter: of each layer the median counts, by positions."""
    gate = ChangeGate(*model.size)
    gates, arounds, denses, rows = [], [], [], []
    for number, picture in enumerate(pictures):
        began = perf_counter_ns()
        change = gate.step(picture)
        found = perf_counter_ns()
        dense = number < DENSE_STEPS
        session.step(model.feed(gate.reference), None if dense else change.mask, dense=dense)
        spent = perf_counter_ns() - found
        records = session.plan.records.astype(np.float64)
        if dense:
            denses.append(spent)
            whole = records
        elif change.kind == "partial":
            gates.append(found - began)
            arounds.append(spent - records[:, t.NANOSECONDS].sum())
            rows.append(records)
    at_once = whole[:, t.NANOSECONDS] / np.maximum(whole[:, t.ACTIVE], 1)
    if not rows:  # nothing ever changed
        return Costs(at_once, 0.0, 0.0, float(np.median(denses)))
    seen = np.stack(rows)
    layers = np.array([_middle(seen[:, each]) for each in range(seen.shape[1])])
    known = np.isfinite(layers)
    slower = np.median(layers[known] / np.maximum(at_once[known], 1e-9)) if known.any() else 1.0
    layers = np.where(known, layers, at_once * slower)
    gate_ns = float(np.median(gates))
    return Costs(layers, gate_ns, float(np.median(arounds)), gate_ns + float(np.median(denses)))


def following_ns(results: Sequence[Result], greys: Sequence[Grey], shape: tuple[int, ...]) -> float:
    """What it takes to follow a picture's boxes into the next one: the median."""
    follower, spent = Follower(), [0.0]
    for result, grey, after in zip(results, greys, greys[1:], strict=False):
        follower.begin(result, grey)
        began = perf_counter_ns()
        follower.carry(after, shape)
        spent.append(float(perf_counter_ns() - began))
    return float(np.median(spent[1:] or spent))


def _middle(records: Numbers) -> float:
    """Nanoseconds a position in the middle of all positions computed; NaN where none was."""
    active = records[:, t.ACTIVE]
    if not active.any():
        return float("nan")
    each = records[:, t.NANOSECONDS] / np.maximum(active, 1)
    order = np.argsort(each)
    behind = np.cumsum(active[order])
    return float(each[order[np.searchsorted(behind, behind[-1] / 2)]])
