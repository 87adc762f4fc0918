"""A source that is read by its own thread: cameras, the network, pipes.

FFmpeg may sit in a system call that nothing interrupts. So the thread is a daemon, every wait for
it has an end, and a thread that does not come back is left behind and replaced.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

from stillframe.errors import SourceError
from stillframe.pipeline.media.connection import Backoff
from stillframe.pipeline.media.decoder import DecodedPicture, ReadError
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.freeze_detector import FreezeDetector
from stillframe.pipeline.media.source import Source, SourceInfo, SourceState
from stillframe.pipeline.media.timestamps import TimestampStitcher
from stillframe.pipeline.media.to_rgb import RgbConverter

GRACE_S = 1.0  # how long a reader may overrun its own deadline before it is left behind
CLOSE_S = 2.0  # how long `close` waits for the reader to tidy up
STALL_SHARE = 0.3  # of the deadline without a picture: STALLED
LOOK_S = 0.25  # how often a waiting consumer looks whether the reader still lives
EVERY_FRAME_QUEUE = 4


class StreamEndedError(SourceError):
    """The other end closed the stream: the end of a film, a fault of a camera."""


class Connection(Protocol):
    """One connection of a source: a Decoder, or a test's stand-in for it."""

    skipped: int
    start: Fraction

    def read_packet(self) -> list[DecodedPicture] | None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """A connection and what it showed."""

    connection: Connection
    info: SourceInfo


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """How a threaded source behaves.

    timeout_s: the longest wait for a picture, connecting included; None waits for ever (a pipe).
    backoff: when to connect anew; None ends the source at the stream's end or fault.
    frozen_after_s: seconds of bit-identical pictures until `frozen`; None does not look.
    """

    timeout_s: float | None = 10.0
    backoff: Backoff | None = None
    frozen_after_s: float | None = None


@dataclass(slots=True)
class _Reader:
    """One reading thread. It may touch the source only while the source calls it its reader."""

    last_sign_s: float  # monotonic time at which it last came back from FFmpeg
    waiting: bool = False  # in a back-off or held up by a full queue: silent on purpose
    thread: threading.Thread | None = None


