"""Machine code of kernels: on disk, and in this process.

    load(function, signature) -> MachineCode or None      add(…, symbol, object file) -> MachineCode

It lies in two places. `BUILT` comes with the package: kernels that were compiled when it was built,
for levels of processors (`processor`, `ahead`). The cache has what was compiled on this host.

A file is the SHA-256 of what follows, then the symbol, a line feed and an object file. It is named
by the kernel and by a stamp of all that its code depends on: the sources of all kernels, because
they are compiled into each other, the signature, the constants, and either the level or this
processor and the compiler. It is written beside and put in place in one step. A damaged file is
compiled again, never loaded; where nothing can be written, as on a full disk, kernels run without
being stored.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import tempfile
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from stillframe.cache_dir import CacheWarning, kernel_folder
from stillframe.reuse.kernels import processor

SUFFIX = ".code"
DIGEST_BYTES = 32
FOLDER = Path(__file__).resolve().parent
BUILT = FOLDER / "built"
"""A folder for each level, with the code of all kernels; absent where the build left them out."""
COMPLETE = "complete"
"""The file in a level's folder that holds the fingerprint of the sources it was made of."""
FILES_KEPT = 24
"""Of one name, when another is written: three shapes of it, of other versions and checkouts."""
UNREACHED = "NRT_MemInfo_call_dtor"
"""numba's release of an array that it made. Code refers to it, and kernels make no arrays."""


@dataclass(frozen=True, slots=True)
class MachineCode:
    """A C function in the memory of this process, for as long as it runs."""

    address: int
    is_from_disk: bool


@functools.cache
def fingerprint(file: str) -> str:
    """Hash of the kernel sources and of `file`: whatever a compiled function may have inlined."""
    digest = hashlib.sha256()
    for path in sorted({*FOLDER.glob("*.py"), Path(file).resolve()}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load(function: Callable[..., Any], signature: str) -> MachineCode | None:
    """The code of a kernel, if it came with the package or was stored here, and is whole."""
    level = processor.level_of_host()
    if level is not None:
        code = _load(BUILT / level, name(function, signature, level))
        if code is not None:
            return code
    folder = kernel_folder()
    return None if folder is None else _load(folder, name(function, signature))


def _load(folder: Path, file: str) -> MachineCode | None:
    try:
        content = checked((folder / file).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_once(str(folder), f"cannot read kernels ({error.strerror or error})")
        return None
    if content is None:
        warn_once(str(folder), "holds damaged kernels, which are compiled again")
        return None
    symbol, _, object_file = content.partition(b"\n")
    return MachineCode(linked(symbol.decode(), object_file), is_from_disk=True)


def checked(whole: bytes) -> bytes | None:
    """A file without its digest; None: it is damaged."""
    content = whole[DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == whole[:DIGEST_BYTES] else None


def packed(symbol: str, object_file: bytes) -> bytes:
    """A file."""
    content = symbol.encode() + b"\n" + object_file
    return hashlib.sha256(content).digest() + content


def is_built() -> bool:
    """Whether the package came with the code of all kernels for this host."""
    level = processor.level_of_host()
    try:
        return level is not None and (BUILT / level / COMPLETE).read_text() == fingerprint(__file__)
    except (OSError, ValueError):
        return False


def add(
    function: Callable[..., Any], signature: str, symbol: str, object_file: bytes
) -> MachineCode:
    """Store the code of a kernel, and load it."""
    folder = kernel_folder()
    if folder is not None:
        try:
            write(folder / name(function, signature), packed(symbol, object_file))
            _prune(folder, kernel_name(function))
        except OSError as error:
            warn_once(str(folder), f"cannot store kernels ({error.strerror or error})")
    return MachineCode(linked(symbol, object_file), is_from_disk=False)


def kernel_name(function: Callable[..., Any]) -> str:
    """`module.function`."""
    return f"{Path(function.__code__.co_filename).stem}.{function.__name__}"


def name(function: Callable[..., Any], signature: str, level: str | None = None) -> str:
    """Of a kernel's file. level: that its code is for; None: this host."""
    constants = [cell.cell_contents for cell in function.__closure__ or ()]
    processor_facts = _host() if level is None else level
    facts = (fingerprint(function.__code__.co_filename), signature, constants, processor_facts)
    stamp = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return f"{kernel_name(function)}-{stamp}{SUFFIX}"


@functools.cache
def _host() -> tuple[Any, ...]:
    """What code depends on beside its sources. Settings of numba change what it generates."""
    settings = sorted(processor.numba_settings().items())
    features = llvm.get_host_cpu_features().flatten()
    compilers = (version("numba"), version("llvmlite"))
    return (llvm.get_process_triple(), llvm.get_host_cpu_name(), features, compilers, settings)


def write(path: Path, content: bytes) -> None:
    """Put a file in place in one step."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, suffix=f"{SUFFIX}.part", delete=False
    ) as file:
        part = Path(file.name)
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _prune(folder: Path, kernel: str) -> None:
    """Remove the oldest files of a kernel."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob(f"{kernel}-*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        for path in files[:-FILES_KEPT]:
            path.unlink(missing_ok=True)


def _new_linker() -> Any:
    """LLVM's in-memory linker for one object file.

    One for all would mix kernels up: the compiler numbers symbols within its own process, so files
    that different processes stored may have the same symbol.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if llvm.address_of_symbol(UNREACHED) is None:
        abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value
        llvm.add_symbol(UNREACHED, abort)
    machine = llvm.Target.from_default_triple().create_target_machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


_linking = threading.Lock()
_linkers: list[Any] = []
"""They own the code, which lives as long as the process."""


def linked(symbol: str, object_file: bytes) -> int:
    """Load an object file; -> address of the symbol, 0: it has none."""
    with _linking:
        linker = _new_linker()
        linker.add_object_file(llvm.ObjectFileRef.from_data(object_file))
        linker.finalize_object()
        _linkers.append(linker)
        return int(linker.get_function_address(symbol))


@functools.cache
def warn_once(folder: str, fault: str) -> None:
    """One CacheWarning for each fault, however many files have it."""
    warnings.warn(f"{folder}: {fault}", CacheWarning, stacklevel=2)
