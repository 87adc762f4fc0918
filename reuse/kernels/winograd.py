"""Convolution of 3 × 3 windows by Winograd's transforms, on a fixed grid of tiles.

A tile is m × m outputs, and tiles begin at multiples of m. Each is computed whole, and every sum of
it in one order, so its bits do not depend on which tiles are listed beside it. Only the listed
positions of a tile are stored. docs/decisions.md has when a layer is computed this way.

Tiles are gathered across spans into batches: transformed inputs, products and transformed outputs
of a batch stay in the second-level cache. Outputs are finished in groups of fewer tiles, as
`conv.convolve` finishes its chunks. A row of tiles has m streams of positions, one for each row of
outputs, so that each position is compared together with its neighbours in that row.
"""

import numpy as np

from stillframe.reuse.kernels.abi import (
    BEND,
    CHANNELS,
    DATA,
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
    ROW,
    SECOND,
    TARGET,
    TILE_SIDE,
    TILES,
    WIDTH,
    Cutoff,
)
from stillframe.reuse.kernels.calls import address_of, call_multiply, span_at, tables
from stillframe.reuse.kernels.conv import TILES as CONV_TILES
from stillframe.reuse.kernels.epilogue import (
    RESIDUAL,
    RESIDUAL_NONE,
    RESULT_STEP,
    complete,
    store_all,
)
from stillframe.reuse.kernels.jit import MULTIPLY as MULTIPLY_SIGNATURE
from stillframe.reuse.kernels.jit import OPERATOR, Native, carray, kernel, native
from stillframe.reuse.kernels.microkernel import LANES
from stillframe.reuse.kernels.pointers import get_i64, set_i64
from stillframe.reuse.kernels.winograd_tile import (
    input_transform,
    output_transform,
    product_tile,
)

# parameters, beside those of `epilogue`
PRODUCTS = PARAMETER  # addresses of a `product_kernel`
INPUTS, OUTPUTS = PARAMETER + 1, PARAMETER + 2  # of an `input_kernel` and an `output_kernel`
WEIGHTS = PARAMETER + 3  # address: [factor][panel][channel][panel's width] float32
BIAS, BENDS = PARAMETER + 4, PARAMETER + 5  # addresses of float32 [channel], whole vectors
DEPTH = PARAMETER + 7  # input channels
PANELS = PARAMETER + 8  # blocks of output channels
POSITIONS = PARAMETER + 10  # tiles whose products are computed at once
DIRECT = PARAMETER + 12  # 1: the transform may store the final result itself
BATCH, GROUP = PARAMETER + 13, PARAMETER + 14  # tiles transformed, and finished, at once
LAYOUT = PARAMETER + 15  # address of int64, see below

# entries of LAYOUT, all in bytes
DOWN, ACROSS = 0, 1  # from one row of the input to the next, from one position to the next
FACTOR_STEP, FACTOR_PLANE = 2, 3  # from one tile's factors to the next, from one factor
SUM_STEP, SUM_PLANE = 4, 5  # the same of sums of products
# where parts of the worker's TILES begin
SUMS, RESULTS, SPARE, LISTS = 6, 7, 8, 9
STREAM_RESULTS, STREAM_SLOTS = 10, 11  # of one stream: bytes of results; slots, a number
PANEL_BYTES = 12  # weights of a factor and panel
LAYOUT_ENTRIES = 13

# int64 arrays from LISTS on: of each tile of a batch its row and column of tiles, the address of
# its first input, and its listed outputs as bits; the addresses at which outputs of a group go;
# of each stream its slots' STORED, MASKS, ADDENDS, JOINED and GAPS and its state; and the listed
# outputs of each tile of a row of tiles
TILE_Y, TILE_X, TILE_ORIGIN, TILE_BITS, TILE_ARRAYS = 0, 1, 2, 3, 4
STORED, MASKS, ADDENDS, JOINED, GAPS, STREAM_ARRAYS = 0, 1, 2, 3, 4, 5
WAITING, COUNT, LAST_X, LAST_Y, STATE_ENTRIES = 0, 1, 2, 3, 4

