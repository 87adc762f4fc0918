"""Every operator in plain NumPy: the oracle that kernels are tested against; not written for speed.

Tensors are (H, W, C) float32. A function takes its node, its input arrays and the shape of its
output, and returns the output array.
"""

from collections.abc import Callable, Sequence
from itertools import product
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import Act, Node, Shape
from stillframe.reuse.ir.windows import pad_source

Tensor = NDArray[Any]

ERF_TERMS = 60


def erf(x: NDArray[Any]) -> NDArray[Any]:
    """The error function to 14 digits: Taylor series up to 2.5, continued fraction beyond."""
    x = np.asarray(x, np.float64)
    magnitude = np.minimum(np.abs(x), 6.5)
    small = np.minimum(magnitude, 2.5)
    term = small.copy()
    total = small.copy()
    for index in range(1, ERF_TERMS):
        term = term * -(small**2) / index
        total = total + term / (2 * index + 1)
    series = total * 2 / np.sqrt(np.pi)
    large = np.maximum(magnitude, 2.5)
    tail = large.copy()
    for index in range(ERF_TERMS, 0, -1):
        tail = large + index / 2 / tail
    fraction = 1 - np.exp(-(large**2)) / tail / np.sqrt(np.pi)
    return np.asarray(np.sign(x) * np.where(magnitude <= 2.5, series, fraction))


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return 0.5 * (1 + np.tanh(0.5 * x))


def softplus(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.logaddexp(x, np.zeros((), x.dtype)))


ACTS: dict[str, Callable[[NDArray[Any], Act], NDArray[Any]]] = {
    "relu": lambda x, _: np.maximum(x, 0),
    "leaky": lambda x, act: np.where(x < 0, x * act.a, x),
    "clip": lambda x, act: np.clip(x, act.a, act.b),
    "sigmoid": lambda x, _: sigmoid(x),
    "tanh": lambda x, _: np.tanh(x),
    "hardsigmoid": lambda x, act: np.clip(x * act.a + act.b, 0, 1),
    "hardswish": lambda x, _: x * np.clip(x / 6 + 0.5, 0, 1),
    "silu": lambda x, _: x * sigmoid(x),
    "mish": lambda x, _: x * np.tanh(softplus(x)),
    "gelu": lambda x, _: 0.5 * x * (1 + erf(x / sqrt(2))),
    "gelu_tanh": lambda x, _: 0.5 * x * (1 + np.tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "softplus": lambda x, _: softplus(x),
    "erf": lambda x, _: erf(x),
    "elu": lambda x, act: np.where(x < 0, act.a * np.expm1(np.minimum(x, 0)), x),
    "exp": lambda x, _: np.exp(x),
    "sqrt": lambda x, _: np.sqrt(x),
    "abs": lambda x, _: np.abs(x),
    "neg": lambda x, _: -x,
    "square": lambda x, _: x * x,
}
"""What each kind of Act computes; "prelu", which has slopes, is in `activate`."""

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.minimum,
    "max": np.maximum,
}


def activate(x: Tensor, act: Act | None, slope: Tensor | None = None) -> Tensor:
    """The activation of every number of x; slope (C,) for prelu."""
    if act is None:
        return x
    if act.kind == "prelu":
        return np.where(x < 0, x * slope, x).astype(np.float32)
    with np.errstate(all="ignore"):
        return ACTS[act.kind](x.astype(np.float64), act).astype(np.float32)


def slope_of(node: Node, arrays: Sequence[Tensor]) -> Tensor | None:
    """The slopes of a node whose act is prelu: its last input."""
    act = node.attrs.get("act")
    return arrays[-1] if act is not None and act.kind == "prelu" else None


def taps(x: Tensor, node: Node, out: Shape, fill: float) -> list[tuple[int, int, NDArray[Any]]]:
    """(i, j, the (H', W', C) input numbers under tap (i, j)) of a kernel; x is padded by `fill`."""
    (kernel_h, kernel_w), (stride_h, stride_w) = node.attrs["kernel"], node.attrs["stride"]
    dilation_h, dilation_w = node.attrs["dilation"]
    top, left = node.attrs["pad"][:2]
    height = max((out[0] - 1) * stride_h + (kernel_h - 1) * dilation_h + 1, top + x.shape[0])
    width = max((out[1] - 1) * stride_w + (kernel_w - 1) * dilation_w + 1, left + x.shape[1])
    padded = np.full((height, width, x.shape[2]), fill, x.dtype)
    padded[top : top + x.shape[0], left : left + x.shape[1]] = x
    parts = []
    for i, j in product(range(kernel_h), range(kernel_w)):
        rows = slice(i * dilation_h, i * dilation_h + (out[0] - 1) * stride_h + 1, stride_h)
        cols = slice(j * dilation_w, j * dilation_w + (out[1] - 1) * stride_w + 1, stride_w)
        parts.append((i, j, padded[rows, cols]))
    return parts


