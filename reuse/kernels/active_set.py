"""The active set: the mask of an output from the masks of its inputs, and its spans.

A position of the output is active if any position that it reads is. Windows are separable, so rows
are joined first and columns then. A row of a mask without active positions costs one byte of
reading. Eight mask bytes are joined at a time.
"""

import numpy as np

from stillframe.reuse.kernels.abi import (
    ACTIVE_POSITIONS,
    ACTIVE_SPAN_COUNT,
    ACTIVE_SPANS,
    ANY,
    COLUMN_HIGH,
    COLUMN_LOW,
    FAR,
    FLAT,
    HEIGHT,
    LINE,
    LIVE,
    MASK,
    MASK_PIXEL,
    MASK_ROW,
    PAD,
    RISING,
    ROW_FLAGS,
    ROW_FLAGS_STEP,
    ROW_HIGH,
    ROW_LOW,
    SHARE,
    SOURCE_COLUMNS,
    SOURCE_TENSOR,
    SPAN_INTS,
    SPAN_LENGTH,
    SPAN_X,
    SPAN_Y,
    STRIDE,
    TAPS,
    WIDTH,
)
from stillframe.reuse.kernels.jit import kernel
from stillframe.reuse.kernels.pointers import (
    get_i32,
    get_i64,
    get_u8,
    get_word,
    set_i32,
    set_u8,
    set_word,
)

OFF, ON = np.uint8(0), np.uint8(1)
WORD = 8
FAR_RIGHT = 1 << 32  # beyond every column


@kernel
def live(tensors, tensor, workers):
    """Positions of the tensor that the workers left active."""
    where = tensors[tensor, LIVE]
    count = 0
    for worker in range(workers):
        count += get_i64(where, worker)
    return count


@kernel
def set_span(spans, index, y, x, length):
    at = index * SPAN_INTS
    set_i32(spans, at + SPAN_Y, y)
    set_i32(spans, at + SPAN_X, x)
    set_i32(spans, at + SPAN_LENGTH, length)


@kernel
def clear(address, count):
    for i in range(count):
        set_u8(address, i, OFF)


@kernel
def widen(line, taps, target, width):
    # target (width,) |= whether any of line[x : x + taps] is on; line may be target itself
    whole = width - width % WORD
    for x in range(0, whole, WORD):
        on = get_word(line + x)
        for tap in range(1, taps):
            on |= get_word(line + x + tap)
        if on != 0:
            set_word(target + x, get_word(target + x) | on)
    for x in range(whole, width):
        for tap in range(taps):
            set_u8(target, x, get_u8(target, x) | get_u8(line, x + tap))


@kernel
def thin(line, stride, target, width):
    # target (width,) |= line[x * stride]
    for x in range(width):
        set_u8(target, x, get_u8(target, x) | get_u8(line, x * stride))


@kernel
def reach(line, read, lows, highs, target, width):
    # target (width,) |= whether any of line[lows[x] : highs[x]] is on, of line (read,); lows and
    # highs never fall from x to x
    at = np.int64(0)  # the first position from lows[x] on that is on
    x = np.int64(0)
    while x < width:
        at = max(at, np.int64(get_i32(lows, x)))
        while at + WORD <= read and get_word(line + at) == 0:
            at += WORD
        while at < read and get_u8(line, at) == OFF:
            at += 1
        if at >= read:
            return
        while x + WORD <= width and get_i32(highs, x + WORD - 1) <= at:
            x += WORD
        while x < width and get_i32(highs, x) <= at:
            x += 1
        while x < width and get_i32(lows, x) <= at:
            set_u8(target, x, ON)
            x += 1


@kernel
def spread_flat(tensors, tensor, y, target, width):
    # target (width,) |= the same positions of a tensor in rows of another length
    read = tensors[tensor, WIDTH]
    mask_step = tensors[tensor, MASK_PIXEL]
    any_on = False
    x = np.int64(0)
    while x < width:
        row = (y * width + x) // read
        column = y * width + x - row * read
        count = min(read - column, width - x)
        if get_u8(tensors[tensor, ROW_FLAGS], row * tensors[tensor, ROW_FLAGS_STEP]) != OFF:
            any_on = True
            mask = tensors[tensor, MASK] + row * tensors[tensor, MASK_ROW]
            for i in range(count):
                on = get_u8(mask, (column + i) * mask_step)
                set_u8(target, x + i, get_u8(target, x + i) | on)
        x += count
    return any_on


