"""How many cores this process may use, and so how many threads are of any use."""

import math
import os
import warnings
from pathlib import Path

PROCESS = Path("/proc/self")


class ThreadsWarning(RuntimeWarning):
    """More threads were requested than there are cores; fewer run."""


def allowed_cores() -> frozenset[int]:
    """The cores that this process may run on now."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def core_count() -> int:
    """The cores that the calling thread may use at the same time, at least 1.

    Of a cgroup's quota a part of a core counts as one.
    """
    return _within_quota(allowed_cores())


def most_threads() -> int:
    """The cores that this process may use at the same time, also where the caller is pinned."""
    cores = allowed_cores()
    if hasattr(os, "sched_getaffinity"):
        cores |= os.sched_getaffinity(os.getpid())  # of the main thread
    return _within_quota(cores)


def _within_quota(cores: frozenset[int]) -> int:
    quota = cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), math.ceil(quota)))


def bounded_threads(requested: int) -> int:
    """As many threads as requested, but no more than `most_threads`, with a ThreadsWarning.

    Threads that meet after each layer would only wait for each other: each for its turn on a core.
    """
    most = most_threads()
    if requested <= most:
        return requested
    cores = "1 core" if most == 1 else f"{most} cores"
    warnings.warn(
        f"{requested} threads were requested and this process may use {cores}: {most} run",
        ThreadsWarning,
        stacklevel=3,
    )
    return most


def cpu_quota(process: Path = PROCESS) -> float | None:
    """The CPU time that cgroups grant this process, in cores; None: no limit.

    The tightest limit from the process's own cgroup up to the root, for cgroup v2 (`cpu.max`) and
    v1 (`cpu.cfs_quota_us`).
    """
    mounts = [line.split() for line in kernel_text(process / "mountinfo").splitlines()]
    limits = []
    for line in kernel_text(process / "cgroup").splitlines():
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
            words = kernel_text(folder / "cpu.max").split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            words = [word for name in names for word in kernel_text(folder / name).split()]
        if len(words) == 2 and words[0] not in ("max", "-1"):
            limits.append(int(words[0]) / int(words[1]))
        folder = folder.parent
    return limits


def kernel_text(path: Path) -> str:
    """The file's content, stripped; empty if it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
