"""Pooling over listed spans. Windows are clipped to the picture, so padding is never read."""

import numpy as np

from stillframe.reuse.kernels.abi import (
    CHANNELS,
    DATA,
    FAR_THRESHOLD,
    HEIGHT,
    INPUT,
    MASK,
    MASK_PIXEL,
    MASK_ROW,
    PAD_LEFT,
    PAD_TOP,
    PARAMETER,
    PIXEL,
    RESULTS,
    ROW,
    STRIDE_X,
    STRIDE_Y,
    TARGET,
    THRESHOLD,
    WIDTH,
    Cutoff,
)
from stillframe.reuse.kernels.calls import span_at, tables
from stillframe.reuse.kernels.jit import OPERATOR, kernel, native
from stillframe.reuse.kernels.microkernel import LANES, pool_tile
from stillframe.reuse.kernels.pointers import get_f32, set_f32
from stillframe.reuse.kernels.store import store_result

NEVER = int(Cutoff.NEVER)

# parameters: kernel height and width, dilation, and the padded size that an average counts
KERNEL_Y, KERNEL_X, DILATION_Y, DILATION_X = PARAMETER, PARAMETER + 1, PARAMETER + 2, PARAMETER + 3
COUNTED_HEIGHT, COUNTED_WIDTH = PARAMETER + 4, PARAMETER + 5


@kernel
def first_tap(start, dilation):
    if dilation == 1:  # no division: this runs for every position
        return max(-start, 0)
    return 0 if start >= 0 else (-start + dilation - 1) // dilation


@kernel
def end_tap(start, taps, dilation, size):
    if dilation == 1:
        return max(min(taps, size - start), 0)
    return min(taps, max(0, (size - 1 - start) // dilation + 1)) if start < size else 0


@kernel
def counted(start, taps, dilation, size, pad_before, extent):
    # taps that lie within the picture, or within the padded picture of `extent`
    if extent > 0:
        start, size = start + pad_before, extent
    return end_tap(start, taps, dilation, size) - first_tap(start, dilation)


@kernel
def largest(first, rows, down, columns, across, c):
    # channel c of one window, in the order and with the NaN of `pool_tile`
    best = np.float32(-np.inf)
    for y in range(rows):
        for x in range(columns):
            value = get_f32(first + y * down + x * across, c)
            best = best if best > value else value
    return best


@kernel
def total(first, rows, down, columns, across, c):
    summed = np.float32(0.0)
    for y in range(rows):
        for x in range(columns):
            summed += get_f32(first + y * down + x * across, c)
    return summed


@kernel
def window_of(ins, tensors, y, x):
    """(address of the first value, rows, columns) of what a position pools, within the picture."""
    read = ins[INPUT]
    top = y * ins[STRIDE_Y] - ins[PAD_TOP]
    left = x * ins[STRIDE_X] - ins[PAD_LEFT]
    first_y, first_x = first_tap(top, ins[DILATION_Y]), first_tap(left, ins[DILATION_X])
    rows = end_tap(top, ins[KERNEL_Y], ins[DILATION_Y], tensors[read, HEIGHT]) - first_y
    columns = end_tap(left, ins[KERNEL_X], ins[DILATION_X], tensors[read, WIDTH]) - first_x
    line = tensors[read, DATA] + (top + first_y * ins[DILATION_Y]) * tensors[read, ROW]
    first = line + (left + first_x * ins[DILATION_X]) * tensors[read, PIXEL]
    return first, rows, columns


@native(OPERATOR)
def max_pool(ins, floats, tensors, spans, span_count, work, cutoff):
    """x (H, W, C) -> the largest value of each window; -> positions stored as changed."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[target, CHANNELS]
    direct = cutoff == NEVER
    down = ins[DILATION_Y] * tensors[read, ROW]
    across = ins[DILATION_X] * tensors[read, PIXEL]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        stored = tensors[target, DATA] + y * tensors[target, ROW] + start * tensors[target, PIXEL]
        mask = tensors[target, MASK] + y * tensors[target, MASK_ROW]
        for x in range(start, start + length):
            out = stored if direct else work[RESULTS]
            first, rows, columns = window_of(ins, tensors, y, x)
            whole = channels - channels % LANES
            for c in range(0, whole, LANES):
                pool_tile(False, first + c * 4, rows, down, columns, across, out + c * 4)
            for c in range(whole, channels):
                set_f32(out, c, largest(first, rows, down, columns, across, c))
            if direct:
                written += 1
            else:
                mark = mask + x * tensors[target, MASK_PIXEL]
                near, far = floats[THRESHOLD], floats[FAR_THRESHOLD]
                written += store_result(out, stored, channels, cutoff, near, far, mark)
            stored += tensors[target, PIXEL]
    return written


@native(OPERATOR)
def average_pool(ins, floats, tensors, spans, span_count, work, cutoff):
    """x (H, W, C) -> the mean of each window; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[target, CHANNELS]
    height, width = tensors[read, HEIGHT], tensors[read, WIDTH]
    step_y, step_x = ins[DILATION_Y], ins[DILATION_X]
    down, across = step_y * tensors[read, ROW], step_x * tensors[read, PIXEL]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        top = y * ins[STRIDE_Y] - ins[PAD_TOP]
        tall = counted(top, ins[KERNEL_Y], step_y, height, ins[PAD_TOP], ins[COUNTED_HEIGHT])
        out = tensors[target, DATA] + y * tensors[target, ROW] + start * tensors[target, PIXEL]
        for x in range(start, start + length):
            first, rows, columns = window_of(ins, tensors, y, x)
            left = x * ins[STRIDE_X] - ins[PAD_LEFT]
            wide = counted(left, ins[KERNEL_X], step_x, width, ins[PAD_LEFT], ins[COUNTED_WIDTH])
            whole = channels - channels % LANES
            for c in range(0, whole, LANES):
                pool_tile(True, first + c * 4, rows, down, columns, across, out + c * 4)
            for c in range(whole, channels):
                set_f32(out, c, total(first, rows, down, columns, across, c))
            # a window wholly in the padding counts no positions and gives 0
            scale = np.float32(1.0) / np.float32(max(tall, 1) * max(wide, 1))
            for c in range(channels):
                set_f32(out, c, get_f32(out, c) * scale)
            out += tensors[target, PIXEL]
        written += length
    return written
