"""Machine code on disk: loaded without numba; damaged files are compiled again, reported once."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stillframe.reuse.kernels import code_store, jit, processor

PROGRAM = """
import sys
from stillframe.reuse.kernels.jit import entry
"""
KERNEL = """
@entry("int64(int64)")
def {name}(x):
    return 2 * x

assert {name}(21) == 42
"""


def program(folder: Path, *names: str) -> Path:
    """A file that runs an entry of each name, and tells how many of them came from the disk."""
    from_disk = " + ".join(f"int({name}.code.is_from_disk)" for name in names)
    path = folder / "program.py"
    kernels = [KERNEL.format(name=name) for name in names]
    path.write_text("".join([PROGRAM, *kernels, f"print({from_disk}, 'numba' in sys.modules)"]))
    return path


def run(path: Path, cache: Path, **variables: str) -> tuple[str, str]:
    """What the program of a file writes to standard output and to standard error."""
    ran = subprocess.run(
        [sys.executable, str(path)],
        env=os.environ | {"STILLFRAME_CACHE": str(cache)} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip(), ran.stderr


@pytest.fixture(autouse=True)
def nothing_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came with the package is left aside: these tests are about the cache."""
    monkeypatch.setattr(processor, "level_of_host", lambda: None)


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if kind == "blocked":  # a folder in its place can be neither read nor replaced
        path.unlink()
        path.mkdir()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": content[:middle], "flipped": flipped}[kind])


def test_kernels_in_damaged_files_are_compiled_again_with_one_line(tmp_path: Path) -> None:
    kinds = ("empty", "cut", "flipped", "blocked", "whole")
    path, cache = program(tmp_path, *kinds), tmp_path / "cache"
    assert run(path, cache) == ("0 True", "")
    for kind in kinds[:-1]:
        (file,) = (cache / "kernels").glob(f"program.{kind}-*")
        damage(file, kind)
    output, errors = run(path, cache)
    assert output == "1 True", "of the one that is whole"
    assert errors.count("damaged kernels, which are compiled again\n") == 1
    assert errors.count("cannot store kernels (Is a directory)") == 1
    output, errors = run(path, cache)
    assert output == "4 True", "of all but the one whose file cannot be replaced"
    assert "which are compiled again" not in errors


def test_a_start_that_finds_its_code_does_not_load_numba(tmp_path: Path) -> None:
    path, cache = program(tmp_path, "one", "two"), tmp_path / "cache"
    assert run(path, cache) == ("0 True", "")
    assert run(path, cache) == ("2 False", "")


def test_other_sources_constants_or_settings_are_other_code(tmp_path: Path) -> None:
    path, cache = program(tmp_path, "one"), tmp_path / "cache"
    run(path, cache)
    assert run(path, cache, NUMBA_OPT="1")[0] == "0 True"
    assert run(path, cache)[0] == "1 False"
    path.write_text(path.read_text().replace("2 * x", "x + x"))
    assert run(path, cache)[0] == "0 True"


