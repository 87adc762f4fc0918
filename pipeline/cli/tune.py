"""stillframe tune CLIP… --model M -o profile.json: a tolerance for each layer of a model."""

from pathlib import Path
from typing import Annotated

import typer

from stillframe.errors import QualityError, SinkError
from stillframe.pipeline.cli import signals
from stillframe.pipeline.cli.sweep import PLAIN_WIDTH, SAMPLE, check_writable


def tune(
    clips: Annotated[
        list[str], typer.Argument(metavar="CLIP…", help="Videos like those to come, as for run.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PROFILE.json", help="The profile to write.")
    ],
    model: Annotated[
        str, typer.Option(help="Name from `models list`, or an .onnx file.")
    ] = "centerface",
    task: Annotated[str | None, typer.Option(help="As for run.")] = None,
    confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out weaker detections.")
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(min=0, help="Least agreement with computing everything; default the task's."),
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLIP",
            help="Judge on this clip; may be repeated. Default: windows of each CLIP, two fifths.",
        ),
    ] = None,
    max_frames: Annotated[int, typer.Option(min=8, help="Of each clip.")] = 160,
    threads: Annotated[int, typer.Option(min=1, help="Of the network.")] = 1,
    tries: Annotated[
        Path | None,
        typer.Option("--tries", metavar="FILE", help="What was tried, a line of JSON each."),
    ] = None,
    allow_sdist: Annotated[bool, typer.Option("--allow-sdist", help="As for run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:
    """Find the tolerance of each layer, the gate and the cadence that take the least time on your
    clips.

    Tried on one part of the frames and judged on another. Ctrl-C ends the search and keeps the
    best so far.
    """
    for path in (out, tries):
        if path is not None:
            check_writable(path, force)

    from rich.console import Console

    from stillframe import sample_videos
    from stillframe.models import zoo
    from stillframe.pipeline.cli.report import preparing
    from stillframe.pipeline.cli.tune_table import Tries, print_parts
    from stillframe.pipeline.studies.tune import tune as tuning

    console = Console(stderr=True, quiet=quiet, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=True, quiet=quiet, highlight=False, width=PLAIN_WIDTH)
    for clip in (*clips, *(held_out or ())):
        if clip.startswith(SAMPLE):
            with preparing(console, clip) as told:
                name = clip.removeprefix(SAMPLE)
                sample_videos.resolve(name, progress=told, allow_sdist=allow_sdist)
    with preparing(console, model) as told:
        network = zoo.load(
            model, task=task, confidence=confidence, progress=told, allow_sdist=allow_sdist
        )
    with signals.Stopping() as stopping:
        stopping.by(lambda: None)
        with Tries(console, tries) as seen:
            tuned = tuning.tune(
                network, clips, wanted=quality, held_out=held_out or (), frames=max_frames,
                threads=threads, told=seen.told, stop=lambda: stopping.caught is not None,
            )  # fmt: skip
        try:
            tuned.profile.write(out)
        except OSError as error:
            raise SinkError(f"{out}: cannot be written ({error.strerror})") from error
        print_parts(console, tuned)
        console.print(f"wrote {out}; use it with: run --profile {out}", markup=False)
    short = [part for part in tuned.held_out if part.quality < tuned.profile.wanted]
    if short:
        raise QualityError(
            f"{out} was written, but on frames that were held out it agrees to "
            f"{min(part.quality for part in short):.4g}, less than {tuned.profile.wanted:g}: tune "
            "on more frames or clips, or for a higher --quality"
        )
