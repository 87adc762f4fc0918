"""The zero padding around a tensor, which convolutions read at the border.

A persistent tensor has it from the start. A tensor that shares its bytes with others gets it again
before it is written.
"""

from stillframe.reuse.kernels.abi import (
    INSTRUCTION_COLUMNS,
    ZERO_PAD,
    ZERO_PAD_BOTTOM,
    ZERO_PAD_LEFT,
    ZERO_PAD_RIGHT,
    ZERO_PAD_ROW,
    ZERO_PAD_ROWS,
    ZERO_PAD_START,
    ZERO_PAD_TOP,
)
from stillframe.reuse.kernels.jit import PREPARE, carray, kernel, native
from stillframe.reuse.kernels.pointers import get_i64, set_i64, set_u8


@kernel
def set_zero(address, count):
    # whole words, then the one float that may be left
    for at in range(count // 8):
        set_i64(address, at, 0)
    for at in range(count // 8 * 8, count):
        set_u8(address, at, 0)


@native(PREPARE)
def clear_zero_pad(ins, tensors, first, end, everything):
    """Write the zeros around the instruction's target, by the worker of row 0; -> rows cleared."""
    if first > 0 or end == 0:
        return 0
    zero_pad = carray(ins, (INSTRUCTION_COLUMNS,))[ZERO_PAD]
    start, row, rows = (
        get_i64(zero_pad, ZERO_PAD_START),
        get_i64(zero_pad, ZERO_PAD_ROW),
        get_i64(zero_pad, ZERO_PAD_ROWS),
    )
    top, bottom = get_i64(zero_pad, ZERO_PAD_TOP), get_i64(zero_pad, ZERO_PAD_BOTTOM)
    left, right = get_i64(zero_pad, ZERO_PAD_LEFT), get_i64(zero_pad, ZERO_PAD_RIGHT)
    for y in range(rows):
        line = start + y * row
        if y < top or y >= rows - bottom:
            set_zero(line, row)
        else:
            set_zero(line, left)
            set_zero(line + row - right, right)
    return rows
