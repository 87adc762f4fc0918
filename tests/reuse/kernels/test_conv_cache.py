"""Kernels of one factory have entries of their own on disk; a later process loads them."""

import os
import subprocess
import sys
from pathlib import Path

COUNT_HITS = """
from stillframe.reuse.kernels import conv
kernels = [*conv.MULTIPLY_TILES, conv.multiply_depthwise, conv.multiply_depthwise_apart]
assert len({kernel.address for kernel in kernels}) == len(kernels)
print(*[int(kernel.code.is_from_disk) for kernel in kernels])
"""


def cache_hits(folder: Path) -> list[int]:
    """Of each convolution kernel, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", COUNT_HITS],
        env=os.environ | {"STILLFRAME_CACHE": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in result.stdout.split()]


def test_kernels_from_a_factory_are_loaded_from_disk(tmp_path: Path) -> None:
    assert cache_hits(tmp_path) == [0] * 5
    assert cache_hits(tmp_path) == [1] * 5
