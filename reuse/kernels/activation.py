"""Activations over a run of floats, vectorised by the compiler.

exp is the Cephes single-precision polynomial (Moshier 1989), good to 2 ulp; the others are built on
it. erf is Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7). There are no branches and no
library calls, so an element gets the same bits in every lane of a vector.
"""

import math

import numpy as np

from stillframe.reuse.kernels.jit import ACTIVATION, Native, kernel, native
from stillframe.reuse.kernels.pointers import float_bits, get_f32, set_f32

F = np.float32
ZERO, HALF, ONE, TWO = F(0), F(0.5), F(1), F(2)


@kernel
def exp(x):
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
def sigmoid(x):
    return ONE / (ONE + exp(-x))


@kernel
def tanh(x):
    size = abs(x)
    far = ONE - TWO / (exp(TWO * size) + ONE)
    s = x * x
    near = size + size * s * (
        F(-3.33332819422e-1)
        + s
        * (
            F(1.33314422036e-1)
            + s * (F(-5.37397155531e-2) + s * (F(2.06390887954e-2) + s * F(-5.70498872745e-3)))
        )
    )
    value = near if size < F(0.625) else far
    return -value if x < ZERO else value


@kernel
def erf(x):
    size = abs(x)
    t = ONE / (ONE + F(0.3275911) * size)
    p = F(1.061405429)
    p = p * t + F(-1.453152027)
    p = p * t + F(1.421413741)
    p = p * t + F(-0.284496736)
    p = p * t + F(0.254829592)
    value = ONE - p * t * exp(-size * size)
    return -value if x < ZERO else value


# Each runs over values (count,) in place, through one address: loops over two that may overlap are
# not vectorised. a and b are the activation's numbers, slopes (count,) those of prelu.


@native(ACTIVATION)
def relu(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        set_f32(values, i, ZERO if x < ZERO else x)


@native(ACTIVATION)
def leaky(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        set_f32(values, i, x * a if x < ZERO else x)


@native(ACTIVATION)
def clip(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        x = a if x < a else x
        set_f32(values, i, b if x > b else x)


@native(ACTIVATION)
def apply_sigmoid(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, sigmoid(get_f32(values, i)))


@native(ACTIVATION)
def apply_tanh(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, tanh(get_f32(values, i)))


@native(ACTIVATION)
def hardsigmoid(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i) * a + b
        x = ZERO if x < ZERO else x
        set_f32(values, i, ONE if x > ONE else x)


@native(ACTIVATION)
def hardswish(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        gate = x * F(1.0 / 6.0) + HALF
        gate = ZERO if gate < ZERO else gate
        set_f32(values, i, x * (ONE if gate > ONE else gate))


@native(ACTIVATION)
def silu(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        set_f32(values, i, x / (ONE + exp(-x)))


@native(ACTIVATION)
def mish(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        e = exp(x if x < F(20) else F(20))
        n = e * (e + TWO)
        set_f32(values, i, x if x > F(20) else x * (n / (n + TWO)))


@native(ACTIVATION)
def gelu(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        set_f32(values, i, HALF * x * (ONE + erf(x * F(0.70710678))))


@native(ACTIVATION)
def gelu_tanh(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        inner = F(0.79788456) * (x + F(0.044715) * x * x * x)
        set_f32(values, i, HALF * x * (ONE + tanh(inner)))


@native(ACTIVATION)
def apply_erf(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, erf(get_f32(values, i)))


@native(ACTIVATION)
def elu(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        set_f32(values, i, a * (exp(x) - ONE) if x < ZERO else x)


@native(ACTIVATION)
def apply_exp(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, exp(get_f32(values, i)))


@native(ACTIVATION)
def sqrt(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, np.sqrt(get_f32(values, i)))


@native(ACTIVATION)
def absolute(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, abs(get_f32(values, i)))


@native(ACTIVATION)
def neg(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, -get_f32(values, i))


@native(ACTIVATION)
def square(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        set_f32(values, i, x * x)


@native(ACTIVATION)
def reciprocal(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, ONE / get_f32(values, i))


@native(ACTIVATION)
def prelu(values, count, a, b, slopes):
    for i in range(count):
        x = get_f32(values, i)
        set_f32(values, i, x * get_f32(slopes, i) if x < ZERO else x)


@native(ACTIVATION)
def softplus(values, count, a, b, slopes):
    for i in range(count):
        x = F(get_f32(values, i))
        top = x if x > ZERO else ZERO
        set_f32(values, i, F(top + math.log1p(exp(-abs(x)))))


@native(ACTIVATION)
def log(values, count, a, b, slopes):
    for i in range(count):
        set_f32(values, i, F(math.log(get_f32(values, i))))


ACTIVATIONS: dict[str, Native] = {
    "relu": relu,
    "leaky": leaky,
    "clip": clip,
    "sigmoid": apply_sigmoid,
    "tanh": apply_tanh,
    "hardsigmoid": hardsigmoid,
    "hardswish": hardswish,
    "silu": silu,
    "mish": mish,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "erf": apply_erf,
    "elu": elu,
    "exp": apply_exp,
    "sqrt": sqrt,
    "abs": absolute,
    "neg": neg,
    "square": square,
    "reciprocal": reciprocal,
    "prelu": prelu,
    "softplus": softplus,
    "log": log,
}
"""By `Act.kind`."""
