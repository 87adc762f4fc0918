"""Decodes one open container into timed pictures. Damage is flagged, not hidden."""

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
from stillframe.pipeline.media.pyav_compat import times_may_restart, to_fraction
from stillframe.pipeline.media.source import SourceInfo, SourceKind
from stillframe.pipeline.media.timestamps import (
    FAR_JUMP_AHEAD_S,
    JUMP_AHEAD_S,
    TimestampNormalizer,
)
from stillframe.pipeline.media.to_rgb import orientation

MAX_READ_ERRORS = 64
MAX_IN_DECODER = 64
BUSY_WAIT_S = 0.01
INDEX_SAMPLE = 4096
LONGEST_LEAD_S = 60  # a container that claims to start earlier before its video is wrong
# formats without timestamps: a live stream's pictures are timed by their arrival
CLOCKLESS_FORMATS = frozenset({"h264", "hevc", "m4v", "mjpeg", "mpjpeg", "mpegvideo"})
# their pictures come as they are taken, so a clock tells what was held back
CLOCK_KINDS = frozenset({"network", "camera"})
TEXT_FORMATS = frozenset({"tty"})  # FFmpeg would render any text file as a terminal


class ReadError(Exception):
    """Reading failed for good. `str` is FFmpeg's message, not yet redacted."""


@dataclass(frozen=True, slots=True)
class DecodedPicture:
    """One decoded picture, not yet converted to RGB."""

    image: av.VideoFrame
    pts: int
    """Ticks of `time_base`; always rises."""
    time_base: Fraction
    corrupt: bool
    discontinuity: bool
    late_s: float = 0.0
    """Seconds for which a live picture was held back; 0: it came as it was taken."""


class Decoder:
    """Reads one container to its end. Not thread-safe.

    The constructor decodes the first picture, so that `info` is true. It raises SourceError (with
    `spec` as the source's name) if no video can be decoded.
    """

    info: SourceInfo
    """The facts of the container and its first picture."""
    start: Fraction
    """When the container's first stream starts, in seconds: the zero of `time_s`."""
    skipped: int
    """Packets so far that were too damaged to give a picture."""
    rebased: int
    """Jumps of the time stamps so far that were taken out."""

    def __init__(
        self,
        container: InputContainer,
        *,
        spec: str,
        kind: SourceKind,
        threads: int,
        low_latency: bool,
    ) -> None:
        self.skipped = self.rebased = 0
        self._container = container
        self._spec = spec
        self._stream = _video_stream(container, spec)
        by_arrival = kind == "network" and container.format.name in CLOCKLESS_FORMATS
        self._arrival_start_s = time.monotonic() if by_arrival else None
        self._rate = None if by_arrival else _rate(self._stream)
        self._time_base = to_fraction(self._stream.time_base) or Fraction(1, 90_000)
        self._follows_clock = kind in CLOCK_KINDS and container.duration is None
        self._timestamps = TimestampNormalizer(
            self._time_base,
            self._rate,
            JUMP_AHEAD_S if self._follows_clock else jump_ahead_s(container),
        )
        context = self._stream.codec_context
        context.thread_type = "SLICE" if low_latency else "AUTO"
        context.thread_count = threads
        if not low_latency:
            _ignore_other_streams(container, self._stream.index)
        self._packets = self._demux()
        self._read_errors = 0
        self._damaged = False  # data before the next picture could not be read or decoded
        # pts of packets flagged as corrupt that may still be in the decoder
        self._corrupt_pts: deque[int] = deque(maxlen=MAX_IN_DECODER)
        self._shape: tuple[int, int] | None = None
        self._pending: list[DecodedPicture] = []
        self._pending = self._first_pictures(kind)
        first = self._pending[0]
        self.start = _start(container, first.pts * first.time_base, self._rate)
        self.info = _info(container, self._stream, first.image, self._rate, spec, kind)

    def read_packet(self) -> list[DecodedPicture] | None:
        """The pictures that the next packet completes, often none; None at the end.

        Raises ReadError when reading fails for good.
        """
        if self._pending:
            pictures, self._pending = self._pending, []
            return pictures
        packet = self._next_packet()
        if packet is None:
            return None
        if packet.stream.index != self._stream.index:  # a flush packet's own index is always 0
            return []
        return [self._timed(image) for image in self._decode(packet)]

    def close(self) -> None:
        """Free the container. Not while another thread is in `read_packet`."""
        self._packets = iter(())
        self._container.close()

    def _first_pictures(self, kind: SourceKind) -> list[DecodedPicture]:
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
        # all streams, not only the video: if the video track falls silent while others go on,
        # FFmpeg must still return
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

    def _decode(self, packet: "Packet[Stream]") -> list[av.VideoFrame]:
        if packet.is_corrupt and packet.pts is not None:
            self._corrupt_pts.append(packet.pts)
        try:
            return [image for image in packet.decode() if isinstance(image, av.VideoFrame)]
        except av.EOFError:
            return []
        except (av.FFmpegError, ValueError):
            self.skipped += 1
            self._damaged = True
            return []

    def _timed(self, image: av.VideoFrame) -> DecodedPicture:
        raw_pts = image.pts
        if self._arrival_start_s is None:
            now_s = time.monotonic() if self._follows_clock else None
            pts, jumped = self._timestamps.normalize(raw_pts, image.duration, now_s)
        else:
            arrival = round((time.monotonic() - self._arrival_start_s) / self._time_base)
            pts, jumped = self._timestamps.normalize(arrival)
        self.rebased = self._timestamps.rebased
        shape = (image.width, image.height)
        resized = self._shape is not None and shape != self._shape
        self._shape = shape
        return DecodedPicture(
            image=image,
            pts=pts,
            time_base=self._time_base,
            corrupt=self._is_damaged(image, raw_pts),
            discontinuity=jumped or resized,
            late_s=self._timestamps.late_s,
        )

    def _is_damaged(self, image: av.VideoFrame, raw_pts: int | None) -> bool:
        after_damage, self._damaged = self._damaged, False
        return image.is_corrupt or raw_pts in self._corrupt_pts or after_damage


def jump_ahead_s(container: InputContainer) -> float:
    """From how many seconds on a leap of the container's times is damage, not a gap."""
    return JUMP_AHEAD_S if times_may_restart(container) else FAR_JUMP_AHEAD_S


def _video_stream(container: InputContainer, spec: str) -> av.VideoStream:
    if container.format.name in TEXT_FORMATS:
        raise SourceError(f"{spec}: a text file, not a video")
    best = container.streams.best("video")
    videos = [s for s in container.streams.video if not _is_cover_art(s)]
    chosen = best if isinstance(best, av.VideoStream) and best in videos else None
    if chosen is None and not videos:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise SourceError(f"{spec}: no video track; it holds {kinds or 'nothing'}")
    stream = chosen or videos[0]
    if stream.codec_context is None:
        raise SourceError(f"{spec}: its video codec has no decoder here; convert it to H.264")
    return stream


def _start(container: InputContainer, first: Fraction, rate: Fraction | None) -> Fraction:
    if container.start_time is None or rate is None:
        return first
    stated = Fraction(container.start_time, av.time_base)
    # a lead of a frame or two comes from codec reordering and rounding
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


def _is_cover_art(stream: av.VideoStream) -> bool:
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
    """Whether intervals in the container's index vary beyond rounding; None without an index."""
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
