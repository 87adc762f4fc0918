"""Convolution over listed positions: gather window origins, run micro-kernels, store.

Positions are collected across spans into chunks of CHUNK; a chunk's results stay in the first-level
caches until each was compared and stored. Dense is the same call with every position listed, and
each output is summed in the same order either way.
"""

import llvmlite.binding as llvm
import numpy as np

from stillframe.reuse.kernels.activation import activate
from stillframe.reuse.kernels.commit import commit
from stillframe.reuse.kernels.jit import kernel
from stillframe.reuse.kernels.memory import get_f32, get_i32, get_i64, set_f32, set_i64
from stillframe.reuse.kernels.microkernel import LANES, conv_tile, depthwise_tile
from stillframe.reuse.kernels.table import (
    ACT_A,
    ACT_B,
    ACTIVATION,
    BIAS,
    CHANNELS,
    CHUNK,
    CUTOFF,
    DATA,
    INPUT,
    MASK,
    MASK_PIXEL,
    MASK_ROW,
    PAD_LEFT,
    PAD_TOP,
    PANEL_BYTES,
    PANELS,
    PARAMETER,
    PIXEL,
    POINTERS,
    RESULTS,
    ROW,
    RUN_COUNT,
    RUN_LENGTH,
    RUNS,
    SECOND,
    SLOPE,
    SPAN_INTS,
    SPAN_LENGTH,
    SPAN_X,
    SPAN_Y,
    STRIDE_X,
    STRIDE_Y,
    TARGET,
    THRESHOLD,
    TILE,
    WEIGHTS,
    Activation,
)


def tile_shapes(registers: int) -> tuple[tuple[int, int], ...]:
    """(positions, channel vectors) of the micro-kernels that fit so many vector registers."""
    return ((12, 2), (8, 3), (14, 1)) if registers >= 32 else ((6, 2), (4, 3), (10, 1))


def vector_registers() -> int:
    features = llvm.get_host_cpu_features()
    return 32 if features.get("avx512f") or features.get("neon") else 16


TILES = tile_shapes(vector_registers())
(M0, V0), (M1, V1), (M2, V2) = TILES
DEPTHWISE_POSITIONS = 6  # accumulators, one weight vector and one operand fit any register file

NONE = int(Activation.NONE)

# the four arrays of CHUNK pointers
ORIGINS, STORED, MASKS, ADDENDS = 0, CHUNK * 8, CHUNK * 16, CHUNK * 24

RESIDUAL_NONE, RESIDUAL_BEFORE, RESIDUAL_AFTER = 0, 1, 2


@kernel
def multiply_panels(ins, origins, results, count):  # type: ignore[no-untyped-def]
    # origins (count,) pointers -> results (count, PANELS * tile) float32; count a whole of tiles
    runs, run_count, run_length = ins[RUNS], ins[RUN_COUNT], ins[RUN_LENGTH]
    bias, weights, tile = ins[BIAS], ins[WEIGHTS], ins[TILE]
    if tile == 0:
        step = ins[PANELS] * (4 * V0 * LANES)
        for panel in range(ins[PANELS]):
            shift = panel * (4 * V0 * LANES)
            packed = weights + panel * ins[PANEL_BYTES]
            for at in range(0, count, M0):
                conv_tile(
                    M0, V0, origins + at * 8, runs, run_count, run_length, packed,
                    bias + shift, 0, results + at * step + shift, step,
                )
    elif tile == 1:
        step = ins[PANELS] * (4 * V1 * LANES)
        for panel in range(ins[PANELS]):
            shift = panel * (4 * V1 * LANES)
            packed = weights + panel * ins[PANEL_BYTES]
            for at in range(0, count, M1):
                conv_tile(
                    M1, V1, origins + at * 8, runs, run_count, run_length, packed,
                    bias + shift, 0, results + at * step + shift, step,
                )
    else:
        step = ins[PANELS] * (4 * V2 * LANES)
        for panel in range(ins[PANELS]):
            shift = panel * (4 * V2 * LANES)
            packed = weights + panel * ins[PANEL_BYTES]
            for at in range(0, count, M2):
                conv_tile(
                    M2, V2, origins + at * 8, runs, run_count, run_length, packed,
                    bias + shift, 0, results + at * step + shift, step,
                )


@kernel
def multiply_depthwise(ins, origins, results, count):  # type: ignore[no-untyped-def]
    # origins (count,) -> results (count, PANELS * LANES); the last vector may read past the
    # channels of its position: those lanes are never stored
    step = ins[PANELS] * (4 * LANES)
    for panel in range(ins[PANELS]):
        shift = panel * (4 * LANES)
        for at in range(0, count, DEPTHWISE_POSITIONS):
            depthwise_tile(
                DEPTHWISE_POSITIONS, 1, origins + at * 8, ins[RUNS], ins[RUN_COUNT], shift,
                ins[WEIGHTS] + shift, step, ins[BIAS] + shift, results + at * step + shift, step,
            )


@kernel
def multiply_grouped(ins, origins, results, count):  # type: ignore[no-untyped-def]
    # any group count: weights (tap, channel of the group, output channel); plain and slow
    outputs = ins[PARAMETER + 2]
    groups = ins[PARAMETER + 3]
    depth = ins[RUN_LENGTH]
    per_group = outputs // groups
    step = ins[PANELS] * LANES
    for at in range(count):
        origin = get_i64(origins, at)
        for m in range(outputs):
            total = get_f32(ins[BIAS], m)
            group = m // per_group
            for tap in range(ins[RUN_COUNT]):
                row = origin + get_i64(ins[RUNS], tap) + group * depth * 4
                for c in range(depth):
                    total += get_f32(row, c) * get_f32(ins[WEIGHTS], (tap * depth + c) * outputs + m)
            set_f32(results, at * step + m, total)


