"""Pins threads to cores and checks with the kernel that it worked."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.cores import allowed_cores
from stillframe.pipeline.executor.hardware.topology import cpu_list, parse_cpu_list

TASKS = Path("/proc/self/task")


@dataclass(frozen=True, slots=True)
class PinResult:
    """The outcome of pinning a thread."""

    thread: int
    """The kernel's thread id."""
    cores: frozenset[int]
    """Where the thread may run now; empty: not known."""
    applied: bool
    """Whether those are the cores that were asked for."""
    note: str = ""
    """What happened instead, for people."""


def cores_of(thread: int) -> frozenset[int]:
    """The cores that a thread of this process may run on; empty if the kernel does not tell."""
    try:
        status = (TASKS / str(thread) / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in status.splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return parse_cpu_list(line.partition(":")[2])
    return frozenset()


def pin_thread(cores: frozenset[int], thread: int | None = None) -> PinResult:
    """Pin a thread to cores; an empty set unpins it.

    thread: the kernel's id; None: the calling thread. If pinning is denied or impossible, the
    thread stays where it was and the result's note says so.
    """
    thread = threading.get_native_id() if thread is None else thread
    if not hasattr(os, "sched_setaffinity"):
        return PinResult(
            thread, frozenset(), not cores, "this system does not let threads be pinned"
        )
    target = cores or allowed_everywhere()
    try:
        os.sched_setaffinity(thread, target)
    except OSError as error:
        reason = (error.strerror or "refused").lower()
        note = f"core {cpu_list(target)} could not be had ({reason}); the thread stays where it was"
        return PinResult(thread, cores_of(thread), False, note)
    now = cores_of(thread)
    if now != target:
        note = f"asked for core {cpu_list(target)}, the kernel gave {cpu_list(now) or 'no answer'}"
        return PinResult(thread, now, False, note)
    return PinResult(thread, now, True)


def allowed_everywhere() -> frozenset[int]:
    """The cores that the process as a whole may use: those of its main thread."""
    return cores_of(os.getpid()) or allowed_cores()


@contextmanager
def pinned_thread(cores: frozenset[int]) -> Iterator[PinResult]:
    """Pin the calling thread for the block, then restore its cores."""
    before = cores_of(threading.get_native_id())
    try:
        yield pin_thread(cores)
    finally:
        if before:
            pin_thread(before)
