"""What a user asks for about placement, read and checked before anything runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stillframe.cores import cpu_quota
from stillframe.errors import UsageError
from stillframe.pipeline.executor.hardware.processors import PROVIDERS, Machine, Processor
from stillframe.pipeline.executor.hardware.topology import read_cores
from stillframe.pipeline.executor.pipeline import SOURCE
from stillframe.pipeline.executor.stage import Stage
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.placement.cost_model import AIMS, INFER, SECOND, Aim, Candidate

ISLANDS = "islands"
"""Not a stage, but placed like one: the parts of the model that ONNX Runtime runs."""


@dataclass(frozen=True, slots=True)
class PlacementRequest:
    """Where the stages are to run. Raises UsageError for what does not go together."""

    aim: Aim | None = None
    """What the planner optimises; None: nothing is planned."""
    share: float = 0.0
    """Of all cores' time, 0..1, for aim "share"."""
    place: Mapping[str, str] = field(default_factory=dict)
    """Stage name -> the text of a processor, as `parse_place` reads it."""
    replans: bool = True
    """Whether the plan may change during the run."""
    candidate: Candidate | None = None
    """Run exactly this way and plan nothing."""

    def __post_init__(self) -> None:
        if self.candidate is not None and (self.aim or self.place):
            raise UsageError("a fixed way to run leaves nothing to plan, nor to pin by hand")
        if self.aim not in (None, *AIMS):
            raise UsageError(f"aim: expected one of {', '.join(AIMS)}, got {self.aim!r}")
        if (self.aim == "share") != (self.share > 0):
            raise UsageError("aim share and a CPU share such as 50% go together; give both")

    @property
    def decides_backend(self) -> bool:
        """Whether placement says what runs the network."""
        return (
            self.aim is not None
            or self.candidate is not None
            or bool({INFER, SECOND, ISLANDS} & self.place.keys())
        )


def parse_place(text: str) -> dict[str, str]:
    """`infer=cpu:0-1,decode=cpu:1` -> {"infer": "cpu:0-1", "decode": "cpu:1"}."""
    places: dict[str, str] = {}
    for part in re.split(r",(?=[\w-]+=)", text):
        name, equals, processor = part.partition("=")
        if not equals or not name or not processor:
            raise UsageError(f"place: expected stage=processor, e.g. infer=cpu:0-1, got {part!r}")
        places[name] = processor
    return places


def stage_names(ends: Sequence[Stage], own: Sequence[tuple[str, Stage]], in_two: bool) -> list[str]:
    """Every stage of a run that can be placed.

    ends: the stages after postprocess. own: the user's stages, each with the name of the stage that
    it follows. Raises UsageError if there is no such stage.
    """
    names = [SOURCE, "preprocess", INFER, *([SECOND] if in_two else []), "postprocess"]
    names += [stage.name for stage in ends]
    for after, stage in own:
        if after not in names:
            raise UsageError(
                f"stage {stage.name}: there is no stage {after!r} to follow: {', '.join(names)}"
            )
    return [*names, *(stage.name for _, stage in own)]


def parse_processors(place: Mapping[str, str], names: Sequence[str]) -> dict[str, Processor]:
    """The processors that are asked for, by stage. Raises UsageError for unknown stages and
    processors, and for devices that cannot take the stage."""
    if not place:
        return {}
    cores_only = all(re.match(r"cpu:|auto$", text) for text in place.values())
    machine = Machine(read_cores(), cpu_quota()) if cores_only else Machine.here()
    processors = {}
    for name, text in place.items():
        if name not in (*names, ISLANDS):
            known = ", ".join((*names, ISLANDS))
            raise UsageError(f"place: there is no stage {name!r}; there is {known}")
        processor = machine.parse(text)
        if processor.device and name not in (INFER, ISLANDS):
            raise UsageError(f"place: {processor} takes the network only; put {name} on cores")
        if name == ISLANDS and processor.kind not in PROVIDERS:
            devices = ", ".join(machine.devices) or "none but the CPU's, where they are anyway"
            raise UsageError(
                f"place: islands run on a provider of ONNX Runtime, not on {processor}; of those"
                f" there is {devices}"
            )
        processors[name] = processor
    return processors


def placed_settings(settings: Settings, processors: Mapping[str, Processor]) -> Settings:
    """The settings with islands where they were placed, and a thread for each of the network's
    cores unless a number was asked for."""
    network = processors.get(INFER, Processor())
    if (islands := processors.get(ISLANDS)) is not None:
        if network.device:
            raise UsageError(f"place: with the network on {network} there are no islands to place")
        settings = replace(settings, islands=(PROVIDERS[islands.kind], islands.device))
    if network.kind == "cpu" and not settings.threads:
        settings = replace(settings, threads=len(network.cores))
    return settings
