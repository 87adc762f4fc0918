"""stillframe sweep CLIP --model M: frame rate against quality, on the user's own clip."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillframe.errors import QualityError, SinkError, UsageError
from stillframe.pipeline.cli import signals

if TYPE_CHECKING:
    from rich.console import Console

    from stillframe.pipeline.studies.sweep.sweep import Row, Sweep

SAMPLE = "sample:"
PLAIN_WIDTH = 160  # columns of a table that goes to a file or a pipe
OUT, HOW = "Output", "What plays"
QUICK = ("off", "reuse-0.1", "reuse-0.2", "frame", "every-2", "every-4")


def sweep(
    clip: Annotated[str, typer.Argument(help="A video, as for run.")] = "sample:sports2d_demo",
    model: Annotated[
        str, typer.Option(help="Name from `models list`, or an .onnx file.")
    ] = "centerface",
    task: Annotated[str | None, typer.Option(help="As for run.")] = None,
    confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out weaker detections.")
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=4, help="Only the first frames: a quick look.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of every player alike.")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Play only this one, or family: exact, reuse, gate, both, frame, every, tracked, "
            "off; may be repeated.",
            rich_help_panel=HOW,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Six players only.", rich_help_panel=HOW)
    ] = False,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also play with this profile from tune.", rich_help_panel=HOW
        ),
    ] = None,
    min_quality: Annotated[
        float | None,
        typer.Option(help="Print the fastest setting that is at least so good.", min=0),
    ] = None,
    max_cpu: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Print the best setting that takes no more of all CPUs at the clip's frame rate.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="All figures.", rich_help_panel=OUT),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A line a player.", rich_help_panel=OUT)
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The chart.", rich_help_panel=OUT)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="One page with it all.", rich_help_panel=OUT),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where --json FILE ended.", rich_help_panel=OUT),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite outputs.", rich_help_panel=OUT)
    ] = False,
    allow_sdist: Annotated[bool, typer.Option("--allow-sdist", help="As for run.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only errors and the answer.")
    ] = False,
) -> None:
    """Find out how fast the model can be on a clip, and what that costs in quality.

    Quality is agreement with computing everything, with the same model. A setting that is found is
    printed to standard output as a whole command line.
    """
    outputs = {"--json": json_file, "--csv": csv, "--png": png, "--report": report}
    asked = {name: path for name, path in outputs.items() if path is not None}
    if resume and json_file is None:
        raise UsageError("--resume: expected --json FILE, whose sweep is to go on")
    for name, path in asked.items():
        check_writable(path, force or (resume and name in ("--json", "--csv", "--png", "--report")))
    share = None if max_cpu is None else percent(max_cpu)

    from rich.console import Console

    from stillframe import sample_videos
    from stillframe.models import zoo
    from stillframe.pipeline.cli.report import preparing
    from stillframe.pipeline.cli.sweep_table import Progress, print_table
    from stillframe.pipeline.inference.profile import TuningProfile
    from stillframe.pipeline.studies.sweep import sweep as sweeping
    from stillframe.pipeline.studies.sweep.variants import chosen, variants
    from stillframe.reuse.frontend.fingerprint import fingerprint

    if png is not None or report is not None:
        from stillframe.pipeline.studies.sweep import report_page

        report_page.needed()
    console = Console(stderr=True, quiet=quiet, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, quiet=quiet, highlight=False, width=PLAIN_WIDTH)
    tuned = None if profile is None else TuningProfile.read(profile)
    if clip.startswith(SAMPLE):
        with preparing(console, clip) as told:
            name = clip.removeprefix(SAMPLE)
            sample_videos.resolve(name, progress=told, allow_sdist=allow_sdist)
    with preparing(console, model) as told:
        network = zoo.load(
            model, task=task, confidence=confidence, progress=told, allow_sdist=allow_sdist
        )
    if tuned is not None:
        tuned.check(fingerprint(network.path))
    names = list(only or ()) or (list(QUICK) if quick else [])
    rows = chosen(variants(threads, tuned, profile), [*names, *(["profile"] if names else [])])
    known = {each for row in variants(threads, tuned, profile) for each in (row.name, row.family)}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UsageError(f"--only: expected one of {', '.join(sorted(known))}, got {wrong[0]!r}")
    again = ["--model", model]
    for option, value in (("--task", task), ("--confidence", confidence)):
        again += [option, str(value)] if value is not None else []
    again += ["--allow-sdist"] * allow_sdist
    found = sweeping.begin(clip, network, threads, max_frames, again)
    if resume and json_file is not None:
        found.resume(json_file)

    def save(done: "Sweep") -> None:
        if json_file is not None:
            done.write(json_file)

    with signals.Stopping() as stopping:
        stopping.by(lambda: None)
        with Progress(console) as progress:
            sweeping.measure(
                found, clip, network, rows,
                told=progress.told, stop=lambda: stopping.caught is not None, each=save,
            )  # fmt: skip
        if not found.rows:
            console.print("nothing was measured")
            return
        print_table(console, found)
        save(found)
        if csv is not None:
            found.write_csv(csv)
        if png is not None:
            report_page.write_png(found, png)
        if report is not None:
            console.print("drawing the report")
            report_page.write_html(found, clip, network, variants(threads, tuned, profile), report)
        for path in asked.values():
            console.print(f"wrote {path}", markup=False, soft_wrap=True)
    answer(console, found, min_quality, share)


def answer(
    console: "Console", found: "Sweep", min_quality: float | None, share: float | None
) -> None:
    """Print the settings asked for to standard output. Raises QualityError where there is none."""
    from stillframe.pipeline.studies.sweep import sweep as sweeping

    wanted: list[tuple[str, Row | None]] = []
    if min_quality is not None:
        wanted.append((f"quality {min_quality:g}", sweeping.fastest(found, min_quality)))
    if share is not None:
        if not found.head["rate"]:
            raise UsageError(
                "--max-cpu: the clip tells no frame rate, so there is no share of time"
            )
        wanted.append((f"{share:.0%} of the CPUs", sweeping.best_within(found, share)))
    missing = [what for what, row in wanted if row is None]
    for what, row in wanted:
        if row is not None:
            console.print(
                f"for {what}: {row['title']}, quality {row['quality']:.4g}, "
                f"{row['fps']:.1f} fps, {row['gain']:.2f} times everything dense",
                markup=False,
            )
            print(sweeping.command(found, row))
    if missing:
        best = max(sweeping.runnable(found), key=lambda row: row["quality"], default=None)
        nearest = "" if best is None else f"; the best is {best['quality']:.4g}, {best['title']}"
        raise QualityError(f"no setting reaches {' and '.join(missing)}{nearest}")


def percent(text: str) -> float:
    """`50%` or `50` -> 0.5."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise UsageError(f"--max-cpu: expected a percentage such as 50%, got {text!r}")
    return share


def check_writable(path: Path, force: bool) -> None:
    """Raises SinkError for what can be known to fail before anything is measured."""
    if path.is_dir():
        raise SinkError(f"{path}: a folder; name a file in it")
    if not path.parent.is_dir():
        raise SinkError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not force:
        raise SinkError(f"{path}: there is such a file; overwrite it with --force")
    probe = path.with_name(f".{path.name}.part")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT, 0o666))
        probe.unlink()
    except OSError as error:
        raise SinkError(f"{path}: cannot be written: {error.strerror}") from None
