"""Compiles all kernels ahead of time, so that they come with the package.

    python -m stillframe.reuse.kernels.ahead FOLDER [LEVEL …]

FOLDER gets a folder for each level of `processor.LEVELS`, by default the one that this host is of,
with a file for each kernel as `code_store` loads them. Whole files of the same sources stay, those
of others go. The file `complete` is written last.
"""

import importlib
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType

from stillframe.cores import core_count
from stillframe.reuse import kernels
from stillframe.reuse.kernels import code_store, processor
from stillframe.reuse.kernels.jit import Native

SLOWEST_FIRST = ("conv", "run_plan", "attention", "change_gate")
"""Modules that take longest to compile begin, so that all processes end at about the same time."""
READABLE = 0o644


def main(folder: Path, levels: Sequence[str]) -> None:
    """Compile for some levels, with a process for each core."""
    own = processor.level_of_host()
    for level in levels or ([own] if own else []):
        if level not in processor.LEVELS:
            raise SystemExit(
                f"no level is called {level!r}; there are {', '.join(processor.LEVELS)}"
            )
        if not processor.has_levels():
            raise SystemExit(f"kernels for {level} are compiled on {processor.SYSTEM} only")
        os.environ |= processor.settings(level)  # of the processes that start below
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(core_count(), mp_context=spawn) as pool:
            jobs = [pool.submit(compile_module, folder, name) for name in module_names()]
            files = {file for job in jobs for file in job.result()}
        finish(folder / level, files)


def module_names() -> list[str]:
    """Modules that may declare kernels."""
    names = [module.name for module in pkgutil.iter_modules(kernels.__path__)]
    rank = {name: at for at, name in enumerate(SLOWEST_FIRST)}
    return sorted(
        (name for name in names if name not in ("ahead", "compiler")),
        key=lambda name: (rank.get(name, len(rank)), name),
    )


def compile_module(folder: Path, name: str) -> list[str]:
    """Compile the kernels of a module for the level of this process; -> names of their files."""
    level = processor.target()
    assert level is not None
    target = folder / level
    target.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"{kernels.__name__}.{name}")
    return [compile_kernel(target, native, level) for native in declared(module)]


def compile_kernel(folder: Path, native: Native, level: str) -> str:
    """Write the code of a kernel, unless it is there and whole; -> name of its file."""
    file = code_store.name(native.py_func, native.signature, level)
    path = folder / file
    if not (path.is_file() and code_store.checked(path.read_bytes()) is not None):
        from stillframe.reuse.kernels.compiler import machine_code

        symbol, object_file = machine_code(native.py_func, native.signature)
        if code_store.linked(symbol, object_file) == 0:
            raise RuntimeError(f"{file}: the code has no function {symbol}")
        code_store.write(path, code_store.packed(symbol, object_file))
    path.chmod(READABLE)
    return file


def declared(module: ModuleType) -> Iterator[Native]:
    """The kernels with code of their own that a module declares, also in tuples."""
    for value in vars(module).values():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Native) and each.py_func.__module__ == module.__name__:
                yield each


def finish(folder: Path, files: set[str]) -> None:
    """Remove what is of other sources, and note that these are all."""
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    complete = folder / code_store.COMPLETE
    code_store.write(complete, code_store.fingerprint(code_store.__file__).encode())
    complete.chmod(READABLE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
