"""What frames would take: the time of a layer for a position, measured once, times the positions.

Multiply-adds alone mislead a search: one of a depthwise or an early layer takes several times as
long as one of a deep layer, and what every frame takes anyway cannot be saved at all.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import BorrowedBackend, ReuseBackend
from stillframe.pipeline.inference.box_flow import BoxFollower, Grey, Lens
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.observer import ObservedFrame
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.types import FittedFrame
from stillframe.reuse.introspection import ISLAND, layer_stats, layers
from stillframe.reuse.session import ReuseSession

Numbers = NDArray[np.float64]
DENSE_STEPS = 3
REPEATS = 9


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Nanoseconds."""

    layers: Numbers
    """(n,): of one position of each layer, islands left out."""
    gate: float
    """Of the change gate, a frame."""
    around: float
    """Of a step, besides its layers; islands included."""
    dense: float
    """Of a frame of which everything is computed."""
    fit: float = 0.0
    """Of fitting a frame to the model's size."""
    decode: float = 0.0
    """Of making a result of the outputs."""
    grey: float = 0.0
    """Of the picture that boxes are followed on."""
    follow: float = 0.0
    """Of following boxes."""

    def step(self, computed: Numbers) -> float:
        """Of a frame, as a share of `dense`. computed: positions of each layer."""
        outside = self.fit + self.gate + self.around + self.decode
        return (outside + float(computed @ self.layers)) / self.dense

    @property
    def unchanged(self) -> float:
        """Of a frame without change, as a share of `dense`."""
        return (self.fit + self.gate) / self.dense

    def added(self, skipping: FrameSkipping) -> float:
        """What frame skipping adds to every frame, as a share of `dense`."""
        return self.grey / self.dense if skipping.follows else 0.0

    def skipped(self, skipping: FrameSkipping) -> float:
        """Of a skipped frame, as a share of `dense`."""
        return (self.grey + self.follow) / self.dense if skipping.follows else 0.0


class LayerRecords:
    """Reads what the last step of a session did in each layer, islands left out."""

    def __init__(self, session: ReuseSession) -> None:
        self._session = session
        self._is_layer = np.array([info.op != ISLAND for info in layers(session)], bool)

    @property
    def computed(self) -> Numbers:
        """(n,) positions of each layer that were computed."""
        return np.asarray(layer_stats(self._session).computed[self._is_layer], np.float64)

    @property
    def nanoseconds(self) -> Numbers:
        """(n,) time of each layer."""
        return np.asarray(layer_stats(self._session).nanoseconds[self._is_layer], np.float64)


def measure(backend: ReuseBackend, model: Model, frames: Iterable[FittedFrame]) -> LayerCosts:
    """Play frames of the model's size at the backend's tolerance; the first DENSE_STEPS are
    computed whole. Another process that takes the processor for a while does not matter: of each
    layer the median counts, by positions."""
    gates, arounds, denses = [], [], []
    whole = np.zeros((0, 2))
    partial: list[Numbers] = []
    layer = LayerRecords(backend.session)

    def observe(seen: ObservedFrame) -> None:
        nonlocal whole
        change, laps_ms = seen.task.change, seen.task.stop_watch.spent_ms
        if seen.outputs is None or change is None:
            return
        spent = 1e6 * (laps_ms["feed"] + laps_ms["infer"])
        records = np.stack([layer.computed, layer.nanoseconds], axis=1)
        if seen.task.frame.discontinuity:
            denses.append(spent)
            whole = records
        elif change.kind == "partial":
            gates.append(1e6 * laps_ms["gate"])
            arounds.append(spent - records[:, 1].sum())
            partial.append(records)

    slot = BackendSlot(lambda path: BorrowedBackend(backend), incremental=True)
    settings = Settings("layer", max_age_s=float("inf"))
    with Runner(model, settings, slot=slot, observer=observe) as runner:
        for number, frame in enumerate(frames):
            runner.step(replace(frame, discontinuity=number < DENSE_STEPS))
    at_once = whole[:, 1] / np.maximum(whole[:, 0], 1)
    if not partial:  # nothing ever changed
        return LayerCosts(at_once, 0.0, 0.0, float(np.median(denses)))
    seen = np.stack(partial)
    each = np.array([_middle(seen[:, index]) for index in range(seen.shape[1])])
    known = np.isfinite(each)
    slower = np.median(each[known] / np.maximum(at_once[known], 1e-9)) if known.any() else 1.0
    each = np.where(known, each, at_once * slower)
    gate = float(np.median(gates))
    return LayerCosts(each, gate, float(np.median(arounds)), gate + float(np.median(denses)))


def with_surroundings(
    costs: LayerCosts,
    model: Model,
    shape: tuple[int, ...],
    outputs: Sequence[NDArray[Any]],
    results: Sequence[Result],
    greys: Sequence[Grey],
) -> LayerCosts:
    """What a frame of that shape takes besides the gate and the network.

    outputs: of some frame. results, greys: of frames one after the other; no greys: nothing is
    followed.
    """
    image = np.zeros(shape, np.uint8)
    _, view = model.fit(image)
    fit = _median_ns(lambda: model.fit(image))
    decode = _median_ns(lambda: model.decode(outputs, view))
    around = replace(costs, dense=costs.dense + fit + decode, fit=fit, decode=decode)
    if not greys:
        return around
    lens, follower, spent = Lens(), BoxFollower(), [0.0]
    for result, grey, after in zip(results, greys, greys[1:], strict=False):
        follower.begin(result, grey)
        began = perf_counter_ns()
        follower.carry(after, shape)
        spent.append(float(perf_counter_ns() - began))
    follow = float(np.median(spent[1:] or spent))
    return replace(around, grey=_median_ns(lambda: lens.grey(image)), follow=follow)


def _median_ns(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(REPEATS):
        began = perf_counter_ns()
        work()
        spent.append(perf_counter_ns() - began)
    return float(np.median(spent))


def _middle(records: Numbers) -> float:
    """The median over all positions computed of nanoseconds a position; NaN if none was.

    records (frames, 2): positions and nanoseconds of one layer.
    """
    computed = records[:, 0]
    if not computed.any():
        return float("nan")
    each = records[:, 1] / np.maximum(computed, 1)
    order = np.argsort(each)
    count = np.cumsum(computed[order])
    return float(each[order[np.searchsorted(count, count[-1] / 2)]])