NEVER, NORM = int(Cutoff.NEVER), int(Cutoff.NORM)
SIDES = (2, 4)


def list_entries(side: int, batch: int, group: int, slots: int, across: int) -> int:
    """int64 entries of the lists of a batch."""
    streams = side * (STREAM_ARRAYS * (slots + 1) + STATE_ENTRIES)
    return TILE_ARRAYS * batch + group * side**2 + streams + across


# Kernels that differ by constants come from factories, as in `conv`.


def input_kernel(side: int) -> Native:
    """Origins (count,) of tiles' inputs -> their factors, at stores."""

    @native(MULTIPLY_SIGNATURE)
    def transform_inputs(ins, origins, stores, count, slope, low, high):
        # the last vector may read past the channels of its position: nothing reads those factors
        ins = carray(ins, (INSTRUCTION_COLUMNS,))
        layout, depth = ins[LAYOUT], ins[DEPTH]
        down, across = get_i64(layout, DOWN), get_i64(layout, ACROSS)
        step, plane = get_i64(layout, FACTOR_STEP), get_i64(layout, FACTOR_PLANE)
        for tile in range(count):
            origin = get_i64(origins, tile)
            for c in range(0, depth, LANES):
                target = stores + tile * step + c * 4
                input_transform(side, origin + c * 4, down, across, target, plane)

    return transform_inputs


def product_kernel(positions: int, vectors: int, side: int) -> Native:
    """Factors of `count` tiles, whole `positions`, at origins -> sums of products, at stores."""
    factors = (side + 2) ** 2
    panel_step = 4 * LANES * vectors

    @native(MULTIPLY_SIGNATURE)
    def multiply_factors(ins, origins, stores, count, slope, low, high):
        ins = carray(ins, (INSTRUCTION_COLUMNS,))
        layout, depth, panels = ins[LAYOUT], ins[DEPTH], ins[PANELS]
        step, plane = get_i64(layout, FACTOR_STEP), get_i64(layout, FACTOR_PLANE)
        sum_step, sum_plane = get_i64(layout, SUM_STEP), get_i64(layout, SUM_PLANE)
        weights, panel_bytes = ins[WEIGHTS], get_i64(layout, PANEL_BYTES)
        for factor in range(factors):
            for panel in range(panels):
                for tile in range(0, count, positions):
                    product_tile(
                        positions,
                        vectors,
                        origins + factor * plane + tile * step,
                        step,
                        depth,
                        weights,
                        stores + factor * sum_plane + tile * sum_step + panel * panel_step,
                        sum_step,
                    )
                weights += panel_bytes

    return multiply_factors


def output_kernel(side: int) -> Native:
    """Sums of products of `count` tiles, at origins -> outputs, each where its address in stores
    (count, side²) is."""

    @native(MULTIPLY_SIGNATURE)
    def transform_outputs(ins, origins, stores, count, slope, low, high):
        ins = carray(ins, (INSTRUCTION_COLUMNS,))
        layout, step = ins[LAYOUT], ins[RESULT_STEP]
        sum_step, plane = get_i64(layout, SUM_STEP), get_i64(layout, SUM_PLANE)
        for tile in range(count):
            for shift in range(0, step, 4 * LANES):
                output_transform(
                    side,
                    origins + tile * sum_step + shift,
                    plane,
                    ins[BIAS] + shift,
                    ins[BENDS] + shift,
                    stores + tile * side * side * 8,
                    shift,
                    low,
                    high,
                )

    return transform_outputs


TRANSFORM_INPUTS = {side: input_kernel(side) for side in SIDES}
TRANSFORM_OUTPUTS = {side: output_kernel(side) for side in SIDES}
MULTIPLY_FACTORS = {
    (side, tile): product_kernel(*shape, side)
    for side in SIDES
    for tile, shape in enumerate(CONV_TILES)
}
"""By m and row of `conv.TILES`."""


@kernel
def clear_words(address, count):
    for index in range(count):
        set_i64(address, index, 0)


