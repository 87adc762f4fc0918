"""Attention by changed rows: softmax(q · kᵀ) · v for the listed queries, for each head.

Keys and values lie packed beside the plan, as the weights of two convolutions: the scores of a
query are a 1 × 1 convolution of its channels with the keys, its result is one of its shares with
the values. The micro-kernels of convolutions compute both, each row in the same order whichever
others are listed.

Three instructions make one attention. DRIFT (only above tolerance 0) finds the queries whose result
has moved because keys or values have; PACK renews the packed keys and values; ATTEND computes the
rows of those queries, and of queries that changed themselves.

DRIFT keeps, for each query and head, the largest score when its row was last computed, and since
then up to date the sum of exp(score - that) and of the same times the values. What changed keys
and values took part with goes out, what they take part with now comes in. Quotient against stored
row: beyond the tolerance the row is computed anew, from full values, and its sums with it. So
the sums only decide, no result is ever carried on by differences, and rounding cannot build up in
them for long: each row is computed anew at least every RENEWED-th time.
"""

import numpy as np

from stillframe.reuse.kernels.abi import (
    ATTENTION,
    ATTENTION_WORK,
    DATA,
    FAR_THRESHOLD,
    FLOAT_COLUMNS,
    HEIGHT,
    INPUT,
    INSTRUCTION_COLUMNS,
    MASK,
    MASK_PIXEL,
    MASK_ROW,
    PARAMETER,
    PIXEL,
    ROW,
    SCALAR,
    SECOND,
    TARGET,
    THRESHOLD,
    WIDTH,
    Cutoff,
)
from stillframe.reuse.kernels.activation import exp
from stillframe.reuse.kernels.active_set import live
from stillframe.reuse.kernels.calls import call_multiply, span_at, tables
from stillframe.reuse.kernels.conv import MULTIPLY, PANEL_BYTES, PANELS, RUN_LENGTH, WEIGHTS
from stillframe.reuse.kernels.jit import OPERATOR, PREPARE, carray, kernel, native
from stillframe.reuse.kernels.pointers import (
    get_f32,
    get_i64,
    get_u8,
    set_f32,
    set_i64,
    set_u8,
)
from stillframe.reuse.kernels.reductions import largest, sum_of
from stillframe.reuse.kernels.store import copy, distance, store_result

# INPUT: queries, SECOND: keys
VALUES = PARAMETER  # index of the tensor of values
SHAPE = PARAMETER + 1  # address of int64, see below
PACKED_KEYS = PARAMETER + 2  # address: [window][head][panel][channel][width] float32
PACKED_VALUES = PARAMETER + 3  # address: [window][head][panel][key][width]
STATE = PARAMETER + 4  # address of float32 [query][sum of each channel, tops, totals]; 0: none
ROUNDS = PARAMETER + 5  # address of int64: how often DRIFT ran
STORED = PARAMETER + 6  # index of the tensor of results, of DRIFT
KEY_PRODUCT, VALUE_PRODUCT = PARAMETER + 7, PARAMETER + 8  # addresses of instructions of a Conv

# entries of SHAPE
HEADS, DEPTH, VALUE_DEPTH = 0, 1, 2  # and the channels of a head of queries and keys, of values
WINDOW_HEIGHT, WINDOW_WIDTH = 3, 4  # of queries
KEY_HEIGHT, KEY_WIDTH = 5, 6  # of a window of keys
ACROSS = 7  # windows in a row of windows
KEY_SLICE, VALUE_SLICE = 8, 9  # channels of a panel of keys, of values
KEY_TILE, VALUE_TILE = 10, 11  # rows that their micro-kernels compute at once
ROWS = 12  # that are gathered before they are computed: a multiple of both
WORKERS = 13
SHAPE_ENTRIES = 14

NEVER = int(Cutoff.NEVER)
RENEWED = 256
MOST_CHANGED = np.float32(0.3)  # of a window's keys: beyond it all of its rows are computed
STEEP = np.float32(30.0)  # a score that rose so far above the top it had
FAINT = np.float32(0.05)  # a total that fell below this part of what the top alone gave


@kernel
def rounded(count, unit):
    return (count + unit - 1) // unit * unit


