"""Raw video made on the fly: pictures in planes, and y4m files."""

import io
from pathlib import Path

import numpy as np

from stillframe.pipeline.filter.planes import LAYOUTS, Colours, Planes

CHROMA_OF = {"yuv420p": "420mpeg2", "yuv422p": "422", "yuv444p": "444", "gray": "mono"}


def noise(
    layout: str, height: int, width: int, *, seed: int = 0, colours: Colours | None = None
) -> Planes:
    """A picture of random samples."""
    picture: Planes = Planes.empty(LAYOUTS[layout], colours or Colours(), (height, width))
    draw = np.random.default_rng(seed)
    picture.data[:] = draw.integers(16, 236, picture.data.size, dtype=np.uint8)
    return picture


def even(layout: str, height: int, width: int, luma: int) -> Planes:
    """A uniformly grey picture."""
    picture: Planes = Planes.empty(LAYOUTS[layout], Colours(), (height, width))
    for number, part in enumerate(picture.parts):
        part[:] = 128 if number else luma
    return picture


def header(layout: str, height: int, width: int, more: str = "") -> bytes:
    chroma = CHROMA_OF[layout]
    return f"YUV4MPEG2 W{width} H{height} F25:1 Ip A1:1 C{chroma}{more}\n".encode()


def frames(pictures: list[Planes]) -> list[bytes]:
    return [b"FRAME\n" + picture.data.tobytes() for picture in pictures]


def y4m(pictures: list[Planes], more: str = "") -> bytes:
    first = pictures[0]
    start = header(first.layout.name, first.height, first.width, more)
    return start + b"".join(frames(pictures))


def written(path: Path, pictures: list[Planes], more: str = "") -> Path:
    path.write_bytes(y4m(pictures, more))
    return path


class Trickle:
    """Delivers a few bytes at a time, like a slow pipe, and counts those that were read."""

    def __init__(self, data: bytes, most: int = 1 << 20) -> None:
        self._data, self._most = io.BytesIO(data), most
        self.taken = 0

    def read_into(self, space: memoryview) -> int:
        count = self._data.readinto(space[: self._most])
        self.taken += count
        return count
