"""How kernels are declared. Nothing is compiled here, and numba is not loaded.

    @kernel            a function that other kernels call; compiled into its callers
    @native(OPERATOR)  called by its address, from machine code
    @entry("int64(…)") called from Python, arrays by their address and shape

Machine code comes from the disk (`code_store`) or, the first time on a host, from numba
(`compiler`), which is loaded then. So a start that finds its code loads neither numba nor what
numba loads, which takes longer than planning a network.

Kernels are plain Python underneath (`.py_func`) and run without the interpreter's lock. They follow
IEEE 754 without reassociation or contraction, so vectorised, scalar, dense and sparse runs agree
bit for bit.
"""

import ctypes
import functools
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from stillframe.reuse.kernels import code_store
from stillframe.reuse.kernels.code_store import MachineCode

# Signatures, in numba's words. Those of natives:
OPERATOR = (
    "int64(CPointer(int64), CPointer(float32), CPointer(int64), int64, int64, CPointer(int64), "
    "int64)"
)
PREPARE = "int64(CPointer(int64), CPointer(int64), int64, int64, int64)"
MULTIPLY = "void(CPointer(int64), int64, int64, int64, float32, float32, float32)"
ACTIVATION = "void(int64, int64, float32, float32, int64)"

_loading = threading.RLock()


class Deferred:
    """What numba is given for one of these in a kernel is made when it asks for the type."""

    @functools.cached_property
    def _numba_type_(self) -> Any:
        with _loading:
            return _compiler().type_of(self.resolve())

    def resolve(self) -> Any:
        """The object of numba that this stands for."""
        raise NotImplementedError


class Kernel(Deferred):
    """A function that other kernels call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__doc__ = function.__doc__
        self.py_func = function

    @functools.cached_property
    def dispatcher(self) -> Any:
        """numba's own object for it, for calls from Python."""
        return _compiler().dispatcher(self.py_func)

    @functools.cached_property
    def callee(self) -> Any:
        """numba's own object for it, for calls from other kernels."""
        return _compiler().callee(self.py_func)

    def resolve(self) -> Any:
        return self.callee

    def __call__(self, *args: Any) -> Any:
        """From Python: compiled for these types, and not stored. For tests of single kernels."""
        return self.dispatcher(*args)


class Native:
    """A kernel that others call by its address; its code is loaded when that is first read.

    It is compiled once and never into its callers, so a network compiles the operators that it has
    and no others. What it closes over must be plain numbers, which are part of its name on disk.
    """

    def __init__(self, function: Callable[..., Any], signature: str) -> None:
        self.__doc__ = function.__doc__
        self.py_func = function
        self.signature = signature

    @functools.cached_property
    def code(self) -> MachineCode:
        """Loaded, or compiled and stored."""
        with _loading:
            stored = code_store.load(self.py_func, self.signature)
            if stored is not None:
                return stored
            symbol, machine_code = _compiler().machine_code(self.py_func, self.signature)
            return code_store.add(self.py_func, self.signature, symbol, machine_code)

    @property
    def address(self) -> int:
        return self.code.address


class Entry(Native, Kernel):
    """A kernel called from Python, and perhaps from others.

    An array is given to machine code by its address and shape. So it must be C-contiguous and of
    the type that the signature says.
    """

    def __init__(self, function: Callable[..., Any], signature: str) -> None:
        Native.__init__(self, function, signature)
        result, parameters = parse(signature)
        self._arrays = tuple(
            (index, np.dtype(kind), dimensions)
            for index, (kind, dimensions) in enumerate(parameters)
            if dimensions
        )
        self._types = [
            each
            for kind, dimensions in parameters
            for each in ([ctypes.c_int64] * (1 + dimensions) if dimensions else [SCALARS[kind]])
        ]
        self._result = None if result == "void" else SCALARS[result]

    @functools.cached_property
    def _function(self) -> Any:
        return ctypes.CFUNCTYPE(self._result, *self._types)(self.address)

    def __call__(self, *args: Any) -> Any:
        flat: list[Any] = list(args)
        for index, dtype, dimensions in reversed(self._arrays):
            array = args[index]
            if array.dtype != dtype or array.ndim != dimensions or not array.flags.c_contiguous:
                raise TypeError(
                    f"{self.py_func.__name__}: argument {index} must be a C-contiguous array of "
                    f"{dtype} with {dimensions} axes, not {array.dtype} of shape {array.shape}"
                )
            flat[index : index + 1] = (array.ctypes.data, *array.shape)
        return self._function(*flat)


SCALARS: dict[str, Any] = {
    "int64": ctypes.c_int64,
    "float64": ctypes.c_double,
    "boolean": ctypes.c_bool,
}


def parse(signature: str) -> tuple[str, list[tuple[str, int]]]:
    """The type of the result, and of each parameter its type and number of axes: 0 for a scalar.

    int64(uint8[:,::1], float64) -> ("int64", [("uint8", 2), ("float64", 0)])
    """
    result, _, rest = signature.partition("(")
    kinds = rest.removesuffix(")").replace("[", "|").replace("::1]", "").replace(":,", "+")
    parameters = []
    for kind in kinds.split(", "):
        name, bar, axes = kind.partition("|")
        parameters.append((name, 1 + len(axes) if bar else 0))
    return result, parameters


def kernel(function: Callable[..., Any]) -> Any:
    """A function that is compiled into the kernels that call it."""
    return Kernel(function)


def native(signature: str) -> Callable[[Callable[..., Any]], Native]:
    """Make a kernel callable by address, with one of the signatures above."""
    return lambda function: Native(function, signature)


def entry(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a kernel callable from Python. Scalars are int64, float64 or boolean; arrays are written
    as `uint8[:,::1]`."""
    return lambda function: Entry(function, signature)


class Intrinsic(Deferred):
    """A function that emits LLVM instructions, as `numba.extending.intrinsic` takes it."""

    def __init__(self, function: Callable[..., Any], prefer_literal: bool = False) -> None:
        self.__doc__ = function.__doc__
        self._emit, self._prefer_literal = function, prefer_literal

    @functools.cached_property
    def _intrinsic(self) -> Any:
        return _compiler().intrinsic(self._emit, self._prefer_literal)

    def resolve(self) -> Any:
        return self._intrinsic


def intrinsic(function: Callable[..., Any] | None = None, *, prefer_literal: bool = False) -> Any:
    """Decorator, with or without arguments."""
    if function is None:
        return functools.partial(Intrinsic, prefer_literal=prefer_literal)
    return Intrinsic(function, prefer_literal)


class _Carray(Deferred):
    """`numba.carray` inside kernels."""

    def resolve(self) -> Any:
        return import_module("numba").carray

    def __call__(self, *args: Any, **names: Any) -> Any:
        return self.resolve()(*args, **names)


class _Types:
    """`numba.types`, loaded when a type is first asked for: while compiling."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("numba").types, name)


carray: Any = _Carray()
types: Any = _Types()


def _compiler() -> Any:
    return import_module("stillframe.reuse.kernels.compiler")
