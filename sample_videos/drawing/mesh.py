"""Solids with flat faces, projected and painted: the faces that look away are left out.

A face is a convex outline whose points run clockwise as seen from outside.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from stillframe.sample_videos.drawing.drone import Drone
from stillframe.sample_videos.drawing.texture import Colour, Cover, Picture


@dataclass(frozen=True, slots=True)
class Mesh:
    """Flat faces of a solid, in painting order."""

    points: NDArray[np.float64]
    """(m, 4, 3) corners of the faces; triangles repeat a corner."""
    colours: tuple[Colour, ...]
    """One per face."""
    body: NDArray[np.bool_]
    """(m,): the face is part of the outline, not a detail on it."""

    def moved(self, turn: NDArray[np.float64], offset: ArrayLike) -> "Mesh":
        """Turned by a (3, 3) matrix, then shifted."""
        return Mesh(self.points @ turn.T + np.asarray(offset), self.colours, self.body)


class MeshBuilder:
    """Collects faces into a mesh."""

    def __init__(self) -> None:
        self._points: list[NDArray[np.float64]] = []
        self._colours: list[Colour] = []
        self._body: list[bool] = []

    def face(self, corners: ArrayLike, colour: Colour, *, body: bool = True) -> None:
        """Three or four corners."""
        points = np.asarray(corners, np.float64)
        if len(points) == 3:
            points = np.concatenate([points, points[2:]])
        self._points.append(points)
        self._colours.append(colour)
        self._body.append(body)

    def box(
        self, low: tuple[float, float, float], high: tuple[float, float, float], side: Colour,
        top: Colour, shrink: float = 1.0,
    ) -> None:  # fmt: skip
        """An upright box without floor; `shrink` narrows its top."""
        middle = (np.array(low) + np.array(high)) / 2
        base = np.array([
            (low[0], low[1], low[2]), (high[0], low[1], low[2]),
            (high[0], low[1], high[2]), (low[0], low[1], high[2]),
        ])  # fmt: skip
        lid = base.copy()
        lid[:, 1] = high[1]
        lid[:, [0, 2]] = middle[[0, 2]] + shrink * (lid[:, [0, 2]] - middle[[0, 2]])
        for start in range(4):
            end = (start + 1) % 4
            self.face((base[start], lid[start], lid[end], base[end]), side)
        self.face(lid[::-1], top)

    def mesh(self) -> Mesh:
        return Mesh(np.array(self._points), tuple(self._colours), np.array(self._body))


def paint(
    mesh: Mesh, drone: Drone, picture: Picture, instances: Cover, identity: int
) -> NDArray[np.int32]:
    """Paint a mesh and write its identity, in place.

    Returns the corners of the outline's faces in sixteenths of pixels, (k, 4, 2).
    """
    pixels, _ = drone.project(mesh.points)
    first, second = pixels[:, 1] - pixels[:, 0], pixels[:, 2] - pixels[:, 1]
    third = pixels[:, 3] - pixels[:, 2]
    turn = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]
    turn += second[:, 0] * third[:, 1] - second[:, 1] * third[:, 0]
    fixed = np.round((pixels - 0.5) * 16).astype(np.int32)
    seen = np.flatnonzero(turn > 0)
    for index in seen:
        cv2.fillConvexPoly(picture, fixed[index], mesh.colours[index], cv2.LINE_AA, 4)
    outline: NDArray[np.int32] = fixed[seen[mesh.body[seen]]]
    for face in outline:
        cv2.fillConvexPoly(instances, face, identity, cv2.LINE_8, 4)
    return outline
