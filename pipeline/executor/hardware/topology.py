"""The cores of this machine and how much of them this process may use, read from the kernel.

Complete on Linux only. Elsewhere cores are numbers without a topology, and nothing can be pinned.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stillframe.cores import allowed_cores, kernel_text

SYSTEM = Path("/sys/devices/system/cpu")
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


def read_cores(system: Path = SYSTEM, allowed: frozenset[int] | None = None) -> tuple[Core, ...]:
    """Every online core, in order; without /sys, the allowed ones."""
    allowed = allowed_cores() if allowed is None else allowed
    online = kernel_text(system / "online")
    online_cores = sorted(parse_cpu_list(online)) if online else sorted(allowed)
    tops = {core: _top_speed(system / f"cpu{core}") for core in online_cores}
    fastest = max((top for top in tops.values() if top), default=0)
    cores = []
    for core in online_cores:
        folder = system / f"cpu{core}"
        siblings = kernel_text(folder / "topology" / "thread_siblings_list")
        package = kernel_text(folder / "topology" / "physical_package_id")
        mhz = kernel_text(folder / "cpufreq" / "cpuinfo_max_freq")
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
    text = kernel_text(folder / "cpu_capacity") or kernel_text(
        folder / "cpufreq" / "cpuinfo_max_freq"
    )
    return int(text) if text else None
