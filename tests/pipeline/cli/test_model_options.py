"""Options that say what a model is: in each command, in configuration files, and beside a card."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from stillframe.pipeline import cli
from stillframe.pipeline.cli import config_file
from stillframe.pipeline.cli.filter_request import FilterRequest
from stillframe.pipeline.cli.options import ModelOptions
from tests import networks
from tests.hostile import media

OPTIONS = {
    "task",
    "confidence",
    "labels",
    "classes",
    "iou",
    "size",
    "layout",
    "mean",
    "std",
    "scale",
    "bgr",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    networks.brightness(tmp_path / "net.onnx")  # its one box is of class 1
    media.clip(tmp_path / "clip.mp4", 6)
    return tmp_path


def run(folder: Path, *words: str) -> int:
    return cli.status(
        ["run", str(folder / "clip.mp4"), "--model", str(folder / "net.onnx"), "--reuse", "off",
         "--confidence", "0", "--jsonl", "-", "--quiet", *words]
    )  # fmt: skip


def labels_of(capfd: pytest.CaptureFixture[str]) -> list[list[str]]:
    lines = capfd.readouterr().out.splitlines()
    return [json.loads(line)["detections"]["labels"] for line in lines]


@pytest.mark.parametrize("command", ["run", "filter", "sweep", "tune", "explain", "bench"])
def test_every_command_takes_them(command: str) -> None:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert {each.name for each in commands[command].params} >= OPTIONS


def test_options_go_before_the_card(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    assert labels_of(capfd)[0] == ["class 1"]
    (folder / "model.yaml").write_text("labels: [dark, bright]\n")
    assert run(folder) == 0
    assert labels_of(capfd)[0] == ["bright"]
    (folder / "names.txt").write_text("nacht\ntag\n")
    assert run(folder, "--labels", str(folder / "names.txt")) == 0
    assert labels_of(capfd)[0] == ["tag"]
    assert run(folder, "--classes", "dark") == 0
    assert labels_of(capfd) == [[]] * 6
    assert run(folder, "--scale", "0", "--mean", "-1") == 0  # every pixel is fed as 1
    capfd.readouterr()
    assert run(folder, "--task", "tensors") == 0  # labels of the card do not apply to tensors
    assert "tensors" in json.loads(capfd.readouterr().out.splitlines()[0])
    assert run(folder, "--task", "tensors", "--labels", "a,b") == 4
    assert "net.onnx: labels: expected none" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--labels", "a,b,c", "--classes", "d"], 4, "net.onnx: classes: expected labels of the"),
        (
            ["--labels", "absent.txt"],
            2,
            "--labels: absent.txt: no such file or directory; expected",
        ),
        (["--size", "32x32"], 4, "net.onnx: size: model input size: expected 96x64"),
        (["--size", "large"], 2, "--size: expected HEIGHTxWIDTH such as 480x640, got 'large'"),
        (["--mean", "1,2"], 4, "net.onnx: mean: expected 1 or 3 numbers, got 2"),
        (
            ["--scale", "1/0"],
            2,
            "--scale: expected a number, or a fraction such as 1/255, got '1/0'",
        ),
        (["--iou", "0"], 2, "--iou: expected more than 0, got 0"),
        (["--task", "detectoin"], 4, "(did you mean 'detection'?)"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    words: list[str], code: int, says: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *words) == code
    error = capfd.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_configuration_file_takes_lists(folder: Path) -> None:
    path = folder / "run.yaml"
    path.write_text(
        "labels: [a, b]\nclasses: a\nsize: [64, 96]\nmean: [0.5, 0.5, 0.5]\nstd: 0.25\n"
        "scale: 1/255\nbgr: true\n"
    )
    assert config_file.read(path).options == {
        "labels": "a,b", "classes": "a", "size": "64x96", "mean": "0.5,0.5,0.5", "std": "0.25",
        "scale": "1/255", "bgr": True,
    }  # fmt: skip


def test_options_become_a_card_and_a_command_line_again() -> None:
    stated: dict[str, Any] = {
        "confidence": 0.0,
        "size": "64x96",
        "mean": "0.1,0.2,0.3",
        "bgr": True,
    }
    options = ModelOptions(**stated)
    card = options.card()
    assert (card.confidence, card.size, card.mean) == (0.0, (64, 96), (0.1, 0.2, 0.3))
    assert card.model_fields_set == set(stated)
    words = ["--confidence", "0.0", "--size", "64x96", "--mean", "0.1,0.2,0.3", "--bgr"]
    assert sorted(options.command_line()) == sorted(words)


def test_labels_of_an_effect_are_not_the_model_s() -> None:
    request = FilterRequest(classes="face", confidence=0.4, labels="face")
    assert request.card().model_fields_set == {"labels"}
    assert request.effect_settings().classes == ("face",)
