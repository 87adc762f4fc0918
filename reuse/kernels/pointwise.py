"""Operators whose output position reads the same position of each operand."""

import numpy as np

from stillframe.reuse.kernels.abi import (
    ACT_A,
    ACT_B,
    ACTIVATE,
    CHANNELS,
    DATA,
    INPUT,
    PARAMETER,
    PIXEL,
    ROW,
    SCALAR,
    SECOND,
    SLOPES,
    TARGET,
)
from stillframe.reuse.kernels.activation import exp
from stillframe.reuse.kernels.calls import call_activation, span_at, tables
from stillframe.reuse.kernels.jit import OPERATOR, kernel, native
from stillframe.reuse.kernels.pointers import get_f32, set_f32
from stillframe.reuse.kernels.reductions import squares, sum_of
from stillframe.reuse.kernels.store import copy

ADD, SUB, MUL, DIV, MIN, MAX, POW = range(7)
BINARY_KINDS = {"add": ADD, "sub": SUB, "mul": MUL, "div": DIV, "min": MIN, "max": MAX, "pow": POW}

# parameters of BINARY; an operand that is broadcast has strides of 0
KIND = PARAMETER
CHANNEL_STEP_A, CHANNEL_STEP_B = PARAMETER + 1, PARAMETER + 2

# parameters of NORMALIZE: addresses of float32 (C,)
SCALE, SHIFT = PARAMETER, PARAMETER + 1
CENTRED = PARAMETER + 2  # of LAYER_NORM, which has those two as well
INDEX = PARAMETER  # of CHANNEL_MAX: 1 for where the largest channel is
BINS = PARAMETER  # of SOFTMAX: channels that are taken together


@kernel
def combine(kind, a, step_a, b, step_b, out, count):
    # steps are 1 or 0 floats; each branch is one vector loop
    if kind == ADD:
        for i in range(count):
            set_f32(out, i, get_f32(a, i * step_a) + get_f32(b, i * step_b))
    elif kind == SUB:
        for i in range(count):
            set_f32(out, i, get_f32(a, i * step_a) - get_f32(b, i * step_b))
    elif kind == MUL:
        for i in range(count):
            set_f32(out, i, get_f32(a, i * step_a) * get_f32(b, i * step_b))
    elif kind == DIV:
        for i in range(count):
            set_f32(out, i, get_f32(a, i * step_a) / get_f32(b, i * step_b))
    elif kind == MIN:
        for i in range(count):
            x, y = get_f32(a, i * step_a), get_f32(b, i * step_b)
            set_f32(out, i, y if y < x else x)
    elif kind == MAX:
        for i in range(count):
            x, y = get_f32(a, i * step_a), get_f32(b, i * step_b)
            set_f32(out, i, y if y > x else x)
    else:
        for i in range(count):
            set_f32(out, i, get_f32(a, i * step_a) ** get_f32(b, i * step_b))


@kernel
def combine_steps(kind, a, step_a, b, step_b, out, count):
    # the common strides as constants, so that the compiler can vectorise
    if step_a == 1 and step_b == 1:
        combine(kind, a, 1, b, 1, out, count)
    elif step_a == 1:
        combine(kind, a, 1, b, 0, out, count)
    elif step_b == 1:
        combine(kind, a, 0, b, 1, out, count)
    else:
        combine(kind, a, 0, b, 0, out, count)


@native(OPERATOR)
def binary(ins, floats, tensors, spans, span_count, work, cutoff):
    """a ∘ b with numpy's broadcasting over (H, W, C); -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, left, right = ins[TARGET], ins[INPUT], ins[SECOND]
    channels = tensors[target, CHANNELS]
    tight = (
        tensors[left, PIXEL] == channels * 4
        and tensors[right, PIXEL] == channels * 4
        and tensors[target, PIXEL] == channels * 4
    )
    written = 0
    for index in range(span_count):
        y, x, length = span_at(spans, index)
        a = tensors[left, DATA] + y * tensors[left, ROW] + x * tensors[left, PIXEL]
        b = tensors[right, DATA] + y * tensors[right, ROW] + x * tensors[right, PIXEL]
        out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
        turns, count = (1, length * channels) if tight else (length, channels)
        for turn in range(turns):
            here = out + turn * tensors[target, PIXEL]
            combine_steps(
                ins[KIND],
                a + turn * tensors[left, PIXEL],
                ins[CHANNEL_STEP_A],
                b + turn * tensors[right, PIXEL],
                ins[CHANNEL_STEP_B],
                here,
                count,
            )
            if ins[ACTIVATE] != 0:
                call_activation(
                    ins[ACTIVATE], here, count, floats[ACT_A], floats[ACT_B], ins[SLOPES]
                )
        written += length
    return written


@native(OPERATOR)
def unary(ins, floats, tensors, spans, span_count, work, cutoff):
    """An activation by itself; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[target, CHANNELS]
    pixel_in, pixel_out = tensors[read, PIXEL], tensors[target, PIXEL]
    tight = pixel_in == channels * 4 and pixel_out == channels * 4 and ins[SLOPES] == 0
    written = 0
    for index in range(span_count):
        y, x, length = span_at(spans, index)
        source = tensors[read, DATA] + y * tensors[read, ROW] + x * pixel_in
        out = tensors[target, DATA] + y * tensors[target, ROW] + x * pixel_out
        turns, count = (1, length * channels) if tight else (length, channels)
        for turn in range(turns):
            copy(source + turn * pixel_in, out + turn * pixel_out, count)
            call_activation(
                ins[ACTIVATE],
                out + turn * pixel_out,
                count,
                floats[ACT_A],
                floats[ACT_B],
                ins[SLOPES],
            )
        written += length
    return written


