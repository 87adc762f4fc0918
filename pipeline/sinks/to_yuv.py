"""Converts RGB pictures to what video encoders take: BT.709, limited range, 4:2:0."""

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

RED, BLUE = 0.2126, 0.0722
"""Weights of red and blue in the brightness, of BT.709; green has the rest."""
BLACK, GREY = 16, 128
"""Brightness of black, and chroma of grey, in limited range."""
LUMA_LEVELS, CHROMA_LEVELS = 219 / 255, 224 / 255
"""Levels of limited range per level of full range."""


def _matrix() -> NDArray[np.float32]:
    """(3, 4): RGB and 1 -> Y, U, V."""
    y = np.array([RED, 1 - RED - BLUE, BLUE])
    u = (np.array([0, 0, 1]) - y) / (2 * (1 - BLUE))
    v = (np.array([1, 0, 0]) - y) / (2 * (1 - RED))
    scaled = np.array([y * LUMA_LEVELS, u * CHROMA_LEVELS, v * CHROMA_LEVELS])
    return np.hstack([scaled, [[BLACK], [GREY], [GREY]]]).astype(np.float32)


class YuvConverter:
    """Converts pictures of one size, into memory that it reuses. Not thread-safe.

    Two passes of OpenCV: the brightness of each pixel, and the chroma of the mean of each 2x2
    pixels. FFmpeg's scaler takes twice the time, and picks the chroma of single rows.

    width, height: in pixels, both even.
    """

    def __init__(self, width: int, height: int) -> None:
        self._frame = av.VideoFrame(width, height, "yuv420p")
        self._whole: Pixels = np.empty((height, width, 3), np.uint8)
        self._half: Pixels = np.empty((height // 2, width // 2, 3), np.uint8)
        self._half_yuv: Pixels = np.empty_like(self._half)
        self._to_yuv = _matrix()

    def convert(self, picture: Pixels) -> av.VideoFrame:
        """(H, W, 3) RGB -> a frame that is valid until the next call.

        An encoder may refer to it for longer: then the next picture gets memory of its own.
        """
        height, width = self._whole.shape[:2]
        cv2.transform(picture, self._to_yuv, dst=self._whole)
        cv2.resize(picture, (width // 2, height // 2), self._half, interpolation=cv2.INTER_AREA)
        cv2.transform(self._half, self._to_yuv, dst=self._half_yuv)
        self._frame.make_writable()
        for channel, source in enumerate((self._whole, self._half_yuv, self._half_yuv)):
            cv2.extractChannel(source, channel, self._plane(channel))
        return self._frame

    def _plane(self, index: int) -> Pixels:
        """A view of the frame's memory, without the padding of its rows."""
        plane = self._frame.planes[index]
        memory: Pixels = np.frombuffer(memoryview(plane), np.uint8)
        return memory.reshape(plane.height, plane.line_size)[:, : plane.width]
