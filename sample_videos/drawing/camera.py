"""Where the world lands in the picture: a level camera over flat ground, lengths in metres.

X runs to the right, height up, Z away from the camera. Uprights stay upright (the picture is
shifted, not tilted, to show more ground).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stillframe.sample_videos.drawing.texture import Field


@dataclass(frozen=True)
class Camera:
    """The camera and the image that it takes."""

    width: int
    """Of the image, pixels; as is height."""
    height: int
    eye_m: float = 2.5
    """Height of the lens."""
    horizon: float = 0.37
    """Row of the horizon, relative to the image's height."""
    focal: float = 0.95
    """Focal length, relative to the image's height."""

    def scale(self, depth_m: float) -> float:
        """Pixels per metre at a depth."""
        return self.focal * self.height / depth_m

    def point(self, across_m: float, up_m: float, depth_m: float) -> tuple[float, float]:
        """The pixel position (x, y) of a point in the world."""
        scale = self.scale(depth_m)
        return (
            self.width / 2 + across_m * scale,
            self.horizon * self.height + (self.eye_m - up_m) * scale,
        )

    def slope(self, depth_m: float) -> float:
        """How many pixels the ground rises in the picture per pixel of depth, at that depth."""
        return self.eye_m / depth_m

    def half_width(self, depth_m: float) -> float:
        """Metres from the middle of the picture to its edge at a depth."""
        return self.width / 2 / self.scale(depth_m)

    @cached_property
    def horizon_row(self) -> int:
        return int(self.horizon * self.height) + 1

    def ground(self, supersample: int = 1) -> tuple[Field, Field]:
        """(X, Z) in metres of every ground pixel below the horizon row, as (rows, width) maps."""
        rows = (self.height - self.horizon_row) * supersample
        columns = self.width * supersample
        v = self.horizon_row + (np.arange(rows) + 0.5) / supersample - self.horizon * self.height
        u = (np.arange(columns) + 0.5) / supersample - self.width / 2
        depth = self.focal * self.height * self.eye_m / v
        across = u[None, :] * (depth / (self.focal * self.height))[:, None]
        full = np.repeat(depth[:, None], columns, axis=1)
        return across.astype(np.float32), full.astype(np.float32)
