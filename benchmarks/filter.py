#!/usr/bin/env python3
"""What the stream filter costs around its model, and the anonymiser beside the `deface` command.

    python benchmarks/filter.py overhead --frames 200
    python benchmarks/filter.py deface --deface /path/to/venv/bin/deface --frames 300

overhead: the way of a frame without the model, that is from a pipe, to RGB, the effect, into a
pipe. The frames are those of a drawn clip, with the faces that the model found in it; the model's
answers were computed before the clock runs. Between two `cat` processes, in one thread on one CPU;
what is told is that thread's own processor time, and beside it the time on the clock.

deface: the same clip through both, from file to file. `deface CLIP` with its own settings, against
`ffmpeg | stillframe filter --effect blur --reuse layer --tolerance 0.2 | ffmpeg` with ours, the
settings of examples/anonymise.sh. Both are run on one
frame too: what a start takes is told apart and taken off. Then the faces: those that deface finds
with its own code, in its own environment, against those that the filter found and hid; they match
where they overlap by half or more. `agreement` is their F1; `covered` is the share of deface's
faces of which at least 95 % lies within what the filter hid.

    python3 -m venv ENV && ENV/bin/pip install deface==1.5.0 onnx onnxruntime

Both write a table in Markdown.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe import sample_videos
from stillframe.pipeline.filter.box_hold import box_iou
from stillframe.pipeline.filter.filter import Filter
from stillframe.pipeline.filter.obscure import OBSCURE_METHODS
from stillframe.pipeline.filter.sink import FORMATS, OutputPipe
from stillframe.pipeline.filter.source import open_planes
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame

CLIP = "sample:desk?size=1280x720&seconds=4"
FILTER = [sys.executable, "-m", "stillframe", "filter"]
WARM_UP = 10
SAME = 0.5
COVERED = 0.95
EFFECTS = ("none", *OBSCURE_METHODS, "boxes")

# Runs in deface's environment: its detector, and the boxes that it hides, one JSON line a frame.
DUMP = """
import json, sys, imageio
from deface.centerface import CenterFace
from deface.deface import scale_bb
finder = CenterFace(in_shape=None, backend="auto")
for number, frame in enumerate(imageio.get_reader(sys.argv[1]).iter_data()):
    if number == int(sys.argv[2]):
        break
    found, _ = finder(frame, threshold=0.2)
    rows = [[float(v) for v in row[:4]] for row in found]
    hidden = [scale_bb(*(int(v) for v in row), 1.3).tolist() for row in rows]
    print("DEFACE " + json.dumps({"faces": rows, "hidden": hidden}))
"""


def heading(title: str) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    print(f"\n{title}\n\n{datetime.date.today()}, {platform.machine()}, CPUs {cpus}\n")


# --- overhead ------------------------------------------------------------------------------------


class Known:
    """Stands in for the runner: the answers of a real one, given again."""

    def __init__(self, steps: list[StepResult]) -> None:
        self._steps = iter(steps)

    def step(self, frame: Frame) -> StepResult:
        return next(self._steps)

    def close(self) -> None:
        """Nothing to give back."""


@contextlib.contextmanager
def piped(path: Path) -> Iterator[tuple[str, OutputPipe]]:
    """A named pipe that `cat` fills from a file, and one that another empties."""
    with tempfile.TemporaryDirectory() as folder:
        fifo = Path(folder) / "in"
        os.mkfifo(fifo)
        feeding = subprocess.Popen(["sh", "-c", 'cat "$1" > "$2"', "sh", str(path), str(fifo)])
        drain = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert drain.stdin is not None
        yield str(fifo), OutputPipe(drain.stdin.fileno(), "drain")
        drain.stdin.close()
        feeding.wait()
        drain.wait()


def overhead(clip: str, count: int) -> None:
    """Each effect's cost, milliseconds a frame."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.y4m"
        steps, size = recorded(clip, path, count)
        faces = np.mean([len(step.result) for step in steps])  # type: ignore[arg-type]
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        heading(f"The filter around its model, {size[1]}x{size[0]} 4:2:0, one thread on one CPU")
        print(f"{clip}, {count} frames, {faces:.1f} faces a frame; milliseconds a frame\n")
        print("| effect | processor | of it read | of it RGB and effect | of it write | clock |")
        print("| --- | --- | --- | --- | --- | --- |")
        for effect in EFFECTS:
            cells = timed(path, effect, steps)
            print(f"| {effect} | " + " | ".join(f"{1e3 * value:.2f}" for value in cells) + " |")


