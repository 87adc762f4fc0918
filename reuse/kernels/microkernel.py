"""The convolution micro-kernels, emitted as LLVM vector IR.

A tile of M positions by V channel vectors is held in registers while a loop runs over the taps and
input channels: one broadcast of an input value feeds V fused multiply-adds, one load of a weight
vector feeds M of them. Positions are given as M pointers (the indirect convolution algorithm,
Dukhan 2019), so that neighbours in memory and scattered ones cost the same, and every output is
summed in the same order whichever tile it falls into.

The vector width is the processor's. `emit_*` build plain IR, so that the tests can compile the same
kernels for other processors.
"""

from collections.abc import Callable, Container
from typing import Any

from llvmlite import ir

from stillframe.reuse.kernels import processor
from stillframe.reuse.kernels.jit import intrinsic, types

F32 = ir.FloatType()
I64 = ir.IntType(64)
BYTE = ir.IntType(8)


def vector_lanes(features: Container[str]) -> int:
    """float32 lanes of the widest vector that these processor features offer."""
    if "avx512f" in features:
        return 16
    return 8 if "avx" in features else 4


LANES = vector_lanes(processor.features())


def pointer(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.inttoptr(address, kind.as_pointer())


def load_vector(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    value = builder.load(pointer(builder, address, kind))
    value.align = 4
    return value


def store_vector(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    builder.store(value, pointer(builder, address, value.type)).align = 4


def splat(builder: ir.IRBuilder, scalar: ir.Value, lanes: int) -> ir.Value:
    kind = ir.VectorType(scalar.type, lanes)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def multiply_add(
    builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value, lanes: int
) -> ir.Value:
    """a * b + c, fused where the processor can."""
    kind = a.type
    name = f"llvm.fmuladd.v{lanes}f32"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(kind, [kind, kind, kind]), name
    )
    return builder.call(function, [a, b, c])


class Loop:
    """for index in range(0, count): with values carried from turn to turn in registers."""

    def __init__(self, builder: ir.IRBuilder, count: ir.Value, carried: list[ir.Value]) -> None:
        self._builder = builder
        self._count = count
        before = builder.block
        function = builder.function
        self._head = function.append_basic_block("head")
        self._body = function.append_basic_block("body")
        self._after = function.append_basic_block("after")
        builder.branch(self._head)
        builder.position_at_end(self._head)
        self.index = builder.phi(I64)
        self.index.add_incoming(I64(0), before)
        self.carried = [builder.phi(value.type) for value in carried]
        for phi, value in zip(self.carried, carried, strict=True):
            phi.add_incoming(value, before)
        more = builder.icmp_signed("<", self.index, count)
        builder.cbranch(more, self._body, self._after)
        builder.position_at_end(self._body)

    def end(self, carried: list[ir.Value]) -> list[ir.Value]:
        builder = self._builder
        self.index.add_incoming(builder.add(self.index, I64(1)), builder.block)
        for phi, value in zip(self.carried, carried, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(self._head)
        builder.position_at_end(self._after)
        return list(self.carried)


def clamp(builder: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """low where value < low, high where it is above high, else value; so NaN stays NaN."""
    raised = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", raised, high), high, raised)


def load_origins(builder: ir.IRBuilder, addresses: ir.Value, positions: int) -> list[ir.Value]:
    """`positions` int64 addresses."""
    return [
        builder.load(pointer(builder, builder.add(addresses, I64(8 * m)), I64))
        for m in range(positions)
    ]


def emit_store(
    builder: ir.IRBuilder,
    shape: tuple[int, int, int],
    totals: list[ir.Value],
    args: list[ir.Value],
) -> None:
    """Store a tile's totals [position][vector]: times `slope` where below 0, then clamped between
    low and high.

    args: stores, the address of an int64 address a position; shift, bytes to add to each; slope,
    low and high, float32.
    """
    positions, vectors, lanes = shape
    stores, shift, slope, low, high = args
    slopes, *bounds = [splat(builder, number, lanes) for number in (slope, low, high)]
    zero = ir.Constant(slopes.type, [0.0] * lanes)
    rows = load_origins(builder, stores, positions)
    for m in range(positions):
        row = builder.add(rows[m], shift)
        for v in range(vectors):
            total = totals[m * vectors + v]
            below = builder.fcmp_ordered("<", total, zero)
            bent = builder.select(below, builder.fmul(total, slopes), total)
            clamped = clamp(builder, bent, *bounds)
            store_vector(builder, clamped, builder.add(row, I64(4 * lanes * v)))


def emit_conv_tile(
    builder: ir.IRBuilder, shape: tuple[int, int, int], args: list[ir.Value]
) -> list[ir.Value]:
    """One tile of a convolution; -> totals[position][vector].

    total = bias + sum over runs and their floats of input * weight, in that order.

    shape: (positions, vectors, lanes). args, all int64:
        inputs: address of `positions` int64 addresses, one window origin each
        runs: address of int64 byte offsets, one a run of consecutive input floats
        run_count, run_length: how many runs, and floats in each
        weights: address of float32 [run][float of the run][vectors * lanes]
        bias: address of float32 [vectors * lanes]
    """
    positions, vectors, lanes = shape
    inputs, runs, run_count, run_length, weights, bias = args
    kind = ir.VectorType(F32, lanes)
    origins = load_origins(builder, inputs, positions)
    first = [
        load_vector(builder, builder.add(bias, I64(4 * lanes * v)), kind) for v in range(vectors)
    ]
    start = [first[v] for _ in range(positions) for v in range(vectors)]
    outer = Loop(builder, run_count, [weights, *start])
    run_offset = builder.load(
        pointer(builder, builder.add(runs, builder.mul(outer.index, I64(8))), I64)
    )
    rows = [builder.add(origin, run_offset) for origin in origins]
    inner = Loop(builder, run_length, list(outer.carried))
    panel, *sums = inner.carried
    columns = [
        load_vector(builder, builder.add(panel, I64(4 * lanes * v)), kind) for v in range(vectors)
    ]
    step = builder.mul(inner.index, I64(4))
    for m in range(positions):
        scalar = builder.load(pointer(builder, builder.add(rows[m], step), F32))
        value = splat(builder, scalar, lanes)
        for v in range(vectors):
            at = m * vectors + v
            sums[at] = multiply_add(builder, value, columns[v], sums[at], lanes)
    carried = inner.end([builder.add(panel, I64(vectors * lanes * 4)), *sums])
    _, *totals = outer.end(carried)
    return totals


def emit_depthwise_tile(
    builder: ir.IRBuilder, shape: tuple[int, int, int], args: list[ir.Value]
) -> list[ir.Value]:
    """One tile of a depthwise convolution; -> totals[position][vector].

    shape: (positions, vectors, lanes). args, all int64:
        inputs: address of `positions` int64 addresses, one window origin each
        taps: address of int64 byte offsets; tap_count
        channel: byte offset of the first channel
        weights: address of float32 [tap][channels], at this tile's first channel
        weight_step: bytes from one tap's weights to the next
        bias: address, at this tile's first channel
    """
    positions, vectors, lanes = shape
    inputs, taps, tap_count, channel, weights, weight_step, bias = args
    kind = ir.VectorType(F32, lanes)
    origins = [builder.add(origin, channel) for origin in load_origins(builder, inputs, positions)]
    first = [
        load_vector(builder, builder.add(bias, I64(4 * lanes * v)), kind) for v in range(vectors)
    ]
    loop = Loop(builder, tap_count, [first[v] for _ in range(positions) for v in range(vectors)])
    sums = list(loop.carried)
    tap = builder.load(pointer(builder, builder.add(taps, builder.mul(loop.index, I64(8))), I64))
    row = builder.add(weights, builder.mul(loop.index, weight_step))
    for v in range(vectors):
        column = load_vector(builder, builder.add(row, I64(4 * lanes * v)), kind)
        for m in range(positions):
            at = m * vectors + v
            address = builder.add(builder.add(origins[m], tap), I64(4 * lanes * v))
            value = load_vector(builder, address, kind)
            sums[at] = multiply_add(builder, value, column, sums[at], lanes)
    return loop.end(sums)


def emit_pool_tile(builder: ir.IRBuilder, lanes: int, average: bool, args: list[ir.Value]) -> None:
    """LANES channels of one pooled position: the largest value of its window, or the sum.

    args, all int64: address of the window's first value; rows, and bytes between them; columns, and
    bytes between them; where the result goes. NaN is the largest unless a number follows it.
    """
    first, rows, down, columns, across, out = args
    kind = ir.VectorType(F32, lanes)
    start = ir.Constant(kind, [0.0 if average else float("-inf")] * lanes)
    outer = Loop(builder, rows, [first, start])
    line, best = outer.carried
    inner = Loop(builder, columns, [line, best])
    point, best = inner.carried
    value = load_vector(builder, point, kind)
    if average:
        best = builder.fadd(best, value)
    else:
        best = builder.select(builder.fcmp_ordered(">", best, value), best, value)
    _, best = inner.end([builder.add(point, across), best])
    _, best = outer.end([builder.add(line, down), best])
    store_vector(builder, best, out)


@intrinsic(prefer_literal=True)
def pool_tile(typingctx, average, first, rows, down, columns, across, out):
    """`emit_pool_tile` for a literal `average`."""
    if not isinstance(average, types.BooleanLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_pool_tile(builder, LANES, average.literal_value, list(args[1:]))
        return context.get_dummy_value()

    return types.void(average, *[types.int64] * 6), codegen


Emit = Callable[[ir.IRBuilder, tuple[int, int, int], list[ir.Value]], list[ir.Value]]


def tile_intrinsic(emit: Emit, count: int, positions: Any, vectors: Any) -> Any:
    """Signature and code of a tile for literal sizes: `count` int64 arguments of `emit`, then those
    of `emit_store`."""
    if not isinstance(positions, types.IntegerLiteral):
        return None
    if not isinstance(vectors, types.IntegerLiteral):
        return None
    integers = [types.int64] * (count + 2)
    signature = types.void(positions, vectors, *integers, *[types.float32] * 3)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        shape = (positions.literal_value, vectors.literal_value, LANES)
        totals = emit(builder, shape, list(args[2 : 2 + count]))
        emit_store(builder, shape, totals, list(args[2 + count :]))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def conv_tile(
    typingctx, positions, vectors, inputs, runs, run_count, run_length, weights, bias,
    stores, shift, slope, low, high,
):  # fmt: skip
    """`emit_conv_tile` and `emit_store` for literal `positions` and `vectors`."""
    return tile_intrinsic(emit_conv_tile, 6, positions, vectors)


@intrinsic(prefer_literal=True)
def depthwise_tile(
    typingctx, positions, vectors, inputs, taps, tap_count, channel, weights, weight_step, bias,
    stores, shift, slope, low, high,
):  # fmt: skip
    """`emit_depthwise_tile` and `emit_store` for literal `positions` and `vectors`."""
    return tile_intrinsic(emit_depthwise_tile, 7, positions, vectors)
