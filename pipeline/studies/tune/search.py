"""Searching for the setting that costs least and still agrees well enough.

1. Scan: the largest single tolerance for all layers that agrees well enough; if none does, with
   another gate. This is the easy solution. Its loss is the fair loss: no later one may lose more.
2. Scan: one number spread over the layers in several ways, with that gate.
3. Descend: from the best of them the settings of the gate, and the shares of ever smaller groups of
   layers, go up or down where the gain is worth the loss: log(cost) + price * loss, where
   the price is what the scan paid at its end. After each round all shares are scaled as far as
   the agreement allows.
4. Skip: ever more frames are skipped while the loss stays fair: with the outcome of the descent,
   and with the single tolerance.

Deterministic: the same outcomes lead to the same setting.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from stillframe.pipeline.inference.frame_skipping import Between, FrameSkipping
from stillframe.pipeline.studies.tune.trial import Outcome, TrialSetting
from stillframe.reuse.gate.gate_settings import RANGES, GateSettings

Evaluate = Callable[[TrialSetting], Outcome]

START = 0.1  # the share that scans begin at
SMALLEST, LARGEST = 0.003, 13.0
MOST = 1.0  # no layer may change by more than all that is in it unseen: such a profile would be
# blind to whatever comes into a picture that stood still while it was tuned
HALVINGS = 3  # of the bracket, in its logarithm
ROUNDS: tuple[tuple[int, float], ...] = ((8, 1.8),)
"""Into how many groups of consecutive layers, and by which factor their shares move."""
CLOSER = 0.3  # of the agreement to spare is a reserve for other frames, where that can be
SHORT = 5.0  # price of agreement that is missing, in log(cost)
CHEAPEST, DEAREST = 2.0, 1000.0  # price of loss
FINE = 1.4  # step of a scan that begins near its end
LEAST_GAIN = 1e-3
RUNG = 1.08  # between settings that are tried on other frames, in cost
TIGHT = 0.25  # of its shares is what a scan with skipped frames begins with
EVERY = (2, 3, 4, 6, 8)  # of so many frames that change the network computes one

GATES: tuple[GateSettings, ...] = (
    GateSettings(),
    GateSettings(margin=8),
    GateSettings(pixel=2.5),
    GateSettings(pixel=2.5, margin=8),
    GateSettings(pixel=1.5),
)
MOVES: dict[str, tuple[Callable[[float], float], ...]] = {
    "pixel": (lambda v: v * 1.3, lambda v: v / 1.3),
    "margin": (lambda v: v - 2, lambda v: v + 2),
    "hold": (lambda v: v - 2, lambda v: v + 2),
    "soft": (lambda v: v * 1.25, lambda v: v / 1.25),
    "block": (lambda v: v * 1.4, lambda v: v / 1.4),
}


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """The user has seen enough."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A setting that was tried, and its outcome."""

    what: str
    """Which step of the search tried it."""
    setting: TrialSetting
    outcome: Outcome


