"""The peak memory of a process that does nothing but run one contender."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from stillframe.errors import ModelError
from stillframe.pipeline.inference.backends import Feed
from stillframe.pipeline.studies.bench.contenders import ContenderSetting, contender

LONGEST_S = 900.0
CHILD = f"import sys; from {__name__} import answer; answer(sys.argv[1:])"


def peak_mb(name: str, setting: ContenderSetting, feed: Feed) -> float:
    """Megabytes that a fresh process had resident at most, from its start to its second frame.

    name: a row of CONTENDERS. feed: a frame; the second one is its mirror image, so that all of it
    is computed again. Raises ModelError when the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.npz"
        np.savez(frame, **feed)  # type: ignore[arg-type]  # savez declares names of its own
        process = subprocess.run(
            [sys.executable, "-c", CHILD, name, str(setting.path), str(setting.threads),
             str(setting.tolerance), str(frame)],
            capture_output=True, text=True, timeout=LONGEST_S, check=False,
        )  # fmt: skip
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise ModelError(f"{setting.path}: {name} failed in a process of its own: {last[0]}")
    return float(process.stdout)


def answer(arguments: list[str]) -> None:
    """What the process does: its peak goes to standard output."""
    name, path, threads, tolerance, frame = arguments
    runner = contender(name).make(ContenderSetting(Path(path), int(threads), float(tolerance)))
    with np.load(frame) as feed:
        arrays = dict(feed)
    runner.run(arrays, None)
    runner.run({k: np.ascontiguousarray(v[..., ::-1]) for k, v in arrays.items()}, None)
    sys.stdout.write(str(resident_peak_mb()))


def resident_peak_mb() -> float:
    """Of this process since it was started."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ModelError("/proc/self/status: expected a line VmHWM, which this kernel does not write")
