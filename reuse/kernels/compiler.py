"""The only file that loads numba: every compiler setting is here.

    machine_code(function, signature) -> (symbol, object file)

The symbol is a plain C function around what numba made of the kernel. Kernels raise nothing, so its
status is not asked for, and the code needs nothing of numba when it is loaded again. It is named
like the kernel's file, and is the only name that an object file defines for others: numba's names
count what a process compiled, so files of two processes would define the same ones.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numba
from llvmlite import ir
from numba.core import compiler, registry, sigutils, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic as make_intrinsic
from numba.np.arrayobj import make_array, populate_array

from stillframe.reuse.kernels import code_store, processor

OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
CALLEE_OPTIONS: dict[str, Any] = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Making a function callable from elsewhere would take a fifth of its time."""
I64 = ir.IntType(64)


def dispatcher(function: Callable[..., Any]) -> Any:
    """numba's object for a function that is called from Python."""
    return numba.njit(nogil=True, **OPTIONS)(function)


def callee(function: Callable[..., Any]) -> Any:
    """numba's object for a function that kernels call."""
    return numba.njit(**CALLEE_OPTIONS)(function)


def intrinsic(emit: Callable[..., Any], prefer_literal: bool) -> Any:
    """numba's object for a function that emits instructions."""
    return make_intrinsic(prefer_literal=prefer_literal)(emit)


def type_of(value: Any) -> Any:
    """The type by which kernels call one of numba's objects."""
    context = registry.cpu_target.typing_context
    context.refresh()
    return context.resolve_value_type(value)


def machine_code(function: Callable[..., Any], signature: str) -> tuple[str, bytes]:
    """Compile a kernel for `processor.target`; -> (name of its C function, an object file that has
    it)."""
    file = code_store.name(function, signature, processor.target())
    symbol = f"stillframe.{file.removesuffix(code_store.SUFFIX)}"
    with global_compiler_lock:
        parameters, result = sigutils.normalize_signature(signature)
        return symbol, _object_file(function, parameters, result, symbol)


def _object_file(
    function: Callable[..., Any], parameters: tuple[Any, ...], result: Any, symbol: str
) -> bytes:
    target = registry.cpu_target
    compiled = compiler.compile_extra(
        target.typing_context, target.target_context, function, parameters, result, _flags(), {}
    )
    library = compiled.library
    module = library.create_ir_module(symbol)
    _emit_wrapper(module, symbol, compiled, result, parameters)
    library.add_ir_module(module)
    optimize = library._optimize_final_module

    def optimize_for_one_symbol() -> None:
        for each in library._final_module.functions:
            if not each.is_declaration and each.name != symbol:
                each.linkage = "internal"
        optimize()

    library._optimize_final_module = optimize_for_one_symbol
    library.finalize()
    _, _, (content, _) = library.serialize_using_object_code()
    return bytes(content)


def _flags() -> Any:
    flags: Any = compiler.Flags()
    flags.nrt = True
    flags.error_model = OPTIONS["error_model"]
    flags.boundscheck = OPTIONS["boundscheck"]
    flags.no_cpython_wrapper = True
    flags.no_cfunc_wrapper = True
    flags.no_compile = True  # the C function is added first
    return flags


def _emit_wrapper(module: Any, symbol: str, compiled: Any, result: Any, parameters: Any) -> None:
    """A C function of that name: an array is an address and a shape, in int64."""
    context = compiled.target_context
    inner = context.declare_function(module, compiled.fndesc)
    kinds = [kind for each in parameters for kind in _c_types(context, each)]
    returned = ir.VoidType() if result == types.void else context.get_data_type(result)
    function = ir.Function(module, ir.FunctionType(returned, kinds), symbol)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    arguments = iter(function.args)
    values = [_argument(context, builder, each, arguments) for each in parameters]
    _, value = context.call_conv.call_function(builder, inner, result, parameters, values)
    if result == types.void:
        builder.ret_void()
    else:
        builder.ret(context.get_value_as_data(builder, result, value))


def _c_types(context: Any, kind: Any) -> list[Any]:
    if isinstance(kind, types.Array):
        return [I64] * (1 + kind.ndim)
    if kind == types.boolean:
        return [ir.IntType(8)]
    return [context.get_value_type(kind)]


def _argument(context: Any, builder: Any, kind: Any, arguments: Iterator[Any]) -> Any:
    first = next(arguments)
    if kind == types.boolean:
        return builder.icmp_unsigned("!=", first, first.type(0))
    if not isinstance(kind, types.Array):
        return first
    shape = [next(arguments) for _ in range(kind.ndim)]
    size = I64(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [size]
    for side in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], side))
    array = make_array(kind)(context, builder)
    populate_array(
        array,
        data=builder.inttoptr(first, context.get_data_type(kind.dtype).as_pointer()),
        shape=shape,
        strides=strides,
        itemsize=size,
        meminfo=None,
    )
    return array._getvalue()
