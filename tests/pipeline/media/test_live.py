"""Live sources: deadlines that hold, reconnection, newest frames, frozen cameras, closing."""

import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import count, pairwise
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import SourceError
from stillframe.native_calls import hanging
from stillframe.pipeline.media import live
from stillframe.pipeline.media.connection import Backoff, LivePolicy, OpenConnection
from stillframe.pipeline.media.decoder import DecodedPicture, ReadError
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.freeze_detector import FreezeDetector
from stillframe.pipeline.media.live import ThreadedSource
from stillframe.pipeline.media.open_source import SourceState, open_source
from stillframe.pipeline.media.source import SourceInfo
from tests.hang_guard import HANGS_S, ends
from tests.hostile import media, servers
from tests.hostile.media import number_of
from tests.hostile.servers import Server, free_port, readers, taken


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while readers() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not readers()


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# --- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["tcp", "http", "rtsp", "https"])
def test_a_server_that_never_speaks_ends_at_the_deadline(scheme: str) -> None:
    with Server(servers.silent) as server:
        url = f"{scheme}://127.0.0.1:{server.port}/x"
        with pytest.raises(SourceError, match=r"no (picture|answer) within 0.6 s"):
            ends(lambda: open_source(url, timeout_s=0.6))
        wait_for(lambda: not readers())


def test_a_port_where_nothing_arrives_ends_at_the_deadline() -> None:
    with pytest.raises(SourceError, match=r"udp://127.0.0.1:\d+: no .* within 0.5 s"):
        ends(lambda: open_source(f"udp://127.0.0.1:{free_port()}", timeout_s=0.5))


def test_a_first_connection_that_fails_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    connect = av.open

    def counted(url: str, *arguments: Any, **options: Any) -> Any:
        opened.append(url)
        return connect(url, *arguments, **options)

    monkeypatch.setattr(av, "open", counted)
    with pytest.raises(SourceError, match="connection refused"):
        open_source("tcp://127.0.0.1:9", timeout_s=5)
    wait_for(lambda: not readers())
    assert len(opened) == 1


# --- reconnecting --------------------------------------------------------------------------------


def test_a_dropped_stream_is_reconnected_and_the_gap_is_flagged() -> None:
    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        server.send_frames(connection, range(number * 10, number * 10 + 6), rate=50)

    with (
        Server(conduct) as server,
        open_source(f"tcp://127.0.0.1:{server.port}", timeout_s=2) as source,
    ):
        seen = [source.state]
        got: list[Frame] = []
        while not got or number_of(got[-1].image) < 12:
            got.append(next(source))
            seen.append(source.state)
        assert source.info.live
        assert isinstance(source, ThreadedSource)
        assert "the stream ended" in source.trouble
    gaps = [n for n, frame in enumerate(got) if frame.discontinuity]
    assert len(gaps) == 1
    assert number_of(got[gaps[0]].image) >= 10 > number_of(got[gaps[0] - 1].image)
    assert all(a.time_s < b.time_s and a.index < b.index for a, b in pairwise(got))
    steps_s = [b.time_s - a.time_s for a, b in pairwise(got)]
    assert steps_s.index(max(steps_s)) == gaps[0] - 1  # the timeline has room for the outage
    assert [frame.pts * frame.time_base for frame in got] == pytest.approx(
        [frame.time_s for frame in got]
    )


def test_a_stalled_stream_is_reported_and_then_reconnected() -> None:
    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        server.send_frames(connection, range(number * 10, number * 10 + 3))
        if number == 0:
            server.stopping.wait()

    states: set[SourceState] = set()
    with (
        Server(conduct) as server,
        open_source(f"tcp://127.0.0.1:{server.port}", timeout_s=0.6) as source,
    ):
        got: list[Frame] = []
        reader = threading.Thread(target=lambda: got.extend(taken(source, 5)))
        reader.start()
        while reader.is_alive():
            states.add(source.state)
            time.sleep(0.01)
    assert {SourceState.STALLED, SourceState.LOST, SourceState.RUNNING} <= states
    assert number_of(got[-1].image) >= 10


