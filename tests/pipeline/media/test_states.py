"""States of a live source: which changes are reported, and how old its pictures are."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from stillframe.errors import SourceError, UsageError
from stillframe.pipeline.media import live
from stillframe.pipeline.media.connection import (
    Backoff,
    DeniedError,
    LivePolicy,
    OpenConnection,
    PermanentError,
)
from stillframe.pipeline.media.decoder import DecodedPicture, ReadError
from stillframe.pipeline.media.live import ThreadedSource
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.media.source import SourceEvent, SourceState
from stillframe.pipeline.media.state_machine import StateMachine
from tests.hang_guard import HANGS_S, ends
from tests.pipeline.media.test_live import INFO, Stand, shot, wait_for

Script = Iterator[list[DecodedPicture] | None]
QUICK = Backoff(shortest_s=0.01, longest_s=0.02)


class Clock:
    """The monotonic clock, which a test may put forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        true = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: true() + self.ahead_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_each_change_is_reported_once_with_how_long_the_state_before_lasted() -> None:
    events: list[SourceEvent] = []
    now = [100.0]
    machine = StateMachine("cam", events.append, lambda: now[0], lambda: 1000 + now[0])
    machine.enter(SourceState.CONNECTING, "")
    now[0] = 102.5
    machine.enter(SourceState.RUNNING, "connected")
    machine.enter(SourceState.RUNNING, "connected")
    now[0] = 110.0
    machine.enter(SourceState.LOST, "cam: reset by peer")
    machine.enter(SourceState.FAILED, "gave up")
    assert [event.to_dict() for event in events] == [
        {
            "event": kind,
            "wall_time": wall_time,
            "source": "cam",
            "reason": reason,
            "previous": previous,
            "duration_s": duration_s,
        }
        for kind, wall_time, reason, previous, duration_s in (
            ("running", 1102.5, "connected", "connecting", 2.5),
            ("lost", 1110.0, "reset by peer", "running", 7.5),
            ("ended", 1110.0, "gave up", "lost", 0.0),
        )
    ]


def connections(*scripts: Callable[[], Script]) -> Callable[[], OpenConnection]:
    """Connects to each script in turn; one that raises is a connection that fails."""
    rest = iter(scripts)

    def connect() -> OpenConnection:
        return OpenConnection(Stand(next(rest)()), INFO)

    return connect


def shows(*numbers: int) -> Callable[[], Script]:
    """A connection that ends after these pictures."""

    def script() -> Script:
        for number in numbers:
            yield shot(number)
            time.sleep(0.02)  # a live source keeps only its newest picture
        yield None

    return script


def refused() -> Script:
    raise SourceError("stand: cannot be opened: connection refused")


def a_bug() -> Script:
    raise ZeroDivisionError


def test_a_loss_and_the_way_back_are_events_and_no_end() -> None:
    events: list[SourceEvent] = []
    source = ThreadedSource(
        connections(shows(1), refused, refused, shows(2), a_bug),
        LivePolicy(5.0, QUICK),
        "stand",
        on_event=events.append,
    )
    with source:
        frames = ends(lambda: [next(source), next(source)])
        assert source.reconnects == 1
        with pytest.raises(ZeroDivisionError):
            ends(lambda: next(source))
    assert [frame.discontinuity for frame in frames] == [False, True]
    assert [event.kind for event in events] == ["running", "lost", "running", "lost", "ended"]
    assert events[1].reason == "the stream ended"
    assert events[2].reason == "connected again"


def test_a_first_connection_is_tried_again_where_that_is_asked_for() -> None:
    events: list[SourceEvent] = []
    policy = LivePolicy(5.0, replace(QUICK, first=True))
    connect = connections(refused, refused, shows(1))
    with ends(lambda: ThreadedSource(connect, policy, "stand", on_event=events.append)) as source:
        next(source)
    assert [event.kind for event in events[:2]] == ["lost", "running"]
    assert events[0].reason == "cannot be opened: connection refused"
    assert events[0].previous == "connecting"