def recorded(clip: str, path: Path, count: int) -> tuple[list[StepResult], tuple[int, int]]:
    """Write the clip as y4m; -> what the model says about each of its frames."""
    steps = []
    with (
        open(path, "wb") as file,
        open_planes(clip) as source,
        Filter("centerface", "mask", reuse="layer") as f,
        FORMATS["y4m"](OutputPipe(file.fileno(), str(path)), source.info) as sink,
    ):
        for frame in source:
            sink.write(frame, frame.picture)
            f.filter_planes(frame)
            assert f.last_step is not None
            steps.append(f.last_step)
            if len(steps) == count:
                break
        return steps, source.info.size


def timed(path: Path, effect: Any, steps: list[StepResult]) -> list[float]:
    """[processor, read, effect, write, clock] seconds a frame, the medians."""
    rows = []
    with (
        piped(path) as (fifo, pipe),
        open_planes(fifo) as source,
        Filter("centerface", effect) as f,
        FORMATS["y4m"](pipe, source.info) as sink,
    ):
        f._runner = None if effect == "none" else Known(steps)  # type: ignore[assignment]
        wall, begun = time.perf_counter(), time.thread_time()
        for frame in source:
            read = time.thread_time()
            picture = f.filter_planes(frame)
            treated = time.thread_time()
            sink.write(frame, picture)
            ended, clock = time.thread_time(), time.perf_counter()
            rows.append(
                (ended - begun, read - begun, treated - read, ended - treated, clock - wall)
            )
            wall, begun = time.perf_counter(), time.thread_time()
    return [float(value) for value in np.median(rows[WARM_UP:] or rows, axis=0)]


# --- deface --------------------------------------------------------------------------------------