@dataclass(slots=True)
class Search:
    """One search, with all that it tried."""

    evaluate: Evaluate
    """May raise Stopped, which ends the search."""
    least: float
    """The least agreement."""
    top: float = 1.0
    """The best agreement there can be."""
    closer: float = CLOSER
    """See CLOSER."""
    between: Sequence[Between] = ("keep",)
    """What may stand for skipped frames."""
    most_every: int = EVERY[-1]
    """The network runs on one in so many frames at least: the windows are no longer."""
    on_trial: Callable[[Trial], None] = lambda _: None
    """Takes each new trial."""
    none: Outcome | None = None
    """Of no tolerance with the default gate."""
    most_loss: float = math.inf
    """The fair loss."""
    best: Trial | None = None
    """The cheapest that is good enough."""
    descended: Trial | None = None
    """The end of the descent, which skips no frames; None where the search ended before."""
    good: list[Trial] = field(default_factory=list)
    """All that are good enough."""
    uniform: Trial | None = None
    """The single tolerance of the first scan."""
    trials: list[Trial] = field(default_factory=list)
    _known: dict[object, Outcome] = field(default_factory=dict, repr=False)

    @property
    def aim(self) -> float:
        """A bit more than the wanted agreement, since other frames will agree less: a part of what
        there is to give away without any tolerance."""
        most = self.top if self.none is None else min(self.top, self.none.quality)
        return self.least + self.closer * max(0.0, min(most, 1.0) - self.least)

    def agrees(self, outcome: Outcome, none: Outcome | None) -> bool:
        """Whether it is good enough, and steadily so. none: the outcome of no tolerance at all with
        the default gate: noise may make boxes hover whatever the setting."""
        return self._short(outcome, none, self.aim) <= 0

    def holds(self, outcome: Outcome, none: Outcome | None) -> bool:
        """The same for frames that the search did not see: no reserve is needed, and where they do
        not agree even without a tolerance, no smaller one would help."""
        aim = self.least if none is None else min(self.least, none.quality)
        return self._short(outcome, none, aim) <= 0

    def _short(self, outcome: Outcome, none: Outcome | None, aim: float) -> float:
        steady = aim
        if none is not None:
            steady = min(steady, none.steady - (self.top - aim))
        return max(aim - outcome.quality, steady - outcome.steady, 0.0)

    def fair_loss(self, none: Outcome, uniform: Outcome | None) -> float:
        """What may be lost on frames with those outcomes of no tolerance and of the best single
        one: what the latter lost, or without one what the wanted agreement leaves."""
        if uniform is None:
            return none.loss + max(0.0, min(self.top, 1.0) - self.least)
        return max(none.loss, uniform.loss)

    def run(self, spreads: Mapping[str, Mapping[str, float]], layers: Sequence[str]) -> None:
        """Scan, then descend; `best` is None where nothing agrees well enough. spreads: by name,
        "uniform" among them. layers: in the order of the network."""
        try:
            nothing = TrialSetting(dict.fromkeys(spreads["uniform"], 0.0))
            self.none = self._try("no tolerance", nothing).outcome
            best = self._start(spreads["uniform"])
            if not best and self.closer:
                self.closer = 0.0
                best = self._start(spreads["uniform"])
            if not best:
                return
            self.uniform = best[-1]
            self.most_loss = self.fair_loss(self.none, self.uniform.outcome)
            for name, spread in spreads.items():
                if name != "uniform":
                    scan = self._scan(name, spread, self.uniform.setting.gate, than=best[-1])
                    best = min((best, scan), key=lambda each: _cost(each[-1])) if scan else best
            current, price = best[-1], self._price(best)
            current = self._gates(current, price)
            for count, factor in ROUNDS:
                current = self._round(current, groups(layers, count), factor, price)
                shares, gate = current.setting.shares, current.setting.gate
                scan = self._scan("scaled", shares, gate, 1.0, FINE)
                if scan:
                    current, price = scan[-1], self._price(scan, price)
                elif self.best is not None:
                    current = self.best
            self.descended = current
            for base in (current, self.uniform):
                for between in self.between:
                    self._skip(base, between)
        except Stopped:
            return

    def _start(self, spread: Mapping[str, float]) -> list[Trial]:
        """The scan with the first gate that reaches the aim."""
        for gate in GATES:
            base = TrialSetting(spread, gate).scaled(0.0)
            outcome = self._try(f"no tolerance, {_gate_text(gate)}", base).outcome
            if self.agrees(outcome, self.none) and (scan := self._scan("uniform", spread, gate)):
                return scan
        return []

    def _try(self, what: str, setting: TrialSetting) -> Trial:
        capped = {name: min(share, MOST) for name, share in setting.shares.items()}
        setting = replace(setting, shares=capped)
        key = (tuple(capped.items()), setting.gate, setting.frame_skipping)
        fresh = key not in self._known
        if fresh:
            self._known[key] = self.evaluate(setting)
        tried = Trial(what, setting, self._known[key])
        if self._good(tried.outcome) and (self.best is None or _cost(tried) < _cost(self.best)):
            self.best = tried
        if fresh:
            if self._good(tried.outcome):
                self.good.append(tried)
            self.trials.append(tried)
            self.on_trial(tried)
        return tried

    def _good(self, outcome: Outcome) -> bool:
        """As good as the best single tolerance: where that is known, its loss is the reserve, since
        it is smooth where agreement jumps."""
        if self.most_loss == math.inf:
            return self.agrees(outcome, self.none)
        short = self._short(outcome, self.none, self.least)
        return short <= 0 and outcome.loss <= self.most_loss

    def _scan(
        self,
        what: str,
        spread: Mapping[str, float],
        gate: GateSettings,
        start: float = START,
        step: float = 2.0,
        than: Trial | None = None,
        skipping: FrameSkipping | None = None,
    ) -> list[Trial]:
        """The trials that are good enough, by rising shares: the last one is the answer.

        Up or down by steps until that changes, then halving in between. than: the scan ends where
        it cannot beat that.
        """
        base = TrialSetting(dict(spread), gate, skipping or FrameSkipping())
        good: dict[float, Trial] = {}
        low, high = 0.0, math.inf
        number = start
        while SMALLEST * start / START <= number <= LARGEST * start / START:
            tried = self._try(f"{what}, {_gate_text(gate)}: {number:.3g}", base.scaled(number))
            if self._good(tried.outcome):
                good[number], low = tried, number
                if high < math.inf:
                    break
                number *= step
            else:
                high = number
                if low > 0 or (than is not None and _cost(tried) >= _cost(than)):
                    break
                number /= step
        for _ in range(HALVINGS if low > 0 and high < math.inf else 0):
            middle = math.sqrt(low * high)
            tried = self._try(f"{what}, {_gate_text(gate)}: {middle:.3g}", base.scaled(middle))
            if self._good(tried.outcome):
                good[middle], low = tried, middle
            else:
                high = middle
                if than is not None and _cost(tried) >= _cost(than):
                    break
        return [good[number] for number in sorted(good)]

    def _skip(self, base: Trial, between: Between) -> None:
        """Skip ever more frames, with all shares scaled as far as the agreement allows: from small
        ones on, since a skipped frame may lose less than a tolerance does."""
        shares, gate = base.setting.shares, base.setting.gate
        for every in EVERY:
            if every > self.most_every:
                return
            what, skipping = f"one in {every}, {between}", FrameSkipping(every, between)
            if not self._scan(what, shares, gate, TIGHT, than=self.best, skipping=skipping):
                return

    def _price(self, scan: Sequence[Trial], otherwise: float = 10.0) -> float:
        """What the end of a scan paid in loss for its gain in cost."""
        if len(scan) < 2:
            return otherwise
        cheap, dear = scan[-1].outcome, scan[max(0, len(scan) - 3)].outcome
        lost = cheap.loss - dear.loss
        gained = math.log(max(dear.cost, 1e-9) / max(cheap.cost, 1e-9))
        if lost <= 0 or gained <= 0:
            return otherwise
        return min(max(gained / lost, CHEAPEST), DEAREST)

    def _value(self, outcome: Outcome, price: float) -> float:
        short = self._short(outcome, self.none, self.least)
        return math.log(max(outcome.cost, 1e-6)) + price * outcome.loss + SHORT * short

    def _gates(self, current: Trial, price: float) -> Trial:
        """Move each setting of the gate, up or else down, where that pays."""
        for name, moves in MOVES.items():
            for move in moves:
                gate = moved(current.setting.gate, name, move)
                if gate is None:
                    continue
                tried = self._try(f"gate {name}", replace(current.setting, gate=gate))
                if self._pays(tried, current, price):
                    current = tried
                    break
        return current

    def _round(
        self, current: Trial, parts: Sequence[Sequence[str]], factor: float, price: float
    ) -> Trial:
        """The same with the shares of each group of layers."""
        for part in parts:
            for times in (factor, 1 / factor):
                shares = dict(current.setting.shares)
                shares |= {name: shares[name] * times for name in part}
                what = part[0] if len(part) == 1 else f"{part[0]} to {part[-1]}"
                tried = self._try(f"{what} x {times:.2g}", replace(current.setting, shares=shares))
                if self._pays(tried, current, price):
                    current = tried
                    break
        return current

    def _pays(self, tried: Trial, current: Trial, price: float) -> bool:
        value, before = (self._value(each.outcome, price) for each in (tried, current))
        return value < before - LEAST_GAIN


def ladder(trials: Sequence[Trial], rung: float = RUNG) -> list[Trial]:
    """By rising cost, each dearer than the one before by that factor at least."""
    rungs: list[Trial] = []
    for each in sorted(trials, key=_cost):
        if not rungs or _cost(each) >= rung * _cost(rungs[-1]):
            rungs.append(each)
    return rungs


def groups(layers: Sequence[str], count: int) -> list[Sequence[str]]:
    """Consecutive layers, in so many groups of about the same size, or one each."""
    count = min(count, len(layers))
    ends = [at * len(layers) // max(count, 1) for at in range(count + 1)]
    return [layers[first:end] for first, end in pairwise(ends)]


def _gate_text(gate: GateSettings) -> str:
    return f"pixel {gate.pixel:g}, margin {gate.margin}"


def moved(gate: GateSettings, name: str, move: Callable[[float], float]) -> GateSettings | None:
    """The gate with one setting moved; None where it cannot."""
    old = getattr(gate, name)
    low, high = RANGES[name]
    new = type(old)(min(max(move(old), low), high))
    if new == old or (name == "pixel" and new * gate.most_noise > 250):
        return None
    return replace(gate, **{name: new})


def _cost(tried: Trial) -> float:
    return tried.outcome.cost
