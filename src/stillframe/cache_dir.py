"""The cache: the one folder for files that stillframe can download or compute again.

It is the user's cache folder for `stillframe`; the variable STILLFRAME_CACHE names another one and
is read here only. Where that folder cannot be written, compiled kernels go to a temporary folder of
this user, or are not stored at all: never into the source tree.
"""

import contextlib
import functools
import os
import re
import stat
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

VARIABLE = "STILLFRAME_CACHE"


class CacheWarning(UserWarning):
    """The cache folder cannot be written; what that means stands in the message."""


def cache_folder() -> Path:
    """The cache folder, which need not exist yet."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser() if named else platformdirs.user_cache_path("stillframe")


@functools.cache
def kernel_folder() -> Path | None:
    """A writable folder for compiled kernels, None where there is none.

    Decided once for each process, with one CacheWarning where it is not in the cache folder.
    """
    folder = cache_folder() / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return folder
    except OSError as error:
        fallback = _temporary_folder()
        instead = f"go to {fallback}" if fallback else "are not stored: each start compiles them"
        warnings.warn(
            f"{folder}: cannot be written ({error.strerror or error}); compiled kernels {instead};"
            f" set {VARIABLE} to a folder that can be written",
            CacheWarning,
            stacklevel=2,
        )
        return fallback


def _temporary_path() -> Path:
    return Path(tempfile.gettempdir()) / f"stillframe-{os.getuid()}" / "kernels"


def _temporary_folder() -> Path | None:
    """A folder below the system's temporary one that nobody else can write to.

    Compiled code is loaded from it, and the temporary folder is shared: so it must belong to this
    user and be closed to others.
    """
    folder = _temporary_path()
    try:
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in (folder.parent, folder):
            facts = path.lstat()
            if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
                return None
            if facts.st_mode & 0o077:
                return None
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return None
    return folder


# --- what is in it -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Section:
    """One sort of cached files. `pattern` matches paths below the cache folder."""

    name: str
    about: str
    pattern: re.Pattern[str]


_KERNEL = re.compile(
    r"kernels/(?:[^/]+-[0-9a-f]{16}\.code|[^/]+\.code\.part|warm-[0-9a-f]{16}"
    r"|[^/]+\.py3\d+[^/]*\.nb[ci](?:\.tmp[^/]*)?)"  # of earlier versions
)
_CLIP = r"assets/[0-9a-f]{12}/[^/]+\.(?:mp4|avi|webm|mkv|mov)"
SECTIONS: tuple[Section, ...] = (
    Section(
        "clips",
        "sample clips, downloaded and drawn",
        re.compile(rf"{_CLIP}(?:\.stamp)?|samples/[^/]+-v\d+cv\d+\.mp4|samples/\.[^/]+\.part"),
    ),
    Section(
        "models",
        "weights out of published packages, and models made from them",
        re.compile(
            r"assets/[0-9a-f]{12}/[^/]+|converted/[0-9a-f]{16}/[^/]+"
            r"|cleaned/\.?[^/]+-\d+x\d+-[0-9a-f]{16}\.onnx[^/]*|architectures/[^/]+\.v\d+[^/]*\.onnx"
        ),
    ),
    Section("kernels", "kernels compiled by numba", _KERNEL),
    Section(
        "measured",
        "measurements and plan choices, a file for each host and version",
        re.compile(r"measured/(?:[0-9a-f]{12}\.json|[^/]+\.part)"),
    ),
)
"""Of the cache folder. The first whose pattern matches a file owns it; other files are not ours."""

ELSEWHERE = Section("elsewhere", "kernels compiled by numba, in other folders", _KERNEL)
"""Earlier versions kept kernels in the user's cache folder whatever STILLFRAME_CACHE said; those of
a user whose cache is read-only lie in the temporary folder."""


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One file of the cache, as `stillframe cache` shows it."""

    #: Name of its section.
    section: str
    path: Path
    size_bytes: int
    #: Seconds since the epoch.
    modified_s: float
    #: The cache folder that it lies in.
    root: Path


def cached_files() -> Iterator[CachedFile]:
    """Every file of the cache that is ours, by its name and place. Links are not followed."""
    main = cache_folder().absolute()
    yield from _sorted_out(main, SECTIONS)
    for other in (platformdirs.user_cache_path("stillframe"), _temporary_path().parent):
        if other.absolute() != main and not other.is_symlink():
            yield from _sorted_out(other.absolute(), (ELSEWHERE,))


def _sorted_out(root: Path, sections: tuple[Section, ...]) -> Iterator[CachedFile]:
    for path in sorted(_files(root)):
        name = path.relative_to(root).as_posix()
        section = next((each for each in sections if each.pattern.fullmatch(name)), None)
        if section is None:
            continue
        with contextlib.suppress(OSError):  # another process may have removed it
            facts = path.lstat()
            yield CachedFile(section.name, path, facts.st_size, facts.st_mtime, root)


def _files(folder: Path, depth: int = 3) -> Iterator[Path]:
    """Regular files below a folder; neither links nor what lies behind them."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_file(follow_symlinks=False):
            yield Path(entry.path)
        elif entry.is_dir(follow_symlinks=False) and depth > 1:
            yield from _files(Path(entry.path), depth - 1)


def clear_cache(sections: Iterable[str]) -> tuple[list[CachedFile], list[OSError]]:
    """Delete the files of some sections; return those deleted, and the faults of those that stay.

    Only files that `cached_files` names are deleted, then folders left empty by it.
    """
    names = set(sections)
    deleted: list[CachedFile] = []
    faults: list[OSError] = []
    for file in list(cached_files()):
        if file.section not in names:
            continue
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            faults.append(error)
            continue
        deleted.append(file)
        for folder in file.path.parents:
            if folder == file.root:
                break
            with contextlib.suppress(OSError):  # not empty: something else lies there
                folder.rmdir()
    return deleted, faults
