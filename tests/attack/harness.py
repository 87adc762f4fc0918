"""Runs cases in child processes, so that whatever one does is seen: aborts, hangs, memory.

    python -m tests.attack models --count 2000 --seed 0
    python -m tests.attack all --minutes 10

A child works through a range of seeds and reports each on a line of its own; the parent waits for
the line, and when the child dies or is silent for too long, notes which seed did it and starts
another from the next one. The seed is printed first, then the counts.
"""

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.cases import KINDS

PATIENCE_S = {"caches": 900.0}
OTHERWISE_S = 180.0
"""Silence after which a case of a kind hangs. The first one compiles kernels, and each of a cache
does, which takes minutes beside busy processes."""

BATCH = 100
"""Cases of one child; what they leak together is seen in its peak memory."""


@dataclass
class Report:
    """What came of the cases of one kind."""

    kind: str
    tried: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    peak_mb: float = 0.0
    faults: list[str] = field(default_factory=list)
    """Every foreign exception, hang, abort and wrong answer, with its seed."""

    def __str__(self) -> str:
        counts = ", ".join(
            f"{name} {self.outcomes[name]}"
            for name in ("refused", "ran", "foreign", "differs", "hang", "abort")
        )
        return f"{self.kind}: tried {self.tried}, {counts}, peak {self.peak_mb:.0f} MB"


def attack(kind: str, first: int, count: int, until: float = float("inf")) -> Report:
    """Try the seeds from `first` on, at most `count` of them and until that time (monotonic)."""
    report = Report(kind)
    seed, end = first, first + count
    while seed < end and time.monotonic() < until:
        seed = _batch(report, seed, min(end, seed + BATCH), until)
    return report


def _batch(report: Report, first: int, end: int, until: float) -> int:
    """Run one child; -> the first seed that it did not come to."""
    seed = first
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.attack.harness",
                report.kind,
                str(first),
                str(end),
                folder,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert child.stdout is not None
        try:
            while seed < end:
                patience_s = PATIENCE_S.get(report.kind, OTHERWISE_S)
                ready, _, _ = select.select([child.stdout], [], [], patience_s)
                line = child.stdout.readline() if ready else b""
                if not line:
                    outcome = "abort" if ready else "hang"
                    code = child.wait() if ready else "none"
                    _note(report, seed, outcome, f"exit code {code}")
                    return seed + 1
                answer = json.loads(line)
                _note(report, answer["seed"], answer["outcome"], answer["word"])
                report.peak_mb = max(report.peak_mb, answer["peak_mb"])
                seed = answer["seed"] + 1
                if time.monotonic() > until:
                    break
        finally:
            with contextlib.suppress(ProcessLookupError):  # its own children hang as well
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            child.stdout.close()
    return seed


def _note(report: Report, seed: int, outcome: str, word: str) -> None:
    report.tried += 1
    report.outcomes[outcome] += 1
    if outcome not in ("ran", "refused"):
        report.faults.append(f"{report.kind} seed {seed}: {outcome}: {word}")


def child(kind: str, first: int, end: int, folder: Path) -> None:
    """Work through the seeds; one JSON line each on the real standard output."""
    from stillframe import StillframeError

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for seed in range(first, end):
        try:
            outcome, word = KINDS[kind](seed, folder)
        except StillframeError as error:
            outcome, word = "refused", f"{type(error).__name__}: {error}"
        except BaseException as error:
            outcome, word = "foreign", f"{type(error).__name__}: {error}"
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        peak = max(_peak_kb(), children) / 1024
        answer = {"seed": seed, "outcome": outcome, "word": word[:300], "peak_mb": peak}
        print(json.dumps(answer), file=out, flush=True)


def _peak_kb() -> int:
    """Of this program alone: getrusage's figure also has that of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