@pytest.mark.parametrize("kind", ["empty", "cut", "flipped", "blocked"])
def test_a_damaged_file_is_no_result(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_store, "warn_once", code_store.warn_once.__wrapped__)
    monkeypatch.setattr(code_store, "kernel_folder", lambda: tmp_path)
    function, signature = jit.entry("int64(int64)")(lambda x: x).py_func, "int64(int64)"
    monkeypatch.setattr(code_store, "linked", lambda symbol, content: len(symbol + content.hex()))
    code_store.add(function, signature, "symbol", b"code")
    assert code_store.load(function, signature) == code_store.MachineCode(6 + 8, True)
    (file,) = tmp_path.iterdir()
    damage(file, kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert code_store.load(function, signature) is None
    text = "holds damaged kernels, which are compiled again"
    if kind == "blocked":
        text = "cannot read kernels (Is a directory)"
    assert [str(each.message) for each in caught] == [f"{tmp_path}: {text}"]


def test_only_so_many_files_of_one_kernel_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_store, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(code_store, "linked", lambda symbol, content: 1)
    monkeypatch.setattr(code_store, "FILES_KEPT", 2)

    def kernel(constant: int) -> Any:
        def of(x: int) -> int:
            return constant * x

        return of

    (tmp_path / "another-1.code").touch()
    for constant in range(4):
        code_store.add(kernel(constant), "int64(int64)", "symbol", b"code")
        for path in tmp_path.glob("test_code_store.of-*"):
            os.utime(path, ns=(path.stat().st_mtime_ns - 10**9,) * 2)
    assert len(list(tmp_path.glob("test_code_store.of-*"))) == 2
    assert (tmp_path / "another-1.code").exists()
    assert code_store.load(kernel(3), "int64(int64)") is not None
    assert code_store.load(kernel(0), "int64(int64)") is None


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("void(int64)", ("void", [("int64", 0)])),
        ("boolean(uint8[::1], float64)", ("boolean", [("uint8", 1), ("float64", 0)])),
        ("int64(int16[:,::1], int64)", ("int64", [("int16", 2), ("int64", 0)])),
    ],
)
def test_signatures_are_read(signature: str, expected: object) -> None:
    assert jit.parse(signature) == expected


@jit.entry("float64(uint8[:,::1], float64, boolean)")
def weighted(values, factor, negative):
    total = 0.0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            total += y * 10 * values[y, x]
    return -factor * total if negative else factor * total


def test_an_entry_takes_arrays_and_scalars() -> None:
    values = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = sum(y * 10 * int(values[y, x]) for y in range(2) for x in range(3))
    assert weighted(values, 0.5, False) == 0.5 * expected
    assert weighted(values, 2.0, True) == -2.0 * expected


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 3), np.int16),
        np.zeros(6, np.uint8),
        np.zeros((4, 6), np.uint8)[::2],
        np.zeros((3, 2), np.uint8).T,
    ],
)
def test_an_entry_refuses_arrays_that_its_code_would_misread(values: Any) -> None:
    with pytest.raises(TypeError, match="weighted: argument 0 must be a C-contiguous"):
        weighted(values, 1.0, False)


def test_code_that_cannot_be_stored_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_store, "warn_once", code_store.warn_once.__wrapped__)
    monkeypatch.setattr(code_store, "kernel_folder", lambda: tmp_path / "absent")
    compiler = SimpleNamespace(machine_code=lambda *_: ("symbol", b"code"))
    monkeypatch.setattr(jit, "_compiler", lambda: compiler)
    monkeypatch.setattr(code_store, "linked", lambda symbol, content: 7)
    with pytest.warns(code_store.CacheWarning, match="cannot store kernels"):
        assert jit.entry("int64(int64)")(lambda x: x).address == 7


VARIANTS = """
import sys
from stillframe.reuse.kernels.jit import entry

def times(factor):
    @entry("int64(int64)")
    def multiplied(x):  # too long to be inlined, so that there is a second symbol
        total = 0
BODY
        return total
    return multiplied

print(*(times(int(each))(7) for each in sys.argv[1:]))
""".replace(
    "BODY",
    "\n".join(f"        for i in range(x): total += factor * (i ^ {k})" for k in range(60)),
)


def test_code_of_different_processes_is_not_mixed_up(tmp_path: Path) -> None:
    """The compiler numbers symbols within a process: each of two stores its variant as the first
    one, and a third process loads both."""
    path, cache = tmp_path / "variants.py", tmp_path / "cache"
    path.write_text(VARIANTS)
    outputs = [
        subprocess.run(
            [sys.executable, str(path), *factors],
            env=os.environ | {"STILLFRAME_CACHE": str(cache)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for factors in (["2"], ["3"], ["2", "3"])
    ]
    once = sum(i ^ k for i in range(7) for k in range(60))
    assert outputs == [[str(2 * once)], [str(3 * once)], [str(2 * once), str(3 * once)]]
