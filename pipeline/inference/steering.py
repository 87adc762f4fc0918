"""How a run may be steered while it runs, seen from the loop.

The loop asks before each frame, and tells what skipping a frame would have cost. Who decides, and
by which evidence, it does not know: `pipeline/quality/auto` does.
"""

from dataclasses import dataclass
from typing import Protocol

from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.frame_skipping import FrameSkipping


@dataclass(frozen=True, slots=True)
class FrameSetting:
    """How one frame was analysed, for whoever measures how well its result agrees."""

    tolerance: float | None = None
    """Of the reuse engine; None: the frame's values were computed by a dense backend."""
    every: int = 1
    """Frame skipping, see `FrameSkipping.every`."""
    distance: int = 0
    """Frames since the last one that the network computed; 0: it computed this one."""
    dense: str = ""
    """Name of the backend that computes frames whole; empty: there is one only."""


class FrameSteering(Protocol):
    """Decides how later frames are analysed. Its methods are called from the loop's threads."""

    follows: bool
    """Whether boxes follow the picture in skipped frames."""

    def adapt(self, model: Model) -> None:
        """The model, at the size that suits the frames, before their first one is decided."""
        ...

    def frame_skipping(self) -> FrameSkipping:
        """Which frames are skipped from now on."""
        ...

    def note_spread(self, share: float) -> None:
        """In so many blocks of the picture, 0..1, the next frame differs from the one before."""
        ...

    def wants_following(self) -> bool:
        """Whether boxes may have to be followed to the next frame, or from it."""
        ...

    def gates(self) -> bool:
        """Whether changes are looked for in the next frame; else all of it counts as new."""
        ...

    def setting(self, distance: int) -> FrameSetting:
        """What the next frame is analysed with."""
        ...

    def wants_comparison(self, distance: int) -> bool:
        """Whether `compare` is to be called for a frame that is computed so many frames after the
        last one."""
        ...

    def compare(self, carried: Result, computed: Result, distance: int, time_s: float) -> None:
        """A frame was computed; carried: what its result would be, had it been skipped.

        distance: frames since the one that `carried` was computed for.
        """
        ...
