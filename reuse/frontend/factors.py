"""The axes of an ONNX tensor as factors of (H, W, C).

Reshape and Transpose move nothing in a (H, W, C) array as long as one remembers which part of rows,
columns or channels each ONNX axis runs along. A factor is one such part: index i of it is
i * stride along its axis. So (1, heads, tokens, d) of a picture is ((), (channels in steps of d,),
(rows, columns), (channels in steps of 1,)).
"""

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from stillframe.reuse.ir.graph import Array, Shape


class Factor(NamedTuple):
    """A part of one axis of (H, W, C)."""

    axis: int
    """0: rows, 1: columns, 2: channels."""
    stride: int
    size: int


Axes = tuple[tuple[Factor, ...], ...]
"""The factors of each ONNX axis, the slowest first; none for an axis of size 1."""


def natural(shape: Shape, order: str) -> tuple[Factor, ...]:
    """The factors of a channels-first or channels-last tensor without reshaping."""
    hwc = [Factor(axis, 1, size) for axis, size in enumerate(shape)]
    sequence = (hwc[2], hwc[0], hwc[1]) if order == "NCHW" else hwc
    return tuple(factor for factor in sequence if factor.size > 1)


def merged(factors: Iterable[Factor]) -> tuple[Factor, ...]:
    """The same sequence with as few factors as possible."""
    merged: list[Factor] = []
    for factor in factors:
        last = merged[-1] if merged else None
        if last and last.axis == factor.axis and last.stride == factor.stride * factor.size:
            merged[-1] = Factor(factor.axis, factor.stride, last.size * factor.size)
        else:
            merged.append(factor)
    return tuple(merged)


def flattened(axes: Axes) -> tuple[Factor, ...]:
    return merged(factor for each in axes for factor in each)


def split(factors: Sequence[Factor], sizes: Sequence[int]) -> Axes | None:
    """The factors of axes of these sizes; None where an axis cuts a factor at an odd place."""
    left = list(factors)
    axes: list[tuple[Factor, ...]] = []
    for size in sizes:
        axis: list[Factor] = []
        while size > 1:
            if not left:
                return None
            first = left.pop(0)
            if size % first.size == 0:
                axis.append(first)
                size //= first.size
            elif first.size % size == 0:
                inner = first.size // size
                axis.append(Factor(first.axis, first.stride * inner, size))
                left.insert(0, Factor(first.axis, first.stride, inner))
                size = 1
            else:
                return None
        axes.append(merged(axis))
    return tuple(axes) if not left else None


def order_of(axes: Axes, shape: Shape) -> str | None:
    """ "NCHW" or "NHWC" if the tensor is one of these, perhaps reshaped."""
    for order in ("NCHW", "NHWC"):
        if flattened(axes) == natural(shape, order):
            return order
    return None


def to_hwc(value: Array, axes: Axes, shape: Shape) -> Array:
    """An array of the ONNX tensor's shape -> (H, W, C)."""
    factors = [factor for each in axes for factor in each]
    parts = value.reshape([factor.size for factor in factors])
    order = sorted(range(len(factors)), key=lambda at: (factors[at].axis, -factors[at].stride))
    return parts.transpose(order).reshape(shape)


def select_channels(
    axes: Axes, axis: int, taken: Sequence[int], depth: int
) -> tuple[Array, Axes] | None:
    """Some indices of an ONNX axis that runs along channels: which channels those are, in their
    old order of significance, and the factors then. None where it runs along more than one factor
    or along positions."""
    if len(axes[axis]) != 1 or axes[axis][0].axis != 2:
        return None
    cut = axes[axis][0]
    factors = sorted(
        (each for group in axes for each in group if each.axis == 2), key=lambda each: -each.stride
    )
    sizes = [len(taken) if each == cut else each.size for each in factors]
    channels = np.zeros(1, np.int64)
    for each in factors:
        steps = np.asarray(taken if each == cut else range(each.size)) * each.stride
        channels = (channels[:, None] + steps[None, :]).reshape(-1)
    if prod(each.size for each in factors) != depth:
        return None
    renewed = {each: Factor(2, prod(sizes[at + 1 :]), sizes[at]) for at, each in enumerate(factors)}
    groups = tuple(
        tuple(renewed.get(each, each) for each in group if renewed.get(each, each).size > 1)
        for group in axes
    )
    return channels, groups
