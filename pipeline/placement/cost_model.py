"""The planner: predicts from measured costs what every way of placing the stages takes.

Pure functions; nothing here measures or moves anything. The model of a prediction:

* A stage's cost is what an item takes alone, on an idle core of speed 1.
* `others` threads of other processes also want to run. With `own` of ours on n cores each runnable
  thread gets a share n / (own + others) of a core, at most 1; everything takes 1 / share as long.
* Threads that meet after each layer must run at the same time. With g threads and a share a that is
  so for a**g of the time. This is why many threads lose on a shared machine.
* One item after the other: its time is the sum of the stages. Overlapped, the time between frames
  is the largest of: the slowest stage, all CPU time over the cores granted, and latency / window.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from stillframe.errors import UsageError
from stillframe.pipeline.executor.hardware.topology import cpu_list
from stillframe.pipeline.placement.backend_choice import BackendChoice

Aim = Literal["throughput", "latency", "share"]
AIMS: tuple[Aim, ...] = get_args(Aim)
INFER = "infer"
SECOND = "infer-2"
HAND_OFF_MS = 0.1
"""Between two threads."""
HALF = 0.5
CLOSE = 0.02
"""Predictions closer than this count as equal: the simpler candidate wins."""
BUSY_MACHINE = 0.25
"""Competing threads above which the system had better move our threads about."""
Cores = frozenset[int]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an item takes in one stage, alone on the machine."""

    wall_ms: float
    cpu_ms: float
    """CPU time of all threads that work for it."""

    def alone(self, share: float, helped: bool) -> "Cost":
        """Take contention out of a measured cost.

        share: of a core that each thread got. helped: other threads work for the stage too. A
        stage with one thread takes as long as its CPU time; else the wall time is scaled.
        """
        return Cost(self.wall_ms * share if helped else self.cpu_ms, self.cpu_ms)


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Everything measured that a prediction needs."""

    stages: Mapping[str, Cost]
    """Every stage but the network's, in order."""
    infer: Mapping[BackendChoice, tuple[Cost, ...]]
    """Of each backend: a cost for each of its stages."""
    cores: tuple[int, ...]
    """Allowed cores."""
    speed: Mapping[int, float] = field(default_factory=dict)
    """Of each core; the fastest is 1."""
    others: float = 0.0
    """Competing threads of other processes."""
    capacity: float = 0.0
    """CPU quota in cores; 0: none."""

    @property
    def usable(self) -> float:
        """Cores' worth of CPU time on an idle machine."""
        return min(len(self.cores), self.capacity or len(self.cores))

    @property
    def is_shared(self) -> bool:
        """Whether other processes compete for the cores."""
        return self.others > BUSY_MACHINE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to run."""

    infer: BackendChoice
    window: int
    """Frames in flight; 1: one after the other."""
    pins: tuple[tuple[str, Cores], ...] = ()
    """Stage -> cores; the system places the stages that are not named."""

    def __str__(self) -> str:
        how = "one after the other" if self.window == 1 else f"{self.window} frames under way"
        stages_by_cores: dict[str, list[str]] = {}
        for name, cores in self.pins:
            stages_by_cores.setdefault(f"cpu:{cpu_list(cores)}", []).append(name)
        pins = "; ".join(f"{'+'.join(names)} on {cpus}" for cpus, names in stages_by_cores.items())
        return f"{self.infer}, {how}, {pins or 'nothing pinned'}"

    def cores(self, stage: str) -> Cores:
        """Where a stage is pinned; empty: nowhere."""
        return dict(self.pins).get(stage, frozenset())


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a candidate takes, predicted or measured."""

    candidate: Candidate
    frame_ms: float
    """Between two frames that are delivered."""
    latency_ms: float
    """Of one frame, from being read to being delivered."""
    cpu_ms: float
    """Of one frame, all threads."""

    def scaled(self, factor: float) -> "Prediction":
        """With times, but not CPU time, multiplied by the factor."""
        return replace(self, frame_ms=self.frame_ms * factor, latency_ms=self.latency_ms * factor)


