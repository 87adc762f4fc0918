"""When to try a lost connection again."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `shortest_s` to `longest_s`, with jitter, for `attempts` times.

    The jitter keeps many cameras behind one failed switch from returning in step. A connection
    counts as good again after `steady_s` of pictures; until then the count of attempts goes on.
    attempts: None tries for ever.
    """

    shortest_s: float = 0.5
    longest_s: float = 30.0
    attempts: int | None = 10
    steady_s: float = 10.0

    def delay_s(self, attempt: int, chance: random.Random) -> float:
        """Seconds to wait before attempt 0, 1, 2, …: between half and all of 0.5 · 2^attempt."""
        # 2.0**attempt would overflow after a thousand lost connections
        ceiling = min(self.longest_s, self.shortest_s * 2.0 ** min(attempt, 60))
        return chance.uniform(max(self.shortest_s, ceiling / 2), ceiling)

    def exhausted(self, attempt: int) -> bool:
        """Whether `attempt` attempts were all there were."""
        return self.attempts is not None and attempt >= self.attempts
