"""What frames would take: the time of a layer for a position, measured once, times the positions.

Multiply-adds alone mislead a search: one of a depthwise or an early layer takes several times as
long as one of a deep layer, and what every frame takes anyway cannot be saved at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.box_flow import BoxFollower, Grey, Lens
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.reuse.gate.change_gate import ChangeGate
from stillframe.reuse.kernels import abi
from stillframe.reuse.session import ReuseSession

Numbers = NDArray[np.float64]
DENSE_STEPS = 3
REPEATS = 9


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """In nanoseconds. layers (instructions,): of one position. gate: of the change gate, a frame.
    around: of a step, besides its layers. dense: of a frame of which everything is computed. fit,
    decode: of a frame, to bring it to the model's size, and to make a result of the outputs. grey,
    follow: to make the picture that boxes are followed on, and to follow them."""

    layers: Numbers
    gate: float
    around: float
    dense: float
    fit: float = 0.0
    decode: float = 0.0
    grey: float = 0.0
    follow: float = 0.0

    def step(self, computed: Numbers) -> float:
        """Of a frame of which so many positions a layer are computed, as a share of `dense`."""
        outside = self.fit + self.gate + self.around + self.decode
        return (outside + float(computed @ self.layers)) / self.dense

    @property
    def unchanged(self) -> float:
        """Of a frame without change, as a share of `dense`."""
        return (self.fit + self.gate) / self.dense

    def added(self, cadence: FrameSkipping) -> float:
        """By a cadence to every frame, as a share of `dense`."""
        return self.grey / self.dense if cadence.follows else 0.0

    def passed(self, cadence: FrameSkipping) -> float:
        """Of a frame that passes the network by, as a share of `dense`."""
        return (self.grey + self.follow) / self.dense if cadence.follows else 0.0


def computed(session: ReuseSession) -> Numbers:
    """Positions of each layer that the last step computed."""
    return session.plan.records[:, abi.ACTIVE].astype(np.float64)


def measure(
    session: ReuseSession, model: Model, pictures: Sequence[NDArray[np.uint8]]
) -> LayerCosts:
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
            arounds.append(spent - records[:, abi.NANOSECONDS].sum())
            rows.append(records)
    at_once = whole[:, abi.NANOSECONDS] / np.maximum(whole[:, abi.ACTIVE], 1)
    if not rows:  # nothing ever changed
        return LayerCosts(at_once, 0.0, 0.0, float(np.median(denses)))
    seen = np.stack(rows)
    layers = np.array([_middle(seen[:, each]) for each in range(seen.shape[1])])
    known = np.isfinite(layers)
    slower = np.median(layers[known] / np.maximum(at_once[known], 1e-9)) if known.any() else 1.0
    layers = np.where(known, layers, at_once * slower)
    gate_ns = float(np.median(gates))
    return LayerCosts(
        layers, gate_ns, float(np.median(arounds)), gate_ns + float(np.median(denses))
    )


def with_surroundings(
    costs: LayerCosts,
    model: Model,
    shape: tuple[int, ...],
    outputs: Sequence[NDArray[Any]],
    results: Sequence[Result],
    greys: Sequence[Grey],
) -> LayerCosts:
    """What a frame of that shape takes besides the gate and the network. outputs: of some frame.
    results, greys: of frames one after the other; no greys: nothing is followed."""
    image = np.zeros(shape, np.uint8)
    _, view = model.fit(image)
    fit = _median_ns(lambda: model.fit(image))
    decode = _median_ns(lambda: model.decode(outputs, view))
    found = replace(costs, dense=costs.dense + fit + decode, fit=fit, decode=decode)
    if not greys:
        return found
    lens, follower, spent = Lens(), BoxFollower(), [0.0]
    for result, grey, after in zip(results, greys, greys[1:], strict=False):
        follower.begin(result, grey)
        began = perf_counter_ns()
        follower.carry(after, shape)
        spent.append(float(perf_counter_ns() - began))
    follow = float(np.median(spent[1:] or spent))
    return replace(found, grey=_median_ns(lambda: lens.grey(image)), follow=follow)


def _median_ns(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(REPEATS):
        began = perf_counter_ns()
        work()
        spent.append(perf_counter_ns() - began)
    return float(np.median(spent))


def _middle(records: Numbers) -> float:
    """Nanoseconds a position in the middle of all positions computed; NaN where none was."""
    active = records[:, abi.ACTIVE]
    if not active.any():
        return float("nan")
    each = records[:, abi.NANOSECONDS] / np.maximum(active, 1)
    order = np.argsort(each)
    behind = np.cumsum(active[order])
    return float(each[order[np.searchsorted(behind, behind[-1] / 2)]])
