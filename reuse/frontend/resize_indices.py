"""Where each position of a resized row comes from, in the coordinate modes that exporters write.

Computed in float32 as ONNX Runtime does, because a tie between two pixels hangs on the last bit.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Source = tuple[NDArray[np.int32], NDArray[np.int32], Floats]
"""lo, hi (positions of the input) and the weight of hi."""

ONE, HALF = np.float32(1), np.float32(0.5)


def align_corners(index: Floats, scale: np.float32, size: int, out_size: int) -> Floats:
    if out_size == 1:
        return np.zeros(1, np.float32)
    return index * np.float32(size - 1) / np.float32(out_size - 1)


def half_pixel(index: Floats, scale: np.float32, size: int, out_size: int) -> Floats:
    return (index + HALF) / scale - HALF


def half_pixel_symmetric(index: Floats, scale: np.float32, size: int, out_size: int) -> Floats:
    adjustment = np.float32(out_size) / (scale * np.float32(size))
    offset = np.float32(size) / np.float32(2) * (ONE - adjustment)
    return offset + (index + HALF) / scale - HALF


def pytorch_half_pixel(index: Floats, scale: np.float32, size: int, out_size: int) -> Floats:
    return half_pixel(index, scale, size, out_size) if out_size > 1 else np.zeros(1, np.float32)


def tf_half_pixel_for_nn(index: Floats, scale: np.float32, size: int, out_size: int) -> Floats:
    return (index + HALF) / scale


def asymmetric(index: Floats, scale: np.float32, size: int, out_size: int) -> Floats:
    return index / scale


COORDINATES: dict[str, Callable[[Floats, np.float32, int, int], Floats]] = {
    "align_corners": align_corners,
    "half_pixel": half_pixel,
    "half_pixel_symmetric": half_pixel_symmetric,
    "pytorch_half_pixel": pytorch_half_pixel,
    "tf_half_pixel_for_nn": tf_half_pixel_for_nn,
    "asymmetric": asymmetric,
}

ROUNDING: dict[str, Callable[[Floats], Floats]] = {
    "round_prefer_floor": lambda x: np.ceil(x - HALF),
    "round_prefer_ceil": lambda x: np.floor(x + HALF),
    "floor": np.floor,
    "ceil": np.ceil,
}


def source(
    size: int, out_size: int, scale: float, *, mode: str, coordinates: str, rounding: str
) -> Source:
    """lo, hi, weight of hi for each of out_size positions; nearest has lo == hi and weight 0."""
    index = np.arange(out_size, dtype=np.float32)
    if out_size == size and scale == 1:
        at = index
    else:
        at = COORDINATES[coordinates](index, np.float32(scale), size, out_size)
    if mode == "nearest":
        low = np.clip(ROUNDING[rounding](at), 0, size - 1).astype(np.int32)
        return low, low.copy(), np.zeros(out_size, np.float32)
    at = np.clip(at, np.float32(0), np.float32(size - 1))
    low = np.minimum(at.astype(np.int32), size - 1)
    high = np.minimum(low + 1, size - 1).astype(np.int32)
    weight = np.where(high > low, at - low, 0).astype(np.float32)
    return low, high, weight
