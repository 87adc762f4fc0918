"""How long until the first result? `stillframe run` against a plain ONNX Runtime script.

python benchmarks/first_result.py --rounds 7
python benchmarks/first_result.py --rounds 3 --cold

Both read the same clip, bring a frame to the same size and run the same cleaned network; the plain
script opens it with `cv2.VideoCapture` and `onnxruntime.InferenceSession`, and prints one line for
the first frame. Each is a process of its own, and they take turns. Measured from the start of the
process until that line can be read: wall time, and processor time of the process with all its
threads; then it is killed. Prints the medians and their ratio.

--cold: kernels and measurements lie in a new, empty cache folder for each round, with the cleaned
model and the clip already there; without it the user's own cache is used as it is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from stillframe.cache_dir import VARIABLE, cache_folder
from stillframe.models import zoo
from stillframe.pipeline.cli.fetching import SAMPLE
from stillframe.sample_videos import resolve

PLAIN = """
import sys
import cv2
import numpy as np
import onnxruntime
clip, network, height, width, threads = sys.argv[1:]
video = cv2.VideoCapture(clip)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
picture = cv2.resize(video.read()[1], (int(width), int(height)))[:, :, ::-1]
tensor = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
outputs = session.run(None, {name: tensor})
print([float(each.max()) for each in outputs], flush=True)
"""
"""Without preprocessing of values and without decoding: the least that anybody would write."""
SHARED = ("assets", "cleaned", "converted", "samples")
"""Folders of the cache that a cold round has too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="centerface")
    parser.add_argument("--clip", default="sample:sports2d_demo")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0: one for each CPU")
    parser.add_argument("--cold", action="store_true", help="without compiled kernels")
    chosen = parser.parse_args()

    clip = Path(chosen.clip)
    if chosen.clip.startswith(SAMPLE):
        clip = resolve(chosen.clip.removeprefix(SAMPLE))
    network = zoo.load(chosen.model).for_source(*_size(clip))
    sides = [str(side) for side in network.size]
    plain = [
        sys.executable, "-c", PLAIN, str(clip), str(network.path), *sides, str(chosen.threads),
    ]  # fmt: skip
    ours = [
        sys.executable, "-m", "stillframe", "run", str(clip), "--model", chosen.model,
        "--jsonl", "-", "-q", "--threads", str(chosen.threads),
    ]  # fmt: skip
    contenders = {
        "plain script": plain,
        "stillframe run": ours,
        "--reuse off": [*ours, "--reuse", "off"],
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(chosen.rounds + 1):
        for name, command in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                environment = _cold(Path(folder)) if chosen.cold else os.environ
                seconds = until_first_line(command, environment)
            if turn:  # the first one fills the disk's cache
                taken[name].append(seconds)
    report(taken)


def until_first_line(command: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Wall and processor seconds of a process until its first line; then it is killed."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        wall_s = time.perf_counter() - began
        processor_s = _processor_seconds(process.pid)
        process.kill()
    if not line:
        raise SystemExit(f"no result: {' '.join(command[:4])} … ended before its first line")
    return wall_s, processor_s


def _processor_seconds(pid: int) -> float:
    """Of all threads of a process, which may have ended but was not waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cold(folder: Path) -> dict[str, str]:
    """An environment whose cache holds the model and the clip only."""
    for name in SHARED:
        if (cache_folder() / name).is_dir():
            (folder / name).symlink_to((cache_folder() / name).absolute())
    return {**os.environ, VARIABLE: str(folder)}


def _size(clip: Path) -> tuple[int, int]:
    """Height and width of the first frame."""
    import cv2

    video = cv2.VideoCapture(str(clip))
    shape = video.read()[1].shape
    return int(shape[0]), int(shape[1])


def report(taken: dict[str, list[tuple[float, float]]]) -> None:
    """Medians, and as many times the first contender's; as JSON, a line each."""
    first: tuple[float, float] | None = None
    for name, seconds in taken.items():
        wall_s, processor_s = (statistics.median(each) for each in zip(*seconds, strict=True))
        first = first or (wall_s, processor_s)
        row = {
            "contender": name, "rounds": len(seconds),
            "wall_s": round(wall_s, 2), "processor_s": round(processor_s, 2),
            "times_wall": round(wall_s / first[0], 2),
            "times_processor": round(processor_s / first[1], 2),
        }  # fmt: skip
        print(json.dumps(row))


if __name__ == "__main__":
    main()
