"""Which frames the network leaves out, and what stands for their results."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from stillframe.errors import UsageError

Between = Literal["keep", "follow"]


@dataclass(frozen=True, slots=True)
class FrameSkipping:
    """every: after a frame that the network computed, as many less one pass it by; 1: none does.
    between: what they are told: "keep" the last result, or "follow": boxes move with the picture
    beneath them. within_s: most seconds for which they pass; None: however long they take.

    A frame in which nothing changes has its result without the network, and does not count: what
    moves after stillness is computed at once.
    """

    every: int = 1
    between: Between = "keep"
    within_s: float | None = None

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
        return self.every > 1 and self.between == "follow"

    def passes(self, frames: int, seconds: float) -> bool:
        """Whether a frame passes the network by, so long after the last one that it computed.

        frames: those in between, which passed it by themselves.
        """
        if frames >= self.every - 1:
            return False
        return self.within_s is None or seconds <= self.within_s
