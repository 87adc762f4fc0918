"""Searching for the setting that takes the least work and still agrees well enough.

1. Scan: one number spread over the layers in several ways, with several gates; of each the largest
   number that agrees well enough. "uniform" with the default gate is the named easy version.
2. Descend: from the best of them, each layer's share and each setting of the gate goes up or down
   where the gain in work is worth the loss: log(work) + price * loss, where the price is
   what the scan paid.
3. After each round all shares are scaled as far as the agreement allows.

Deterministic: the same outcomes lead to the same setting.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stillframe.pipeline.tune_clip import Outcome, Setting
from stillframe.reuse.change import RANGES, GateSettings

Evaluate = Callable[[Setting], Outcome]

START = 0.1  # the share that scans begin at
SMALLEST, LARGEST = 0.003, 3.0
HALVINGS = 2  # of the bracket, in its logarithm
ROUNDS = (2.0, 1.5)  # factors by which shares move, a round each
CLOSER = 0.3  # of what the wanted agreement lacks of 1 is kept in hand against other frames, but
# where that much cannot be reached
SHORT = 20.0  # price of agreement that is missing, in log(work)
LEAST_GAIN = 1e-3

GATES: tuple[GateSettings, ...] = (
    GateSettings(),
    GateSettings(pixel=6.0),
    GateSettings(pixel=2.5),
    GateSettings(pixel=1.5),
)
MOVES: dict[str, tuple[Callable[[float], float], ...]] = {
    "pixel": (lambda v: v * 1.3, lambda v: v / 1.3),
    "margin": (lambda v: v - 2, lambda v: v + 2),
    "hold": (lambda v: v - 2, lambda v: v + 2),
    "soft": (lambda v: v * 1.25, lambda v: v / 1.25),
    "block": (lambda v: v * 1.4, lambda v: v / 1.4),
}


class Stopped(Exception):  # noqa: N818 - it is asked for, not an error
    """The user has seen enough."""


@dataclass(frozen=True, slots=True)
class Try:
    """What was tried, and what came of it."""

    what: str
    setting: Setting
    outcome: Outcome


@dataclass(slots=True)
class Search:
    """evaluate: may raise Stopped. wanted: least agreement. told: each try, as it is made."""

    evaluate: Evaluate
    wanted: float
    top: float = 1.0  # the best agreement there can be
    closer: float = CLOSER
    told: Callable[[Try], None] = lambda _: None
    none: Outcome | None = None
    best: Try | None = None
    uniform: Try | None = None
    tries: list[Try] = field(default_factory=list)
    _known: dict[object, Outcome] = field(default_factory=dict, repr=False)

    @property
    def aim(self) -> float:
        """A bit more than is wanted, since other frames will agree less."""
        return self.wanted + self.closer * max(0.0, min(self.top, 1.0) - self.wanted)

    def agrees(self, outcome: Outcome, none: Outcome | None) -> bool:
        """Whether it is good enough, and steadily so. none: what comes of no tolerance at all with
        the default gate: noise may make boxes hover that nobody can hold."""
        return self._short(outcome, none, self.aim) <= 0

    def holds(self, outcome: Outcome, none: Outcome | None) -> bool:
        """The same for frames that the search did not see: nothing need be in hand, and where they
        do not agree even without a tolerance, no smaller one would help."""
        aim = self.wanted if none is None else min(self.wanted, none.quality)
        return self._short(outcome, none, aim) <= 0

    def _short(self, outcome: Outcome, none: Outcome | None, aim: float) -> float:
        steady = aim
        if none is not None:
            steady = min(steady, none.steady - (self.top - aim))
        return max(aim - outcome.quality, steady - outcome.steady, 0.0)

    def run(self, spreads: Mapping[str, Mapping[str, float]], order: Sequence[str]) -> None:
        """Scan, then descend; `best` is None where nothing agrees well enough. spreads: by name,
        "uniform" among them. order: the layers, those first that are worth most."""
        try:
            nothing = Setting(dict.fromkeys(spreads["uniform"], 0.0))
            self.none = self._try("no tolerance", nothing).outcome
            reached = self._start(spreads["uniform"])
            if not reached and self.closer:
                self.closer = 0.0
                reached = self._start(spreads["uniform"])
            if not reached:
                return
            gate = min((scan[-1] for scan in reached), key=_work).setting.gate
            for name, spread in spreads.items():
                if name != "uniform":
                    reached.append(self._scan(name, spread, gate))
            best = min((scan for scan in reached if scan), key=lambda scan: _work(scan[-1]))
            current, price = best[-1], self._price(best)
            for factor in ROUNDS:
                current = self._round(current, order, factor, price)
                scaled = self._scan("scaled", current.setting.shares, current.setting.gate, 1.0)
                if scaled:
                    current, price = scaled[-1], self._price(scaled, price)
        except Stopped:
            return

    def _start(self, spread: Mapping[str, float]) -> list[list[Try]]:
        """Scans with each gate that reach the aim, the default one's first."""
        starts = [self._scan("uniform", spread, gate) for gate in GATES]
        self.uniform = starts[0][-1] if starts[0] else None
        return [scan for scan in starts if scan]

    def _try(self, what: str, setting: Setting) -> Try:
        key = (tuple(setting.shares.items()), setting.gate)
        if key not in self._known:
            self._known[key] = self.evaluate(setting)
        tried = Try(what, setting, self._known[key])
        self.tries.append(tried)
        if self.agrees(tried.outcome, self.none) and (
            self.best is None or _work(tried) < _work(self.best)
        ):
            self.best = tried
        self.told(tried)
        return tried

    def _scan(
        self, what: str, spread: Mapping[str, float], gate: GateSettings, start: float = START
    ) -> list[Try]:
        """The tries that agree well enough, by rising shares: the last one is the answer.

        Up or down by twos until the agreement changes sides, then halving in between.
        """
        base = Setting(dict(spread), gate)
        good: dict[float, Try] = {}
        low, high = 0.0, math.inf

        def look(number: float) -> bool:
            tried = self._try(f"{what}, pixel {gate.pixel:g}: {number:.3g}", base.scaled(number))
            if self.agrees(tried.outcome, self.none):
                good[number] = tried
            return number in good

        number = start
        while SMALLEST * start / START <= number <= LARGEST * start / START:
            if look(number):
                low = number
                if high < math.inf:
                    break
                number *= 2
            else:
                high = number
                if low > 0:
                    break
                number /= 2
        for _ in range(HALVINGS if low > 0 and high < math.inf else 0):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if look(middle) else (low, middle)
        return [good[number] for number in sorted(good)]

    def _price(self, scan: Sequence[Try], otherwise: float = 5.0) -> float:
        """What the end of a scan paid in loss for its gain in work."""
        if len(scan) < 2:
            return otherwise
        cheap, dear = scan[-1].outcome, scan[0].outcome
        lost = cheap.loss - dear.loss
        gained = math.log(max(dear.work, 1e-9) / max(cheap.work, 1e-9))
        return min(max(gained / lost, 1.0), 200.0) if lost > 0 and gained > 0 else otherwise

    def _value(self, outcome: Outcome, price: float) -> float:
        short = self._short(outcome, self.none, self.aim)
        return math.log(max(outcome.work, 1e-6)) + price * outcome.loss + SHORT * short

    def _round(self, current: Try, order: Sequence[str], factor: float, price: float) -> Try:
        """Move each share and each setting of the gate, up or else down, where that pays."""
        value = self._value(current.outcome, price)

        def better(what: str, setting: Setting) -> bool:
            nonlocal current, value
            tried = self._try(what, setting)
            found = self._value(tried.outcome, price)
            if found < value - LEAST_GAIN:
                current, value = tried, found
                return True
            return False

        for name in MOVES:
            for move in MOVES[name]:
                gate = moved(current.setting.gate, name, move)
                if gate is None:
                    continue
                if better(f"gate {name}", replace(current.setting, gate=gate)):
                    break
        for name in order:
            for times in (factor, 1 / factor):
                share = current.setting.shares[name] * times
                shares = {**current.setting.shares, name: share}
                if better(f"{name} x {times:.2g}", replace(current.setting, shares=shares)):
                    break
        return current


def moved(gate: GateSettings, name: str, move: Callable[[float], float]) -> GateSettings | None:
    """The gate with one setting moved; None where it cannot."""
    old = getattr(gate, name)
    low, high = RANGES[name]
    new = type(old)(min(max(move(old), low), high))
    if new == old or (name == "pixel" and new * gate.most_noise > 250):
        return None
    return replace(gate, **{name: new})


def _work(tried: Try) -> float:
    return tried.outcome.work
