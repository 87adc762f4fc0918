"""Measurements and plan choices of this host, on disk, so that no later start repeats them.

One JSON file in the cache folder for each host and version of the kernels. What is lost, or cannot
be written, is measured again.
"""

import contextlib
import json
import os
import tempfile
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from stillframe.cache_dir import cache_folder
from stillframe.reuse.kernels import code_store

VERSION = 1


def host() -> str:
    """Twelve digits for this processor and these kernels."""
    features = sorted(name for name, has in llvm.get_host_cpu_features().items() if has)
    facts = (VERSION, llvm.get_host_cpu_name(), features, code_store.fingerprint(__file__))
    return sha256(repr(facts).encode()).hexdigest()[:12]


def kernels_are_built() -> bool:
    """Whether the package came with compiled kernels for this host, so that none is compiled."""
    return code_store.is_built()


class DiskCache:
    """Values by name; safe to use from several threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder() / "measured") / f"{host()}.json"
        self._lock = threading.Lock()
        self._values = self._read()

    def __repr__(self) -> str:
        return f"<DiskCache {self.path.name}, {len(self._values)} values>"

    def get(self, name: str) -> Any:
        """The value stored under a name, or None."""
        return self._values.get(name)

    def add(self, values: dict[str, Any]) -> None:
        """Store JSON values by name. Where the folder cannot be written nothing happens."""
        if not values:
            return
        with self._lock:
            self._values = self._read() | self._values | values
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(
                    "w", dir=self.path.parent, suffix=".part", delete=False, encoding="utf-8"
                ) as file:
                    part = Path(file.name)
                try:
                    part.write_text(json.dumps(self._values), "utf-8")
                    os.replace(part, self.path)
                finally:
                    part.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            values = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return values if isinstance(values, dict) else {}
