"""Folders and patterns of pictures as one source."""

import glob
import io
import os
import re
from fractions import Fraction
from pathlib import Path

import av

from stillframe.errors import SourceError
from stillframe.pipeline.media import exif
from stillframe.pipeline.media.address import IMAGE_SUFFIXES, NO_PROTOCOL, Address
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.pyav_compat import open_input
from stillframe.pipeline.media.source import Source, SourceInfo, SourceState
from stillframe.pipeline.media.to_rgb import Orientation, RgbConverter, orientation

DEFAULT_RATE = Fraction(25)

Turned = tuple[av.VideoFrame, Orientation]


def natural_key(path: str) -> list[tuple[int, int, str]]:
    """Sorts `2.png` before `10.png`: runs of digits count as numbers."""
    parts = re.findall(r"\d+|\D+", path)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def list_images(target: str, shown: str) -> list[str]:
    """The pictures that a folder, a pattern or a file name stands for, in natural order."""
    if os.path.isdir(target):
        found = [str(path) for path in Path(target).iterdir()]
        what = f"a folder without a picture ({', '.join(sorted(IMAGE_SUFFIXES))})"
    elif os.path.isfile(target):
        return [target]
    else:
        found = glob.glob(target, recursive=True)
        what = "no picture matches this pattern"
    found = [path for path in found if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    found = [path for path in found if os.path.isfile(path)]
    if not found:
        raise SourceError(f"{shown}: {what}")
    return sorted(found, key=natural_key)


class ImageSource(Source):
    """Pictures in natural order, `rate` a second (25 unless stated).

    A picture that cannot be read is skipped and counted in `skipped`; time and index go on, and
    the next frame is a discontinuity. So is one of another size.
    """

    def __init__(self, address: Address, rate: Fraction | None) -> None:
        self._paths = list_images(address.target, address.shown)
        self._time_base = 1 / (rate or DEFAULT_RATE)
        self._converter = RgbConverter()
        self._status = SourceState.RUNNING
        self._next = 0
        self._gap = False
        self._shape: tuple[int, int] | None = None
        self._waiting = self._read_on()
        if self._waiting is None:
            raise SourceError(
                f"{address.shown}: none of its {len(self._paths)} pictures can be read"
            )
        first, turn = self._waiting
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
        found, self._waiting = self._waiting or self._read_on(), None
        if found is None:
            if self._status is SourceState.RUNNING:
                self._status = SourceState.ENDED
            raise StopIteration
        picture, turn = found
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
        self._waiting = None

    def _read_on(self) -> Turned | None:
        """The next picture that can be decoded, or None after the last."""
        while self._status is SourceState.RUNNING and self._next < len(self._paths):
            path = self._paths[self._next]
            self._next += 1
            picture = _decoded(path)
            if picture is not None:
                return picture
            self.skipped += 1
            self._gap = True
        return None


def _decoded(path: str) -> Turned | None:
    """The first picture in a file and how to turn it, or None if there is none that can be read.

    FFmpeg gets the bytes and no name: a name with a % in it would stand for a row of files.
    """
    try:
        data = Path(path).read_bytes()
        with open_input(io.BytesIO(data), NO_PROTOCOL) as container:
            for picture in container.decode(video=0):
                return picture, exif.exif_orientation(data) or orientation(picture)
        return None
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return None
