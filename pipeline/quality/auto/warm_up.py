"""Loads, or compiles, every kernel that a backend and the change gate run.

    python -m stillframe.pipeline.quality.auto.warm_up MODEL.onnx THREADS [widen]

As a program it fills the cache on disk for another process: where the package came without compiled
kernels, compiling takes half a minute of one core, and done in a thread it would hold the
interpreter's lock against the frames.
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
WIDEN = "widen"
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
        session.attend(marks)
        session.step(feeds, marks)
        session.attend(None)
    session.reset()
    gate = ChangeGate(SIDE, SIDE)
    for level in (0, 0, 99):
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        picture[: SIDE // 4] = level
        gate.step(picture)


def is_warm(path: Path, threads: int, *, widen: bool = False) -> bool:
    """Whether the kernels for the model's file came with the package, or were compiled before."""
    from stillframe.reuse.disk_cache import kernels_are_built

    if kernels_are_built():
        return True
    note = _note(path, threads, widen)
    return note is not None and note.exists()


def is_all_island(path: Path, threads: int, *, widen: bool = False) -> bool:
    """Whether the model's file, as it is now, was found to leave the reuse engine nothing to do."""
    note = _note(path, threads, widen)
    if note is None:
        return False
    try:
        return note.read_text() == _state(path)
    except OSError:
        return False


def start_elsewhere(
    path: Path, threads: int, *, widen: bool = False
) -> "subprocess.Popen[bytes] | None":
    """Compile for the model's file in a process of its own.

    What it compiled before it was killed is cached, so the next one goes on from there. None where
    this process could not load what that one stores.
    """
    if not sys.executable or kernel_folder() is None:
        return None
    command = [sys.executable, "-m", __spec__.name, str(path), str(threads)]
    command += [WIDEN] if widen else []
    quiet = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:
        return None


def main(path: Path, threads: int, widen: bool) -> None:
    """Fill the cache, and note that it is filled."""
    backend = ReuseBackend(path, threads, TOLERANCE, widen=widen)
    if backend.incremental:
        warm_up(backend)
        note_warm(path, threads, widen=widen)
    else:
        note_all_island(path, threads, widen=widen)
    backend.close()


def note_warm(path: Path, threads: int, *, widen: bool = False) -> None:
    """Kernels for the model's file are in the cache now."""
    _write(_note(path, threads, widen), "")


def note_all_island(path: Path, threads: int, *, widen: bool = False) -> None:
    """The reuse engine has nothing to do for the model's file as it is now."""
    with contextlib.suppress(OSError):
        _write(_note(path, threads, widen), _state(path))


def _write(note: Path | None, text: str) -> None:
    if note is not None:
        with contextlib.suppress(OSError):
            note.write_text(text)


def _state(path: Path) -> str:
    """What tells that a file was written anew, or that another importer may do more with it."""
    from stillframe.reuse.disk_cache import host

    facts = path.stat()
    sources = Path(host.__code__.co_filename).parent.rglob("*.py")
    newest = max(each.stat().st_mtime_ns for each in sources)
    return f"all island: {facts.st_size} bytes, {facts.st_mtime_ns}, engine of {newest}"


def _note(path: Path, threads: int, widen: bool) -> Path | None:
    """The file beside the kernels that says so; None where no kernels are stored.

    Kernels belong to a processor, to their sources and to where these lie.
    """
    from stillframe.reuse.disk_cache import host

    folder = kernel_folder()
    facts = (host(), str(Path(__file__).resolve()), path.name, threads, *[WIDEN] * widen)
    name = f"warm-{sha256(repr(facts).encode()).hexdigest()[:16]}"
    return None if folder is None else folder / name


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), WIDEN in sys.argv[3:])
