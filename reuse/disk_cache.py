"""What this host has once worked out or measured, kept on disk so that no later start repeats it.

A JSON file in the user's cache folder for each host and version of the kernels. What is lost or
cannot be written is only worked out again.
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
from stillframe.reuse.kernels.jit import fingerprint

VERSION = 1


def host() -> str:
    """Twelve digits for this processor and these kernels."""
    features = sorted(name for name, has in llvm.get_host_cpu_features().items() if has)
    told = (VERSION, llvm.get_host_cpu_name(), features, fingerprint(__file__))
    return sha256(repr(told).encode()).hexdigest()[:12]


class DiskCache:
    """Notes by name; safe to use from several threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_folder() / "measured") / f"{host()}.json"
        self._lock = threading.Lock()
        self._notes = self._read()

    def __repr__(self) -> str:
        return f"<Notebook {self.path.name}, {len(self._notes)} notes>"

    def get(self, name: str) -> Any:
        """What was noted under a name, None if nothing was; anything that JSON can say."""
        return self._notes.get(name)

    def add(self, notes: dict[str, Any]) -> None:
        """Note what can be said in JSON. Nothing is said where the folder cannot be written."""
        if not notes:
            return
        with self._lock:
            self._notes = self._read() | self._notes | notes
            with contextlib.suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(
                    "w", dir=self.path.parent, suffix=".part", delete=False, encoding="utf-8"
                ) as file:
                    part = Path(file.name)
                try:
                    part.write_text(json.dumps(self._notes), "utf-8")
                    os.replace(part, self.path)
                finally:
                    part.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
