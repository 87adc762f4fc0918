"""The folder list is the architecture: which room may import which, and that the links are links.

`ROOMS` is the rule. Everything else reads the imports of each file and compares; the pictures in
docs/architecture.md are held to the same table.
"""

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "stillframe"
COMMON = {
    "errors",
    "escaping",
    "closing",
    "cache_dir",
    "extras",
    "names",
    "native_calls",
    "cores",
    "endable_session",
    "yaml_file",
    "certificate",
    "audit_clock",
}
"""Modules beside the four folders that everybody may import."""

FOLDERS: dict[str, tuple[str, ...]] = {
    "pipeline": (
        "reuse.session",
        "reuse.introspection",
        "reuse.gate",
        "reuse.plan.tolerance",
        "reuse.frontend.fingerprint",
        "reuse.disk_cache",
        "models",
        "sample_videos",
    ),
    "reuse": (),
    "models": (),
    "sample_videos": ("models.weights",),
}
"""A top-level folder -> what it may import of the others. Of the engine that is its front door, its
named values, the change gate, the tolerance and a model's fingerprint: never its tables or its
compiler."""

ROOMS: dict[str, tuple[str, ...]] = {
    "pipeline.cli": (
        "pipeline.studies.sweep",
        "pipeline.studies.bench",
        "pipeline.studies.suite",
        "pipeline.studies.tune",
        "pipeline.studies.explain",
        "pipeline.filter",
        "pipeline.quality.auto",
        "pipeline.placement",
        "pipeline.telemetry",
        "pipeline.quality",
        "pipeline.sinks",
        "pipeline.inference",
        "pipeline.executor",
        "pipeline.executor.hardware",
        "pipeline.media",
    ),
    "pipeline.stream": ("pipeline.quality.auto", "pipeline.inference", "pipeline.media"),
    "pipeline.video_pipeline": ("pipeline.executor", "pipeline.media"),
    "pipeline.studies.sweep": (
        "pipeline.studies.environment",
        "pipeline.studies.report_style",
        "pipeline.quality",
        "pipeline.sinks",
        "pipeline.inference",
        "pipeline.media",
    ),
    "pipeline.studies.bench": (
        "pipeline.studies.environment",
        "pipeline.placement",
        "pipeline.telemetry",
        "pipeline.quality",
        "pipeline.sinks",
        "pipeline.inference",
        "pipeline.media",
    ),
    "pipeline.studies.suite": (
        "pipeline.studies.report_style",
        "pipeline.quality.auto",
        "pipeline.quality",
        "pipeline.inference",
        "pipeline.media",
    ),
    "pipeline.studies.tune": ("pipeline.quality", "pipeline.inference", "pipeline.media"),
    "pipeline.studies.explain": ("pipeline.inference", "pipeline.media"),
    "pipeline.studies.environment": ("pipeline.inference",),
    "pipeline.studies.report_style": (),
    "pipeline.filter": (
        "pipeline.quality.auto",
        "pipeline.sinks",
        "pipeline.inference",
        "pipeline.media",
    ),
    "pipeline.quality.auto": ("pipeline.quality", "pipeline.inference", "pipeline.media"),
    "pipeline.placement": (
        "pipeline.inference",
        "pipeline.executor",
        "pipeline.executor.hardware",
        "pipeline.media",
    ),
    "pipeline.telemetry": ("pipeline.inference", "pipeline.executor"),
    "pipeline.quality": ("pipeline.inference",),
    "pipeline.sinks": ("pipeline.inference", "pipeline.media"),
    "pipeline.inference": ("pipeline.executor", "pipeline.media"),
    "pipeline.executor": ("pipeline.executor.hardware",),
    "pipeline.executor.hardware": (),
    "pipeline.media": (),
    "reuse.introspection": (
        "reuse.session",
        "reuse.plan",
        "reuse.memory",
        "reuse.ir",
        "reuse.kernels",
    ),
    "reuse.session": (
        "reuse.compile",
        "reuse.runtime",
        "reuse.plan",
        "reuse.frontend",
        "reuse.ir",
        "reuse.disk_cache",
    ),
    "reuse.compile": (
        "reuse.plan",
        "reuse.memory",
        "reuse.frontend",
        "reuse.passes",
        "reuse.ir",
        "reuse.disk_cache",
    ),
    "reuse.runtime": ("reuse.plan", "reuse.ir", "reuse.disk_cache", "reuse.kernels"),
    "reuse.plan": ("reuse.memory", "reuse.ir", "reuse.kernels"),
    "reuse.memory": ("reuse.ir", "reuse.disk_cache"),
    "reuse.frontend": ("reuse.ir",),
    "reuse.passes": ("reuse.ir",),
    "reuse.ir": (),
    "reuse.gate": ("reuse.kernels",),
    "reuse.disk_cache": ("reuse.kernels",),
    "reuse.kernels": (),
    "models.zoo": (
        "models.catalog",
        "models.card",
        "models.forms",
        "models.model",
        "models.formats",
        "models.weights",
    ),
    "models.card": ("models.model", "models.formats"),
    "models.catalog": (
        "models.decoders",
        "models.architectures",
        "models.model",
        "models.formats",
        "models.labels",
        "models.weights",
    ),
    "models.forms": (
        "models.decoders",
        "models.model",
        "models.formats",
        "models.labels",
    ),
    "models.decoders": ("models.model", "models.results"),
    "models.architectures": ("models.labels", "models.weights"),
    "models.model": ("models.formats", "models.results"),
    "models.formats": ("models.weights",),
    "models.results": (),
    "models.labels": (),
    "models.weights": (),
    "sample_videos.catalogue": (
        "sample_videos.scenes",
        "sample_videos.truth",
        "sample_videos.options",
        "sample_videos.drawing",
    ),
    "sample_videos.scenes": (
        "sample_videos.truth",
        "sample_videos.options",
        "sample_videos.drawing",
    ),
    "sample_videos.truth": ("sample_videos.drawing",),
    "sample_videos.options": (),
    "sample_videos.drawing": (),
}
"""A room -> the rooms of its own folder that it may import. A room stands above those that it
imports, so there is no circle. A module that is no room's own belongs to the first of CATCH_ALL."""

