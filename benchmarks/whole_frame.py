#!/usr/bin/env python3
"""What whole-frame reuse costs and saves: the same frames through both ways of `--reuse`.

    python benchmarks/whole_frame.py --model centerface --frames 150

Both ways, off and frame, see each frame one right after the other, in turn first and last; a second
runner with reuse off shows how far two runs of the same thing are apart (`same again`). All runs in
one thread and what is measured is that thread's processor time, so that other work on the
machine counts as little as it can. The answers are checked first: a frame that was computed must
have the very result that it has without reuse. `agreement` is the F1 of carried results against
the frame's own: boxes of one class that overlap by half or more match. Writes a table in Markdown.
"""

import argparse
import datetime
import platform
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.media.open_source import open_source

CLIPS = ("screen", "desk", "plaza", "night", "pan", "cuts", "sports2d_demo", "bikes")
DRAWN = "?size=1280x720&seconds=6"
WARM_UP = 3
OVERLAP = 0.5


@dataclass
class Row:
    """One clip's times, seconds a frame, and what became of its frames."""

    clip: str
    plain_s: list[float] = field(default_factory=list)
    again_s: list[float] = field(default_factory=list)
    reuse_s: list[float] = field(default_factory=list)
    reused: int = 0
    matched: int = 0
    boxes: int = 0

    def cells(self) -> list[str]:
        plain, reuse = (1e3 * float(np.mean(t)) for t in (self.plain_s, self.reuse_s))
        # By frames that both ways computed: what looking for change costs where it finds some.
        cost = [r / p - 1 for p, r in zip(self.plain_s, self.reuse_s, strict=True) if r > p / 2]
        noise = [a / p - 1 for p, a in zip(self.plain_s, self.again_s, strict=True)]
        return [
            self.clip,
            str(len(self.plain_s)),
            f"{plain:.1f}",
            f"{reuse:.1f}",
            f"{plain / reuse:.2f}x",
            f"{self.reused / len(self.plain_s):.0%}",
            f"{np.median(cost):+.1%}" if cost else "-",
            f"{np.median(noise):+.1%}",
            f"{2 * self.matched / self.boxes:.3f}" if self.boxes else "-",
        ]


HEAD = ["clip", "frames", "off, ms", "frame, ms", "speed", "reused", "cost where computed",
        "same again", "agreement"]  # fmt: skip


def measure(model: Model, clip: str, frames: int) -> Row:
    """One clip both ways; AssertionError where an answer is wrong."""
    row = Row(clip)
    spec = f"sample:{clip}" + (DRAWN if clip not in ("sports2d_demo", "bikes") else "")
    plain = Runner(model, Settings(reuse="off", threads=1))
    again = Runner(model, Settings(reuse="off", threads=1))
    reuse = Runner(model, Settings(reuse="frame", threads=1))
    ways = {"plain": plain, "reuse": reuse, "again": again}
    with open_source(spec) as source, plain, again, reuse:
        for count, frame in enumerate(islice(source, frames + WARM_UP)):
            steps = {}
            spent = {}
            for name in sorted(ways, reverse=bool(count % 2)):
                began = time.thread_time()
                steps[name] = ways[name].step(frame)
                spent[name] = time.thread_time() - began
            alone, carried = steps["plain"].result, steps["reuse"].result
            assert isinstance(alone, Detections)
            assert isinstance(carried, Detections)
            if steps["reuse"].kind == "computed":
                assert np.array_equal(alone.xyxy, carried.xyxy), f"{clip}: frame {frame.index}"
                assert np.array_equal(alone.confidence, carried.confidence)
            if count < WARM_UP:
                continue
            row.plain_s.append(spent["plain"])
            row.again_s.append(spent["again"])
            row.reuse_s.append(spent["reuse"])
            if steps["reuse"].kind != "computed":
                row.reused += 1
                row.matched += matched(alone, carried)
                row.boxes += len(alone) + len(carried)
    return row


def matched(some: Detections, others: Detections) -> int:
    """How many boxes of the same class pair up, each at most once, surest first."""
    free = overlaps(some.xyxy, others.xyxy)
    free[some.class_id[:, None] != others.class_id[None]] = 0
    pairs = 0
    while free.size and free.max() >= OVERLAP:
        row, column = np.unravel_index(int(free.argmax()), free.shape)
        free[row], free[:, column] = 0, 0
        pairs += 1
    return pairs


def overlaps(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 4), (m, 4) -> (n, m) intersection over union."""
    least = np.maximum(some[:, None, :2], others[None, :, :2])
    most = np.minimum(some[:, None, 2:], others[None, :, 2:])
    shared = np.clip(most - least, 0, None).prod(2)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(1) for b in (some, others)]
    whole = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(shared / np.maximum(whole, 1e-6), np.float32)


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="centerface")
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--clips", nargs="*", default=CLIPS)
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    model = zoo.load(chosen.model)
    rows = [measure(model, clip, chosen.frames) for clip in chosen.clips]
    today = datetime.datetime.now(tz=datetime.UTC).date()
    command = f"python benchmarks/whole_frame.py --model {chosen.model} --frames {chosen.frames}"
    print(f"`{command}`, {today}, one thread, {processor()}\n")
    for cells in [HEAD, ["---"] * len(HEAD), *(row.cells() for row in rows)]:
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
