"""The certificate: what audits prove about the mean agreement of a run, at every moment of it.

    certificate = Certificate(floor=0.98)
    certificate.add(0.97, weight=1.5)          # one audited frame, and what it stands for
    certificate.lower, certificate.certified   # 0.981, True: with 95 % confidence

An audit draws a frame at random and measures its agreement x, 0..1. Bets on the x turn into bounds
that hold at all times at once, so a run may watch them and stop, or change its settings, whenever
it likes. What is bounded is the running average of conditional means: what audits would have
measured on average, given all that was seen before each of them. It needs no constant mean, no
independence, and no particular distribution.

Pure arithmetic: no threads, no clocks, no files.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Of each bound by itself."""
RATES = np.geomspace(0.2, 100.0, 12)
"""The constant bets; the largest takes the most from perfect audits, the smallest from noisy x."""
OCTAVES = np.arange(-3, 5)
SCALES = np.array([1, 1, 3, 4, 3, 2, 1, 1]) / 16
"""Shares of the wealth that bet 2 ** -octave of each audit's weight; they sum to 1. Audits of a run
are two to three times as rare at its end, and how often they come at first is a guess."""
MOST_WEIGHT = 2.0 ** OCTAVES[-1]
"""Times the unit: audits that stand for more are counted with this."""
RECENT = 400
"""Audits that "now" looks back on: each counts 1 - 1 / RECENT as much as the one after it."""
FALSE_ALARM_EVERY = 2000
"""Audits from one false alarm to the next, on average and at least."""
TINY = 1e-300
"""Keeps the logarithm of lost wealth finite."""
HALVINGS = 50
"""Of the interval that holds a bound."""

Values = NDArray[np.float64]


class BettingBounds:
    """Bounds of the mean of values in 0..1 that come one by one.

    For a constant rate g the product of (1 + g x) / (1 + g E[x | past]) is a martingale of mean 1,
    whatever the means are and whatever they depend on. By Ville's inequality (Ville 1939) it
    exceeds 1 / alpha at any time with a probability of at most alpha. The logarithm is concave, so
    (1 + g m)^t bounds the product of the denominators, with m the average of the means; whatever
    makes the quotient reach 1 / alpha is too low to be that average. This is betting against "the
    mean is m" with the share g / (1 + g m) of the wealth (Waudby-Smith & Ramdas 2024, section 4),
    as a mixture of constant shares (Robbins 1970) instead of one that follows the data: only
    constant shares bound a mean that moves, and they need fewer audits here.

    Weights: an audit of weight a <= 1 enters as the factor to the power a, which is a
    supermartingale by Jensen's inequality, and the average is weighted. As the unit in which a
    weight is at most 1 is not known in advance, wealth is spread over SCALES; those for which a
    weight was too large are lost.

    memory: below 1, each audit counts so much less with each audit after it. Then bounds hold at
    each moment by itself rather than at all at once. streams: shape of values that are bounded
    side by side, for simulations.
    """

    def __init__(self, memory: float = 1.0, streams: tuple[int, ...] = ()) -> None:
        self.memory = memory
        self.unit = 0.0
        """The weight that is expected to be the largest, which costs least; 0: the first one is.
        Known before the first value."""
        self.audits = 0
        """Values so far."""
        self._most = 0.0
        """The largest weight so far, in units."""
        self._count = 0.0
        """Sum of weights, in units."""
        self._sum: Any = np.zeros(streams)
        self._above = np.zeros((*streams, len(RATES)))
        """Log of the numerators of bets that the mean is high."""
        self._below = np.zeros((*streams, len(RATES)))
        """The same of bets that it is low."""

    def add(self, x: Any, weight: float = 1.0) -> None:
        """Count one value. weight: for how much it stands, in any unit; known before the value."""
        if not (np.all(x >= 0) and np.all(x <= 1)):  # NaN is neither
            raise ValueError(f"expected values of 0 .. 1, got {x}")
        if not 0 < weight < math.inf:
            raise ValueError(f"expected a weight above 0, got {weight}")
        self.unit = self.unit or weight
        weight = min(weight / self.unit, MOST_WEIGHT)
        self._most = max(self._most, weight)
        self.audits += 1
        x = np.asarray(x, np.float64)
        self._count = self.memory * self._count + weight
        self._sum = self.memory * self._sum + weight * x
        self._above = self.memory * self._above + weight * np.log1p(RATES * x[..., None])
        self._below = self.memory * self._below + weight * np.log1p(RATES * (1 - x[..., None]))

    @property
    def mean(self) -> Any:
        """The weighted mean; 1 before the first value."""
        return self._sum / self._count if self._count else np.ones_like(self._sum)

    def lower(self, confidence: float = CONFIDENCE) -> Any:
        """The mean is above this."""
        return self._bound(self._above, confidence)

    def upper(self, confidence: float = CONFIDENCE) -> Any:
        """The mean is below this."""
        return 1 - self._bound(self._below, confidence)

    def log_wealth(self, mean: Any, *, above: bool = True) -> Any:
        """Log of what bets are worth against "the mean is at most this", or "at least this"."""
        if above:
            return self._log_wealth(self._above, np.asarray(mean, np.float64))
        return self._log_wealth(self._below, 1 - np.asarray(mean, np.float64))

    def _log_wealth(self, numerators: Values, mean: Values) -> Values:
        gains = numerators - self._count * np.log1p(RATES * mean[..., None])
        powers = 0.5**OCTAVES
        fit = np.flatnonzero(self._most * powers <= 1)
        gains = gains[..., None, :] * powers[fit][:, None]
        most = np.maximum(gains.max(axis=(-2, -1)), 0)
        worth = np.exp(gains - most[..., None, None]).sum(axis=-1) / len(RATES)
        total: Values = np.log(worth @ SCALES[fit] + TINY)
        total += most
        return total

    def _bound(self, numerators: Values, confidence: float) -> Any:
        """The largest mean against which the bets are worth 1 / alpha; it falls with the mean."""
        needed = -math.log1p(-confidence)
        low: Any = np.zeros(numerators.shape[:-1])
        high: Any = np.ones_like(low)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            enough = self._log_wealth(numerators, middle) >= needed
            low, high = np.where(enough, middle, low), np.where(enough, high, middle)
        return float(low) if low.ndim == 0 else low


