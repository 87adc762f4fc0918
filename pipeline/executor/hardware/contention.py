"""How many threads of other processes compete for our cores, by the kernel's counters."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
TASKS = Path("/proc/self/task")
WEIGHT = 0.15
IDLE = (3, 4)  # columns of a cpu line in /proc/stat: idle, iowait


@dataclass(frozen=True, slots=True)
class _Sample:
    """The kernel's counters at one moment."""

    running: int
    """Runnable threads of all processes."""
    own: int
    """Runnable threads of this process."""
    busy_s: float | None
    """CPU time that the allowed cores have spent so far, for anyone; None: not known."""
    spent_s: float
    """CPU time that this process has spent so far."""
    at_s: float
    """Wall clock."""
    cores: int
    """Number of allowed cores."""


class ContentionMeter:
    """The mean number of competing threads, fed by `sample`; 0 if the kernel does not tell.

    Combines two estimates, since each alone misleads. The run queue overestimates: all threads and
    our own are counted at slightly different moments. The CPU time that others took on our cores is
    exact, but does not show how many more wanted to run. So the estimate is the run queue, capped
    at the number of threads that would take that time under fair scheduling.
    """

    others: float
    """The mean number of threads of other processes that compete."""

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
        self._last: _Sample | None = None

    def sample(self) -> float:
        """Take one sample, about 0.2 ms; -> `others`."""
        try:
            now = self._read()
        except (OSError, ValueError, IndexError):
            return self.others
        last, self._last = self._last, now
        weight = WEIGHT if last is not None else 1.0
        self._queued += weight * (now.running - now.own - self._queued)
        self._own += weight * (now.own - self._own)
        self.others = max(0.0, self._queued)
        if last is None or now.busy_s is None or last.busy_s is None or now.cores != last.cores:
            return self.others
        elapsed_s = max(now.at_s - last.at_s, 1e-6)
        taken = (now.busy_s - last.busy_s - (now.spent_s - last.spent_s)) / elapsed_s
        self._taken += WEIGHT * (taken - self._taken)
        fair = max(0.0, self._taken) * (self._own + self.others) / now.cores
        self.others = min(self.others, fair)
        return self.others

    def sample_mean(self, samples: int = 15, every_s: float = 0.02) -> float:
        """Take several samples; -> `others`."""
        for _ in range(samples):
            self.sample()
            time.sleep(every_s)
        return self.others

    def _read(self) -> _Sample:
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
        return _Sample(running, own, busy_s, spent_s, at_s, len(allowed))

    def _runnable(self) -> int:
        """Our own runnable threads, the calling one included."""
        count = 0
        for folder in self._tasks.iterdir():
            try:
                line = (folder / "stat").read_text(encoding="ascii", errors="replace")
            except OSError:  # the thread has just ended
                continue
            count += line.rpartition(")")[2].split()[0] == "R"
        return count