def conv(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """x · w (KH, KW, C / group, M) + b (M,) [+ residual (H', W', M)]"""
    x, weights, bias = arrays[:3]
    group = node.attrs["group"]
    each_in, each_out = weights.shape[2], weights.shape[3] // group
    total = np.zeros(out, np.float32)
    taps_node = node.with_(attrs={**node.attrs, "kernel": weights.shape[:2]})
    for i, j, part in taps(x, taps_node, out, 0.0):
        if group == x.shape[2] == weights.shape[3]:
            total += part * weights[i, j, 0]
            continue
        for g in range(group):
            ins = slice(g * each_in, (g + 1) * each_in)
            outs = slice(g * each_out, (g + 1) * each_out)
            total[..., outs] += part[..., ins] @ weights[i, j, :, outs]
    total += bias
    slope = slope_of(node, arrays)
    residual = arrays[3] if len(arrays) - (slope is not None) > 3 else None
    if residual is None:
        return activate(total, node.attrs["act"], slope)
    if node.attrs["residual_first"]:
        return activate(total + residual, node.attrs["act"], slope)
    return activate(total, node.attrs["act"], slope) + residual


def max_pool(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    (x,) = arrays
    return np.asarray(np.max([part for _, _, part in taps(x, node, out, -np.inf)], axis=0))


def average_pool(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """The mean of the taps inside x, or with count_include_pad of those inside the padded x.

    What the last window of ceil_mode reads beyond the padding is never counted.
    """
    (x,) = arrays
    total = np.sum([part for _, _, part in taps(x, node, out, 0.0)], axis=0, dtype=np.float32)
    inside = np.ones((*x.shape[:2], 1), np.float32)
    if node.attrs["count_include_pad"]:
        top, left, bottom, right = node.attrs["pad"]
        inside = np.ones((top + x.shape[0] + bottom, left + x.shape[1] + right, 1), np.float32)
        node = node.with_(attrs={**node.attrs, "pad": (0, 0, 0, 0)})
    count = np.sum([part for _, _, part in taps(inside, node, out, 0.0)], axis=0)
    return np.asarray(total / np.maximum(count, 1), np.float32)


def global_pool(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    (x,) = arrays
    if node.attrs["kind"] == "max":
        return np.asarray(x.max((0, 1), keepdims=True))
    return np.asarray(x.mean((0, 1), keepdims=True, dtype=np.float64), np.float32)


def unary(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    return activate(arrays[0], node.attrs["act"], slope_of(node, arrays))


def binary(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    with np.errstate(all="ignore"):
        total = BINARY[node.attrs["kind"]](arrays[0], arrays[1])
    return activate(total, node.attrs["act"], slope_of(node, arrays))


def affine(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """x · scale (C,) + shift (C,)"""
    total = arrays[0] * arrays[1] + arrays[2]
    return activate(total, node.attrs["act"], slope_of(node, arrays))


def moments(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """x, gamma (C,), beta (C,) -> (1, 1, 2C): scales, then shifts, that normalise x per channel."""
    x, gamma, beta = arrays
    mean = x.mean((0, 1), dtype=np.float64)
    scale = gamma / np.sqrt(x.var((0, 1), dtype=np.float64) + node.attrs["epsilon"])
    return np.concatenate([scale, beta - mean * scale]).astype(np.float32)[None, None]


def modulate(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """x · m[:C] + m[C:], with m (1, 1, 2C) from `moments`"""
    x, m = arrays[:2]
    total = x * m[..., : x.shape[2]] + m[..., x.shape[2] :]
    return activate(total, node.attrs["act"], slope_of(node, arrays))


def softmax(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """Over the channels, or over each `size` neighbouring ones."""
    (x,) = arrays
    x = x.reshape(*out[:2], -1, node.attrs.get("size", out[2]))
    raised = np.exp(x - x.max(3, keepdims=True))
    return np.asarray(raised / raised.sum(3, keepdims=True)).reshape(out)


def channel_max(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """The largest channel of each position; its first index if `index`."""
    (x,) = arrays
    if node.attrs["index"]:
        return np.asarray(x.argmax(2, keepdims=True), np.float32)
    return np.asarray(x.max(2, keepdims=True))


def layer_norm(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """x / sqrt(mean(x²) + epsilon) · gamma + beta over channels; of x - mean(x) if centred."""
    x, gamma, beta = arrays
    x = x.astype(np.float64)
    if node.attrs["centred"]:
        x = x - x.mean(2, keepdims=True)
    power = np.square(x).mean(2, keepdims=True)
    return np.asarray(x / np.sqrt(power + node.attrs["epsilon"]) * gamma + beta)


def attention(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """softmax(q · kᵀ · scale) · v within windows, for each head; channels are (head, each)."""
    q, k, v = (array.astype(np.float64) for array in arrays)
    heads, (height, width) = node.attrs["heads"], node.attrs["window"]
    result = np.zeros(out)
    for y, x in product(range(0, out[0], height), range(0, out[1], width)):
        whole = (height, width) == out[:2]
        rows, cols = slice(y, y + height), slice(x, x + width)
        queries = q[rows, cols].reshape(height * width, heads, -1)
        keys, values = (
            (each if whole else each[rows, cols]).reshape(-1, heads, each.shape[2] // heads)
            for each in (k, v)
        )
        scores = np.einsum("nhd,mhd->hnm", queries, keys) * node.attrs["scale"]
        shares = np.exp(scores - scores.max(2, keepdims=True))
        shares /= shares.sum(2, keepdims=True)
        part = np.einsum("hnm,mhd->nhd", shares, values)
        result[rows, cols] = part.reshape(height, width, out[2])
    return result


def regrid(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """The same positions, row after row, in rows of another length."""
    return arrays[0].reshape(out)


def concat(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    return np.concatenate(arrays, axis=node.attrs["axis"])


def slice_(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    axes = zip(node.attrs["start"], node.attrs["step"], out, strict=True)
    return arrays[0][tuple(slice(a, a + (n - 1) * s + 1, s) for a, s, n in axes)]


def pad(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    (x,) = arrays
    top, left, _, _, front, _ = node.attrs["pad"]
    fill = np.float32(node.attrs["value"])
    for axis, before in enumerate((top, left, front)):
        source = pad_source(out[axis], x.shape[axis], before, node.attrs["mode"])
        x = np.take(x, np.maximum(source, 0), axis)
        outside = np.expand_dims(source < 0, [other for other in range(3) if other != axis])
        x = np.where(outside, fill, x)
    return x


def resize(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """Linear between rows lo and hi by the weight of hi, then the same for columns."""
    (x,) = arrays
    low, high, weight = node.attrs["rows"]
    x = x[low] + (x[high] - x[low]) * weight[:, None, None]
    low, high, weight = node.attrs["cols"]
    return np.asarray(x[:, low] + (x[:, high] - x[:, low]) * weight[None, :, None])


def depth_to_space(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """DCR: channels are (block row, block column, C'); CRD: (C', block row, block column)."""
    (x,) = arrays
    block = node.attrs["block"]
    height, width, depth = out
    if node.attrs["mode"] == "DCR":
        split = x.reshape(*x.shape[:2], block, block, depth).transpose(0, 2, 1, 3, 4)
    else:
        split = x.reshape(*x.shape[:2], depth, block, block).transpose(0, 3, 1, 4, 2)
    return np.asarray(split.reshape(height, width, depth))


def space_to_depth(node: Node, arrays: Sequence[Tensor], out: Shape) -> Tensor:
    """The inverse of depth_to_space of the same mode."""
    (x,) = arrays
    block = node.attrs["block"]
    split = x.reshape(out[0], block, out[1], block, x.shape[2])
    order = (0, 2, 1, 3, 4) if node.attrs["mode"] == "DCR" else (0, 2, 4, 1, 3)
    return np.asarray(split.transpose(order).reshape(out))
