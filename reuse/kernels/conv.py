"""Convolution over listed positions: gather window origins, run micro-kernels, store.

Positions are collected across spans into chunks of CHUNK, so that a chunk's results stay in the
first-level cache until they are compared and stored. A dense step is the same call with every
position listed; each output is summed in the same order either way.
"""

import numpy as np

from stillframe.reuse.kernels import processor
from stillframe.reuse.kernels.abi import (
    BEND,
    CHANNELS,
    DATA,
    GAPS,
    HIGH,
    INPUT,
    INSTRUCTION_COLUMNS,
    LOW,
    MASK,
    MASK_PIXEL,
    MASK_ROW,
    PAD_LEFT,
    PAD_TOP,
    PARAMETER,
    PIXEL,
    POINTER_ARRAYS,
    POINTERS,
    RESULTS,
    ROW,
    SECOND,
    SLOTS,
    STRIDE_X,
    STRIDE_Y,
    TARGET,
    Cutoff,
)
from stillframe.reuse.kernels.calls import (
    address_of,
    call_multiply,
    span_at,
    tables,
)
from stillframe.reuse.kernels.epilogue import (
    RESIDUAL,
    RESIDUAL_NONE,
    RESULT_STEP,
    complete,
    store_all,
)
from stillframe.reuse.kernels.jit import MULTIPLY as MULTIPLY_SIGNATURE
from stillframe.reuse.kernels.jit import OPERATOR, Native, carray, kernel, native
from stillframe.reuse.kernels.microkernel import LANES, conv_tile, depthwise_tile
from stillframe.reuse.kernels.pointers import get_f32, get_i64, prefetch, set_f32, set_i64

# parameters, beside those of `epilogue`
MULTIPLY = PARAMETER  # address of one of the `multiply_` kernels
WEIGHTS, BIAS = PARAMETER + 1, PARAMETER + 2  # addresses
RUNS = PARAMETER + 3  # address of int64 byte offsets from a window's origin
RUN_COUNT, RUN_LENGTH = PARAMETER + 4, PARAMETER + 5  # and the floats of each run
PANELS, PANEL_BYTES = PARAMETER + 6, PARAMETER + 7  # blocks of output channels
TILE_POSITIONS = PARAMETER + 8  # positions that the micro-kernel computes at once
CHUNK_POSITIONS = PARAMETER + 10  # how many are gathered before they are computed
DEPTH_BYTES = PARAMETER + 13
DIRECT = PARAMETER + 14  # 1: the micro-kernel may store the final result itself
AHEAD = PARAMETER + 15  # address of int64: a count, and offsets from origins of lines to prefetch
OUTPUTS, GROUPS = PARAMETER + 12, PARAMETER + 13  # of `multiply_grouped`

NEVER, NORM = int(Cutoff.NEVER), int(Cutoff.NORM)

# arrays of the worker's POINTERS. Gathered positions begin at slot 1; slot 0 is for a result that
# waits for its right neighbour. RESULT_ROWS point into the worker's RESULTS; JOINED is 1 where a
# position is the right neighbour of the one in the slot before it
ORIGINS, STORED, MASKS, ADDENDS, RESULT_ROWS, JOINED = (
    array * SLOTS * 8 for array in range(POINTER_ARRAYS)
)


def tile_shapes(registers: int) -> tuple[tuple[int, int], ...]:
    """(positions, channel vectors) of the micro-kernels that fit so many vector registers."""
    return ((12, 2), (8, 3), (14, 1)) if registers >= 32 else ((6, 2), (4, 3), (10, 1))


def vector_registers() -> int:
    return 32 if processor.features() & {"avx512f", "neon"} else 16


TILES = tile_shapes(vector_registers())
DEPTHWISE_POSITIONS = 6  # accumulators, one weight vector and one operand fit any register file

LINE_BYTES = 64
FAR = 12  # positions by which prefetches are ahead of the arithmetic


@kernel
def fetch_ahead(ins, origins, positions):
    # prefetch what windows further along the row read and these do not, all channels of it
    for m in range(positions):
        origin = get_i64(origins, m)
        for line in range(get_i64(ins[AHEAD], 0)):
            for at in range(0, ins[DEPTH_BYTES], LINE_BYTES):
                prefetch(origin + get_i64(ins[AHEAD], 1 + line) + at)


