"""When a step computes everything: from how much changed input on most of the network is redone."""

MARGIN = 0.9
"""After too costly a step, changed input above this part of its share makes a step dense."""
RELAX = 1.005
"""Factor of the limit after each dense step, so that a step that is not dense is tried again."""


class DenseSwitch:
    """Learns from which share of changed input on a step had better compute everything.

    break_even: share of the multiply-adds above which finding out what to compute costs more than
    it saves.
    """

    def __init__(self, break_even: float) -> None:
        self._break_even = break_even
        self._limit = break_even  # share of changed input above which a step is dense

    def reset(self) -> None:
        """Forget what was learnt."""
        self._limit = self._break_even

    def is_dense(self, changed: float) -> bool:
        """Whether a step with that share of changed input computes everything."""
        return changed > self._limit

    def learn(self, changed: float, work: float, dense: bool) -> None:
        """Take in what a step did: its share of changed input and of the multiply-adds."""
        if dense:
            self._limit = min(self._limit * RELAX, self._break_even)
        elif work > self._break_even:
            self._limit = changed * MARGIN
