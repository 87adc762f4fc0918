"""Operators that move or blend values: crops, pads, concatenations, resizes, block shuffles; and
the export of a tensor from the engine's interleaved channels into the caller's array."""

import numpy as np

from stillframe.reuse.kernels.abi import (
    CHANNELS,
    DATA,
    INPUT,
    PARAMETER,
    PIXEL,
    ROW,
    SCALAR,
    TARGET,
    WIDTH,
)
from stillframe.reuse.kernels.calls import span_at, tables
from stillframe.reuse.kernels.jit import OPERATOR, native
from stillframe.reuse.kernels.pointers import get_f32, get_i32, set_f32
from stillframe.reuse.kernels.store import copy

# parameters of MOVE and LINEAR_RESIZE: tables of int32 a row and a column of the output
ROWS, COLUMNS, ROWS_HIGH, COLUMNS_HIGH = PARAMETER, PARAMETER + 1, PARAMETER + 2, PARAMETER + 3
ROW_WEIGHTS, COLUMN_WEIGHTS = PARAMETER + 4, PARAMETER + 5  # float32, the weight of the higher one

FRONT = PARAMETER + 6  # of MOVE: channels of the scalar before those of the input

# parameters of the block shuffles
BLOCK, DEPTH_FIRST = PARAMETER, PARAMETER + 1

# parameters of EXPORT: address and strides in floats of the caller's array
OUT, OUT_ROW, OUT_PIXEL, OUT_CHANNEL = PARAMETER, PARAMETER + 1, PARAMETER + 2, PARAMETER + 3


@native(OPERATOR)
def move(ins, floats, tensors, spans, span_count, work, cutoff):
    """out[y, x] = in[rows[y], columns[x]], or the scalar where an index is -1."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels, front = tensors[target, CHANNELS], ins[FRONT]
    depth = tensors[read, CHANNELS]
    rows, columns = ins[ROWS], ins[COLUMNS]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        from_y = np.int64(get_i32(rows, y))
        line = tensors[read, DATA] + from_y * tensors[read, ROW]
        for x in range(start, start + length):
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            from_x = np.int64(get_i32(columns, x))
            outside = from_y < 0 or from_x < 0
            if outside or depth != channels:
                for c in range(channels):
                    set_f32(out, c, floats[SCALAR])
            if not outside:
                copy(line + from_x * tensors[read, PIXEL], out + front * 4, depth)
        written += length
    return written


@native(OPERATOR)
def regrid(ins, floats, tensors, spans, span_count, work, cutoff):
    """The same positions, row after row, in rows of another length; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels, width = tensors[target, CHANNELS], tensors[read, WIDTH]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        for x in range(start, start + length):
            at = y * tensors[target, WIDTH] + x
            row = at // width
            source = tensors[read, DATA] + row * tensors[read, ROW]
            source += (at - row * width) * tensors[read, PIXEL]
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            copy(source, out, channels)
        written += length
    return written


@native(OPERATOR)
def linear_resize(ins, floats, tensors, spans, span_count, work, cutoff):
    """Bilinear interpolation between the listed rows and columns; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[target, CHANNELS]
    row, pixel = tensors[read, ROW], tensors[read, PIXEL]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        above = tensors[read, DATA] + np.int64(get_i32(ins[ROWS], y)) * row
        below = tensors[read, DATA] + np.int64(get_i32(ins[ROWS_HIGH], y)) * row
        down = get_f32(ins[ROW_WEIGHTS], y)
        up = np.float32(1.0) - down
        for x in range(start, start + length):
            left = np.int64(get_i32(ins[COLUMNS], x)) * pixel
            right = np.int64(get_i32(ins[COLUMNS_HIGH], x)) * pixel
            far = get_f32(ins[COLUMN_WEIGHTS], x)
            near = np.float32(1.0) - far
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            for c in range(channels):
                high = get_f32(above + left, c) * near + get_f32(above + right, c) * far
                low = get_f32(below + left, c) * near + get_f32(below + right, c) * far
                set_f32(out, c, high * up + low * down)
        written += length
    return written


@native(OPERATOR)
def depth_to_space(ins, floats, tensors, spans, span_count, work, cutoff):
    """ONNX DepthToSpace; DEPTH_FIRST is its DCR mode, otherwise CRD; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[target, CHANNELS]
    block = ins[BLOCK]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        line = tensors[read, DATA] + y // block * tensors[read, ROW]
        for x in range(start, start + length):
            phase = y % block * block + x % block
            source = line + x // block * tensors[read, PIXEL]
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            if ins[DEPTH_FIRST]:
                for c in range(channels):
                    set_f32(out, c, get_f32(source, phase * channels + c))
            else:
                for c in range(channels):
                    set_f32(out, c, get_f32(source, c * block * block + phase))
        written += length
    return written


@native(OPERATOR)
def space_to_depth(ins, floats, tensors, spans, span_count, work, cutoff):
    """ONNX SpaceToDepth: blocks of positions become channels; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[read, CHANNELS]
    block = ins[BLOCK]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        for x in range(start, start + length):
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            for phase in range(block * block):
                source = (
                    tensors[read, DATA]
                    + (y * block + phase // block) * tensors[read, ROW]
                    + (x * block + phase % block) * tensors[read, PIXEL]
                )
                if ins[DEPTH_FIRST]:
                    for c in range(channels):
                        set_f32(out, phase * channels + c, get_f32(source, c))
                else:
                    for c in range(channels):
                        set_f32(out, c * block * block + phase, get_f32(source, c))
        written += length
    return written


@native(OPERATOR)
def export(ins, floats, tensors, spans, span_count, work, cutoff):
    """Write the listed positions into the caller's array, whatever its strides."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    read = ins[INPUT]
    channels = tensors[read, CHANNELS]
    written = 0
    for index in range(span_count):
        y, x, length = span_at(spans, index)
        source = tensors[read, DATA] + y * tensors[read, ROW] + x * tensors[read, PIXEL]
        pixel = tensors[read, PIXEL] // 4
        out = ins[OUT] + (y * ins[OUT_ROW] + x * ins[OUT_PIXEL]) * 4
        if ins[OUT_CHANNEL] == 1:
            for i in range(length):
                for c in range(channels):
                    set_f32(out, i * ins[OUT_PIXEL] + c, get_f32(source, i * pixel + c))
        else:
            for c in range(channels):
                for i in range(length):
                    set_f32(
                        out,
                        c * ins[OUT_CHANNEL] + i * ins[OUT_PIXEL],
                        get_f32(source, i * pixel + c),
                    )
        written += length
    return written
