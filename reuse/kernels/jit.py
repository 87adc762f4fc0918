"""The only file that compiles: every compiler setting is here.

`@kernel` functions are plain Python underneath (`.py_func`) and run without the GIL. They follow
IEEE 754 without reassociation or contraction, so vectorised, scalar, dense and sparse runs agree
bit for bit. They are cached on disk. numba's own cache stamp covers only the file of the function
itself; the one here covers every kernel file, because kernels are compiled into their callers.

`NUMBA_DISABLE_JIT=1` is the off switch for debugging.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core import caching, sigutils
from numba.core.ccallback import CFunc

from stillframe.cache_dir import kernel_folder
from stillframe.reuse.kernels.checked_cache import CheckedCacheFile

Kernel = Callable[..., Any]

OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
FOLDER = Path(__file__).resolve().parent


@functools.cache
def fingerprint(file: str) -> str:
    """Hash of the kernel sources and of `file`: whatever a compiled function may have inlined."""
    digest = hashlib.sha256()
    for path in sorted({*FOLDER.glob("*.py"), Path(file).resolve()}):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class KernelLocator(caching._CacheLocator):
    """Compiled kernels live in `kernel_folder`, stamped by `fingerprint`."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._py_file = py_file  # numba's own name of it, which it reads as well
        self._line = py_func.__code__.co_firstlineno
        folder = kernel_folder()
        assert folder is not None  # `_cache_of` asks first
        self._folder = folder

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "KernelLocator":
        return cls(py_func, py_file)

    def get_cache_path(self) -> str:
        return str(self._folder)

    def get_source_stamp(self) -> str:
        return fingerprint(self._py_file)

    def get_disambiguator(self) -> str:
        where = f"{Path(self._py_file).resolve()}:{self._line}"
        return hashlib.sha256(where.encode()).hexdigest()[:10]


class KernelCacheImpl(caching.CompileResultCacheImpl):
    # none of numba's own: the next one of them would write into the source tree
    _locator_classes = [KernelLocator]  # noqa: RUF012


class KernelCache(caching.FunctionCache):
    _impl_class = KernelCacheImpl

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        self._cache_file = CheckedCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )


def _cache_of(function: Callable[..., Any]) -> Any:
    """Where a function's compiled code is stored; nowhere if no folder can be written."""
    return KernelCache(function) if kernel_folder() else caching.NullCache()


def kernel(function: Kernel) -> Kernel:
    """Compile `function` for this host at its first call, or load it from disk."""
    compiled: Kernel = numba.njit(nogil=True, **OPTIONS)(function)
    if hasattr(compiled, "py_func"):
        inspect.getsource(function)  # a cacheable kernel is one that has a file
        compiled._cache = _cache_of(function)  # type: ignore[attr-defined]
    return compiled


class Native:
    """A kernel that others call by its address; compiled when the address is first read.

    It is compiled once and never into its callers, so a network compiles the operators that it has
    and no others.
    """

    def __init__(self, function: Callable[..., Any], signature: Any) -> None:
        self.py_func = function
        self._signature = signature

    @functools.cached_property
    def address(self) -> int:
        compiled = CFunc(
            self.py_func,
            sigutils.normalize_signature(self._signature),
            locals={},
            options={"nopython": True, **OPTIONS},
        )
        compiled._cache = _cache_of(self.py_func)  # type: ignore[attr-defined]
        compiled.compile()
        self._compiled = compiled  # the address is valid while this object lives
        assert compiled.address is not None
        return int(compiled.address)


_INTEGERS = types.CPointer(types.int64)
OPERATOR = types.int64(
    _INTEGERS, types.CPointer(types.float32), _INTEGERS, types.int64, types.int64, _INTEGERS,
    types.int64,
)  # fmt: skip
PREPARE = types.int64(_INTEGERS, _INTEGERS, types.int64, types.int64, types.int64)
MULTIPLY = types.void(
    _INTEGERS, types.int64, types.int64, types.int64, types.float32, types.float32, types.float32
)  # fmt: skip
ACTIVATION = types.void(types.int64, types.int64, types.float32, types.float32, types.int64)


def native(signature: Any) -> Callable[[Callable[..., Any]], Native]:
    """Make a kernel callable by address, with one of the signatures above."""
    return lambda function: Native(function, signature)
