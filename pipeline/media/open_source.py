"""open_source: whatever a text names, as one iterator of frames."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from types import MappingProxyType

from av.container import InputContainer

from stillframe.errors import SourceError, UsageError
from stillframe.pipeline.media import camera
from stillframe.pipeline.media.address import FILE_PROTOCOLS, NO_PROTOCOL, Address, parse_address
from stillframe.pipeline.media.connection import Backoff, LivePolicy, OpenConnection
from stillframe.pipeline.media.container import (
    LOW_LATENCY,
    QUICK_PROBE,
    FileSource,
    open_container,
    open_decoder,
)
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.image_sequence import ImageSource
from stillframe.pipeline.media.live import ThreadedSource
from stillframe.pipeline.media.pipe import PipeReader, named_pipe, standard_input
from stillframe.pipeline.media.source import (
    OnEvent,
    Source,
    SourceEvent,
    SourceInfo,
    SourceKind,
    SourceState,
)

__all__ = [
    "Frame",
    "Source",
    "SourceEvent",
    "SourceInfo",
    "SourceKind",
    "SourceState",
    "frames",
    "open_source",
]

MAX_DECODE_THREADS = 4
RETRY_S = 120.0
"""The default of `retry_s`: a program that does not listen to events hears of a loss in the end."""


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """The checked arguments of `open_source`."""

    address: Address
    live: bool | None
    timeout_s: float
    rate: Fraction | None
    threads: int
    retry_s: float | None
    wait_for_first: bool
    max_reconnects: int | None
    frozen_after_s: float | None
    on_event: OnEvent | None

    def live_policy(self, live: bool | None) -> LivePolicy:
        """live None: not known before the first picture, so a first failure is final."""
        backoff = Backoff(
            attempts=self.max_reconnects,
            for_s=self.retry_s,
            first=self.wait_for_first and bool(live),
        )
        return LivePolicy(self.timeout_s, backoff, self.frozen_after_s)


def open_source(
    spec: str | os.PathLike[str],
    *,
    live: bool | None = None,
    timeout_s: float = 10.0,
    rate: Fraction | float | None = None,
    decode_threads: int | None = None,
    retry_s: float | None = RETRY_S,
    wait_for_first: bool = False,
    max_reconnects: int | None = None,
    frozen_after_s: float | None = 1.5,
    on_event: OnEvent | None = None,
) -> Source:
    """Open a source and decode its first frame. Raises SourceError if there is none.

    spec: `-` · `0` or `/dev/video0` · `rtsp:// rtsps:// http:// https:// udp:// tcp:// srt://` ·
    `sample:NAME` · a file, a folder or pattern of pictures.
    live: True delivers the newest frame and drops older ones, False delivers every frame; None
    chooses by the source: cameras and streams are live, files and pipes are not.
    timeout_s: for cameras and networks, the longest wait for a frame, connecting included.
    rate: frames per second of picture folders (default 25), and the rate requested of a camera.
    decode_threads: by default the CPUs that this process may use, at most 4.
    retry_s: seconds for which a camera or stream that was lost is tried again, every few seconds,
    until SourceError is raised; None: without limit; 0: not at all.
    wait_for_first: try the first connection of a live source again too, instead of raising at once.
    An http:// address is known to be live only once it answers, or with live=True.
    max_reconnects: the most attempts in a row; None: any number within `retry_s`.
    frozen_after_s: seconds of bit-identical frames, nine of them at least, after which a live
    source is `frozen`; ten seconds of a slow one, or of one that went on after such a pause before.
    on_event: called with a SourceEvent at each change of state of a camera or stream, in a thread
    of its own. An error that it raises ends the source.
    """
    address = parse_address(spec)
    exact_rate = None if rate is None else Fraction(rate).limit_denominator(1001)
    if retry_s is not None and not retry_s >= 0:
        raise UsageError(f"retry_s: expected 0 seconds or more, or None, got {retry_s}")
    if exact_rate is not None and exact_rate <= 0:
        raise SourceError(f"{address.shown}: a rate of {rate} frames a second; give one above 0")
    threads = decode_threads or min(MAX_DECODE_THREADS, len(os.sched_getaffinity(0)))
    return OPENERS[address.kind](
        SourceRequest(
            address,
            live,
            timeout_s,
            exact_rate,
            threads,
            retry_s,
            wait_for_first,
            max_reconnects,
            frozen_after_s,
            on_event,
        )
    )


def frames(spec: str | os.PathLike[str]) -> Iterator[Frame]:
    """The frames of a source; it is closed when the iterator ends or is garbage-collected.

    A live source that is lost is connected again for RETRY_S, see `open_source`.
    """
    with open_source(spec) as source:
        yield from source


def _images(request: SourceRequest) -> Source:
    return ImageSource(request.address, request.rate)


def _file(request: SourceRequest) -> Source:
    address = request.address
    if not request.live:
        return FileSource(address, address.target, request.threads)
    open_file = partial(open_container, f"file:{address.target}", address, FILE_PROTOCOLS, {}, None)
    return ThreadedSource(
        lambda: _connect(request, open_file, live=True), LivePolicy(timeout_s=None), address.shown
    )


def _sample(request: SourceRequest) -> Source:
    # imported here: reading a file does not need the code that draws the sample clips
    from stillframe import sample_videos

    path = os.fspath(sample_videos.resolve(request.address.target))
    return _file(replace(request, address=replace(request.address, target=path)))


def _pipe(request: SourceRequest) -> Source:
    address = request.address
    pipe = standard_input() if address.target == "-" else named_pipe(address.target)
    if pipe is None:
        return _file(replace(request, address=replace(address, target="/dev/stdin")))
    return ThreadedSource(
        lambda: _connect_pipe(request, pipe),
        LivePolicy(timeout_s=None),
        address.shown,
        pipe.interrupt,
        pipe.close,
    )


def _connect_pipe(request: SourceRequest, pipe: PipeReader) -> OpenConnection:
    open_file = partial(open_container, pipe, request.address, NO_PROTOCOL, LOW_LATENCY, None)
    return _connect(request, open_file, live=bool(request.live))


def _network(request: SourceRequest) -> Source:
    address, scheme = request.address, request.address.scheme
    assert scheme is not None  # parse gives every network address one
    options = {**LOW_LATENCY, **scheme.options}
    live = scheme.live if request.live is None else request.live
    was_open = False

    def open_file() -> InputContainer:
        return open_container(
            address.target,
            address,
            scheme.protocols,
            {**options, **(QUICK_PROBE if was_open else {})},
            request.timeout_s,
        )

    def connect() -> OpenConnection:
        nonlocal was_open
        opened = _connect(request, open_file, live)
        was_open = True
        return opened

    policy = request.live_policy(live)
    return ThreadedSource(connect, policy, address.shown, on_event=request.on_event)


def _camera(request: SourceRequest) -> Source:
    address = request.address
    name = _camera_name(request)
    options = {} if request.rate is None else {"framerate": str(request.rate)}
    live = True if request.live is None else request.live

    def connect() -> OpenConnection:
        path = camera.device_path(name, address.shown)
        open_file = partial(
            open_container, path, address, FILE_PROTOCOLS, options, request.timeout_s, "v4l2"
        )
        return _connect(request, open_file, live)

    policy = request.live_policy(live)
    return ThreadedSource(connect, policy, address.shown, on_event=request.on_event)


def _camera_name(request: SourceRequest) -> str:
    """What the camera is opened by. One that is not plugged in yet may be waited for."""
    address = request.address
    try:
        return camera.stable_name(camera.device_path(address.target, address.shown))
    except SourceError:
        if not request.wait_for_first or not camera.SUPPORTED:
            raise
        return address.target


def _connect(
    request: SourceRequest, open_file: Callable[[], InputContainer], live: bool | None
) -> OpenConnection:
    """A low-latency connection. live None: live if the container states no duration."""
    address = request.address
    decoder = open_decoder(open_file, address, threads=request.threads, low_latency=True)
    if live is None:
        live = decoder.info.duration_s is None
    return OpenConnection(decoder, replace(decoder.info, live=live))


OPENERS: Mapping[SourceKind, Callable[[SourceRequest], Source]] = MappingProxyType(
    {
        "file": _file,
        "images": _images,
        "camera": _camera,
        "network": _network,
        "pipe": _pipe,
        "sample": _sample,
    }
)
