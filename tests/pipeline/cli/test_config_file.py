"""A run in a file: its options, its stages, and what is wrong with it in one line."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import UsageError
from stillframe.pipeline import cli
from stillframe.pipeline.cli import config_file
from stillframe.pipeline.cli.config_file import COMMAND_LINE_ONLY, KEYS
from tests import networks
from tests.hostile import media

COUNT = """
import stillframe

seen = []

def look(frame):
    seen.append(frame.index)
    return frame

def odd(step):
    return step if step.frame.index % 2 else stillframe.SKIP

def breaks(step):
    raise ValueError("enough")

def nothing(step):
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    networks.brightness(tmp_path / "brightness.onnx")
    media.clip(tmp_path / "clip.mp4", 12)
    (tmp_path / "count.py").write_text(COUNT)
    return tmp_path


def written(folder: Path, text: str = "") -> str:
    path = folder / "run.yaml"
    base = f"source: {folder}/clip.mp4\nmodel: {folder}/brightness.onnx\njsonl: '-'\nquiet: true\n"
    path.write_text(base + text)
    return str(path)


def rows(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_options_come_out_of_the_file(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.status(["run", "--config", written(folder, "max_frames: 5\n")]) == 0
    assert len(rows(capfd)) == 5


def test_the_command_line_goes_before_it(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(folder, "max_frames: 5\n")
    assert cli.status(["run", "--max-frames", "3", "--config", path]) == 0
    assert len(rows(capfd)) == 3


def test_stages_of_one_s_own_run_where_they_belong(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = """
place: {odd: "cpu:0"}
stages:
  - {name: look, call: "count.py:look", after: decode}
  - {name: odd, call: "count.py:odd"}
"""
    metrics = folder / "metrics.json"
    path = written(folder, text)
    assert cli.status(["run", "--config", path, "--metrics-json", str(metrics)]) == 0
    assert [row["index"] for row in rows(capfd)] == [1, 3, 5, 7, 9, 11]
    stages = json.loads(metrics.read_text())["stages"]
    assert list(stages)[:3] == ["decode", "look", "preprocess"]
    assert list(stages)[-3:] == ["odd", "draw", "encode"]
    assert stages["look"]["items"] == stages["odd"]["items"] == 12
    assert stages["odd"]["cores"] == [0]
    assert stages["encode"]["items"] == 6


@pytest.mark.parametrize(
    ("name", "says"), [("breaks", "ValueError: enough"), ("nothing", "returned nothing")]
)
def test_a_stage_of_one_s_own_that_fails_is_named(
    name: str, says: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(folder, f'stages: [{{name: mine, call: "count.py:{name}"}}]\n')
    assert cli.status(["run", "--config", path, "--out", str(folder / "out.mp4")]) == 7
    assert f"stillframe: error: stage mine: {says}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n", "expected options by name, got list"),
        ("a: [\n", "cannot be read as YAML"),
        ("qualty: 1\n", r"yaml: unknown key 'qualty' \(did you mean 'quality'\?\)$"),
        ("entirely: 1\n", "yaml: unknown key 'entirely'$"),
        ("force: true\n", "force can only be given on the command line, as --force"),
        ("allow_sdist: true\n", "only be given on the command line, as --allow-sdist"),
        (
            "stages: [{name: a, cal: f}]\n",
            r"stages\.0: unknown key 'cal' \(did you mean 'call'\?\)$",
        ),
        (
            "stages: [{name: a, call: 'm:f', polcy: block}]\n",
            r"stages\.0: unknown key 'polcy' \(did you mean 'policy'\?\)",
        ),
        ("gate: {pixel: 3}\n", "gate"),
        ("every: often\n", "every: expected a whole number, got 'often'$"),
        ("aim: speed\n", "aim: expected throughput, latency or share, got 'speed'$"),
        ("reuse: layr\n", r"expected .* or exact, got 'layr' \(did you mean 'layer'\?\)$"),
        ("source: [rtsp://me:secret@camera]\n", "source: expected text$"),
        ("stages: [{name: a}]\n", r"stages\.0\.call: expected a value, got none"),
        (
            "stages: [{name: a, call: f}]\n",
            r"stages\.0\.call: expected module:function or file\.py:function, got 'f'$",
        ),
        (
            "stages: [{name: a, call: 'm:f', queue_size: 0}]\n",
            "expected 1 or more, got 0$",
        ),
        (
            "stages: [{name: a, call: 'm:f', deadline_s: 0}]\n",
            "expected more than 0, got 0$",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        config_file.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("none.py:f", "none.py cannot be imported"),
        ("no_such_module:f", "no_such_module cannot be imported"),
        ("count.py:f", r"count\.py has no function f"),
    ],
)
def test_functions_that_are_not_there_are_reported(call: str, says: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=says):
        config_file.function(call, folder)


def test_a_file_that_is_not_there_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.status(["run", "--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capfd.readouterr().err


def test_every_key_is_an_option_of_run_and_all_but_a_few_are_keys() -> None:
    parameters = set(inspect.signature(cli.run).parameters) - {"context"}
    assert set(KEYS) == parameters - {"config", *COMMAND_LINE_ONLY}


def test_values_are_as_the_command_line_would_give_them(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("place: {infer: 'cpu:0', decode: 'cpu:1'}\ncpu_share: 12.5\ngate: pixel=3\n")
    assert config_file.read(path).options == {
        "place": "infer=cpu:0,decode=cpu:1",
        "cpu_share": "12.5",
        "gate": ["pixel=3"],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: " + "[" * 5000, "nested at most 20 deep"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested at most 20 deep"),
        ("- " * 5000, "nested at most 20 deep"),
        ("max_frames: " + "9" * 5000, "a value that is too long or malformed"),
        ("max_frames: 2001-99-99", "a value that is too long or malformed"),
        ("max_frames: !!int ''", "a value that is too long or malformed"),
        ("max_frames: !!timestamp x", "a value that is too long or malformed"),
        ("x" * 1_000_001, "at most 1000000 bytes"),
        ("model: [", "line 1, column 9"),
        ("model: \xff", "text in UTF-8"),
    ],
    ids=range(10),
)
def test_a_file_that_no_parser_likes_is_one_clear_error(
    text: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="latin-1")
    assert cli.status(["run", "--config", str(path)]) == 2
    shown = capfd.readouterr().err
    assert shown.startswith(f"stillframe: error: {path}: it cannot be read as YAML: ")
    assert says in shown
    assert shown.count("\n") == 1


def test_a_file_without_an_end_is_not_read_to_it() -> None:
    for device in ("/dev/zero", "/dev/urandom"):
        with pytest.raises(UsageError, match="expected at most 1000000 bytes, got more"):
            config_file.read(Path(device))
