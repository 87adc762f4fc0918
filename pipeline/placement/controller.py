"""Placement while running: compares the plan with what is measured, and changes it if another pays.

Every decision, with its reason, is a line of `decisions`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stillframe.cores import cpu_quota
from stillframe.native_calls import HANG_S, abandon
from stillframe.pipeline.executor.hardware.affinity import allowed_everywhere
from stillframe.pipeline.executor.hardware.contention import ContentionMeter
from stillframe.pipeline.executor.hardware.topology import cpu_list, read_cores
from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.executor.stage_meter import StageMeter
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import Backend
from stillframe.pipeline.inference.stages import InferenceStages
from stillframe.pipeline.placement.backend_choice import BackendChoice
from stillframe.pipeline.placement.cost_model import (
    INFER,
    SECOND,
    Candidate,
    Cores,
    Cost,
    Goal,
    Hysteresis,
    Prediction,
    StageCosts,
    choose,
    plan,
    predict,
)

REVIEW_S = 1.0
"""Between two reviews of the plan."""
SAMPLE_S = 0.1
"""Between two samples of contention."""
FEWEST_FRAMES = 4
"""A review needs so many."""
LEARNING_RATE = 0.5
"""Weight of the newest ratio of measured to predicted."""
LIVE_WINDOWS = (1, 2, 3)
FILE_WINDOWS = (1, 2, 3, 4, 8)
HELPED = ("decode", "encode")
"""Stages that FFmpeg's own threads work for."""


