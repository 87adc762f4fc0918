"""A source that its own thread reads: cameras, the network, pipes.

FFmpeg may block in a system call that cannot be interrupted. So the thread is a daemon, every wait
for it has a deadline, and a thread that does not return is abandoned and replaced.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from stillframe.errors import SourceError
from stillframe.native_calls import abandon
from stillframe.pipeline.media.connection import (
    DeniedError,
    LivePolicy,
    OpenConnection,
    PermanentError,
)
from stillframe.pipeline.media.decoder import DecodedPicture, ReadError
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.freeze_detector import FreezeDetector
from stillframe.pipeline.media.source import (
    OnEvent,
    Source,
    SourceEvent,
    SourceInfo,
    SourceState,
)
from stillframe.pipeline.media.state_machine import EventThread, StateMachine
from stillframe.pipeline.media.timestamps import LATE_S, TimestampStitcher
from stillframe.pipeline.media.to_rgb import RgbConverter

GRACE_S = 1.0  # how long a reader may overrun its deadline before it is abandoned
CLOSE_S = 2.0  # how long `close` waits at most, for a listener and a reader that is slow
READER_CLOSE_S = 0.3  # how long `close` waits for a reader that FFmpeg may block
CLOSE_INTERVALS = 2  # and for a slow stream so many of the usual intervals between pictures
STALL_SHARE = 0.3  # STALLED at the latest after this share of the deadline without a picture
STALL_S = 1.5  # STALLED at the earliest after so long, unless the deadline is short
STALL_INTERVALS = 4  # and after so many of the usual intervals between pictures
INTERVAL_WEIGHT = 0.1  # of the newest interval in their mean
POLL_S = 0.25  # how often a waiting consumer checks that the reader is alive
EVERY_FRAME_QUEUE = 4
FROZEN_REPEATS = 8  # so many repeats of a picture are evidence of a camera that hangs
FROZEN_S = 10.0  # and so are fewer of a slow one in so long


class StreamEndedError(SourceError):
    """The other end closed the stream: the end of a film, a fault of a camera."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A picture in the queue."""

    picture: DecodedPicture
    index: int
    time_s: float
    captured_s: float | None
    """When it was taken, by the monotonic clock; None: no clock is followed."""
    late_s: float


@dataclass(slots=True)
class _Reader:
    """One reading thread. It may touch the source only while it is `ThreadedSource._reader`."""

    last_alive_s: float  # monotonic time at which it last returned from FFmpeg
    waiting: bool = False  # in a backoff, or blocked by a full queue: silent on purpose
    thread: threading.Thread | None = None


