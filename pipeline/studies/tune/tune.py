"""From clips to a profile: search on one part of the frames, judge the outcome on the other.

tuned = tune("centerface", ["yard.mp4"], quality=0.98)
tuned.profile.write("centerface.json")
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import stillframe
from stillframe.errors import QualityError, UsageError
from stillframe.models.model import Model
from stillframe.pipeline.inference.frame_skipping import Between, FrameSkipping
from stillframe.pipeline.inference.profile import Part, TuningProfile
from stillframe.pipeline.quality.agreement import MOST_PSNR
from stillframe.pipeline.studies.tune.passage import SHARES, Passage, Role, passages
from stillframe.pipeline.studies.tune.search import CLOSER, MOST, Search, Stopped, Trial, ladder
from stillframe.pipeline.studies.tune.trial import Outcome, TrialSetting, TuneBench
from stillframe.reuse.frontend.fingerprint import fingerprint
from stillframe.reuse.gate.gate_settings import GateSettings

FRAMES = 160
STEPS = 22  # by which shares are scaled down, at most, until they hold on the frames of role check
STEP = 0.9
JITTER = 0.1  # of a frame's time
LEAST_RUNS = 2  # of the network in a window, the first frame among them; else skipping is not tried
TUNING: dict[Role, float] = {"search": 0.65, "check": 0.35}
JUDGING: dict[Role, float] = {"held out": 1.0}
DIGITS = 5


@dataclass(frozen=True, slots=True)
class Tuned:
    """The outcome of a search."""

    profile: TuningProfile
    ended: bool
    """By the user, before the search was over."""
    tries: int
    """How many settings were tried."""
    uniform: bool
    """Whether a single tolerance for all layers agrees well enough too."""
    asked: float
    """The quality that was asked for; the profile's target is lower where it cannot be held."""
    repeatability: dict[str, float | int | None]
    """Of the dense network, see `RepeatMeter.figures`."""
    doubts: tuple[str, ...] = ()
    """Why the clips tell little, in words."""

    @property
    def held_out(self) -> tuple[Part, ...]:
        return tuple(part for part in self.profile.parts if part.role == "held out")

    @property
    def gain(self) -> float | None:
        """Cost of the best single tolerance over that of the profile, on the frames held out."""
        ratios = [p.uniform_cost / max(p.cost, 1e-9) for p in self.held_out if p.uniform_cost]
        return sum(ratios) / len(ratios) if ratios else None


