"""The certificate, by simulation: how often its bounds are wrong, and how soon they are tight.

Streams are simulated side by side. A bound is wrong if at any audit it exceeds the running average
of the conditional means so far; that may happen in at most 5 % of the streams.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.certificate import (
    FALSE_ALARM_EVERY,
    MOST_WEIGHT,
    OCTAVES,
    RATES,
    SCALES,
    BettingBounds,
    Certificate,
    DropAlarm,
    audits_text,
)

Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, Values], Values]
FLOOR = 0.98
NEEDED = math.log(20)
"""Log of the wealth that proves with 95 %."""
MOST_WRONG = 0.05


def all_or_nothing(rng: np.random.Generator, mean: Values) -> Values:
    return (rng.random(mean.shape) < mean).astype(float)


def mostly_perfect(rng: np.random.Generator, mean: Values) -> Values:
    """1, or with some probability anything between 0 and 1."""
    loses = rng.random(mean.shape) < 2 * (1 - mean)
    return 1 - loses * rng.random(mean.shape)


def near_the_mean(rng: np.random.Generator, mean: Values) -> Values:
    return rng.beta(20 * mean, 20 * (1 - mean) + 1e-9)


DRAWS: list[Draw] = [all_or_nothing, mostly_perfect, near_the_mean]


class Streams:
    """Simulated streams, and where the bounds of their means were ever wrong."""

    def __init__(self, streams: int, memory: float = 1.0) -> None:
        self.bounds = BettingBounds(memory, (streams,))
        self.wrong: dict[str, NDArray[np.bool_]] = {
            side: np.zeros(streams, bool) for side in ("lower", "upper")
        }
        self._means: Any = np.zeros(streams)
        self._weights = 0.0

    def add(self, x: Values, mean: Values, weight: float = 1.0) -> None:
        """One audit of each stream. mean: conditional means, given what was seen before."""
        self.bounds.add(x, weight)
        self._means = self._means + weight * mean
        self._weights += weight
        for side in self.wrong:
            average = self._means / self._weights
            # the bound exceeds the average if and only if bets against the average have won
            wealth = self.bounds.log_wealth(average, above=side == "lower")
            self.wrong[side] |= wealth >= NEEDED

    def check(self) -> None:
        for side, wrong in self.wrong.items():
            assert wrong.mean() <= MOST_WRONG, side


@pytest.mark.parametrize("draw", DRAWS)
def test_bounds_hold_at_all_times_of_a_steady_stream(draw: Draw) -> None:
    rng, streams = np.random.default_rng(1), Streams(240)
    means = np.repeat([0.98, 0.98, 0.985, 0.975, 0.9, 0.5], 40)
    for _ in range(400):
        streams.add(draw(rng, means), means)
    streams.check()


@pytest.mark.parametrize("draw", DRAWS)
def test_bounds_hold_while_the_mean_moves(draw: Draw) -> None:
    """Half of the streams fall from nearly perfect, the others go up and down."""
    rng, streams = np.random.default_rng(2), Streams(200)
    for at in range(600):
        falls = 0.998 if at < 400 else 0.93
        waves = 0.98 + 0.019 * math.sin(at / 40)
        means = np.where(np.arange(200) % 2, falls, waves)
        streams.add(draw(rng, means), means)
    streams.check()


@pytest.mark.parametrize("draw", DRAWS)
def test_bounds_hold_where_settings_follow_what_audits_saw(draw: Draw) -> None:
    """A ladder that is climbed while the bets win and left as soon as they lose, and its contrary:
    means depend on all that was seen, in the way that would hurt most."""
    rng, streams = np.random.default_rng(3), Streams(200)
    means = np.full(200, FLOOR)
    limits = np.where(np.arange(200) % 4 < 2, 0.5, 2.0)
    flips = np.arange(200) % 2 == 0
    for _ in range(600):
        streams.add(draw(rng, means), means)
        wins = streams.bounds.log_wealth(FLOOR) > limits
        means = np.where(wins == flips, 0.955, 0.995)
    streams.check()


def test_bounds_hold_for_the_weighted_average_where_audits_become_rarer() -> None:
    """The first audits come four times as often, and the quality changes with the rate."""
    for weights in (np.r_[np.ones(100), np.full(250, 4.0)], np.r_[np.ones(50), np.full(200, 12.0)]):
        rng, streams = np.random.default_rng(4), Streams(300)
        for weight in weights:
            means = np.full(300, 0.999 if weight == 1 else 0.97)
            streams.add(mostly_perfect(rng, means), means, weight)
        streams.check()
        assert float(np.median(streams.bounds.lower())) < 0.97


def test_a_wrong_guess_of_the_weights_costs_little() -> None:
    lowers = []
    for unit in (1.0, 0.5, 2.0, 8.0):
        bounds = BettingBounds()
        bounds.unit = unit
        for _ in range(100):
            bounds.add(1.0)
        lowers.append(bounds.lower())
    assert lowers[0] == max(lowers) > 0.95
    assert min(lowers) > 0.93


def test_an_audit_that_stands_for_too_much_proves_less_not_more() -> None:
    bounds = BettingBounds()
    for weight in (1.0, MOST_WEIGHT, 1e9):
        bounds.add(1.0, weight)
    plain = BettingBounds()
    for _ in range(3):
        plain.add(1.0)
    assert 0 < bounds.lower() < plain.lower() / 2


def test_the_mean_wealth_is_what_the_theory_says() -> None:
    """All outcomes of five audits: bets with a share of 1 neither win nor lose on average; those
    with a part of the weight lose a little."""
    mean, wealth = 0.7, 0.0
    for outcome in product((0.0, 1.0), repeat=5):
        bounds = BettingBounds()
        for x in outcome:
            bounds.add(x, 3.0)
        chance = math.prod(mean if x else 1 - mean for x in outcome)
        wealth += chance * math.exp(bounds.log_wealth(mean))
    powers = 0.5 ** OCTAVES[OCTAVES >= 0][:, None]  # a weight above 1 is no fair bet
    shares = SCALES[OCTAVES >= 0][:, None]
    fair = 1 + RATES * mean
    one = mean * ((1 + RATES) / fair) ** powers + (1 - mean) * (1 / fair) ** powers
    assert one[0] == pytest.approx(np.ones(len(RATES)))
    assert wealth == pytest.approx((shares * one**5 / len(RATES)).sum())
    assert SCALES.sum() == 1


def audits_until(draw: Draw, mean: float, *, above: bool, most: int) -> float:
    """Median number of audits until the mean is proven to be above, or below, the floor."""
    rng, bounds = np.random.default_rng(5), BettingBounds(streams=(200,))
    needed = np.full(200, most + 1)
    for count in range(1, most + 1):
        bounds.add(draw(rng, np.full(200, mean)))
        proven = bounds.log_wealth(FLOOR, above=above) >= NEEDED
        needed[proven & (needed > most)] = count
    return float(np.median(needed))


@pytest.mark.parametrize(("mean", "most"), [(1.0, 299), (0.995, 400), (0.99, 1100)])
def test_how_many_audits_certify(mean: float, most: int) -> None:
    assert audits_until(mostly_perfect, mean, above=True, most=most) <= most


@pytest.mark.parametrize(("mean", "most"), [(0.9, 35), (0.95, 200)])
def test_how_many_audits_prove_a_miss(mean: float, most: int) -> None:
    assert audits_until(mostly_perfect, mean, above=False, most=most) <= most


def test_few_audits_prove_little_however_good_they_are() -> None:
    bounds = BettingBounds()
    for _ in range(12):
        bounds.add(1.0)
    assert 0.64 < bounds.lower() < 0.05 ** (1 / 12)
    assert bounds.upper() > 0.999


def test_a_bound_is_where_the_bets_against_it_win() -> None:
    rng, bounds = np.random.default_rng(6), BettingBounds(streams=(3,))
    alone = [BettingBounds() for _ in range(3)]
    for x in mostly_perfect(rng, np.full((200, 3), 0.97)):
        bounds.add(x, 2.0)
        for one, value in zip(alone, x, strict=True):
            one.add(float(value), 0.1)
    lower, upper = bounds.lower(), bounds.upper()
    assert np.all(lower < bounds.mean)
    assert np.all(bounds.mean < upper)
    assert bounds.log_wealth(lower) == pytest.approx(np.full(3, NEEDED))
    assert bounds.log_wealth(upper, above=False) == pytest.approx(np.full(3, NEEDED))
    assert [one.lower() for one in alone] == pytest.approx(lower)  # the unit does not matter
    assert np.all(bounds.lower(0.99) < lower)


def test_the_upper_bound_is_the_lower_bound_of_the_loss() -> None:
    rng, bounds, losses = np.random.default_rng(6), BettingBounds(0.99), BettingBounds(0.99)
    for at, x in enumerate(mostly_perfect(rng, np.full(200, 0.9))):
        bounds.add(float(x), 1 + at % 3)
        losses.add(float(1 - x), 1 + at % 3)
    assert bounds.upper() == pytest.approx(1 - losses.lower())
    assert bounds.lower() == pytest.approx(1 - losses.upper())


@pytest.mark.parametrize("x", [-0.1, 1.1, math.nan])
def test_what_is_no_agreement_is_not_counted(x: float) -> None:
    bounds = BettingBounds()
    with pytest.raises(ValueError, match=r"expected values of 0 \.\. 1"):
        bounds.add(x)
    assert bounds.audits == 0
    assert bounds.lower() == 0.0


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_cannot_be(weight: float) -> None:
    with pytest.raises(ValueError, match="expected a weight above 0"):
        BettingBounds().add(1.0, weight)


# --- now -----------------------------------------------------------------------------------------


def test_recent_audits_bound_the_mean_of_now() -> None:
    """After a fall the bound of now follows; at any one moment it is wrong in 5 % at most."""
    rng, memory = np.random.default_rng(7), 1 - 1 / 50
    bounds = BettingBounds(memory, (400,))
    average, count = 0.0, 0.0
    for at in range(400):
        mean = 0.999 if at < 200 else 0.8
        average, count = memory * average + mean, memory * count + 1
        bounds.add(mostly_perfect(rng, np.full(400, mean)))
        if at % 40 == 39:
            wrong = bounds.log_wealth(np.full(400, average / count)) >= NEEDED
            assert wrong.mean() <= MOST_WRONG
    assert np.median(bounds.upper()) < 0.95
    assert np.median(bounds.lower()) < 0.75


def test_false_alarms_are_rare() -> None:
    """At exactly the floor, the worst that is still good."""
    for draw in DRAWS:
        rng, alarm = np.random.default_rng(8), DropAlarm((400,))
        at_floor = np.full(400, FLOOR)
        alarms = sum(int(np.sum(alarm.add(draw(rng, at_floor), FLOOR))) for _ in range(600))
        assert alarms <= 400 * 600 / FALSE_ALARM_EVERY


def test_a_fall_raises_the_alarm_however_long_all_was_well() -> None:
    rng, alarm = np.random.default_rng(9), DropAlarm((200,))
    for _ in range(500):
        alarm.add(mostly_perfect(rng, np.full(200, 0.997)), FLOOR)
    until = np.full(200, 1000)
    for count in range(1, 200):
        raised = alarm.add(mostly_perfect(rng, np.full(200, 0.9)), FLOOR)
        until[raised & (until == 1000)] = count
    assert np.median(until) < 70
    assert until.max() < 200


# --- the certificate -----------------------------------------------------------------------------


def certificate(audits: int, x: float = 1.0, **counts: int) -> Certificate:
    some = Certificate(FLOOR, **counts)
    for _ in range(audits):
        some.add(x)
    return some


def test_nothing_to_compare_proves_nothing() -> None:
    for empty in (Certificate(FLOOR), Certificate(FLOOR, others=500, empty=20)):
        assert (empty.kept, empty.lower, empty.lower_now, empty.certified) == (None,) * 3 + (False,)


def test_frames_that_were_computed_whole_agree_by_definition() -> None:
    whole = Certificate(FLOOR, whole=10)
    assert (whole.kept, whole.lower, whole.certified) == (1.0, 1.0, True)
    some = certificate(30, 0.9, whole=300, others=100)
    of_others = some.all_time.lower()
    assert some.kept == pytest.approx(0.975)
    assert some.lower == pytest.approx(0.75 + 0.25 * of_others)
    assert not some.certified
    unaudited = Certificate(FLOOR, whole=990, others=10)
    assert (unaudited.kept, unaudited.lower, unaudited.certified) == (None, 0.99, True)


def test_empty_frames_count_against_the_whole_share() -> None:
    """How many of the other frames are empty is not known: the bound takes all as if none were."""
    some = certificate(30, 0.9, whole=100, others=200, empty=30)
    assert some.kept == pytest.approx(0.95)
    assert some.whole_share == pytest.approx(1 / 3)


def test_it_certifies_and_notices_a_fall() -> None:
    some = certificate(260)
    assert some.certified
    assert some.lower_now == pytest.approx(some.lower, abs=0.02)
    assert some.alarms == 0
    alarms = [some.add(0.8) for _ in range(20)]
    assert alarms.count(True) == some.alarms >= 1
    assert some.lower_now is not None
    assert some.lower_now < some.lower


def test_without_proof_there_is_no_certificate() -> None:
    assert not certificate(100).certified
    assert not certificate(2000, 0.979).certified


def test_one_audit_is_not_several() -> None:
    assert [audits_text(count) for count in (0, 1, 2)] == ["0 audits", "1 audit", "2 audits"]
