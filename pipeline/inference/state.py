"""State that a network gets back with the next frame; each backend has its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feed = dict[str, NDArray[Any]]


class FedBackState:
    """The state between the runs of one backend.

    A feed has the picture first; what follows are states as they are before the first frame. Their
    next values are the last outputs, in the same order (see `models.formats.state`).
    """

    def __init__(self) -> None:
        self._states: Feed = {}

    def applied(self, feed: Feed) -> Feed:
        """The feed with the states of the last run."""
        if len(feed) == 1:
            return feed
        if not self._states:
            self._states = {name: feed[name].copy() for name in list(feed)[1:]}
        return feed | self._states

    def take(self, outputs: Sequence[NDArray[Any]]) -> None:
        """Remember the states among the outputs: copies, as a backend may reuse its buffers."""
        if self._states:
            latest = outputs[len(outputs) - len(self._states) :]
            for state, output in zip(self._states.values(), latest, strict=True):
                np.copyto(state, output)

    def forget(self) -> None:
        """Begin afresh with the next run."""
        self._states = {}
