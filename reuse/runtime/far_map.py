"""Where the far limit applies: a map of the picture, stretched over every tensor that is compared.

A position of a tensor lies over the part of the picture that is in the same place: a tenth from the
left of one is a tenth from the left of the other. That windows grow from layer to layer is left
out: what a value depends on is mostly close to its middle, and the map has a margin. Where a tensor
is no picture, such as the tokens of a transformer, all of it is near.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.kernels import abi
from stillframe.reuse.kernels.far_map import stretch
from stillframe.reuse.plan.plan import Plan

CELL = 16
"""Pixels a side of what a map of the picture should tell apart; a finer one gains nothing."""
SLANT = 0.05
"""By how much the sides of a tensor may be out of proportion to those of the picture."""

Bytes = NDArray[np.uint8]


class FarMap:
    """The maps of one plan. Nothing is allocated before the first map, and once for each size of
    it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._near: Bytes | None = None
        """The map of the picture; None: all of it is near."""
        self._maps: dict[tuple[int, int], Bytes] = {}
        """By the size of the tensors that are pictures."""
        self._none_far: dict[tuple[int, int], Bytes] = {}
        """By the size of the others."""

    def set(self, near: NDArray[Any] | None) -> None:
        """Apply the near limit where an (h, w) map of the picture is true; None: everywhere."""
        if near is None:
            self._plan.tensors[:, abi.FAR] = 0
            self._near = None
            return
        if self._near is None or self._near.shape != near.shape:
            self._near = np.empty(near.shape, np.uint8)
            self._enter()
        elif np.array_equal(self._near, near):
            return
        np.copyto(self._near, near != 0)
        for far in self._maps.values():
            stretch(self._near, far)

    def _enter(self) -> None:
        """Enter the maps into the table of tensors."""
        plan = self._plan
        pictures = [port.name for port in plan.graph.inputs if port.layout != "raw"]
        for at in plan.cutoffs.values():
            row = plan.tensors[plan.instructions[at, abi.TARGET]]
            size = int(row[abi.HEIGHT]), int(row[abi.WIDTH])
            is_picture = pictures and is_in_proportion(size, plan.graph.shapes[pictures[0]])
            maps = self._maps if is_picture else self._none_far
            if size not in maps:
                maps[size] = np.zeros(size, np.uint8)
            row[abi.FAR] = maps[size].ctypes.data


def is_in_proportion(size: tuple[int, int], picture: Sequence[int]) -> bool:
    """Whether a tensor of (height, width) has the proportions of a picture, so that places in it
    are places in the picture."""
    height, width = size
    if min(height, width) < 2:
        return False
    expected = picture[1] * height / picture[0]
    return abs(width - expected) <= max(1.0, SLANT * expected)
