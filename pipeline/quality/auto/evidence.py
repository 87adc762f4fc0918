"""What is known of the quality that a setting costs: loss, 1 - kept, estimated from samples.

An estimate starts from a prior, which counts as several samples, and forgets: the weight of a
sample halves in a given time of the stream. So a setting that once failed comes back to its prior,
and is tried again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stillframe.models.model import Task

SKIPPED_PRIOR_SAMPLES, TOLERANCE_PRIOR_SAMPLES = 4.0, 10.0
"""How many samples a prior counts as. Skipping has a sample for each computed frame, tolerances for
each audit only: a few good ones by chance must not raise the tolerance."""
SKIPPED_HALF_LIVES_S = (15.0, 2.0)
"""Of samples of skipped frames. The worse of the two estimates counts: what begins to move is seen
at once by the second, and what was lost before is not forgotten at once by the first."""
TOLERANCE_HALF_LIFE_S = 90.0
"""Of samples of tolerances: only audits give them."""
LEAST_SAMPLES = 3.0
"""Weight of the samples that a distance needs before frames are skipped that far."""
MOST_GROWTH = 3.0
"""A tolerance is thought to lose at most so many times what the next smaller one does."""

TOLERANCES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""What the reuse engine may run at near what the last result shows, as shares of a layer's root
mean square; elsewhere at so many times that as `controller.FAR` says."""
TOLERANCE_LOSS: Mapping[float, float] = {
    0.01: 0.0005,
    0.02: 0.001,
    0.05: 0.003,
    0.1: 0.005,
    0.2: 0.02,
}
"""Prior: loss of frames that are computed with a tolerance."""
FAR_LOSS: Mapping[float, float] = {
    0.01: 0.0005,
    0.02: 0.001,
    0.05: 0.003,
    0.1: 0.009,
    0.2: 0.027,
}
"""The same of detectors, for which the tolerance is larger where nothing was found: 0.05 loses what
0.1 everywhere does."""
SKIPPED_LOSS: Mapping[Task, float] = {
    "detection": 0.005,
    "segmentation": 0.01,
    "classification": 0.005,
    "depth": 0.03,
    "image": 0.03,
    "tensors": 0.05,
}
"""Prior: loss of a frame that is skipped, for each frame since the last computed one. Boxes follow
the picture, the other results stay where they were."""
MOST_EVERY = 8
"""The network runs at least on every so manieth frame that changes."""


@dataclass(slots=True)
class LossEstimate:
    """The mean loss of one setting, of samples that fade."""

    half_life_s: float
    prior_samples: float
    """How many samples the prior counts as."""
    weight: float = 0.0
    """Of the samples, each 1 when it came."""
    total: float = 0.0
    """Weighted sum of the losses."""
    time_s: float = 0.0
    """To which time the weights have faded."""

    def add(self, loss: float, time_s: float, weight: float = 1.0) -> None:
        """One sample, 0..1."""
        self._fade(time_s)
        self.weight += weight
        self.total += weight * loss

    def value(self, prior: float, time_s: float) -> float:
        """The mean, drawn towards the prior where there are few samples."""
        self._fade(time_s)
        samples = self.prior_samples
        return (samples * prior + self.total) / (samples + self.weight)

    def _fade(self, time_s: float) -> None:
        if time_s > self.time_s:
            factor = float(0.5 ** ((time_s - self.time_s) / self.half_life_s))
            self.weight *= factor
            self.total *= factor
            self.time_s = time_s


@dataclass(slots=True)
class LossEvidence:
    """The losses of all settings of one model on one stream."""

    task: Task
    """What the model does, which sets the priors."""
    _skipped: dict[int, tuple[LossEstimate, ...]] = field(default_factory=dict)
    """Distance -> loss of a frame so many frames after the last computed one, for each of
    SKIPPED_HALF_LIVES_S."""
    _tolerances: dict[float, LossEstimate] = field(default_factory=dict)

    def add_skipped(self, distance: int, loss: float, time_s: float) -> None:
        """What skipping a frame cost, or would have cost."""
        if distance not in self._skipped:
            self._skipped[distance] = tuple(
                LossEstimate(half_life_s, SKIPPED_PRIOR_SAMPLES)
                for half_life_s in SKIPPED_HALF_LIVES_S
            )
        for estimate in self._skipped[distance]:
            estimate.add(loss, time_s)

    def add_tolerance(self, tolerance: float, loss: float, time_s: float) -> None:
        """What a frame that was computed with the tolerance lost, by an audit."""
        estimate = self._tolerances.setdefault(
            tolerance, LossEstimate(TOLERANCE_HALF_LIFE_S, TOLERANCE_PRIOR_SAMPLES)
        )
        estimate.add(loss, time_s)

    def of_skipping(self, every: int, time_s: float) -> float:
        """Mean loss over the frames of which the network runs on every n-th."""
        return sum(self._at(k, time_s) for k in range(1, every)) / every

    def most_every(self, time_s: float) -> int:
        """Frames are skipped only as far as samples reach."""
        reach = 0
        for distance in range(1, MOST_EVERY):
            further = (self._skipped[k][0] for k in self._skipped if k >= distance)
            if sum(_faded(each, time_s) for each in further) < LEAST_SAMPLES:
                break
            reach = distance
        return reach + 1

    def of_tolerance(self, tolerance: float | None, time_s: float) -> float:
        """Loss of frames computed with the tolerance; None: computed whole, which loses nothing.

        A larger tolerance loses no less than a smaller one, so samples of one tell of the others.
        """
        if tolerance is None:
            return 0.0
        priors = FAR_LOSS if self.task == "detection" else TOLERANCE_LOSS
        losses: list[float] = []
        for each in TOLERANCES:
            prior = priors[each]
            if losses:
                prior = max(losses[-1], min(prior, MOST_GROWTH * losses[-1]))
            estimate = self._tolerances.get(each)
            losses.append(prior if estimate is None else estimate.value(prior, time_s))
        at = TOLERANCES.index(tolerance)
        return min(losses[at:])

    def _at(self, distance: int, time_s: float) -> float:
        """Loss of a frame at the distance: no more than further away.

        A distance that is not sampled now, since frames are skipped further, comes back to its
        prior. That is no less than what further ones imply: things move, so that loss grows by no
        more than the square of the distance.
        """
        slope = SKIPPED_LOSS[self.task]
        further = {
            k: max(each.value(slope * k, time_s) for each in estimates)
            for k, estimates in self._skipped.items()
            if k > distance
        }
        prior = max(
            (loss * (distance / k) ** 2 for k, loss in further.items()), default=slope * distance
        )
        prior = max(prior, slope * distance)
        own = self._skipped.get(distance, ())
        loss = max((each.value(prior, time_s) for each in own), default=prior)
        return min([loss, *further.values()])


def _faded(estimate: LossEstimate, time_s: float) -> float:
    age_s = max(0.0, time_s - estimate.time_s)
    return float(estimate.weight * 0.5 ** (age_s / estimate.half_life_s))
