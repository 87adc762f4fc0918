"""How many threads of other processes want to run, by the kernel's counts without our own."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
TASKS = Path("/proc/self/task")
WEIGHT = 0.15
IDLE = (3, 4)  # of a processor's counters: idle, and idle while a disk is waited for


@dataclass(frozen=True, slots=True)
class _Count:
    """At one moment. running: threads of all processes; own: of this one; that run or want to.
    busy_s: that the allowed cores have worked so far, for anyone; None: the kernel does not say.
    spent_s: this process's share of it. cores: how many are allowed."""

    running: int
    own: int
    busy_s: float | None
    spent_s: float
    at_s: float
    cores: int


class ContentionMeter:
    """Running means, fed by `sample`. Where the kernel does not tell, nobody competes.

    Two counts, since each alone misleads. The queue counts our own threads a moment apart from all
    threads, and so sees others where there are none. The time that others took on our cores is
    exact, but says little of how many more would have liked to. So: those in the queue, and at most
    as many as explain the time that was taken, were every thread given its fair part.
    """

    def __init__(
        self,
        stat: Path = STAT,
        tasks: Path = TASKS,
        clock: Callable[[], float] = time.perf_counter,
        spent: Callable[[], float] = time.process_time,
    ) -> None:
        self.others = 0.0
        self._stat, self._tasks, self._clock, self._spent = stat, tasks, clock, spent
        self._queued = self._own = self._taken = 0.0
        self._last: _Count | None = None

    def sample(self) -> float:
        """Count once; -> threads of others, the mean so far. A fifth of a millisecond."""
        try:
            now = self._count()
        except (OSError, ValueError, IndexError):
            return self.others
        last, self._last = self._last, now
        weight = WEIGHT if last is not None else 1.0
        self._queued += weight * (now.running - now.own - self._queued)
        self._own += weight * (now.own - self._own)
        self.others = max(0.0, self._queued)
        if last is None or now.busy_s is None or last.busy_s is None or now.cores != last.cores:
            return self.others
        passed_s = max(now.at_s - last.at_s, 1e-6)
        taken = (now.busy_s - last.busy_s - (now.spent_s - last.spent_s)) / passed_s
        self._taken += WEIGHT * (taken - self._taken)
        fair = max(0.0, self._taken) * (self._own + self.others) / now.cores
        self.others = min(self.others, fair)
        return self.others

    def sample_mean(self, samples: int = 15, every_s: float = 0.02) -> float:
        """Look several times; -> the mean."""
        for _ in range(samples):
            self.sample()
            time.sleep(every_s)
        return self.others

    def _count(self) -> _Count:
        text = self._stat.read_text(encoding="ascii")
        running = int(text.partition("procs_running ")[2].split(maxsplit=1)[0])
        own = self._runnable()
        at_s, spent_s = self._clock(), self._spent()
        allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        rows = [line.split() for line in text.splitlines() if line.startswith("cpu")]
        ticks = [
            int(value)
            for name, *values in rows
            if name in allowed
            for place, value in enumerate(values[:8])
            if place not in IDLE
        ]
        busy_s = sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None
        return _Count(running, own, busy_s, spent_s, at_s, len(allowed))

    def _runnable(self) -> int:
        """Our own threads that want to run, the one that counts among them."""
        count = 0
        for folder in self._tasks.iterdir():
            try:
                line = (folder / "stat").read_text(encoding="ascii", errors="replace")
            except OSError:  # it ended just now
                continue
            count += line.rpartition(")")[2].split()[0] == "R"
        return count
