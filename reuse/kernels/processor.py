"""The processor that kernels are compiled for: this host's, or a level that many processors share.

Levels are those of the x86-64 psABI. Kernels of a level run on each processor that has its
features, so they can be compiled before the package is installed (`ahead`). Their arithmetic is
fully ordered, so they give the same bits as kernels of this host. A process compiles for a level
if numba is set to it: NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, as in `settings`.
"""

import functools
import os

import llvmlite.binding as llvm

V3 = frozenset(
    [
        "avx",
        "avx2",
        "bmi",
        "bmi2",
        "cx16",
        "f16c",
        "fma",
        "lzcnt",
        "movbe",
        "popcnt",
        "sahf",
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "xsave",
    ]
)
LEVELS: dict[str, frozenset[str]] = {
    "x86-64-v4": V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3": V3,
}
"""Widest first: name, as LLVM has it -> features, as LLVM names them."""
HARMLESS = {
    "NUMBA_CACHE_DIR",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMBA_THREADING_LAYER_PRIORITY",
    "NUMBA_DISABLE_PERFORMANCE_WARNINGS",
}
"""Variables of numba that do not change what it generates."""
SYSTEM = "x86_64-unknown-linux-gnu"
"""The triple of a process that can load code of a level."""


def settings(level: str) -> dict[str, str]:
    """Environment of a process that compiles for a level. Calls of Intel's library of vector
    functions would tie the code to this host's packages."""
    return {
        "NUMBA_CPU_NAME": level,
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_DISABLE_INTEL_SVML": "1",
    }


def numba_settings() -> dict[str, str]:
    """Variables that may change what numba generates."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("NUMBA_") and name not in HARMLESS
    }


@functools.cache
def target() -> str | None:
    """The level that this process compiles for; None: for its host."""
    level = os.environ.get("NUMBA_CPU_NAME", "")
    return level if level in LEVELS and numba_settings() == settings(level) else None


@functools.cache
def features() -> frozenset[str]:
    """What kernels of this process may use."""
    level = target()
    return _of_host() if level is None else LEVELS[level]


@functools.cache
def level_of_host() -> str | None:
    """The level whose kernels can replace those of this host: it has the features, and vectors are
    as wide. None too where numba has settings of its own."""
    return level_of(_of_host()) if has_levels() and not numba_settings() else None


def has_levels() -> bool:
    """Whether this process can load code of a level, if the processor has its features."""
    return bool(llvm.get_process_triple() == SYSTEM)


def level_of(host: frozenset[str]) -> str | None:
    """The level for a processor with these features. With AVX-512 that is the widest or none, since
    plans are made for the width of its vectors."""
    levels = [name for name, needed in LEVELS.items() if needed <= host]
    wide = "avx512f" in host
    return next((name for name in levels if ("avx512f" in LEVELS[name]) == wide), None)


def _of_host() -> frozenset[str]:
    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)
