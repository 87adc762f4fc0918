"""The planner: from measured costs to what every way of placing the stages would take.

Pure functions; nothing here measures or moves anything. The model behind a prediction:

* A stage's cost is what an item takes alone, on a core of speed 1 that nothing else wants.
* `others` threads of other processes also want to run. With `own` of ours on n cores each runnable
  thread gets n / (own + others) of a core, one at most: everything takes that much longer.
* Workers that meet after each layer must run at the same time: with g of them and a core's share a,
  that is so a part a**g of the time. This is why many threads lose on a shared machine.
* One item after the other: its time is the sum. Overlapped, a frame leaves every so often as the
  slowest stage takes, or as the cores allow, or as the window divided among the frames in it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from stillframe.pipeline.executor.hardware.topology import cpu_list
from stillframe.pipeline.placement.backend_choice import BackendChoice

Aim = Literal["throughput", "latency", "share"]
AIMS: tuple[Aim, ...] = get_args(Aim)
INFER = "infer"
SECOND = "infer-2"
HAND_OFF_MS = 0.1  # between two threads
HALF = 0.5
CLOSE = 0.02  # predictions closer than this are equal: the simpler candidate wins
Cores = frozenset[int]


@dataclass(frozen=True, slots=True)
class Cost:
    """wall_ms: of an item, alone. cpu_ms: processor time, of all threads that work for it."""

    wall_ms: float
    cpu_ms: float

    def alone(self, share: float, helped: bool) -> "Cost":
        """This cost as measured beside others, who left each thread a share of a core. What one
        thread does takes as long as its processor time; where more work for it (helped), the clock
        tells, without what others took."""
        return Cost(self.wall_ms * share if helped else self.cpu_ms, self.cpu_ms)


@dataclass(frozen=True, slots=True)
class StageCosts:
    """What was measured. stages: all but the network's, in order. infer: of each granularity, a
    cost for each of its stages. cores: that may be used; speed: of each, the fastest is 1.
    others: threads of other processes that want to run. capacity: cores' worth granted.
    """

    stages: Mapping[str, Cost]
    infer: Mapping[BackendChoice, tuple[Cost, ...]]
    cores: tuple[int, ...]
    speed: Mapping[int, float] = field(default_factory=dict)
    others: float = 0.0
    capacity: float = 0.0

    @property
    def usable(self) -> float:
        """Cores' worth of time, without what others take."""
        return min(len(self.cores), self.capacity or len(self.cores))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to run. window: frames under way, 1: one after the other. pins: stage -> cores; a stage
    that is not named goes where the system puts it."""

    infer: BackendChoice
    window: int
    pins: tuple[tuple[str, Cores], ...] = ()

    def __str__(self) -> str:
        how = "one after the other" if self.window == 1 else f"{self.window} frames under way"
        where: dict[str, list[str]] = {}
        for name, cores in self.pins:
            where.setdefault(f"cpu:{cpu_list(cores)}", []).append(name)
        told = "; ".join(f"{'+'.join(names)} on {cores}" for cores, names in where.items())
        return f"{self.infer}, {how}, {told or 'nothing pinned'}"

    def cores(self, stage: str) -> Cores:
        """Where a stage is pinned; empty: nowhere."""
        return dict(self.pins).get(stage, frozenset())


@dataclass(frozen=True, slots=True)
class Prediction:
    """frame_ms: between two frames that leave. latency_ms: of one frame. cpu_ms: of one frame."""

    candidate: Candidate
    frame_ms: float
    latency_ms: float
    cpu_ms: float

    def scaled(self, factor: float) -> "Prediction":
        return replace(self, frame_ms=self.frame_ms * factor, latency_ms=self.latency_ms * factor)


def candidates(
    profile: StageCosts, hand: Mapping[str, Cores], windows: Iterable[int]
) -> Iterator[Candidate]:
    """Every way to run. hand: stages that were pinned by hand, and stay so."""
    names = list(profile.stages)
    fixed = tuple(hand.items())
    for granularity, costs in profile.infer.items():
        layouts = [fixed]
        if not hand and (apart := _apart(profile, names, granularity, len(costs))):
            layouts.append(apart)
        for window in windows:
            if window == 1 and len(costs) > 1:
                continue  # segments work on consecutive frames, or not at all
            for pins in layouts:
                if window > 1 or pins == fixed:
                    yield Candidate(granularity, window, pins)


def _apart(
    profile: StageCosts, names: list[str], granularity: BackendChoice, segments: int
) -> tuple[tuple[str, Cores], ...]:
    """The network on the fastest cores, everything else on the others; empty: too few cores."""
    by_speed = sorted(profile.cores, key=lambda core: (-profile.speed.get(core, 1.0), core))
    if segments > 1:
        if len(by_speed) < segments:
            return ()
        own = [(INFER, frozenset(by_speed[:1])), (SECOND, frozenset(by_speed[1:2]))]
        rest = frozenset(by_speed[2:])
    else:
        own = [(INFER, frozenset(by_speed[: granularity.threads]))]
        rest = frozenset(by_speed[granularity.threads :])
        if not rest:
            return ()
    return (*own, *((name, rest) for name in names if rest))


def predict(profile: StageCosts, candidate: Candidate) -> Prediction:
    """What a candidate would take."""
    parts = profile.infer[candidate.infer]
    costs = [*profile.stages.values(), *parts]
    cpu_ms = sum(cost.cpu_ms for cost in costs)
    threads = candidate.infer.threads
    cores = len(profile.cores)
    # how many of our threads want to run at a time: the work in them over the time there is
    busy = max(cost.wall_ms for cost in costs)
    own = threads if candidate.window == 1 else min(cores, max(threads, cpu_ms / max(busy, 1e-9)))
    share = min(1.0, cores / (own + profile.others), profile.usable / max(own, 1.0))
    names = [*profile.stages, INFER, SECOND][: len(profile.stages) + len(parts)]
    gang = share ** (threads - 1)

    def lasts(name: str, cost: Cost) -> float:
        pinned = candidate.cores(name) or frozenset(profile.cores)
        speed = sum(profile.speed.get(core, 1.0) for core in pinned) / len(pinned)
        slow = share * speed * (gang if name in (INFER, SECOND) else 1.0)
        return cost.wall_ms / slow + HAND_OFF_MS

    times = {name: lasts(name, cost) for name, cost in zip(names, costs, strict=True)}
    latency_ms = sum(times.values())
    if candidate.window == 1:
        return Prediction(candidate, latency_ms, latency_ms, cpu_ms)
    granted = min(profile.usable, cores * own / (own + profile.others))
    bounds = [max(times.values()), latency_ms / candidate.window, cpu_ms / granted]
    bounds += _core_bounds(profile, candidate, dict(zip(names, costs, strict=True)), share)
    frame_ms = max(bounds)
    return Prediction(candidate, frame_ms, max(latency_ms, candidate.window * frame_ms), cpu_ms)


def _core_bounds(
    profile: StageCosts, candidate: Candidate, costs: Mapping[str, Cost], share: float
) -> Iterator[float]:
    """What stages that are pinned to the same cores take of them together."""
    sets: dict[Cores, float] = {}
    for name, cost in costs.items():
        if cores := candidate.cores(name):
            sets[cores] = sets.get(cores, 0.0) + cost.cpu_ms
    for cores, cpu_ms in sets.items():
        yield cpu_ms / (sum(profile.speed.get(core, 1.0) for core in cores) * share)


def worth(prediction: Prediction, aim: Aim, budget: float = 0.0, floor_ms: float = 0.0) -> float:
    """What the aim wants small. budget: cores' worth of time that may be spent; 0: no cap.
    floor_ms: between two frames of a live source: no way to run brings them sooner."""
    if aim == "latency":
        return prediction.latency_ms
    capped = prediction.cpu_ms / budget if aim == "share" and budget else 0.0
    return max(prediction.frame_ms, capped, floor_ms)


def choose(
    predictions: Iterable[Prediction],
    aim: Aim,
    budget: float = 0.0,
    floor_ms: float = 0.0,
    shared: bool = False,
) -> Prediction:
    """The best for the aim; of those as good, the one that takes least processor time, then the
    least latency, then the fewest threads. shared: others compete, so the system had better move
    threads about; else a thread that stays keeps its cache."""
    found = list(predictions)
    best = min(worth(each, aim, budget, floor_ms) for each in found)
    limit = best * (1 + CLOSE)
    near = [each for each in found if worth(each, aim, budget, floor_ms) <= limit]
    return min(
        near,
        key=lambda each: (
            round(each.cpu_ms, 1),
            round(each.latency_ms, 1),
            each.candidate.infer,
            bool(each.candidate.pins) == shared,
            str(each.candidate),
        ),
    )


@dataclass(slots=True)
class Hysteresis:
    """When a better prediction is worth a change: by `gain` at least, `patience` times in a row,
    and not within `rest_s` of the last one. One that takes half needs one time less: others have
    come, and every frame waits for it. A change that brought nothing doubles the rest."""

    gain: float = 0.2
    patience: int = 3
    rest_s: float = 4.0
    _seen: int = 0
    _changed_s: float = -1e9
    _was: float = 0.0

    def agrees(self, now: float, chosen: float, now_s: float) -> bool:
        """now: what is measured. chosen: what is predicted of the other. now_s: the clock."""
        better = chosen < now * (1 - self.gain)
        self._seen = self._seen + 1 if better else 0
        patience = self.patience - (chosen < now * HALF)
        return self._seen >= patience and now_s - self._changed_s >= self.rest_s

    def changed(self, was: float, now_s: float) -> None:
        """A change was made; was: what was measured before it."""
        self._seen, self._changed_s, self._was = 0, now_s, was

    def judged(self, now: float) -> None:
        """now: what is measured after the change; once for each change."""
        if self._was and now > self._was * (1 - self.gain / 2):
            self.rest_s = min(self.rest_s * 2, 120.0)
        self._was = 0.0
