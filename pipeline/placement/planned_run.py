"""Everything of a staged run put together: analysis, placement, pace, and the pipeline."""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stillframe.errors import UsageError
from stillframe.models.model import Model
from stillframe.pipeline.executor.hardware.contention import ContentionMeter
from stillframe.pipeline.executor.hardware.processors import PROVIDERS, Machine, Processor
from stillframe.pipeline.executor.hardware.topology import cpu_list, cpu_quota, read_cores
from stillframe.pipeline.executor.pipeline import SOURCE, StagePipeline
from stillframe.pipeline.executor.stage import Stage
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend, OpenvinoBackend
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.stages import LIVE_WINDOW, InferenceStages, with_own
from stillframe.pipeline.media.source import Source
from stillframe.pipeline.placement.backend_choice import choices
from stillframe.pipeline.placement.controller import LIVE_WINDOWS, Goal, PlacementController
from stillframe.pipeline.placement.cost_model import (
    AIMS,
    INFER,
    SECOND,
    Aim,
    Candidate,
    Cost,
    StageCosts,
)
from stillframe.pipeline.placement.cpu_budget import Pacer
from stillframe.pipeline.placement.profiling import (
    FRAMES,
    Draw,
    Replayed,
    made,
    probe,
    read,
    speeds,
)

ISLANDS = "islands"  # not a stage, but placed like one
SPLITTING: tuple[Aim, ...] = ("throughput", "share")  # a frame is no sooner through two segments
NICE = 10  # with a CPU share, what runs beside us goes first


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """Where stages are to run. aim: what the planner is for; None: it does not run. share: of all
    cores' time, 0..1, for aim "share". place: stage -> a processor's text. replans: see `Goal`.
    candidate: run exactly so, without a planner."""

    aim: Aim | None = None
    share: float = 0.0
    place: Mapping[str, str] = field(default_factory=dict)
    replans: bool = True
    candidate: Candidate | None = None

    def __post_init__(self) -> None:
        if self.candidate is not None and (self.aim or self.place):
            raise UsageError("a fixed way to run leaves nothing to plan, nor to pin by hand")
        if self.aim not in (None, *AIMS):
            raise UsageError(f"aim: expected one of {', '.join(AIMS)}, got {self.aim!r}")
        if (self.aim == "share") != (self.share > 0):
            raise UsageError("aim share and a CPU share such as 50% go together; give both")


def parse_place(text: str) -> dict[str, str]:
    """`infer=cpu:0-1,decode=cpu:1` -> {"infer": "cpu:0-1", "decode": "cpu:1"}."""
    found: dict[str, str] = {}
    for part in re.split(r",(?=[\w-]+=)", text):
        name, equals, processor = part.partition("=")
        if not equals or not name or not processor:
            raise UsageError(f"place: expected stage=processor, e.g. infer=cpu:0-1, got {part!r}")
        found[name] = processor
    return found


