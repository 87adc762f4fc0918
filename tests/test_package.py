"""The package as users get it: sdist and wheel are complete, and the wheel runs by itself."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests import networks

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("models", "pipeline", "reuse", "sample_videos")


def run(*command: object, **more: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= more.pop("env", {})  # type: ignore[arg-type]
    ran = subprocess.run(
        [str(word) for word in command],
        env=environment,
        capture_output=True,
        text=True,
        **more,  # type: ignore[call-overload]
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    target = tmp_path_factory.mktemp("dist")
    source = copied_sources(tmp_path_factory.mktemp("source"))
    leave_out = {"STILLFRAME_BUILD_KERNELS": "none"}  # their code is tested below
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, source, env=leave_out)
    return target


def copied_sources(target: Path) -> Path:
    """What a package is built from, in another folder."""
    for name in (*ROOMS, "src"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "built")
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, target)
    return target


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and what it depends on from this one."""
    (wheel,) = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install"]
    run(*pip, "--quiet", "--no-deps", "--no-index", wheel)
    # A path in a .pth file adds packages; the .pth files beside those, and so the checkout, do not
    # count.
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def modules() -> set[str]:
    """Every module of the checkout, by its path in the package."""
    names = {path.name for path in (ROOT / "src" / "stillframe").glob("*.py")}
    for room in ROOMS:
        names |= {path.relative_to(ROOT).as_posix() for path in (ROOT / room).rglob("*.py")}
    return names | {"py.typed"}


def test_the_wheel_holds_every_module_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    assert {name.removeprefix("stillframe/") for name in names} == modules()


def test_the_sdist_holds_every_module(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {f"src/stillframe/{name}" for name in modules()} <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith("tests/")]


AHEAD = "reuse/kernels/ahead.py"
WRITES_A_FILE = """
import pathlib, sys
for level in sys.argv[2:]:
    folder = pathlib.Path(sys.argv[1], level)
    folder.mkdir(parents=True)
    (folder / "kernel.code").write_text("code")
"""


@pytest.mark.parametrize(
    ("program", "levels", "expected"),
    [
        (WRITES_A_FILE, None, ["x86-64-v3/kernel.code", "x86-64-v4/kernel.code"]),
        (WRITES_A_FILE, "x86-64-v3", ["x86-64-v3/kernel.code"]),
        (WRITES_A_FILE, "none", []),
        ("raise SystemExit(3)", None, []),
        ("import a_compiler_that_is_absent", None, []),
    ],
)
def test_a_wheel_has_the_kernels_that_could_be_compiled(
    program: str, levels: str | None, expected: list[str], tmp_path: Path
) -> None:
    source = copied_sources(tmp_path)
    (source / AHEAD).write_text(program)
    environment = {} if levels is None else {"STILLFRAME_BUILD_KERNELS": levels}
    run(sys.executable, "setup.py", "--quiet", "bdist_wheel", cwd=source, env=environment)
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    start = "stillframe/reuse/kernels/built/"
    assert sorted(name.removeprefix(start) for name in names if name.startswith(start)) == expected
    assert f"stillframe/{AHEAD}" in names, "the rest is there whatever happened"


def test_every_folder_with_modules_is_a_package() -> None:
    """setuptools leaves out a folder that has no __init__.py."""
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_the_wheel_runs_a_frame_in_an_environment_of_its_own(
    installed: Path, tmp_path: Path
) -> None:
    model = networks.brightness(tmp_path / "brightness.onnx", 96, 128)
    ran = run(
        *(installed / "stillframe", "run", "sample:plaza?size=128x96&seconds=0.2&fps=10"),
        *("--model", model, "--max-frames", "1", "--jsonl", "-", "--quiet", "--reuse", "frame"),
        cwd=tmp_path,
        env={"STILLFRAME_CACHE": str(tmp_path / "cache")},
    )
    (line,) = ran.stdout.splitlines()
    assert json.loads(line)["index"] == 0
    assert {path.name for path in (tmp_path / "cache").iterdir()} >= {"kernels", "samples"}


def test_the_installed_package_is_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "import stillframe; from stillframe.extras import install_command;"
        "print(stillframe.__file__); print(install_command('report'))"
    )
    where, command = run(installed / "python", "-c", code, cwd=tmp_path).stdout.splitlines()
    assert Path(where).is_relative_to(installed.parent)
    assert command == "pip install 'stillframe[report]'"
