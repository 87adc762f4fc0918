"""stillframe run: a model on a video, its results to files, pipes and a browser."""

from pathlib import Path
from typing import Annotated, Any

import typer

from stillframe.pipeline.cli import options
from stillframe.pipeline.cli.run_request import RunRequest


def read_config(context: typer.Context, path: str | None) -> str | None:
    """The file's options become the defaults of those that are not on the command line."""
    if path is not None:
        from stillframe.pipeline.cli import config_file

        config = context.obj = config_file.read(Path(path))
        context.default_map = config.options
    return path


@options.options_of(RunRequest)
def run(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Read options, and stages of your own, from a file.",
            is_eager=True,
            callback=read_config,
            rich_help_panel=options.WHERE,
        ),
    ] = None,
    **values: Any,
) -> None:
    """Run a model on a video. With no argument at all: faces in a sample clip."""
    from stillframe.pipeline.cli.execute_run import execute

    execute(RunRequest(**values, config=context.obj))