def against_deface(clip: str, count: int, command: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, one = folder / "clip.mp4", folder / "one.mp4"
        source = sample_videos.resolve(clip.removeprefix("sample:")) if ":" in clip else clip
        for out, frames in ((path, count), (one, 1)):
            encode = ["-c:v", "libx264", "-crf", "16", "-preset", "veryfast", "-an"]
            run([*FFMPEG, "-i", str(source), "-frames:v", str(frames), *encode, str(out)])
        lines = folder / "lines.jsonl"
        heading(f"The anonymiser beside deface: {clip}, {count} frames")
        ours(one, folder, lines)  # kernels are compiled once for a machine
        seconds = {
            "deface": (deface(command, path, folder), deface(command, one, folder)),
            "stillframe": (ours(path, folder, lines), ours(one, folder, folder / "one.jsonl")),
        }
        print(
            "| | whole, s | a start, s | frames a second | with the start | processor ms a frame |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        rates = {}
        for who, (whole, start) in seconds.items():
            frame_s = np.maximum(1e-6, whole - start) / (count - 1)
            rates[who] = 1 / frame_s[0], count / whole[0], 1 / frame_s[1]
            cells = f"{whole[0]:.2f} | {start[0]:.2f} | {rates[who][0]:.1f} | {rates[who][1]:.1f}"
            print(f"| {who} | {cells} | {1e3 * frame_s[1]:.0f} |")
        quicker = [a / b for a, b in zip(rates["stillframe"], rates["deface"], strict=True)]
        print(
            f"\nstillframe is {quicker[0]:.1f} times as quick ({quicker[1]:.1f} with the start), "
            f"and {quicker[2]:.1f} times as sparing of processors."
        )
        theirs = dumped(command, path, count)
        print(agreement(theirs, [json.loads(line) for line in lines.read_text().splitlines()]))


FFMPEG = ["ffmpeg", "-v", "error", "-nostdin", "-y"]


Seconds = NDArray[np.float64]


def run(command: list[str]) -> Seconds:
    """(on the clock, of processors). Ends the program with what the command said if it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:]}")
    clock, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return np.array([clock, spent])


def deface(command: str, path: Path, folder: Path) -> Seconds:
    return run([command, str(path), "--output", str(folder / "deface.mp4")])


def ours(path: Path, folder: Path, lines: Path) -> Seconds:
    out, write = str(folder / "ours.mp4"), " ".join(FILTER)
    return run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            f'{" ".join(FFMPEG)} -i "$1" -f yuv4mpegpipe - | '
            f'{write} --effect blur --reuse layer --tolerance 0.2 --quiet --force --jsonl "$2" | '
            f'{" ".join(FFMPEG)} -f yuv4mpegpipe -i - -c:v libx264 "$3"',
            "bash",
            str(path),
            str(lines),
            out,
        ]
    )


def dumped(command: str, path: Path, count: int) -> list[dict[str, Any]]:
    """What deface finds and hides in each frame."""
    python = Path(command).with_name("python")
    completed = subprocess.run(
        [str(python), "-c", DUMP, str(path), str(count)], capture_output=True, text=True
    )
    if completed.returncode:
        raise SystemExit(f"{python} failed: {completed.stderr[-2000:]}")
    rows = [row for row in completed.stdout.splitlines() if row.startswith("DEFACE ")]
    return [json.loads(row.removeprefix("DEFACE ")) for row in rows]


def boxes(rows: list[list[float]]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def agreement(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """Over all frames: F1 of the faces that were found, and how many of theirs are hidden."""
    assert len(theirs) == len(ours), (len(theirs), len(ours))
    both = deface_faces = our_faces = covered = 0
    for their, our in zip(theirs, ours, strict=True):
        faces, detections = boxes(their["faces"]), boxes(our["detections"]["xyxy"])
        apart = box_iou(faces, detections)
        while apart.size and apart.max() >= SAME:
            row, column = np.unravel_index(apart.argmax(), apart.shape)
            apart[row] = apart[:, column] = 0
            both += 1
        deface_faces += len(faces)
        our_faces += len(detections)
        covered += sum(inside(face, boxes(our["hidden"])) >= COVERED for face in faces)
    score = 2 * both / max(1, deface_faces + our_faces)
    return (
        f"\n{deface_faces} faces found by deface, {our_faces} by stillframe: "
        f"agreement {score:.3f}, covered {covered / max(1, deface_faces):.3f}."
    )


def inside(face: NDArray[np.float32], hidden: NDArray[np.float32]) -> float:
    """The share of a box within the ovals of other boxes."""
    x = np.linspace(face[0], face[2], 41)[None, :]
    y = np.linspace(face[1], face[3], 41)[:, None]
    within = np.zeros((41, 41), bool)
    for left, top, right, bottom in hidden.tolist():
        across = (x - (left + right) / 2) / max(1e-6, right - left) * 2
        down = (y - (top + bottom) / 2) / max(1e-6, bottom - top) * 2
        within |= across**2 + down**2 <= 1
    return float(within.mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("overhead", "deface"))
    parser.add_argument("--clip", action="append", help=f"default {CLIP}")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--deface", default=shutil.which("deface"), help="its command")
    chosen = parser.parse_args()
    for clip in chosen.clip or [CLIP]:
        if chosen.what == "overhead":
            overhead(clip, chosen.frames)
        elif chosen.deface is None:
            raise SystemExit("no deface command; say how to install it: --help")
        else:
            against_deface(clip, chosen.frames, chosen.deface)


if __name__ == "__main__":
    main()
