"""Old names of options and of configuration keys: accepted, with one line that says the new one."""

from pathlib import Path

import pytest
import typer

from stillframe.errors import UsageError
from stillframe.names import RenamedWarning
from stillframe.pipeline import cli
from stillframe.pipeline.cli import config_file, renamed
from stillframe.pipeline.cli.renamed import RENAMED, Renamed
from tests import networks
from tests.hostile import media

ROWS = (
    Renamed("run", "--most-frames", "--max-frames"),
    Renamed("run", "--silent", "--quiet"),
    Renamed("stages", "following", "after"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network and a clip; and rows as if names had changed."""
    networks.brightness(tmp_path / "brightness.onnx")
    media.clip(tmp_path / "clip.mp4", 12)
    (tmp_path / "own.py").write_text("def same(item):\n    return item\n")
    monkeypatch.setattr(renamed, "RENAMED", ROWS)
    return tmp_path


def arguments(folder: Path) -> list[str]:
    return ["run", str(folder / "clip.mp4"), "--model", str(folder / "brightness.onnx")]


@pytest.mark.parametrize("option", [["--most-frames", "3"], ["--most-frames=3"]])
def test_an_old_option_works_with_one_line(
    option: list[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.status([*arguments(folder), "--jsonl", "-", "-q", *option]) == 0
    shown = capfd.readouterr()
    assert len(shown.out.splitlines()) == 3
    assert shown.err == (
        "stillframe: warning: --most-frames is now called --max-frames; the old name still works,"
        " but will be removed\n"
    )


@pytest.mark.usefixtures("folder")
def test_only_the_command_of_the_row_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.status(["probe", "--silent"]) == 2
    assert capsys.readouterr().err == "stillframe: error: No such option: --silent\n"


def test_what_follows_two_dashes_is_no_option() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renamed, "RENAMED", ROWS)
        words = ["run", "--", "--silent"]
        assert renamed.current_arguments(words) == words


def test_old_keys_work_with_one_line_each(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = folder / "run.yaml"
    path.write_text(
        "most_frames: 4\nquiet: true\njsonl: '-'\n"
        "stages: [{name: mine, call: 'own.py:same', following: decode}]\n"
    )
    assert cli.status([*arguments(folder), "--config", str(path)]) == 0
    shown = capfd.readouterr()
    assert len(shown.out.splitlines()) == 4
    lines = shown.err.splitlines()
    assert len(lines) == 2
    assert f"{path}: most_frames is now called max_frames;" in lines[0]
    assert f"{path}: stages.0.following is now called after;" in lines[1]


def test_a_program_that_reads_such_a_file_is_warned(folder: Path) -> None:
    path = folder / "run.yaml"
    path.write_text("most_frames: 4\n")
    with pytest.warns(RenamedWarning, match="most_frames is now called max_frames"):
        assert config_file.read(path).options == {"max_frames": 4}


@pytest.mark.parametrize(
    "order", ["most_frames: 4\nmax_frames: 5\n", "max_frames: 5\nmost_frames: 4\n"]
)
def test_both_names_of_a_key_are_refused(order: str, folder: Path) -> None:
    path = folder / "run.yaml"
    path.write_text(order)
    with pytest.raises(UsageError, match="most_frames is the old name of max_frames"):
        config_file.read(path)


@pytest.mark.parametrize("row", RENAMED, ids=lambda row: row.old)
def test_rows_name_what_there_is_and_what_there_is_no_more(row: Renamed) -> None:
    if row.where == "stages":
        known = set(config_file.StageConfig.model_fields)
    else:
        command = typer.main.get_command(cli.app).commands[row.where]  # type: ignore[attr-defined]
        known = {name for each in command.params for name in each.opts}
    assert row.new in known
    assert row.old not in known


def test_a_stage_s_queue_has_its_old_name_too(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("stages: [{name: mine, call: 'own.py:same', room: 3}]\n")
    with pytest.warns(RenamedWarning, match=r"stages\.0\.room is now called queue_size"):
        (stage,) = config_file.read(path).stages
    assert stage.queue_size == 3


def test_the_log_of_tune_has_its_old_name_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", "nowhere.mp4", "-o", str(tmp_path / "p.json"), "--tries", str(tmp_path)]
    assert cli.status(words) == 5
    warning, error = capsys.readouterr().err.splitlines()
    assert "--tries is now called --log" in warning
    assert "a folder; name a file in it" in error