@kernel
def mark_listed(bits, side, y, x, length):
    # adds positions x .. x + length - 1 of row y to the bits of their tiles
    first = (y % side) * side
    for column in range(x, x + length):
        tile = column // side
        bit = np.int64(1) << (first + column - tile * side)
        set_i64(bits, tile, get_i64(bits, tile) | bit)


@kernel
def finish_group(ins, ins_address, floats, tensors, base, lists, first, count, cutoff, last):
    """Outputs of tiles first .. first + count - 1 of a batch, stored; -> stored as changed."""
    target, residual = ins[TARGET], ins[SECOND]
    layout, side, step = ins[LAYOUT], ins[TILE_SIDE], ins[RESULT_STEP]
    slots, batch = get_i64(layout, STREAM_SLOTS), ins[BATCH]
    results, spare = base + get_i64(layout, RESULTS), base + get_i64(layout, SPARE)
    stream_bytes = get_i64(layout, STREAM_RESULTS)
    stores = lists + TILE_ARRAYS * batch * 8
    streams = stores + ins[GROUP] * side * side * 8
    array_bytes = (slots + 1) * 8
    states = streams + side * STREAM_ARRAYS * array_bytes
    direct = ins[DIRECT] == 1 and cutoff == NEVER
    out_pixel, mask_pixel = tensors[target, PIXEL], tensors[target, MASK_PIXEL]
    changed = 0
    for r in range(side):
        set_i64(states + r * STATE_ENTRIES * 8, COUNT, 0)
    for tile in range(first, first + count):
        tile_y, tile_x = get_i64(lists, tile), get_i64(lists + TILE_X * batch * 8, tile)
        bits = get_i64(lists + TILE_BITS * batch * 8, tile)
        to = stores + (tile - first) * side * side * 8
        for r in range(side):
            y, x = tile_y * side + r, tile_x * side
            store = tensors[target, DATA] + y * tensors[target, ROW] + x * out_pixel
            line = bits >> (r * side)
            if direct:
                for c in range(side):
                    on = (line >> c) & 1
                    set_i64(to, r * side + c, store + c * out_pixel if on else spare)
                    changed += on
                continue
            state = states + r * STATE_ENTRIES * 8
            stream = streams + r * STREAM_ARRAYS * array_bytes
            mark = tensors[target, MASK] + y * tensors[target, MASK_ROW] + x * mask_pixel
            slot = get_i64(state, COUNT)
            for c in range(side):
                if (line >> c) & 1 == 0:
                    set_i64(to, r * side + c, spare)
                    continue
                slot += 1
                beside = get_i64(state, LAST_X) == x + c - 1 and get_i64(state, LAST_Y) == y
                set_i64(state, LAST_X, x + c)
                set_i64(state, LAST_Y, y)
                set_i64(to, r * side + c, results + r * stream_bytes + slot * step)
                set_i64(stream + STORED * array_bytes, slot, store + c * out_pixel)
                set_i64(stream + MASKS * array_bytes, slot, mark + c * mask_pixel)
                set_i64(stream + JOINED * array_bytes, slot, 1 if beside else 0)
                if ins[RESIDUAL] != RESIDUAL_NONE:
                    addend = (
                        tensors[residual, DATA]
                        + y * tensors[residual, ROW]
                        + (x + c) * tensors[residual, PIXEL]
                    )
                    set_i64(stream + ADDENDS * array_bytes, slot, addend)
            set_i64(state, COUNT, slot)
    call_multiply(
        ins[OUTPUTS],
        ins_address,
        base + get_i64(layout, SUMS) + first * get_i64(layout, SUM_STEP),
        stores,
        count,
        floats[BEND],
        floats[LOW],
        floats[HIGH],
    )
    if direct:
        return changed
    channels = tensors[target, CHANNELS]
    for r in range(side):
        state = states + r * STATE_ENTRIES * 8
        stream = streams + r * STREAM_ARRAYS * array_bytes
        stored = get_i64(state, COUNT)
        complete(
            ins,
            floats,
            channels,
            results + r * stream_bytes + step,
            stream + ADDENDS * array_bytes + 8,
            stored,
        )
        waiting = get_i64(state, WAITING) == 1
        if stored > 0 or (waiting and last):
            changed += store_all(
                floats,
                channels,
                cutoff,
                results + r * stream_bytes,
                step,
                stream + STORED * array_bytes,
                stream + MASKS * array_bytes,
                stream + JOINED * array_bytes,
                stream + GAPS * array_bytes,
                waiting,
                stored,
                last,
            )
            set_i64(state, WAITING, 1 if cutoff == NORM else 0)
    return changed


