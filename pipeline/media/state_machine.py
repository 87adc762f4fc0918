"""The state of a live source, since when, and a report of each change."""

import threading
import time
from collections import deque
from collections.abc import Callable

from stillframe.pipeline.media.source import OnEvent, SourceEvent, SourceState


class StateMachine:
    """Holds the state of one source. Not thread-safe: the source's lock guards it.

    shown: the source's address without credentials. report: takes each change as an event.
    clock, wall_clock: monotonic and Unix seconds.
    """

    state: SourceState
    reason: str
    """Why it is in this state; empty at first."""

    def __init__(
        self,
        shown: str,
        report: Callable[[SourceEvent], None],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.state = SourceState.CONNECTING
        self.reason = ""
        self._shown = shown
        self._report = report
        self._clock, self._wall_clock = clock, wall_clock
        self._since_s = clock()

    def enter(self, state: SourceState, reason: str) -> None:
        """Change to the state and report it; nothing happens if the source is in it already."""
        if state is self.state:
            return
        now_s = self._clock()
        event = SourceEvent(
            kind=state.label,
            wall_time=round(self._wall_clock(), 3),
            source=self._shown,
            reason=reason.removeprefix(f"{self._shown}: "),
            previous=self.state.label,
            duration_s=round(now_s - self._since_s, 3),
        )
        self.state, self.reason, self._since_s = state, event.reason, now_s
        self._report(event)


class EventThread:
    """Calls `on_event` with each event, in order, in a thread of its own.

    So a listener that is slow, or writes to a pipe that nobody reads, holds up no camera. tick:
    called every `tick_s` in between. on_failure: takes an error of `on_event`; the thread ends.
    """

    def __init__(
        self,
        on_event: OnEvent,
        tick: Callable[[], object],
        tick_s: float,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._on_event, self._tick, self._tick_s = on_event, tick, tick_s
        self._on_failure = on_failure
        self._events: deque[SourceEvent] = deque()
        self._wake = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="stillframe-events", daemon=True)

    def start(self) -> None:
        """Deliver events from now on; what was put before comes first."""
        self._thread.start()

    def put(self, event: SourceEvent) -> None:
        """Hand over an event; never waits."""
        self._events.append(event)
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Deliver what is left and end the thread, unless the listener takes longer."""
        self._closed = True
        self._wake.set()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _serve(self) -> None:
        try:
            self._deliver_until_closed()
        except BaseException as error:
            self._on_failure(error)

    def _deliver_until_closed(self) -> None:
        while True:
            closed = self._closed
            self._wake.clear()
            while self._events:
                self._on_event(self._events.popleft())
            if closed:
                return
            self._tick()
            if not self._events:
                self._wake.wait(self._tick_s)