def test_a_source_lost_for_good_raises() -> None:
    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        if number == 0:
            server.send_frames(connection, range(3))

    with (
        Server(conduct) as server,
        open_source(f"tcp://127.0.0.1:{server.port}", timeout_s=0.5, max_reconnects=2) as source,
    ):
        with pytest.raises(SourceError, match="gave up after 2 attempts to reconnect") as caught:
            taken(source, 10)
        assert str(caught.value).startswith(f"tcp://127.0.0.1:{server.port}: ")
        assert source.state is SourceState.FAILED
        assert server.connections == 3


@given(st.integers(0, 5000), st.integers())
def test_back_off_grows_between_its_bounds(attempt: int, seed: int) -> None:
    delay = Backoff().delay_s(attempt, random.Random(seed))
    ceiling = min(1.0, 0.5 * 1.2 ** min(attempt, 20))
    assert max(0.5, ceiling / 2) <= delay <= ceiling


def test_back_off_has_jitter_and_an_end() -> None:
    waits = {Backoff().delay_s(3, random.Random(seed)) for seed in range(20)}
    assert len(waits) == 20
    assert not Backoff(attempts=3).exhausted(2)
    assert Backoff(attempts=3).exhausted(3)
    assert not Backoff(attempts=None).exhausted(10**6, lost_for_s=1e9)
    assert not Backoff(for_s=60.0).exhausted(10**6, lost_for_s=59.0)
    assert Backoff(for_s=60.0).exhausted(0, lost_for_s=60.0)
    assert Backoff(for_s=0.0).exhausted(0)


# --- newest frames -------------------------------------------------------------------------------


def test_a_slow_consumer_gets_the_newest_frame_and_a_count_of_the_rest() -> None:
    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        server.send_frames(connection, range(250), rate=100)

    with (
        Server(conduct) as server,
        open_source(f"tcp://127.0.0.1:{server.port}", timeout_s=2) as source,
    ):
        got = []
        for _ in range(5):
            time.sleep(0.2)  # twenty times slower than the camera
            got.append(next(source))
            # never more than a few frames old: those on their way through the network and decoder
            assert server.sent - number_of(got[-1].image) <= 6
        taken_and_dropped = len(got) + source.dropped
        assert 0 <= taken_and_dropped - (got[-1].index + 1) <= 6
        assert source.dropped > 10  # a machine under load delivers fewer
    for frame in got:
        assert frame.index == number_of(frame.image)  # nothing invented, nothing uncounted
        assert frame.time_s == pytest.approx(frame.index / 25)


def test_every_frame_is_delivered_if_requested() -> None:
    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        server.send_frames(connection, range(30), rate=1000)

    with Server(conduct) as server:
        source = open_source(f"tcp://127.0.0.1:{server.port}", timeout_s=2, live=False)
        time.sleep(0.3)
        got = [number_of(frame.image) for frame in source]
        source.close()
    assert got == list(range(30))
    assert source.dropped == 0


# --- frozen cameras ------------------------------------------------------------------------------