CATCH_ALL = {"sample_videos": "sample_videos.catalogue"}
MOST_ROOMS, MOST_MODULES = 10, 4
"""Sub-packages and modules that may lie directly in `pipeline/` and `reuse/`."""

ONNX = re.compile(r"^\s*(import|from) onnx\b", re.MULTILINE)
FILES = sorted(path.relative_to(ROOT) for top in FOLDERS for path in (ROOT / top).rglob("*.py"))
INITS = [path for path in FILES if path.name == "__init__.py" and len(path.parts) > 2]


@functools.cache
def tree(path: Path) -> ast.Module:
    """A file's source, parsed once for all tests here."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The modules below stillframe that a file imports, anywhere in it, without that prefix."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            # `from stillframe.models import weights` names a module of the folder itself.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name for name in names if name.split(".")[0] == "stillframe"}
    return frozenset(name.removeprefix("stillframe").removeprefix(".") for name in inside)


def within(name: str, rooms: tuple[str, ...] | set[str]) -> bool:
    """Whether a dotted name lies in one of the rooms."""
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def room_of(name: str) -> str:
    """The innermost room in which a dotted name lies; empty: none, as of a folder itself."""
    rooms = [room for room in ROOMS if within(name, (room,))]
    return max(rooms, key=len, default=CATCH_ALL.get(name.split(".")[0], ""))


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def forbidden(module: str, names: frozenset[str]) -> set[str]:
    """Those of the names that a module may not import."""
    folder, room = module.split(".")[0], room_of(module)
    wrong = set()
    for name in names:
        if within(name, COMMON) or (folder == "pipeline" and name in ("", "__version__")):
            continue  # the command line shows the version
        if name.split(".")[0] != folder:
            allowed = within(name, FOLDERS[folder])
        else:
            allowed = room_of(name) in (room, *ROOMS.get(room, ()))
        if not allowed:
            wrong.add(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_one_way(path: Path) -> None:
    module = module_of(path)
    wrong = forbidden(module, imported(ROOT / path))
    room = room_of(module)
    assert not wrong, (
        f"{path} imports {', '.join(sorted(wrong))}; {room} may import"
        f" {', '.join((*ROOMS.get(room, ()), *FOLDERS[module.split('.')[0]])) or 'nothing'}"
    )


def test_the_table_has_no_circle() -> None:
    order = list(ROOMS)
    for room, below in ROOMS.items():
        for each in below:
            assert order.index(each) > order.index(room), f"{room} stands below {each}"


def test_every_arrow_of_the_table_is_used() -> None:
    """A rule that nobody needs any more is deleted, so that the table shows what is."""
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in FILES:
        room = room_of(module_of(path))
        if room in used:
            used[room] |= {room_of(name) for name in imported(ROOT / path)}
    unused = {room: set(below) - used[room] for room, below in ROOMS.items()}
    assert {room: rooms for room, rooms in unused.items() if rooms} == {}


@pytest.mark.parametrize("folder", ["pipeline", "reuse"])
def test_a_folder_has_few_rooms(folder: str) -> None:
    inside = [path for path in (ROOT / folder).iterdir() if path.name != "__pycache__"]
    rooms = [path.name for path in inside if path.is_dir()]
    modules = [path.name for path in inside if path.suffix == ".py" and path.stem != "__init__"]
    assert len(rooms) <= MOST_ROOMS, f"{len(rooms)} rooms in {folder}/: {', '.join(sorted(rooms))}"
    assert len(modules) <= MOST_MODULES, f"{folder}/ holds {', '.join(sorted(modules))}"


@pytest.mark.parametrize("path", INITS, ids=str)
def test_a_room_says_in_one_line_what_it_is_for(path: Path) -> None:
    text = ast.get_docstring(tree(ROOT / path))
    assert text, f"{path}: expected a docstring of one line"
    assert "\n" not in text.split("\n\n")[0], f"{path}: its first line goes on"


def test_a_class_name_stands_for_one_thing() -> None:
    names = Counter(
        node.name
        for path in [*(ROOT / path for path in FILES), *PACKAGE.glob("*.py")]
        for node in tree(path).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_tests_lie_where_what_they_test_lies() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):
        parts = path.relative_to(ROOT / "tests").parts[:-1]
        if parts and parts[0] in FOLDERS:
            assert (ROOT / Path(*parts)).is_dir(), f"{path}: there is no room {'/'.join(parts)}"


def test_the_rule_sees_every_way_of_importing(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "import stillframe.pipeline.media.frame\n"
        "from stillframe import models\n"
        "def later():\n"
        "    from stillframe.reuse.kernels import abi\n"
        "    from stillframe.models import zoo, weights\n"
    )
    names = imported(source)
    assert forbidden("reuse.plan.plan", names) == names - {"reuse.kernels.abi"}
    assert forbidden("sample_videos.encode", names) == names - {"models.weights"}
    assert forbidden("pipeline.inference.runner", names) == {"reuse.kernels.abi"}
    assert forbidden("pipeline.executor.stage", names) == {
        "reuse.kernels.abi",
        "pipeline.media.frame",
    }


def test_one_folder_of_the_engine_reads_onnx_and_one_file_compiles() -> None:
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in FILES}
    engine = {path: text for path, text in texts.items() if path.parts[0] == "reuse"}
    reads = {path.parent for path, text in engine.items() if ONNX.search(text)}
    compiles = {str(path) for path, text in engine.items() if "njit" in text}
    assert reads == {Path("reuse/frontend")}
    assert compiles == {"reuse/kernels/compiler.py"}


# --- the pictures of the architecture ------------------------------------------------------------

ARROW = re.compile(r"^\s*(\w+)\s*-->\s*(\w+(?:\s*&\s*\w+)*)\s*$", re.MULTILINE)


def drawn(folder: str) -> Counter[tuple[str, str]]:
    """The arrows of a folder's picture in docs/architecture.md, by the last names of rooms."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```mermaid\n%% (\w+)\n(.*?)```", page, re.DOTALL)
    text = dict(blocks)[folder]
    return Counter(
        (source, target.strip())
        for source, targets in ARROW.findall(text)
        for target in targets.split("&")
    )