def test_what_can_never_be_opened_is_not_tried_again() -> None:
    def impossible() -> Script:
        raise PermanentError("stand: this build cannot read it")

    policy = LivePolicy(5.0, replace(QUICK, first=True))
    with pytest.raises(PermanentError, match="this build cannot read it"):
        ends(lambda: ThreadedSource(connections(impossible), policy, "stand"))


def test_without_retries_a_loss_is_the_end() -> None:
    policy = LivePolicy(5.0, replace(QUICK, for_s=0.0))
    with ThreadedSource(connections(shows(1)), policy, "stand") as source:
        next(source)
        with pytest.raises(SourceError, match=r"^stand: the stream ended$"):
            next(source)


def test_retries_end_when_their_time_is_over(clock: Clock) -> None:
    def refused_a_minute_later() -> Script:
        clock.ahead_s += 60.0
        return refused()

    policy = LivePolicy(1e6, replace(QUICK, for_s=100.0))
    connect = connections(shows(1), *[refused_a_minute_later] * 5)
    with ThreadedSource(connect, policy, "stand") as source:
        next(source)
        with pytest.raises(SourceError, match="connection refused; gave up after 2 attempts"):
            ends(lambda: next(source))


def test_a_negative_time_to_retry_is_refused() -> None:
    with pytest.raises(UsageError, match="retry_s: expected 0 seconds or more, or None, got -1"):
        open_source("rtsp://127.0.0.1:9/x", retry_s=-1.0)


def test_waits_stay_within_a_second_however_long_the_outage() -> None:
    waits = [Backoff().delay_s(attempt, random.Random(1)) for attempt in range(2000)]
    assert max(waits) <= 1.0
    assert not Backoff().exhausted(2000, lost_for_s=1e6)


def test_who_is_refused_asks_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera may lock out an account after some wrong passwords."""
    asked: list[bool] = []

    def delay_s(self: Backoff, attempt: int, rng: random.Random, denied: bool = False) -> float:
        asked.append(denied)
        return 0.01

    def denied() -> Script:
        raise DeniedError("stand: cannot be opened: 401")

    assert Backoff().delay_s(0, random.Random(), denied=True) == 5.0
    monkeypatch.setattr(Backoff, "delay_s", delay_s)
    connect = connections(shows(1), refused, denied, shows(2))
    with ThreadedSource(connect, LivePolicy(5.0, QUICK), "stand") as source:
        ends(lambda: [next(source), next(source)])
    assert asked[:3] == [False, False, True]


def test_silence_is_a_stall_and_age_grows_meanwhile(clock: Clock) -> None:
    events: list[SourceEvent] = []
    go_on = threading.Event()

    def script() -> Script:
        yield shot(1)
        go_on.wait(HANGS_S)
        yield shot(2)

    policy = LivePolicy(10.0, QUICK)
    with ThreadedSource(
        connections(script, script), policy, "stand", on_event=events.append
    ) as source:
        next(source)
        assert source.state is SourceState.RUNNING
        clock.ahead_s += 2.0
        wait_for(lambda: len(events) == 2)
        assert source.state is SourceState.STALLED
        assert source.captured_s is not None
        assert time.monotonic() - source.captured_s >= 2.0
        go_on.set()
        ends(lambda: next(source))
        wait_for(lambda: len(events) >= 3)
    assert [event.kind for event in events[:3]] == ["running", "stalled", "running"]
    assert events[2].reason == "pictures come again"


def test_a_picture_that_was_held_back_is_stale_and_no_sign_of_life(clock: Clock) -> None:
    """As FFmpeg's last one, which it flushes when the connection times out."""
    flush, lose = threading.Event(), threading.Event()

    def script() -> Script:
        yield shot(0)
        flush.wait(HANGS_S)
        clock.ahead_s += 9.0
        yield [replace(shot(1)[0], late_s=9.0)]
        lose.wait(HANGS_S)
        clock.ahead_s += 11.0
        raise ReadError("no answer in time")

    policy = LivePolicy(1e6, QUICK)
    with ThreadedSource(connections(script, shows(0)), policy, "stand") as source:
        first = next(source)
        clock.ahead_s += 2.0
        assert source.state is SourceState.STALLED
        flush.set()
        late = ends(lambda: next(source))
        assert source.state is SourceState.STALLED
        lose.set()
        after = ends(lambda: next(source))
    assert (first.stale, first.late_s, late.stale) == (False, 0.0, True)
    assert late.late_s == pytest.approx(9.0)
    assert first.captured_s is not None
    assert late.captured_s is not None
    assert after.captured_s is not None
    assert late.captured_s - first.captured_s == pytest.approx(2.0, abs=1.0)
    # the timeline has room for the whole outage, not only for what followed the flush
    assert after.time_s - late.time_s == pytest.approx(after.captured_s - late.captured_s, abs=0.2)
    assert after.time_s - late.time_s > 19


