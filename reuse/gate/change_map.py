"""Which pixels of a frame are new. Loads no kernels."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["unchanged", "partial", "all"]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class ChangeMap:
    """Which pixels are new."""

    mask: Bytes
    """(H, W) uint8, 1 for new; valid until the gate's next step."""
    active: float
    """Share of new pixels, 0 .. 1."""
    kind: Kind
    """Whether none, some or all pixels are new."""
    reason: str
    """Why, in words."""
    renewed: tuple[int, int] = (0, 0)
    """Rows [first, end) that are new only so that every layer renews what depends on them."""

    @classmethod
    def full(cls, height: int, width: int, reason: str = "asked for") -> "ChangeMap":
        return cls(np.ones((height, width), np.uint8), 1.0, "all", reason)

    @classmethod
    def none(cls, height: int, width: int, reason: str = "asked for") -> "ChangeMap":
        return cls(np.zeros((height, width), np.uint8), 0.0, "unchanged", reason)