@pytest.mark.parametrize("folder", ["pipeline", "reuse"])
def test_the_picture_shows_the_table(folder: str) -> None:
    arrows = drawn(folder)
    expected = {
        (room.split(".")[-1], each.split(".")[-1])
        for room, below in ROOMS.items()
        if room.startswith(f"{folder}.")
        for each in below
    }
    assert set(arrows) == expected
    assert set(arrows.values()) == {1}, "an arrow is drawn twice"


# --- the folder links ----------------------------------------------------------------------------


def test_a_checkout_whose_links_are_text_says_what_to_do(tmp_path: Path) -> None:
    """As git writes them where core.symlinks is off: one text file each, with the target in it."""
    package = tmp_path / "src" / "stillframe"
    package.mkdir(parents=True)
    for path in PACKAGE.glob("*.py"):
        (package / path.name).write_bytes(path.read_bytes())
    for folder in FOLDERS:
        (package / folder).write_text(f"../../{folder}")
    command = [sys.executable, "-c", "import stillframe"]
    run = subprocess.run(
        command, env={"PYTHONPATH": str(package.parent)}, capture_output=True, text=True
    )
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert re.match(r"ImportError: src/stillframe/\w+ is a text file", last)
    assert last.endswith("git config core.symlinks true && git checkout -- src/stillframe")
    assert "During handling" not in run.stderr


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_the_folder_links_are_links(folder: str) -> None:
    link = PACKAGE / folder
    assert link.is_dir(), (
        f"src/stillframe/{folder} is no folder: this checkout turned links into text files;"
        " run: git config core.symlinks true && git checkout -- src/stillframe"
    )
    assert link.resolve() == ROOT / folder


def test_a_module_imports_the_same_from_any_folder(tmp_path: Path) -> None:
    """One copy of each class, whatever the working directory is."""
    run = subprocess.run(
        [sys.executable, "-c", "import stillframe.pipeline.media.frame as f; print(f.__name__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "stillframe.pipeline.media.frame"