@dataclass(frozen=True, slots=True)
class Goal:
    """What the planner is to reach."""

    aim: Aim = "throughput"
    budget: float = 0.0
    """For aim "share": cores' worth of CPU time; 0: no cap."""
    manual_pins: Mapping[str, Cores] = field(default_factory=dict)
    """Stage -> cores that the user pinned it to."""
    replans: bool = True
    """False: the first plan stays whatever happens."""
    floor_ms: float = 0.0
    """Between two frames of a live source: nothing delivers them sooner."""

    def objective(self, prediction: Prediction) -> float:
        """Milliseconds that the aim minimises."""
        if self.aim == "latency":
            return prediction.latency_ms
        is_capped = self.aim == "share" and self.budget > 0
        capped_ms = prediction.cpu_ms / self.budget if is_capped else 0.0
        return max(prediction.frame_ms, capped_ms, self.floor_ms)


def candidates(
    costs: StageCosts, manual_pins: Mapping[str, Cores], windows: Iterable[int]
) -> Iterator[Candidate]:
    """Every way to run. Stages that the user pinned stay where they are, and no other is pinned."""
    names = list(costs.stages)
    manual = tuple(manual_pins.items())
    for choice, parts in costs.infer.items():
        layouts = [manual]
        if not manual and (apart := _network_apart(costs, names, choice, len(parts))):
            layouts.append(apart)
        for window in windows:
            if window == 1 and len(parts) > 1:
                continue  # segments work on consecutive frames, or are pointless
            for pins in layouts:
                if window > 1 or pins == manual:
                    yield Candidate(choice, window, pins)


def _network_apart(
    costs: StageCosts, names: list[str], choice: BackendChoice, segments: int
) -> tuple[tuple[str, Cores], ...]:
    """The network on the fastest cores, everything else on the others; empty: too few cores."""
    by_speed = sorted(costs.cores, key=lambda core: (-costs.speed.get(core, 1.0), core))
    if segments > 1:
        if len(by_speed) < segments:
            return ()
        network = [(INFER, frozenset(by_speed[:1])), (SECOND, frozenset(by_speed[1:2]))]
        rest = frozenset(by_speed[2:])
    else:
        network = [(INFER, frozenset(by_speed[: choice.threads]))]
        rest = frozenset(by_speed[choice.threads :])
        if not rest:
            return ()
    return (*network, *((name, rest) for name in names if rest))


def predict(costs: StageCosts, candidate: Candidate) -> Prediction:
    """What a candidate takes. The module's docstring states the model."""
    parts = costs.infer[candidate.infer]
    every = [*costs.stages.values(), *parts]
    cpu_ms = sum(cost.cpu_ms for cost in every)
    threads = candidate.infer.threads
    cores = len(costs.cores)
    # Threads of ours that want to run at a time: all CPU time over the time of the slowest stage.
    busy_ms = max(cost.wall_ms for cost in every)
    own = float(threads)
    if candidate.window > 1:
        own = min(cores, max(threads, cpu_ms / max(busy_ms, 1e-9)))
    share = min(1.0, cores / (own + costs.others), costs.usable / max(own, 1.0))
    names = [*costs.stages, INFER, SECOND][: len(every)]
    gang = share ** (threads - 1)

    def stage_ms(name: str, cost: Cost) -> float:
        pinned = candidate.cores(name) or frozenset(costs.cores)
        speed = sum(costs.speed.get(core, 1.0) for core in pinned) / len(pinned)
        rate = share * speed * (gang if name in (INFER, SECOND) else 1.0)
        return cost.wall_ms / rate + HAND_OFF_MS

    times = {name: stage_ms(name, cost) for name, cost in zip(names, every, strict=True)}
    latency_ms = sum(times.values())
    if candidate.window == 1:
        return Prediction(candidate, latency_ms, latency_ms, cpu_ms)
    granted = min(costs.usable, cores * own / (own + costs.others))
    bounds = [max(times.values()), latency_ms / candidate.window, cpu_ms / granted]
    bounds += _core_bounds(costs, candidate, dict(zip(names, every, strict=True)), share)
    frame_ms = max(bounds)
    return Prediction(candidate, frame_ms, max(latency_ms, candidate.window * frame_ms), cpu_ms)


