#!/usr/bin/env python3
"""Draw the picture at the top of README: two frames with what was treated as new tinted in them.

    python docs/images/make.py

Both clips are drawn by stillframe itself, so that the picture belongs to it.
"""

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.models import zoo
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.sinks import overlay

TARGET = Path(__file__).with_name("changed.jpg")
CLIPS = {"plaza": 95, "desk": 95}  # name -> the frame to show
WIDTH, GAP, QUALITY = 720, 8, 84


def panel(name: str, number: int) -> NDArray[np.uint8]:
    runner = Runner(zoo.load("centerface"), Settings(max_age_s=float("inf")))
    with open_source(f"sample:{name}?size=1280x720&seconds=6") as source, runner:
        for frame in islice(source, number + 1):
            step = runner.step(frame)
    drawn = overlay.render_step(step, "changed")
    size = WIDTH, WIDTH * drawn.shape[0] // drawn.shape[1]
    return np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), np.uint8)


def main() -> None:
    panels = [panel(name, number) for name, number in CLIPS.items()]
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    picture = np.hstack([panels[0], gap, panels[1]])
    quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    cv2.imwrite(str(TARGET), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
