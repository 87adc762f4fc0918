#!/usr/bin/env python3
"""What the change gate lets through, what it leaves behind, and what it takes.

    python benchmarks/gate.py --folder ~/clips --frames 100

Each clip is resized to the size that a model would see. For every gate, as means over the frames:
`input`, the share of the picture that is new; `grown`, the same after 18 pixels of growth, roughly
what a deep layer would see; the PSNR of the reference to the frame; `missed`, the share of places
(in 1/10 000) whose mean over 5x5 pixels is wrong by more than ten grey levels; frames that are
wholly unchanged; milliseconds a frame on one core, the median. The answers are checked first: each
frame's mask and reference must keep the promise of docs/explanation/gate.md. Times are then taken
again, without the checks. Writes a table in Markdown. Clips are read from --folder where they lie
there by file name, else fetched as samples. --pictures DIR keeps some frames with what is new in
red.

--agreement N instead runs a whole network on every N-th frame and on each gate's reference, and
tells how far the results agree: what a network loses by what the gate leaves behind.
"""

import argparse
import datetime
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.errors import StillframeError
from stillframe.models import zoo
from stillframe.models.results import Result
from stillframe.pipeline.inference.backends import OnnxRuntimeBackend
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.quality.agreement import agreement_with
from stillframe.reuse.gate.change_gate import ChangeGate
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.kernels.change_gate import PATCH_SHARE, SIDE

Bytes = NDArray[np.uint8]

CLIPS: dict[str, tuple[str, tuple[int, int]]] = {
    "vtest": ("vtest.avi", (576, 768)),
    "sports2d_demo": ("sports2d_demo.mp4", (544, 960)),
    "pose2sim_cam01": ("pose2sim_cam01.mp4", (960, 544)),
    "blender_screen": ("blender_screen.mp4", (544, 960)),
    "bikes": ("bikes.mp4", (288, 640)),
}
"""name: file, and the (height, width) that a model would see."""

MODELS = {
    "vtest": "yolov3-tiny",
    "sports2d_demo": "centerface",
    "pose2sim_cam01": "centerface",
    "blender_screen": "ppocr-det",
    "bikes": "yolov3-tiny",
}
"""Which network sees a clip for --agreement."""

SQUARE = (640, 640)
GROWTH = 18
WRONG = 10


class Threshold:
    """The plain gate: difference beyond a threshold, opened or not, grown or not."""

    def __init__(self, threshold: int, opened: bool, margin: int = 0) -> None:
        self.threshold, self.opened, self.margin = threshold, opened, margin
        self.reference: Bytes = np.zeros((0, 0, 3), np.uint8)

    def step(self, image: Bytes) -> Bytes:
        if self.reference.shape != image.shape:
            self.reference = image.copy()
            return np.ones(image.shape[:2], np.uint8)
        over = cv2.absdiff(image, self.reference).max(axis=2) > self.threshold
        mask = np.asarray(over, np.uint8)
        if self.opened:
            mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, square(3)), np.uint8)
        if self.margin:
            mask = np.asarray(cv2.dilate(mask, square(2 * self.margin + 1)), np.uint8)
        self.reference[mask > 0] = image[mask > 0]
        return mask


class Ours:
    """The change gate; `check` says whether its promise was kept by the last step."""

    def __init__(self, settings: GateSettings, shape: tuple[int, ...]) -> None:
        self.gate = ChangeGate(shape[0], shape[1], settings)
        self.before = self.gate.reference.copy()

    @property
    def reference(self) -> Bytes:
        return self.gate.reference

    def step(self, image: Bytes) -> Bytes:
        return self.gate.step(image).mask

    def check(self, image: Bytes, mask: Bytes) -> None:
        """AssertionError where the mask or the reference is wrong."""
        gate, old = self.gate, mask == 0
        assert np.array_equal(gate.reference[~old], image[~old]), "new pixels not taken over"
        assert np.array_equal(gate.reference[old], self.before[old]), "old pixels taken over"
        if not gate.settings.exact:
            over = cv2.absdiff(image, gate.reference).max(axis=2) > gate.limits
            left = cv2.erode(over.astype(np.uint8), square(3), borderValue=0)
            assert not np.any(left), "a 3x3 square beyond its limits was left"
            sums = cv2.blur(
                image.astype(np.float32) - self.before, (SIDE, SIDE), borderType=cv2.BORDER_CONSTANT
            )
            wide = np.abs(sums).max(axis=2) > gate.limits * PATCH_SHARE + 1e-3
            assert not np.any(wide & old), "a 5x5 patch beyond its limit was left"
        np.copyto(self.before, gate.reference)


