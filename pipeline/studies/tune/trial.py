"""What a setting does on some frames: the work it takes, what it loses, how well it agrees.

    bench = TuneBench(model, [passage, …], threads)
    outcome = bench.outcome(Setting(shares, gate), passages)

Dense results are computed once. What a setting takes is counted, not timed: the positions that each
layer computes, at what one of that layer takes, which is measured once, at the start. So whatever
else the machine does during the search, the same frames give the same figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import SourceError, UsageError
from stillframe.models.model import Model, View
from stillframe.models.results import Detections, Result
from stillframe.pipeline.inference.box_flow import Grey, Lens
from stillframe.pipeline.inference.cadenced import Cadenced
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.quality.agreement import (
    FLOORS,
    Agreement,
    BoxAgreement,
    Kind,
    agreement_with,
)
from stillframe.pipeline.quality.detection import soft_loss
from stillframe.pipeline.studies.tune.cost import LayerCosts, computed, measure, with_surroundings
from stillframe.reuse.gate.change_gate import ChangeGate, GateSettings
from stillframe.reuse.plan.tolerance import Tolerance
from stillframe.reuse.session import ReuseSession

AROUND = (0.6, 0.8, 1.0, 1.2, 1.4)  # parts of the confidence at which boxes agree steadily
SOFTER = 0.5  # boxes from that part of the confidence on count for the loss, so that it is smooth
HIGHEST = 0.95
LEAST_FRAMES = 8
WINDOWS = 10
LEAST_WINDOW = 4  # frames; shorter clips are cut into fewer windows
SEED_SHARE = 0.1
PAIRS, APART = 6, 2  # pictures between which layers are seen to change


Role = Literal["search", "check", "held out"]
SHARES: Mapping[Role, float] = {"search": 0.4, "held out": 0.4, "check": 0.2}


@dataclass(frozen=True, slots=True)
class TrialSetting:
    """A share for each layer that compares, how change is found, and which frames pass."""

    shares: Mapping[str, float]
    gate: GateSettings = field(default_factory=GateSettings)
    cadence: FrameSkipping = field(default_factory=FrameSkipping)

    def scaled(self, factor: float) -> "TrialSetting":
        return replace(self, shares={name: each * factor for name, each in self.shares.items()})


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of all frames but the first of each window, which is computed whole.

    cost: expected time, as a share of computing everything, mean over the frames. loss: 0 for none,
    smooth. quality: the worst clip's agreement. steady: the same, of boxes at several confidences
    at once: few boxes agree by chance, and it must hold on other frames. work: multiply-adds, as a
    share of all, mean over the frames."""

    cost: float
    loss: float
    quality: float
    steady: float
    work: float = float("nan")


@dataclass(slots=True)
class Passage:
    """Windows of a clip, of consecutive frames at the model's size, and what computing everything
    gives.

    windows: the clip's frames from the first up to the one behind the last, of each window; role:
    what they are for, see `passages`. pictures, views, dense: of all of them, one after the other;
    greys: the same as boxes are followed on, of detectors only. shape: of a frame. frame_s: from
    one to the next.
    """

    clip: str
    windows: tuple[tuple[int, int], ...]
    role: Role
    model: Model
    pictures: list[NDArray[np.uint8]]
    views: list[View]
    greys: list[Grey]
    shape: tuple[int, ...]
    frame_s: float
    dense: list[Result] = field(default_factory=list)


