"""What users see: the listed names, README's code, its commands, the examples and the documents."""

import ast
import dataclasses
import inspect
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import stillframe
from stillframe.errors import ModelError, SourceError
from stillframe.models import zoo
from stillframe.models.forms.forms import FORMS
from stillframe.pipeline import cli
from stillframe.pipeline.inference.settings import MODES, Settings
from stillframe.pipeline.stream import SettingsKwargs

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND_LINE = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PICTURE_BYTES = 200_000


def needs_packages() -> None:
    """Skip where the default model or clip can neither be found nor fetched."""
    try:
        zoo.path("centerface")
        stillframe.open_source("sample:sports2d_demo").close()
    except (ModelError, SourceError) as error:
        pytest.skip(str(error))


# --- names ---------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_nothing_else_is_shown() -> None:
    assert dir(stillframe) == sorted(stillframe.__all__)
    assert len(set(stillframe.__all__)) == len(stillframe.__all__)
    for name in stillframe.__all__:
        assert getattr(stillframe, name) is not None
    with pytest.raises(AttributeError, match="module 'stillframe' has no attribute 'nonsense'"):
        stillframe.nonsense  # noqa: B018


def test_names_that_type_checkers_see_are_those_that_are_imported() -> None:
    """The imports under TYPE_CHECKING, the table of homes and __all__ say the same."""
    tree = ast.parse((ROOT / "src" / "stillframe" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == stillframe._HOMES
    assert {*seen, "__version__"} == set(stillframe.__all__)


def test_every_public_name_stands_in_the_reference_and_has_a_docstring() -> None:
    """The reference is generated from docstrings, so it says of a name what they say."""
    page = (ROOT / "docs" / "reference" / "library.md").read_text(encoding="utf-8")
    generated = re.findall(r"^::: stillframe\.(\w+)$", page, re.MULTILINE)
    assert len(set(generated)) == len(generated)
    assert {*generated, "__version__"} == set(stillframe.__all__)
    for name in set(generated) - {"Result", "Evidence"}:
        assert inspect.getdoc(getattr(stillframe, name))


def test_the_docstring_of_stream_gives_the_defaults() -> None:
    """The reference is generated from it."""
    text = inspect.getdoc(stillframe.stream) or ""
    described = dict(re.findall(r"^    (\w+): (.*?)(?=^    \w|^$)", text, re.M | re.S))
    parameters = dict(inspect.signature(stillframe.stream).parameters)
    parameters.pop("settings")
    defaults = {
        name: each.default
        for name, each in parameters.items()
        if each.default is not inspect.Parameter.empty
    }
    settings = {each.name: each.default for each in dataclasses.fields(Settings)}
    defaults |= {name: settings[name] for name in SettingsKwargs.__annotations__}
    defaults["reuse"] = "auto"  # of the library's front doors; `Settings` has no controller
    for name, default in defaults.items():
        written = repr(default).replace("'", '"')
        assert described[name].strip().endswith(f"Default {written}."), name
    assert described.keys() >= parameters.keys()


# --- README --------------------------------------------------------------------------------------


def commands(name: str) -> str:
    completed = subprocess.run(
        [ROOT / "scripts" / "readme-command", name], capture_output=True, text=True, check=True
    )
    return completed.stdout.strip()


def test_the_commands_of_readme_can_be_taken_out_of_it() -> None:
    """CI runs what this gives, see .ci/run."""
    assert commands("run").startswith("python3 -m venv .venv && .venv/bin/pip install -e . && ")
    assert commands("run").endswith(" run --out out.mp4 --jsonl out.jsonl")
    assert commands("tests").endswith("pip install -e '.[dev]' && .venv/bin/pytest")
    assert "scripts/readme-command tests" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.fetch
def test_the_code_in_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    needs_packages()
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) == 10
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("faces, computed") >= 1


@pytest.mark.fetch
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs_packages()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    main = runpy.run_path(str(path))["main"]
    main(most=4) if "most" in inspect.signature(main).parameters else main()
    assert capsys.readouterr().out


# --- documents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.fixture(scope="module")
def docs_site() -> dict[str, Any]:
    """The functions with which the site is built."""
    return runpy.run_path(str(ROOT / "scripts" / "docs_site.py"))


def test_every_option_of_run_stands_in_the_document(docs_site: dict[str, Any]) -> None:
    """The tables of options are generated from the command line when the site is built."""
    assert "<!-- options: run -->" in COMMAND_LINE
    page = docs_site["on_page_markdown"](COMMAND_LINE)
    assert "<!-- options" not in page
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    declared = [each for each in commands["run"].params if each.name != "source"]
    options = {name for each in declared for name in (*each.opts, *each.secondary_opts)}
    options |= {f"--{each.name.replace('_', '-')}" for each in declared}
    assert len(options) > 30
    missing = {option for option in options if option not in page}
    assert not missing
    assert "--reuse " + "\\|".join(MODES) in page


def test_every_command_stands_in_the_document() -> None:
    def commands_of(command: Any, words: str = "") -> Iterator[str]:
        for name, each in getattr(command, "commands", {}).items():
            yield f"{words} {name}".strip()
            yield from commands_of(each, f"{words} {name}")

    documented = set(re.findall(r"^<!-- options: (.+) -->$", COMMAND_LINE, re.MULTILINE))
    groups = {"models", "samples"}  # these only have commands
    assert documented == set(commands_of(typer.main.get_command(cli.app))) - groups


def test_every_form_stands_in_the_document() -> None:
    page = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    rows = [
        f"| `{rule.name}` | {rule.task} | {rule.description} |"
        for rule in FORMS.values()
        if rule.name != "raw"
    ]
    assert "\n".join(["| form | task | outputs |", "| --- | --- | --- |", *rows]) in page


def test_an_unknown_command_cannot_be_documented(docs_site: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="there is no command 'walk'"):
        docs_site["option_tables"]("walk")


def test_exit_codes_stand_in_the_document() -> None:
    for error in stillframe.StillframeError.__subclasses__():
        assert f"| {error.exit_code} |" in COMMAND_LINE


def test_pictures_are_small_and_used() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        if picture.suffix in (".png", ".jpg"):
            assert picture.stat().st_size < PICTURE_BYTES
            assert any(picture.name in path.read_text(encoding="utf-8") for path in DOCUMENTS)
