"""Taking a feed or an island's output into a region: what differs is stored and marked."""

import numpy as np

from stillframe.reuse.kernels.abi import (
    CHANNELS,
    DATA,
    HEIGHT,
    LIVE,
    MASK,
    MASK_ROW,
    PIXEL,
    ROW,
    ROW_FLAGS,
    WIDTH,
)
from stillframe.reuse.kernels.jit import entry, kernel
from stillframe.reuse.kernels.pointers import (
    get_f32,
    get_i32,
    get_u8,
    set_f32,
    set_i32,
    set_i64,
    set_u8,
)
from stillframe.reuse.kernels.store import TOGETHER

OFF, ON = np.uint8(0), np.uint8(1)

# what is known of a feed before it is read
COMPARE = 0  # nothing: compare it with what is stored
LISTED = 1  # a map of what may have changed
EVERYTHING = 2  # all of it is new


@kernel
def row_differs(feed, step, channel_step, stored, pixel, width, channels):
    # whether any bit of a row of the feed differs from what is stored
    if channel_step == 1 and step == channels and pixel == channels * 4:
        difference = np.int32(0)
        for i in range(width * channels):
            difference |= get_i32(feed, i) ^ get_i32(stored, i)
        return difference != 0
    for c in range(channels):
        difference = np.int32(0)
        plane = feed + c * channel_step * 4
        for x in range(width):
            difference |= get_i32(plane, x * step) ^ get_i32(stored, x * (pixel // 4) + c)
        if difference != 0:
            return True
    return False


@kernel
def take_position(feed, channel_step, stored, channels):
    # store one position; -> whether any bit changed
    difference = np.int32(0)
    for c in range(channels):
        value = get_i32(feed, c * channel_step)
        difference |= value ^ get_i32(stored, c)
        set_i32(stored, c, value)
    return difference != 0


@kernel
def take_row(feed, step, channel_step, stored, pixel, width, channels):
    # store a row of the feed
    if channels == 3 and pixel == 12:  # a picture: the compiler interleaves whole vectors
        second, third = feed + channel_step * 4, feed + channel_step * 8
        for x in range(width):
            a, b, c = get_i32(feed, x * step), get_i32(second, x * step), get_i32(third, x * step)
            set_i32(stored, x * 3, a)
            set_i32(stored, x * 3 + 1, b)
            set_i32(stored, x * 3 + 2, c)
        return
    for c in range(channels):
        plane = feed + c * channel_step * 4
        for x in range(width):
            set_i32(stored, x * (pixel // 4) + c, get_i32(plane, x * step))


@entry("int64(int64, int64, int64[::1], int64, int64[:,::1], int64, int64)")
def take_in(known, feed, strides, changed, tensors, target, workers):
    """Store a feed into its tensor and write the tensor's mask; -> positions marked.

    feed: address of float32; strides: (row, position, channel) in floats.
    known: COMPARE finds the changes itself. LISTED reads only where `changed`, the address of a
    (H, W) byte map, is not 0, and marks all of that. EVERYTHING stores all and writes no mask.
    """
    height, width = tensors[target, HEIGHT], tensors[target, WIDTH]
    channels, pixel = tensors[target, CHANNELS], tensors[target, PIXEL]
    total = 0
    for y in range(height):
        line = feed + y * strides[0] * 4
        stored = tensors[target, DATA] + y * tensors[target, ROW]
        mask = tensors[target, MASK] + y * tensors[target, MASK_ROW]
        if known == EVERYTHING:
            take_row(line, strides[1], strides[2], stored, pixel, width, channels)
            continue
        count = 0
        for x in range(width):
            set_u8(mask, x, OFF)
        if known == LISTED:
            row = changed + y * width
            for x in range(width):
                if get_u8(row, x) != OFF:
                    take_position(
                        line + x * strides[1] * 4, strides[2], stored + x * pixel, channels
                    )
                    set_u8(mask, x, ON)
                    count += 1
        elif row_differs(line, strides[1], strides[2], stored, pixel, width, channels):
            for x in range(width):
                if take_position(
                    line + x * strides[1] * 4, strides[2], stored + x * pixel, channels
                ):
                    set_u8(mask, x, ON)
                    count += 1
        set_u8(tensors[target, ROW_FLAGS], y, ON if count > 0 else OFF)
        total += count
    for worker in range(workers):
        set_i64(tensors[target, LIVE], worker, 0)
    set_i64(tensors[target, LIVE], 0, total)
    return total


@kernel
def measure_row(feed, step, channel_step, stored, pixel, width, channels, gaps):
    # squared distance of each position of a row, that of position x at gaps[x + 1]
    for x in range(width + 2):
        set_f32(gaps, x, np.float32(0.0))
    for c in range(channels):
        plane = feed + c * channel_step * 4
        for x in range(width):
            gap = get_f32(plane, x * step) - get_f32(stored, x * (pixel // 4) + c)
            set_f32(gaps, x + 1, get_f32(gaps, x + 1) + gap * gap)


@entry("int64(int64, int64[::1], int64[:,::1], int64, int64, float64, int64)")
def take_in_near(feed, strides, tensors, target, workers, threshold, gaps):
    """As `take_in` of an island's output with a tolerance; -> positions marked.

    A position is stored and marked where its squared distance counts as changed, by the rule of
    `store.store_with_hysteresis`; elsewhere the stored value stays. gaps: address of float32
    (width + 2,), scratch.
    """
    height, width = tensors[target, HEIGHT], tensors[target, WIDTH]
    channels, pixel = tensors[target, CHANNELS], tensors[target, PIXEL]
    threshold = np.float32(threshold)
    least = threshold * TOGETHER
    total = 0
    for y in range(height):
        line = feed + y * strides[0] * 4
        stored = tensors[target, DATA] + y * tensors[target, ROW]
        mask = tensors[target, MASK] + y * tensors[target, MASK_ROW]
        measure_row(line, strides[1], strides[2], stored, pixel, width, channels, gaps)
        count = 0
        for x in range(width):
            gap = get_f32(gaps, x + 1)
            together = get_f32(gaps, x) > least and get_f32(gaps, x + 2) > least
            if gap <= threshold and not (gap > least and together):  # so NaN counts as changed
                set_u8(mask, x, OFF)
                continue
            take_position(line + x * strides[1] * 4, strides[2], stored + x * pixel, channels)
            set_u8(mask, x, ON)
            count += 1
        set_u8(tensors[target, ROW_FLAGS], y, ON if count > 0 else OFF)
        total += count
    for worker in range(workers):
        set_i64(tensors[target, LIVE], worker, 0)
    set_i64(tensors[target, LIVE], 0, total)
    return total
