"""What runs beside a measured run: processes that compete, and a video that plays.

All of them are children of the benchmark with an end of their own: they stop after a stated time,
when their parent is gone, and at the latest when the block that started them ends.
"""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from stillframe.errors import SourceError
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.media.redaction import MaskedAddress, unmasked

LONGEST_S = 300.0
RATE = 30.0
AHEAD = 4  # frames; ffplay holds 3, mpv and browsers more
COMPETITOR = """
import os, sys, time
parent, end = os.getppid(), time.monotonic() + float(sys.argv[1])
while time.monotonic() < end and os.getppid() == parent:
    sum(i * i for i in range(20_000))
"""
VIDEO = f"import sys; from {__name__} import play; play(*sys.argv[1:])"


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


def competitors(number: int, seconds: float = LONGEST_S) -> list[list[str]]:
    """Commands for `children`: each takes as much of one core as it can get."""
    return [[COMPETITOR, str(seconds)] for _ in range(number)]


def playback(clip: str, seconds: float) -> list[str]:
    """A command for `children`: plays a clip at 30 frames a second, and counts what it dropped."""
    return [VIDEO, unmasked(clip), str(seconds)]


def played(process: subprocess.Popen[str], timeout_s: float) -> dict[str, float]:
    """What a video player printed at its end."""
    text, _ = process.communicate(timeout=timeout_s)
    return dict(json.loads(text))


def play(clip: str, seconds: str) -> None:
    """The player's own work: decode up to AHEAD frames early, as players do, and show each, as RGB,
    before the next one is due. One that is not decoded by then, or not shown, is dropped."""
    due = int(float(seconds) * RATE)
    shown = 0
    ahead: queue.Queue[object] = queue.Queue(AHEAD)
    threading.Thread(target=_decode, args=(clip, ahead), daemon=True).start()
    while not ahead.full():
        time.sleep(0.01)
    began = time.perf_counter()
    for number in range(due):
        start = began + number / RATE
        time.sleep(max(0.0, start - time.perf_counter()))
        ahead.get()
        shown += time.perf_counter() < start + 1 / RATE
    sys.stdout.write(json.dumps({"due": due, "shown": shown, "dropped": due - shown}))


def _decode(clip: str, ahead: "queue.Queue[object]") -> None:
    for _ in count():
        with open_source(clip, decode_threads=1) as source:
            for frame in source:
                ahead.put(frame)


def is_there(clip: str) -> None:
    """Raise SourceError now, and not in a child, where a clip cannot be had."""
    is_file = not clip.startswith("sample:") and "://" not in clip
    if is_file and not Path(unmasked(clip)).exists():
        raise SourceError(f"{MaskedAddress(clip)}: there is no such file")
    open_source(clip).close()