@kernel
def affine(scale, shift, ins, floats, tensors, spans, span_count):
    """x (H, W, C) * scale (C,) + shift (C,), both given by address; -> positions written."""
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[target, CHANNELS]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        for x in range(start, start + length):
            source = tensors[read, DATA] + y * tensors[read, ROW] + x * tensors[read, PIXEL]
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            for c in range(channels):
                set_f32(out, c, get_f32(source, c) * get_f32(scale, c) + get_f32(shift, c))
            if ins[ACTIVATE] != 0:
                call_activation(
                    ins[ACTIVATE], out, channels, floats[ACT_A], floats[ACT_B], ins[SLOPES]
                )
        written += length
    return written


@native(OPERATOR)
def normalize(ins, floats, tensors, spans, span_count, work, cutoff):
    """AFFINE with constant scale and shift (batch normalisation that could not be folded)."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    return affine(ins[SCALE], ins[SHIFT], ins, floats, tensors, spans, span_count)


@native(OPERATOR)
def modulate(ins, floats, tensors, spans, span_count, work, cutoff):
    """AFFINE whose scale and shift are a (1, 1, 2C) tensor, as MOMENTS gives."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    scale = tensors[ins[SECOND], DATA]
    shift = scale + tensors[ins[TARGET], CHANNELS] * 4
    return affine(scale, shift, ins, floats, tensors, spans, span_count)


@native(OPERATOR)
def softmax(ins, floats, tensors, spans, span_count, work, cutoff):
    """exp(x - max) / sum over each BINS channels of a position; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read, bins = ins[TARGET], ins[INPUT], ins[BINS]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        for x in range(start, start + length):
            source = tensors[read, DATA] + y * tensors[read, ROW] + x * tensors[read, PIXEL]
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            for first in range(0, tensors[target, CHANNELS], bins):
                top = get_f32(source, first)
                for c in range(first + 1, first + bins):
                    top = max(top, get_f32(source, c))
                total = np.float32(0.0)
                for c in range(first, first + bins):
                    value = exp(get_f32(source, c) - top)
                    set_f32(out, c, value)
                    total += value
                for c in range(first, first + bins):
                    set_f32(out, c, get_f32(out, c) / total)
        written += length
    return written


@native(OPERATOR)
def channel_max(ins, floats, tensors, spans, span_count, work, cutoff):
    """The largest channel of each position, or with INDEX where it is; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        for x in range(start, start + length):
            source = tensors[read, DATA] + y * tensors[read, ROW] + x * tensors[read, PIXEL]
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            top, at = get_f32(source, 0), np.int64(0)
            for c in range(1, tensors[read, CHANNELS]):
                value = get_f32(source, c)
                if value > top:
                    top, at = value, c
            set_f32(out, 0, np.float32(at) if ins[INDEX] != 0 else top)
        written += length
    return written


@native(OPERATOR)
def layer_norm(ins, floats, tensors, spans, span_count, work, cutoff):
    """(x - mean) / deviation * scale + shift over the channels of each position; without CENTRED
    the mean is not taken off; -> positions written."""
    ins, floats, tensors, work = tables(ins, floats, tensors, work)
    target, read = ins[TARGET], ins[INPUT]
    channels = tensors[target, CHANNELS]
    written = 0
    for index in range(span_count):
        y, start, length = span_at(spans, index)
        for x in range(start, start + length):
            source = tensors[read, DATA] + y * tensors[read, ROW] + x * tensors[read, PIXEL]
            out = tensors[target, DATA] + y * tensors[target, ROW] + x * tensors[target, PIXEL]
            mean = np.float32(0.0)
            if ins[CENTRED] != 0:
                mean = sum_of(source, channels) / np.float32(channels)
            for c in range(channels):
                set_f32(out, c, get_f32(source, c) - mean)
            power = squares(out, channels) / np.float32(channels)
            factor = np.float32(1.0) / np.sqrt(power + floats[SCALAR])
            for c in range(channels):
                value = get_f32(out, c) * factor
                set_f32(out, c, value * get_f32(ins[SCALE], c) + get_f32(ins[SHIFT], c))
        written += length
    return written
