"""Does agreement fall with time? A clip to and fro for minutes, under light that drifts.

python benchmarks/long_run.py --clip sample:night --minutes 30

Prints for each part of the run: agreement with computing everything on frames that were
looked at now and then, the mean work, and the greatest age of what a result rested on. Fails where
the last quarter agrees less than the first one by more than `--slack`.
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
from stillframe.pipeline.engine import ReuseEngine
from stillframe.pipeline.frame import Frame
from stillframe.pipeline.quality import agreement_with
from stillframe.pipeline.quality_boxes import soft_loss
from stillframe.pipeline.runner import Runner, Settings
from stillframe.pipeline.source import open_source
from stillframe.reuse.profile import Profile

PARTS = 12


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
    profile = Profile.read(chosen.profile) if chosen.profile else None
    settings = Settings(
        reuse="layer", threads=1, tolerance=chosen.tolerance, max_age_s=chosen.max_age,
        profile=profile,
    )  # fmt: skip
    count = max(PARTS, round(chosen.minutes * 60 * chosen.fps))
    checked = max(1, count // chosen.checks)
    print(f"{chosen.model} on {chosen.clip}, {count} frames at {chosen.fps:g} a second, "
          f"light +-{chosen.drift:g}, greatest age {settings.age_limit_s:g} s")  # fmt: skip
    print("minute  agreement    loss    work  oldest s")
    told: list[float] = []
    with Runner(model, settings) as runner, Runner(model, Settings(reuse="off")) as whole:
        at = 0
        stream = frames(images, chosen.fps, chosen.drift, count)
        for part in range(PARTS):
            end = (part + 1) * count // PARTS
            judge: Any = None
            works, oldest, lost, at_stake = [], 0.0, 0.0, 0.0
            for frame in islice(stream, end - at):
                step = runner.step(frame)
                engine = runner.engine
                assert isinstance(engine, ReuseEngine)
                stats = engine.session.last_stats
                works.append(stats.work if step.kind == "computed" and stats else 0.0)
                oldest = max(oldest, step.result.evidence.age_s)
                if frame.index % checked == 0:
                    dense = whole.step(frame).result
                    judge = judge or agreement_with(dense)
                    judge.add(step.result, dense)
                    if isinstance(dense, Detections) and isinstance(step.result, Detections):
                        losses = soft_loss(step.result, dense, model.form.confidence)
                        lost, at_stake = lost + losses[0], at_stake + losses[1]
            at = end
            told.append(judge.value if judge else 1.0)
            print(f"{at / chosen.fps / 60:6.1f}  {told[-1]:9.4f}  {lost / (at_stake or 1):6.4f}"
                  f"  {np.mean(works):6.4f}  {oldest:8.1f}", flush=True)  # fmt: skip
    quarter = PARTS // 4
    first, last = (float(np.mean(each)) for each in (told[:quarter], told[-quarter:]))
    print(f"first quarter {first:.4f}, last quarter {last:.4f}")
    if last < first - chosen.slack:
        raise SystemExit("agreement fell with time")


def raw(outputs: Sequence[NDArray[Any]], view: View, form: Form) -> Tensors:
    """A decoder that leaves outputs as they are."""
    return Tensors({str(number): np.array(values) for number, values in enumerate(outputs)})


def frames(
    images: list[NDArray[np.uint8]], fps: float, drift: float, count: int
) -> Iterator[Frame]:
    """The pictures to and fro, their light going up and down in five minutes."""
    base = Fraction(1, 1000)
    turn = [*range(len(images)), *range(len(images) - 2, 0, -1)]
    for index in range(count):
        time_s = index / fps
        light = round(drift * math.sin(2 * math.pi * time_s / 300))
        image = images[turn[index % len(turn)]].astype(np.int16) + light
        shown = np.clip(image, 0, 255).astype(np.uint8)
        yield Frame(shown, index, time_s, round(time_s * 1000), base)


if __name__ == "__main__":
    main()
