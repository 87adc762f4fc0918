#!/usr/bin/env python3
"""What the rolling refresh costs, beside the same run without it and beside computing everything.

    python benchmarks/refresh.py centerface sample:sports2d_demo
    python benchmarks/refresh.py yolov3-tiny vtest.avi --confidence 0.3 --frames 100

Each frame goes through all three in turn, in one thread; what counts is that thread's own processor
time, and multiply-adds, which no other process disturbs. A line of Markdown comes out.
"""

import argparse
import math
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from stillframe.models import zoo
from stillframe.pipeline.inference.backends import ReuseBackend
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import TOLERANCE, Settings
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.studies.sweep.variants import DenseVariant

WARM_UP = 2
DENSE_EVERY = 4  # frames: it takes long and varies little


def timed(work: Callable[[Frame], Any], frame: Frame) -> float:
    """Milliseconds of this thread's processor time."""
    began = time.thread_time()
    work(frame)
    return 1e3 * (time.thread_time() - began)


def done(runner: Runner, before: int) -> float:
    """Multiply-adds of the frame just analysed, as a share of all; 0 where nothing was computed."""
    engine = runner.backend
    assert isinstance(engine, ReuseBackend)
    stats = engine.session.last_stats
    return stats.work if stats is not None and id(stats) != before else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("clip")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--confidence", type=float)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    chosen = parser.parse_args()
    model = zoo.load(chosen.model, confidence=chosen.confidence, allow_sdist=True)
    dense = DenseVariant(model, 1)
    runners = {
        name: Runner(model, Settings("layer", max_age_s=age, threads=1, tolerance=chosen.tolerance))
        for name, age in (("with", None), ("without", math.inf))
    }
    spent: dict[str, list[float]] = {name: [] for name in (*runners, "dense")}
    work: dict[str, list[float]] = {name: [] for name in runners}
    with open_source(chosen.clip, live=False) as source:
        for number, frame in enumerate(islice(source, chosen.frames)):
            if number % DENSE_EVERY == 0:
                spent["dense"].append(timed(dense.play, frame))
            for name in list(runners)[:: 1 if number % 2 else -1]:
                runner = runners[name]
                before = 0
                if isinstance(runner.backend, ReuseBackend):
                    before = id(runner.backend.session.last_stats)
                spent[name].append(timed(runner.step, frame))
                work[name].append(done(runner, before))
    dense.close()
    for runner in runners.values():
        runner.close()
    ms = {name: float(np.mean(values[WARM_UP:] or values)) for name, values in spent.items()}
    share = {name: float(np.mean(values[WARM_UP:])) for name, values in work.items()}
    more, more_ms = share["with"] - share["without"], ms["with"] - ms["without"]
    print("| model, clip | work: of dense / of reuse | processor: of dense / of reuse |")
    print("| --- | --- | --- |")
    print(
        f"| {chosen.model}, {chosen.clip}, {chosen.frames} frames"
        f" | {more:+.1%} / {more / share['without']:+.1%}"
        f" | {more_ms / ms['dense']:+.1%} / {more_ms / ms['without']:+.1%} |"
    )


if __name__ == "__main__":
    main()
