"""Activations over a run of floats, vectorised by the compiler.

exp is the Cephes single-precision polynomial (Moshier 1989), good to 2 ulp; the others are built on
it. erf is Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7). Written without branches and
without library calls, so that each element gets the same bits wherever it stands in a vector.
"""

import math

import numpy as np

from stillframe.reuse.kernels.jit import kernel
from stillframe.reuse.kernels.memory import float_bits, get_f32, set_f32
from stillframe.reuse.kernels.table import Activation

F = np.float32
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)

# frozen into the compiled kernels
RELU, LEAKY, CLIP = int(Activation.RELU), int(Activation.LEAKY), int(Activation.CLIP)
SIGMOID, TANH = int(Activation.SIGMOID), int(Activation.TANH)
HARDSIGMOID, HARDSWISH = int(Activation.HARDSIGMOID), int(Activation.HARDSWISH)
SILU, MISH = int(Activation.SILU), int(Activation.MISH)
GELU, GELU_TANH, ERF = int(Activation.GELU), int(Activation.GELU_TANH), int(Activation.ERF)
SOFTPLUS, ELU, EXP = int(Activation.SOFTPLUS), int(Activation.ELU), int(Activation.EXP)
SQRT, ABS, NEG = int(Activation.SQRT), int(Activation.ABS), int(Activation.NEG)
PRELU, SQUARE, LOG = int(Activation.PRELU), int(Activation.SQUARE), int(Activation.LOG)
RECIPROCAL = int(Activation.RECIPROCAL)


@kernel
def exp(x):  # type: ignore[no-untyped-def]
    # NaN must stay NaN, so the limits are applied by comparison and never by min or max
    bounded = x if x > F(-87.3) else F(-87.3)
    bounded = bounded if bounded < F(88.3) else F(88.3)
    n = np.floor(bounded * F(1.44269504) + HALF)
    r = bounded - n * F(0.693359375) + n * F(2.12194440e-4)
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * (r * r) + r + ONE
    value = p * float_bits((np.int32(n) + np.int32(127)) << np.int32(23))
    return value if x == x else x


@kernel
def sigmoid(x):  # type: ignore[no-untyped-def]
    return ONE / (ONE + exp(-x))


@kernel
def tanh(x):  # type: ignore[no-untyped-def]
    size = abs(x)
    far = ONE - TWO / (exp(TWO * size) + ONE)
    s = x * x
    near = size + size * s * (
        F(-3.33332819422e-1)
        + s * (F(1.33314422036e-1) + s * (F(-5.37397155531e-2) + s * (
            F(2.06390887954e-2) + s * F(-5.70498872745e-3))))
    )
    value = near if size < F(0.625) else far
    return -value if x < ZERO else value


@kernel
def erf(x):  # type: ignore[no-untyped-def]
    size = abs(x)
    t = ONE / (ONE + F(0.3275911) * size)
    p = F(1.061405429)
    p = p * t + F(-1.453152027)
    p = p * t + F(1.421413741)
    p = p * t + F(-0.284496736)
    p = p * t + F(0.254829592)
    value = ONE - p * t * exp(-size * size)
    return -value if x < ZERO else value


@kernel
def activate(kind, a, b, slopes, source, target, count):  # type: ignore[no-untyped-def]
    # source (count,) -> target (count,), which may be the same; slopes (count,) for PRELU
    if kind == RELU:
        for i in range(count):
            x = get_f32(source, i)
            set_f32(target, i, ZERO if x < ZERO else x)
    elif kind == LEAKY:
        for i in range(count):
            x = get_f32(source, i)
            set_f32(target, i, x * a if x < ZERO else x)
    elif kind == CLIP:
        for i in range(count):
            x = get_f32(source, i)
            x = a if x < a else x
            set_f32(target, i, b if x > b else x)
    elif kind == SIGMOID:
        for i in range(count):
            set_f32(target, i, sigmoid(get_f32(source, i)))
    elif kind == TANH:
        for i in range(count):
            set_f32(target, i, tanh(get_f32(source, i)))
    elif kind == HARDSIGMOID:
        for i in range(count):
            x = get_f32(source, i) * a + b
            x = ZERO if x < ZERO else x
            set_f32(target, i, ONE if x > ONE else x)
    elif kind == HARDSWISH:
        for i in range(count):
            x = get_f32(source, i)
            gate = x * F(1.0 / 6.0) + HALF
            gate = ZERO if gate < ZERO else gate
            set_f32(target, i, x * (ONE if gate > ONE else gate))
    elif kind == SILU:
        for i in range(count):
            x = get_f32(source, i)
            set_f32(target, i, x / (ONE + exp(-x)))
    elif kind == MISH:
        for i in range(count):
            x = get_f32(source, i)
            e = exp(x if x < F(20) else F(20))
            n = e * (e + TWO)
            set_f32(target, i, x if x > F(20) else x * (n / (n + TWO)))
    elif kind == GELU:
        for i in range(count):
            x = get_f32(source, i)
            set_f32(target, i, HALF * x * (ONE + erf(x * F(0.70710678))))
    elif kind == GELU_TANH:
        for i in range(count):
            x = get_f32(source, i)
            inner = F(0.79788456) * (x + F(0.044715) * x * x * x)
            set_f32(target, i, HALF * x * (ONE + tanh(inner)))
    elif kind == ERF:
        for i in range(count):
            set_f32(target, i, erf(get_f32(source, i)))
    elif kind == ELU:
        for i in range(count):
            x = get_f32(source, i)
            set_f32(target, i, a * (exp(x) - ONE) if x < ZERO else x)
    elif kind == EXP:
        for i in range(count):
            set_f32(target, i, exp(get_f32(source, i)))
    elif kind == SQRT:
        for i in range(count):
            set_f32(target, i, np.sqrt(get_f32(source, i)))
    elif kind == ABS:
        for i in range(count):
            set_f32(target, i, abs(get_f32(source, i)))
    elif kind == NEG:
        for i in range(count):
            set_f32(target, i, -get_f32(source, i))
    elif kind == SQUARE:
        for i in range(count):
            x = get_f32(source, i)
            set_f32(target, i, x * x)
    elif kind == RECIPROCAL:
        for i in range(count):
            set_f32(target, i, ONE / get_f32(source, i))
    elif kind == PRELU:
        for i in range(count):
            x = get_f32(source, i)
            set_f32(target, i, x * get_f32(slopes, i) if x < ZERO else x)
    elif kind == SOFTPLUS:
        for i in range(count):
            x = F(get_f32(source, i))
            top = x if x > ZERO else ZERO
            set_f32(target, i, F(top + math.log1p(exp(-abs(x)))))
    elif kind == LOG:
        for i in range(count):
            set_f32(target, i, F(math.log(get_f32(source, i))))
    elif source != target:
        for i in range(count):
            set_f32(target, i, get_f32(source, i))
