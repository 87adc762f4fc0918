"""Calling a native kernel by its address, and viewing the tables as arrays inside one."""

from typing import Any

import numpy as np
from llvmlite import ir

from stillframe.reuse.kernels.abi import (
    FLOAT_COLUMNS,
    INSTRUCTION_COLUMNS,
    TENSOR_COLUMNS,
    WORKER_COLUMNS,
)
from stillframe.reuse.kernels.jit import carray, intrinsic, kernel, types

F32 = ir.FloatType()
I64 = ir.IntType(64)
MANY = 1 << 30  # rows of a table as kernels see it: they use only indices that exist


def _caller(result: ir.Type, parameters: list[ir.Type], signature: Any) -> Any:
    """An intrinsic's body: call the address in the first argument with the others."""

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        kind = ir.FunctionType(result, parameters).as_pointer()
        returned = builder.call(builder.inttoptr(args[0], kind), list(args[1:]))
        return context.get_dummy_value() if isinstance(result, ir.VoidType) else returned

    return signature, codegen


@intrinsic
def call_operator(typingctx, address, ins, floats, tensors, spans, count, work, cutoff):
    """jit.OPERATOR, every table by its address."""
    return _caller(I64, [I64] * 7, types.int64(*[types.int64] * 8))


@intrinsic
def call_prepare(typingctx, address, ins, tensors, first, end, everything):
    """jit.PREPARE, every table by its address."""
    return _caller(I64, [I64] * 5, types.int64(*[types.int64] * 6))


@intrinsic
def call_multiply(typingctx, address, ins, origins, stores, count, slope, low, high):
    """jit.MULTIPLY, every table by its address."""
    signature = types.void(*[types.int64] * 5, *[types.float32] * 3)
    return _caller(ir.VoidType(), [*[I64] * 4, *[F32] * 3], signature)


@intrinsic
def call_activation(typingctx, address, values, count, a, b, slopes):
    """jit.ACTIVATION, the values by their address."""
    signature = types.void(
        types.int64, types.int64, types.int64, types.float32, types.float32, types.int64
    )
    return _caller(ir.VoidType(), [I64, I64, F32, F32, I64], signature)


@intrinsic
def address_of(typingctx, pointer):
    """A typed pointer as an address."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(args[0], I64)

    return types.int64(pointer), codegen


@kernel
def tables(ins, floats, tensors, work):
    """The pointers of an OPERATOR as arrays: (instruction, its floats, all tensors, worker)."""
    return (
        carray(ins, (INSTRUCTION_COLUMNS,)),
        carray(floats, (FLOAT_COLUMNS,)),
        carray(tensors, (MANY, TENSOR_COLUMNS)),
        carray(work, (WORKER_COLUMNS,)),
    )


@kernel
def span_at(spans, index):
    """(y, x, length) of a span."""
    triple = carray(_as_int32(spans), (MANY, 3))
    return np.int64(triple[index, 0]), np.int64(triple[index, 1]), np.int64(triple[index, 2])


@intrinsic
def _as_int32(typingctx, address):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.IntType(32).as_pointer())

    return types.CPointer(types.int32)(types.int64), codegen
