"""The folder list is the architecture: who may import whom, and that the links are links.

The table is the rule; everything else reads the imports of each file and compares.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "stillframe"
ALLOWED: dict[str, set[str]] = {
    "reuse": {"reuse"},
    "models": {"models"},
    "sample_videos": {"sample_videos", "models.weights"},
    "pipeline": {"pipeline", "reuse", "models", "sample_videos"},
}
COMMON = {"errors", "closing", "cache_dir", "extras", "names"}
ONNX = re.compile(r"^\s*(import|from) onnx\b", re.MULTILINE)
FILES = sorted(
    path.relative_to(ROOT) for folder in ALLOWED for path in (ROOT / folder).rglob("*.py")
)


def imported(path: Path) -> set[str]:
    """The modules below stillframe that a file imports, anywhere in it, without that prefix."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            # `from stillframe.models import weights` names a module of the folder itself.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name for name in names if name.split(".")[0] == "stillframe"}
    return {name.removeprefix("stillframe").removeprefix(".") for name in found}


def forbidden(folder: str, names: set[str]) -> set[str]:
    """Those of the names that a file in the folder may not import."""
    allowed = ALLOWED[folder] | COMMON
    if folder == "pipeline":
        allowed = allowed | {"", "__version__"}  # the command line shows the version
    return {
        name
        for name in names
        if not any(name == each or name.startswith(f"{each}.") for each in allowed)
    }


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_one_way(path: Path) -> None:
    wrong = forbidden(path.parts[0], imported(ROOT / path))
    assert not wrong, (
        f"{path} imports {', '.join(sorted(wrong))};"
        f" {path.parts[0]} may import {', '.join(sorted(ALLOWED[path.parts[0]]))}"
    )


def test_the_rule_sees_every_way_of_importing(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "import stillframe.pipeline.media.frame\n"
        "from stillframe import models\n"
        "def later():\n"
        "    from stillframe.models import zoo, weights\n"
    )
    names = imported(source)
    assert forbidden("reuse", names) == names
    assert forbidden("sample_videos", names) == {"pipeline.media.frame", "models", "models.zoo"}
    assert forbidden("pipeline", names) == set()


def test_only_the_frontend_of_the_engine_imports_onnx_and_one_file_compiles() -> None:
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in FILES}
    engine = {path: text for path, text in texts.items() if path.parts[0] == "reuse"}
    imports_onnx = {str(path.parent) for path, text in engine.items() if ONNX.search(text)}
    compiles = {str(path) for path, text in engine.items() if "njit" in text}
    assert imports_onnx == {"reuse/frontend"}
    assert compiles == {"reuse/kernels/jit.py"}


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_the_folder_links_are_links(folder: str) -> None:
    link = PACKAGE / folder
    assert link.is_dir(), (
        f"src/stillframe/{folder} is no folder: this checkout turned links into text files;"
        " run: git config core.symlinks true && git checkout -- src/stillframe"
    )
    assert link.resolve() == ROOT / folder


def test_a_checkout_whose_links_are_text_says_what_to_do(tmp_path: Path) -> None:
    """As git writes them where core.symlinks is off: one text file each, with the target in it."""
    package = tmp_path / "src" / "stillframe"
    package.mkdir(parents=True)
    for path in PACKAGE.glob("*.py"):
        (package / path.name).write_bytes(path.read_bytes())
    for folder in ALLOWED:
        (package / folder).write_text(f"../../{folder}")
    command = [sys.executable, "-c", "import stillframe"]
    ran = subprocess.run(
        command, env={"PYTHONPATH": str(package.parent)}, capture_output=True, text=True
    )
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert re.match(r"ImportError: src/stillframe/\w+ is a text file", last)
    assert last.endswith("git config core.symlinks true && git checkout -- src/stillframe")
    assert "During handling" not in ran.stderr


def test_a_module_imports_the_same_from_any_folder(tmp_path: Path) -> None:
    """One copy of each class, whatever the working directory is."""
    told = subprocess.run(
        [sys.executable, "-c", "import stillframe.pipeline.media.frame as f; print(f.__name__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "stillframe.pipeline.media.frame"
