"""Weights in the order in which the micro-kernels read them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.kernels.conv import TILES
from stillframe.reuse.kernels.microkernel import LANES
from stillframe.reuse.kernels.pages import zeroed

Floats = NDArray[np.float32]

# what a tile of each shape reaches of the processor's peak, measured where tiles fit exactly; only
# the order matters, and `tuning` measures what is close
EFFICIENCY = (1.0, 0.9, 0.62)


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A C-contiguous copy whose first byte lies on a multiple of ALIGNMENT."""
    copy = zeroed(values.nbytes).view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def tile_width(tile: int) -> int:
    """Output channels that one micro-kernel call computes."""
    return TILES[tile][1] * LANES


def choose_tile(channels: int) -> int:
    """The micro-kernel with the least waste for so many output channels."""

    def cost(tile: int) -> float:
        panels = -(-channels // tile_width(tile))
        return panels * tile_width(tile) / EFFICIENCY[tile]

    return min(range(len(TILES)), key=cost)


def pack_panels(weights: Floats, bias: Floats, tile: int) -> tuple[Floats, Floats, int]:
    """(KH, KW, C, M), (M,) -> [panel][tap][C][width], [panel * width], number of panels."""
    depth, channels = int(np.prod(weights.shape[:3])), weights.shape[3]
    width = tile_width(tile)
    panels = -(-channels // width)
    padded = np.zeros((depth, panels * width), np.float32)
    padded[:, :channels] = weights.reshape(depth, channels)
    packed = padded.reshape(depth, panels, width).transpose(1, 0, 2)
    shift = np.zeros(panels * width, np.float32)
    shift[:channels] = bias
    return np.ascontiguousarray(packed), shift, panels


def pack_depthwise(weights: Floats, bias: Floats) -> tuple[Floats, Floats, int]:
    """(KH, KW, 1, C), (C,) -> [tap][panel * LANES], [panel * LANES], number of panels."""
    channels = weights.shape[3]
    panels = -(-channels // LANES)
    packed = np.zeros((weights.shape[0] * weights.shape[1], panels * LANES), np.float32)
    packed[:, :channels] = weights.reshape(-1, channels)
    shift = np.zeros(panels * LANES, np.float32)
    shift[:channels] = bias
    return packed, shift, panels
