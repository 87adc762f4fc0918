"""Zeroed memory, on huge pages where the system has them.

A layer's activations span thousands of ordinary pages. Each costs a page fault at first use and an
entry of the processor's address cache (TLB) from then on.
"""

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError

HUGE = 2 << 20
ALIGNMENT = 64


def zeroed(size: int) -> NDArray[np.uint8]:
    """`size` zero bytes, the first on a multiple of ALIGNMENT. Raises ModelError if there is no
    room."""
    try:
        if size < HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
            raw = np.zeros(size + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            return raw[start : start + size]
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        block = mmap.mmap(-1, -(-size // HUGE) * HUGE, flags=flags)
        with contextlib.suppress(OSError):  # a system without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
        return np.frombuffer(block, np.uint8, size)
    except (MemoryError, OSError, ValueError, OverflowError) as error:
        raise ModelError(
            f"the network needs {size / 1e6:.0f} MB more memory than there is; feed it a smaller "
            "picture or set a memory budget"
        ) from error


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous copy whose first byte lies on a multiple of ALIGNMENT."""
    copy = zeroed(values.nbytes).view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy
