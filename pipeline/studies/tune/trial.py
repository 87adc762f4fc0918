"""What a setting does on some frames: the work it takes, what it loses, how well it agrees.

    bench = TuneBench(model, [passage, …], threads)
    outcome = bench.outcome(TrialSetting(shares, gate), passages)

Dense results are computed once. What a setting takes is counted, not timed: the positions that each
layer computes, times the cost of one of that layer, which is measured once, at the start. So
whatever else the machine does during the search, the same frames give the same figures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.errors import UsageError
from stillframe.models.model import Model
from stillframe.models.results import Detections, Result
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import BorrowedBackend, ReuseBackend
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.quality.agreement import MEASURES, Kind, agreement_with
from stillframe.pipeline.quality.doubts import Doubt, too_little
from stillframe.pipeline.quality.repeatability import RepeatMeter
from stillframe.pipeline.studies.tune.cost import (
    LayerCosts,
    LayerRecords,
    measure,
    with_surroundings,
)
from stillframe.pipeline.studies.tune.passage import Passage
from stillframe.pipeline.studies.tune.trial_judge import SOFTER, TrialJudge, confident
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.introspection import activation, compared_layers
from stillframe.reuse.plan.tolerance import Tolerance

SEED_SHARE = 0.1
PAIRS, APART = 6, 2  # pictures between which layers are seen to change
REPEATED = 24  # pictures of a passage on which repeatability is measured

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TrialSetting:
    """What is tried."""

    shares: Mapping[str, float]
    """Of each layer that compares: how much it may change unseen, see `Tolerance`."""
    gate: GateSettings = field(default_factory=GateSettings)
    frame_skipping: FrameSkipping = field(default_factory=FrameSkipping)
    """Which frames are skipped."""

    def scaled(self, factor: float) -> "TrialSetting":
        return replace(self, shares={name: each * factor for name, each in self.shares.items()})


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of all frames but the first of each window, which is computed whole."""

    cost: float
    """Expected time, as a share of computing everything, mean over the frames."""
    loss: float
    """0 for none; smooth."""
    quality: float
    """Agreement of the worst clip."""
    steady: float
    """The same, of boxes at several confidences at once: few boxes agree by chance, and it must
    hold on other frames."""
    work: float = float("nan")
    """Multiply-adds, as a share of all, mean over the frames."""
    strict: float = float("nan")
    """Strict agreement of the worst clip, which decides nothing."""


@dataclass(frozen=True, slots=True)
class _Rig:
    """What plays the passages of one size."""

    backend: ReuseBackend
    model: Model
    """With a lower confidence, so that the loss is smooth, see SOFTER."""
    records: LayerRecords
    costs: LayerCosts

    def cost(self, step: StepResult, skipping: FrameSkipping) -> tuple[float, float]:
        """What the frame just analysed costs and its work, see `Outcome`."""
        costs = self.costs
        if step.kind == "skipped":
            return costs.skipped(skipping), 0.0
        if step.kind == "unchanged":
            return costs.unchanged + costs.added(skipping), 0.0
        stats = self.backend.session.last_stats
        assert stats is not None
        cost = 1.0 if stats.dense else costs.step(self.records.computed)
        return cost + costs.added(skipping), stats.work


