"""A run in a file: `stillframe run --config FILE.yaml`, checked before anything is done.

    source: street.mp4
    model: centerface
    reuse: layer
    place: {infer: "cpu:0", encode: "cpu:1"}
    stages:
      - {name: count, call: "count.py:count", after: postprocess}

Options are those of `run`, with `_` for `-`; what stands on the command line goes before them. A
stage's function is imported from a module, or from a Python file beside the configuration: such a
file is run, so take configurations only from those whose programs you would run.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stillframe.errors import UsageError
from stillframe.pipeline.executor.stage import DEADLINE_S, DEFAULT_QUEUE_SIZE, Stage


class StageConfig(BaseModel):
    """A stage of one's own. call: `module:function` or `file.py:function`. after: the stage that it
    follows; it takes and returns what that one gives: a Frame after decode, a Step after
    postprocess."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z][\w-]*$")
    call: str = Field(pattern=r"^[^:]+:[A-Za-z_]\w*$")
    after: Literal["decode", "postprocess"] = "postprocess"
    deadline_s: float = Field(DEADLINE_S, gt=0)
    room: int = Field(DEFAULT_QUEUE_SIZE, ge=1)
    policy: Literal["block", "newest"] = "block"


class RunConfig(BaseModel):
    """What a file may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str | None = None
    model: str | None = None
    task: str | None = None
    confidence: float | None = None
    max_frames: int | None = None
    out: str | None = None
    jsonl: str | None = None
    csv: str | None = None
    mot: str | None = None
    summary_json: str | None = None
    metrics_json: str | None = None
    metrics_port: int | None = None
    reuse: Literal["off", "frame", "layer", "exact"] | None = None
    tolerance: float | None = None
    profile: str | None = None
    max_age: float | None = None
    every: int | None = None
    between: Literal["keep", "follow"] | None = None
    threads: int | None = None
    policy: Literal["auto", "block", "newest"] | None = None
    aim: Literal["throughput", "latency", "share"] | None = None
    cpu_share: str | float | None = None
    place: dict[str, str] | str | None = None
    explain_placement: bool | None = None
    overlay: Literal["boxes", "changed", "none"] | None = None
    show: bool | None = None
    quiet: bool | None = None
    stages: list[StageConfig] = []

    @property
    def options(self) -> dict[str, Any]:
        """By the names of `run`'s parameters, as the command line would give them."""
        said = self.model_dump(exclude_none=True, exclude={"stages"})
        if isinstance(self.place, dict):
            said["place"] = ",".join(f"{name}={where}" for name, where in self.place.items())
        if self.cpu_share is not None:
            said["cpu_share"] = str(self.cpu_share)
        return said

    def own(self, folder: Path) -> list[tuple[str, Stage]]:
        """Users' stages, each with the name of the one that it follows. folder: of the file."""
        return [
            (
                each.after,
                Stage(
                    each.name,
                    function(each.call, folder),
                    deadline_s=each.deadline_s,
                    room=each.room,
                    policy=each.policy,
                ),
            )
            for each in self.stages
        ]


def read(path: Path) -> RunConfig:
    """Raises UsageError, with file and place, for what is no such configuration."""
    try:
        text = path.read_text(encoding="utf-8")
        said = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: it cannot be read as YAML: {reason}") from None
    if said is not None and not isinstance(said, dict):
        raise UsageError(f"{path}: expected options by name, got {type(said).__name__}")
    try:
        return RunConfig.model_validate(said or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: {where}: {first['msg'].lower()}") from None


def function(call: str, folder: Path) -> Callable[[Any], Any]:
    """What `module:function` or `file.py:function` names. Raises UsageError."""
    home, _, name = call.rpartition(":")
    try:
        module = _file(folder / home) if home.endswith(".py") else importlib.import_module(home)
    except Exception as error:
        raise UsageError(f"stage {call}: {home} cannot be imported: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"stage {call}: {home} has no function {name}")
    return found  # type: ignore[no-any-return]


def _file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"stillframe_stage_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
