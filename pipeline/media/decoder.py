"""Pictures out of one open container, each with its time; what is damaged is told, not hidden."""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream

from stillframe.errors import SourceError
from stillframe.pipeline.media.pipe import PIPE_REMEDY
from stillframe.pipeline.media.pyav_compat import to_fraction
from stillframe.pipeline.media.source import SourceInfo, SourceKind
from stillframe.pipeline.media.timestamps import TimestampNormalizer
from stillframe.pipeline.media.to_rgb import orientation

MAX_READ_ERRORS = 64
MOST_IN_DECODER = 64
BUSY_WAIT_S = 0.01
INDEX_SAMPLE = 4096
LONGEST_LEAD_S = 60  # a container that starts earlier than this before its video is mistaken
# streams without a clock of their own: a live one is timed by when its pictures arrive
CLOCKLESS_FORMATS = frozenset({"h264", "hevc", "m4v", "mjpeg", "mpjpeg", "mpegvideo"})
TEXT_FORMATS = frozenset({"tty"})  # FFmpeg would draw any text file as if on a terminal


class ReadError(Exception):
    """Reading went wrong for good: `str` is FFmpeg's message, not yet redacted."""


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """One decoded picture, not yet converted. pts counts ticks of time_base and always rises."""

    image: av.VideoFrame
    pts: int
    time_base: Fraction
    corrupt: bool
    discontinuity: bool


class Decoder:
    """Reads one container to its end. `read_packet` is called from one thread at a time.

    The first picture is decoded when the decoder is made, so that what `info` says is true.
    Raises SourceError (`spec` names the source) when there is no video that can be decoded.

    info: the facts, from the container and the first picture.
    start: when the container's first stream starts, in seconds: the zero of `time_s`.
    skipped: packets so far that were too damaged to give a picture.
    """

    def __init__(
        self,
        container: InputContainer,
        *,
        spec: str,
        kind: SourceKind,
        threads: int,
        low_latency: bool,
    ) -> None:
        self.skipped = 0
        self._container = container
        self._spec = spec
        self._stream = _video_stream(container, spec)
        by_arrival = kind == "network" and container.format.name in CLOCKLESS_FORMATS
        self._began_s = time.monotonic() if by_arrival else None
        self._rate = None if by_arrival else _rate(self._stream)
        self._time_base = to_fraction(self._stream.time_base) or Fraction(1, 90_000)
        self._timestamps = TimestampNormalizer(self._time_base, self._rate)
        context = self._stream.codec_context
        context.thread_type = "SLICE" if low_latency else "AUTO"
        context.thread_count = threads
        if not low_latency:
            _ignore_other_streams(container, self._stream.index)
        self._packets = self._demux()
        self._read_errors = 0
        self._damaged = False  # something before the next picture could not be read or decoded
        # pts of packets that arrived marked as damaged, as long as they may be in the decoder
        self._suspects: deque[int] = deque(maxlen=MOST_IN_DECODER)
        self._shape: tuple[int, int] | None = None
        self._waiting: list[DecodedPicture] = []
        self._waiting = self._first(kind)
        first = self._waiting[0]
        self.start = _start(container, first.pts * first.time_base, self._rate)
        self.info = _info(container, self._stream, first.image, self._rate, spec, kind)

    def read_packet(self) -> list[DecodedPicture] | None:
        """The pictures that the next packet completes, often none; None at the end.

        Raises ReadError when reading fails for good.
        """
        if self._waiting:
            first, self._waiting = self._waiting, []
            return first
        packet = self._next_packet()
        if packet is None:
            return None
        if packet.stream.index != self._stream.index:  # a flushing packet's own index is always 0
            return []
        return [self._placed(image) for image in self._decoded(packet)]

    def close(self) -> None:
        """Free the container. Only by the thread that steps, or when none does."""
        self._packets = iter(())
        self._container.close()

    def _first(self, kind: SourceKind) -> list[DecodedPicture]:
        remedy = PIPE_REMEDY if kind == "pipe" else ""
        try:
            while (pictures := self.read_packet()) is not None:
                if pictures:
                    return pictures
        except ReadError as error:
            raise SourceError(f"{self._spec}: no frame could be read: {error}{remedy}") from None
        damage = f" ({self.skipped} damaged packets)" if self.skipped else ""
        raise SourceError(
            f"{self._spec}: a video track without a single frame that can be decoded{damage}"
            f"{remedy}"
        )

    def _demux(self) -> "Iterator[Packet[Stream]]":
        # every stream, not only the video: a track that falls silent while others go on must not
        # keep the reader inside FFmpeg
        return self._container.demux()

    def _next_packet(self) -> "Packet[Stream] | None":
        while True:
            try:
                packet = next(self._packets, None)
            except (av.InvalidDataError, av.BlockingIOError) as error:
                time.sleep(0.0 if isinstance(error, av.InvalidDataError) else BUSY_WAIT_S)
                self.skipped += 1
                self._read_errors += 1
                self._damaged = True
                if self._read_errors > MAX_READ_ERRORS:
                    raise ReadError(f"{error.strerror}, {self._read_errors} times on end") from None
                self._packets = self._demux()  # the generator ended with its error; read on
            except av.ExitError:
                raise ReadError("no answer in time") from None
            except (av.FFmpegError, OSError) as error:
                raise ReadError(error.strerror or type(error).__name__) from None
            else:
                self._read_errors = 0
                return packet

    def _decoded(self, packet: "Packet[Stream]") -> list[av.VideoFrame]:
        if packet.is_corrupt and packet.pts is not None:
            self._suspects.append(packet.pts)
        try:
            return [image for image in packet.decode() if isinstance(image, av.VideoFrame)]
        except av.EOFError:
            return []
        except (av.FFmpegError, ValueError):
            self.skipped += 1
            self._damaged = True
            return []

    def _placed(self, image: av.VideoFrame) -> DecodedPicture:
        raw = image.pts
        if self._began_s is None:
            pts, jumped = self._timestamps.normalize(raw, image.duration)
        else:
            arrived = round((time.monotonic() - self._began_s) / self._time_base)
            pts, jumped = self._timestamps.normalize(arrived)
        shape = (image.width, image.height)
        resized = self._shape is not None and shape != self._shape
        self._shape = shape
        return DecodedPicture(
            image=image,
            pts=pts,
            time_base=self._time_base,
            corrupt=self._is_damaged(image, raw),
            discontinuity=jumped or resized,
        )

    def _is_damaged(self, image: av.VideoFrame, raw: int | None) -> bool:
        marked = raw in self._suspects
        after, self._damaged = self._damaged, False
        return image.is_corrupt or marked or after


