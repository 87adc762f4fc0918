"""Folders and patterns of pictures as one source, upright as their EXIF orientation says."""

import glob
import io
import os
import re
import struct
from fractions import Fraction
from pathlib import Path

import av

from stillframe.errors import SourceError
from stillframe.pipeline.media.address import IMAGE_SUFFIXES, NO_PROTOCOL, Address
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.pyav_compat import open_input
from stillframe.pipeline.media.source import Source, SourceInfo, SourceState
from stillframe.pipeline.media.to_rgb import ORIENTATIONS, Orientation, RgbConverter, orientation

DEFAULT_RATE = Fraction(25)

EXIF_ORIENTATION_TAG = 0x0112
EXIF_SHORT = 3
EXIF_MARKER = b"Exif\0\0"
EXIF_SEARCH_BYTES = 1 << 17  # the EXIF segment precedes the picture data

# the tag's values 1 to 8, as signs of the display matrix
EXIF_ORIENTATIONS: tuple[Orientation, ...] = tuple(
    ORIENTATIONS[signs]
    for signs in (
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (-1, 0, 0, -1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, 1, -1, 0),
        (0, -1, -1, 0),
        (0, -1, 1, 0),
    )
)

OrientedPicture = tuple[av.VideoFrame, Orientation]


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """Sorts `2.png` before `10.png`: runs of digits count as numbers."""
    parts = re.findall(r"\d+|\D+", path)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def list_images(target: str, shown: str) -> list[str]:
    """The picture files of a folder, a pattern or a file name, in natural order."""
    if os.path.isdir(target):
        paths = [str(path) for path in Path(target).iterdir()]
        fault = f"a folder without a picture ({', '.join(sorted(IMAGE_SUFFIXES))})"
    elif os.path.isfile(target):
        return [target]
    else:
        paths = glob.glob(target, recursive=True)
        fault = "no picture matches this pattern"
    paths = [path for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    paths = [path for path in paths if os.path.isfile(path)]
    if not paths:
        raise SourceError(f"{shown}: {fault}")
    return sorted(paths, key=natural_key)


class ImageSource(Source):
    """Pictures in natural order at `rate` per second (default 25).

    An unreadable picture is skipped and counted in `skipped`; time and index go on, and the next
    frame is a discontinuity. So is a frame of another size.
    """

    def __init__(self, address: Address, rate: Fraction | None) -> None:
        self._paths = list_images(address.target, address.shown)
        self._time_base = 1 / (rate or DEFAULT_RATE)
        self._converter = RgbConverter()
        self._status = SourceState.RUNNING
        self._next = 0
        self._gap = False
        self._shape: tuple[int, int] | None = None
        self._pending = self._read_next()
        if self._pending is None:
            raise SourceError(
                f"{address.shown}: none of its {len(self._paths)} pictures can be read"
            )
        first, turn = self._pending
        sideways = turn.rotation in (90, 270)
        self.info: SourceInfo = SourceInfo(
            spec=address.shown,
            kind="images",
            width=first.height if sideways else first.width,
            height=first.width if sideways else first.height,
            rate=1 / self._time_base,
            frame_count=len(self._paths),
            duration_s=float(len(self._paths) * self._time_base),
            codec=Path(self._paths[0]).suffix[1:].lower(),
            pix_fmt=first.format.name,
            rotation=turn.rotation,
            mirrored=turn.mirrored,
            variable_rate=False,
            container="images",
        )

    @property
    def state(self) -> SourceState:
        return self._status

    def __next__(self) -> Frame:
        oriented, self._pending = self._pending or self._read_next(), None
        if oriented is None:
            if self._status is SourceState.RUNNING:
                self._status = SourceState.ENDED
            raise StopIteration
        picture, turn = oriented
        image = self._converter.convert(picture, turn)
        resized = self._shape is not None and self._shape != image.shape[:2]
        self._shape = (image.shape[0], image.shape[1])
        gap, self._gap = self._gap, False
        index = self._next - 1
        return Frame(
            image=image,
            index=index,
            time_s=float(index * self._time_base),
            pts=index,
            time_base=self._time_base,
            corrupt=picture.is_corrupt,
            discontinuity=gap or resized,
        )

    def close(self) -> None:
        self._status = SourceState.CLOSED
        self._pending = None

    def _read_next(self) -> OrientedPicture | None:
        """The next picture that can be decoded; None after the last."""
        while self._status is SourceState.RUNNING and self._next < len(self._paths):
            path = self._paths[self._next]
            self._next += 1
            picture = _decode(path)
            if picture is not None:
                return picture
            self.skipped += 1
            self._gap = True
        return None


def _decode(path: str) -> OrientedPicture | None:
    """The first picture in a file and its orientation; None if it cannot be read.

    FFmpeg gets the bytes, not the name: it would take a name with a % for a sequence of files.
    """
    try:
        data = Path(path).read_bytes()
        with open_input(io.BytesIO(data), NO_PROTOCOL) as container:
            for picture in container.decode(video=0):
                return picture, exif_orientation(data) or orientation(picture)
        return None
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return None


def exif_orientation(data: bytes) -> Orientation | None:
    """The EXIF orientation of a JPEG's bytes; None if there is none that makes sense."""
    start = data.find(EXIF_MARKER, 0, EXIF_SEARCH_BYTES)
    if not data.startswith(b"\xff\xd8") or start < 0:
        return None
    body = data[start + len(EXIF_MARKER) :]
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None:
        return None
    try:
        (table,) = struct.unpack_from(f"{order}I", body, 4)
        (count,) = struct.unpack_from(f"{order}H", body, table)
        for entry in range(count):
            at = table + 2 + 12 * entry
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", body, at)
            if (
                tag == EXIF_ORIENTATION_TAG
                and kind == EXIF_SHORT
                and 1 <= value <= len(EXIF_ORIENTATIONS)
            ):
                return EXIF_ORIENTATIONS[int(value) - 1]
    except struct.error:  # the data is cut off
        return None
    return None
