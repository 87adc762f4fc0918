"""Damaged files of compiled kernels: recognised, compiled again, reported once."""

import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from numba.core.errors import NumbaWarning

from stillframe.reuse.kernels import checked_cache, jit
from stillframe.reuse.kernels.checked_cache import CheckedCacheFile


def program(folder: Path, *names: str) -> Path:
    """A file that runs a kernel of each name, and tells how many of them came from the disk."""
    lines = ["from stillframe.reuse.kernels.jit import kernel"]
    for name in names:
        lines += [f"@kernel\ndef {name}(x):\n    return 2 * x", f"assert {name}(21) == 42"]
    hits = " + ".join(f"sum({name}.stats.cache_hits.values())" for name in names)
    path = folder / "program.py"
    path.write_text("\n".join([*lines, f"print({hits})"]))
    return path


def run(path: Path, cache: Path) -> tuple[str, str]:
    """What the program of a file writes to standard output and to standard error."""
    ran = subprocess.run(
        [sys.executable, str(path)],
        env=os.environ | {"STILLFRAME_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip(), ran.stderr


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if kind == "blocked":  # a folder in its place can be neither read nor replaced
        path.unlink()
        path.mkdir()
    elif kind == "unchecked":  # as earlier versions wrote it
        path.write_bytes(content[32:])
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": content[:middle], "flipped": flipped}[kind])


def test_kernels_in_damaged_files_are_compiled_again_with_one_line(tmp_path: Path) -> None:
    kinds = ("empty", "cut", "flipped", "blocked", "unchecked", "whole")
    path, cache = program(tmp_path, *kinds), tmp_path / "cache"
    assert run(path, cache) == ("0", "")
    for kind in kinds[:-1]:
        files = list((cache / "kernels").glob(f"program.{kind}-*"))
        assert len(files) == 2
        for file in files:
            damage(file, kind)
    hits, errors = run(path, cache)
    assert hits == "1", "of the one that is whole"
    assert errors.count("damaged kernels, which are compiled again\n") == 1
    assert errors.count("cannot store kernels (Is a directory)") == 1
    hits, errors = run(path, cache)
    assert hits == "5", "of all but the one whose file cannot be replaced"
    assert "which are compiled again" not in errors


@pytest.mark.parametrize("kind", ["empty", "cut", "flipped", "blocked", "unchecked"])
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_of_kernels_is_no_result(
    kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index or the code; a warning for each kind, except that earlier versions did no wrong."""
    monkeypatch.setattr(checked_cache, "warn_once", checked_cache.warn_once.__wrapped__)
    file = CheckedCacheFile(str(tmp_path), "kernel", "stamp")
    file.save("key", "code")
    assert file.load("key") == "code"
    damage(next(tmp_path.glob(f"*{suffix}")), kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert file.load("key") is None
    texts = {
        "blocked": "cannot read kernels (Is a directory)",
        "unchecked": "",
    }
    text = texts.get(kind, "holds damaged kernels, which are compiled again")
    assert [str(each.message) for each in caught] == [f"{tmp_path}: {text}"] * bool(text)


def test_code_that_cannot_be_stored_is_reported_with_its_file() -> None:
    """As numba finds it where NUMBA_OPT=0 leaves addresses in the code."""

    def plain() -> None:
        pass

    library = SimpleNamespace(has_dynamic_globals=True)
    implementation = jit.KernelCacheImpl(plain)
    with pytest.warns(NumbaWarning, match="dynamic globals") as caught:
        assert not implementation.check_cachable(
            SimpleNamespace(lifted=(), library=library, fndesc=SimpleNamespace(qualname="plain"))
        )
    assert caught[0].filename == __file__
