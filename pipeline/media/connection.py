"""One connection of a threaded source, and when to make the next one."""

import random
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from stillframe.errors import SourceError
from stillframe.pipeline.media.decoder import DecodedPicture
from stillframe.pipeline.media.source import SourceInfo

GROWTH = 1.2
"""Of the waits between attempts: slow, so that after a short outage a camera is back at once."""


class PermanentError(SourceError):
    """It cannot be opened here, however often it is tried."""


class DeniedError(SourceError):
    """The server refuses us. It may lock out who asks too often."""


class Connection(Protocol):
    """What a threaded source reads from: a Decoder, or a stand-in for it in tests."""

    skipped: int
    rebased: int
    start: Fraction

    def read_packet(self) -> list[DecodedPicture] | None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """A connection and the facts of its first picture."""

    connection: Connection
    info: SourceInfo


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter, so that many cameras do not reconnect at one instant."""

    shortest_s: float = 0.5
    longest_s: float = 1.0
    """Short, since a camera that is back should be seen within two seconds; a refused connection
    costs next to nothing."""
    denied_s: float = 5.0
    """The wait after a server has refused us (a wrong password)."""
    attempts: int | None = None
    """The most attempts in a row; None: any number."""
    for_s: float | None = None
    """Seconds after a loss until the source is given up; None: never."""
    steady_s: float = 2.0
    """Seconds of pictures after which a connection counts as good and all counts start anew."""
    first: bool = False
    """Whether a first connection that fails is tried again too."""

    def delay_s(self, attempt: int, rng: random.Random, denied: bool = False) -> float:
        """Seconds to wait before attempt 0, 1, 2, …: between half and all of 0.5 · 1.2^attempt.

        denied: whether the attempt before it ended in a DeniedError.
        """
        if denied:
            return self.denied_s
        # GROWTH**attempt would overflow after some thousand lost connections
        ceiling = min(self.longest_s, self.shortest_s * GROWTH ** min(attempt, 60))
        return rng.uniform(max(self.shortest_s, ceiling / 2), ceiling)

    def exhausted(self, attempt: int, lost_for_s: float = 0.0) -> bool:
        """Whether to give up after `attempt` attempts and so long without a picture."""
        return (self.attempts is not None and attempt >= self.attempts) or (
            self.for_s is not None and lost_for_s >= self.for_s
        )


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """The deadlines of a threaded source."""

    timeout_s: float | None = 10.0
    """The longest wait for a picture, connecting included; None waits for ever (a pipe)."""
    backoff: Backoff | None = None
    """When to reconnect; None ends the source at the stream's end or fault."""
    frozen_after_s: float | None = None
    """Seconds of bit-identical pictures until the source counts as frozen, see FreezeDetector;
    None: never."""
