"""Operators that read every position: pooling over the whole picture, and its moments.

Each row has its own sums, in float64; only rows with a changed position are summed again. The sums
of the rows are then added in order. So the result has the same bits whichever rows were summed
again, and no running sum can drift.
"""

import numpy as np

from stillframe.reuse.kernels.abi import (
    CHANNELS,
    DATA,
    FAR_THRESHOLD,
    HEIGHT,
    INPUT,
    INSTRUCTION_COLUMNS,
    MASK,
    PARAMETER,
    PIXEL,
    RESULTS,
    ROW,
    ROW_FLAGS,
    ROW_FLAGS_STEP,
    SCALAR,
    TARGET,
    TENSOR_COLUMNS,
    THRESHOLD,
    WIDTH,
)
from stillframe.reuse.kernels.calls import MANY, tables
from stillframe.reuse.kernels.jit import OPERATOR, PREPARE, carray, native
from stillframe.reuse.kernels.pointers import get_f32, get_f64, get_u8, set_f32, set_f64
from stillframe.reuse.kernels.store import store_result

# parameters: address of the row sums, float64 (H, 2, C); and which reduction
SUMS, REDUCTION = PARAMETER, PARAMETER + 1
GAMMA, BETA = PARAMETER + 2, PARAMETER + 3  # of MOMENTS: addresses of float32 (C,)
MEAN, LARGEST, MOMENTS = 0, 1, 2


@native(PREPARE)
def reduce_rows(ins, tensors, first, end, everything):
    """Sum the changed ones of rows [first, end) again; -> how many."""
    ins = carray(ins, (INSTRUCTION_COLUMNS,))
    tensors = carray(tensors, (MANY, TENSOR_COLUMNS))
    read = ins[INPUT]
    channels, width = tensors[read, CHANNELS], tensors[read, WIDTH]
    flags, flags_step = tensors[read, ROW_FLAGS], tensors[read, ROW_FLAGS_STEP]
    pixel = tensors[read, PIXEL]
    renewed = 0
    for y in range(first, end):
        if everything == 0 and get_u8(flags, y * flags_step) == 0:
            continue
        renewed += 1
        line = tensors[read, DATA] + y * tensors[read, ROW]
        sums = ins[SUMS] + y * channels * 16
        squares = sums + channels * 8
        for c in range(channels):
            x = np.float64(get_f32(line, c))
            set_f64(sums, c, x)
            set_f64(squares, c, x * x)
        if ins[REDUCTION] == LARGEST:
            for step in range(1, width):
                for c in range(channels):
                    x = np.float64(get_f32(line + step * pixel, c))
                    set_f64(sums, c, max(get_f64(sums, c), x))
        elif ins[REDUCTION] == MEAN:
            for step in range(1, width):
                for c in range(channels):
                    x = np.float64(get_f32(line + step * pixel, c))
                    set_f64(sums, c, get_f64(sums, c) + x)
        else:
            for step in range(1, width):
                for c in range(channels):
                    x = np.float64(get_f32(line + step * pixel, c))
                    set_f64(sums, c, get_f64(sums, c) + x)
                    set_f64(squares, c, get_f64(squares, c) + x * x)
    return renewed


@native(OPERATOR)
def reduce_all(ins, floats, tensors, spans, span_count, work, cutoff):
    """Row sums -> (1, 1, C) mean or largest value, or (1, 1, 2C) scale and shift; -> changed."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels, height = tensors[read, CHANNELS], tensors[read, HEIGHT]
    size = np.float64(height * tensors[read, WIDTH])
    results = work[RESULTS]
    for c in range(channels):
        total = get_f64(ins[SUMS], c)
        square = get_f64(ins[SUMS], channels + c)
        for y in range(1, height):
            at = y * channels * 2 + c
            if ins[REDUCTION] == LARGEST:
                total = max(total, get_f64(ins[SUMS], at))
            else:
                total += get_f64(ins[SUMS], at)
                square += get_f64(ins[SUMS], at + channels)
        if ins[REDUCTION] == LARGEST:
            set_f32(results, c, np.float32(total))
        elif ins[REDUCTION] == MEAN:
            set_f32(results, c, np.float32(total / size))
        else:
            mean = total / size
            variance = max(square / size - mean * mean, 0.0)
            scale = get_f32(ins[GAMMA], c) / np.sqrt(variance + floats[SCALAR])
            set_f32(results, c, np.float32(scale))
            set_f32(results, channels + c, np.float32(get_f32(ins[BETA], c) - mean * scale))
    return store_result(
        results,
        tensors[target, DATA],
        tensors[target, CHANNELS],
        cutoff,
        floats[THRESHOLD],
        floats[FAR_THRESHOLD],
        tensors[target, MASK],
    )
