"""Memory for what stages hand on: given out again once its last reader has let go of it."""

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MOST_SPARE = 8  # of one size; more than that go back to the system


class BufferPool:
    """Arrays whose memory comes back by itself when nothing refers to them, nor to a view of them.

    After the first frames of a steady stream nothing is allocated any more. Safe to use from
    several threads. made: buffers allocated so far. held_bytes: in use and spare.
    """

    def __init__(self) -> None:
        self.made = 0
        self.held_bytes = 0
        self._spare: dict[int, list[NDArray[np.uint8]]] = {}
        self._lock = threading.RLock()  # a buffer may come back while its own thread holds it

    def take(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array whose values are whatever was there before."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        with self._lock:
            spare = self._spare.get(size)
            memory = spare.pop() if spare else None
            if memory is None:
                memory = np.empty(size, np.uint8)
                self.made += 1
                self.held_bytes += size
        return np.asarray(_Lease(self, memory)).view(kind).reshape(shape)

    def copy(self, array: NDArray[Any]) -> NDArray[Any]:
        """The same values in the pool's memory, C-contiguous."""
        taken = self.take(array.shape, array.dtype)
        np.copyto(taken, array)
        return taken

    def _give(self, memory: NDArray[np.uint8]) -> None:
        with self._lock:
            spare = self._spare.setdefault(memory.size, [])
            if len(spare) < MOST_SPARE:
                spare.append(memory)
            else:
                self.held_bytes -= memory.size


class _Lease:
    """What every view of a pooled array keeps alive: NumPy's chain of bases ends here, and not at
    the buffer, because this is no array."""

    def __init__(self, pool: BufferPool, memory: NDArray[np.uint8]) -> None:
        self._pool, self._memory = pool, memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._pool._give(self._memory)
