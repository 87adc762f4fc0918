"""Frame skipping: which frames the network leaves out, and what stands for their results."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stillframe.errors import UsageError

Between = Literal["keep", "follow"]


@dataclass(frozen=True, slots=True)
class FrameSkipping:
    """Which frames are skipped.

    An unchanged frame has its result without the network and does not count: what moves after
    stillness is computed at once. Raises UsageError for values that make no sense.
    """

    every: int = 1
    """The network runs on every n-th frame that changes; 1: on each."""
    between: Between = "keep"
    """In a skipped frame "keep" the last result, or let its boxes "follow" the picture."""
    within_s: float | None = None
    """The longest time without the network; None: no limit."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError(f"every: expected 1 or more, got {self.every}")
        if self.between not in get_args(Between):
            expected = ", ".join(get_args(Between))
            raise UsageError(f"between: expected one of {expected}, got {self.between!r}")
        if self.within_s is not None and not 0 < self.within_s < math.inf:
            raise UsageError(f"within: expected more than 0 seconds, got {self.within_s}")

    @property
    def follows(self) -> bool:
        """Whether boxes follow the picture in skipped frames."""
        return self.every > 1 and self.between == "follow"

    def skips(self, skipped: int, seconds: float) -> bool:
        """Whether to skip a frame: `skipped` frames and so many seconds after the last one that
        the network computed."""
        if skipped >= self.every - 1:
            return False
        return self.within_s is None or seconds <= self.within_s