class PlacementController:
    """Applies a plan to a pipeline and reviews it. One thread calls `tick` after each frame.

    on_decision: called with each decision.
    """

    current: Prediction
    """The plan in force, with what was predicted of it."""
    decisions: list[str]
    replans: int

    def __init__(
        self,
        costs: StageCosts,
        goal: Goal,
        windows: tuple[int, ...],
        contention: ContentionMeter,
        on_decision: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.costs, self.goal, self.windows = costs, goal, windows
        self.decisions = []
        self.replans = 0
        self._on_decision = on_decision
        self._probed = dict(costs.infer)
        """The backends' costs as they were probed before the run."""
        self._corrections: dict[tuple[BackendChoice, bool], float] = {}
        """Measured over predicted, by way to run."""
        self._hysteresis = Hysteresis()
        self._contention = contention
        self._slot: BackendSlot | None = None
        self._builder: threading.Thread | None = None
        """Makes the backend of a new plan beside the running one."""
        self._built: list[tuple[Backend, Path] | Exception] = []
        """What the builder leaves: the backend and its model's file, or why there is none."""
        self._next_sample_s = self._next_review_s = 0.0
        self._since = (0.0, 0, 0.0)
        """Clock, frames and CPU seconds at the last review."""
        self._judging = False
        """Whether the next review judges the last change."""
        ranked = plan(costs, goal, windows)
        self.current = ranked[0]
        runner_up = f", next {_facts(ranked[1])}" if len(ranked) > 1 else ""
        self._report(f"placed: {_facts(self.current)}; best of {len(ranked)}{runner_up}")
        if len(costs.cores) == 1:
            self._report("one core only: stages share it, nothing is placed apart")

    @property
    def window(self) -> int:
        """Frames in flight under the current plan."""
        return self.current.candidate.window

    # --- setting up ------------------------------------------------------------------------------

    def install_backend(self, stages: InferenceStages) -> None:
        """Make the plan's backend, for the next frame on."""
        candidate, path = self.current.candidate, stages.model.path
        self._slot = stages.slot
        backend = candidate.infer.make(path, stages.settings, candidate.cores(INFER))
        self._slot.swap(backend, path)

    def start(self, pipeline: StagePipeline, stages: InferenceStages) -> None:
        """The pipeline runs: pin its threads as planned."""
        self._pipeline, self._stages = pipeline, stages
        self._pin()
        self._restart_review(time.perf_counter())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "aim": self.goal.aim,
            "plan": str(self.current.candidate),
            "predicted_frame_ms": round(self.current.frame_ms, 3),
            "predicted_latency_ms": round(self.current.latency_ms, 3),
            "others": round(self.costs.others, 2),
            "decisions": list(self.decisions),
        }

    def close(self) -> None:
        """Wait for a backend that is being made and close it, and all backends of the slot.

        One that takes longer than HANG_S is left behind.
        """
        builder, self._builder = self._builder, None
        if builder is not None:
            builder.join(HANG_S)
            if builder.is_alive():
                abandon(builder)
        for built in self._built:
            if not isinstance(built, Exception):
                built[0].close()
        self._built.clear()
        if self._slot is not None:  # a backend may have come after the last frame
            self._slot.close()

    # --- watching --------------------------------------------------------------------------------

    def tick(self) -> None:
        """After each frame: sample contention, install a new backend, review the plan when due."""
        now_s = time.perf_counter()
        if now_s >= self._next_sample_s:
            self._next_sample_s = now_s + SAMPLE_S
            self._contention.sample()
        self._install_built()
        if now_s >= self._next_review_s and self._builder is None:
            self.review(now_s)

    def review(self, now_s: float) -> None:
        """Compare what is measured with what was predicted; plan again where that pays."""
        began_s, frames, cpu_s = self._since
        done = self._pipeline.delivered - frames
        if done < FEWEST_FRAMES:
            return
        frame_ms = (now_s - began_s) * 1e3 / done
        cpu_ms = (time.process_time() - cpu_s) * 1e3 / done
        self._restart_review(now_s)
        ages = list(self._pipeline.ages_ms)[-done:]
        latency_ms = sum(ages) / max(1, len(ages))
        self._update_costs(cpu_ms)
        lost = self._follow_cores()
        self.compare(Prediction(self.current.candidate, frame_ms, latency_ms, cpu_ms), now_s, lost)

    def compare(self, measured: Prediction, now_s: float, lost: Cores = frozenset()) -> None:
        """Act on a measurement of the current plan. lost: its cores that are no longer allowed."""
        measured_ms = self.goal.objective(measured)
        if self._judging:
            self._judging = False
            self._hysteresis.judge(measured_ms)
        ranked = plan(self.costs, self.goal, self.windows)
        if self.current.candidate.infer in self.costs.infer:
            self._learn(measured_ms)
        corrected = [self._corrected(each) for each in ranked]
        best = choose(corrected, self.goal, self.costs.is_shared)
        best_ms = self.goal.objective(best)
        if not self.goal.replans and not lost:
            return
        if best.candidate == self.current.candidate:
            self._hysteresis.agrees(measured_ms, measured_ms, now_s)
        elif lost:
            self._change(best, f"core {cpu_list(lost)} disappeared", measured_ms, now_s)
        elif self._hysteresis.agrees(measured_ms, best_ms, now_s):
            self._change(best, self._reason(measured_ms, best_ms), measured_ms, now_s)

    def _learn(self, measured_ms: float) -> None:
        """Note how far the prediction for the current plan is off."""
        predicted_ms = self.goal.objective(predict(self.costs, self.current.candidate))
        key, ratio = _correction_key(self.current.candidate), measured_ms / predicted_ms
        before = self._corrections.get(key, ratio)
        self._corrections[key] = before + LEARNING_RATE * (ratio - before)

    def _corrected(self, prediction: Prediction) -> Prediction:
        """The prediction times what was learnt of this way to run.

        For one that was not tried yet, assume half of the smallest correction of the others, on the
        scale of ratios: how much of it holds here too is not known.
        """
        common = max(1.0, min(self._corrections.values(), default=1.0)) ** 0.5
        return prediction.scaled(
            self._corrections.get(_correction_key(prediction.candidate), common)
        )

    def _reason(self, measured_ms: float, best_ms: float) -> str:
        what = "latency" if self.goal.aim == "latency" else "a frame"
        return (
            f"{self.costs.others:.1f} threads of others compete; {what} takes {measured_ms:.1f} ms,"
            f" predicted {best_ms:.1f} ms"
        )

    # --- changing the plan -----------------------------------------------------------------------

    def _change(self, best: Prediction, reason: str, measured_ms: float, now_s: float) -> None:
        before = self.current.candidate
        self.current, self.replans = best, self.replans + 1
        self._hysteresis.changed(measured_ms, now_s)
        self._judging = True
        frame = self._pipeline.delivered
        self._report(f"re-planned at frame {frame}: {before} -> {_facts(best)}; {reason}")
        self._pipeline.window.limit = best.candidate.window
        self._pin()
        if best.candidate.infer != before.infer:
            self._build(best.candidate)

    def _build(self, candidate: Candidate) -> None:
        """Make another backend in a thread of its own; `_install_built` fetches it."""
        path, settings = self._stages.model.path, self._stages.settings

        def work() -> None:
            try:
                backend = candidate.infer.make(path, settings, candidate.cores(INFER))
                self._built.append((backend, path))
            except Exception as error:
                self._built.append(error)

        self._builder = threading.Thread(target=work, name="stillframe-build", daemon=True)
        self._builder.start()

    def _install_built(self) -> None:
        """Swap in the backend that was being made, once it is ready."""
        if self._builder is None or self._builder.is_alive():
            return
        self._builder.join()
        self._builder = None
        built = self._built.pop()
        if isinstance(built, Exception):
            failed = self.current.candidate.infer
            infer = {choice: cost for choice, cost in self.costs.infer.items() if choice != failed}
            self.costs = replace(self.costs, infer=infer)
            self._report(f"{failed} could not be made: {built}; the network stays where it was")
        else:
            self._stages.slot.swap(*built)
            next(meter for meter in self._pipeline.meters if meter.name == INFER).reset()
        self._restart_review(time.perf_counter())

    def _pin(self) -> None:
        """Pin every thread as planned; report what the kernel refuses."""
        for meter in self._pipeline.meters:
            cores = self.current.candidate.cores(meter.name)
            if not cores and not meter.cores:
                continue
            result = self._pipeline.place(meter.name, cores)
            if not result.applied:
                self._report(f"stage {meter.name}: {result.note}")

    # --- the costs -------------------------------------------------------------------------------

    def _update_costs(self, cpu_ms: float) -> None:
        """Replace costs by what the meters show. cpu_ms: per frame, of the whole process."""
        meters = {meter.name: meter for meter in self._pipeline.meters}
        current = self.current.candidate.infer
        cores = len(self.costs.cores)
        share = cores / (cores + self._contention.others)
        stages: dict[str, Cost] = {}
        for name, old in self.costs.stages.items():
            stages[name] = old
            if (meter := meters.get(name)) is not None and meter.items:
                stages[name] = Cost(meter.wall_ms, meter.cpu_ms).alone(share, name in HELPED)
        infer = dict(self.costs.infer)
        if meters[INFER].items >= FEWEST_FRAMES:
            ratio = self._network_ratio(meters, current)
            for choice, parts in self._probed.items():
                if choice.incremental == current.incremental and choice in infer:
                    infer[choice] = tuple(
                        Cost(cost.wall_ms * ratio, cost.cpu_ms * ratio) for cost in parts
                    )
        known_ms = sum(cost.cpu_ms for cost in (*stages.values(), *infer[current]))
        if cpu_ms > known_ms and "encode" in stages:  # helper threads, mostly the encoder's
            encode = stages["encode"]
            stages["encode"] = Cost(encode.wall_ms, encode.cpu_ms + cpu_ms - known_ms)
        self.costs = replace(self.costs, stages=stages, infer=infer, others=self._contention.others)

    def _network_ratio(self, meters: Mapping[str, StageMeter], current: BackendChoice) -> float:
        """The network's cost now over its probed cost, 0.1..10.

        Compares CPU time of its own thread, which contention does not change. With more threads
        that says too little, so the ratio is 1.
        """
        if current.threads > 1:
            return 1.0
        now_ms = meters[INFER].cpu_ms + (meters[SECOND].cpu_ms if SECOND in meters else 0.0)
        probed_ms = sum(cost.cpu_ms for cost in self._probed[current])
        return min(max(now_ms / probed_ms, 0.1), 10.0) if probed_ms > 0 else 1.0

    def _follow_cores(self) -> Cores:
        """Take over which cores this process may use; -> cores of the plan that are gone."""
        here = {core.number for core in read_cores() if core.allowed}
        cores = tuple(sorted((here & allowed_everywhere()) or here))
        if cores == self.costs.cores:
            return frozenset()
        lost = frozenset(self.costs.cores) - frozenset(cores)
        speed = {core: self.costs.speed.get(core, 1.0) for core in cores}
        self.costs = replace(self.costs, cores=cores, speed=speed, capacity=cpu_quota() or 0.0)
        self._report(f"cores of this process are now {cpu_list(cores)}")
        return lost

    # ---------------------------------------------------------------------------------------------

    def _restart_review(self, now_s: float) -> None:
        """The next review covers the time from now on."""
        self._since = (now_s, self._pipeline.delivered, time.process_time())
        self._next_review_s = now_s + REVIEW_S

    def _report(self, line: str) -> None:
        self.decisions.append(line)
        self._on_decision(line)


def _facts(prediction: Prediction) -> str:
    return (
        f"{prediction.candidate} (predicted {prediction.frame_ms:.1f} ms a frame,"
        f" {prediction.latency_ms:.1f} ms latency)"
    )


def _correction_key(candidate: Candidate) -> tuple[BackendChoice, bool]:
    """Ways to run whose predictions prove wrong together."""
    return candidate.infer, candidate.window == 1