@kernel
def window_of(shape, y, x, height, width):
    return y // height * get_i64(shape, ACROSS) + x // width


@kernel
def pack_key(packed, key, head, place, depth, width, step):
    # one key of one head into its column; packed: this head's panels
    column = packed + place // width * step + place % width * 4
    for c in range(depth):
        set_f32(column + c * width * 4, 0, get_f32(key, head * depth + c))


@kernel
def pack_value(packed, value, head, place, depth, width, step):
    # one value of one head into its rows, one a panel
    for first in range(0, depth, width):
        row = packed + first // width * step + place * width * 4
        for c in range(first, min(first + width, depth)):
            set_f32(row, c - first, get_f32(value, head * depth + c))


@kernel
def key_bytes(shape, count):
    # of one head's packed keys, so many of them
    width = get_i64(shape, KEY_SLICE)
    return rounded(count, width) * get_i64(shape, DEPTH) * 4


@kernel
def value_bytes(shape, count):
    return rounded(get_i64(shape, VALUE_DEPTH), get_i64(shape, VALUE_SLICE)) * count * 4


@kernel
def keys_in_window(shape):
    return get_i64(shape, KEY_HEIGHT) * get_i64(shape, KEY_WIDTH)


@native(OPERATOR)
def pack(ins, floats, tensors, spans, span_count, work, cutoff):
    """Renew the packed keys and values of the listed positions; -> how many."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    keys, values, shape = ins[SECOND], ins[VALUES], ins[SHAPE]
    depth, value_depth = get_i64(shape, DEPTH), get_i64(shape, VALUE_DEPTH)
    width, value_width = get_i64(shape, KEY_SLICE), get_i64(shape, VALUE_SLICE)
    height_in, width_in = get_i64(shape, KEY_HEIGHT), get_i64(shape, KEY_WIDTH)
    count = keys_in_window(shape)
    step, value_step = width * depth * 4, value_width * count * 4
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        for x in range(start, start + length):
            key = tensors[keys, DATA] + y * tensors[keys, ROW] + x * tensors[keys, PIXEL]
            value = tensors[values, DATA] + y * tensors[values, ROW] + x * tensors[values, PIXEL]
            window = window_of(shape, y, x, height_in, width_in)
            place = y % height_in * width_in + x % width_in
            for head in range(get_i64(shape, HEADS)):
                at = window * get_i64(shape, HEADS) + head
                packed = ins[PACKED_KEYS] + at * key_bytes(shape, count)
                pack_key(packed, key, head, place, depth, width, step)
                packed = ins[PACKED_VALUES] + at * value_bytes(shape, count)
                pack_value(packed, value, head, place, value_depth, value_width, value_step)
        written += length
    return written


@kernel
def scratch_layout(shape, columns):
    """Offsets of the parts of a worker's scratch, for so many columns of scores: an instruction;
    addresses of rows read, of rows written; of each gathered query its channels, its stored result,
    the mark of that and its number; totals; scores; results of a head; results of all; the end."""
    rows = get_i64(shape, ROWS)
    origins = np.int64(INSTRUCTION_COLUMNS * 8)
    stores = origins + rows * 8
    queries = stores + rows * 8
    stored = queries + rows * 8
    marks = stored + rows * 8
    numbers = marks + rows * 8
    totals = numbers + rows * 8
    scores = totals + rows * 8
    part = scores + rows * rounded(columns, get_i64(shape, KEY_SLICE)) * 4
    part_width = rounded(get_i64(shape, VALUE_DEPTH), get_i64(shape, VALUE_SLICE))
    results = part + rows * part_width * 4
    end = results + rows * get_i64(shape, HEADS) * get_i64(shape, VALUE_DEPTH) * 4
    return (
        origins,
        stores,
        queries,
        stored,
        marks,
        numbers,
        totals,
        scores,
        part,
        results,
        rounded(end, 64),
    )


ORIGINS, STORES, QUERIES, RESULT_ROWS, MARKS, NUMBERS = 0, 1, 2, 3, 4, 5
TOTALS, SCORES, PART, RESULTS, END = 6, 7, 8, 9, 10


@kernel
def multiply(template, scratch, weights, panels, panel_bytes, length, offsets, rows):
    # rows at ORIGINS times packed weights -> rows at STORES
    for column in range(INSTRUCTION_COLUMNS):
        set_i64(scratch, column, get_i64(template, column))
    set_i64(scratch, WEIGHTS, weights)
    set_i64(scratch, PANELS, panels)
    set_i64(scratch, PANEL_BYTES, panel_bytes)
    set_i64(scratch, RUN_LENGTH, length)
    call_multiply(
        get_i64(template, MULTIPLY),
        scratch,
        scratch + offsets[ORIGINS],
        scratch + offsets[STORES],
        rows,
        np.float32(1.0),
        np.float32(-np.inf),
        np.float32(np.inf),
    )


@kernel
def score(template, shape, scratch, offsets, packed, head, columns, count):
    # SCORES of the gathered queries with `columns` packed keys of one head
    depth, width = get_i64(shape, DEPTH), get_i64(shape, KEY_SLICE)
    panels = (columns + width - 1) // width
    rows = rounded(count, get_i64(shape, KEY_TILE))
    for slot in range(rows):
        query = get_i64(scratch + offsets[QUERIES], min(slot, count - 1))
        set_i64(scratch + offsets[ORIGINS], slot, query + head * depth * 4)
        row = scratch + offsets[SCORES] + slot * panels * width * 4
        set_i64(scratch + offsets[STORES], slot, row)
    multiply(template, scratch, packed, panels, width * depth * 4, depth, offsets, rows)
    return panels * width * 4


@kernel
def weigh(template, shape, scratch, offsets, packed, columns, step, count):
    # PART: the sums of `columns` packed values of one head, times what stands in SCORES
    width = get_i64(shape, VALUE_SLICE)
    panels = (get_i64(shape, VALUE_DEPTH) + width - 1) // width
    rows = rounded(count, get_i64(shape, VALUE_TILE))
    for slot in range(rows):
        row = scratch + offsets[SCORES] + min(slot, count - 1) * step
        set_i64(scratch + offsets[ORIGINS], slot, row)
        row = scratch + offsets[PART] + slot * panels * width * 4
        set_i64(scratch + offsets[STORES], slot, row)
    multiply(template, scratch, packed, panels, width * columns * 4, columns, offsets, rows)
    return panels * width * 4


@kernel
def soften(row, count, top, scale):
    for i in range(count):
        set_f32(row, i, exp((get_f32(row, i) - top) * scale))


@kernel
def divide(sums, total, result, count):
    factor = np.float32(1.0) / total
    for c in range(count):
        set_f32(result, c, get_f32(sums, c) * factor)


@kernel
def gather(ins, tensors, scratch, offsets, slot, y, x):
    # take a query into a slot
    read, stored, target = ins[INPUT], ins[STORED], ins[TARGET]
    query = tensors[read, DATA] + y * tensors[read, ROW] + x * tensors[read, PIXEL]
    result = tensors[stored, DATA] + y * tensors[stored, ROW] + x * tensors[stored, PIXEL]
    mark = tensors[target, MASK] + y * tensors[target, MASK_ROW] + x * tensors[target, MASK_PIXEL]
    set_i64(scratch + offsets[QUERIES], slot, query)
    set_i64(scratch + offsets[RESULT_ROWS], slot, result)
    set_i64(scratch + offsets[MARKS], slot, mark)
    set_i64(scratch + offsets[NUMBERS], slot, y * tensors[read, WIDTH] + x)


@kernel
def state_row(ins, shape, number):
    heads = get_i64(shape, HEADS)
    return ins[STATE] + number * heads * (get_i64(shape, VALUE_DEPTH) + 2) * 4


@kernel
def compute_rows(ins, floats, tensors, scratch, offsets, window, count, cutoff):
    """The results of the gathered queries of one window; -> how many were stored as changed."""
    shape, scale = ins[SHAPE], floats[SCALAR]
    heads, depth = get_i64(shape, HEADS), get_i64(shape, VALUE_DEPTH)
    keys, channels = keys_in_window(shape), heads * depth
    for head in range(heads):
        at = window * heads + head
        packed = ins[PACKED_KEYS] + at * key_bytes(shape, keys)
        step = score(ins[KEY_PRODUCT], shape, scratch, offsets, packed, head, keys, count)
        for slot in range(count):
            row = scratch + offsets[SCORES] + slot * step
            top = largest(row, keys)
            soften(row, keys, top, scale)
            total = sum_of(row, keys)
            set_f32(scratch + offsets[TOTALS], slot, total)
            if ins[STATE] != 0:
                state = state_row(ins, shape, get_i64(scratch + offsets[NUMBERS], slot))
                set_f32(state, channels + head, top)
                set_f32(state, channels + heads + head, total)
        packed = ins[PACKED_VALUES] + at * value_bytes(shape, keys)
        step = weigh(ins[VALUE_PRODUCT], shape, scratch, offsets, packed, keys, step, count)
        for slot in range(count):
            part = scratch + offsets[PART] + slot * step
            result = scratch + offsets[RESULTS] + (slot * channels + head * depth) * 4
            divide(part, get_f32(scratch + offsets[TOTALS], slot), result, depth)
            if ins[STATE] != 0:
                state = state_row(ins, shape, get_i64(scratch + offsets[NUMBERS], slot))
                copy(part, state + head * depth * 4, depth)
    changed = 0
    for slot in range(count):
        changed += store_result(
            scratch + offsets[RESULTS] + slot * channels * 4,
            get_i64(scratch + offsets[RESULT_ROWS], slot),
            channels,
            cutoff,
            floats[THRESHOLD],
            floats[FAR_THRESHOLD],
            get_i64(scratch + offsets[MARKS], slot),
        )
    return changed


@kernel
def windows_of(shape, tensors, queries):
    """(rows, columns) of windows in the picture of queries."""
    return (
        tensors[queries, HEIGHT] // get_i64(shape, WINDOW_HEIGHT),
        tensors[queries, WIDTH] // get_i64(shape, WINDOW_WIDTH),
    )


@native(OPERATOR)
def attend(ins, floats, tensors, spans, span_count, work, cutoff):
    """The rows of the listed queries; -> positions stored as changed."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    shape, scratch = ins[SHAPE], work[ATTENTION]
    offsets = scratch_layout(shape, keys_in_window(shape))
    height, width = get_i64(shape, WINDOW_HEIGHT), get_i64(shape, WINDOW_WIDTH)
    down, across = windows_of(shape, tensors, ins[INPUT])
    changed = 0
    for window in range(down * across):
        top, left = window // across * height, window % across * width
        count = 0
        for index in range(span_count):
            y, start, length = span_at(spans, index)
            if y < top:
                continue
            if y >= top + height:
                break
            for x in range(max(start, left), min(start + length, left + width)):
                gather(ins, tensors, scratch, offsets, count, y, x)
                count += 1
                if count == get_i64(shape, ROWS):
                    changed += compute_rows(
                        ins, floats, tensors, scratch, offsets, window, count, cutoff
                    )
                    count = 0
        if count > 0:
            changed += compute_rows(ins, floats, tensors, scratch, offsets, window, count, cutoff)
    return changed


