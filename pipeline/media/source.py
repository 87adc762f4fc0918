"""What every source is and says about itself."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum
from fractions import Fraction
from typing import Literal

from stillframe.closing import Closing
from stillframe.pipeline.media.frame import Frame

SourceKind = Literal["file", "images", "camera", "network", "pipe", "sample"]


class SourceState(Enum):
    """Where a source stands. Only live sources are ever STALLED or RECONNECTING."""

    CONNECTING = "connecting"  # opened, no picture yet
    RUNNING = "running"
    STALLED = "stalled"  # connected, but no picture for a while
    RECONNECTING = "reconnecting"  # the connection was lost; the next attempt is waited for or made
    ENDED = "ended"  # every frame was delivered
    FAILED = "failed"  # lost for good; the iterator raised, or will raise, SourceError
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source holds, known once its first picture has been decoded.

    spec: the address in the form that may be shown, without credentials.
    width, height: of the first frame in pixels, upright, that is after `rotation`.
    rate: average frames per second, where the source states one.
    frame_count, duration_s: as the container states them; None for streams.
    rotation: degrees clockwise (0, 90, 180, 270) that were applied; `mirrored`: then flipped.
    variable_rate: True or False where the container's index shows it, else None.
    live: delivers the newest frame and drops what nobody waited for; otherwise every frame.
    pixel_aspect: width over height of one pixel, 1 where the source says nothing.
    """

    spec: str
    kind: SourceKind
    width: int
    height: int
    rate: Fraction | None = None
    frame_count: int | None = None
    duration_s: float | None = None
    codec: str | None = None
    pix_fmt: str | None = None
    rotation: int = 0
    has_audio: bool = False
    variable_rate: bool | None = None
    live: bool = False
    mirrored: bool = False
    container: str | None = None
    audio_codec: str | None = None
    pixel_aspect: Fraction = Fraction(1)

    def to_dict(self) -> dict[str, str | int | float | bool | None]:
        """All fields as JSON values; fractions as text (`30000/1001`), which loses nothing."""
        values = ((row.name, getattr(self, row.name)) for row in fields(self))
        return {name: str(v) if isinstance(v, Fraction) else v for name, v in values}


class Source(Closing):
    """An iterator of frames and a context manager; `close` may be called from any thread.

    dropped: live frames that were decoded but replaced by a newer one before anyone took them.
    skipped: packets or pictures that were too damaged to give a frame.
    frozen: a live picture has not changed in a single bit for a while: the camera hangs. It is an
    alarm, not a saving.
    """

    info: SourceInfo
    dropped: int = 0
    skipped: int = 0
    frozen: bool = False

    @property
    @abstractmethod
    def state(self) -> SourceState:
        """Where this source stands now; may be read from any thread."""

    @abstractmethod
    def __next__(self) -> Frame:
        """The next frame. Raises StopIteration at the end or once closed, SourceError when lost."""

    @abstractmethod
    def close(self) -> None:
        """End the source and free a reader that waits in another thread. May be called twice."""

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __repr__(self) -> str:
        about = self.info
        return f"<{type(self).__name__} {about.spec} {about.width}x{about.height}>"
