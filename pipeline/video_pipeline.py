"""Stages of your own on a video, each in a thread of its own: the public Pipeline."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.executor.stage import Stage, Work
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.media.redaction import MaskedAddress


class Pipeline(StagePipeline):
    """Runs stages on a video and iterates over what comes out of the last one.

        with stillframe.Pipeline("a.mp4", [shrink, count]) as pipeline:
            for item in pipeline: ...

    Items keep their order. If a stage raises, returns nothing or exceeds its deadline, everything
    ends at once and a StageError that names the stage is raised here. Leaving the `with` block ends
    every thread.

    source: what `stillframe run` takes, or any iterable. stages: `Stage`s, or plain functions from
    one item to the next. window: the most items in flight at once; 1 runs them one after the other.
    place: stage name -> processor, such as {"infer": "cpu:0-3"}; the source's stage is "decode".
    nice: added to the niceness of every thread. pace: called before each read; returns the seconds
    to wait. limit: the most items to read. Raises SourceError if the source cannot be opened.
    """

    def __init__(
        self,
        source: Iterable[Any] | str | os.PathLike[str],
        stages: Sequence[Stage | Work],
        *,
        window: int | None = None,
        place: Mapping[str, str] | None = None,
        nice: int = 0,
        pace: Callable[[], float] | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(
            partial(open_source, MaskedAddress(source))
            if isinstance(source, str | os.PathLike)
            else source,
            stages,
            window=window,
            place=place,
            nice=nice,
            pace=pace,
            limit=limit,
        )
