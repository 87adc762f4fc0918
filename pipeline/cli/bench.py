"""stillframe bench: what reuse gains beside other engines, on the same frames of the same clips.

stillframe bench                          the table of CASES
stillframe bench --moving                 clips where it cannot gain: what it then costs
stillframe bench centerface --clip C      one model on one clip
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from stillframe.errors import (
    ModelError,
    QualityError,
    SinkError,
    SourceError,
    StillframeError,
    UsageError,
)
from stillframe.pipeline.cli import options, printing
from stillframe.pipeline.cli.bench_table import in_short, print_tables

if TYPE_CHECKING:  # engines take a while to import; asking for help must not
    from stillframe.pipeline.studies.bench.case import Case, Conditions

QUICK_FRAMES = 8
FRAMES = 100

Pair = tuple[str, str, str | None, int]
"""Model, clip, part of the picture, frames: upscaling takes seconds per frame."""
PAIRS: tuple[Pair, ...] = (
    ("centerface", "sample:sports2d_demo", None, FRAMES),
    ("centerface", "sample:plaza", None, 220),  # nobody is near enough before frame 120
    ("yolov3-tiny", "sample:vtest", None, FRAMES),
    ("ppocr-det", "sample:blender_screen", None, FRAMES),
    ("yolox-tiny", "sample:blender_screen", None, FRAMES),
    ("animevideo-x2", "sample:blender_screen", "640x360+640+0", 24),
    ("animevideo-x2", "sample:screen", None, 24),
)
MOVING: tuple[Pair, ...] = (
    ("centerface", "sample:pan", None, FRAMES),
    ("centerface", "sample:bikes", None, FRAMES),
    ("yolov3-tiny", "sample:bikes", None, FRAMES),
    ("ppocr-det", "sample:pan", None, FRAMES),
)


@options.options_of(options.ModelOptions)
def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]…", help="Names or .onnx files; default: a table of pairs."),
    ] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(help="Source, as for run; may be repeated. Default: those of the table."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every engine.")] = 1,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Tolerance of reuse, as for run.")
    ] = options.TOLERANCE,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Time at most this many frames of a clip.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only a few frames, to try it.")] = False,
    moving: Annotated[
        bool,
        typer.Option("--moving", help="Clips where everything changes: what reuse costs then."),
    ] = False,
    crop: Annotated[
        str | None, typer.Option(metavar="WxH+X+Y", help="Use only this part of every frame.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting of the change gate, such as pixel=4 or margin=2; may be repeated.",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Profile from `tune`, instead of tolerance and gate."),
    ] = None,
    every: options.Every = None,
    between: options.Between = None,
    memory: Annotated[
        bool,
        typer.Option("--memory/--no-memory", help="Measure peak memory, in separate processes."),
    ] = True,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures, after each row."),
    ] = None,
    allow_sdist: options.AllowSdist = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the JSON file.")] = False,
    **model_options: Any,
) -> None:
    """Check the results, then time every engine on the same frames, side by side.

    Times are the median milliseconds per frame. x is the speed-up over the faster of ONNX Runtime
    and OpenVINO, in the median frame and over the whole clip.
    """
    from stillframe.pipeline.inference.profile import TuningProfile
    from stillframe.pipeline.inference.settings import Settings
    from stillframe.pipeline.studies.bench.case import Case, Conditions, Crop

    stated = options.ModelOptions(**model_options)
    rest = replace(stated, size=None, confidence=None)
    tuned = None if profile is None else TuningProfile.read(profile)
    reuse = Settings(reuse="layer", every=every, between=between, profile=tuned)
    conditions = Conditions(
        threads,
        tolerance,
        options.gate_settings(gate or []),
        allow_sdist=allow_sdist,
        confidence=stated.confidence,
        profile=tuned,
        frame_skipping=reuse.frame_skipping,
        stated=rest.card(),
    )
    frames = min(filter(None, (max_frames, QUICK_FRAMES if quick else None)), default=None)
    size = _size(stated.size)
    cases = [
        Case(name, spec, frames or count, None if part is None else Crop.parse(part), size)
        for name, spec, part, count in _pairs(models or [], clip or [], moving, crop)
    ]
    if json_file is not None and json_file.exists() and not force:
        raise SinkError(f"{json_file}: there is such a file; overwrite it with --force")
    named = bool(models or clip)
    console = printing.people()
    rows: list[dict[str, Any]] = []
    try:
        faults = _measure_all(cases, conditions, memory, named, rows, json_file, console)
    finally:  # also when it was interrupted
        if rows:
            print_tables(rows)
    if faults:
        raise faults[0]


def _pairs(
    models: Sequence[str], clips: Sequence[str], moving: bool, crop: str | None
) -> list[Pair]:
    """What to measure. A clip that was not named comes from the model's rows of the table, else
    from its first row; a model that was not named from its first row."""
    table = MOVING if moving else PAIRS
    chosen: list[Pair] = [] if models or clips else list(table)
    for model in models or [table[0][0]] * bool(clips):
        own = [row for row in table if row[0] == model]
        if clips:
            chosen += [(model, each, None, FRAMES) for each in clips]
        elif own:
            chosen += own
        else:
            chosen.append((model, table[0][1], None, FRAMES))
    return [(model, spec, crop or part, count) for model, spec, part, count in chosen]


def _measure_all(
    cases: Sequence["Case"],
    conditions: "Conditions",
    memory: bool,
    named: bool,
    rows: list[dict[str, Any]],
    json_file: Path | None,
    console: Console,
) -> list[StillframeError]:
    """Measure the cases in turn into rows, each written to the file at once; -> the faults.

    named: the user named the cases. A model or clip that is not available is a fault then; a case
    of the table is left out with a message. A wrong result is always a fault, but the other cases
    still run.
    """
    from stillframe.pipeline.studies.bench.row import measure

    faults: list[StillframeError] = []
    for case in cases:
        with console.status("") as status:

            def on_progress(what: str, done: int, total: int, case: "Case" = case) -> None:
                share = f" {done}/{total}" if total else ""
                status.update(Text(f"{case}: {what}{share}"))

            try:
                row = measure(case, conditions, memory=memory, on_progress=on_progress)
            except (SourceError, ModelError) as error:
                console.print(f"{case} was left out: {error}", style="yellow")
                if named:
                    faults.append(error)
                continue
            except QualityError as error:
                console.print(f"{error}", style="red")
                faults.append(error)
                continue
        rows.append(row)
        for name, reason in row["skipped"].items():
            console.print(f"{case}: without {name}: {reason}")
        console.print(f"{case}: {in_short(row)}")
        if json_file is not None:
            _write(json_file, rows)
    return faults


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match:
        raise UsageError(f"--size: expected HxW, for example 544x960, got {text!r}")
    return int(match[1]), int(match[2])


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the file by the whole list, at once: a reader never sees half of it."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SinkError(f"{path}: the figures cannot be written ({error.strerror})") from error