class ThreadedSource(Source):
    """Hands on what a thread of its own reads.

    A live source keeps only the newest picture and counts those it replaced in `dropped`; `index`
    counts them too. Any other source is held up by a full queue and loses nothing.

    connect: makes a connection; called in the reading thread, again for each reconnection.
    interrupt: wakes a reader out of a wait, where the kind of source can do that.
    finished: called in a reading thread when it ends, to give back what `interrupt` needs.
    trouble: why the connection was lost last, for people; empty if it never was.
    """

    trouble: str = ""

    def __init__(
        self,
        connect: Callable[[], OpenConnection],
        policy: LivePolicy,
        shown: str,
        interrupt: Callable[[], None] | None = None,
        finished: Callable[[], None] | None = None,
    ) -> None:
        self._connect = connect
        self._policy = policy
        self._shown = shown
        self._interrupt = interrupt
        self._finished = finished
        self._changed = threading.Condition()
        self._queue: deque[tuple[DecodedPicture, int, float]] = deque()
        self._converter = RgbConverter()
        self._chance = random.Random()
        self._times = TimestampStitcher()
        self._opened_info: SourceInfo | None = None
        self._status = SourceState.CONNECTING
        self._error: BaseException | None = None
        self._index = 0
        self._attempt = 0
        self._skipped_before = 0
        self._last_picture_s = time.monotonic()
        self._reader = self._start_reader(0.0)
        try:
            self.info = self._wait_for_info()
        except BaseException:
            self.close()
            raise

    @property
    def state(self) -> SourceState:
        with self._changed:
            limit = self._policy.timeout_s
            silent_s = time.monotonic() - self._last_picture_s
            if self._status is SourceState.RUNNING and self.info.live and limit is not None:
                return SourceState.STALLED if silent_s > limit * STALL_SHARE else self._status
            return self._status

    def __next__(self) -> Frame:
        with self._changed:
            while not self._queue:
                if self._error is not None and self._status is not SourceState.CLOSED:
                    raise self._error
                if self._status in (SourceState.ENDED, SourceState.CLOSED):
                    raise StopIteration
                self._changed.wait(LOOK_S)
                self._replace_a_stuck_reader()
            picture, index, time_s = self._queue.popleft()
            self._changed.notify_all()
        return Frame(
            image=self._converter.convert(picture.image),
            index=index,
            time_s=time_s,
            pts=picture.pts,
            time_base=picture.time_base,
            corrupt=picture.corrupt,
            discontinuity=picture.discontinuity,
        )

    def close(self) -> None:
        with self._changed:
            already = self._status is SourceState.CLOSED
            self._status = SourceState.CLOSED
            self._queue.clear()
            self._changed.notify_all()
            thread = self._reader.thread
        if not already and self._interrupt is not None:
            self._interrupt()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_S)  # a daemon: one that FFmpeg holds ends with its own deadline

    def _wait_for_info(self) -> SourceInfo:
        limit = self._policy.timeout_s
        deadline_s = None if limit is None else time.monotonic() + limit
        with self._changed:
            while self._opened_info is None:
                if self._error is not None:
                    raise self._error
                left_s = LOOK_S if deadline_s is None else deadline_s - time.monotonic()
                if left_s <= 0:
                    raise SourceError(
                        f"{self._shown}: no picture within {limit:g} s; "
                        "check that it is there and sending, or allow it more time"
                    )
                self._changed.wait(min(left_s, LOOK_S))
            return self._opened_info

    # --- the reading thread -----------------------------------------------------------------

    def _start_reader(self, delay_s: float) -> _Reader:
        reader = _Reader(time.monotonic(), waiting=delay_s > 0)
        reader.thread = threading.Thread(
            target=self._read, args=(reader, delay_s), name="stillframe-reader", daemon=True
        )
        self._reader = reader
        reader.thread.start()
        return reader

    def _read(self, me: _Reader, delay_s: float) -> None:
        wait_s: float | None = delay_s
        try:
            while wait_s is not None and self._pause(me, wait_s):
                lost = self._one_connection(me)
                with self._changed:
                    if not self._is_mine(me):
                        return
                    wait_s = self._after(lost)
        except BaseException as error:
            with self._changed:
                if self._is_mine(me):
                    self._fail(error)
        finally:
            if self._finished is not None:
                self._finished()

    def _one_connection(self, me: _Reader) -> SourceError | None:
        """Relay one connection. The reason why it was lost, or None if it ended as it should."""
        try:
            opened = self._connect()
        except SourceError as error:
            return error
        try:
            return self._relay(me, opened)
        except ReadError as error:
            return SourceError(f"{self._shown}: lost: {error}")
        finally:
            self._skipped_before += opened.connection.skipped
            opened.connection.close()

    def _relay(self, me: _Reader, opened: OpenConnection) -> SourceError | None:
        started_s = last_s = time.monotonic()
        first = True
        watch = self._new_watch(opened.info)
        limit = self._policy.timeout_s
        while self._is_mine(me):
            pictures = opened.connection.read_packet()
            me.last_sign_s = now_s = time.monotonic()
            if pictures is None:
                return StreamEndedError(f"{self._shown}: the stream ended")
            if not pictures and limit is not None and now_s - last_s > limit:
                return SourceError(f"{self._shown}: connected, but no picture for {limit:g} s")
            for picture in pictures:
                last_s = now_s
                frozen = watch is not None and watch.update(picture.image, now_s)
                if not self._deliver(me, picture, opened, first, frozen):
                    return None
                first = False
                steady = self._policy.backoff
                if steady is not None and now_s - started_s > steady.steady_s:
                    self._attempt = 0
        return None

    def _deliver(
        self,
        me: _Reader,
        picture: DecodedPicture,
        opened: OpenConnection,
        first: bool,
        frozen: bool,
    ) -> bool:
        """Queue a picture. False when this reader is no longer wanted."""
        live, now_s = opened.info.live, time.monotonic()
        with self._changed:
            while not live and len(self._queue) >= EVERY_FRAME_QUEUE and self._is_mine(me):
                me.waiting = True
                self._changed.wait()
            me.waiting, me.last_sign_s = False, time.monotonic()
            if not self._is_mine(me):
                return False
            if first:
                self._times.start(picture.pts, picture.time_base, opened.connection.start, now_s)
            pts, time_s = self._times.stitch(picture.pts, picture.time_base, now_s)
            broken = picture.discontinuity or (first and self._index > 0)
            if live and self._queue:
                broken |= self._queue.popleft()[0].discontinuity
                self.dropped += 1
            placed = replace(
                picture, pts=pts, time_base=self._times.time_base, discontinuity=broken
            )
            self._queue.append((placed, self._index, time_s))
            self._index += 1
            self._last_picture_s = now_s
            self._status = SourceState.RUNNING
            self.skipped = self._skipped_before + opened.connection.skipped
            self.frozen = frozen
            if self._opened_info is None:
                self._opened_info = opened.info
            self._changed.notify_all()
            return True

    def _new_watch(self, info: SourceInfo) -> FreezeDetector | None:
        after_s = self._policy.frozen_after_s
        return FreezeDetector(after_s) if info.live and after_s is not None else None

    def _pause(self, me: _Reader, wait_s: float) -> bool:
        """Wait out a back-off. False when this reader is no longer wanted."""
        end_s = time.monotonic() + wait_s
        with self._changed:
            me.waiting = True
            while self._is_mine(me) and (left_s := end_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            me.waiting, me.last_sign_s = False, time.monotonic()
            return self._is_mine(me)

    def _is_mine(self, me: _Reader) -> bool:
        return self._reader is me and self._status is not SourceState.CLOSED

    # --- losing a connection; called with the lock held -----------------------------------------

    def _after(self, lost: SourceError | None) -> float | None:
        """Seconds until the next attempt, or None when there is none."""
        info, backoff = self._opened_info, self._policy.backoff
        if lost is None:
            return None
        self.trouble = str(lost)
        if info is None:
            self._fail(lost)
            return None
        if not info.live or backoff is None:
            self._fail(None if isinstance(lost, StreamEndedError) else lost)
            return None
        if backoff.exhausted(self._attempt):
            self._fail(SourceError(f"{lost}; gave up after {self._attempt} attempts to reconnect"))
            return None
        self._attempt += 1
        self._status = SourceState.RECONNECTING
        self._changed.notify_all()
        return backoff.delay_s(self._attempt - 1, self._chance)

    def _fail(self, error: BaseException | None) -> None:
        self._error = error
        self._status = SourceState.ENDED if error is None else SourceState.FAILED
        self._changed.notify_all()

    def _replace_a_stuck_reader(self) -> None:
        limit, reader = self._policy.timeout_s, self._reader
        if limit is None or reader.waiting or self._error is not None:
            return
        if self._status in (SourceState.ENDED, SourceState.CLOSED):
            return
        silent_s = time.monotonic() - reader.last_sign_s
        if silent_s <= limit + GRACE_S:
            return
        wait_s = self._after(SourceError(f"{self._shown}: no answer for {silent_s:.0f} s"))
        if wait_s is not None:
            self._start_reader(wait_s)