@kernel
def spread_row(tensors, source, y, line, target, width):
    # target (width,) |= what row y of the output reads of this source; -> whether any of it is on
    tensor = get_i64(source, SOURCE_TENSOR)
    if get_i64(source, TAPS) == FLAT:
        return spread_flat(tensors, tensor, y, target, width)
    low = get_i32(get_i64(source, ROW_LOW), y)
    high = get_i32(get_i64(source, ROW_HIGH), y)
    flags = tensors[tensor, ROW_FLAGS]
    flags_step = tensors[tensor, ROW_FLAGS_STEP]
    taps = get_i64(source, TAPS)
    stride = get_i64(source, STRIDE)
    pad = get_i64(source, PAD)
    read = tensors[tensor, WIDTH]
    plain = taps == 1 and stride == 1 and pad == 0
    joined = target if plain else line + pad
    any_on = False
    for row in range(low, high):
        if get_u8(flags, row * flags_step) == OFF:
            continue
        if not any_on and not plain:
            span = (width - 1) * stride + taps if taps > 0 else read
            clear(line, max(span, read + pad) + 8)
        any_on = True
        mask = tensors[tensor, MASK] + row * tensors[tensor, MASK_ROW]
        step = tensors[tensor, MASK_PIXEL]
        if step == 1:
            widen(mask, 1, joined, read)
        else:
            thin(mask, step, joined, read)
    if plain or not any_on:
        return any_on
    lows = get_i64(source, COLUMN_LOW)
    highs = get_i64(source, COLUMN_HIGH)
    if taps == RISING:
        reach(line, read, lows, highs, target, width)
    elif taps == ANY:
        for x in range(width):
            on = OFF
            for column in range(get_i32(lows, x), get_i32(highs, x)):
                on |= get_u8(line, column)
            set_u8(target, x, get_u8(target, x) | on)
    elif stride == 1:
        widen(line, taps, target, width)
    else:
        widen(line, taps, line, (width - 1) * stride + 1)
        thin(line, stride, target, width)
    return any_on


@kernel
def scan_row(mask, step, width, y, spans, count):
    # appends the spans of one mask row; -> (number of spans then, positions in the new ones)
    active = 0
    x = 0
    while x < width:
        if step == 1:
            while x + WORD <= width and get_word(mask + x) == 0:
                x += WORD
        while x < width and get_u8(mask, x * step) == OFF:
            x += 1
        start = x
        while x < width and get_u8(mask, x * step) != OFF:
            x += 1
        if x > start:
            set_span(spans, count, y, start, x - start)
            count += 1
            active += x - start
    return count, active


@kernel
def mark_far(mask, far, width):
    # FAR_BIT of the active positions of a mask row (width,), as in that row of a map; it is 2 * ON
    for x in range(width):
        on = get_u8(mask, x) & ON
        set_u8(mask, x, on | (get_u8(far, x) & (on << 1)))


@kernel
def find_active(tensors, target, sources, source_count, workers, rows, work):
    """Write this worker's rows of the target's mask and list their spans.

    rows: the (first, end) output rows of this worker. work: its row of the worker table; ACTIVE_*
    are written. A tensor without a map of what is far has the FAR_BIT of anything that it reads,
    which nobody asks for.
    """
    width = tensors[target, WIDTH]
    mask = tensors[target, MASK]
    mask_row = tensors[target, MASK_ROW]
    flags = tensors[target, ROW_FLAGS]
    spans = work[ACTIVE_SPANS]
    line = work[LINE]
    count = 0
    active = 0
    for y in range(rows[0], rows[1]):
        row = mask + y * mask_row
        clear(row, width)
        any_on = False
        for index in range(source_count):
            source = sources + index * SOURCE_COLUMNS * 8
            tensor = get_i64(source, SOURCE_TENSOR)
            if live(tensors, tensor, workers) == 0:
                continue
            if spread_row(tensors, source, y, line, row, width):
                any_on = True
        if any_on:
            count, new = scan_row(row, 1, width, y, spans, count)
            active += new
            if tensors[target, FAR] != 0:
                mark_far(row, tensors[target, FAR] + y * width, width)
            set_u8(flags, y, ON if new > 0 else OFF)
        else:
            set_u8(flags, y, OFF)
    work[ACTIVE_SPAN_COUNT] = count
    work[ACTIVE_POSITIONS] = active


@kernel
def clip_spans(spans, count, skip, take, target, span_count):
    # appends positions [skip, skip + take) of a span list to target, which has span_count;
    # -> (span_count then, positions still to take)
    for index in range(count):
        if take <= 0:
            break
        at = index * SPAN_INTS
        length = np.int64(get_i32(spans, at + SPAN_LENGTH))
        if skip >= length:
            skip -= length
            continue
        start = skip
        size = min(length - start, take)
        x = np.int64(get_i32(spans, at + SPAN_X)) + start
        set_span(target, span_count, np.int64(get_i32(spans, at + SPAN_Y)), x, size)
        span_count += 1
        take -= size
        skip = 0
    return span_count, take


