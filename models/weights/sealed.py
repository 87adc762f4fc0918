"""Files with a recorded checksum: damage is noticed, and unchanged files are not hashed again.

Beside each file lies `<name>.stamp`: its SHA-256, with the size and modification time that it had
when its hash was last verified.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stillframe.errors import ModelError


def intact(path: Path, sha256: str) -> bool:
    """Whether the file has that SHA-256; hashed only if size or time differ from the stamp."""
    try:
        now = path.stat()
        stamp = {"sha256": sha256, "size": now.st_size, "mtime_ns": now.st_mtime_ns}
        with contextlib.suppress(OSError, ValueError):
            if json.loads(_stamp_path(path).read_text()) == stamp:
                return True
        if file_sha256(path) != sha256:
            return False
    except OSError:
        return False
    with contextlib.suppress(OSError):  # a read-only cache is still of use
        write_atomically(_stamp_path(path), json.dumps(stamp).encode())
    return True


def sealed(path: Path) -> bool:
    """Whether the file exists and is still as `write_sealed` wrote it."""
    try:
        sha256 = json.loads(_stamp_path(path).read_text())["sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
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


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".stamp")