def test_a_stream_that_repeats_one_picture_is_frozen_until_it_moves() -> None:
    thaw = threading.Event()

    def numbers() -> Iterator[int]:
        yield from range(5)
        while not thaw.is_set():
            yield 5
        yield from (number % 200 for number in count(6))

    def conduct(server: Server, connection: socket.socket, number: int) -> None:
        server.send_frames(connection, numbers(), rate=100)

    with (
        Server(conduct) as server,
        open_source(f"tcp://127.0.0.1:{server.port}", timeout_s=2, frozen_after_s=0.3) as source,
    ):
        assert not source.frozen

        def read_until(frozen: bool) -> None:
            while source.frozen != frozen:
                next(source)

        ends(lambda: read_until(True))
        assert source.state is SourceState.FROZEN
        thaw.set()
        ends(lambda: read_until(False))


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuyv422", "rgb24", "gray10le", "pal8"])
def test_one_bit_of_noise_distinguishes_a_still_scene_from_a_frozen_camera(pix_fmt: str) -> None:
    def shown(bit: int) -> av.VideoFrame:
        frame = av.VideoFrame(70, 50, pix_fmt)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        last = frame.planes[0]
        content = bytearray(last.buffer_size)
        content[last.line_size * (last.height - 3) + 1] = bit
        last.update(bytes(content))
        return frame

    detector = FreezeDetector(1.0)
    assert [detector.update(shown(0), now) for now in (0.0, 0.5, 1.0)] == [False, False, True]
    assert not detector.update(shown(1), 1.5)
    assert [detector.update(shown(1), now) for now in (2.0, 2.6)] == [False, True]


