"""Placement while running: watch what the plan takes, and change it when another would be better.

What was decided, and why, is a line each in `decisions`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stillframe.errors import UsageError
from stillframe.pipeline.executor.hardware.affinity import allowed_everywhere
from stillframe.pipeline.executor.hardware.contention import ContentionMeter
from stillframe.pipeline.executor.hardware.topology import cpu_list, cpu_quota, read_cores
from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.executor.stage_meter import StageMeter
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.placement.cost_model import (
    INFER,
    SECOND,
    Aim,
    Candidate,
    Cores,
    Cost,
    Hysteresis,
    Prediction,
    StageCosts,
    candidates,
    choose,
    predict,
    worth,
)
from stillframe.pipeline.placement.profiling import made

REVIEW_S = 1.0
LOOK_S = 0.1
FEWEST_FRAMES = 4
LEARNT = 0.5  # weight of the newest ratio of measured to predicted
LIVE_WINDOWS = (1, 2, 3)
HELPED = ("decode", "encode")  # stages that FFmpeg's own threads work for


@dataclass(frozen=True, slots=True)
class Goal:
    """What the user asked for. budget: cores' worth of time for --aim share. hand: stage -> cores.
    replans: False keeps the first plan whatever happens. floor_ms: between frames of a source."""

    aim: Aim = "throughput"
    budget: float = 0.0
    hand: Mapping[str, Cores] = field(default_factory=dict)
    replans: bool = True
    floor_ms: float = 0.0


def plan(profile: StageCosts, wish: Goal, windows: tuple[int, ...]) -> list[Prediction]:
    """Every way to run with its prediction, the choice first, the others by what the aim wants.

    Raises UsageError where nothing can run the network.
    """
    found = [predict(profile, each) for each in candidates(profile, wish.hand, windows)]
    if not found:
        raise UsageError("placement: nothing here can run the network as it was asked for")
    best = choose(found, wish.aim, wish.budget, wish.floor_ms, profile.others > 0.25)
    rest = [each for each in found if each is not best]
    return [best, *sorted(rest, key=lambda p: worth(p, wish.aim, wish.budget, wish.floor_ms))]


class PlacementController:
    """Applies a plan to a pipeline and reviews it. One thread calls `tick` after each frame.

    told: is given each decision as it is made.
    """

    def __init__(
        self,
        profile: StageCosts,
        wish: Goal,
        windows: tuple[int, ...],
        competition: ContentionMeter,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.profile, self.wish, self.windows = profile, wish, windows
        self.decisions: list[str] = []
        self.replans = 0
        self._told = told
        self._probed = dict(profile.infer)
        self._corrections: dict[tuple[BackendChoice, bool], float] = {}
        self._hysteresis = Hysteresis()
        self._competition = competition
        self._builder: threading.Thread | None = None
        self._built: list[Any] = []
        self._slot: BackendSlot | None = None
        self._next_look_s = self._next_review_s = 0.0
        self._since = (0.0, 0, 0.0)  # clock, frames, processor seconds at the last review
        self._judging = False
        ranked = plan(profile, wish, windows)
        self.now = ranked[0]
        self._say(f"placed: {self._facts(self.now)}; best of {len(ranked)}{self._next(ranked)}")
        if len(profile.cores) == 1:
            self._say("one core only: stages share it, nothing is placed apart")

    # --- setting up ------------------------------------------------------------------------------

    def engine(self, analysis: InferenceStages) -> None:
        """Make the plan's engine and use it from the next frame on."""
        candidate, path = self.now.candidate, analysis.model.path
        self._slot = analysis.slot
        self._slot.swap(
            made(candidate.infer, path, analysis.settings, candidate.cores(INFER)), path
        )

    def start(self, pipeline: StagePipeline, analysis: InferenceStages) -> None:
        """The pipeline runs: put its threads where the plan wants them."""
        self._pipeline, self._analysis = pipeline, analysis
        self._pin()
        now = time.perf_counter()
        self._since = (now, pipeline.delivered, time.process_time())
        self._next_review_s = now + REVIEW_S

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "aim": self.wish.aim,
            "plan": str(self.now.candidate),
            "predicted_frame_ms": round(self.now.frame_ms, 3),
            "predicted_latency_ms": round(self.now.latency_ms, 3),
            "others": round(self.profile.others, 2),
            "decisions": list(self.decisions),
        }

    # --- watching --------------------------------------------------------------------------------

    def tick(self) -> None:
        """After each frame: look who else runs, from time to time review the plan."""
        now = time.perf_counter()
        if now >= self._next_look_s:
            self._next_look_s = now + LOOK_S
            self._competition.sample()
        self._take_over()
        if now >= self._next_review_s and self._builder is None:
            self.review(now)

    def review(self, now_s: float) -> None:
        """Compare what is measured with what was predicted; plan again where that pays."""
        began_s, frames, cpu_s = self._since
        done = self._pipeline.delivered - frames
        if done < FEWEST_FRAMES:
            return
        frame_ms = (now_s - began_s) * 1e3 / done
        spent_ms = (time.process_time() - cpu_s) * 1e3 / done
        self._since = (now_s, self._pipeline.delivered, time.process_time())
        self._next_review_s = now_s + REVIEW_S
        ages = list(self._pipeline.ages_ms)[-done:]
        latency_ms = sum(ages) / max(1, len(ages))
        self._measure(spent_ms)
        lost = self._lost_cores()
        measured = Prediction(self.now.candidate, frame_ms, latency_ms, spent_ms)
        self.compare(measured, now_s, lost)

    def compare(self, measured: Prediction, now_s: float, lost: Cores = frozenset()) -> None:
        """What to do about a measurement. lost: cores that the plan used and that are gone."""
        wish = self.wish
        ranked = plan(self.profile, wish, self.windows)
        now = worth(measured, wish.aim, wish.budget, wish.floor_ms)
        if self._judging:
            self._judging = False
            self._hysteresis.judged(now)
        if self.now.candidate.infer in self.profile.infer:
            model = predict(self.profile, self.now.candidate)
            expected = worth(model, wish.aim, wish.budget, wish.floor_ms)
            key, ratio = _way(self.now.candidate), now / expected
            before = self._corrections.get(key, ratio)
            self._corrections[key] = before + LEARNT * (ratio - before)
        corrected = [self._corrected(each) for each in ranked]
        shared = self.profile.others > 0.25
        best = choose(corrected, wish.aim, wish.budget, wish.floor_ms, shared)
        chosen = worth(best, wish.aim, wish.budget, wish.floor_ms)
        if not wish.replans and not lost:
            return
        if best.candidate == self.now.candidate:
            self._hysteresis.agrees(now, now, now_s)
            return
        if lost or self._hysteresis.agrees(now, chosen, now_s):
            why = f"core {cpu_list(lost)} disappeared" if lost else self._why(measured, now, chosen)
            self._change(best, why, now, now_s)

    def _corrected(self, prediction: Prediction) -> Prediction:
        """What was learnt of this way to run. Of one that was not tried yet it is not known how
        much of what the others showed holds for it too: half, on the scale of ratios."""
        common = max(1.0, min(self._corrections.values(), default=1.0)) ** 0.5
        return prediction.scaled(self._corrections.get(_way(prediction.candidate), common))

    def _why(self, measured: Prediction, now: float, chosen: float) -> str:
        what = "latency" if self.wish.aim == "latency" else "a frame"
        return (
            f"{self.profile.others:.1f} threads of others compete; {what} takes {now:.1f} ms,"
            f" predicted {chosen:.1f} ms"
        )

    def _change(self, best: Prediction, why: str, now: float, now_s: float) -> None:
        before = self.now.candidate
        self.now, self.replans = best, self.replans + 1
        self._hysteresis.changed(now, now_s)
        self._judging = True
        at = self._pipeline.delivered
        self._say(f"re-planned at frame {at}: {before} -> {self._facts(best)}; {why}")
        self._pipeline.window.limit = best.candidate.window
        self._pin()
        if best.candidate.infer != before.infer:
            self._build(best.candidate)

    def _build(self, candidate: Candidate) -> None:
        """Make another engine beside the running one."""
        analysis = self._analysis
        path = analysis.model.path

        def work() -> None:
            try:
                cores = candidate.cores(INFER)
                self._built.append((made(candidate.infer, path, analysis.settings, cores), path))
            except Exception as error:
                self._built.append(error)

        self._builder = threading.Thread(target=work, name="stillframe-build", daemon=True)
        self._builder.start()

    def _take_over(self) -> None:
        """Use the engine that was being made, once it is there."""
        if self._builder is None or self._builder.is_alive():
            return
        self._builder.join()
        self._builder = None
        built = self._built.pop()
        if isinstance(built, Exception):
            gone = self.now.candidate.infer
            self.profile = replace(
                self.profile,
                infer={g: c for g, c in self.profile.infer.items() if g != gone},
            )
            self._say(f"{gone} could not be made: {built}; the network stays where it was")
        else:
            self._analysis.slot.swap(*built)
            self._meter(INFER).reset()
        now = time.perf_counter()
        self._since = (now, self._pipeline.delivered, time.process_time())
        self._next_review_s = now + REVIEW_S

    def close(self) -> None:
        """Wait for a backend that is being made and close it, and all backends of the slot."""
        if self._builder is not None:
            self._builder.join()
            self._builder = None
        for built in self._built:
            if not isinstance(built, Exception):
                built[0].close()
        self._built.clear()
        if self._slot is not None:  # a backend may have come after the last frame
            self._slot.close()

    # --- the profile -----------------------------------------------------------------------------

    def _measure(self, spent_ms: float) -> None:
        """Bring the profile up to date with what the meters saw. spent_ms: of the whole process,
        processor time a frame."""
        meters = {meter.name: meter for meter in self._pipeline.meters}
        current = self.now.candidate.infer
        stages: dict[str, Cost] = {}
        cores = len(self.profile.cores)
        share = cores / (cores + self._competition.others)
        for name, old in self.profile.stages.items():
            stages[name] = old
            if (meter := meters.get(name)) is not None and meter.items:
                seen = Cost(meter.wall_ms, meter.cpu_ms)
                stages[name] = seen.alone(share, name in HELPED)
        infer = dict(self.profile.infer)
        if meters[INFER].items >= FEWEST_FRAMES:
            ratio = self._ratio(meters, current)
            for granularity, costs in self._probed.items():
                if granularity.incremental == current.incremental and granularity in infer:
                    infer[granularity] = tuple(
                        Cost(cost.wall_ms * ratio, cost.cpu_ms * ratio) for cost in costs
                    )
        known = sum(c.cpu_ms for c in (*stages.values(), *infer[current]))
        if spent_ms > known and "encode" in stages:  # helpers' threads: the encoder's, mostly
            old = stages["encode"]
            stages["encode"] = Cost(old.wall_ms, old.cpu_ms + spent_ms - known)
        self.profile = replace(
            self.profile, stages=stages, infer=infer, others=self._competition.others
        )

    def _ratio(self, meters: Mapping[str, StageMeter], current: BackendChoice) -> float:
        """How much more the network does now than when it was probed: by its own thread's
        processor time, which waiting for others does not touch."""
        now = meters[INFER].cpu_ms + (meters[SECOND].cpu_ms if SECOND in meters else 0.0)
        then = sum(cost.cpu_ms for cost in self._probed[current]) / max(1, current.threads)
        return min(max(now / then, 0.1), 10.0) if then > 0 and current.threads == 1 else 1.0

    def _lost_cores(self) -> Cores:
        """Follow the cores that this process may use; -> those of the plan that are gone."""
        here = {core.number for core in read_cores() if core.allowed}
        cores = tuple(sorted((here & allowed_everywhere()) or here))
        if cores == self.profile.cores:
            return frozenset()
        gone = frozenset(self.profile.cores) - frozenset(cores)
        speed = {core: self.profile.speed.get(core, 1.0) for core in cores}
        self.profile = replace(self.profile, cores=cores, speed=speed, capacity=cpu_quota() or 0.0)
        self._say(f"cores of this process are now {cpu_list(cores)}")
        return gone

    def _pin(self) -> None:
        """Put every thread where the plan wants it; what the kernel refuses is said."""
        for meter in self._pipeline.meters:
            cores = self.now.candidate.cores(meter.name)
            if not cores and not meter.cores:
                continue
            held = self._pipeline.place(meter.name, cores)
            if not held.applied:
                self._say(f"stage {meter.name}: {held.note}")

    def _meter(self, name: str) -> StageMeter:
        return next(meter for meter in self._pipeline.meters if meter.name == name)

    def _facts(self, prediction: Prediction) -> str:
        return (
            f"{prediction.candidate} (predicted {prediction.frame_ms:.1f} ms a frame,"
            f" {prediction.latency_ms:.1f} ms latency)"
        )

    def _next(self, ranked: list[Prediction]) -> str:
        return f", next {self._facts(ranked[1])}" if len(ranked) > 1 else ""

    def _say(self, line: str) -> None:
        self.decisions.append(line)
        self._told(line)


def _way(candidate: Candidate) -> tuple[BackendChoice, bool]:
    """What ways to run have in common of which a prediction proved false together."""
    return candidate.infer, candidate.window == 1