def passages(
    spec: str, model: Model, frames: int, shares: Mapping[Role, float] = SHARES
) -> list[Passage]:
    """The first frames of a clip, in windows that take turns: to search on, to check that what was
    found holds elsewhere, and to judge on at last, which nothing is decided by. So each part sees
    all of what happens in the clip.

    Raises SourceError for a clip that is too short.
    """
    fitted: list[tuple[NDArray[np.uint8], View]] = []
    greys: list[Grey] = []
    shape: tuple[int, ...] = ()
    fixed, lens = model, Lens() if model.task == "detection" else None
    times = []
    with open_source(spec, live=False) as source:
        name = source.info.spec
        for frame in islice(source, frames):
            if not fitted:
                shape = frame.image.shape
                fixed = model.for_source(*shape[:2])
            picture, view = fixed.fit(frame.image)
            fitted.append((np.array(picture), view))
            times.append(frame.time_s)
            if lens is not None:
                greys.append(lens.grey(frame.image))
    if len(fitted) < LEAST_FRAMES:
        raise SourceError(
            f"{spec}: expected a clip of at least {LEAST_FRAMES} frames to tune on, "
            f"got {len(fitted)}"
        )
    frame_s = float(np.median(np.diff(times)))
    found = []
    turns = windows(len(fitted), shares)
    for role in shares:
        spans = tuple(span for span, turn in turns if turn == role)
        taken = [at for first, end in spans for at in range(first, end)]
        pictures, views = [fitted[at][0] for at in taken], [fitted[at][1] for at in taken]
        seen = [greys[at] for at in taken] if greys else []
        found.append(Passage(name, spans, role, fixed, pictures, views, seen, shape, frame_s))
    return found


