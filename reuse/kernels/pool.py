"""Pooling over listed spans. Windows are clipped to the picture, so padding is never read."""

import numpy as np

from stillframe.reuse.kernels.invoke import span_at, tables
from stillframe.reuse.kernels.jit import OPERATOR, kernel, native
from stillframe.reuse.kernels.memory import get_f32, set_f32
from stillframe.reuse.kernels.table import (
    CHANNELS,
    DATA,
    HEIGHT,
    INPUT,
    PAD_LEFT,
    PAD_TOP,
    PARAMETER,
    PIXEL,
    ROW,
    STRIDE_X,
    STRIDE_Y,
    TARGET,
    WIDTH,
)

# parameters: kernel height and width, dilation, and the padded size that an average counts
KERNEL_Y, KERNEL_X, DILATION_Y, DILATION_X = PARAMETER, PARAMETER + 1, PARAMETER + 2, PARAMETER + 3
COUNTED_HEIGHT, COUNTED_WIDTH = PARAMETER + 4, PARAMETER + 5


@kernel
def first_tap(start, dilation):
    return 0 if start >= 0 else (-start + dilation - 1) // dilation


@kernel
def end_tap(start, taps, dilation, size):
    return min(taps, max(0, (size - 1 - start) // dilation + 1)) if start < size else 0


@kernel
def counted(start, taps, dilation, size, pad_before, extent):
    # taps that lie within the picture, or within the padded picture of `extent`
    if extent > 0:
        start, size = start + pad_before, extent
    return end_tap(start, taps, dilation, size) - first_tap(start, dilation)


@kernel
def pool(average, ins, tensors, spans, span_count):
    """x (H, W, C) -> largest or mean value of each window; -> positions written."""
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[target, CHANNELS]
    height, width = tensors[read, HEIGHT], tensors[read, WIDTH]
    data, row, pixel = tensors[read, DATA], tensors[read, ROW], tensors[read, PIXEL]
    written = 0
    for index in range(span_count):
        y, start_x, length = span_at(spans, index)
        top = y * ins[STRIDE_Y] - ins[PAD_TOP]
        low_y = first_tap(top, ins[DILATION_Y])
        high_y = end_tap(top, ins[KERNEL_Y], ins[DILATION_Y], height)
        for x in range(start_x, start_x + length):
            left = x * ins[STRIDE_X] - ins[PAD_LEFT]
            low_x = first_tap(left, ins[DILATION_X])
            high_x = end_tap(left, ins[KERNEL_X], ins[DILATION_X], width)
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            fresh = True
            for tap_y in range(low_y, high_y):
                line = data + (top + tap_y * ins[DILATION_Y]) * row
                for tap_x in range(low_x, high_x):
                    point = line + (left + tap_x * ins[DILATION_X]) * pixel
                    if fresh:
                        for c in range(channels):
                            set_f32(out, c, get_f32(point, c))
                    elif average:
                        for c in range(channels):
                            set_f32(out, c, get_f32(out, c) + get_f32(point, c))
                    else:
                        for c in range(channels):
                            a, b = get_f32(out, c), get_f32(point, c)
                            set_f32(out, c, a if a > b else b)  # NaN in b is taken over
                    fresh = False
            if average:
                down = counted(
                    top,
                    ins[KERNEL_Y],
                    ins[DILATION_Y],
                    height,
                    ins[PAD_TOP],
                    ins[COUNTED_HEIGHT],
                )
                across = counted(
                    left,
                    ins[KERNEL_X],
                    ins[DILATION_X],
                    width,
                    ins[PAD_LEFT],
                    ins[COUNTED_WIDTH],
                )
                scale = np.float32(1.0) / np.float32(down * across)
                for c in range(channels):
                    set_f32(out, c, get_f32(out, c) * scale)
        written += length
    return written


@native(OPERATOR)
def max_pool(ins, floats, tensors, spans, span_count, work, cutoff):
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    return pool(False, ins, tensors, spans, span_count)


@native(OPERATOR)
def average_pool(ins, floats, tensors, spans, span_count, work, cutoff):
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    return pool(True, ins, tensors, spans, span_count)