class DropAlarm:
    """Notices that the mean fell below a floor, however long it was above it.

    An e-detector of the Shiryaev-Roberts kind (Shin, Ramdas & Rinaldo 2024): at each value a new
    bet on "below the floor" begins, and all that ever began are summed. As long as each conditional
    mean is at least the floor, the sum less the number of values is a supermartingale of mean 0, so
    false alarms are on average at least FALSE_ALARM_EVERY values apart. The floor may change from
    value to value. After an alarm it begins afresh.
    """

    def __init__(self, streams: tuple[int, ...] = ()) -> None:
        self._wealth = np.zeros((*streams, len(RATES)))

    def add(self, x: Any, floor: float) -> Any:
        """Count one value; -> whether it raises the alarm."""
        x = np.asarray(x, np.float64)
        factors = (1 + RATES * (1 - x[..., None])) / (1 + RATES * (1 - floor))
        self._wealth = (self._wealth + 1 / len(RATES)) * factors
        alarm = self._wealth.sum(axis=-1) >= FALSE_ALARM_EVERY
        self._wealth = np.where(alarm[..., None], 0.0, self._wealth)
        return bool(alarm) if alarm.ndim == 0 else alarm


@dataclass(slots=True)
class Certificate:
    """What is proven about all frames of a run that had anything to compare.

    Frames that were computed whole agree by definition and are counted; the others are drawn from
    by audits: mean = whole share + (1 - whole share) x mean of the others. The whole share counts
    whole frames that had something to compare against all other frames, with or without, so it is
    never too large.
    """

    floor: float
    """The least mean agreement, 0..1."""
    confidence: float = CONFIDENCE
    whole: int = 0
    """Frames that were computed whole and had something to compare."""
    others: int = 0
    """Frames that were not computed whole: those that audits draw from."""
    empty: int = 0
    """Audits with nothing to compare."""
    all_time: BettingBounds = field(default_factory=BettingBounds)
    """Of the audited frames, since the start."""
    recent: BettingBounds = field(default_factory=lambda: BettingBounds(1 - 1 / RECENT))
    """The same, fading with age."""
    alarms: int = 0
    """How often agreement was noticed to be below the floor."""
    audits: int = 0
    """Audited frames that were compared and had something to compare."""
    _sum: float = 0.0
    _weights: float = 0.0
    """Sums over them, for the mean."""
    _alarm: DropAlarm = field(default_factory=DropAlarm)

    def add(self, x: float | None, weight: float = 1.0) -> bool:
        """Count an audited frame that had something to compare; -> whether it raises an alarm.

        x: None where the audit failed: then bounds take the worst, 0. weight: the number of frames
        that it stands for, which the audit knew before the frame.
        """
        self.all_time.add(x or 0.0, weight)
        self.recent.add(x or 0.0, weight)
        if x is None:
            return False
        self.audits += 1
        self._sum += weight * x
        self._weights += weight
        alarm = bool(self._alarm.add(x, self.floor))
        self.alarms += alarm
        return alarm

    def expect(self, weight: float) -> None:
        """Say before the first audit counts which weight is usual for now."""
        self.all_time.unit = self.recent.unit = weight

    @property
    def whole_share(self) -> float:
        """Of the frames with something to compare, at least this share was computed whole."""
        frames = self.whole + self.others
        return self.whole / frames if frames else 0.0

    @property
    def kept(self) -> float | None:
        """The mean agreement as measured; None: not all of it was."""
        if not self.audits:
            return 1.0 if self.whole and not self.others else None
        compared = self.others * self.audits / (self.audits + self.empty)
        share = self.whole / (self.whole + compared) if self.whole else 0.0
        return share + (1 - share) * self._sum / self._weights

    @property
    def lower(self) -> float | None:
        """The mean agreement is at least this, at every moment of the run with one confidence.

        None: no frame had anything to compare.
        """
        if not (self.all_time.audits or self.whole):
            return None
        share = self.whole_share
        return share + (1 - share) * float(self.all_time.lower(self.confidence))

    @property
    def lower_now(self) -> float | None:
        """As `lower`, of recently audited frames: valid at each moment by itself."""
        return float(self.recent.lower(self.confidence)) if self.recent.audits else None

    @property
    def certified(self) -> bool:
        """Whether the mean agreement is proven to reach the floor."""
        lower = self.lower
        return lower is not None and lower >= self.floor


def audits_text(count: int) -> str:
    """How many audits, in words."""
    return "1 audit" if count == 1 else f"{count} audits"
