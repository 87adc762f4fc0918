"""Loads, or compiles, every kernel that a backend and the change gate run.

    python -m stillframe.pipeline.quality.auto.warm_up MODEL.onnx THREADS

As a program it fills the cache on disk for another process: compiling takes half a minute of one
core, and done in a thread it would hold the interpreter's lock against the frames.
"""

import contextlib
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np

from stillframe.cache_dir import kernel_folder
from stillframe.pipeline.inference.backends import ReuseBackend

TOLERANCE = 0.1
"""Of the backend; another one runs the same kernels."""
SIDE = 64
"""Of the picture that the gate is tried on, pixels."""


def warm_up(backend: ReuseBackend) -> None:
    """Two steps of the backend and the gate on made-up pictures; then everything is forgotten."""
    from stillframe.reuse.gate.change_gate import ChangeGate

    session = backend.session
    feeds = {}
    for port in session.get_inputs():
        shape = [side if isinstance(side, int) else 1 for side in port.shape]
        feeds[port.name] = np.zeros(shape, port.dtype)
    session.step(feeds, dense=True)
    if session.reads_pixels:
        height, width = session.plan.graph.shapes[session.picture_inputs[0]][:2]
        marks = np.zeros((height, width), np.uint8)
        marks[: max(1, height // 4)] = 1
        session.step(feeds, marks)
    session.reset()
    gate = ChangeGate(SIDE, SIDE)
    for level in (0, 0, 99):
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        picture[: SIDE // 4] = level
        gate.step(picture)


def is_warm(path: Path, threads: int) -> bool:
    """Whether the kernels for the model's file were compiled here before."""
    note = _note(path, threads)
    return note is not None and note.exists()


def start_elsewhere(path: Path, threads: int) -> "subprocess.Popen[bytes] | None":
    """Compile for the model's file in a process of its own.

    What it compiled before it was killed is cached, so the next one goes on from there. None where
    this process could not load what that one stores.
    """
    if not sys.executable or kernel_folder() is None:
        return None
    command = [sys.executable, "-m", __spec__.name, str(path), str(threads)]
    quiet = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:
        return None


def main(path: Path, threads: int) -> None:
    """Fill the cache, and note that it is filled."""
    backend = ReuseBackend(path, threads, TOLERANCE)
    warm_up(backend)
    backend.close()
    note_warm(path, threads)


def note_warm(path: Path, threads: int) -> None:
    """Kernels for the model's file are in the cache now."""
    note = _note(path, threads)
    if note is not None:
        with contextlib.suppress(OSError):
            note.touch()


def _note(path: Path, threads: int) -> Path | None:
    """The empty file beside the kernels that says so; None where no kernels are stored.

    Kernels belong to a processor, to their sources and to where these lie.
    """
    from stillframe.reuse.disk_cache import host

    folder = kernel_folder()
    facts = (host(), str(Path(__file__).resolve()), path.name, threads)
    name = f"warm-{sha256(repr(facts).encode()).hexdigest()[:16]}"
    return None if folder is None else folder / name


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
