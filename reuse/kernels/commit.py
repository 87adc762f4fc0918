"""Storing a result: it is kept and marked as changed, or neither. These two never part.

So at every moment the stored value of every position is within the layer's tolerance of what the
stored inputs give, however many frames have passed.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from stillframe.reuse.kernels.jit import kernel
from stillframe.reuse.kernels.memory import get_f32, get_i32, set_f32, set_u8
from stillframe.reuse.kernels.microkernel import F32, I64, LANES, Loop, load_vector, multiply_add
from stillframe.reuse.kernels.table import Cutoff

NEVER, EQUAL = int(Cutoff.NEVER), int(Cutoff.EQUAL)


@intrinsic
def squared_distance(typingctx, a, b, blocks):
    """Sum of (a - b)² over `blocks` vectors of floats, always added in the same order."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        first, second, blocks = args
        kind = ir.VectorType(F32, LANES)
        zero = ir.Constant(kind, [0.0] * LANES)
        loop = Loop(builder, blocks, [zero])
        offset = builder.mul(loop.index, I64(4 * LANES))
        left = load_vector(builder, builder.add(first, offset), kind)
        right = load_vector(builder, builder.add(second, offset), kind)
        gap = builder.fsub(left, right)
        (total,) = loop.end([multiply_add(builder, gap, gap, loop.carried[0], LANES)])
        size = LANES
        while size > 1:  # fold the upper half onto the lower
            size //= 2
            folded = ir.VectorType(F32, size)
            halves = [
                builder.shuffle_vector(
                    total,
                    ir.Constant(total.type, ir.Undefined),
                    ir.Constant(
                        ir.VectorType(ir.IntType(32), size), list(range(start, start + size))
                    ),
                )
                for start in (0, size)
            ]
            assert halves[0].type == folded
            total = builder.fadd(*halves)
        return builder.extract_element(total, ir.IntType(32)(0))

    return types.float32(types.int64, types.int64, types.int64), codegen


@kernel
def distance(a, b, count):
    blocks = count // LANES
    total = squared_distance(a, b, blocks)
    for i in range(blocks * LANES, count):
        gap = get_f32(a, i) - get_f32(b, i)
        total += gap * gap
    return total


@kernel
def copy(source, target, count):
    for i in range(count):
        set_f32(target, i, get_f32(source, i))


@kernel
def commit(result, stored, channels, cutoff, threshold, mask):
    """result (channels,) -> stored (channels,) unless it counts as unchanged; -> 1 if stored."""
    if cutoff != NEVER:
        if cutoff == EQUAL:
            difference = np.int32(0)
            for i in range(channels):
                difference |= get_i32(result, i) ^ get_i32(stored, i)
            same = difference == 0
        else:  # written so that NaN counts as changed
            same = distance(result, stored, channels) <= threshold
        if same:
            set_u8(mask, 0, np.uint8(0))
            return 0
    copy(result, stored, channels)
    return 1
