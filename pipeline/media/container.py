"""Files through FFmpeg; each kind of source may open only the protocols that it needs."""

import threading
from collections.abc import Callable, Mapping

import av
from av.container import InputContainer

from stillframe.errors import SourceError
from stillframe.pipeline.media.address import FILE_PROTOCOLS, Address
from stillframe.pipeline.media.connection import DeniedError, PermanentError
from stillframe.pipeline.media.decoder import Decoder, ReadError
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.pipe import PIPE_REMEDY, PipeReader
from stillframe.pipeline.media.pyav_compat import open_input
from stillframe.pipeline.media.redaction import redact
from stillframe.pipeline.media.source import Source, SourceInfo, SourceState
from stillframe.pipeline.media.to_rgb import RgbConverter

CLOSE_S = 5.0
# do not measure a stream's frame rate before its first picture
LOW_LATENCY: Mapping[str, str] = {"fpsprobesize": "0"}
# of a stream that was open before: its facts are known, and FFmpeg would hold back the first
# seven pictures to find out how they are ordered
QUICK_PROBE: Mapping[str, str] = {"analyzeduration": "100000"}  # microseconds
DENIALS = (av.HTTPUnauthorizedError, av.HTTPForbiddenError)  # of RTSP servers too
NOT_A_VIDEO = "not a video that can be read, or cut off before its index"


def open_container(
    file: str | PipeReader,
    address: Address,
    protocols: str,
    options: Mapping[str, str],
    timeout_s: float | None,
    format_name: str | None = None,
) -> InputContainer:
    """A container that may open only `protocols`. Raises SourceError with FFmpeg's message."""
    try:
        return open_input(file, protocols, options, timeout_s, format_name)
    except av.InvalidDataError:
        remedy = PIPE_REMEDY if address.kind == "pipe" else ""
        raise SourceError(f"{address.shown}: {NOT_A_VIDEO}{remedy}") from None
    except av.ExitError:
        raise SourceError(f"{address.shown}: no answer within {timeout_s:g} s") from None
    except av.ProtocolNotFoundError:
        raise PermanentError(
            f"{address.shown}: this build of FFmpeg cannot read it, or it refers to a place "
            f"that a {address.kind} source may not open"
        ) from None
    except (av.FFmpegError, OSError, ValueError) as error:
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = redact(message, address.target)
        kind = DeniedError if isinstance(error, DENIALS) else SourceError
        raise kind(f"{address.shown}: cannot be opened: {reason.lower()}") from None


def open_decoder(
    connect: Callable[[], InputContainer],
    address: Address,
    *,
    threads: int,
    low_latency: bool,
) -> Decoder:
    """A decoder over a new container, which is closed again if it holds no video."""
    container = connect()
    try:
        return Decoder(
            container,
            spec=address.shown,
            kind=address.kind,
            threads=threads,
            low_latency=low_latency,
        )
    except BaseException:
        container.close()
        raise


class FileSource(Source):
    """Every frame of a file, decoded in the thread that asks for it."""

    def __init__(self, address: Address, path: str, threads: int) -> None:
        self._address = address
        self._lock = threading.RLock()  # reentrant: a signal handler may close during a read
        self._status = SourceState.CONNECTING
        self._converter = RgbConverter()
        self._is_stuck = False
        """Whether `close` gave up waiting for a reader: it does not wait again."""
        self._index = 0
        self._decoder = open_decoder(
            lambda: open_container(f"file:{path}", address, FILE_PROTOCOLS, {}, None),
            address,
            threads=threads,
            low_latency=False,
        )
        self._start = self._decoder.start
        self._pictures = iter(self._decoder.read_packet() or [])
        self.info: SourceInfo = self._decoder.info
        self._status = SourceState.RUNNING

    @property
    def state(self) -> SourceState:
        return self._status

    def __next__(self) -> Frame:
        with self._lock:
            while self._status is SourceState.RUNNING:
                for picture in self._pictures:
                    frame = Frame(
                        image=self._converter.convert(picture.image),
                        index=self._index,
                        time_s=float(picture.pts * picture.time_base - self._start),
                        pts=picture.pts,
                        time_base=picture.time_base,
                        corrupt=picture.corrupt,
                        discontinuity=picture.discontinuity,
                    )
                    self._index += 1
                    return frame
                self._read_packet()
        raise StopIteration

    def close(self) -> None:
        ended = self._status is SourceState.ENDED
        self._status = SourceState.CLOSED
        # a reader in another thread holds the lock for one packet, or for as long as a disk hangs
        if ended or self._is_stuck:
            return
        if self._lock.acquire(timeout=CLOSE_S):
            try:
                self._free()
            finally:
                self._lock.release()
        else:
            self._is_stuck = True

    def _read_packet(self) -> None:
        try:
            pictures = self._decoder.read_packet()
        except ReadError as error:
            self._free()
            self._status = SourceState.FAILED
            raise SourceError(
                f"{self.info.spec}: reading failed after frame {self._index}: {error}"
            ) from None
        self.skipped, self.rebased = self._decoder.skipped, self._decoder.rebased
        self._pictures = iter(pictures or [])
        if pictures is None:
            self._free()
            self._status = SourceState.ENDED

    def _free(self) -> None:
        self._pictures = iter(())
        self._decoder.close()