class TuneBench(Closing):
    """Backends for the sizes of the passages, and the passages' dense results.

    Raises UsageError for a model without layers to tune.
    """

    layers: tuple[str, ...]
    """Those that compare, in the order of the network."""
    kind: Kind
    """Of quality."""
    floor: float
    """The least quality that counts as the same."""
    confidence: float
    """Of detections that count; 0 for other results."""
    decibels: bool = False
    """Whether quality, of pictures, is in dB."""

    def __init__(self, model: Model, all_passages: Sequence[Passage], threads: int) -> None:
        self.confidence = model.form.confidence if model.task == "detection" else 0.0
        self._rigs: dict[Size, _Rig] = {}
        for passage in all_passages:
            size = passage.model.size
            if size not in self._rigs:
                self._rigs[size] = self._rig(passage, threads)
            rig = self._rigs[size]
            for picture, view in zip(passage.pictures, passage.views, strict=True):
                outputs = rig.backend.run(rig.model.feed(picture), None)
                passage.dense.append(rig.model.decode([np.array(each) for each in outputs], view))
            if not rig.costs.fit:
                costs = with_surroundings(
                    rig.costs, rig.model, passage.shape, outputs, passage.dense, passage.greys
                )
                self._rigs[size] = replace(rig, costs=costs)
        self.layers = compared_layers(next(iter(self._rigs.values())).backend.session)
        if not self.layers:
            raise UsageError(
                f"{model.name}: no layer of it keeps values, so there is no tolerance to tune"
            )
        self.kind = agreement_with(all_passages[0].dense[0]).kind
        self.floor = MEASURES[self.kind].floor

    def _rig(self, passage: Passage, threads: int) -> _Rig:
        soft = passage.model
        if self.confidence:
            soft = soft.with_confidence(self.confidence * SOFTER)
        backend = ReuseBackend(soft.path, threads, SEED_SHARE)
        frames = [passage.frame(at) for at in range(len(passage.pictures))]
        records = LayerRecords(backend.session)
        return _Rig(backend, soft, records, measure(backend, soft, frames))

    def close(self) -> None:
        for rig in self._rigs.values():
            rig.backend.close()

    def repeatability(self, over: Sequence[Passage]) -> dict[str, float | int | None]:
        """Of the worst of the passages, see `RepeatMeter.figures`."""
        each = [self._repeated(passage).figures() for passage in over]
        known = [figures for figures in each if figures["kept"] is not None]
        return min(known, key=lambda figures: figures["kept"] or 0.0, default=each[0])

    def _repeated(self, passage: Passage) -> RepeatMeter:
        backend = self._rigs[passage.model.size].backend
        meter = RepeatMeter(passage.model, lambda feed: backend.run(feed, None))
        step = max(1, len(passage.pictures) // REPEATED)
        for at, (picture, view) in enumerate(zip(passage.pictures, passage.views, strict=True)):
            meter.add(picture, view, None if at % step else self._counted(passage.dense[at]))
        return meter

    def _counted(self, dense: Result) -> Result:
        """The dense result with the boxes that count."""
        return confident(dense, self.confidence) if isinstance(dense, Detections) else dense

    def doubts(self, over: Sequence[Passage]) -> list[Doubt]:
        """What the passages lack."""
        counted = [self._counted(dense) for passage in over for dense in passage.dense]
        telling = 0
        for dense in counted:
            alone = agreement_with(dense)
            alone.add(dense, dense)
            telling += alone.telling
        boxes = [len(dense) for dense in counted if isinstance(dense, Detections)]
        return too_little(len(counted), telling, sum(boxes) if boxes else None)

    def spreads(self, passage: Passage) -> dict[str, dict[str, float]]:
        """Ways to spread one number over the layers, each with a median of 1.

        "change": as a layer's values move between pictures APART frames from each other, by their
        magnitude; "deep": small layers the more, by the fourth root of their positions.
        """
        rig = self._rigs[passage.model.size]
        session = rig.backend.session
        moved, size = dict.fromkeys(self.layers, 0.0), dict.fromkeys(self.layers, 0.0)
        area = dict.fromkeys(self.layers, 1.0)
        last = len(passage.pictures) - 1
        for at in range(0, last, max(1, last // PAIRS)):
            before: dict[str, NDArray[np.float32]] = {}
            for picture in (passage.pictures[at], passage.pictures[min(at + APART, last)]):
                rig.backend.run(rig.model.feed(picture), None)
                for name in self.layers:
                    values = activation(session, name).copy()
                    area[name] = float(np.prod(values.shape[:2]))
                    if name in before:
                        moved[name] += float(np.mean(np.square(values - before[name])))
                        size[name] += float(np.mean(np.square(values)))
                    before[name] = values
        change = {name: (moved[name] / max(size[name], 1e-30)) ** 0.5 for name in self.layers}
        deep = {name: area[name] ** -0.25 for name in self.layers}
        return {
            "uniform": dict.fromkeys(self.layers, 1.0),
            "change, deep": _centred({name: change[name] * deep[name] for name in self.layers}),
            "change twice, deep": _centred(
                {name: change[name] ** 2 * deep[name] for name in self.layers}
            ),
            "deep": _centred(deep),
            "change": _centred(change),
        }

    def outcome(self, setting: TrialSetting, over: Sequence[Passage]) -> Outcome:
        """Play all frames of each window from its beginning."""
        costs: list[tuple[float, float]] = []
        losses, qualities, steady, strict = [], [], [], []
        for passage in over:
            judge = TrialJudge(self.confidence, self.decibels)
            first = 0
            for begin, window_end in passage.windows:
                end = first + window_end - begin
                costs += self._play(setting, passage, range(first, end), judge)
                first = end
            losses.append(judge.loss)
            qualities.append(judge.quality)
            steady.append(judge.steady)
            strict.append(judge.strict)
        cost, work = np.mean(costs, axis=0)
        return Outcome(
            float(cost), float(np.mean(losses)), min(qualities), min(steady), float(work),
            min(strict),
        )  # fmt: skip

    def _play(
        self, setting: TrialSetting, passage: Passage, frames: range, judge: TrialJudge
    ) -> list[tuple[float, float]]:
        """-> of each frame but the first: what it costs and its work, see `Outcome`."""
        rig = self._rigs[passage.model.size]
        backend = rig.backend
        backend.session.reset()
        backend.session.tolerance = Tolerance(SEED_SHARE, dict(setting.shares))
        figures: list[tuple[float, float]] = []
        with Runner(
            rig.model,
            Settings("layer", max_age_s=math.inf, gating=setting.gate),
            slot=BackendSlot(lambda path: BorrowedBackend(backend), incremental=True),
            study=StudySettings(frame_skipping=setting.frame_skipping, scene_cuts=False),
        ) as runner:
            for at in frames:
                step = runner.step(passage.frame(at))
                if at > frames[0]:
                    figures.append(rig.cost(step, setting.frame_skipping))
                    judge.add(step.result, passage.dense[at])
        return figures


def _centred(shares: Mapping[str, float]) -> dict[str, float]:
    """The same with a median of 1, none further than a hundred times off."""
    middle = float(np.median([share for share in shares.values() if share > 0] or [1.0]))
    return {name: min(max(share / middle, 0.01), 100.0) for name, share in shares.items()}
