"""What every source is: an iterator of frames that knows its facts and its state."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from enum import Enum
from fractions import Fraction
from typing import Literal

from stillframe.closing import Closing
from stillframe.pipeline.media.frame import Frame

SourceKind = Literal["file", "images", "camera", "network", "pipe", "sample"]


class SourceState(Enum):
    """The state of a source. Only live sources are ever STALLED, LOST or FROZEN."""

    CONNECTING = "connecting"
    """Opened, no picture yet."""
    RUNNING = "running"
    """Pictures come."""
    STALLED = "stalled"
    """Connected, but no picture for a while."""
    FROZEN = "frozen"
    """Pictures come, but each repeats the one before it bit for bit."""
    LOST = "lost"
    """Connection lost; waiting for the next attempt, or making it."""
    ENDED = "ended"
    """Every frame was delivered."""
    FAILED = "failed"
    """Lost for good; the iterator raised, or will raise, SourceError."""
    CLOSED = "closed"
    """By `close`."""

    @property
    def label(self) -> str:
        """For events and metrics: a source that failed or was closed has ended."""
        over = (SourceState.FAILED, SourceState.CLOSED)
        return SourceState.ENDED.value if self in over else self.value


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """A live source changed its state."""

    kind: str
    """The state that it entered: running, stalled, frozen, lost or ended."""
    wall_time: float
    """When, in Unix seconds."""
    source: str
    """Its address without credentials."""
    reason: str
    """Why, for people."""
    previous: str
    """The state before."""
    duration_s: float
    """How long that lasted."""

    def to_dict(self) -> dict[str, str | float]:
        """As JSON values; `kind` is called `event` there, which no record of a frame has."""
        values = asdict(self)
        del values["kind"]
        return {"event": self.kind, **values}


OnEvent = Callable[[SourceEvent], None]


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """The facts of a source, known once its first picture is decoded."""

    spec: str
    """The address without credentials; safe to show."""
    kind: SourceKind
    width: int
    """Of the first frame in pixels, upright (after `rotation`)."""
    height: int
    """Of the first frame in pixels, upright (after `rotation`)."""
    rate: Fraction | None = None
    """Average frames per second; None if the source does not state one."""
    frame_count: int | None = None
    """As the container states it; None for streams."""
    duration_s: float | None = None
    """As the container states it; None for streams."""
    codec: str | None = None
    pix_fmt: str | None = None
    """FFmpeg's pixel format before conversion to RGB."""
    rotation: int = 0
    """Degrees clockwise (0, 90, 180, 270) that were applied."""
    has_audio: bool = False
    variable_rate: bool | None = None
    """Whether frame intervals vary; None if the container has no index."""
    live: bool = False
    """True: delivers the newest frame and drops the rest. False: delivers every frame."""
    mirrored: bool = False
    """Whether the picture was flipped left to right after `rotation`."""
    container: str | None = None
    """FFmpeg's name of the container format."""
    audio_codec: str | None = None
    pixel_aspect: Fraction = Fraction(1)
    """Width over height of one pixel, upright; 1 if the source does not state it."""

    def to_dict(self) -> dict[str, str | int | float | bool | None]:
        """All fields as JSON values; fractions as exact text (`30000/1001`)."""
        values = ((row.name, getattr(self, row.name)) for row in fields(self))
        return {name: str(v) if isinstance(v, Fraction) else v for name, v in values}


class Source(Closing):
    """An iterator of frames and a context manager. Any thread may call `close`."""

    info: SourceInfo
    dropped: int = 0
    """Live frames that were decoded but replaced by a newer one before anyone took them."""
    skipped: int = 0
    """Packets or pictures too damaged to give a frame."""
    rebased: int = 0
    """Jumps of the time stamps that were taken out: frames go on at their usual interval."""
    reconnects: int = 0
    """Connections after the first one that gave a picture."""
    frozen: bool = False
    """The live picture has been bit-identical for a while: the camera hangs. An alarm."""
    captured_s: float | None = None
    """When the newest live picture was taken, by the monotonic clock; None: none yet, or not live.
    A picture that repeats the one before it bit for bit is as old as that one."""

    @property
    @abstractmethod
    def state(self) -> SourceState:
        """The current state. Any thread may read it."""

    @abstractmethod
    def __next__(self) -> Frame:
        """The next frame. Raises StopIteration at the end or once closed, SourceError on loss."""

    @abstractmethod
    def close(self) -> None:
        """End the source and unblock a reader in another thread. May be called twice."""

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __repr__(self) -> str:
        info = self.info
        return f"<{type(self).__name__} {info.spec} {info.width}x{info.height}>"
