"""stillframe sweep CLIP --model M: frame rate against quality, on the user's own clip."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillframe.errors import QualityError, UsageError
from stillframe.pipeline.cli import options, printing, signals
from stillframe.pipeline.cli.writable import check_writable
from stillframe.pipeline.media.redaction import MaskedAddress

if TYPE_CHECKING:
    from rich.console import Console

    from stillframe.pipeline.studies.sweep.sweep import Row, Sweep

PLAIN_WIDTH = 160
"""Columns of the table in a file or a pipe."""
OUT, HOW = options.OUT, options.COMPARED
QUICK = ("off", "reuse-0.1", "reuse-0.2", "frame", "every-2", "every-4")


@options.options_of(options.ModelOptions)
def sweep(
    clip: Annotated[str, typer.Argument(help="Video, as for run.")] = "sample:sports2d_demo",
    model: Annotated[str, typer.Option(help=options.MODEL_HELP)] = "centerface",
    max_frames: Annotated[
        int | None, typer.Option(min=4, help="Only the first frames, to try it.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every variant.")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this variant, or family of variants: exact, reuse, gate, both, frame, "
            "every, tracked, off; may be repeated.",
            rich_help_panel=HOW,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only six variants.", rich_help_panel=HOW)
    ] = False,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also a variant with this profile from tune.", rich_help_panel=HOW
        ),
    ] = None,
    min_quality: Annotated[
        float | None,
        typer.Option(
            help="Print the fastest setting that keeps at least this share of what computing "
            "everything says, 0 to 1; of pictures above 1 PSNR in dB.",
            min=0,
        ),
    ] = None,
    max_cpu: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Print the best setting that keeps up with the clip on this share of all CPUs.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="All figures.", rich_help_panel=OUT),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One line per variant.", rich_help_panel=OUT)
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The chart.", rich_help_panel=OUT)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="One page with everything.", rich_help_panel=OUT),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue where --json FILE ended.", rich_help_panel=OUT),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite outputs.", rich_help_panel=OUT)
    ] = False,
    allow_sdist: options.AllowSdist = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors and the answer only.")
    ] = False,
    **model_options: Any,
) -> None:
    """Find out how fast the model can be on a clip, and what that costs in quality.

    Quality is agreement with the same model computing everything. A setting that was asked for is
    printed to standard output as a complete command line.
    """
    stated = options.ModelOptions(**model_options)
    clip = MaskedAddress(clip)
    outputs = {"--json": json_file, "--csv": csv, "--png": png, "--report": report}
    paths = {name: path for name, path in outputs.items() if path is not None}
    if resume and json_file is None:
        raise UsageError("--resume: expected --json FILE, whose sweep is to go on")
    for name, path in paths.items():
        check_writable(path, force or (resume and name in ("--json", "--csv", "--png", "--report")))
    share = None if max_cpu is None else percent(max_cpu)

    from stillframe.pipeline.cli.fetching import fetch_sample, load_model
    from stillframe.pipeline.cli.sweep_table import Progress, print_table
    from stillframe.pipeline.inference.profile import TuningProfile
    from stillframe.pipeline.studies.sweep import rounds
    from stillframe.pipeline.studies.sweep.variants import chosen, variants
    from stillframe.reuse.frontend.fingerprint import fingerprint

    if png is not None or report is not None:
        from stillframe.pipeline.studies.sweep import report_page

        report_page.needed()
    console = printing.people(quiet, PLAIN_WIDTH)
    tuned = None if profile is None else TuningProfile.read(profile)
    fetch_sample(console, clip, allow_sdist)
    network = load_model(console, model, stated.card(), allow_sdist)
    if tuned is not None:
        tuned.check(fingerprint(network.path))
    names = list(only or ()) or (list(QUICK) if quick else [])
    rows = chosen(variants(threads, tuned, profile), [*names, *(["profile"] if names else [])])
    known = {each for row in variants(threads, tuned, profile) for each in (row.name, row.family)}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UsageError(f"--only: expected one of {', '.join(sorted(known))}, got {wrong[0]!r}")
    again = ["--model", model]
    again += stated.command_line()
    again += ["--allow-sdist"] * allow_sdist
    results = rounds.begin(clip, network, threads, max_frames, again)
    if resume and json_file is not None:
        results.resume(json_file)

    def save(done: "Sweep") -> None:
        if json_file is not None:
            done.write(json_file)

    with signals.Stopping() as stopping:
        stopping.by(lambda: None)
        with Progress(console) as progress:
            rounds.measure(
                results, clip, network, rows, on_progress=progress.show,
                stop=lambda: stopping.caught is not None, on_round=save,
            )  # fmt: skip
        if not results.rows:
            console.print("nothing was measured")
            return
        print_table(console, results)
        save(results)
        if csv is not None:
            results.write_csv(csv)
        if png is not None:
            report_page.write_png(results, png)
        if report is not None:
            console.print("drawing the report")
            report_page.write_html(
                results, clip, network, variants(threads, tuned, profile), report
            )
        for path in paths.values():
            printing.plain(console, f"wrote {path}")
    answer(console, results, min_quality, share)


def answer(
    console: "Console", results: "Sweep", min_quality: float | None, share: float | None
) -> None:
    """Print the settings asked for to standard output. Raises QualityError where there is none."""
    from stillframe.pipeline.quality.repeatability import lowered
    from stillframe.pipeline.studies.sweep import doubts
    from stillframe.pipeline.studies.sweep import sweep as sweeping

    for doubt in doubts.doubts(results):
        printing.plain(console, f"this clip cannot tell settings apart: {doubt.text}", wrap=True)
    answers: list[tuple[str, Row | None]] = []
    if min_quality is not None:
        least = sweeping.attainable(results, min_quality)
        if text := lowered(min_quality, least):
            printing.plain(console, text, wrap=True)
        answers.append((f"quality {min_quality:g}", sweeping.fastest(results, least)))
    if share is not None:
        if not results.head["rate"]:
            raise UsageError("--max-cpu: the clip has no frame rate, so there is no share of time")
        answers.append((f"{share:.0%} of the CPUs", sweeping.best_within(results, share)))
    why = doubts.hopeless(results)
    if why and (min_quality or share is not None):
        raise QualityError(
            f"no setting can be recommended from this clip: {why}; take one in which more happens"
        )
    missing = [what for what, row in answers if row is None]
    for what, row in answers:
        if row is not None:
            console.print(
                f"for {what}: {row['title']}, quality {row['quality']:.4g}, {row['fps']:.1f} fps, "
                + doubts.gains_text(row, sweeping.fastest_dense(results)),
            )
            printing.data(sweeping.command(results, row))
    if missing:
        best = max(sweeping.runnable(results), key=lambda row: row["quality"], default=None)
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
