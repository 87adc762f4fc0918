"""Which backend computes whole frames: the one that takes the least processor time here.

    contest.name(ready, time_s)     # before later frames: what is to compute whole ones
    contest.add(name, cost_ms)      # each finished frame that was computed whole

ONNX Runtime begins. Another contender is tried on single frames, as seldom as it takes for trying
to cost at most TRYING_SHARE of the processor time of all frames, and tried anew after pauses that
double. The contenders' results differ in the last bits only.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from stillframe.pipeline.quality.auto.costs import FrameCosts

ONNX_RUNTIME, OPENVINO, REUSE = "onnxruntime", "openvino", "reuse"
TITLES = {
    ONNX_RUNTIME: "ONNX Runtime",
    OPENVINO: "OpenVINO",
    REUSE: "the reuse engine's dense step",
}
"""How people read a contender's name."""
TRYING_SHARE = 0.03
"""Of the processor time of frames, what trying contenders may take."""
ENOUGH = 3
"""Frames that tell what a contender costs."""
APART = 8
"""Frames from one try to the next, at least."""
CHEAPER = 0.97
"""Of the cost of the present one: another one must cost less to take its place."""
GUESS = 2.0
"""Times the cost of the present one, what one that was not tried yet may cost."""
AGAIN_S, LONGEST_AGAIN_S = 30.0, 600.0
"""Until a contender that lost is tried again: at first, and at most."""


@dataclass(slots=True)
class DenseContest:
    """The contest for the frames of one model at one size."""

    costs: FrameCosts
    """Takes the costs of the contenders, by name."""
    best: str = ONNX_RUNTIME
    """The cheapest so far."""
    spent_ms: float = 0.0
    """Processor time of all frames."""
    tried_ms: float = 0.0
    """Of that, what trying took beyond the cost of the best."""
    _since_try: int = APART
    """Frames since the last try."""
    _again_s: dict[str, float] = field(default_factory=dict)
    """Name -> time from which one that lost is tried again."""
    _pause_s: dict[str, float] = field(default_factory=dict)
    """Name -> how long it waits then."""
    _stale: set[str] = field(default_factory=set)
    """Those whose costs are of another time: the next frame begins anew."""

    def add(self, name: str, cost_ms: float) -> None:
        """Count a frame that the contender computed whole."""
        best_ms = self.cost_of_best
        self._since_try = 0 if name != self.best else self._since_try + 1
        if name != self.best and best_ms is not None:
            self.tried_ms += max(0.0, cost_ms - best_ms)
        if name in self._stale:
            self._stale.discard(name)
            self.costs.forget_dense(name)
        self.costs.add_dense(name, cost_ms)

    def name(self, ready: Collection[str], time_s: float) -> str:
        """What is to compute the next whole frame.

        ready: contenders that could begin now. time_s: of the stream.
        """
        best_ms = self.cost_of_best
        if best_ms is None or len(self.costs.dense[self.best]) < ENOUGH:
            return self.best
        for name in ready:
            self._judge(name, time_s)
        best_ms = self.cost_of_best
        assert best_ms is not None
        if self._since_try < APART:
            return self.best
        for name in ready:
            if name == self.best or time_s < self._again_s.get(name, 0.0):
                continue
            if self._again_s.pop(name, None) is not None:
                self._stale.add(name)
            known_ms = self.costs.of_dense(name)
            extra_ms = (known_ms or GUESS * best_ms) - best_ms
            if self.affords(extra_ms):
                return name
        return self.best

    def affords(self, extra_ms: float) -> bool:
        """Whether trying may take so much more processor time now."""
        return self.tried_ms + max(0.0, extra_ms) <= TRYING_SHARE * self.spent_ms

    def has_lost(self, name: str) -> bool:
        """Whether it was tried often enough and costs more than the best."""
        return name in self._again_s

    @property
    def cost_of_best(self) -> float | None:
        """Milliseconds of a frame; None: not measured."""
        return self.costs.of_dense(self.best)

    def _judge(self, name: str, time_s: float) -> None:
        """Once a contender was tried often enough: it takes over, or it pauses."""
        if name == self.best or name in self._again_s or name in self._stale:
            return
        if len(self.costs.dense.get(name, ())) < ENOUGH:
            return
        mine, best = self.costs.of_dense(name), self.cost_of_best
        assert mine is not None
        assert best is not None
        loser = name
        if mine < CHEAPER * best:
            loser, self.best = self.best, name
        pause_s = self._pause_s.get(loser, AGAIN_S)
        self._again_s[loser] = time_s + pause_s
        self._pause_s[loser] = min(LONGEST_AGAIN_S, 2 * pause_s)
        self._again_s.pop(self.best, None)