def tune(
    model: Model,
    clips: Sequence[str],
    *,
    quality: float | None = None,
    held_out: Sequence[str] = (),
    frames: int = FRAMES,
    threads: int = 1,
    on_trial: Callable[[Trial], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Search for the least cost at an agreement of at least `quality`.

    quality: what is kept, 0..1; of pictures above 1 in dB; None: 0.98. held_out: clips to judge
    on; without any, the last part of each clip is. on_trial: takes each trial. stop: asked before
    each trial; the best until then is used. The outcome is scaled down until it holds on frames
    that the search did not see.

    No more is asked for than the network's repeatability, unless that is 1, which is exactness.

    Raises QualityError where no setting agrees well enough or the clips tell nothing, SourceError
    for clips that are too short, UsageError for a model without layers to tune.
    """
    if not clips:
        raise UsageError("expected a clip to tune on, got none")
    parts = [
        part
        for clip in clips
        for part in passages(clip, model, frames, TUNING if held_out else SHARES)
    ]
    for clip in held_out:
        parts += passages(clip, model, frames, JUDGING)
    searching = [part for part in parts if part.role == "search"]
    checking = [part for part in parts if part.role == "check"]
    bench = TuneBench(model, parts, threads)
    try:
        least = bench.floor if quality is None else quality
        bench.decibels = bench.kind == "psnr" and least > 1
        top = MOST_PSNR if bench.decibels else 1.0
        if least > top:
            raise UsageError(f"quality: expected at most {top:g} ({bench.kind}), got {least:g}")
        lacks = bench.doubts(searching)
        if any(each.hopeless for each in lacks):
            reasons = "; ".join(each.text for each in lacks)
            raise QualityError(f"{model.name}: nothing can be tuned on these clips: {reasons}")
        repeated, asked = bench.repeatability(searching), least
        ceiling = repeated["strict" if bench.decibels else "kept"]
        if ceiling is not None and least != 1:
            least = min(least, ceiling)

        def evaluate(setting: TrialSetting) -> Outcome:
            if stop():
                raise Stopped
            return bench.outcome(setting, searching)

        closer = CLOSER if bench.kind == "f1" else 0.0  # the others do not jump
        between: tuple[Between, ...] = ("follow", "keep") if bench.kind == "f1" else ("keep",)
        shortest = min(end - first for part in searching for first, end in part.windows)
        search = Search(
            evaluate, least, top, closer, between, max(1, shortest // LEAST_RUNS), on_trial
        )
        search.run(bench.spreads(searching[0]), bench.layers)
        nothing = TrialSetting(dict.fromkeys(bench.layers, 0.0))
        none = bench.outcome(nothing, checking)
        seen = [*searching, *checking]

        def scaled_down(trial: Trial | None, most_loss: float = math.inf) -> TrialSetting | None:
            """Scaled until it agrees on the frames of role check too, and loses no more on all; if
            need be with the default gate."""
            if trial is None:
                return None
            for gate in (trial.setting.gate, GateSettings()):
                setting = replace(trial.setting, gate=gate)
                for _ in range(STEPS):
                    if holds(setting, most_loss):
                        return setting
                    setting = setting.scaled(STEP)
            return None

        def holds(setting: TrialSetting, most_loss: float) -> bool:
            return search.holds(bench.outcome(setting, checking), none) and (
                most_loss == math.inf or bench.outcome(setting, seen).loss <= most_loss
            )

        uniform = scaled_down(search.uniform)
        plain = None if uniform is None else bench.outcome(uniform, seen)
        most_loss = search.fair_loss(bench.outcome(nothing, seen), plain)
        # the best may be so by chance: take the cheapest that holds on other frames too
        rungs = (each.setting for each in ([] if stop() else ladder(search.good)))
        climbed = next((each for each in rungs if holds(each, most_loss)), None)
        descended = scaled_down(search.descended or search.best, most_loss)
        good = [each for each in (climbed, descended, uniform) if each is not None]
        if not good:
            raise QualityError(_refusal(model.name, least, search))
        best = min(good, key=lambda each: bench.outcome(each, seen).cost)
        shares = {name: _short(share) for name, share in best.shares.items()}
        best = replace(best, shares=shares, frame_skipping=_timed(best.frame_skipping, parts))
        profile = TuningProfile(
            stillframe=stillframe.__version__,
            model=model.name,
            fingerprint=fingerprint(model.path),
            share=_least(best),
            layers=dict(best.shares),
            gate=best.gate,
            frame_skipping=best.frame_skipping,
            target=least,
            parts=tuple(_part(bench, each, best, uniform) for each in parts),
        )
        texts = [each.text for each in lacks]
        if uniform is not None and min(uniform.shares.values()) >= MOST:
            texts.append(f"even a tolerance of {MOST:g} in every layer agrees: too little happens")
        return Tuned(
            profile, stop(), len(search.trials), uniform is not None, asked, repeated, tuple(texts)
        )
    finally:
        bench.close()


def _refusal(name: str, least: float, search: Search) -> str:
    text = f"{name}: no tolerance agrees to {least:g}"
    if search.best is not None:
        text += ", on the frames to check on"
    elif search.trials:
        nearest = max(min(each.outcome.quality, each.outcome.steady) for each in search.trials)
        text += f": the best of {len(search.trials)} settings agrees to {nearest:.4g}"
    return f"{text}; use `--reuse exact`, give more frames, or ask for less"


def _part(
    bench: TuneBench, passage: Passage, best: TrialSetting, uniform: TrialSetting | None
) -> Part:
    outcome = bench.outcome(best, [passage])
    plain = None if uniform is None else bench.outcome(uniform, [passage])
    return Part(
        clip=passage.clip,
        first=passage.windows[0][0],
        windows=len(passage.windows),
        frames=len(passage.pictures),
        role=passage.role,
        kind=bench.kind,
        quality=round(outcome.quality, DIGITS),
        strict=round(outcome.strict, DIGITS) if math.isfinite(outcome.strict) else None,
        cost=round(outcome.cost, DIGITS),
        work=round(outcome.work, DIGITS),
        loss=round(outcome.loss, DIGITS),
        uniform_cost=None if plain is None else round(plain.cost, DIGITS),
        uniform_work=None if plain is None else round(plain.work, DIGITS),
        uniform_quality=None if plain is None else round(plain.quality, DIGITS),
    )


def _least(setting: TrialSetting) -> float:
    """The share of layers that tuning did not know, as a smaller memory budget may bring."""
    return min(setting.shares.values())


def _timed(skipping: FrameSkipping, parts: Sequence[Passage]) -> FrameSkipping:
    """With the longest time for which tuning skipped frames: another camera may be slower."""
    if skipping.every == 1:
        return FrameSkipping()
    within_s = (skipping.every - 1) * min(part.frame_s for part in parts) * (1 + JITTER)
    return replace(skipping, within_s=float(f"{within_s:.3g}"))


def _short(share: float) -> float:
    return float(f"{share:.4g}")
