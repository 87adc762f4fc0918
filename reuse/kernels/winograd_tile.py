"""The micro-kernels of Winograd convolution, emitted as LLVM vector IR.

A tile of m × m outputs of a 3 × 3 convolution is m² sums; through a transform it takes (m + 2)²
products for each pair of channels instead of 9 m² (Lavin and Gray, CVPR 2016, after Winograd and
Toom-Cook): F(2×2, 3×3) 16 instead of 36, F(4×4, 3×3) 36 instead of 144. Inputs are transformed by
additions and a few multiplications with constants, multiplied with transformed weights, summed over
input channels, and transformed back.

Transforms of one axis come first in rows and then in columns. Terms whose factor is 0 are left out,
never multiplied, so a NaN reaches only the outputs that `reuse.ir.winograd` lists.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from stillframe.reuse.kernels.jit import intrinsic, types
from stillframe.reuse.kernels.microkernel import (
    F32,
    I64,
    LANES,
    Loop,
    clamp,
    load_origins,
    load_vector,
    multiply_add,
    pointer,
    splat,
    store_vector,
)

NEAR, FAR = 0.75, 1.5
"""F(4, 3) evaluates polynomials at 0, ±NEAR, ±FAR and infinity. These lose less to rounding than
the usual 1 and 2, and their powers and products are float32 numbers."""

Values = list[ir.Value]


class Axis:
    """The transforms of one axis, on vectors of `lanes` channels."""

    def __init__(self, builder: ir.IRBuilder, outputs: int, lanes: int) -> None:
        self._builder = builder
        self._outputs = outputs
        self._lanes = lanes
        self._kind = ir.VectorType(F32, lanes)

    def _add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._builder.fadd(a, b)

    def _subtract(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._builder.fsub(a, b)

    def _scaled(self, factor: float, a: ir.Value, b: ir.Value) -> ir.Value:
        """factor * a + b."""
        constant = ir.Constant(self._kind, [factor] * self._lanes)
        return multiply_add(self._builder, a, constant, b, self._lanes)

    def of_inputs(self, d: Sequence[ir.Value]) -> Values:
        """outputs + 2 values of the input -> as many factors."""
        if self._outputs == 2:
            return [
                self._subtract(d[0], d[2]),
                self._add(d[1], d[2]),
                self._subtract(d[2], d[1]),
                self._subtract(d[1], d[3]),
            ]
        near, far = NEAR**2, FAR**2
        product = ir.Constant(self._kind, [near * far] * self._lanes)
        even_near, odd_near = self._scaled(-far, d[2], d[4]), self._scaled(-far, d[1], d[3])
        even_far, odd_far = self._scaled(-near, d[2], d[4]), self._scaled(-near, d[1], d[3])
        return [
            self._scaled(
                -near - far, d[2], multiply_add(self._builder, d[0], product, d[4], self._lanes)
            ),
            self._scaled(NEAR, odd_near, even_near),
            self._scaled(-NEAR, odd_near, even_near),
            self._scaled(FAR, odd_far, even_far),
            self._scaled(-FAR, odd_far, even_far),
            self._scaled(
                -near - far, d[3], multiply_add(self._builder, d[1], product, d[5], self._lanes)
            ),
        ]

    def of_products(self, m: Sequence[ir.Value]) -> Values:
        """outputs + 2 sums of products -> outputs."""
        if self._outputs == 2:
            return [
                self._add(self._add(m[0], m[1]), m[2]),
                self._subtract(self._subtract(m[1], m[2]), m[3]),
            ]
        near_sum, near_gap = self._add(m[1], m[2]), self._subtract(m[1], m[2])
        far_sum, far_gap = self._add(m[3], m[4]), self._subtract(m[3], m[4])
        return [
            self._add(self._add(m[0], near_sum), far_sum),
            self._both(1, near_gap, far_gap),
            self._both(2, near_sum, far_sum),
            self._add(self._both(3, near_gap, far_gap), m[5]),
        ]

    def _both(self, power: int, near: ir.Value, far: ir.Value) -> ir.Value:
        """NEAR**power * near + FAR**power * far."""
        constant = ir.Constant(self._kind, [FAR**power] * self._lanes)
        return self._scaled(NEAR**power, near, self._builder.fmul(far, constant))


def emit_input_transform(builder: ir.IRBuilder, outputs: int, lanes: int, args: Values) -> None:
    """`lanes` channels of a tile's (outputs + 2)² inputs -> as many factors.

    args, all int64: address of the first input; bytes from one row of inputs to the next, and from
    one column to the next; address of the first factor, and bytes from one to the next.
    """
    source, down, across, target, step = args
    kind = ir.VectorType(F32, lanes)
    axis, size = Axis(builder, outputs, lanes), outputs + 2
    lines = []
    for y in range(size):
        row = builder.add(source, builder.mul(down, I64(y)))
        inputs = [
            load_vector(builder, builder.add(row, builder.mul(across, I64(x))), kind)
            for x in range(size)
        ]
        lines.append(axis.of_inputs(inputs))
    for x in range(size):
        for y, factor in enumerate(axis.of_inputs([line[x] for line in lines])):
            at = builder.mul(step, I64(y * size + x))
            store_vector(builder, factor, builder.add(target, at))


def emit_output_transform(
    builder: ir.IRBuilder, outputs: int, lanes: int, args: list[ir.Value]
) -> None:
    """`lanes` channels of a tile's (outputs + 2)² sums of products -> its outputs².

    args: address of the first sum, and bytes from one to the next; addresses of the bias and of the
    slopes by which results below 0 are multiplied; address of outputs² int64 addresses, where each
    output goes; bytes to add to each of them; low and high, between which results are clamped.
    """
    source, step, bias, slopes, stores, shift, low, high = args
    kind = ir.VectorType(F32, lanes)
    axis, size = Axis(builder, outputs, lanes), outputs + 2
    lines = []
    for x in range(size):
        sums = [
            load_vector(builder, builder.add(source, builder.mul(step, I64(y * size + x))), kind)
            for y in range(size)
        ]
        lines.append(axis.of_products(sums))
    bends, offset = load_vector(builder, slopes, kind), load_vector(builder, bias, kind)
    bounds = [splat(builder, number, lanes) for number in (low, high)]
    zero = ir.Constant(kind, [0.0] * lanes)
    rows = load_origins(builder, stores, outputs**2)
    for y in range(outputs):
        for x, total in enumerate(axis.of_products([line[y] for line in lines])):
            shifted = builder.fadd(total, offset)
            below = builder.fcmp_ordered("<", shifted, zero)
            bent = builder.select(below, builder.fmul(shifted, bends), shifted)
            clamped = clamp(builder, bent, *bounds)
            store_vector(builder, clamped, builder.add(rows[y * outputs + x], shift))


def emit_product_tile(
    builder: ir.IRBuilder, positions: int, vectors: int, lanes: int, args: Values
) -> None:
    """positions × vectors of a matrix product, each summed over the channels in order.

    args, all int64: address of the factors, and bytes from one position's to the next; channels;
    address of float32 weights [channel][vectors * lanes]; address of the sums, and bytes from one
    position's to the next.
    """
    factors, factor_step, depth, weights, sums, sum_step = args
    kind = ir.VectorType(F32, lanes)
    rows = [builder.add(factors, builder.mul(factor_step, I64(m))) for m in range(positions)]
    zero = ir.Constant(kind, [0.0] * lanes)
    loop = Loop(builder, depth, [weights, *[zero] * (positions * vectors)])
    panel, *totals = loop.carried
    columns = [
        load_vector(builder, builder.add(panel, I64(4 * lanes * v)), kind) for v in range(vectors)
    ]
    at = builder.mul(loop.index, I64(4))
    for m in range(positions):
        scalar = builder.load(pointer(builder, builder.add(rows[m], at), F32))
        value = splat(builder, scalar, lanes)
        for v in range(vectors):
            total = totals[m * vectors + v]
            totals[m * vectors + v] = multiply_add(builder, value, columns[v], total, lanes)
    _, *totals = loop.end([builder.add(panel, I64(4 * lanes * vectors)), *totals])
    for m in range(positions):
        row = builder.add(sums, builder.mul(sum_step, I64(m)))
        for v in range(vectors):
            store_vector(builder, totals[m * vectors + v], builder.add(row, I64(4 * lanes * v)))


@intrinsic(prefer_literal=True)
def input_transform(typingctx, outputs, source, down, across, target, step):
    """`emit_input_transform` for a literal `outputs`."""
    if not isinstance(outputs, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_input_transform(builder, outputs.literal_value, LANES, list(args[1:]))
        return context.get_dummy_value()

    return types.void(outputs, *[types.int64] * 5), codegen


@intrinsic(prefer_literal=True)
def output_transform(
    typingctx, outputs, source, step, bias, slopes, stores, shift, low, high
):  # fmt: skip
    """`emit_output_transform` for a literal `outputs`."""
    if not isinstance(outputs, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit_output_transform(builder, outputs.literal_value, LANES, list(args[1:]))
        return context.get_dummy_value()

    return types.void(outputs, *[types.int64] * 6, *[types.float32] * 2), codegen


@intrinsic(prefer_literal=True)
def product_tile(
    typingctx, positions, vectors, factors, factor_step, depth, weights, sums, sum_step
):  # fmt: skip
    """`emit_product_tile` for literal `positions` and `vectors`."""
    if not isinstance(positions, types.IntegerLiteral):
        return None
    if not isinstance(vectors, types.IntegerLiteral):
        return None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        size = (positions.literal_value, vectors.literal_value)
        emit_product_tile(builder, *size, LANES, list(args[2:]))
        return context.get_dummy_value()

    return types.void(positions, vectors, *[types.int64] * 6), codegen
