"""stillframe tune CLIP… --model M -o profile.json: a tolerance for each layer of a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from stillframe.errors import QualityError, SinkError
from stillframe.pipeline.cli import options, printing, signals
from stillframe.pipeline.cli.writable import check_writable
from stillframe.pipeline.media.redaction import MaskedAddress

PLAIN_WIDTH = 160
"""Columns of the table in a file or a pipe."""


@options.options_of(options.ModelOptions)
def tune(
    clips: Annotated[
        list[str],
        typer.Argument(
            metavar="CLIP…", help="Videos like those that will be run; sources as for run."
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="PROFILE.json", help="The profile to write.")
    ],
    model: Annotated[str, typer.Option(help=options.MODEL_HELP)] = "centerface",
    quality: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Least share of what computing everything says that is kept, 0 to 1; of pictures "
            "above 1 PSNR in dB. Default 0.98.",
        ),
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLIP",
            help="Judge on this clip; may be repeated. Default: on two fifths of each CLIP.",
        ),
    ] = None,
    max_frames: Annotated[int, typer.Option(min=8, help="Frames used of each clip.")] = 160,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the network.")] = 1,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Every setting that was tried, one line of JSON each."),
    ] = None,
    allow_sdist: options.AllowSdist = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
    **model_options: Any,
) -> None:
    """Find the tolerances, gate settings and frame skipping that are fastest on your clips.

    Searches on one part of the frames and judges on another. Ctrl-C ends the search and writes the
    best profile so far.
    """
    stated = options.ModelOptions(**model_options)
    clips = [MaskedAddress(clip) for clip in clips]
    held_out = [MaskedAddress(clip) for clip in held_out or ()]
    for path in (out, log):
        if path is not None:
            check_writable(path, force)

    from stillframe.pipeline.cli.fetching import fetch_sample, load_model
    from stillframe.pipeline.cli.tune_table import TuneProgress, print_parts
    from stillframe.pipeline.studies.tune import tune as tuning

    console = printing.people(quiet, PLAIN_WIDTH)
    for clip in (*clips, *held_out):
        fetch_sample(console, clip, allow_sdist)
    network = load_model(console, model, stated.card(), allow_sdist)
    with signals.Stopping() as stopping:
        stopping.by(lambda: None)
        with TuneProgress(console, log) as progress:
            tuned = tuning.tune(
                network, clips, quality=quality, held_out=held_out, frames=max_frames,
                threads=threads, on_trial=progress.show, stop=lambda: stopping.caught is not None,
            )  # fmt: skip
        try:
            tuned.profile.write(out)
        except OSError as error:
            raise SinkError(f"{out}: cannot be written ({error.strerror})") from error
        print_parts(console, tuned)
        console.print(f"wrote {out}; use it with: run --profile {out}")
    short = [part for part in tuned.held_out if part.quality < tuned.profile.target]
    if short:
        raise QualityError(
            f"{out} was written, but on frames that were held out it keeps "
            f"{min(part.quality for part in short):.4g}, less than {tuned.profile.target:g}: tune "
            "on more frames or clips, or for a higher --quality"
        )
