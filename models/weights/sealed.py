"""Files with a recorded checksum: damage is noticed, once in each process that uses the file.

Beside each file lies `<name>.stamp`: its SHA-256, with the size and modification time that it had
when its hash was last verified. Using a file verifies its hash, since a flipped bit changes neither
size nor time; listing what is there compares the stamp only.
"""

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillframe.errors import ModelError


def intact(path: Path, sha256: str) -> bool:
    """Whether the file has that SHA-256; hashed once in a process while it stays as it is."""
    try:
        now = path.stat()
        if _hash(path, now.st_ino, now.st_size, now.st_mtime_ns) != sha256:
            return False
    except OSError:
        return False
    stamp = _stamp(now, sha256)
    if _stored_stamp(path) != stamp:
        with contextlib.suppress(OSError):  # a read-only cache is still of use
            write_atomically(_stamp_path(path), json.dumps(stamp).encode())
    return True


def stamped(path: Path, sha256: str | None = None) -> bool:
    """Whether size and time are those of the stamp, for listings: the file is not read.

    sha256: what the stamp has to name; None: whatever it names.
    """
    stored = _stored_stamp(path)
    try:
        return bool(stored) and stored == _stamp(path.stat(), sha256 or str(stored.get("sha256")))
    except OSError:
        return False


def sealed(path: Path) -> bool:
    """Whether the file exists and is still as `write_sealed` wrote it."""
    sha256 = _stored_stamp(path).get("sha256")
    return isinstance(sha256, str) and intact(path, sha256)


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file with its checksum. Raises ModelError if the cache cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as e:
        raise ModelError(
            f"{path}: cannot be written ({e.strerror}); make room, "
            "or set STILLFRAME_CACHE to another folder"
        ) from e
    intact(path, hashlib.sha256(content).hexdigest())


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes | Iterator[bytes]) -> None:
    """Write a file so that others see it complete or not at all. Creates folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in (content,) if isinstance(content, bytes) else content:
                file.write(part)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


@functools.lru_cache(maxsize=1024)
def _hash(path: Path, inode: int, size: int, mtime_ns: int) -> str:
    """The file's SHA-256. The numbers tell when another file is at that path."""
    return file_sha256(path)


def _stamp(status: os.stat_result, sha256: str) -> dict[str, Any]:
    return {"sha256": sha256, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _stored_stamp(path: Path) -> dict[str, Any]:
    """Empty where there is none, or none that can be read."""
    try:
        stored = json.loads(_stamp_path(path).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".stamp")
