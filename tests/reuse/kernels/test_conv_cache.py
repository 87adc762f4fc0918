"""Kernels of one factory have entries of their own on disk; a later process loads them, also one
that runs a copy of the package in another folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import stillframe

COUNT_HITS = """
from stillframe.reuse.kernels import conv
kernels = [*conv.MULTIPLY_TILES, conv.multiply_depthwise, conv.multiply_depthwise_apart]
assert len({kernel.address for kernel in kernels}) == len(kernels)
print(*[int(kernel.code.is_from_disk) for kernel in kernels])
"""


def cache_hits(folder: Path, package: Path) -> list[int]:
    """Of each convolution kernel, in a process of its own. package: the folder that it runs."""
    result = subprocess.run(
        [sys.executable, "-c", COUNT_HITS],
        env=os.environ
        | {
            "STILLFRAME_CACHE": str(folder),
            "PYTHONPATH": str(package.parent),
            "NUMBA_OPT": "3",  # the default; a setting puts what came with the package aside
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in result.stdout.split()]


def test_kernels_from_a_factory_are_loaded_from_disk(tmp_path: Path) -> None:
    package = Path(stillframe.__file__).parent
    copy = tmp_path / "elsewhere" / "stillframe"
    copy.mkdir(parents=True)
    for path in package.glob("*.py"):
        shutil.copy(path, copy)
    shutil.copytree(package / "reuse", copy / "reuse")
    assert cache_hits(tmp_path / "cache", package) == [0] * 5
    assert cache_hits(tmp_path / "cache", copy) == [1] * 5
