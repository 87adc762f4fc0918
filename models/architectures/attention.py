"""Attention between the positions of a picture, as the YOLO family writes it with convolutions.

Keys are partly what queries are (KEY_LIKENESS): a position attends most to itself and to those like
it, as after training, instead of to all alike.
"""

import math

import numpy as np
from numpy.typing import NDArray

from stillframe.models.architectures.builder import BuiltTensor, NetworkBuilder

KEY_LIKENESS = 0.9
"""Largest correlation of a key's weights with those of the query at the same place."""


def likened(
    query: NDArray[np.float32], key: NDArray[np.float32], depth: int, count: int
) -> NDArray[np.float32]:
    """The weights of a key of `depth` numbers: as like the query's as gives each of `count`
    positions about a third of its own attention.
    """
    likeness = min(KEY_LIKENESS, math.log(count) / math.sqrt(depth))
    return np.float32(likeness) * query + np.float32(math.sqrt(1 - likeness**2)) * key


def fused_projection(
    b: NetworkBuilder, x: BuiltTensor, name: str, heads: int, key: int, value: int, areas: int = 1
) -> BuiltTensor:
    """A 1×1 convolution to (1, heads · (2 key + value), H, W): query, key, value of each head."""
    weight = b.uniform((heads, 2 * key + value, x.channels), x.channels**-0.5)
    weight[:, key : 2 * key] = likened(
        weight[:, :key], weight[:, key : 2 * key], key, x.shape[2] * x.shape[3] // areas
    )
    count = heads * (2 * key + value)
    return b.conv(x, name, count, weight=weight.reshape(count, x.channels, 1, 1))


def attend(
    b: NetworkBuilder, query: BuiltTensor, key: BuiltTensor, value: BuiltTensor
) -> BuiltTensor:
    """value · softmax(queryᵀ · key / √depth)ᵀ of (…, depth, n)."""
    product = b.matmul(b.swapped(query), key)
    scores = b.softmax(b.binary("Mul", product, b.constant(query.shape[-2] ** -0.5)), -1)
    return b.matmul(value, b.swapped(scores))


def position_attention(
    b: NetworkBuilder, x: BuiltTensor, name: str, heads: int, key: int
) -> BuiltTensor:
    """Every position attends to all; a depthwise 3×3 of the values is added (C2PSA)."""
    value = x.channels // heads
    fused = fused_projection(b, x, f"{name}.qkv", heads, key, value)
    rows = b.reshape(fused, 1, heads, 2 * key + value, x.shape[2] * x.shape[3])
    q, k, v = b.split(rows, [key, key, value], 2)
    attended = b.reshape(attend(b, q, k, v), *x.shape)
    near = b.conv(b.reshape(v, *x.shape), f"{name}.pe", x.channels, 3, groups=x.channels, gain=0.5)
    return b.conv(b.binary("Add", attended, near), f"{name}.proj", x.channels, gain=0.5)


def area_attention(
    b: NetworkBuilder, x: BuiltTensor, name: str, heads: int, areas: int
) -> BuiltTensor:
    """Positions attend to their own strip; a depthwise 7×7 of the values is added (A2C2f)."""
    _, channels, height, width = x.shape
    depth, count = channels // heads, height * width
    fused = fused_projection(b, x, f"{name}.qkv", heads, depth, depth, areas)
    rows = b.transpose(b.reshape(fused, 1, 3 * channels, count), 0, 2, 1)
    if areas > 1:
        rows = b.reshape(rows, areas, count // areas, 3 * channels)
    rows = b.reshape(rows, areas, count // areas, heads, 3 * depth)
    q, k, v = b.split(b.transpose(rows, 0, 2, 3, 1), [depth] * 3, 2)

    def as_picture(y: BuiltTensor) -> BuiltTensor:
        y = b.transpose(y, 0, 3, 1, 2)
        if areas > 1:
            y = b.reshape(y, 1, count, channels)
        return b.transpose(b.reshape(y, 1, height, width, channels), 0, 3, 1, 2)

    attended, values = as_picture(attend(b, q, k, v)), as_picture(v)
    near = b.conv(values, f"{name}.pe", channels, 7, groups=channels, gain=0.5)
    return b.conv(b.binary("Add", attended, near), f"{name}.proj", channels, gain=0.5)