def _video_stream(container: InputContainer, where: str) -> av.VideoStream:
    if container.format.name in TEXT_FORMATS:
        raise SourceError(f"{where}: a text file, not a video")
    best = container.streams.best("video")
    pictures = [s for s in container.streams.video if not _is_cover(s)]
    chosen = best if isinstance(best, av.VideoStream) and best in pictures else None
    if chosen is None and not pictures:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise SourceError(f"{where}: no video track; it holds {kinds or 'nothing'}")
    stream = chosen or pictures[0]
    if stream.codec_context is None:
        raise SourceError(f"{where}: its video codec has no decoder here; convert it to H.264")
    return stream


def _start(container: InputContainer, first: Fraction, rate: Fraction | None) -> Fraction:
    if container.start_time is None or rate is None:
        return first
    stated = Fraction(container.start_time, av.time_base)
    # a lead of a frame or two is only how codecs reorder and containers round
    return stated if 2 / rate < first - stated < LONGEST_LEAD_S else first


def _info(
    container: InputContainer,
    stream: av.VideoStream,
    first: av.VideoFrame,
    rate: Fraction | None,
    spec: str,
    kind: SourceKind,
) -> SourceInfo:
    turn = orientation(first)
    sideways = turn.rotation in (90, 270)
    audio = container.streams.best("audio")
    return SourceInfo(
        spec=spec,
        kind=kind,
        width=first.height if sideways else first.width,
        height=first.width if sideways else first.height,
        rate=rate,
        frame_count=stream.frames or None,
        duration_s=_duration_s(container, stream),
        codec=stream.codec_context.name,
        pix_fmt=first.format.name,
        rotation=turn.rotation,
        has_audio=audio is not None,
        variable_rate=_variable_rate(stream),
        mirrored=turn.mirrored,
        container=container.format.name,
        audio_codec=audio.codec_context.name if audio and audio.codec_context else None,
        pixel_aspect=_pixel_aspect(stream, sideways),
    )


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _ignore_other_streams(container: InputContainer, index: int) -> None:
    for stream in container.streams:
        if stream.index != index:
            stream.discard = Discard.all


def _rate(stream: av.VideoStream) -> Fraction | None:
    rates = (stream.average_rate, stream.codec_context.framerate, stream.guessed_rate)
    return next(filter(None, map(to_fraction, rates)), None)


def _duration_s(container: InputContainer, stream: av.VideoStream) -> float | None:
    tick = to_fraction(stream.time_base)
    if stream.duration is not None and tick is not None:
        return float(stream.duration * tick)
    return None if container.duration is None else container.duration / av.time_base


def _variable_rate(stream: av.VideoStream) -> bool | None:
    """Whether the times in the container's index are uneven by more than rounding; or None."""
    if len(stream.index_entries) < max(3, stream.frames):
        return None
    times = [entry.timestamp for entry in stream.index_entries[:INDEX_SAMPLE]]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    return max(gaps) - min(gaps) > max(2, min(gaps) // 50)


def _pixel_aspect(stream: av.VideoStream, sideways: bool) -> Fraction:
    aspect = to_fraction(stream.sample_aspect_ratio)
    if aspect is None or aspect <= 0:
        return Fraction(1)
    return 1 / aspect if sideways else aspect