@kernel
def take_share(work, workers, worker):
    """Cut this worker's equal share out of the spans of all workers; -> (spans, all positions)."""
    total = 0
    for other in range(workers):
        total += work[other, ACTIVE_POSITIONS]
    begin = total * worker // workers
    take = total * (worker + 1) // workers - begin
    span_count = 0
    for other in range(workers):
        active = work[other, ACTIVE_POSITIONS]
        if take > 0 and begin < active:
            span_count, take = clip_spans(
                work[other, ACTIVE_SPANS],
                work[other, ACTIVE_SPAN_COUNT],
                begin,
                take,
                work[worker, SHARE],
                span_count,
            )
        begin = max(begin - active, 0)
    return span_count, total


@kernel
def share_all(tensors, target, work, workers, worker):
    """This worker's equal share of every position of the target; -> (spans, all positions)."""
    width = tensors[target, WIDTH]
    total = tensors[target, HEIGHT] * width
    at = total * worker // workers
    end = total * (worker + 1) // workers
    span_count = 0
    while at < end:
        y = at // width
        x = at - y * width
        length = min(width - x, end - at)
        set_span(work[worker, SHARE], span_count, y, x, length)
        span_count += 1
        at += length
    return span_count, total


@kernel
def share_all_tiles(tensors, target, work, workers, worker, side):
    """As `share_all` where squares of `side` positions are computed together: whole tiles."""
    height, width = tensors[target, HEIGHT], tensors[target, WIDTH]
    across = (width + side - 1) // side
    total = (height + side - 1) // side * across
    at = total * worker // workers
    end = total * (worker + 1) // workers
    span_count = 0
    while at < end:
        tile_y = at // across
        tile_x = at - tile_y * across
        count = min(across - tile_x, end - at)
        x = tile_x * side
        length = min(width - x, count * side)
        for y in range(tile_y * side, min(tile_y * side + side, height)):
            set_span(work[worker, SHARE], span_count, y, x, length)
            span_count += 1
        at += count
    return span_count, height * width


@kernel
def column_of(tile_y, side, left, right, at, count):
    # the boundary after `at` of `count` positions, as if they were spread evenly from left to right
    first, end = left // side, (right + side - 1) // side
    return tile_y * FAR_RIGHT + (first + at * (end - first) // count) * side


@kernel
def tile_boundary(work, workers, side, at):
    """Where a share of `at` listed positions ends, about: its row of tiles times FAR_RIGHT plus a
    column at which a tile begins."""
    before = np.int64(0)  # positions in the rows of tiles above
    count = np.int64(0)  # and in this one
    tile_y, left, right = np.int64(-1), np.int64(0), np.int64(0)
    for other in range(workers):
        spans = work[other, ACTIVE_SPANS]
        for index in range(work[other, ACTIVE_SPAN_COUNT]):
            y = np.int64(get_i32(spans, index * SPAN_INTS + SPAN_Y))
            x = np.int64(get_i32(spans, index * SPAN_INTS + SPAN_X))
            length = np.int64(get_i32(spans, index * SPAN_INTS + SPAN_LENGTH))
            if y // side != tile_y:
                if before + count > at:
                    return column_of(tile_y, side, left, right, at - before, count)
                before += count
                count = np.int64(0)
                tile_y, left, right = y // side, x, x + length
            count += length
            left, right = min(left, x), max(right, x + length)
    if before + count <= at:
        return (tile_y + 1) * FAR_RIGHT
    return column_of(tile_y, side, left, right, at - before, count)


@kernel
def take_tiles(work, workers, worker, side):
    """As `take_share` where squares of `side` positions are computed together: whole tiles."""
    total = 0
    for other in range(workers):
        total += work[other, ACTIVE_POSITIONS]
    begin = tile_boundary(work, workers, side, total * worker // workers)
    end = tile_boundary(work, workers, side, total * (worker + 1) // workers)
    span_count = 0
    for other in range(workers):
        spans = work[other, ACTIVE_SPANS]
        for index in range(work[other, ACTIVE_SPAN_COUNT]):
            y = np.int64(get_i32(spans, index * SPAN_INTS + SPAN_Y))
            x = np.int64(get_i32(spans, index * SPAN_INTS + SPAN_X))
            line = y // side * FAR_RIGHT
            stop = min(x + get_i32(spans, index * SPAN_INTS + SPAN_LENGTH), end - line)
            x = max(x, begin - line)
            if x < stop:
                set_span(work[worker, SHARE], span_count, y, x, stop - x)
                span_count += 1
    return span_count, total
