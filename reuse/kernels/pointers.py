"""Memory by address: a plan's tables hold addresses, and kernels read and write through these.

Every function is one or two LLVM instructions. An index counts elements of the named type, an
address counts bytes. Floats are compared as int32, because equality here means equal bits: NaN
equals itself and -0.0 differs from 0.0.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from stillframe.reuse.kernels.jit import intrinsic, types

F32 = ir.FloatType()
F64 = ir.DoubleType()
I8 = ir.IntType(8)
I32 = ir.IntType(32)
I64 = ir.IntType(64)


def _element(builder: ir.IRBuilder, address: ir.Value, index: ir.Value, kind: ir.Type) -> Any:
    return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])


def _loader(kind: ir.Type, result: str) -> Any:
    def load(typingctx: Any, address: Any, index: Any) -> tuple[Any, Callable[..., Any]]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.load(_element(builder, args[0], args[1], kind))

        return getattr(types, result)(types.int64, types.int64), codegen

    return load


def _storer(kind: ir.Type, stored: str) -> Any:
    def store(typingctx: Any, address: Any, index: Any, value: Any) -> tuple[Any, Any]:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.store(args[2], _element(builder, args[0], args[1], kind))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, getattr(types, stored)), codegen

    return store


get_f32 = intrinsic(_loader(F32, "float32"))
get_f64 = intrinsic(_loader(F64, "float64"))
get_u8 = intrinsic(_loader(I8, "uint8"))
get_i32 = intrinsic(_loader(I32, "int32"))
get_i64 = intrinsic(_loader(I64, "int64"))
set_f32 = intrinsic(_storer(F32, "float32"))
set_f64 = intrinsic(_storer(F64, "float64"))
set_u8 = intrinsic(_storer(I8, "uint8"))
set_i32 = intrinsic(_storer(I32, "int32"))
set_i64 = intrinsic(_storer(I64, "int64"))


@intrinsic
def get_word(typingctx, address):
    """Eight bytes from any address, aligned or not."""

    def codegen(context, builder, signature, args):
        word = builder.load(builder.inttoptr(args[0], I64.as_pointer()))
        word.align = 1
        return word

    return types.int64(types.int64), codegen


@intrinsic
def set_word(typingctx, address, word):
    """Write eight bytes to any address, aligned or not."""

    def codegen(context, builder, signature, args):
        builder.store(args[1], builder.inttoptr(args[0], I64.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def float_bits(typingctx, value):
    """The float32 with these int32 bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], F32)

    return types.float32(types.int32), codegen


@intrinsic
def atomic_add(typingctx, address, amount):
    """Add to the int64 at `address` and return what was there before."""

    def codegen(context, builder, signature, args):
        where = builder.inttoptr(args[0], I64.as_pointer())
        return builder.atomic_rmw("add", where, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at `address`, and everything that its writer wrote before it."""

    def codegen(context, builder, signature, args):
        where = builder.inttoptr(args[0], I64.as_pointer())
        return builder.load_atomic(where, "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Write the int64 at `address`, after everything written before it."""

    def codegen(context, builder, signature, args):
        where = builder.inttoptr(args[0], I64.as_pointer())
        builder.store_atomic(args[1], where, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def yield_processor(typingctx):
    """Let another thread run on this core (POSIX sched_yield)."""

    def codegen(context, builder, signature, args):
        name = "sched_yield"
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(I32, []), name
        )
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def prefetch(typingctx, address):
    """Fetch the cache line of an address that is read soon. The address need not exist."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        where = builder.inttoptr(args[0], I8.as_pointer())
        builder.call(function, [where, I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def nanoseconds(typingctx):
    """The monotonic clock (POSIX clock_gettime), in nanoseconds."""

    def codegen(context, builder, signature, args):
        name = "clock_gettime"
        span = ir.ArrayType(I64, 2)
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(I32, [I32, span.as_pointer()]), name
        )
        with builder.goto_entry_block():
            here = builder.alloca(span)
        builder.call(function, [I32(1), here])
        seconds = builder.load(builder.gep(here, [I32(0), I32(0)]))
        rest = builder.load(builder.gep(here, [I32(0), I32(1)]))
        return builder.add(builder.mul(seconds, I64(1_000_000_000)), rest)

    return types.int64(), codegen
