"""Fail instead of hanging: a test waits for work that might never end, and measures no time."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")

HANGS_S = 60.0
"""Far beyond what any working code takes, on the busiest machine."""


def ends(work: Callable[[], Value]) -> Value:
    """What `work` returns or raises, run in a thread of its own; fails where it does not end."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((work(), None))
        except BaseException as error:
            outcome.extend((None, error))

    thread = threading.Thread(target=run, name="hang-guard", daemon=True)
    thread.start()
    thread.join(HANGS_S)
    assert not thread.is_alive(), f"{work} did not end within {HANGS_S:g} s: it hangs"
    value, error = outcome
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]