GATES: dict[str, Callable[[tuple[int, ...]], Ours | Threshold]] = {
    "difference > 4": lambda shape: Threshold(4, False),
    "difference > 8": lambda shape: Threshold(8, False),
    "difference > 8, opened": lambda shape: Threshold(8, True),
    "... and grown by 4": lambda shape: Threshold(8, True, 4),
    "change gate": lambda shape: Ours(GateSettings(), shape),
    "change gate, exact": lambda shape: Ours(GateSettings(exact=True), shape),
}


def square(side: int) -> Bytes:
    return np.ones((side, side), np.uint8)


@dataclass
class Row:
    """What one gate did on one clip, added up over the frames."""

    frames: int = 0
    new: float = 0.0
    grown: float = 0.0
    error: float = 0.0
    missed: float = 0.0
    unchanged: int = 0
    spent_s: list[float] = field(default_factory=list)

    def add(self, image: Bytes, mask: Bytes, reference: Bytes) -> None:
        left = image.astype(np.float32) - reference
        self.frames += 1
        self.new += float(mask.mean())
        self.grown += float(np.mean(cv2.dilate(mask, square(2 * GROWTH + 1))))
        self.error += float(np.square(left).mean())
        self.missed += float((np.abs(cv2.blur(left, (5, 5))).max(axis=2) > WRONG).mean())
        self.unchanged += not mask.any()

    def cells(self) -> list[str]:
        error = self.error / self.frames
        return [
            f"{self.new / self.frames:.3f}",
            f"{self.grown / self.frames:.3f}",
            f"{10 * np.log10(255**2 / error):.1f}" if error else "exact",
            f"{self.missed / self.frames * 1e4:.1f}",
            f"{self.unchanged / self.frames:.0%}",
            f"{np.median(self.spent_s) * 1e3:.2f}",
        ]


HEAD = ["clip", "size", "gate", "input", "grown", "PSNR, dB", "missed", "unchanged", "ms"]


def spec_of(clip: str, folder: Path | None) -> str:
    path = folder / CLIPS[clip][0] if folder else Path(CLIPS[clip][0])
    return str(path) if path.exists() else f"sample:{clip}"


