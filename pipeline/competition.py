"""How many threads of other processes want to run: the kernel's count, without our own."""

import time
from pathlib import Path

STAT = Path("/proc/stat")
TASKS = Path("/proc/self/task")
WEIGHT = 0.15


class Competition:
    """A running mean, fed by `look`. Where the kernel does not tell, nobody competes."""

    def __init__(self, stat: Path = STAT, tasks: Path = TASKS) -> None:
        self.others = 0.0
        self._stat, self._tasks = stat, tasks
        self._seen = False

    def look(self) -> float:
        """Count once; -> the mean so far. A fifth of a millisecond."""
        try:
            text = self._stat.read_text(encoding="ascii")
            running = int(text.partition("procs_running ")[2].split(maxsplit=1)[0])
        except (OSError, ValueError, IndexError):
            return self.others
        now = max(0, running - self._own())
        self.others += (WEIGHT if self._seen else 1.0) * (now - self.others)
        self._seen = True
        return self.others

    def settled(self, looks: int = 10, every_s: float = 0.02) -> float:
        """Look several times; -> the mean."""
        for _ in range(looks):
            self.look()
            time.sleep(every_s)
        return self.others

    def _own(self) -> int:
        """Our own threads that want to run, the one that counts among them."""
        count = 0
        for folder in self._tasks.iterdir():
            try:
                line = (folder / "stat").read_text(encoding="ascii", errors="replace")
            except OSError:  # it ended just now
                continue
            count += line.rpartition(")")[2].split()[0] == "R"
        return count
