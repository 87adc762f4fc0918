"""The zeros around a tensor that convolutions read at the border.

A tensor that is kept has them from the start. One whose bytes others use too gets them anew.
"""

from numba import carray  # type: ignore[attr-defined]

from stillframe.reuse.kernels.abi import (
    INSTRUCTION_COLUMNS,
    RING,
    RING_BOTTOM,
    RING_LEFT,
    RING_RIGHT,
    RING_ROW,
    RING_ROWS,
    RING_START,
    RING_TOP,
)
from stillframe.reuse.kernels.jit import PREPARE, kernel, native
from stillframe.reuse.kernels.pointers import get_i64, set_i64, set_u8


@kernel
def zero(address, count):
    # floats, so whole words but for one float at the end
    for at in range(count // 8):
        set_i64(address, at, 0)
    for at in range(count // 8 * 8, count):
        set_u8(address, at, 0)


@native(PREPARE)
def clear_ring(ins, tensors, first, end, everything):
    """Zeros around the instruction's target. The worker that has row 0 does it; -> rows cleared."""
    if first > 0 or end == 0:
        return 0
    ring = carray(ins, (INSTRUCTION_COLUMNS,))[RING]
    start, row, rows = get_i64(ring, RING_START), get_i64(ring, RING_ROW), get_i64(ring, RING_ROWS)
    top, bottom = get_i64(ring, RING_TOP), get_i64(ring, RING_BOTTOM)
    left, right = get_i64(ring, RING_LEFT), get_i64(ring, RING_RIGHT)
    for y in range(rows):
        line = start + y * row
        if y < top or y >= rows - bottom:
            zero(line, row)
        else:
            zero(line, left)
            zero(line + row - right, right)
    return rows
