"""stillframe cache: what is stored on disk and where, and clearing it."""

import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.table import Table

from stillframe.cache_dir import (
    ELSEWHERE,
    SECTIONS,
    CachedFile,
    cache_folder,
    cached_files,
    clear_cache,
)
from stillframe.errors import SinkError, UsageError
from stillframe.pipeline.cli import options, printing

app = typer.Typer(help="Show and clear what stillframe stores on disk.")

NAMES = tuple(section.name for section in SECTIONS)
ALL_NAMES = (*NAMES, ELSEWHERE.name)


@app.callback(invoke_without_command=True)
def show(context: typer.Context, as_json: options.AsJson = False) -> None:
    """Show what is stored, where, how much and how old. All of it can be rebuilt."""
    if context.invoked_subcommand is not None:
        return
    entries = _entries(cached_files())
    if as_json:
        printing.json_data({"folder": str(cache_folder()), "entries": entries})
        return
    table = Table(box=None, pad_edge=False)
    for title in ("what", "size", "age", "where", ""):
        table.add_column(title, justify="right" if title in ("size", "age") else "left")
    for entry in entries:
        table.add_row(
            entry["section"],
            decimal(entry["size_bytes"]),
            _age(entry["age_s"]),
            entry["path"],
            entry["note"],
        )
    total = sum(entry["size_bytes"] for entry in entries if entry["section"] in NAMES)
    printing.data(f"{cache_folder()}: {decimal(total)}")
    if entries:
        printing.table_data(table)


@app.command()
def clear(
    context: typer.Context,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Any of {', '.join(ALL_NAMES)}; without any, all of the cache folder."
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete cached files. Only files that stillframe wrote are deleted; links are not followed."""
    unknown = [name for name in what or () if name not in ALL_NAMES]
    if unknown:
        raise UsageError(f"unknown part of the cache {unknown[0]!r}: one of {', '.join(ALL_NAMES)}")
    outer = context.parent.params if context.parent else {}
    deleted, faults = clear_cache(what or NAMES)
    if as_json or outer.get("as_json"):
        rows = [{"path": str(file.path), "size_bytes": file.size_bytes} for file in deleted]
        printing.json_data({"deleted": rows})
    else:
        for name in ALL_NAMES:
            sizes = [file.size_bytes for file in deleted if file.section == name]
            if sizes:
                printing.data(f"{name}: {len(sizes)} files, {decimal(sum(sizes))} deleted")
        if not deleted:
            printing.data("nothing to delete")
    if faults:
        raise SinkError(
            f"{len(faults)} files could not be deleted, the first: "
            f"{faults[0].filename}: {faults[0].strerror}"
        )


def _entries(files: Any) -> list[dict[str, Any]]:
    """A row for each clip, model or host, and one for all kernels of a folder."""
    groups: dict[tuple[str, Path], list[CachedFile]] = defaultdict(list)
    for file in files:
        name = file.path.with_suffix("") if file.path.suffix == ".stamp" else file.path
        is_kernel = file.section in ("kernels", ELSEWHERE.name)
        groups[file.section, name.parent if is_kernel else name].append(file)
    now = time.time()
    order = {name: index for index, name in enumerate(ALL_NAMES)}
    return [
        {
            "section": section,
            "path": str(path),
            "files": len(group),
            "size_bytes": sum(file.size_bytes for file in group),
            "age_s": round(max(0.0, now - max(file.modified_s for file in group))),
            "note": _note(section, path),
        }
        for (section, path), group in sorted(groups.items(), key=lambda each: order[each[0][0]])
    ]


def _note(section: str, path: Path) -> str:
    if path.name.endswith(".part"):
        return "left by a run that was interrupted"
    if section == "measured":
        from stillframe.reuse.disk_cache import host  # imports the compiler

        return "this host" if path.stem == host() else "another host or an earlier version"
    if section == ELSEWHERE.name:
        return "of an earlier version, or of runs with another cache folder"
    return ""


def _age(seconds: float) -> str:
    """A duration in the largest unit of which there are two or more."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
