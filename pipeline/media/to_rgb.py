"""Converts decoded pictures of any format to upright RGB."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
MatrixSigns = tuple[int, int, int, int]
side_data: Any = SideDataContainer  # its stubs lack the constructor's argument


@dataclass(frozen=True, slots=True)
class Orientation:
    """How to make a stored picture upright: rotate, then mirror."""

    rotation: int
    """Degrees clockwise: 0, 90, 180 or 270."""
    mirrored: bool
    """Left to right."""
    apply: Callable[[Pixels], Pixels]
    """(H, W, ...) -> the upright picture."""


def _identity(image: Pixels) -> Pixels:
    return image


def _flipped(code: int) -> Callable[[Pixels], Pixels]:
    return lambda image: cv2.flip(image, code).astype(np.uint8, copy=False)


def _turned(code: int) -> Callable[[Pixels], Pixels]:
    return lambda image: cv2.rotate(image, code).astype(np.uint8, copy=False)


def _transposed(image: Pixels) -> Pixels:
    return cv2.transpose(image).astype(np.uint8, copy=False)


def _antitransposed(image: Pixels) -> Pixels:
    return cv2.rotate(cv2.transpose(image), cv2.ROTATE_180).astype(np.uint8, copy=False)


UPRIGHT = Orientation(0, False, _identity)

# signs of (a, b, c, d) of the display matrix: a pixel at (x, y), y downwards, is shown at
# (a·x + c·y, b·x + d·y)
ORIENTATIONS: dict[MatrixSigns, Orientation] = {
    (1, 0, 0, 1): UPRIGHT,
    (0, 1, -1, 0): Orientation(90, False, _turned(cv2.ROTATE_90_CLOCKWISE)),
    (-1, 0, 0, -1): Orientation(180, False, _turned(cv2.ROTATE_180)),
    (0, -1, 1, 0): Orientation(270, False, _turned(cv2.ROTATE_90_COUNTERCLOCKWISE)),
    (-1, 0, 0, 1): Orientation(0, True, _flipped(1)),
    (0, 1, 1, 0): Orientation(90, True, _transposed),
    (1, 0, 0, -1): Orientation(180, True, _flipped(0)),
    (0, -1, -1, 0): Orientation(270, True, _antitransposed),
}


def orientation(picture: av.VideoFrame) -> Orientation:
    """The orientation in the picture's display matrix, to the nearest quarter turn."""
    try:  # picture.side_data would be a reference cycle and keep the picture alive
        matrix = side_data(picture).get("DISPLAYMATRIX")
    except ValueError:  # side data that PyAV does not know; it still gives the rotation
        return _rotated(round(-picture.rotation / 90) * 90 % 360)
    if not isinstance(matrix, SideData):
        return UPRIGHT
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        b = c = 0
    else:
        a = d = 0
    return ORIENTATIONS.get((_sign(a), _sign(b), _sign(c), _sign(d)), UPRIGHT)


def _rotated(degrees: int) -> Orientation:
    return next(o for o in ORIENTATIONS.values() if (o.rotation, o.mirrored) == (degrees, False))


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


class RgbConverter:
    """Converts pictures to (H, W, 3) uint8 RGB. Caches FFmpeg's scaler, so make one per source.

    FFmpeg handles limited range, chroma subsampling, 10 bit, grey and palettes; alpha is dropped.
    Colours follow the stream's matrix, BT.601 if it states none.
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, picture: av.VideoFrame, turn: Orientation | None = None) -> Pixels:
        """The upright picture, C-contiguous, in memory of its own.

        turn: overrides the picture's display matrix.
        """
        plain = self._reformatter.reformat(picture, format="rgb24", threads=1)
        # a picture that is RGB already belongs to the decoder, which may still read it: copy
        image = np.array(plain.to_ndarray(), np.uint8, copy=True if plain is picture else None)
        return np.ascontiguousarray((turn or orientation(picture)).apply(image), dtype=np.uint8)
