"""The dense network on the same frames with the camera's noise again, beside the variants."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.backends import ReuseBackend
from stillframe.pipeline.quality.repeatability import RepeatMeter

MOST_FRAMES = 60
"""Of longer clips about so many frames are compared, spread evenly."""


class Again:
    """Measures repeatability while a clip is played. Not timed.

    expected: frames of the clip, 0: not known.
    """

    def __init__(self, model: Model, threads: int, expected: int) -> None:
        self._model, self._threads = model, threads
        self._step = max(1, expected // MOST_FRAMES)
        self._meter: RepeatMeter | None = None
        self._backend: ReuseBackend | None = None

    def add(self, index: int, image: NDArray[np.uint8], dense: Result) -> None:
        """Take the next frame and its dense result."""
        if self._meter is None:
            self._model = self._model.for_source(*image.shape[:2])
            backend = self._backend = ReuseBackend(self._model.path, self._threads)
            self._meter = RepeatMeter(self._model, lambda feed: backend.run(feed, None))
        fitted, view = self._model.fit(image)
        self._meter.add(fitted, view, None if index % self._step else dense)

    def figures(self) -> dict[str, Any]:
        """As `RepeatMeter.figures`; empty before the first frame."""
        return {} if self._meter is None else self._meter.figures()

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()
            self._backend = None
