"""Requests: what a command line and a file parse to, and what can be executed without either."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import SinkError, UsageError
from stillframe.pipeline import cli
from stillframe.pipeline.cli import execute_filter, execute_run
from stillframe.pipeline.cli.filter_request import FilterRequest
from stillframe.pipeline.cli.options import ReuseOptions
from stillframe.pipeline.cli.run_request import RunRequest
from stillframe.pipeline.filter.effects import EffectSettings
from stillframe.pipeline.inference.settings import Settings
from tests import networks
from tests.hostile import media

Parse = Callable[..., Any]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Parse:
    """The request that a command line becomes."""

    def parsed(*arguments: object) -> Any:
        requests: list[Any] = []
        for module in (execute_run, execute_filter):
            monkeypatch.setattr(module, "execute", requests.append)
        assert cli.status([*map(str, arguments)]) == 0
        (request,) = requests
        return request

    return parsed


@pytest.mark.parametrize(("command", "kind"), [("run", RunRequest), ("filter", FilterRequest)])
def test_without_options_the_request_has_the_defaults(
    command: str, kind: type[Any], parsed: Parse
) -> None:
    assert parsed(command) == kind()


@pytest.mark.parametrize(("command", "kind"), [(cli.run, RunRequest), (cli.filter_, FilterRequest)])
def test_every_field_is_an_option_with_a_help_text(command: Any, kind: type[Any]) -> None:
    parameters = inspect.signature(command).parameters
    names = {each.name for each in dataclasses.fields(kind)}
    assert names | {"context"} == set(parameters) | {"context"}
    for name in names - {"config"}:
        (declared,) = parameters[name].annotation.__metadata__
        assert declared.help[0].isupper() or declared.help[0] in "-." or ":" in declared.help
        assert declared.help.endswith((".", "…")), name


def test_a_file_yields_the_same_request_as_the_command_line(parsed: Parse, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "source: a.mp4\nmodel: m.onnx\nreuse: layer\nquality: 0.99\nmax_frames: 5\nfps: 2\n"
        "gate: [pixel=3, margin=5]\nplace: {infer: 'cpu:0'}\nquiet: true\n"
    )
    from_file = parsed("run", "--config", path)
    options = ["--reuse", "layer", "--quality", 0.99, "--max-frames", 5, "--fps", 2, "--quiet"]
    options += ["--gate", "pixel=3", "--gate", "margin=5", "--place", "infer=cpu:0"]
    written = parsed("run", "a.mp4", "--model", "m.onnx", *options)
    assert from_file.config is not None
    assert dataclasses.replace(from_file, config=None) == written
    assert parsed("run", "--config", path, "--max-frames", 3).max_frames == 3


def test_a_request_is_frozen_and_runs_without_a_command_line(tmp_path: Path) -> None:
    request = RunRequest(
        source=str(media.clip(tmp_path / "clip.mp4", 12)),
        model=str(networks.brightness(tmp_path / "brightness.onnx")),
        max_frames=5,
        jsonl=str(tmp_path / "out.jsonl"),
        quiet=True,
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.quiet = False  # type: ignore[misc]
    execute_run.execute(request)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(5))
    with pytest.raises(SinkError, match="there is such a file"):
        execute_run.execute(request)


def test_what_makes_no_sense_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="--quality is of --reuse auto and layer, got frame"):
        execute_run.execute(RunRequest(source="nowhere.mp4", reuse="frame", quality=0.99))
    with pytest.raises(UsageError, match=r"--quality: expected"):
        execute_run.execute(RunRequest(source="nowhere.mp4", quality=1.2))
    with pytest.raises(UsageError, match="aim share and a CPU share"):
        execute_run.execute(RunRequest(source="nowhere.mp4", aim="share"))
    with pytest.raises(UsageError, match="--colour: expected RRGGBB"):
        execute_filter.execute(FilterRequest(source="nowhere.mp4", colour="red"))
    with pytest.raises(UsageError, match="--jsonl -: standard output carries the frames"):
        execute_filter.execute(FilterRequest(source="nowhere.mp4", jsonl="-"))


def test_the_defaults_are_those_of_the_library() -> None:
    assert ReuseOptions().settings() == Settings("auto")


def test_what_is_fixed_by_hand_implies_its_mode() -> None:
    assert ReuseOptions(tolerance=0.2).settings() == Settings("layer", tolerance=0.2)
    assert ReuseOptions(every=3).settings() == Settings("auto", every=3)
    assert RunRequest(aim="latency").settings() == Settings("layer")
    assert RunRequest(place="infer=cpu:0").settings() == Settings("layer")
    assert RunRequest(place="decode=cpu:0").settings() == Settings("auto")


def test_an_effect_has_the_library_s_defaults() -> None:
    effect = FilterRequest().effect_settings()
    assert dataclasses.replace(effect, effect="blur") == EffectSettings()


def test_a_model_is_needed_for_an_effect_or_for_records() -> None:
    assert FilterRequest(effect="none").model_name is None
    assert FilterRequest(effect="none", jsonl="out.jsonl").model_name == "centerface"
    assert FilterRequest(effect="upscale").model_name == "animevideo-x2"
    assert FilterRequest(effect="upscale", model="mine.onnx").model_name == "mine.onnx"
