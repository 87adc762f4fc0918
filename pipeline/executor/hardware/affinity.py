"""Threads on cores: set, and then asked of the kernel whether it is so."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.pipeline.executor.hardware.topology import (
    allowed_cores,
    cpu_list,
    parse_cpu_list,
)

TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class PinResult:
    """What came of pinning a thread. cores: where it may run now; empty: not known.

    held: that is what was asked for. note: what happened instead, in words.
    """

    thread: int
    cores: frozenset[int]
    applied: bool
    note: str = ""


def cores_of(thread: int) -> frozenset[int]:
    """Where the kernel says that a thread of this process may run; empty where it does not say."""
    try:
        status = (TASKS / str(thread) / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in status.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpu_list(line.partition(":")[2])
    return frozenset()


def pin_thread(cores: frozenset[int], thread: int | None = None) -> PinResult:
    """Let a thread (kernel's id; None: the caller) run on these cores only; none: on all allowed.

    Where that is denied or impossible the thread stays where it was, and the pin says so.
    """
    thread = threading.get_native_id() if thread is None else thread
    if not hasattr(os, "sched_setaffinity"):
        return PinResult(
            thread, frozenset(), not cores, "this system does not let threads be pinned"
        )
    wanted = cores or allowed_everywhere()
    try:
        os.sched_setaffinity(thread, wanted)
    except OSError as error:
        reason = (error.strerror or "refused").lower()
        note = f"core {cpu_list(wanted)} could not be had ({reason}); the thread stays where it was"
        return PinResult(thread, cores_of(thread), False, note)
    now = cores_of(thread)
    if now != wanted:
        note = f"asked for core {cpu_list(wanted)}, the kernel gave {cpu_list(now) or 'no answer'}"
        return PinResult(thread, now, False, note)
    return PinResult(thread, now, True)


def allowed_everywhere() -> frozenset[int]:
    """What the process as a whole may use: the cores of its main thread."""
    return cores_of(os.getpid()) or allowed_cores()


@contextmanager
def pinned_thread(cores: frozenset[int]) -> Iterator[PinResult]:
    """The calling thread on these cores for the block, afterwards where it was before."""
    before = cores_of(threading.get_native_id())
    try:
        yield pin_thread(cores)
    finally:
        if before:
            pin_thread(before)