@kernel
def run_batch(ins, ins_address, floats, tensors, base, lists, count, cutoff, last):
    """Compute and store the `count` tiles of a batch; -> positions stored as changed."""
    layout, batch, positions = ins[LAYOUT], ins[BATCH], ins[POSITIONS]
    nothing = np.float32(0)
    sums = base + get_i64(layout, SUMS)
    if count > 0:
        origins = lists + TILE_ORIGIN * batch * 8
        call_multiply(ins[INPUTS], ins_address, origins, base, count, nothing, nothing, nothing)
        padded = (count + positions - 1) // positions * positions
        call_multiply(ins[PRODUCTS], ins_address, base, sums, padded, nothing, nothing, nothing)
    changed = 0
    at = 0
    while at < count or (at == 0 and last):
        size = min(ins[GROUP], count - at)
        ends = last and at + size == count
        changed += finish_group(
            ins, ins_address, floats, tensors, base, lists, at, size, cutoff, ends
        )
        at += max(size, 1)
    return changed


@native(OPERATOR)
def convolve_tiles(ins, floats, tensors, spans, span_count, work, cutoff):
    """x (H, W, C) · w -> out (H', W', M) at the listed spans; -> positions stored as changed."""
    ins_address = address_of(ins)
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    layout, side, batch = ins[LAYOUT], ins[TILE_SIDE], ins[BATCH]
    base = work[TILES]
    lists = base + get_i64(layout, LISTS)
    slots = get_i64(layout, STREAM_SLOTS)
    states = lists + (TILE_ARRAYS * batch + ins[GROUP] * side * side) * 8
    states += side * STREAM_ARRAYS * (slots + 1) * 8
    bits = states + side * STATE_ENTRIES * 8
    across = (tensors[ins[TARGET], WIDTH] + side - 1) // side
    clear_words(bits, across)
    clear_words(states, side * STATE_ENTRIES)
    for r in range(side):
        set_i64(states + r * STATE_ENTRIES * 8, LAST_Y, -1)
    down, right = get_i64(layout, DOWN), get_i64(layout, ACROSS)
    start = tensors[ins[INPUT], DATA] - ins[PAD_TOP] * down - ins[PAD_LEFT] * right
    count = 0
    changed = 0
    index = 0
    while index < span_count:
        tile_y = span_at(spans, index)[0] // side
        left, end = across, np.int64(0)
        while index < span_count:
            y, x, length = span_at(spans, index)
            if y // side != tile_y:
                break
            mark_listed(bits, side, y, x, length)
            left, end = min(left, x // side), max(end, (x + length - 1) // side + 1)
            index += 1
        for tile_x in range(left, end):
            listed = get_i64(bits, tile_x)
            if listed == 0:
                continue
            set_i64(bits, tile_x, 0)
            set_i64(lists + TILE_Y * batch * 8, count, tile_y)
            set_i64(lists + TILE_X * batch * 8, count, tile_x)
            set_i64(lists + TILE_BITS * batch * 8, count, listed)
            origin = start + tile_y * side * down + tile_x * side * right
            set_i64(lists + TILE_ORIGIN * batch * 8, count, origin)
            count += 1
            if count == batch:
                changed += run_batch(
                    ins, ins_address, floats, tensors, base, lists, count, cutoff, False
                )
                count = 0
    return changed + run_batch(ins, ins_address, floats, tensors, base, lists, count, cutoff, True)
