"""Texts by others are shown, not obeyed: by a terminal as little as by rich."""

import ast
import io
import json
import os
import pty
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from stillframe.escaping import escaped
from stillframe.pipeline import cli
from stillframe.pipeline.cli import printing
from tests import networks
from tests.hostile import media

HOSTILE = "\x1b[31m\x1b]0;owned\x07\x9b2J\u202egnp.\x7f[red]:smile:[/red]"
SHOWN = r"\x1b[31m\x1b]0;owned\x07\x9b2J\u202egnp.\x7f[red]:smile:[/red]"
SUBTLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
CLI = Path(cli.__file__).parent


def test_control_characters_are_shown_and_others_are_left_alone() -> None:
    assert escaped(HOSTILE) == SHOWN
    assert escaped(SHOWN) == SHOWN
    assert escaped("\udcff") == r"\udcff"
    for text in ("", "Grüße, 東京 🎥\n\tnext", "a\\b [red]"):
        assert escaped(text) == text


def console(**settings: object) -> printing.PlainConsole:
    return printing.PlainConsole(file=io.StringIO(), force_terminal=True, width=200, **settings)


def shown(on: printing.PlainConsole) -> str:
    """What was printed, without the styles that rich itself set."""
    assert isinstance(on.file, io.StringIO)
    return re.sub("\x1b\\[[0-9;?]*[mKlhAG]|\r", "", on.file.getvalue())


def test_whatever_a_console_prints_is_escaped() -> None:
    name = HOSTILE.replace("\x07", "")  # which rich drops
    table = Table(name, title=name, caption=name)
    table.add_row(name)
    table.add_row(Text(name, "bold"))
    prints: tuple[Callable[[printing.PlainConsole], object], ...] = (
        lambda on: on.print(name),
        lambda on: on.print(name, style="red"),
        lambda on: on.print(table),
        lambda on: printing.plain(on, name),
        lambda on: on.print(Text.assemble((name, "bold"), name)),
    )
    for prints_it in prints:
        on = console()
        prints_it(on)
        assert SHOWN.replace(r"\x07", "") in shown(on)
        assert not SUBTLE.search(shown(on))


def test_progress_and_status_are_escaped() -> None:
    on = console()
    with Progress(TextColumn("{task.description}", markup=False), console=on) as bar:
        bar.add_task(HOSTILE)
    with on.status(Text(HOSTILE)):
        pass
    assert SHOWN.replace(r"\x07", "") in shown(on)
    assert not SUBTLE.search(shown(on))


def test_data_complaints_and_traces_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    printing.data(HOSTILE)
    printing.complaint("error", HOSTILE)
    printing.trace(f"{HOSTILE}\n")
    written = capsys.readouterr()
    assert written.out == f"{SHOWN}\n"
    assert written.err == f"stillframe: error: {SHOWN}\n{SHOWN}\n"


def test_only_this_module_prints() -> None:
    """No other one makes a console, prints by itself, or lets rich interpret a text."""
    for path in CLI.glob("*.py"):
        if path.name == "printing.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = ast.unparse(node.func)
            keywords = {each.arg: ast.unparse(each.value) for each in node.keywords}
            where = f"{path.name}:{node.lineno}: {call}"
            assert call.split(".")[-1] not in ("Console", "from_markup", "echo", "secho"), where
            assert call not in ("print", "sys.stdout.write", "sys.stderr.write"), where
            assert keywords.get("markup", "False") == "False", where
            if call.split(".")[-1] == "TextColumn":
                assert keywords.get("markup") == "False", where
            if call == "status.update" or call.endswith("_status.update"):
                assert ast.unparse(node.args[0]).startswith("Text("), where


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose file, nodes, tensors and labels have hostile names, and a clip with one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cli.DEBUG, "")
    model = onnx.load(networks.painter(tmp_path / "painter.onnx"))
    renamed = {"c0": f"c0{HOSTILE}", "r0": f"r0{HOSTILE}"}
    for node in model.graph.node:
        node.name = f"{node.op_type}{HOSTILE}"
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    onnx.save(model, tmp_path / f"{HOSTILE.replace('/', '')}.onnx")
    media.clip(tmp_path / "clip.mp4", 8).rename(f"{HOSTILE.replace('/', '')}.mp4")
    (tmp_path / "p.json").write_text(json.dumps({"model": HOSTILE, HOSTILE: HOSTILE}))
    (tmp_path / "c.yaml").write_text(json.dumps({HOSTILE: HOSTILE}))
    return tmp_path


COMMANDS: Sequence[Sequence[str]] = (
    ("explain", "MODEL", "CLIP"),
    ("explain", "MODEL", "CLIP", "--json"),
    ("models", "info", "MODEL"),
    ("models", "info", "MODEL", "--json"),
    ("models", "info", HOSTILE),
    ("probe", "CLIP"),
    ("probe", f"{HOSTILE}-not-there"),
    ("run", "CLIP", "--model", "MODEL", "--reuse", "layer", "--out", "OUT"),
    ("run", "CLIP", "--model", "MODEL", "--profile", "p.json"),
    ("run", "CLIP", "--model", "MODEL", "--config", "c.yaml"),
    ("run", "CLIP", "--model", "MODEL", "--gate", HOSTILE),
    ("run", "CLIP", "--model", HOSTILE),
    ("sweep", "CLIP", "--model", "MODEL", "--only", "off", "--only", "frame", "--min-quality", "0"),
    ("tune", "CLIP", "--model", "MODEL", "-o", "t.json", "--quality", "1"),
    (f"--{HOSTILE}",),
    ("run", "CLIP", "--reuse", HOSTILE),
    ("--debug", "run", "CLIP", "--model", HOSTILE),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_no_command_lets_a_name_through(
    command: Sequence[str], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": next(folder.glob("*gnp*.onnx")).name}
    places["OUT"] = places["MODEL"].replace(".onnx", ".mkv")
    places["CLIP"] = next(folder.glob("*.mp4")).name
    cli.status([places.get(word, word) for word in command])
    written = "".join(capfd.readouterr())
    assert written
    assert "this is a fault of stillframe" not in written
    assert not SUBTLE.search(written), repr(written)


def test_a_terminal_gets_records_escaped_and_a_pipe_as_they_are(tmp_path: Path) -> None:
    import numpy as np

    from stillframe.models.results import Detections
    from stillframe.pipeline.sinks.records import CsvSink

    result = Detections(
        xyxy=np.zeros((1, 4), np.float32),
        confidence=np.ones(1, np.float32),
        class_id=np.zeros(1, int),
        labels=(HOSTILE,),
    )
    ours, theirs = pty.openpty()
    for target in (f"fd:{theirs}", str(tmp_path / "rows.csv")):
        with CsvSink(target) as sink:
            sink.write(media.frame_of(0), result, None)
    on_terminal = ""
    while "[/red]" not in on_terminal:
        on_terminal += os.read(ours, 10_000).decode()
    os.close(ours)
    assert SHOWN in on_terminal
    assert "\x1b" not in on_terminal
    assert HOSTILE in (tmp_path / "rows.csv").read_text()