@kernel
def is_marked(tensors, tensor, y, x):
    mask = tensors[tensor, MASK] + y * tensors[tensor, MASK_ROW]
    return get_u8(mask, x * tensors[tensor, MASK_PIXEL]) != np.uint8(0)


@kernel
def unpack_key(packed, target, place, column, depth, width):
    # a key's column of one head's panels, to another place
    source = packed + (place // width * width * depth + place % width) * 4
    out = target + (column // width * width * depth + column % width) * 4
    for c in range(depth):
        set_f32(out + c * width * 4, 0, get_f32(source, c * width))


@kernel
def unpack_value(packed, target, place, column, depth, width, step, out_step):
    for panel in range((depth + width - 1) // width):
        copy(
            packed + panel * step + place * width * 4,
            target + panel * out_step + column * width * 4,
            width,
        )


@kernel
def list_changed(ins, tensors, window, places):
    """Changed keys and values of a window: (row, column, place in the window) each; -> count."""
    shape, keys, values = ins[SHAPE], ins[SECOND], ins[VALUES]
    workers = get_i64(shape, WORKERS)
    height, width = get_i64(shape, KEY_HEIGHT), get_i64(shape, KEY_WIDTH)
    across = get_i64(shape, ACROSS)
    top, left = window // across * height, window % across * width
    of_keys = live(tensors, keys, workers) > 0  # the masks are stale where nothing is live
    of_values = live(tensors, values, workers) > 0
    count = np.int64(0)
    for y in range(top, top + height):
        for x in range(left, left + width):
            if (of_keys and is_marked(tensors, keys, y, x)) or (
                of_values and is_marked(tensors, values, y, x)
            ):
                set_i64(places, 3 * count, y)
                set_i64(places, 3 * count + 1, x)
                set_i64(places, 3 * count + 2, (y - top) * width + x - left)
                count += 1
    return count


@kernel
def pack_changed(ins, tensors, window, places, count, packed_keys, packed_values):
    """Columns 0 .. count - 1: changed keys and values as they are; the next ones: as they were."""
    shape, keys, values = ins[SHAPE], ins[SECOND], ins[VALUES]
    heads, depth, value_depth = (
        get_i64(shape, HEADS),
        get_i64(shape, DEPTH),
        get_i64(shape, VALUE_DEPTH),
    )
    width, value_width = get_i64(shape, KEY_SLICE), get_i64(shape, VALUE_SLICE)
    every = keys_in_window(shape)
    for head in range(heads):
        at = window * heads + head
        old_keys = ins[PACKED_KEYS] + at * key_bytes(shape, every)
        old_values = ins[PACKED_VALUES] + at * value_bytes(shape, every)
        new_keys = packed_keys + head * key_bytes(shape, 2 * count)
        new_values = packed_values + head * value_bytes(shape, 2 * count)
        for i in range(count):
            y, x, place = get_i64(places, 3 * i), get_i64(places, 3 * i + 1), 0
            place = get_i64(places, 3 * i + 2)
            key = tensors[keys, DATA] + y * tensors[keys, ROW] + x * tensors[keys, PIXEL]
            value = tensors[values, DATA] + y * tensors[values, ROW] + x * tensors[values, PIXEL]
            pack_key(new_keys, key, head, i, depth, width, width * depth * 4)
            unpack_key(old_keys, new_keys, place, count + i, depth, width)
            step = value_width * 2 * count * 4
            pack_value(new_values, value, head, i, value_depth, value_width, step)
            unpack_value(
                old_values,
                new_values,
                place,
                count + i,
                value_depth,
                value_width,
                value_width * every * 4,
                step,
            )


@kernel
def move_rows(
    ins, floats, limit, scratch, offsets, packed_keys, packed_values, changed_keys, count
):
    """Bring the sums of the gathered queries up to date; unmark those whose stored result is still
    within the limit; -> how many stay marked."""
    shape, scale = ins[SHAPE], floats[SCALAR]
    heads, depth = get_i64(shape, HEADS), get_i64(shape, VALUE_DEPTH)
    channels, columns = heads * depth, 2 * changed_keys
    for slot in range(count):
        set_f32(scratch + offsets[TOTALS], slot, np.float32(0.0))  # above 0: computed anew
    for head in range(heads):
        packed = packed_keys + head * key_bytes(shape, columns)
        step = score(ins[KEY_PRODUCT], shape, scratch, offsets, packed, head, columns, count)
        for slot in range(count):
            row = scratch + offsets[SCORES] + slot * step
            state = state_row(ins, shape, get_i64(scratch + offsets[NUMBERS], slot))
            top = get_f32(state, channels + head)
            steep = (largest(row, columns) - top) * scale > STEEP
            soften(row, columns, top, scale)
            for i in range(changed_keys, columns):
                set_f32(row, i, -get_f32(row, i))
            total = get_f32(state, channels + heads + head) + sum_of(row, columns)
            set_f32(state, channels + heads + head, total)
            if steep or not total > FAINT:
                set_f32(scratch + offsets[TOTALS], slot, np.float32(1.0))
        packed = packed_values + head * value_bytes(shape, columns)
        step = weigh(ins[VALUE_PRODUCT], shape, scratch, offsets, packed, columns, step, count)
        for slot in range(count):
            part = scratch + offsets[PART] + slot * step
            state = state_row(ins, shape, get_i64(scratch + offsets[NUMBERS], slot))
            sums = state + head * depth * 4
            for c in range(depth):
                set_f32(sums, c, get_f32(sums, c) + get_f32(part, c))
            result = scratch + offsets[RESULTS] + (slot * channels + head * depth) * 4
            divide(sums, get_f32(state, channels + heads + head), result, depth)
    moved = 0
    for slot in range(count):
        result = scratch + offsets[RESULTS] + slot * channels * 4
        stored = get_i64(scratch + offsets[RESULT_ROWS], slot)
        near = distance(result, stored, channels) <= limit
        if near and get_f32(scratch + offsets[TOTALS], slot) == np.float32(0.0):
            set_u8(get_i64(scratch + offsets[MARKS], slot), 0, np.uint8(0))
        else:
            moved += 1
    return moved


@native(PREPARE)
def count_rounds(ins, tensors, first, end, everything):
    """One more turn of DRIFT, counted by the worker of row 0."""
    rounds = carray(ins, (INSTRUCTION_COLUMNS,))[ROUNDS]
    if first == 0 and end > 0:
        set_i64(rounds, 0, get_i64(rounds, 0) + 1)
    return 0


@native(OPERATOR)
def drift(ins, floats, tensors, spans, span_count, work, cutoff):
    """Leave marked, of the listed queries, those whose row must be computed; -> how many.

    It stands two instructions before ATTEND, whose threshold it reads.
    """
    limit = carray(floats, (3 * FLOAT_COLUMNS,))[2 * FLOAT_COLUMNS + THRESHOLD]
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    shape, scratch, queries = ins[SHAPE], work[ATTENTION], ins[INPUT]
    keys = keys_in_window(shape)
    most = np.int64(np.float32(keys) * MOST_CHANGED)
    offsets = scratch_layout(shape, 2 * most + 2)
    places = scratch + offsets[END]
    packed_keys = rounded(places + keys * 24, 64)
    height, width = get_i64(shape, WINDOW_HEIGHT), get_i64(shape, WINDOW_WIDTH)
    down, across = windows_of(shape, tensors, queries)
    of_queries = live(tensors, queries, get_i64(shape, WORKERS)) > 0
    rounds = get_i64(ins[ROUNDS], 0)
    moved = 0
    each = get_i64(shape, HEADS) * (get_i64(shape, DEPTH) + get_i64(shape, VALUE_DEPTH))
    for window in range(down * across):
        top, left = window // across * height, window % across * width
        changed_keys = np.int64(-1)  # not counted yet
        packed_values = packed_keys
        count = 0
        for index in range(span_count):
            y, start, length = span_at(spans, index)
            if y < top:
                continue
            if y >= top + height:
                break
            for x in range(max(start, left), min(start + length, left + width)):
                if cutoff == NEVER:
                    moved += 1
                    continue
                if changed_keys < 0:
                    changed_keys = list_changed(ins, tensors, window, places)
                    if 0 < changed_keys <= most:
                        size = get_i64(shape, HEADS) * key_bytes(shape, 2 * changed_keys)
                        packed_values = packed_keys + size
                        pack_changed(
                            ins, tensors, window, places, changed_keys, packed_keys, packed_values
                        )
                number = y * tensors[queries, WIDTH] + x
                anew = changed_keys > most or (number + rounds) % RENEWED == 0
                if anew or changed_keys == 0 or (of_queries and is_marked(tensors, queries, y, x)):
                    moved += 1
                    continue
                gather(ins, tensors, scratch, offsets, count, y, x)
                count += 1
                if count == get_i64(shape, ROWS):
                    moved += move_rows(
                        ins,
                        floats,
                        limit,
                        scratch,
                        offsets,
                        packed_keys,
                        packed_values,
                        changed_keys,
                        count,
                    )
                    work[ATTENTION_WORK] += count * 2 * changed_keys * each
                    count = 0
        if count > 0:
            moved += move_rows(
                ins,
                floats,
                limit,
                scratch,
                offsets,
                packed_keys,
                packed_values,
                changed_keys,
                count,
            )
            work[ATTENTION_WORK] += count * 2 * changed_keys * each
    return moved