def windows(frames: int, shares: Mapping[Role, float]) -> list[tuple[tuple[int, int], Role]]:
    """Spans of frames, and whose turn each is: theirs who lack most of their share so far."""
    count = min(WINDOWS, max(frames // LEAST_WINDOW, len(shares))) if len(shares) > 1 else 1
    ends = [at * frames // count for at in range(count + 1)]
    given = dict.fromkeys(shares, 0)
    found = []
    for turn, span in enumerate(pairwise(ends), 1):
        role = max(shares, key=lambda each: round(shares[each] * turn - given[each], 6))
        given[role] += 1
        found.append((span, role))
    return found


class TuneBench:
    """Sessions for the sizes of the passages, and their dense results. Close it in the end.

    layers: those that compare, in the order of the network. kind, floor: of quality, and what
    counts as the same. Raises UsageError for a model without such layers.
    """

    def __init__(self, model: Model, all_passages: Sequence[Passage], threads: int) -> None:
        self.confidence = model.form.confidence if model.task == "detection" else 0.0
        self._sessions: dict[tuple[int, int], ReuseSession] = {}
        self._models: dict[tuple[int, int], Model] = {}
        self._costs: dict[tuple[int, int], LayerCosts] = {}
        for passage in all_passages:
            size = passage.model.size
            if size not in self._sessions:
                self._sessions[size] = ReuseSession(
                    passage.model.path, tolerance=SEED_SHARE, threads=threads
                )
                soft = passage.model
                if self.confidence:
                    soft = soft.with_confidence(self.confidence * SOFTER)
                self._models[size] = soft
                self._costs[size] = measure(self._sessions[size], soft, passage.pictures)
            session, soft = self._sessions[size], self._models[size]
            for picture, view in zip(passage.pictures, passage.views, strict=True):
                outputs, _ = session.step(soft.feed(picture), dense=True)
                passage.dense.append(soft.decode([np.array(each) for each in outputs], view))
            if not self._costs[size].fit:
                self._costs[size] = with_surroundings(
                    self._costs[size], soft, passage.shape, outputs, passage.dense, passage.greys
                )
        self.layers = tuple(next(iter(self._sessions.values())).plan.cutoffs)
        if not self.layers:
            raise UsageError(
                f"{model.name}: no layer of it keeps values, so there is no tolerance to tune"
            )
        self.kind: Kind = agreement_with(all_passages[0].dense[0]).kind
        self.floor = FLOORS[self.kind]

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()

    def spreads(self, passage: Passage) -> dict[str, dict[str, float]]:
        """Ways to spread one number over the layers, each with a middle of 1.

        "change": as a layer's values move between pictures APART frames from each other, by their
        magnitude; "deep": small layers the more, by the fourth root of their positions.
        """
        session, soft = self._sessions[passage.model.size], self._models[passage.model.size]
        plan = session.plan
        moved, size = dict.fromkeys(self.layers, 0.0), dict.fromkeys(self.layers, 0.0)
        last = len(passage.pictures) - 1
        for at in range(0, last, max(1, last // PAIRS)):
            before: dict[str, NDArray[np.float32]] = {}
            for picture in (passage.pictures[at], passage.pictures[min(at + APART, last)]):
                session.step(soft.feed(picture), dense=True)
                for name in self.layers:
                    values = plan.view(name).copy()
                    if name in before:
                        moved[name] += float(np.mean(np.square(values - before[name])))
                        size[name] += float(np.mean(np.square(values)))
                    before[name] = values
        area = {name: float(np.prod(plan.graph.shapes[name][:2])) for name in self.layers}
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
        losses, qualities, steady = [], [], []
        for passage in over:
            judge = _Judge(self.confidence)
            first = 0
            for begin, end in passage.windows:
                behind = first + end - begin
                costs += self._play(setting, passage, range(first, behind), judge)
                first = behind
            losses.append(judge.loss)
            qualities.append(judge.quality)
            steady.append(judge.steady)
        cost, work = np.mean(costs, axis=0)
        return Outcome(
            float(cost), float(np.mean(losses)), min(qualities), min(steady), float(work)
        )

    def _play(
        self, setting: TrialSetting, passage: Passage, frames: range, judge: "_Judge"
    ) -> list[tuple[float, float]]:
        """-> of each frame but the first: what it costs and its work, see `Outcome`."""
        size = passage.model.size
        session, soft, costs = self._sessions[size], self._models[size], self._costs[size]
        session.reset()
        session.tolerance = Tolerance(SEED_SHARE, dict(setting.shares))
        gate, beat = (
            ChangeGate(*soft.size, setting.gate),
            Cadenced(setting.cadence, passage.frame_s),
        )
        found: list[tuple[float, float]] = []
        network: Result | None = None
        for at in frames:
            grey = passage.greys[at] if setting.cadence.follows and passage.greys else None
            if beat.passes():
                cost, work = costs.passed(setting.cadence), 0.0
                result = beat.passed(grey, passage.shape)
            else:
                change = gate.step(passage.pictures[at])
                if change.kind == "unchanged" and network is not None:
                    cost, work = costs.unchanged, 0.0
                else:
                    whole = change.kind == "all"
                    outputs, stats = session.step(
                        soft.feed(gate.reference), None if whole else change.mask, dense=whole
                    )
                    network = soft.decode(outputs, passage.views[at])
                    beat.computed(network, grey)
                    cost = 1.0 if stats.dense else costs.step(computed(session))
                    work = stats.work
                cost += costs.added(setting.cadence)
                result = network
            if at > frames[0]:
                found.append((cost, work))
                judge.add(result, passage.dense[at])
        return found


class _Judge:
    def __init__(self, confidence: float) -> None:
        self._confidence = confidence
        self._whole: Agreement | None = None
        self._around = BoxAgreement()
        self._lost = self._at_stake = 0.0

    def add(self, result: Result, dense: Result) -> None:
        if isinstance(result, Detections) and isinstance(dense, Detections):
            lost, at_stake = soft_loss(result, dense, self._confidence * SOFTER)
            self._lost, self._at_stake = self._lost + lost, self._at_stake + at_stake
            for part in AROUND:
                least = min(part * self._confidence, HIGHEST)
                self._around.add(strong(result, least), strong(dense, least))
            result, dense = strong(result, self._confidence), strong(dense, self._confidence)
        self._whole = self._whole or agreement_with(dense)
        self._whole.add(result, dense)

    @property
    def quality(self) -> float:
        return self._whole.value if self._whole is not None else 1.0

    @property
    def steady(self) -> float:
        if self._whole is None or self._whole.kind != "f1":
            return self.quality
        return self._around.value

    @property
    def loss(self) -> float:
        if self._whole is None or self._whole.kind == "f1":
            return self._lost / self._at_stake if self._at_stake else self._lost
        if self._whole.kind == "psnr":
            return float(10 ** (-self._whole.value / 20))
        return 1 - self._whole.value


def strong(result: Detections, confidence: float) -> Detections:
    """The boxes of at least that confidence."""
    keep = result.confidence >= confidence
    return Detections(
        result.xyxy[keep], result.confidence[keep], result.class_id[keep], result.labels
    )


def _centred(shares: Mapping[str, float]) -> dict[str, float]:
    """The same with a middle of 1, none further than a hundred times off."""
    middle = float(np.median([share for share in shares.values() if share > 0] or [1.0]))
    return {name: min(max(share / middle, 0.01), 100.0) for name, share in shares.items()}