@kernel
def fetch_line_ahead(ins, origins, positions, shift):
    # the same for one line of channels
    for m in range(positions):
        origin = get_i64(origins, m) + shift
        for line in range(get_i64(ins[AHEAD], 0)):
            prefetch(origin + get_i64(ins[AHEAD], 1 + line))


# Each micro-kernel computes `count` positions, a whole number of tiles: origins (count,) addresses
# of window origins -> float32 rows at stores (count,) addresses: times slope where negative, then
# clamped between low and high.
#
# Kernels that differ by constants come from one factory. numba's cache on disk tells them apart by
# the constants that they close over, which therefore must be plain numbers: a closure over another
# kernel or an intrinsic would be compiled anew in every process.


def panel_kernel(positions: int, vectors: int) -> Native:
    """A convolution without groups, in tiles of that many positions and channel vectors."""

    @native(MULTIPLY_SIGNATURE)
    def multiply_panels(ins, origins, stores, count, slope, low, high):
        ins = carray(ins, (INSTRUCTION_COLUMNS,))
        for panel in range(ins[PANELS]):
            shift = panel * (4 * vectors * LANES)
            packed = ins[WEIGHTS] + panel * ins[PANEL_BYTES]
            for at in range(0, count, positions):
                if panel == 0:
                    fetch_ahead(ins, origins + at * 8, positions)
                conv_tile(
                    positions,
                    vectors,
                    origins + at * 8,
                    ins[RUNS],
                    ins[RUN_COUNT],
                    ins[RUN_LENGTH],
                    packed,
                    ins[BIAS] + shift,
                    stores + at * 8,
                    shift,
                    slope,
                    low,
                    high,
                )

    return multiply_panels


def depthwise_kernel(overlapping: bool) -> Native:
    """A depthwise convolution. overlapping: neighbouring windows share input, so a tile takes all
    its channels before the next tile; otherwise all tiles take a channel vector, then the next."""

    @native(MULTIPLY_SIGNATURE)
    def multiply_depthwise(ins, origins, stores, count, slope, low, high):
        # the last vector may read past the channels of its position: those lanes are never stored
        ins = carray(ins, (INSTRUCTION_COLUMNS,))
        step = ins[RESULT_STEP]
        tiles, panels = count // DEPTHWISE_POSITIONS, ins[PANELS]
        for outer in range(tiles if overlapping else panels):
            for inner in range(panels if overlapping else tiles):
                tile, panel = (outer, inner) if overlapping else (inner, outer)
                at = tile * (8 * DEPTHWISE_POSITIONS)
                shift = panel * (4 * LANES)
                if overlapping and shift % LINE_BYTES == 0:
                    fetch_line_ahead(ins, origins + at, DEPTHWISE_POSITIONS, shift)
                depthwise_tile(
                    DEPTHWISE_POSITIONS,
                    1,
                    origins + at,
                    ins[RUNS],
                    ins[RUN_COUNT],
                    shift,
                    ins[WEIGHTS] + shift,
                    step,
                    ins[BIAS] + shift,
                    stores + at,
                    shift,
                    slope,
                    low,
                    high,
                )

    return multiply_depthwise


@native(MULTIPLY_SIGNATURE)
def multiply_grouped(ins, origins, stores, count, slope, low, high):
    # any number of groups; weights (tap, channel of the group, output); simple and slow
    ins = carray(ins, (INSTRUCTION_COLUMNS,))
    outputs, depth = ins[OUTPUTS], ins[RUN_LENGTH]
    per_group = outputs // ins[GROUPS]
    for at in range(count):
        origin = get_i64(origins, at)
        for m in range(outputs):
            total = get_f32(ins[BIAS], m)
            group = m // per_group
            for tap in range(ins[RUN_COUNT]):
                row = origin + get_i64(ins[RUNS], tap) + group * depth * 4
                for c in range(depth):
                    weight = get_f32(ins[WEIGHTS], (tap * depth + c) * outputs + m)
                    total += get_f32(row, c) * weight
            total = total * slope if total < np.float32(0) else total
            total = low if total < low else total
            set_f32(get_i64(stores, at), m, high if total > high else total)


MULTIPLY_TILES = tuple(panel_kernel(*shape) for shape in TILES)
"""In the order of TILES."""
multiply_depthwise = depthwise_kernel(overlapping=True)
multiply_depthwise_apart = depthwise_kernel(overlapping=False)


