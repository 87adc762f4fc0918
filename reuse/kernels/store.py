"""Storing results: a result is stored and marked as changed, or neither.

So the stored value of every position is always within the layer's tolerance of what the stored
inputs give, however many frames have passed.

There are two thresholds, as in Canny's edge detector (IEEE PAMI 8(6), 1986). A position has changed
if its difference is beyond the tolerance, or beyond a third of it together with both neighbours in
the row. A change of one position alone is mostly noise, or the border that windows grow around each
change; a change of several is an object. And there are two limits: a loose one where the mask says
that nothing of importance is near. docs/explanation/quality.md has what both save.
"""

from typing import Any

import numpy as np
from llvmlite import ir

from stillframe.reuse.kernels.abi import FAR_BIT, Cutoff
from stillframe.reuse.kernels.jit import intrinsic, kernel, types
from stillframe.reuse.kernels.microkernel import F32, I64, LANES, Loop, load_vector, multiply_add
from stillframe.reuse.kernels.pointers import (
    get_f32,
    get_i32,
    get_i64,
    get_u8,
    set_f32,
    set_i64,
    set_u8,
)

NEVER, EQUAL = int(Cutoff.NEVER), int(Cutoff.EQUAL)
FAR, OFF = np.uint8(FAR_BIT), np.uint8(0)
TOGETHER = np.float32(1 / 9)  # a third of the tolerance, squared


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
def limit_at(mask, near, far):
    """The limit of the position whose mask byte has this address."""
    return far if get_u8(mask, 0) & FAR != OFF else near


@kernel
def store_result(result, stored, channels, cutoff, near, far, mask):
    """Store result (channels,) unless it counts as unchanged; -> 1 if stored.

    near, far: limits, see `limit_at`. mask: address of the position's mask byte, set to 0 if
    unchanged.
    """
    if cutoff != NEVER:
        if cutoff == EQUAL:
            difference = np.int32(0)
            for i in range(channels):
                difference |= get_i32(result, i) ^ get_i32(stored, i)
            same = difference == 0
        else:  # written so that NaN counts as changed
            same = distance(result, stored, channels) <= limit_at(mask, near, far)
        if same:
            set_u8(mask, 0, OFF)
            return 0
    copy(result, stored, channels)
    return 1


@kernel
def has_changed(joined, gaps, slot, count, threshold):
    """Whether the result in a slot, up to `count`, counts as changed.

    joined: int64 a slot, 1 where it is the right neighbour of the slot before it. gaps: squared
    distances, that of slot i at i + 1.
    """
    gap = get_f32(gaps, slot + 1)
    if not gap <= threshold:  # written so that NaN counts as changed
        return True
    least = threshold * TOGETHER
    return (
        gap > least
        and slot < count
        and get_i64(joined, slot) == 1
        and get_f32(gaps, slot) > least
        and get_i64(joined, slot + 1) == 1
        and get_f32(gaps, slot + 2) > least
    )


@kernel
def store_with_hysteresis(
    results, step, stored, masks, joined, gaps, channels, near, far, waiting, count, last
):
    """Store results 1 .. count, and result 0 if one waits there; -> positions stored as changed.

    results: rows of `step` bytes, one a slot. stored, masks: int64 addresses, one a slot.
    gaps (slots + 1,) float32: filled in here. near, far: limits, see `limit_at`. last: False if
    more positions follow: result `count` then moves to slot 0, where it waits for its right
    neighbour.
    """
    for slot in range(1, count + 1):
        set_f32(gaps, slot + 1, distance(results + slot * step, get_i64(stored, slot), channels))
    changed = 0
    for slot in range(0 if waiting else 1, count + 1 if last else count):
        mask = get_i64(masks, slot)
        if has_changed(joined, gaps, slot, count, limit_at(mask, near, far)):
            copy(results + slot * step, get_i64(stored, slot), channels)
            changed += 1
        else:
            set_u8(mask, 0, OFF)
    if not last:
        copy(results + count * step, results, channels)
        for each in (stored, masks, joined):
            set_i64(each, 0, get_i64(each, count))
        set_f32(gaps, 0, get_f32(gaps, count))
        set_f32(gaps, 1, get_f32(gaps, count + 1))
    return changed
