"""What runs beside a measured run: processes that compete, and a video that plays.

All of them are children of the benchmark with an end of their own: they stop after a stated time,
when their parent is gone, and at the latest when the block that started them ends.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from stillframe.errors import SourceError
from stillframe.pipeline.source import open_source

LONGEST_S = 300.0
RATE = 30.0
RIVAL = """
import os, sys, time
parent, end = os.getppid(), time.monotonic() + float(sys.argv[1])
while time.monotonic() < end and os.getppid() == parent:
    sum(i * i for i in range(20_000))
"""
PLAYER = "import sys; from stillframe.pipeline.bench_rivals import play; play(*sys.argv[1:])"


@contextmanager
def children(commands: list[list[str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start them; killed and waited for at the end, whatever happened."""
    started: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", *command], stdout=subprocess.PIPE, text=True
                )
            )
        yield started
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def rivals(number: int, seconds: float = LONGEST_S) -> list[list[str]]:
    """Commands for `children`: each takes as much of one core as it can get."""
    return [[RIVAL, str(seconds)] for _ in range(number)]


def playback(clip: str, seconds: float) -> list[str]:
    """A command for `children`: plays a clip at 30 frames a second, and says what was dropped."""
    return [PLAYER, clip, str(seconds)]


def played(process: subprocess.Popen[str], timeout_s: float) -> dict[str, float]:
    """What a player said at its end."""
    text, _ = process.communicate(timeout=timeout_s)
    return dict(json.loads(text))


def play(clip: str, seconds: str) -> None:
    """The player's own work: each frame is to be there, as RGB, before the next one is due."""
    due = int(float(seconds) * RATE)
    shown = dropped = 0
    frames = _endless(clip)
    next(frames)
    began = time.perf_counter()
    for number in range(due):
        start = began + number / RATE
        wait_s = start - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        if time.perf_counter() > start + 1 / RATE:  # its time is over before it was begun
            dropped += 1
            continue
        next(frames)
        late = time.perf_counter() > start + 1 / RATE
        dropped += late
        shown += not late
    sys.stdout.write(json.dumps({"due": due, "shown": shown, "dropped": dropped}))


def _endless(clip: str) -> Iterator[object]:
    for _ in count():
        with open_source(clip, decode_threads=1) as source:
            yield from source


def is_there(clip: str) -> None:
    """Raise SourceError now, and not in a child, where a clip cannot be had."""
    if not clip.startswith("sample:") and not Path(clip).exists():
        raise SourceError(f"{clip}: there is no such file")
    open_source(clip).close()
