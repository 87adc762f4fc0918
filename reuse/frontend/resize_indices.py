"""ONNX Resize along one axis as tables: which input positions each output position reads.

Covers the coordinate modes of the ONNX specification that exporters write. Computed in float32 as
ONNX Runtime does: where two pixels are equally near, the last bit decides.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
ResizeTaps = tuple[NDArray[np.int32], NDArray[np.int32], Floats]
"""lo, hi (input positions) and the weight of hi, one of each per output position."""

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


# coordinate_transformation_mode -> (output index, scale, size, out_size) -> input coordinate
COORDINATES: dict[str, Callable[[Floats, np.float32, int, int], Floats]] = {
    "align_corners": align_corners,
    "half_pixel": half_pixel,
    "half_pixel_symmetric": half_pixel_symmetric,
    "pytorch_half_pixel": pytorch_half_pixel,
    "tf_half_pixel_for_nn": tf_half_pixel_for_nn,
    "asymmetric": asymmetric,
}

# nearest_mode -> input coordinate -> input position
ROUNDING: dict[str, Callable[[Floats], Floats]] = {
    "round_prefer_floor": lambda x: np.ceil(x - HALF),
    "round_prefer_ceil": lambda x: np.floor(x + HALF),
    "floor": np.floor,
    "ceil": np.ceil,
}


def resize_taps(
    size: int, out_size: int, scale: float, *, mode: str, coordinates: str, rounding: str
) -> ResizeTaps:
    """The taps of out_size output positions; mode "nearest" has lo == hi and weight 0.

    mode: "nearest" or "linear". coordinates: a key of COORDINATES; rounding: a key of ROUNDING.
    """
    index = np.arange(out_size, dtype=np.float32)
    if out_size == size and scale == 1:
        coordinate = index
    else:
        coordinate = COORDINATES[coordinates](index, np.float32(scale), size, out_size)
    if mode == "nearest":
        low = np.clip(ROUNDING[rounding](coordinate), 0, size - 1).astype(np.int32)
        return low, low.copy(), np.zeros(out_size, np.float32)
    coordinate = np.clip(coordinate, np.float32(0), np.float32(size - 1))
    low = np.minimum(coordinate.astype(np.int32), size - 1)
    high = np.minimum(low + 1, size - 1).astype(np.int32)
    weight = np.where(high > low, coordinate - low, 0).astype(np.float32)
    return low, high, weight
