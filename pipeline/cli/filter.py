"""stillframe filter: frames in, frames out, between two programs of a pipe."""

from typing import Any

from stillframe.pipeline.cli import options
from stillframe.pipeline.cli.filter_request import FilterRequest


@options.options_of(FilterRequest)
def filter_(**values: Any) -> None:
    """Hide, mark or upscale what a model finds: video on standard input, video on standard output.

    ffmpeg -i IN -f yuv4mpegpipe - | stillframe filter --effect blur | ffmpeg -i - OUT
    """
    from stillframe.pipeline.cli.execute_filter import execute

    execute(FilterRequest(**values))