def pictures(spec: str, size: tuple[int, int], count: int) -> list[Bytes]:
    """The first frames of a clip at (height, width)."""
    with open_source(spec) as source:
        return [
            np.asarray(cv2.resize(frame.image, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
            for frame in islice(source, count)
        ]


def measure(gate: str, images: list[Bytes], keep: Path | None = None) -> Row:
    """One gate on one clip, first checked and then timed. The first frame is not counted."""
    row = Row()
    checked, timed = GATES[gate](images[0].shape), GATES[gate](images[0].shape)
    for index, image in enumerate(images):
        mask = checked.step(image)
        if isinstance(checked, Ours):
            checked.check(image, mask)
        if index:
            row.add(image, mask, checked.reference)
        if keep is not None and index % 30 == 29:
            red = image.copy()
            red[mask > 0] = image[mask > 0] // 2 + np.array([127, 0, 0], np.uint8)
            cv2.imwrite(f"{keep}-{index:03}.png", np.hstack([image, red])[..., ::-1])
    for index, image in enumerate(images):
        began = time.perf_counter()
        timed.step(image)
        if index:
            row.spent_s.append(time.perf_counter() - began)
    return row


def speeds(images: list[Bytes]) -> list[tuple[str, float]]:
    """Median milliseconds of the gate at 640x640, by what it meets."""
    square_images = [np.asarray(cv2.resize(each, SQUARE), np.uint8) for each in images]
    rng = np.random.default_rng(1)
    scenes = [rng.integers(0, 256, (*SQUARE, 3), dtype=np.uint8) for _ in range(3)]
    noisy = [
        np.clip(square_images[0] + rng.normal(0, 3, (*SQUARE, 3)), 0, 255).astype(np.uint8)
        for _ in range(8)
    ]
    cases = {
        "a frame that equals the reference": [square_images[0]] * 40,
        "noise and nothing else": noisy * 8,
        "the clip": square_images,
        "another picture each frame": scenes * 15,
    }
    timings = []
    for name, frames in cases.items():
        gate, spent = ChangeGate(*SQUARE), []
        for image in frames:
            began = time.perf_counter()
            gate.step(image)
            spent.append(time.perf_counter() - began)
        timings.append((name, float(np.median(spent[len(spent) // 4 :])) * 1e3))
    return timings


def agree(clip: str, spec: str, gates: list[str], count: int, every: int) -> list[list[str]]:
    """For each gate: how far results on its reference agree with those on the frame."""
    with open_source(spec) as source:
        model = zoo.load(MODELS[clip]).for_source(source.info.height, source.info.width)
        frames = [model.fit(frame.image) for frame in islice(source, count)]
    with OnnxRuntimeBackend(model.path) as engine:

        def result(image: Bytes, index: int) -> Result:
            return model.decode(engine.run(model.feed(image), None), frames[index][1])

        expected = {i: result(frames[i][0], i) for i in range(every, len(frames), every)}
        rows = []
        for name in gates:
            gate, measured = GATES[name](frames[0][0].shape), agreement_with(expected[every])
            for index, (image, _) in enumerate(frames):
                gate.step(image)
                if index in expected:
                    measured.add(result(gate.reference, index), expected[index])
            rows.append([clip, model.name, name, f"{measured.value:.3f} {measured.kind}"])
    return rows


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="where clips lie by their file names")
    parser.add_argument("--clips", nargs="+", choices=CLIPS, default=list(CLIPS))
    parser.add_argument("--gates", nargs="+", choices=GATES, default=list(GATES))
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--pictures", type=Path, help="keep every thirtieth frame here")
    parser.add_argument("--agreement", type=int, metavar="N", help="run networks, every N frames")
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    machine, python = platform.processor() or platform.machine(), platform.python_version()
    print(f"{machine}, Python {python}, {datetime.date.today()}, {chosen.frames} frames\n")
    if chosen.agreement:
        head = ["clip", "network", "gate", "agreement"]
        print(line(head), line(["---"] * len(head)), sep="\n")
        for clip in chosen.clips:
            spec = spec_of(clip, chosen.folder)
            for cells in agree(clip, spec, chosen.gates, chosen.frames, chosen.agreement):
                print(line(cells), flush=True)
        return
    print(line(HEAD), line(["---"] * len(HEAD)), sep="\n")
    first: list[Bytes] = []
    for clip in chosen.clips:
        size = CLIPS[clip][1]
        images = pictures(spec_of(clip, chosen.folder), size, chosen.frames)
        first = first or images
        for gate in chosen.gates:
            keep = None
            if chosen.pictures and gate == "change gate":
                chosen.pictures.mkdir(parents=True, exist_ok=True)
                keep = chosen.pictures / clip
            row = measure(gate, images, keep)
            print(line([clip, f"{size[0]}x{size[1]}", gate, *row.cells()]), flush=True)
    print("\n" + line([f"640x640, {chosen.clips[0]}", "ms"]), line(["---"] * 2), sep="\n")
    for name, spent_ms in speeds(first):
        print(line([name, f"{spent_ms:.2f}"]))


if __name__ == "__main__":
    try:
        main()
    except StillframeError as error:
        raise SystemExit(f"{error}") from None
