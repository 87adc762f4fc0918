"""Whether a file can be written, asked before any work is done."""

import os
from pathlib import Path

from stillframe.errors import SinkError


def check_place(path: Path) -> None:
    """Raises SinkError where the path is a folder, or is in none."""
    if path.is_dir():
        raise SinkError(f"{path}: a folder; name a file in it")
    if not path.parent.is_dir():
        raise SinkError(f"{path}: there is no folder {path.parent}; make it first")


def check_writable(path: Path, force: bool) -> None:
    """Raises SinkError where a new file cannot be created there, trying it beside the path."""
    check_place(path)
    if path.exists() and not force:
        raise SinkError(f"{path}: there is such a file; overwrite it with --force")
    probe = path.with_name(f".{path.name}.part")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o666))
        probe.unlink()
    except OSError as error:
        raise SinkError(f"{path}: cannot be written: {error.strerror}") from None
