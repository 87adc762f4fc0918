"""A camera in the air that looks down on the land at an angle. Lengths in metres.

X runs to the right, Y up, Z ahead on the map; yaw turns to the right, pitch looks down, radians.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Drone:
    """Position and direction of the camera, and the size of its image in pixels."""

    width: int
    height: int
    x: float
    z: float
    altitude: float
    yaw: float
    """Radians to the right."""
    pitch: float
    """Radians down."""
    focal: float = 0.95
    """Focal length, relative to the image's height."""

    @cached_property
    def _axes(self) -> Points:
        """Rows: right, down and forward of the picture, in world coordinates."""
        sine, cosine = math.sin(self.yaw), math.cos(self.yaw)
        forward = np.array((
            sine * math.cos(self.pitch), -math.sin(self.pitch), cosine * math.cos(self.pitch),
        ))  # fmt: skip
        right = np.array((cosine, 0.0, -sine))
        return np.stack([right, -np.cross(forward, right), forward])

    def project(self, points: ArrayLike) -> tuple[Points, Points]:
        """(…, 3) world points -> (…, 2) pixel positions and (…) metres along the view."""
        seen = (np.asarray(points, np.float64) - (self.x, self.altitude, self.z)) @ self._axes.T
        depth = np.maximum(seen[..., 2], 0.1)
        scale = self.focal * self.height / depth
        pixels = np.stack(
            [self.width / 2 + seen[..., 0] * scale, self.height / 2 + seen[..., 1] * scale], axis=-1
        )
        return pixels, seen[..., 2]

    def ground(self) -> Points:
        """(3, 3): from (X, Z, 1) on the ground to homogeneous pixels."""
        focal = self.focal * self.height
        lens = np.array([[focal, 0, self.width / 2], [0, focal, self.height / 2], [0, 0, 1.0]])
        axes = self._axes
        origin = axes @ np.array((self.x, self.altitude, self.z))
        ground: Points = lens @ np.column_stack([axes[:, 0], axes[:, 2], -origin])
        return ground
