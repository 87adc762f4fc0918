"""Channels: bounded, in order, ended by the writer and closed by either side."""

import threading
from collections.abc import Callable

import pytest

from stillframe.errors import UsageError
from stillframe.pipeline.executor.channel import Channel, ClosedError, InFlightLimit
from tests.hang_guard import HANGS_S, ends

WAIT_S = 5.0


def beside(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run it in a thread; the list gets what it returned or raised."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def is_waiting(thread: threading.Thread) -> bool:
    thread.join(0.1)
    return thread.is_alive()


def test_items_come_out_in_order_and_then_the_end() -> None:
    channel: Channel[int] = Channel(3)
    for item in range(3):
        assert channel.put(item) is None
    channel.end()
    assert [channel.get() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ClosedError) as caught:
        channel.get()
    assert caught.value.ended
    with pytest.raises(ClosedError):
        channel.put(4)


def test_a_full_channel_blocks_its_writer() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(0)
    channel.put(1)
    thread, _ = beside(lambda: channel.put(2))
    assert is_waiting(thread)
    assert len(channel) == 2
    assert channel.get() == 0
    thread.join(WAIT_S)
    assert [channel.get(), channel.get()] == [1, 2]


def test_newest_drops_the_oldest_and_counts() -> None:
    channel: Channel[int] = Channel(2, "newest")
    assert [channel.put(item) for item in range(5)] == [None, None, 0, 1, 2]
    assert channel.dropped == 3
    assert [channel.get(), channel.get()] == [3, 4]


@pytest.mark.parametrize("side", ["reader", "writer"])
def test_closing_wakes_whoever_waits(side: str) -> None:
    channel: Channel[int] = Channel(1)
    if side == "writer":
        channel.put(0)
    thread, outcome = beside(lambda: channel.put(1) if side == "writer" else channel.get())
    assert is_waiting(thread)
    channel.close()
    channel.close()
    thread.join(WAIT_S)
    assert isinstance(outcome[0], ClosedError)
    assert not outcome[0].ended
    assert len(channel) == 0


def test_end_wakes_a_reader() -> None:
    channel: Channel[int] = Channel(1)
    thread, outcome = beside(channel.get)
    assert is_waiting(thread)
    channel.end()
    thread.join(WAIT_S)
    assert isinstance(outcome[0], ClosedError)
    assert outcome[0].ended


def test_get_may_time_out() -> None:
    with pytest.raises(TimeoutError):
        Channel[int](1).get(0.01)


def test_many_writers_and_readers_lose_nothing() -> None:
    channel: Channel[int] = Channel(3)
    items: list[int] = []

    def take() -> None:
        while True:
            try:
                items.append(channel.get())
            except ClosedError:
                return

    readers = [threading.Thread(target=take) for _ in range(3)]
    writers = [
        threading.Thread(target=lambda first=first: [channel.put(first + n) for n in range(100)])
        for first in (0, 100, 200)
    ]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join(WAIT_S)
    channel.end()
    for thread in readers:
        thread.join(WAIT_S)
    assert sorted(items) == list(range(300))


def test_a_size_of_zero_and_unknown_policies_are_refused() -> None:
    with pytest.raises(UsageError, match="expected room for 1 item or more, got 0"):
        Channel(0)
    with pytest.raises(UsageError, match="expected policy block or newest, got 'oldest'"):
        Channel(1, "oldest")  # type: ignore[arg-type]


def test_the_in_flight_limit_blocks_and_can_be_raised_and_closed() -> None:
    window = InFlightLimit(1)
    assert window.acquire()
    thread, outcome = beside(window.acquire)
    assert is_waiting(thread)
    window.limit = 2
    thread.join(WAIT_S)
    assert outcome == [True]
    assert window.in_use == 2
    window.limit = 1
    window.release()
    thread, outcome = beside(window.acquire)
    assert is_waiting(thread)
    window.close()
    thread.join(WAIT_S)
    assert outcome == [False]
    assert not ends(lambda: window.sleep(100 * HANGS_S))
    with pytest.raises(UsageError, match="expected 1 item or more in flight, got 0"):
        window.limit = 0