@kernel
def compute(ins, ins_address, floats, channels, cutoff, pointers, results, count):
    """Results of the `count` positions from slot 1 on; -> whether they are stored already."""
    tile, step = ins[TILE_POSITIONS], ins[RESULT_STEP]
    padded = (count + tile - 1) // tile * tile
    for slot in range(count + 1, padded + 1):  # the rest of the last tile repeats its last position
        set_i64(pointers + ORIGINS, slot, get_i64(pointers + ORIGINS, count))
        set_i64(pointers + STORED, slot, get_i64(pointers + STORED, count))
    direct = ins[DIRECT] == 1 and cutoff == NEVER
    call_multiply(
        ins[MULTIPLY],
        ins_address,
        pointers + ORIGINS + 8,
        pointers + (STORED if direct else RESULT_ROWS) + 8,
        padded,
        floats[BEND],
        floats[LOW],
        floats[HIGH],
    )
    if direct:
        return True
    complete(ins, floats, channels, results + step, pointers + ADDENDS + 8, count)
    return False


@kernel
def flush(ins, ins_address, floats, channels, cutoff, work, waiting, count, last):
    """Compute and store `count` gathered positions; -> how many were stored as changed.

    waiting: whether an earlier result waits in slot 0. last: False if more positions follow; the
    last result then may have to wait for them.
    """
    pointers, results, step = work[POINTERS], work[RESULTS], ins[RESULT_STEP]
    if count > 0 and compute(ins, ins_address, floats, channels, cutoff, pointers, results, count):
        return count
    return store_all(
        floats,
        channels,
        cutoff,
        results,
        step,
        pointers + STORED,
        pointers + MASKS,
        pointers + JOINED,
        work[GAPS],
        waiting,
        count,
        last,
    )


@native(OPERATOR)
def convolve(ins, floats, tensors, spans, span_count, work, cutoff):
    """x (H, W, C) · w -> out (H', W', M) at the listed spans; -> positions stored as changed."""
    ins_address = address_of(ins)
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read, residual = ins[TARGET], ins[INPUT], ins[SECOND]
    out, out_row, out_pixel = tensors[target, DATA], tensors[target, ROW], tensors[target, PIXEL]
    mask, mask_row = tensors[target, MASK], tensors[target, MASK_ROW]
    mask_pixel = tensors[target, MASK_PIXEL]
    data, row, pixel = tensors[read, DATA], tensors[read, ROW], tensors[read, PIXEL]
    across = ins[STRIDE_X] * pixel
    channels = tensors[target, CHANNELS]
    pointers = work[POINTERS]
    chunk = ins[CHUNK_POSITIONS]
    for slot in range(1, chunk + 1):
        set_i64(pointers + RESULT_ROWS, slot, work[RESULTS] + slot * ins[RESULT_STEP])
    waiting = False
    count = 0
    changed = 0
    for index in range(span_count):
        y, x, length = span_at(spans, index)
        top = data + (y * ins[STRIDE_Y] - ins[PAD_TOP]) * row
        origin = top + (x * ins[STRIDE_X] - ins[PAD_LEFT]) * pixel
        store = out + y * out_row + x * out_pixel
        mark = mask + y * mask_row + x * mask_pixel
        addend = np.int64(0)
        addend_pixel = np.int64(0)
        if ins[RESIDUAL] != RESIDUAL_NONE:
            addend_pixel = tensors[residual, PIXEL]
            addend = tensors[residual, DATA] + y * tensors[residual, ROW] + x * addend_pixel
        done = 0
        while done < length:
            size = min(length - done, chunk - count)
            for step in range(done, done + size):
                slot = 1 + count + step - done
                set_i64(pointers + JOINED, slot, 1 if step > 0 else 0)
                set_i64(pointers + ORIGINS, slot, origin + step * across)
                set_i64(pointers + STORED, slot, store + step * out_pixel)
                set_i64(pointers + MASKS, slot, mark + step * mask_pixel)
                set_i64(pointers + ADDENDS, slot, addend + step * addend_pixel)
            done += size
            count += size
            if count == chunk:
                changed += flush(
                    ins, ins_address, floats, channels, cutoff, work, waiting, count, False
                )
                waiting = cutoff == NORM
                count = 0
    if waiting or count > 0:
        changed += flush(ins, ins_address, floats, channels, cutoff, work, waiting, count, True)
    return changed
