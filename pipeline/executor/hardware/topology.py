"""The cores of this machine and how much of them this process may use, as the kernel tells it.

Linux tells all of it. Elsewhere cores are numbers without a topology, and nothing can be pinned.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
PROCESS = Path("/proc/self")
LITTLE = 0.8  # a core whose top is below this part of the fastest core's top is a small one


@dataclass(frozen=True, slots=True)
class Core:
    """One logical core. siblings: the logical cores of the same physical one, itself among them.

    most_mhz: its highest frequency; None where neither driver nor hypervisor tells. little: it is
    clearly slower by design than the fastest. allowed: this process may run on it.
    """

    number: int
    package: int = 0
    siblings: tuple[int, ...] = ()
    most_mhz: int | None = None
    little: bool = False
    allowed: bool = True


def parse_cpu_list(text: str) -> frozenset[int]:
    """`0-3,6` -> {0, 1, 2, 3, 6}. Raises ValueError for what is no such list."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low, high = int(first), int(last if dash else first)
        if high < low:
            raise ValueError(f"{part}: the first is above the last")
        found.update(range(low, high + 1))
    return frozenset(found)


def cpu_list(cores: Iterable[int]) -> str:
    """{0, 1, 2, 3, 6} -> `0-3,6`."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


def allowed_cores() -> frozenset[int]:
    """Cores that this process may run on now."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def read_cores(system: Path = SYSTEM, allowed: frozenset[int] | None = None) -> tuple[Core, ...]:
    """Every core that is online, in order. Where there is no such folder: the allowed ones."""
    allowed = allowed_cores() if allowed is None else allowed
    online = _text(system / "online")
    found = sorted(parse_cpu_list(online)) if online else sorted(allowed)
    tops = {core: _top(system / f"cpu{core}") for core in found}
    fastest = max((top for top in tops.values() if top), default=0)
    cores = []
    for core in found:
        folder = system / f"cpu{core}"
        siblings = _text(folder / "topology" / "thread_siblings_list")
        package = _text(folder / "topology" / "physical_package_id")
        mhz = _text(folder / "cpufreq" / "cpuinfo_max_freq")
        cores.append(
            Core(
                number=core,
                package=max(0, int(package)) if package else 0,
                siblings=tuple(sorted(parse_cpu_list(siblings))) if siblings else (core,),
                most_mhz=int(mhz) // 1000 if mhz else None,
                little=(tops[core] or fastest) < LITTLE * fastest,
                allowed=core in allowed,
            )
        )
    return tuple(cores)


def _top(folder: Path) -> int | None:
    """How fast a core is by design, in its machine's own unit: capacity, else frequency."""
    text = _text(folder / "cpu_capacity") or _text(folder / "cpufreq" / "cpuinfo_max_freq")
    return int(text) if text else None


def cpu_quota(process: Path = PROCESS) -> float | None:
    """How many cores' time the control groups grant this process; None: all of it.

    The tightest limit from the process's own group up to the root counts, in version 2 (`cpu.max`)
    as in version 1 (`cpu.cfs_quota_us`).
    """
    mounts = [line.split() for line in _text(process / "mountinfo").splitlines()]
    limits = []
    for line in _text(process / "cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        unified = number == "0" and not controllers
        if not unified and "cpu" not in controllers.split(","):
            continue
        for fields in mounts:
            kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
            if (kind == "cgroup2") if unified else (kind == "cgroup" and "cpu" in options):
                limits += _limits(Path(fields[4]), Path(fields[3]), path, unified)
    return min(limits, default=None)


def _limits(mount: Path, root: Path, path: str, unified: bool) -> list[float]:
    """The limits of a group and of all above it that can be seen. root: what is mounted there."""
    below = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
    folder, found = mount / str(below).lstrip("/"), []
    while folder.is_relative_to(mount):
        if unified:
            words = _text(folder / "cpu.max").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [word for name in names for word in _text(folder / name).split()]
        if len(words) == 2 and words[0] not in ("max", "-1"):
            found.append(int(words[0]) / int(words[1]))
        folder = folder.parent
    return found


def _text(path: Path) -> str:
    """What stands in the file; nothing where there is none that can be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
