"""stillframe cache: the table, JSON, clearing, and names that do not exist."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.pipeline import cli
from stillframe.reuse.disk_cache import DiskCache

FILES = (
    "assets/0123456789ab/net.onnx",
    "assets/0123456789ab/net.onnx.stamp",
    "samples/.plaza-1s.qwer.part",
    "kernels/pool.max_pool-9e5f1a2f7cc5f055.code",
    "kernels/store.has_changed-eb9f366b31.py311.1.nbc",
    "measured/0123456789ab.json",
    "diary.txt",
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    folder = tmp_path / "cache"
    monkeypatch.setenv("STILLFRAME_CACHE", str(folder))
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    return folder


def test_the_table_names_folder_sizes_and_places(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.status(["cache"]) == 0
    first, title, *rows = capsys.readouterr().out.splitlines()
    assert first == f"{cache}: 30 bytes"
    assert title.split() == ["what", "size", "age", "where"]
    assert [row.split()[0] for row in rows] == ["clips", "models", "kernels", "measured"]
    assert "10 bytes" in rows[1]
    assert str(cache / "assets" / "0123456789ab" / "net.onnx") in rows[1]
    assert rows[0].endswith("left by a run that was interrupted")
    assert rows[3].endswith("another host or an earlier version")


def test_json_has_the_same(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measurements = DiskCache()
    (cache / "measured").mkdir(exist_ok=True)
    measurements.path.write_text("{}")
    assert cli.status(["cache", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["folder"] == str(cache)
    by_path = {entry["path"]: entry for entry in shown["entries"]}
    assert len(by_path) == len(shown["entries"]) == 5
    assert by_path[str(cache / "kernels")] | {"age_s": 0} == {
        "section": "kernels",
        "path": str(cache / "kernels"),
        "files": 2,
        "size_bytes": 10,
        "age_s": 0,
        "note": "",
    }
    assert by_path[str(measurements.path)]["note"] == "this host"


def test_clear_deletes_one_part_or_all(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.status(["cache", "clear", "kernels"]) == 0
    assert capsys.readouterr().out == "kernels: 2 files, 10 bytes deleted\n"
    assert cli.status(["cache", "clear", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["deleted"]) == 4
    assert cli.status(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "nothing to delete\n"
    assert [path.name for path in cache.iterdir()] == ["diary.txt"]


def test_an_unknown_part_is_refused_and_nothing_is_deleted(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.status(["cache", "clear", "models", "diary"]) == 2
    assert capsys.readouterr().err == (
        "stillframe: error: unknown part of the cache 'diary': one of clips, models, kernels,"
        " measured, elsewhere\n"
    )
    assert all((cache / name).exists() for name in FILES)


def test_a_cache_that_is_not_there_is_empty(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "absent"))
    assert cli.status(["cache"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'absent'}: 0 bytes\n"
    assert cli.status(["cache", "clear"]) == 0
    assert not (tmp_path / "absent").exists()


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "tmp").mkdir()
    code = (
        "import sys; from stillframe import cache_dir; from stillframe.pipeline import cli;"
        "cli._run = lambda arguments: int(cache_dir.kernel_folder() is None);"
        "cli.main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {"STILLFRAME_CACHE": str(tmp_path / "file"), "TMPDIR": str(tmp_path / "tmp")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr.startswith(f"stillframe: warning: {tmp_path / 'file' / 'kernels'}: cannot be")
    assert ran.stderr.count("\n") == 1
