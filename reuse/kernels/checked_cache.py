"""numba's cache files behind a checksum: a damaged one is compiled again, never loaded.

Each file is the SHA-256 of what follows, then the content. It is written beside and put in place in
one step. Where nothing can be written, as on a full disk, kernels run without being stored.
"""

import functools
import hashlib
import pickle
import warnings
from pathlib import Path
from typing import Any

from numba.core import caching

from stillframe.cache_dir import CacheWarning

DIGEST_BYTES = 32
UNCHECKED = (b"\x80\x04", b"\x80\x05")
"""How files without a checksum begin, as earlier versions wrote them: with a pickle."""


class CheckedCacheFile(caching.IndexDataCacheFile):
    """The index and the data files of one kernel."""

    def save(self, key: Any, data: Any) -> None:
        try:
            super().save(key, data)
        except OSError as error:
            warn_once(self._cache_path, f"cannot store kernels ({error.strerror or error})")

    def _load_index(self) -> dict[Any, str]:
        content = self._read(self._index_path)
        if content is None:
            return {}
        stamp, overloads = pickle.loads(content)
        return dict(overloads) if stamp == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, ((self._version, self._source_stamp), overloads))

    def _load_data(self, name: str) -> Any:
        content = self._read(self._data_path(name))
        return None if content is None else pickle.loads(content)

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> bytes | None:
        """The content of a file; None if there is none, or not as it was written."""
        try:
            whole = Path(path).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            warn_once(self._cache_path, f"cannot read kernels ({error.strerror or error})")
            return None
        content = whole[DIGEST_BYTES:]
        if hashlib.sha256(content).digest() == whole[:DIGEST_BYTES]:
            return content
        if not whole.startswith(UNCHECKED):
            warn_once(self._cache_path, "holds damaged kernels, which are compiled again")
        return None

    def _write(self, path: str, value: Any) -> None:
        content = self._dump(value)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(content).digest() + content)


@functools.cache
def warn_once(folder: str, fault: str) -> None:
    """One CacheWarning for each fault, however many files have it."""
    warnings.warn(f"{folder}: {fault}", CacheWarning, stacklevel=2)
