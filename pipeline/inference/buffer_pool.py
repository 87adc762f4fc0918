"""Memory for what stages hand on, reused once its last reader has let go of it."""

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MOST_SPARE = 8
"""Spare buffers of one size; more go back to the system."""


class BufferPool:
    """Arrays whose memory comes back by itself when nothing refers to them or to a view of them.

    After the first frames of a steady stream nothing is allocated any more. Thread-safe.
    """

    allocations: int
    """Buffers allocated so far."""
    size_bytes: int
    """Of all buffers, in use and spare."""

    def __init__(self) -> None:
        self.allocations = 0
        self.size_bytes = 0
        self._spare: dict[int, list[NDArray[np.uint8]]] = {}
        self._lock = threading.RLock()  # a buffer may come back to the thread that holds the lock

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A C-contiguous array with arbitrary values."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        with self._lock:
            spare = self._spare.get(size)
            memory = spare.pop() if spare else None
            if memory is None:
                memory = np.empty(size, np.uint8)
                self.allocations += 1
                self.size_bytes += size
        return np.asarray(_Lease(self, memory)).view(kind).reshape(shape)

    def copy(self, array: NDArray[Any]) -> NDArray[Any]:
        """The same values in the pool's memory, C-contiguous."""
        target = self.take(array.shape, array.dtype)
        np.copyto(target, array)
        return target

    def _give_back(self, memory: NDArray[np.uint8]) -> None:
        with self._lock:
            spare = self._spare.setdefault(memory.size, [])
            if len(spare) < MOST_SPARE:
                spare.append(memory)
            else:
                self.size_bytes -= memory.size


class _Lease:
    """Kept alive by every view of a pooled array; gives the buffer back when it is collected.

    It is not an array itself, so NumPy's chain of bases ends here and not at the buffer.
    """

    def __init__(self, pool: BufferPool, memory: NDArray[np.uint8]) -> None:
        self._pool, self._memory = pool, memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._pool._give_back(self._memory)
