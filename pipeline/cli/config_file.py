"""A run in a file: `stillframe run --config FILE.yaml`, checked before anything is done.

    source: street.mp4
    model: centerface
    reuse: layer
    place: {infer: "cpu:0", encode: "cpu:1"}
    stages:
      - {name: count, call: "count.py:count", after: postprocess}

Options are those of `run`, with `_` for `-`; the command line has precedence. A stage's function is
imported from a module, or from a Python file beside the configuration: that file is run, so take
configurations only from those whose programs you would run.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from stillframe.errors import UsageError
from stillframe.pipeline.cli.renamed import current_keys
from stillframe.pipeline.cli.run_request import RunRequest
from stillframe.pipeline.executor.stage import DEADLINE_S, DEFAULT_QUEUE_SIZE, Stage
from stillframe.yaml_file import fault_text, read_yaml

COMMAND_LINE_ONLY = ("allow_sdist", "force")
"""Options that only whoever starts the run may give, not whoever wrote the file."""

SECRET = ("source",)
"""Keys whose values are not quoted: an address may hold a password."""

JOINED = {"labels": ",", "classes": ",", "size": "x", "mean": ",", "std": ","}
"""Keys whose lists the command line takes in one word, and what stands between its parts."""
WORDS = {
    "call": "module:function or file.py:function",
    "name": "a letter, then letters, digits, _ or -",
}
"""What is expected of keys of stages."""

KEY_TYPES: dict[str, Any] = {
    "gate": list[str] | str,
    "labels": list[str] | str,
    "classes": list[str] | str,
    "size": list[int] | str,
    "mean": list[float] | float | str,
    "std": list[float] | float | str,
    "scale": float | str,
    "cpu_share": str | float,
    "place": dict[str, str] | str,
}
"""Keys whose values a file may write in more ways than a command line."""


class StageConfig(BaseModel):
    """A stage of the user's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z][\w-]*$")
    call: str = Field(pattern=r"^[^:]+:[A-Za-z_]\w*$")
    """`module:function` or `file.py:function`."""
    after: Literal["decode", "postprocess"] = "postprocess"
    """The stage that it follows. It takes and returns what that one returns: a Frame after decode,
    a StepResult after postprocess."""
    deadline_s: float = Field(DEADLINE_S, gt=0)
    queue_size: int = Field(DEFAULT_QUEUE_SIZE, ge=1)
    """Items that may wait for the stage."""
    policy: Literal["block", "newest"] = "block"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a file holds, checked."""

    options: dict[str, Any]
    """By the names of RunRequest's fields, as the command line would give them."""
    stages: tuple[StageConfig, ...] = ()
    folder: Path = field(default=Path())
    """Of the file; Python files of stages are beside it."""

    def own_stages(self) -> list[tuple[str, Stage]]:
        """The user's stages, each with the name of the one that it follows. Imports their code."""
        return [
            (
                each.after,
                Stage(
                    each.name,
                    function(each.call, self.folder),
                    deadline_s=each.deadline_s,
                    room=each.queue_size,
                    policy=each.policy,
                ),
            )
            for each in self.stages
        ]


def _keys() -> dict[str, Any]:
    """The options that a file may have, and the types of their values."""
    return {
        each.name: KEY_TYPES.get(each.name, get_args(each.type)[0])
        for each in fields(RunRequest)
        if get_origin(each.type) is Annotated and each.name not in COMMAND_LINE_ONLY
    }


KEYS = _keys()


class _Stages(BaseModel):
    """The part of a file that is no option."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: list[StageConfig] = []


_OPTIONS: dict[str, Any] = {name: (kind | None, None) for name, kind in KEYS.items()}
_File = create_model("_File", __base__=_Stages, **_OPTIONS)


def read(path: Path) -> RunConfig:
    """Raises UsageError, with file and place, for what is no such configuration."""
    values = read_yaml(path)
    if values is not None and not isinstance(values, dict):
        raise UsageError(f"{path}: expected options by name, got {type(values).__name__}")
    current = _current(values or {}, path)
    try:
        checked = _File.model_validate(current)
    except ValidationError as error:
        raise UsageError(f"{path}: {_fault(error)}") from None
    options = checked.model_dump(exclude_none=True, exclude={"stages"})
    return RunConfig(_as_typed(options), tuple(checked.stages), path.parent)


def _current(values: dict[Any, Any], path: Path) -> dict[str, Any]:
    """With today's names for old ones, also within stages."""
    current = current_keys(values, "run", f"{path}: ")
    stages = current.get("stages")
    if isinstance(stages, list):
        current["stages"] = [
            current_keys(each, "stages", f"{path}: stages.{index}.")
            if isinstance(each, Mapping)
            else each
            for index, each in enumerate(stages)
        ]
    return current


def _fault(error: ValidationError) -> str:
    """The first fault that was found, in one line."""
    faults = error.errors()
    place = faults[0]["loc"]
    if faults[0]["type"] == "extra_forbidden" and place[-1] in COMMAND_LINE_ONLY:
        key = str(place[-1])
        return f"{key} can only be given on the command line, as --{key.replace('_', '-')}"
    known = StageConfig.model_fields if place[0] == "stages" else (*KEYS, "stages")
    return fault_text(faults, known, WORDS, quote=place[0] not in SECRET)


def _as_typed(options: dict[str, Any]) -> dict[str, Any]:
    """Values as the command line would give them."""
    typed = dict(options)
    if isinstance(place := typed.get("place"), dict):
        typed["place"] = ",".join(f"{name}={where}" for name, where in place.items())
    for name, between in JOINED.items():
        if isinstance(values := typed.get(name), list):
            typed[name] = between.join(map(str, values))
    for name in ("cpu_share", "mean", "std", "scale"):
        if name in typed:
            typed[name] = str(typed[name])
    if isinstance(gate := typed.get("gate"), str):
        typed["gate"] = [gate]
    return typed


def function(call: str, folder: Path) -> Callable[[Any], Any]:
    """What `module:function` or `file.py:function` names. folder: of files. Raises UsageError."""
    home, _, name = call.rpartition(":")
    try:
        module = _file(folder / home) if home.endswith(".py") else importlib.import_module(home)
    except Exception as error:
        raise UsageError(f"stage {call}: {home} cannot be imported: {error}") from error
    work = getattr(module, name, None)
    if not callable(work):
        raise UsageError(f"stage {call}: {home} has no function {name}")
    return work  # type: ignore[no-any-return]


def _file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"stillframe_stage_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
