"""Bounded queues between threads, and the limit of items in flight."""

import threading
from collections import deque
from typing import Generic, Literal, TypeVar, get_args

from stillframe.errors import UsageError

Policy = Literal["block", "newest"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Item = TypeVar("Item")


class ClosedError(Exception):
    """The channel delivers nothing more."""

    def __init__(self, ended: bool) -> None:
        super().__init__("ended" if ended else "closed")
        self.ended = ended
        """Every item that was put has been taken."""


class Channel(Generic[Item]):
    """A FIFO queue from one thread to another that holds at most `size` items.

    policy: what `put` does if it is full: "block" waits, "newest" drops the oldest item and counts
    it in `dropped`. The writer calls `end` after its last item; the reader still gets what is left.
    Either side may call `close`, which discards all items and wakes both sides.
    """

    def __init__(self, size: int, policy: Policy = "block") -> None:
        if size < 1:
            raise UsageError(f"hand-off: expected room for 1 item or more, got {size}")
        if policy not in POLICIES:
            raise UsageError(f"hand-off: expected policy {' or '.join(POLICIES)}, got {policy!r}")
        self.size = size
        self.policy: Policy = policy
        self.dropped = 0
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, item: Item) -> Item | None:
        """Add an item; -> the item dropped for it, if any. Raises ClosedError once closed."""
        with self._changed:
            while self.policy == "block" and len(self._items) >= self.size and not self._closed:
                self._changed.wait()
            if self._closed or self._ended:
                raise ClosedError(False)
            dropped = self._items.popleft() if len(self._items) >= self.size else None
            self.dropped += dropped is not None
            self._items.append(item)
            self._changed.notify_all()
            return dropped

    def get(self, timeout_s: float | None = None) -> Item:
        """The oldest item. Raises ClosedError at the end, TimeoutError if none comes in time."""
        with self._changed:
            if not self._changed.wait_for(self._is_ready, timeout_s):
                raise TimeoutError
            if self._closed or not self._items:
                raise ClosedError(self._ended and not self._closed)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Declare that nothing more will be put."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Wake both sides and discard all items, uncounted. May be called twice."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _is_ready(self) -> bool:
        return self._closed or self._ended or bool(self._items)


class InFlightLimit:
    """A semaphore over the items in flight. Its limit may change at any time.

    At 1 items run one after the other; above 1 they overlap.
    """

    def __init__(self, limit: int) -> None:
        self._changed = threading.Condition()
        self._in_use = 0
        self._closed = False
        self.limit = limit

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        if limit < 1:
            raise UsageError(f"window: expected 1 item or more in flight, got {limit}")
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    @property
    def in_use(self) -> int:
        return self._in_use

    def acquire(self) -> bool:
        """Wait for a free slot and take it. False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._in_use < self._limit)
            self._in_use += not self._closed
            return not self._closed

    def release(self) -> None:
        """Free a slot."""
        with self._changed:
            self._in_use -= 1
            self._changed.notify_all()

    def sleep(self, seconds: float) -> bool:
        """Sleep until the time is over or `close` is called. False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)
            return not self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
