"""Sums and largest values of a run of floats, in whole vectors: always added in the same order."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from stillframe.reuse.kernels.jit import intrinsic, kernel, types
from stillframe.reuse.kernels.microkernel import F32, I64, LANES, Loop, load_vector, multiply_add
from stillframe.reuse.kernels.pointers import get_f32

Combine = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]


def larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def fold(builder: ir.IRBuilder, total: ir.Value, combine: Combine) -> ir.Value:
    """The lanes of a vector combined: the upper half with the lower one, until one is left."""
    size = LANES
    while size > 1:
        size //= 2
        halves = [
            builder.shuffle_vector(
                total,
                ir.Constant(total.type, ir.Undefined),
                ir.Constant(ir.VectorType(ir.IntType(32), size), list(range(start, start + size))),
            )
            for start in (0, size)
        ]
        total = combine(builder, *halves)
    return builder.extract_element(total, ir.IntType(32)(0))


def _add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.fadd(a, b)


def _reduced(first: float, combine: Combine, square: bool) -> Any:
    signature = types.float32(types.int64, types.int64)

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        values, blocks = args
        kind = ir.VectorType(F32, LANES)
        loop = Loop(builder, blocks, [ir.Constant(kind, [first] * LANES)])
        at = builder.add(values, builder.mul(loop.index, I64(4 * LANES)))
        value = load_vector(builder, at, kind)
        if square:
            result = multiply_add(builder, value, value, loop.carried[0], LANES)
        else:
            result = combine(builder, loop.carried[0], value)
        (total,) = loop.end([result])
        return fold(builder, total, combine)

    return signature, codegen


@intrinsic
def vector_sum(typingctx, values, blocks):
    """Of `blocks` whole vectors of float32."""
    return _reduced(0.0, _add, False)


@intrinsic
def vector_squares(typingctx, values, blocks):
    """Sum of squares of `blocks` whole vectors."""
    return _reduced(0.0, _add, True)


@intrinsic
def vector_max(typingctx, values, blocks):
    """The largest of `blocks` whole vectors; -inf of none."""
    return _reduced(float("-inf"), larger, False)


@kernel
def sum_of(values, count):
    blocks = count // LANES
    total = vector_sum(values, blocks)
    for i in range(blocks * LANES, count):
        total += get_f32(values, i)
    return total


@kernel
def squares(values, count):
    blocks = count // LANES
    total = vector_squares(values, blocks)
    for i in range(blocks * LANES, count):
        total += get_f32(values, i) * get_f32(values, i)
    return total


@kernel
def largest(values, count):
    blocks = count // LANES
    top = vector_max(values, blocks)
    for i in range(blocks * LANES, count):
        top = max(top, get_f32(values, i))
    return top