def test_a_repeated_picture_is_as_old_as_when_it_first_came(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STALL_S", 1e6)  # whoever watches may see the clock leap in between
    events: list[SourceEvent] = []
    steps = threading.Semaphore(0)

    def script() -> Script:
        for number in (1, 1, 1, 2):
            picture = replace(shot(number)[0], pts=next(ticks))
            yield [picture]
            steps.acquire(timeout=HANGS_S)

    ticks = iter(range(100))
    policy = LivePolicy(1e6, QUICK, frozen_after_s=8.0)
    with ThreadedSource(connections(script), policy, "stand", on_event=events.append) as source:
        frames = [next(source)]
        for _ in range(3):
            clock.ahead_s += 5.0
            steps.release()
            frames.append(ends(lambda: next(source)))
        steps.release()
        wait_for(lambda: len(events) >= 3)
    late = [frame.late_s for frame in frames]
    assert late == pytest.approx([0, 5, 10, 0], abs=1.0)
    captured = [frame.captured_s or 0.0 for frame in frames]
    assert captured[0] == pytest.approx(captured[1], abs=1e-6)
    assert captured[0] == pytest.approx(captured[2], abs=1e-6)
    assert captured[3] - captured[0] == pytest.approx(15, abs=2.0)
    assert not any(frame.stale for frame in frames)  # true, only old: later ones may rest on it
    assert [event.kind for event in events[:3]] == ["running", "frozen", "running"]


def test_a_listener_that_fails_ends_the_source() -> None:
    def fails(event: SourceEvent) -> None:
        raise BrokenPipeError("nobody reads")

    source = ThreadedSource(
        connections(shows(*range(50))), LivePolicy(5.0, QUICK), "stand", on_event=fails
    )
    with pytest.raises(BrokenPipeError), source:
        ends(lambda: list(source))


def test_a_listener_that_waits_holds_up_no_picture() -> None:
    freed = threading.Event()
    source = ThreadedSource(
        connections(shows(*range(10))),
        LivePolicy(5.0, replace(QUICK, for_s=0.0)),
        "stand",
        on_event=lambda event: freed.wait(HANGS_S) and None,
    )
    try:
        assert ends(lambda: next(source)) is not None
        assert ends(lambda: next(source)) is not None
    finally:
        freed.set()
        source.close()


def test_only_live_sources_report() -> None:
    events: list[SourceEvent] = []
    film = replace(INFO, live=False)
    source = ThreadedSource(
        lambda: OpenConnection(Stand(shows(1, 2)()), film),
        LivePolicy(5.0, QUICK),
        "stand",
        on_event=events.append,
    )
    with source:
        frames = ends(lambda: list(source))
    assert len(frames) == 2
    assert frames[0].captured_s is None
    assert events == []