def test_row_padding_is_not_part_of_the_picture() -> None:
    detector = FreezeDetector(1.0)
    for now in (0.0, 1.0):
        frame = av.VideoFrame(70, 50, "yuv420p")
        for plane in frame.planes:
            rows = np.full((plane.buffer_size // plane.line_size, plane.line_size), int(now))
            rows[:, : plane.width] = 9
            plane.update(rows.astype(np.uint8).tobytes())
        frozen = detector.update(frame, now)
    assert frozen


# --- stuck readers -------------------------------------------------------------------------------


class Stand:
    """A connection without FFmpeg: `read_packet` returns what `script` yields."""

    skipped = rebased = 0
    start = Fraction(0)

    def __init__(self, script: Iterator[list[DecodedPicture] | None]) -> None:
        self._script = script
        self.closed = threading.Event()

    def read_packet(self) -> list[DecodedPicture] | None:
        return next(self._script)

    def close(self) -> None:
        self.closed.set()


INFO = SourceInfo("stand", "camera", 96, 64, live=True)


def shot(number: int, time_base: Fraction = Fraction(1, 10)) -> list[DecodedPicture]:
    image = av.VideoFrame.from_ndarray(media.picture(number), format="rgb24")
    return [DecodedPicture(image, number, time_base, corrupt=False, discontinuity=False)]


def test_a_reader_that_does_not_return_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "GRACE_S", 0.1)
    release = threading.Event()
    stands: list[Stand] = []

    def stuck() -> Iterator[list[DecodedPicture] | None]:
        yield shot(1)
        release.wait()  # no deadline of its own, like a camera's driver
        yield shot(2)

    def well() -> Iterator[list[DecodedPicture] | None]:
        for number in count(50):
            time.sleep(0.01)
            yield shot(number)

    def connect() -> OpenConnection:
        stands.append(Stand(stuck() if not stands else well()))
        return OpenConnection(stands[-1], INFO)

    backoff = Backoff(shortest_s=0.01)
    with ThreadedSource(connect, LivePolicy(0.3, backoff), "stand") as source:
        assert number_of(next(source).image) == 1
        frame = next(source)
        assert number_of(frame.image) >= 50
        assert frame.discontinuity
        assert len(readers()) == 2
        release.set()  # the lost reader may come back now: it must not disturb
        assert stands[0].closed.wait(2)
        assert all(number_of(frame.image) > 50 for frame in taken(source, 3))


def test_packets_without_pictures_do_not_reset_the_deadline() -> None:
    connections = count()

    def sound_only_after(first: int) -> Iterator[list[DecodedPicture] | None]:
        yield shot(first)
        while True:
            time.sleep(0.01)
            yield []

    def connect() -> OpenConnection:
        return OpenConnection(Stand(sound_only_after(next(connections))), INFO)

    policy = LivePolicy(0.3, Backoff(shortest_s=0.01))
    with ThreadedSource(connect, policy, "stand") as source:
        assert isinstance(source, ThreadedSource)
        assert [number_of(frame.image) for frame in taken(source, 2)] == [0, 1]
        assert "connected, but no picture for 0.3 s" in source.trouble


def test_a_bug_in_the_reader_reaches_the_caller() -> None:
    def broken() -> Iterator[list[DecodedPicture] | None]:
        yield shot(0)
        raise ZeroDivisionError("a bug")

    source = ThreadedSource(
        lambda: OpenConnection(Stand(broken()), INFO), LivePolicy(1.0, Backoff()), "stand"
    )
    with pytest.raises(ZeroDivisionError), source:
        taken(source, 2)


def test_a_discontinuity_survives_the_drop_of_its_frame() -> None:
    def script() -> Iterator[list[DecodedPicture] | None]:
        yield shot(0)
        for number in (1, 2, 3):
            picture = shot(number)[0]
            yield [DecodedPicture(picture.image, number, picture.time_base, False, number == 1)]
        time.sleep(0.5)
        yield None

    source = ThreadedSource(lambda: OpenConnection(Stand(script()), INFO), LivePolicy(2.0), "stand")
    with source:
        time.sleep(0.2)
        frame = next(source)
    assert number_of(frame.image) == 3
    assert frame.discontinuity
    assert source.dropped == 3


# --- closing -------------------------------------------------------------------------------------


def stalls_after_three(server: Server, connection: socket.socket, number: int) -> None:
    server.send_frames(connection, range(3))
    server.stopping.wait()


def test_close_unblocks_a_waiting_consumer_at_once() -> None:
    with Server(stalls_after_three) as server:
        # without `close` the consumer would wait beyond what the guard allows
        source = open_source(f"tcp://127.0.0.1:{server.port}", timeout_s=2 * HANGS_S)
        ended = threading.Event()
        got: list[Frame] = []

        def consume() -> None:
            got.extend(source)
            ended.set()

        consumer = threading.Thread(target=consume)
        consumer.start()
        time.sleep(0.3)
        ends(source.close)
        assert ended.wait(HANGS_S)
        ends(consumer.join)
        assert source.state is SourceState.CLOSED


def test_close_waits_once_and_not_long_for_a_blocked_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    waits: list[float] = []

    def stuck() -> Iterator[list[DecodedPicture] | None]:
        yield shot(1)
        release.wait()  # as FFmpeg does: nothing can wake it
        yield None

    def noted(thread: threading.Thread, timeout: float | None = None) -> None:
        waits.append(HANGS_S if timeout is None else timeout)
        join(thread, 0)

    source = ThreadedSource(lambda: OpenConnection(Stand(stuck()), INFO), LivePolicy(), "stand")
    next(source)
    join = threading.Thread.join
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "join", noted)
        source.close()
        source.close()
    assert waits == [live.READER_CLOSE_S]
    assert live.READER_CLOSE_S < 1
    assert hanging()  # so that a process does not shut the interpreter down beside it
    release.set()


LEAVE = """
from stillframe.pipeline.media.open_source import open_source
source = open_source("tcp://127.0.0.1:{port}", timeout_s=600)
next(source)
print("left", flush=True)
"""


def test_a_process_may_end_while_a_reader_waits() -> None:
    with Server(stalls_after_three) as server:
        done = subprocess.run(
            [sys.executable, "-c", LEAVE.format(port=server.port)],
            capture_output=True,
            timeout=HANGS_S,
        )
        assert done.stdout == b"left\n", done.stderr.decode()
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr == b""


def test_errors_while_reading_name_the_source() -> None:
    def script() -> Iterator[list[DecodedPicture] | None]:
        yield shot(0)
        raise ReadError("connection reset by peer")

    source = ThreadedSource(lambda: OpenConnection(Stand(script()), INFO), LivePolicy(1.0), "cam")
    with source, pytest.raises(SourceError, match="cam: lost: connection reset by peer"):
        taken(source, 2)
    assert source.state is SourceState.CLOSED
