"""A whole staged run put together: the analysis, its placement, its pace and the pipeline."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stillframe.cores import cpu_quota
from stillframe.errors import UsageError
from stillframe.models.model import Model
from stillframe.pipeline.executor.hardware.contention import ContentionMeter
from stillframe.pipeline.executor.hardware.processors import PROVIDERS, Processor
from stillframe.pipeline.executor.hardware.topology import cpu_list, read_cores
from stillframe.pipeline.executor.pipeline import SOURCE, StagePipeline
from stillframe.pipeline.executor.stage import Stage
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend, OpenvinoBackend
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.stages import LIVE_WINDOW, InferenceStages, with_own
from stillframe.pipeline.inference.steering import FrameSteering
from stillframe.pipeline.media.source import Source
from stillframe.pipeline.placement.controller import (
    FILE_WINDOWS,
    LIVE_WINDOWS,
    PlacementController,
)
from stillframe.pipeline.placement.cost_model import (
    INFER,
    SECOND,
    Aim,
    Cores,
    Goal,
    StageCosts,
)
from stillframe.pipeline.placement.cpu_budget import Pacer, lower_priority
from stillframe.pipeline.placement.profiling import (
    FRAMES,
    Draw,
    Replayed,
    measure_costs,
    read_first,
)
from stillframe.pipeline.placement.request import (
    PlacementRequest,
    parse_processors,
    placed_settings,
    stage_names,
)

SPLITTING: tuple[Aim, ...] = ("throughput", "share")
"""Aims that two segments can serve; no frame is sooner through them."""
NICE = 10
"""Of every thread with a CPU share, so that other processes run first."""


class PlannedRun:
    """A pipeline that analyses a source, placed as requested. A context manager.

    ends: the stages after postprocess. own: the user's stages, each with the name of the stage that
    it follows. draw: what draws a result, to be measured beforehand. keeps_pixels: whether a stage
    after the network reads the frames' pictures. limit: the most frames. on_decision: called with
    each decision on placement. slot and steering: of a run that chooses its own settings, where the
    request leaves the network alone.

    Raises UsageError for a request that does not fit this machine or the settings.
    """

    request: PlacementRequest
    analysis: InferenceStages
    pipeline: StagePipeline
    decisions: list[str]
    """On placement, each a line."""
    replans: int
    """Changes of plan so far."""

    def __init__(
        self,
        source: Source,
        model: Model,
        settings: Settings,
        request: PlacementRequest,
        *,
        ends: Sequence[Stage] = (),
        own: Sequence[tuple[str, Stage]] = (),
        draw: Draw = None,
        keeps_pixels: bool = True,
        limit: int | None = None,
        on_decision: Callable[[str], None] = lambda line: None,
        slot: BackendSlot | None = None,
        steering: FrameSteering | None = None,
    ) -> None:
        self.request = request
        self.replans = 0
        self.decisions = []
        self._on_decision = on_decision
        self._controller: PlacementController | None = None
        in_two = _has_second_stage(request)
        self._manual = parse_processors(request.place, stage_names(ends, own, in_two))
        self._manual_checked = not self._manual
        settings = placed_settings(settings, self._manual)
        self.analysis = InferenceStages(
            model,
            settings,
            keeps_pixels=keeps_pixels or bool(own),
            in_two=in_two,
            slot=slot or _requested_slot(request, self._manual.get(INFER, Processor()), settings),
            steering=steering,
        )
        fixed = request.candidate
        pins = {name: each.cores for name, each in self._manual.items() if each.cores}
        window: int | None = LIVE_WINDOW if source.info.live else None
        items: Any = source
        if fixed is not None:
            pins, window = dict(fixed.pins), fixed.window
        elif request.aim is not None:
            others = [stage.name for stage in (*ends, *(stage for _, stage in own))]
            items = self._plan(source, pins, draw, others)
            window = window if self._controller is None else self._controller.window
        stages = with_own([*self.analysis.stages(), *ends], own)
        self.pipeline = StagePipeline(
            items,
            [stage.on(pins.get(stage.name, stage.cores)) for stage in stages],
            window=window,
            place={SOURCE: f"cpu:{cpu_list(pins[SOURCE])}"} if SOURCE in pins else None,
            pace=Pacer(request.share, _granted_cores()) if request.share else None,
            limit=limit,
        )

    # --- planning --------------------------------------------------------------------------------

    def _plan(
        self, source: Source, pins: Mapping[str, Cores], draw: Draw, others: Sequence[str]
    ) -> Any:
        """Measure on the first frames, plan, and install the plan's backend; -> what to read now.

        others: stages that cannot be measured beforehand.
        """
        model, settings = self.analysis.model, self.analysis.settings
        first, decode = read_first(source)
        if not first:
            return source
        contention = ContentionMeter()
        costs, notes = measure_costs(
            model,
            settings,
            first,
            decode,
            draw,
            unmeasured=others,
            segments=self.request.aim in SPLITTING,
            contention=contention,
        )
        for note in notes:
            self._report(note)
        self._controller = PlacementController(
            costs,
            self._goal(costs, source, pins),
            LIVE_WINDOWS if source.info.live else FILE_WINDOWS,
            contention,
            self._report,
        )
        self.analysis.policy.model = model.for_source(*first[0].image.shape[:2])
        self._controller.install_backend(self.analysis)
        if source.info.live and len(first) == FRAMES:
            return source  # there are newer frames by now
        return Replayed(first, source)

    def _goal(self, costs: StageCosts, source: Source, pins: Mapping[str, Cores]) -> Goal:
        assert self.request.aim is not None
        rate = source.info.rate
        return Goal(
            aim=self.request.aim,
            budget=self.request.share * costs.usable,
            manual_pins=pins,
            replans=self.request.replans,
            floor_ms=float(1000 / rate) if source.info.live and rate else 0.0,
        )

    def _report(self, line: str) -> None:
        self.decisions.append(line)
        self._on_decision(line)

    # --- running ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self.request.share and (denied := lower_priority(NICE)):
            self._report(denied)
        self._stack = contextlib.ExitStack()
        if self._controller is not None:
            self._stack.callback(self._controller.close)  # after the pipeline, which uses backends
        self._stack.enter_context(self.pipeline)
        if self._controller is not None:
            self._controller.start(self.pipeline, self.analysis)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def tick(self) -> None:
        """To be called after each frame that is delivered."""
        if self._controller is not None:
            self._controller.tick()
            self.replans = self._controller.replans
        if not self._manual_checked and all(meter.thread for meter in self.pipeline.meters):
            self._check_manual_pins()

    def to_dict(self) -> dict[str, Any]:
        """The placement as JSON values."""
        by_hand = {name: str(processor) for name, processor in self._manual.items()}
        plan = {} if self._controller is None else self._controller.to_dict()
        return {**plan, "by_hand": by_hand, "decisions": self.decisions}

    def _check_manual_pins(self) -> None:
        """Report once, when every thread runs, whether stages are where the user pinned them."""
        for meter in self.pipeline.meters:
            processor = self._manual.get(meter.name)
            if processor is None:
                continue
            if meter.note:
                self._report(f"stage {meter.name}: {meter.note}")
            else:
                where = f"core {cpu_list(meter.cores)}" if processor.cores else str(processor)
                self._report(f"stage {meter.name} runs on {where}, as asked")
        self._manual_checked = True


def _has_second_stage(request: PlacementRequest) -> bool:
    """Whether the network gets two stages, so that it may run in two segments."""
    is_split = request.candidate is not None and request.candidate.infer.kind == "segments"
    return request.aim in SPLITTING or SECOND in request.place or is_split


def _requested_slot(
    request: PlacementRequest, network: Processor, settings: Settings
) -> BackendSlot | None:
    """A slot for a fixed way to run, or for a device; None: for the settings' own backends."""
    if (fixed := request.candidate) is not None:
        return BackendSlot(
            lambda path: fixed.infer.make(path, settings, fixed.cores(INFER)),
            incremental=fixed.infer.incremental,
        )
    if not network.device:
        return None
    if settings.reuse == "exact":
        raise UsageError(f"place: reuse exact needs the reuse engine, on cores, not on {network}")
    if request.aim is not None:
        raise UsageError(f"place: with the network on {network} there is nothing left to plan")
    return BackendSlot(partial(_device_backend, network, settings), incremental=False)


def _device_backend(processor: Processor, settings: Settings, path: Path) -> Backend:
    if processor.kind == "openvino":
        return OpenvinoBackend(path, settings.threads, processor.device)
    provider = PROVIDERS[processor.kind], {"device_id": processor.device}
    return OnnxRuntimeBackend(path, settings.threads, provider)


def _granted_cores() -> float:
    """Cores' worth of CPU time that this process may use."""
    cores = float(len([core for core in read_cores() if core.allowed]))
    return min(cores, cpu_quota() or cores)
