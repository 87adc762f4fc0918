"""Does agreement fall with time? A clip to and fro for minutes, under light that drifts.

python benchmarks/long_run.py --clip sample:night --minutes 30

The light goes up and down while the clip plays to and fro a whole number of times: a cycle. So each
cycle shows the very same frames, and agreement with computing everything is asked at the same
places of each; what differs between cycles is only how long the run has lasted. Prints for each
cycle that agreement, the smooth loss of boxes, how many boxes there were, the mean work, and the
greatest age of what a result rested on. Fails where the last cycle agrees less than the first one
by more than `--slack`, and, of boxes, where it also loses more: a few dozen boxes that hover at the
limit move F1 by more than that.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models import zoo
from stillframe.models.model import Form, View
from stillframe.models.results import Detections, Tensors
from stillframe.pipeline.inference.backends import ReuseBackend
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.quality.agreement import BoxAgreement, agreement_with
from stillframe.pipeline.quality.detection import soft_loss

LIGHT_S = 300.0  # about so long is a cycle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="centerface")
    parser.add_argument("--clip", default="sample:night")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the stream")
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--frames", type=int, default=120, help="of the clip, to and fro")
    parser.add_argument("--drift", type=float, default=12.0, help="grey levels, up and down")
    parser.add_argument("--tolerance", type=float, default=0.05)
    parser.add_argument("--profile")
    parser.add_argument("--confidence", type=float)
    parser.add_argument("--raw", action="store_true", help="compare outputs, not boxes")
    parser.add_argument("--max-age", type=float, help="seconds; 0 or inf: no refresh")
    parser.add_argument("--checks", type=int, default=240, help="frames that are compared")
    parser.add_argument("--slack", type=float, default=0.02)
    chosen = parser.parse_args()

    model = zoo.load(chosen.model, confidence=chosen.confidence, allow_sdist=True)
    if chosen.raw:
        model = replace(model, form=replace(model.form, task="tensors", decoder=raw))
    with open_source(chosen.clip, live=False) as source:
        images = [frame.image for frame in islice(source, chosen.frames)]
    model = model.for_source(*images[0].shape[:2])
    images = [np.array(model.fit(image)[0]) for image in images]
    profile = TuningProfile.read(chosen.profile) if chosen.profile else None
    settings = Settings(
        reuse="layer", threads=1, tolerance=chosen.tolerance, max_age_s=chosen.max_age,
        profile=profile,
    )  # fmt: skip
    turn = [*range(len(images)), *range(len(images) - 2, 0, -1)]
    cycle = max(1, round(LIGHT_S * chosen.fps / len(turn))) * len(turn)
    cycles = max(2, round(chosen.minutes * 60 * chosen.fps / cycle))
    checked = set(np.linspace(0, cycle, max(1, chosen.checks // cycles), endpoint=False, dtype=int))
    print(f"{chosen.model} on {chosen.clip}, {cycles} cycles of {cycle} frames at {chosen.fps:g} a "
          f"second, light +-{chosen.drift:g}, greatest age {settings.age_limit_s:g} s, "
          f"{len(checked)} frames of each compared")  # fmt: skip
    print("minute  agreement    loss  boxes    work  oldest s")
    outcomes: list[tuple[float, float]] = []
    with Runner(model, settings) as runner, Runner(model, Settings(reuse="off")) as whole:
        stream = frames(images, turn, chosen.fps, chosen.drift, cycle, cycles)
        for number in range(cycles):
            judge: Any = None
            works, oldest, lost, at_stake = [], 0.0, 0.0, 0.0
            for frame in islice(stream, cycle):
                step = runner.step(frame)
                engine = runner.backend
                assert isinstance(engine, ReuseBackend)
                stats = engine.session.last_stats
                works.append(stats.work if step.kind == "computed" and stats else 0.0)
                oldest = max(oldest, step.result.evidence.age_s)
                if frame.index and frame.index % cycle in checked:
                    dense = whole.step(frame).result
                    judge = judge or agreement_with(dense)
                    judge.add(step.result, dense)
                    if isinstance(dense, Detections) and isinstance(step.result, Detections):
                        losses = soft_loss(step.result, dense, model.form.confidence)
                        lost, at_stake = lost + losses[0], at_stake + losses[1]
            outcomes.append((judge.value if judge else 1.0, lost / (at_stake or 1)))
            boxes = judge.matched + judge.missed if isinstance(judge, BoxAgreement) else 0
            print(f"{(number + 1) * cycle / chosen.fps / 60:6.1f}  {outcomes[-1][0]:9.4f}  "
                  f"{outcomes[-1][1]:6.4f}  {boxes:5d}  {np.mean(works):6.4f}  {oldest:8.1f}",
                  flush=True)  # fmt: skip
    (first, first_loss), (last, last_loss) = outcomes[0], outcomes[-1]
    print(f"first cycle {first:.4f}, last cycle {last:.4f}")
    loses = last_loss > first_loss + chosen.slack or not any(loss for _, loss in outcomes)
    if last < first - chosen.slack and loses:
        raise SystemExit("agreement fell with time")


def raw(outputs: Sequence[NDArray[Any]], view: View, form: Form) -> Tensors:
    """A decoder that leaves outputs as they are."""
    return Tensors({str(number): np.array(values) for number, values in enumerate(outputs)})


def frames(
    images: list[NDArray[np.uint8]],
    turn: Sequence[int],
    fps: float,
    drift: float,
    cycle: int,
    cycles: int,
) -> Iterator[Frame]:
    """The pictures in the order of `turn`, again and again, their light going up and down once in
    each cycle."""
    base = Fraction(1, 1000)
    for index in range(cycle * cycles):
        time_s = index / fps
        light = round(drift * math.sin(2 * math.pi * (index % cycle) / cycle))
        image = images[turn[index % len(turn)]].astype(np.int16) + light
        shown = np.clip(image, 0, 255).astype(np.uint8)
        yield Frame(shown, index, time_s, round(time_s * 1000), base)


if __name__ == "__main__":
    main()