class PlannedRun:
    """A pipeline of an analysis, ready to run; a context manager, also of the placement.

    ends: the stages after postprocess. draw: what draws, to be measured beforehand. own: users'
    stages, each with the name of the stage that it follows. told: is given each decision.
    """

    def __init__(
        self,
        source: Source,
        model: Model,
        settings: Settings,
        placing: PlacementRequest,
        *,
        ends: Sequence[Stage] = (),
        own: Sequence[tuple[str, Stage]] = (),
        draw: Draw = None,
        keeps_pixels: bool = True,
        limit: int | None = None,
        told: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.placing = placing
        self.replans = 0
        self.decisions: list[str] = []
        self._told = told
        fixed = placing.candidate
        halves = fixed is not None and fixed.infer.kind == "segments"
        in_two = placing.aim in SPLITTING or SECOND in placing.place or halves
        names = _names(ends, own, in_two)
        processors = _processors(placing.place, names)
        settings = _with_islands(processors, settings)
        hand = {name: p.cores for name, p in processors.items() if p.cores}
        network = processors.get(INFER, Processor())
        if network.kind == "cpu" and not settings.threads:
            settings = replace(settings, threads=len(network.cores))
        slot = _on_device(network, settings)
        if fixed is not None:
            hand = dict(fixed.pins)
            slot = BackendSlot(_fixed(fixed, settings), incremental=fixed.infer.incremental)
        if slot is not None and placing.aim is not None:
            raise UsageError(f"place: with the network on {network} there is nothing left to plan")
        self.analysis = InferenceStages(
            model, settings, keeps_pixels=keeps_pixels or bool(own), in_two=in_two, slot=slot
        )
        self.placer: PlacementController | None = None
        window: int | None = LIVE_WINDOW if source.info.live else None
        window = window if fixed is None else fixed.window
        taken: Any = source
        if placing.aim is not None:
            others = [stage.name for stage in (*ends, *(stage for _, stage in own))]
            taken = self._plan(source, model, settings, hand, draw, others)
            window = self.placer.now.candidate.window if self.placer is not None else window
        stages = with_own([*self.analysis.stages(), *ends], own)
        cores = float(len([core for core in read_cores() if core.allowed]))
        granted = min(cores, cpu_quota() or cores)
        self.pipeline = StagePipeline(
            taken,
            [stage.on(hand.get(stage.name, stage.cores)) for stage in stages],
            window=window,
            place={SOURCE: f"cpu:{cpu_list(hand[SOURCE])}"} if SOURCE in hand else None,
            pace=Pacer(placing.share, granted) if placing.share else None,
            limit=limit,
        )
        self._hand = processors
        self._checked = not processors

    def _plan(
        self,
        source: Source,
        model: Model,
        settings: Settings,
        hand: Mapping[str, frozenset[int]],
        draw: Draw,
        others: Sequence[str],
    ) -> Any:
        """Measure on the first frames and plan; -> what to read from now on. others: stages that
        cannot be tried beforehand, such as encode; what they take is seen in the run."""
        placing, live = self.placing, source.info.live
        assert placing.aim is not None
        first, decode = read(source)
        if not first:
            return source
        competition = ContentionMeter()
        before = competition.sample_mean()
        cores = tuple(core for core in read_cores() if core.allowed)
        kinds = [
            each
            for each in choices(settings, len(cores))
            if each.kind != "segments" or placing.aim in SPLITTING
        ]
        costs = probe(model, settings, first, kinds, draw)
        for note in costs.notes:
            self._say(note)
        if not costs.infer:
            raise UsageError(f"placement: nothing can run the network: {'; '.join(costs.notes)}")
        numbers = tuple(core.number for core in cores)
        left = len(cores) / (len(cores) + before)
        stages = {name: cost.alone(left, False) for name, cost in costs.stages.items()}
        unseen = dict.fromkeys(others, Cost(0, 0))
        profile = StageCosts(
            stages={SOURCE: decode.alone(left, True), **unseen, **stages},
            infer={
                granularity: tuple(cost.alone(left, granularity.threads > 1) for cost in parts)
                for granularity, parts in costs.infer.items()
            },
            cores=numbers,
            speed=speeds(cores),
            others=competition.sample_mean(),
            capacity=cpu_quota() or 0.0,
        )
        rate = source.info.rate
        wish = Goal(
            aim=placing.aim,
            budget=placing.share * profile.usable,
            hand=hand,
            replans=placing.replans,
            floor_ms=float(1000 / rate) if live and rate else 0.0,
        )
        windows = LIVE_WINDOWS if live else (1, 2, 3, 4, 8)
        self.placer = PlacementController(profile, wish, windows, competition, self._say)
        self.analysis.policy.model = model.for_source(*first[0].image.shape[:2])
        self.placer.engine(self.analysis)
        goes_on = live and len(first) == FRAMES  # by now there are newer ones
        return source if goes_on else Replayed(first, source)

    def _say(self, line: str) -> None:
        self.decisions.append(line)
        self._told(line)

    def __enter__(self) -> Self:
        if self.placing.share and (denied := lower_priority(NICE)):
            self._say(denied)
        self._stack = contextlib.ExitStack()
        if self.placer is not None:
            self._stack.callback(self.placer.close)  # after the pipeline, which uses its engines
        self._stack.enter_context(self.pipeline)
        if self.placer is not None:
            self.placer.start(self.pipeline, self.analysis)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def tick(self) -> None:
        """After each frame that came out."""
        if self.placer is not None:
            self.placer.tick()
            self.replans = self.placer.replans
        if not self._checked and all(meter.thread for meter in self.pipeline.meters):
            self._check()

    def to_dict(self) -> dict[str, Any]:
        """The placement as JSON values."""
        by_hand = {name: str(processor) for name, processor in self._hand.items()}
        if self.placer is None:
            return {"by_hand": by_hand, "decisions": self.decisions}
        return {**self.placer.to_dict(), "by_hand": by_hand, "decisions": self.decisions}

    def _check(self) -> None:
        """Once, when every thread runs: whether what was pinned by hand is where it was put."""
        for meter in self.pipeline.meters:
            processor = self._hand.get(meter.name)
            if processor is None:
                continue
            if meter.note:
                self._say(f"stage {meter.name}: {meter.note}")
            else:
                where = f"core {cpu_list(meter.cores)}" if processor.cores else str(processor)
                self._say(f"stage {meter.name} runs on {where}, as asked")
        self._checked = True


def lower_priority(nice: int) -> str:
    """Every thread of this process goes behind others, those of FFmpeg too, and does not push
    another aside when it wakes; threads that start later inherit it. -> why not, where denied."""
    tasks = Path("/proc/self/task")
    for task in tasks.iterdir() if tasks.exists() else ():
        try:
            os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
            os.sched_setscheduler(int(task.name), os.SCHED_BATCH, os.sched_param(0))
        except ProcessLookupError:  # it ended just now
            continue
        except OSError as error:
            return f"priority could not be lowered: {(error.strerror or 'refused').lower()}"
    return ""


def _names(ends: Sequence[Stage], own: Sequence[tuple[str, Stage]], in_two: bool) -> list[str]:
    """Every stage that can be placed."""
    names = [SOURCE, "preprocess", INFER, *([SECOND] if in_two else []), "postprocess"]
    names += [stage.name for stage in ends]
    for after, stage in own:
        if after not in names:
            told = ", ".join(names)
            raise UsageError(f"stage {stage.name}: there is no stage {after!r} to follow: {told}")
    return [*names, *(stage.name for _, stage in own)]


def _processors(place: Mapping[str, str], names: Sequence[str]) -> dict[str, Processor]:
    """What the texts name. Raises UsageError for stages and processors that are not there."""
    if not place:
        return {}
    cores_only = all(re.match(r"cpu:|auto$", text) for text in place.values())
    machine = Machine(read_cores(), cpu_quota()) if cores_only else Machine.here()
    found = {}
    for name, text in place.items():
        if name not in (*names, ISLANDS):
            told = ", ".join((*names, ISLANDS))
            raise UsageError(f"place: there is no stage {name!r}; there is {told}")
        processor = machine.parse(text)
        if processor.device and name not in (INFER, ISLANDS):
            raise UsageError(f"place: {processor} takes the network only; put {name} on cores")
        if name == ISLANDS and processor.kind not in PROVIDERS:
            told = ", ".join(machine.devices) or "none but the CPU's, where they are anyway"
            raise UsageError(
                f"place: islands run on a provider of ONNX Runtime, not on {processor}; of those"
                f" there is {told}"
            )
        found[name] = processor
    return found


def _with_islands(processors: Mapping[str, Processor], settings: Settings) -> Settings:
    """The settings, islands where they were placed."""
    islands = processors.get(ISLANDS)
    if islands is None:
        return settings
    if (network := processors.get(INFER, Processor())).device:
        raise UsageError(f"place: with the network on {network} there are no islands to place")
    return replace(settings, islands=(PROVIDERS[islands.kind], islands.device))


def _fixed(candidate: Candidate, settings: Settings) -> Callable[[Path], Backend]:
    """What makes the engine of a way to run that was given."""
    return lambda path: made(candidate.infer, path, settings, candidate.cores(INFER))


def _on_device(processor: Processor, settings: Settings) -> BackendSlot | None:
    """A slot for backends on a device; None where the network runs on cores."""
    if not processor.device:
        return None
    if settings.reuse == "exact":
        raise UsageError(f"place: reuse exact is our own engine's, on cores, not on {processor}")
    if processor.kind == "openvino":
        return BackendSlot(
            lambda path: OpenvinoBackend(path, settings.threads, processor.device),
            incremental=False,
        )
    provider = PROVIDERS[processor.kind], {"device_id": processor.device}
    threads = settings.threads or os.cpu_count() or 1
    return BackendSlot(lambda path: OnnxRuntimeBackend(path, threads, provider), incremental=False)
