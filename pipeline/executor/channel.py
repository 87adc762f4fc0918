"""Hand-offs between threads: a bounded queue that ends from one side and closes from both."""

import threading
from collections import deque
from typing import Generic, Literal, TypeVar, get_args

from stillframe.errors import UsageError

Policy = Literal["block", "newest"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Item = TypeVar("Item")


class ClosedError(Exception):
    """Nothing goes through this channel any more. ended: all that was put has been taken."""

    def __init__(self, ended: bool) -> None:
        super().__init__("ended" if ended else "closed")
        self.ended = ended


class Channel(Generic[Item]):
    """Items in order from one thread to another, at most `size` of them waiting.

    policy: what `put` does where it is full: "block" waits, "newest" drops the oldest and counts
    it in `dropped`. `end` says that nothing more is put; what is there can still be taken. `close`
    throws away what is there and wakes both sides; either may call it, and twice.
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
        """Add an item; -> the one that was dropped for it. Raises ClosedError once closed."""
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
        """The oldest item. Raises ClosedError at the end, TimeoutError where none came in time."""
        with self._changed:
            if not self._changed.wait_for(self._is_ready, timeout_s):
                raise TimeoutError
            if self._closed or not self._items:
                raise ClosedError(self._ended and not self._closed)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def end(self) -> None:
        """Nothing more will be put."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Neither side waits any longer; what was not taken is dropped, uncounted."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def _is_ready(self) -> bool:
        return self._closed or self._ended or bool(self._items)


class InFlightLimit:
    """How many items may be under way at once; the limit may change while they are.

    At 1 they go through one after the other; at more they overlap.
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
            raise UsageError(f"window: expected 1 item or more under way, got {limit}")
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    @property
    def in_use(self) -> int:
        return self._in_use

    def acquire(self) -> bool:
        """Wait for room and take it. False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._in_use < self._limit)
            self._in_use += not self._closed
            return not self._closed

    def release(self) -> None:
        """Give the room back."""
        with self._changed:
            self._in_use -= 1
            self._changed.notify_all()

    def sleep(self, seconds: float) -> bool:
        """Sleep, but not beyond `close`. False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, seconds)
            return not self._closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
