"""What is done with one mutated thing, in a process of its own that may die of it.

Each case answers with an outcome and a word about it; what it raises is judged by the caller.
"""

import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.attack import mutate_media, mutate_models

Outcome = tuple[str, str]
"""("ran" | "refused" | "foreign" | "differs", a word about it)."""

LARGEST_INPUT = 1 << 22
TOLERANCE = 1e-3


def model(seed: int, folder: Path) -> Outcome:
    """Run a mutated model twice through `ReuseSession`; where both run, ONNX Runtime agrees."""
    import onnxruntime

    import stillframe

    content = mutate_models.mutated(seed)
    with stillframe.ReuseSession(content, threads=1) as session:
        feeds = _feeds(session.get_inputs(), seed)
        session.run(None, feeds)
        outputs = session.run(None, {name: value * 1 for name, value in feeds.items()})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        reference = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        expected = [reference.run(None, feeds) for _ in range(2)]
    except Exception:  # it refuses what we can run
        return "ran", "alone"
    for once, again in zip(*expected, strict=True):
        if not np.array_equal(once, again, equal_nan=np.asarray(once).dtype.kind == "f"):
            return "ran", "at random"
    for ours, theirs in zip(outputs, expected[0], strict=True):
        a, b = np.asarray(ours), np.asarray(theirs)
        if a.shape != b.shape:
            return "differs", f"shape {a.shape} instead of {b.shape}"
        if b.dtype.kind != "f":
            if not np.array_equal(a, b):
                return "differs", f"values of {b.dtype}"
            continue
        finite = np.isfinite(b)
        if not finite.all():  # NaN times zero padding is NaN here, and skipped there
            finite &= np.isfinite(a)
        scale = float(np.max(np.abs(b[finite]), initial=1.0))
        worst = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0))
        if not worst <= TOLERANCE * scale:
            return "differs", f"by {worst / scale:.2g} of the largest value"
    return "ran", "equal"


def _feeds(inputs: list[Any], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    from stillframe import UsageError

    kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    kinds |= {"tensor(float16)": np.float16, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32}
    draw = np.random.default_rng(seed)
    feeds = {}
    for each in inputs:
        shape = [side if isinstance(side, int) else 16 for side in each.shape]
        if int(np.prod([max(side, 1) for side in shape], dtype=object)) > LARGEST_INPUT:
            raise UsageError("the input is too large to be made")
        if each.type not in kinds or min(shape, default=1) < 0:
            raise UsageError(f"an input of {each.type} {shape} cannot be made")
        feeds[each.name] = (draw.random(shape) * 4).astype(kinds[each.type])
    return feeds


def video(seed: int, folder: Path) -> Outcome:
    """Read a mutated video to its end."""
    import stillframe

    path = folder / "video.bin"
    path.write_bytes(mutate_media.video(seed))
    with stillframe.open_source(str(path)) as source:
        count = sum(1 for _ in source)
    return "ran", f"{count} frames"


def y4m(seed: int, folder: Path) -> Outcome:
    """Pass a mutated y4m stream through the stream filter."""
    path = folder / "stream.y4m"
    path.write_bytes(mutate_media.y4m(seed))
    return _command(["filter", str(path), "--effect", "none", "--quiet"])


def configuration(seed: int, folder: Path) -> Outcome:
    """Start a run from a mutated configuration; a source that is not there ends it at once."""
    path = folder / "run.yaml"
    path.write_bytes(mutate_media.configuration(seed))
    return _command(["run", "nowhere.mp4", "--config", str(path), "--max-frames", "1"])


def _command(words: list[str]) -> Outcome:
    """A command line in this process; exit codes 0 to 7 are documented, 1 is a fault of ours."""
    from stillframe.pipeline import cli

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):  # standard output leads nowhere, see `harness.child`
        code = cli.status(words)
    text = errors.getvalue()
    if code == 0:
        return "ran", ""
    if code == 1 or "fault of stillframe" in text or "Traceback" in text:
        return "foreign", text[-300:]
    if "\x1b[3" in text:
        return "foreign", f"an escape sequence reaches the terminal: {text!r}"
    return "refused", text[-120:]


NETWORKS = {
    "residual": "mutate_models.residual(random.Random(0)).SerializeToString()",
    "plain": "graph_cases.model([('Relu', ['x'], 'y', {})], {'x': (1, 3, 16, 24)}, ['y'])",
}
"""Two networks of the cache's cases. The plain one has the fewest kernels to compile."""

RUN_ONCE = """
import numpy, stillframe, sys
from tests import graph_cases
from tests.attack import mutate_models
import random
content = NETWORK
with stillframe.ReuseSession(content, threads=1) as session:
    x = numpy.random.default_rng(0).random((1, 3, 16, 24)).astype("f4")
    print(float(numpy.asarray(session.run(None, {"x": x})[0], "f8").sum()))
"""


def cache(seed: int, folder: Path) -> Outcome:
    """Damage a warm cache folder, then run a network in a fresh process that uses it."""
    rng = random.Random(seed)
    count = rng.choice((1, 2, 3, 0))
    network = "residual" if count else "plain"
    warm = folder / network
    if not warm.exists():
        answer = _run_once(warm, network)
        (folder / f"{network} answer").write_text(answer)
    damaged = folder / "damaged"
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(warm, damaged)
    files = sorted(path for path in damaged.rglob("*") if path.is_file())
    for path in rng.sample(files, min(len(files), count or len(files))):
        content = path.read_bytes()
        kind = rng.randrange(4)
        if kind == 0:
            path.write_bytes(b"")
        elif kind == 1:
            path.write_bytes(content[: rng.randrange(len(content) + 1)])
        else:
            path.write_bytes(mutate_models.broken_bytes(content, rng))
    if _run_once(damaged, network) != (folder / f"{network} answer").read_text():
        return "differs", "another answer"
    return "ran", "equal"


def _run_once(folder: Path, network: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", RUN_ONCE.replace("NETWORK", NETWORKS[network])],
        env=os.environ | {"STILLFRAME_CACHE": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"exit {run.returncode}: {run.stderr[-300:]}")
    return run.stdout


KINDS: dict[str, Callable[[int, Path], Outcome]] = {
    "models": model,
    "videos": video,
    "y4m": y4m,
    "configurations": configuration,
    "caches": cache,
}