def _core_bounds(
    costs: StageCosts, candidate: Candidate, cost_by_stage: Mapping[str, Cost], share: float
) -> Iterator[float]:
    """The time per frame that stages pinned to the same cores need on them together."""
    cpu_ms_by_cores: dict[Cores, float] = {}
    for name, cost in cost_by_stage.items():
        if cores := candidate.cores(name):
            cpu_ms_by_cores[cores] = cpu_ms_by_cores.get(cores, 0.0) + cost.cpu_ms
    for cores, cpu_ms in cpu_ms_by_cores.items():
        yield cpu_ms / (sum(costs.speed.get(core, 1.0) for core in cores) * share)


def choose(predictions: Iterable[Prediction], goal: Goal, shared: bool = False) -> Prediction:
    """The best for the goal; among equals the one with the least CPU time, latency and threads.

    shared: other processes compete, so unpinned threads are preferred, which the system can move;
    else pinned ones, which keep their cache.
    """
    predictions = list(predictions)
    limit = min(map(goal.objective, predictions)) * (1 + CLOSE)
    return min(
        (each for each in predictions if goal.objective(each) <= limit),
        key=lambda each: (
            round(each.cpu_ms, 1),
            round(each.latency_ms, 1),
            each.candidate.infer,
            bool(each.candidate.pins) == shared,
            str(each.candidate),
        ),
    )


def plan(costs: StageCosts, goal: Goal, windows: Iterable[int]) -> list[Prediction]:
    """A prediction of every way to run: the choice first, the others from best to worst.

    Raises UsageError if nothing can run the network.
    """
    predictions = [predict(costs, each) for each in candidates(costs, goal.manual_pins, windows)]
    if not predictions:
        raise UsageError("placement: nothing here can run the network as it was asked for")
    best = choose(predictions, goal, costs.is_shared)
    return [best, *sorted((p for p in predictions if p is not best), key=goal.objective)]


@dataclass(slots=True)
class Hysteresis:
    """When a better prediction is worth a change of plan.

    It must be better several times in a row, and not soon after the last change. A prediction of
    half the time needs one time less: others have come, and every frame waits. A change that
    brought nothing doubles the rest.
    """

    gain: float = 0.2
    """The least share of the time that must be saved."""
    patience: int = 3
    """Times in a row."""
    rest_s: float = 4.0
    """Between two changes at least."""
    _agreed: int = 0
    """Times in a row so far."""
    _changed_s: float = -1e9
    _before_ms: float = 0.0
    """Measured before the last change; 0: judged already."""

    def agrees(self, measured_ms: float, predicted_ms: float, now_s: float) -> bool:
        """Whether to change from what is measured to what is predicted of another plan."""
        better = predicted_ms < measured_ms * (1 - self.gain)
        self._agreed = self._agreed + 1 if better else 0
        patience = self.patience - (predicted_ms < measured_ms * HALF)
        return self._agreed >= patience and now_s - self._changed_s >= self.rest_s

    def changed(self, before_ms: float, now_s: float) -> None:
        """The plan was changed. before_ms: measured with the old one."""
        self._agreed, self._changed_s, self._before_ms = 0, now_s, before_ms

    def judge(self, measured_ms: float) -> None:
        """Compare the first measurement after a change with the last one before it."""
        if self._before_ms and measured_ms > self._before_ms * (1 - self.gain / 2):
            self.rest_s = min(self.rest_s * 2, 120.0)
        self._before_ms = 0.0
