"""The cores of this machine and how much of them this process may use, read from the kernel.

Complete on Linux only. Elsewhere cores are numbers without a topology, and nothing can be pinned.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/devices/system/cpu")
PROCESS = Path("/proc/self")
LITTLE = 0.8  # a core is little if its top speed is below this part of the fastest core's


@dataclass(frozen=True, slots=True)
class Core:
    """One logical core."""

    number: int
    package: int = 0
    """The socket."""
    siblings: tuple[int, ...] = ()
    """The logical cores of the same physical core, itself included."""
    most_mhz: int | None = None
    """Highest frequency; None if neither driver nor hypervisor tells."""
    little: bool = False
    """Clearly slower by design than the fastest core."""
    allowed: bool = True
    """Whether this process may run on it."""


def parse_cpu_list(text: str) -> frozenset[int]:
    """`0-3,6` -> {0, 1, 2, 3, 6}. Raises ValueError for any other text."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        low, high = int(first), int(last if dash else first)
        if high < low:
            raise ValueError(f"{part}: the first is above the last")
        cores.update(range(low, high + 1))
    return frozenset(cores)


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
    """The cores that this process may run on now."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def read_cores(system: Path = SYSTEM, allowed: frozenset[int] | None = None) -> tuple[Core, ...]:
    """Every online core, in order; without /sys, the allowed ones."""
    allowed = allowed_cores() if allowed is None else allowed
    online = _text(system / "online")
    online_cores = sorted(parse_cpu_list(online)) if online else sorted(allowed)
    tops = {core: _top_speed(system / f"cpu{core}") for core in online_cores}
    fastest = max((top for top in tops.values() if top), default=0)
    cores = []
    for core in online_cores:
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


def _top_speed(folder: Path) -> int | None:
    """How fast a core is by design, in the machine's own unit: capacity, else frequency."""
    text = _text(folder / "cpu_capacity") or _text(folder / "cpufreq" / "cpuinfo_max_freq")
    return int(text) if text else None


def cpu_quota(process: Path = PROCESS) -> float | None:
    """The CPU time that cgroups grant this process, in cores; None: no limit.

    The tightest limit from the process's own cgroup up to the root, for cgroup v2 (`cpu.max`) and
    v1 (`cpu.cfs_quota_us`).
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
    """The limits of a cgroup and its visible ancestors. root: the cgroup mounted at `mount`."""
    below = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
    folder, limits = mount / str(below).lstrip("/"), []
    while folder.is_relative_to(mount):
        if unified:
            words = _text(folder / "cpu.max").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [word for name in names for word in _text(folder / name).split()]
        if len(words) == 2 and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
        folder = folder.parent
    return limits


def _text(path: Path) -> str:
    """The file's content, stripped; empty if it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