@kernel
def add_rows(results, step, addends, count, channels):  # type: ignore[no-untyped-def]
    # results (count, step bytes) += the float32 rows that addends (count,) points to
    for at in range(count):
        row = results + at * step
        other = get_i64(addends, at)
        for c in range(channels):
            set_f32(row, c, get_f32(row, c) + get_f32(other, c))


@kernel
def flush(kind, ins, floats, channels, cutoff, pointers, results, count):  # type: ignore[no-untyped-def]
    """Compute and store `count` gathered positions; -> how many were stored as changed."""
    tile = 1
    lanes = LANES
    if kind == 0:
        if ins[TILE] == 0:
            tile, lanes = M0, V0 * LANES
        elif ins[TILE] == 1:
            tile, lanes = M1, V1 * LANES
        else:
            tile, lanes = M2, V2 * LANES
    elif kind == 1:
        tile = DEPTHWISE_POSITIONS
    padded = (count + tile - 1) // tile * tile
    for at in range(count, padded):  # the rest of the last tile repeats a position
        set_i64(pointers + ORIGINS, at, get_i64(pointers + ORIGINS, count - 1))
    if kind == 0:
        multiply_panels(ins, pointers + ORIGINS, results, padded)
    elif kind == 1:
        multiply_depthwise(ins, pointers + ORIGINS, results, padded)
    else:
        multiply_grouped(ins, pointers + ORIGINS, results, padded)
    width = ins[PANELS] * lanes
    residual = ins[PARAMETER]
    if residual == RESIDUAL_BEFORE:
        add_rows(results, width * 4, pointers + ADDENDS, count, channels)
    if ins[ACTIVATION] != NONE:
        if ins[SLOPE] != 0:
            for at in range(count):
                row = results + at * width * 4
                activate(
                    ins[ACTIVATION], floats[ACT_A], floats[ACT_B], ins[SLOPE], row, row, channels
                )
        else:
            activate(
                ins[ACTIVATION], floats[ACT_A], floats[ACT_B], np.int64(0), results, results,
                count * width,
            )
    if residual == RESIDUAL_AFTER:
        add_rows(results, width * 4, pointers + ADDENDS, count, channels)
    changed = 0
    for at in range(count):
        changed += commit(
            results + at * width * 4, get_i64(pointers + STORED, at), channels, cutoff,
            floats[THRESHOLD], get_i64(pointers + MASKS, at),
        )
    return changed


@kernel
def convolve(kind, ins, floats, tensors, spans, span_count, work, cutoff):  # type: ignore[no-untyped-def]
    """Convolution at the listed spans; kind: 0 full, 1 depthwise, 2 grouped.

    -> positions stored as changed. x (H, W, C) · w, packed by panels -> out (H', W', M)
    """
    target, read, residual = ins[TARGET], ins[INPUT], ins[SECOND]
    out, out_row, out_pixel = tensors[target, DATA], tensors[target, ROW], tensors[target, PIXEL]
    mask, mask_row = tensors[target, MASK], tensors[target, MASK_ROW]
    mask_pixel = tensors[target, MASK_PIXEL]
    data, row, pixel = tensors[read, DATA], tensors[read, ROW], tensors[read, PIXEL]
    stride_y, stride_x = ins[STRIDE_Y], ins[STRIDE_X]
    pad_top, pad_left = ins[PAD_TOP], ins[PAD_LEFT]
    channels = tensors[target, CHANNELS]
    pointers, results = work[POINTERS], work[RESULTS]
    chunk = ins[PARAMETER + 1]
    add = ins[PARAMETER] != RESIDUAL_NONE
    count = 0
    changed = 0
    for index in range(span_count):
        at = index * SPAN_INTS
        y = np.int64(get_i32(spans, at + SPAN_Y))
        x = np.int64(get_i32(spans, at + SPAN_X))
        length = np.int64(get_i32(spans, at + SPAN_LENGTH))
        origin = data + (y * stride_y - pad_top) * row + (x * stride_x - pad_left) * pixel
        store = out + y * out_row + x * out_pixel
        mark = mask + y * mask_row + x * mask_pixel
        addend = np.int64(0)
        addend_pixel = np.int64(0)
        if add:
            addend_pixel = tensors[residual, PIXEL]
            addend = tensors[residual, DATA] + y * tensors[residual, ROW] + x * addend_pixel
        done = 0
        while done < length:
            size = min(length - done, chunk - count)
            for step in range(size):
                set_i64(pointers + ORIGINS, count + step, origin + (done + step) * stride_x * pixel)
                set_i64(pointers + STORED, count + step, store + (done + step) * out_pixel)
                set_i64(pointers + MASKS, count + step, mark + (done + step) * mask_pixel)
                set_i64(pointers + ADDENDS, count + step, addend + (done + step) * addend_pixel)
            done += size
            count += size
            if count == chunk:
                changed += flush(kind, ins, floats, channels, cutoff, pointers, results, count)
                count = 0
    if count > 0:
        changed += flush(kind, ins, floats, channels, cutoff, pointers, results, count)
    return changed