class ThreadedSource(Source):
    """Delivers the frames that its own thread reads.

    A live source keeps only the newest picture and counts those it replaced in `dropped`; `index`
    counts them too. Any other source blocks on a full queue and loses nothing.

    connect: opens a connection; called in the reading thread, again for each reconnection.
    interrupt: wakes a reader from a wait, if this kind of source can do that.
    on_end: called in a reading thread when it ends, to release what `interrupt` needs.
    on_event: called with each change of state of a live source that reconnects, in a thread of its
    own. An error that it raises ends the source.
    """

    trouble: str = ""
    """Why the connection was last lost, for people; empty if it never was."""

    def __init__(
        self,
        connect: Callable[[], OpenConnection],
        policy: LivePolicy,
        shown: str,
        interrupt: Callable[[], None] | None = None,
        on_end: Callable[[], None] | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._connect = connect
        self._policy = policy
        self._shown = shown
        self._interrupt = interrupt
        self._on_end = on_end
        self._changed = threading.Condition()
        self._queue: deque[_Arrival] = deque()
        self._converter = RgbConverter()
        self._rng = random.Random()
        self._times = TimestampStitcher()
        self._freeze_detector = None  # outlives a connection: it learns how a source behaves
        if policy.frozen_after_s is not None:
            self._freeze_detector = FreezeDetector(
                policy.frozen_after_s, FROZEN_REPEATS, max(FROZEN_S, policy.frozen_after_s)
            )
        self._opened_info: SourceInfo | None = None
        self._machine = StateMachine(shown, self._report)
        self._error: BaseException | None = None
        self._index = 0
        self._attempt = 0
        self._lost_since_s: float | None = None
        self._skipped_before = 0
        self._rebased_before = 0
        self._last_picture_s = time.monotonic()
        self._interval_s = 0.0  # the usual one between pictures
        self._events = None
        if on_event is not None:
            self._events = EventThread(on_event, self._check_clock, POLL_S, self._fail_in_listener)
        self._reader = self._start_reader(0.0)
        if self._events is not None:
            self._events.start()
        try:
            self.info = self._wait_for_info()
        except BaseException:
            self.close()
            raise

    @property
    def state(self) -> SourceState:
        with self._changed:
            self._check_silence()
            return self._status

    def __next__(self) -> Frame:
        with self._changed:
            while not self._queue:
                if self._error is not None and self._status is not SourceState.CLOSED:
                    raise self._error
                if self._status in (SourceState.ENDED, SourceState.CLOSED):
                    raise StopIteration
                self._changed.wait(POLL_S)
                self._check_clock()
            arrival = self._queue.popleft()
            self._changed.notify_all()
        picture = arrival.picture
        return Frame(
            image=self._converter.convert(picture.image),
            index=arrival.index,
            time_s=arrival.time_s,
            pts=picture.pts,
            time_base=picture.time_base,
            corrupt=picture.corrupt,
            discontinuity=picture.discontinuity,
            captured_s=arrival.captured_s,
            late_s=arrival.late_s,
            stale=arrival.captured_s is not None and picture.late_s > 0,
        )

    def close(self) -> None:
        with self._changed:
            was_closed = self._status is SourceState.CLOSED
            self._machine.enter(SourceState.CLOSED, "closed")
            self._queue.clear()
            self._changed.notify_all()
            thread = self._reader.thread
        if was_closed:
            return
        if self._interrupt is not None:
            self._interrupt()
        if thread is not None and thread is not threading.current_thread():
            wait_s = max(READER_CLOSE_S, CLOSE_INTERVALS * self._interval_s)
            thread.join(min(wait_s, CLOSE_S))
            if thread.is_alive():  # one that FFmpeg blocks ends at its own deadline
                abandon(thread)
        if self._events is not None:
            self._events.close(CLOSE_S)

    @property
    def _status(self) -> SourceState:
        return self._machine.state

    # --- changes of state; the caller holds the lock ----------------------------------------------

    def _report(self, event: SourceEvent) -> None:
        """Pass on an event of a live source; how our own end came is no event of the source."""
        info, backoff = self._opened_info, self._policy.backoff
        if self._events is None or backoff is None or self._status is SourceState.CLOSED:
            return
        if backoff.first if info is None else info.live:
            self._events.put(event)

    def _check_silence(self) -> None:
        limit, info = self._policy.timeout_s, self._opened_info
        pictures_come = self._status in (SourceState.RUNNING, SourceState.FROZEN)
        if limit is None or info is None or not info.live or not pictures_come:
            return
        silent_s = time.monotonic() - self._last_picture_s
        patience_s = max(STALL_S, STALL_INTERVALS * self._interval_s)
        if silent_s > min(limit * STALL_SHARE, patience_s):
            self._machine.enter(SourceState.STALLED, f"connected, no picture for {silent_s:.1f} s")

    def _picture_came(self, detector: FreezeDetector | None, now_s: float) -> None:
        if detector is not None and detector.frozen:
            self._machine.enter(
                SourceState.FROZEN,
                f"{detector.repeats + 1} identical pictures in "
                f"{now_s - detector.same_since_s:.1f} s: a camera that hangs, or a scene without "
                "any noise",
            )
        else:
            reasons = {
                SourceState.STALLED: "pictures come again",
                SourceState.FROZEN: "the picture changes again",
                SourceState.LOST: "connected again" if self._index else "connected",
            }
            self._machine.enter(SourceState.RUNNING, reasons.get(self._status, "connected"))

    def _check_clock(self) -> None:
        """Notice what only the clock can tell."""
        with self._changed:
            self._check_silence()
            self._replace_stuck_reader()

    def _fail_in_listener(self, error: BaseException) -> None:
        with self._changed:
            if self._error is None:
                self._fail(error)

    def _wait_for_info(self) -> SourceInfo:
        limit, backoff = self._policy.timeout_s, self._policy.backoff
        if backoff is not None and backoff.first:
            limit = None
        deadline_s = None if limit is None else time.monotonic() + limit
        with self._changed:
            while self._opened_info is None:
                if self._error is not None:
                    raise self._error
                left_s = POLL_S if deadline_s is None else deadline_s - time.monotonic()
                if left_s <= 0:
                    raise SourceError(
                        f"{self._shown}: no picture within {limit:g} s; "
                        "check that it is there and sending, or allow it more time"
                    )
                self._changed.wait(min(left_s, POLL_S))
                if limit is None:
                    self._replace_stuck_reader()
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

    def _read(self, reader: _Reader, delay_s: float) -> None:
        wait_s: float | None = delay_s
        try:
            while wait_s is not None and self._pause(reader, wait_s):
                lost = self._serve_connection(reader)
                with self._changed:
                    if not self._is_current(reader):
                        return
                    wait_s = self._reconnect_delay(lost)
        except BaseException as error:
            with self._changed:
                if self._is_current(reader):
                    self._fail(error)
        finally:
            if self._on_end is not None:
                self._on_end()

    def _serve_connection(self, reader: _Reader) -> SourceError | None:
        """Read one connection to its end; -> why it was lost, None if it was closed by us."""
        try:
            opened = self._connect()
        except SourceError as error:
            return error
        try:
            return self._relay(reader, opened)
        except ReadError as error:
            return SourceError(f"{self._shown}: lost: {error}")
        finally:
            self._skipped_before += opened.connection.skipped
            self._rebased_before += opened.connection.rebased
            opened.connection.close()

    def _relay(self, reader: _Reader, opened: OpenConnection) -> SourceError | None:
        started_s = last_s = time.monotonic()
        first = True
        detector = self._freeze_detector if opened.info.live else None
        if detector is not None:
            detector.restart()
        limit = self._policy.timeout_s
        while self._is_current(reader):
            pictures = opened.connection.read_packet()
            reader.last_alive_s = now_s = time.monotonic()
            if pictures is None:
                return StreamEndedError(f"{self._shown}: the stream ended")
            if not pictures and limit is not None and now_s - last_s > limit:
                return SourceError(f"{self._shown}: connected, but no picture for {limit:g} s")
            for picture in pictures:
                last_s = now_s
                if detector is not None:
                    detector.update(picture.image, now_s)
                if not self._deliver(reader, picture, now_s, opened, first, detector):
                    return None
                first = False
                backoff = self._policy.backoff
                if backoff is not None and now_s - started_s > backoff.steady_s:
                    self._attempt, self._lost_since_s = 0, None
        return None

    def _deliver(
        self,
        reader: _Reader,
        picture: DecodedPicture,
        now_s: float,
        opened: OpenConnection,
        first: bool,
        detector: FreezeDetector | None,
    ) -> bool:
        """Queue a picture that came at `now_s`. False once the reader was replaced or closed."""
        live = opened.info.live
        with self._changed:
            while not live and len(self._queue) >= EVERY_FRAME_QUEUE and self._is_current(reader):
                reader.waiting = True
                self._changed.wait()
            reader.waiting, reader.last_alive_s = False, time.monotonic()
            if not self._is_current(reader):
                return False
            captured_s = now_s - picture.late_s
            if first:
                start = opened.connection.start
                self._times.start(picture.pts, picture.time_base, start, captured_s)
                self.reconnects += live and self._index > 0
            pts, time_s = self._times.stitch(picture.pts, picture.time_base, captured_s)
            discontinuity = picture.discontinuity or (first and self._index > 0)
            if live and self._queue:
                discontinuity |= self._queue.popleft().picture.discontinuity
                self.dropped += 1
            stitched = replace(
                picture, pts=pts, time_base=self._times.time_base, discontinuity=discontinuity
            )
            self.skipped = self._skipped_before + opened.connection.skipped
            self.rebased = self._rebased_before + opened.connection.rebased
            self.frozen = detector is not None and detector.frozen
            if self._opened_info is None:
                self._opened_info = opened.info
            if detector is not None and now_s - detector.same_since_s >= LATE_S:
                captured_s = min(captured_s, detector.same_since_s)
            followed = live and self._policy.timeout_s is not None
            if followed:
                self.captured_s = captured_s
            if not (followed and picture.late_s):  # what was held back is no sign of life
                self._picture_came(detector, now_s)
                if self._index and not first:
                    interval_s = now_s - self._last_picture_s
                    self._interval_s += INTERVAL_WEIGHT * (interval_s - self._interval_s)
                self._last_picture_s = now_s
            self._queue.append(
                _Arrival(
                    stitched,
                    self._index,
                    time_s,
                    self.captured_s if followed else None,
                    now_s - captured_s if followed else 0.0,
                )
            )
            self._index += 1
            self._changed.notify_all()
            return True

    def _pause(self, reader: _Reader, wait_s: float) -> bool:
        """Wait out a backoff. False once this reader was replaced or the source closed."""
        end_s = time.monotonic() + wait_s
        with self._changed:
            reader.waiting = True
            while self._is_current(reader) and (left_s := end_s - time.monotonic()) > 0:
                self._changed.wait(left_s)
            reader.waiting, reader.last_alive_s = False, time.monotonic()
            return self._is_current(reader)

    def _is_current(self, reader: _Reader) -> bool:
        return self._reader is reader and self._status is not SourceState.CLOSED

    # --- losing a connection; the caller holds the lock -----------------------------------------

    def _reconnect_delay(self, lost: SourceError | None) -> float | None:
        """Seconds until the next attempt; None if there is none."""
        info, backoff = self._opened_info, self._policy.backoff
        if lost is None:
            return None
        self.trouble = str(lost)
        if info is None and (
            backoff is None or not backoff.first or isinstance(lost, PermanentError)
        ):
            self._fail(lost)
            return None
        if backoff is None or (info is not None and not info.live):
            self._fail(None if isinstance(lost, StreamEndedError) else lost)
            return None
        now_s = time.monotonic()
        if self._lost_since_s is None:
            self._lost_since_s = now_s
        lost_for_s = now_s - self._lost_since_s
        if backoff.exhausted(self._attempt, lost_for_s):
            tries = f"; gave up after {self._attempt} attempts to reconnect"
            self._fail(SourceError(f"{lost}{tries if self._attempt else ''}"))
            return None
        self._attempt += 1
        reason = self.trouble.removeprefix(f"{self._shown}: ").removeprefix("lost: ")
        self._machine.enter(SourceState.LOST, reason)
        self._changed.notify_all()
        return backoff.delay_s(self._attempt - 1, self._rng, isinstance(lost, DeniedError))

    def _fail(self, error: BaseException | None) -> None:
        self._error = error
        if error is None:
            self._machine.enter(SourceState.ENDED, "the stream ended")
        else:
            self._machine.enter(SourceState.FAILED, str(error))
        self._changed.notify_all()

    def _replace_stuck_reader(self) -> None:
        limit, reader = self._policy.timeout_s, self._reader
        if limit is None or reader.waiting or self._error is not None:
            return
        if self._status in (SourceState.ENDED, SourceState.CLOSED):
            return
        silent_s = time.monotonic() - reader.last_alive_s
        if silent_s <= limit + GRACE_S:
            return
        wait_s = self._reconnect_delay(
            SourceError(f"{self._shown}: no answer for {silent_s:.0f} s")
        )
        if reader.thread is not None:
            abandon(reader.thread)
        if wait_s is not None:
            self._start_reader(wait_s)
