"""Measures one pair: a run without any option beside computing everything and skipping frames.

The clip is read twice. The first pass computes every frame with the fastest dense backend: its
results are the reference, and skipping frames is played with them. The second pass is a run as
a stranger starts it. Times are processor time of this process, decoding included.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import Backend, OnnxRuntimeBackend, OpenvinoBackend
from stillframe.pipeline.inference.box_flow import BoxFollower, Grey, Lens
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.quality.agreement import Agreement, agreement_with
from stillframe.pipeline.quality.auto.runner import SteeredRunner
from stillframe.pipeline.quality.repeatability import CameraNoise, noisy
from stillframe.pipeline.studies.suite.accuracy import accuracy
from stillframe.pipeline.studies.suite.pairs import Pair

WINDOW_S = 10.0
"""Quality is judged over spans of the clip of this length."""
SKIPS = (2, 3, 4, 6, 8)
"""Frame skipping that the run is compared with."""
TRIED_FRAMES = 5
"""With each dense backend, to find the fastest."""
NOISY_FRAMES = 12
"""Frames that repeatability is measured on."""
SEED = 1


@dataclass(frozen=True, slots=True)
class DensePass:
    """Every frame computed whole."""

    backend: str
    """The fastest one."""
    results: list[Result]
    times_s: list[float]
    """Of the frames."""
    greys: list[Grey]
    """What boxes are followed on; empty for other tasks."""
    cpu_ms: float
    """Of a frame, decoding included."""
    wall_ms: float
    decode_cpu_ms: float
    """Of reading a frame alone."""
    shape: tuple[int, ...]
    """Of a frame, (H, W, 3)."""
    repeatability: float | None
    """Kept, of the network on frames with other noise; None: nothing to compare."""


def measure(pair: Pair, model: Model, quality: float, threads: int) -> dict[str, Any]:
    """All figures of one pair, as JSON values. Raises StillframeError."""
    dense = _compute_everything(pair, model, threads)
    settings = Settings("auto", threads=threads, quality=quality)
    results, auto = _run(pair, model, settings)
    whole, windows = _agreement(results, dense)
    floor = quality if dense.repeatability is None else min(quality, dense.repeatability)
    skipping = [_skipping(every, follow, dense) for every in SKIPS for follow in (False, True)]
    affordable = [row for row in skipping if row["cpu_ms"] <= auto["cpu_ms"]]
    best = max(affordable, key=lambda row: row["kept"], default=None)
    return {
        "pair": pair.title,
        "model": pair.model,
        "clip": pair.clip,
        "shows": pair.shows,
        "role": pair.role,
        "frames": len(results),
        "dense": dense.backend,
        "dense_cpu_ms": dense.cpu_ms,
        "dense_wall_ms": dense.wall_ms,
        "decode_cpu_ms": dense.decode_cpu_ms,
        **{f"auto_{name}": value for name, value in auto.items()},
        "times_as_fast": dense.cpu_ms / auto["cpu_ms"],
        "times_as_fast_later": dense.cpu_ms / auto["later_cpu_ms"],
        "kind": whole.kind,
        "kept": whole.value,
        "strict": whole.strict,
        "place": whole.place,
        "telling": whole.telling,
        "repeatability": dense.repeatability,
        **accuracy(pair, model.labels, dense.results, results),
        "windows": len(windows),
        "windows_held": sum(each >= floor for each in windows),
        "skipping": skipping,
        "best_skipping": best,
    }


def _compute_everything(pair: Pair, model: Model, threads: int) -> DensePass:
    name, make = _fastest(pair, model, threads)
    slot = BackendSlot(make, incremental=False)
    lens = Lens() if model.task == "detection" else None
    results: list[Result] = []
    times: list[float] = []
    greys: list[Grey] = []
    spare: list[Any] = []
    noise = CameraNoise()
    step_every = max(1, pair.frames // NOISY_FRAMES)
    shape: tuple[int, ...] = ()
    cpu_ms = wall_ms = decode_ms = 0.0
    with Runner(model, Settings("off", max_age_s=0.0), slot=slot) as runner:
        frames = _frames(pair)
        while True:
            began, wall = time.process_time(), time.perf_counter()
            frame = next(frames, None)
            if frame is None:
                break
            decoded = time.process_time()
            results.append(runner.step(frame).result)
            cpu_ms += (time.process_time() - began) * 1e3
            wall_ms += (time.perf_counter() - wall) * 1e3
            decode_ms += (decoded - began) * 1e3
            times.append(frame.time_s)
            shape = frame.image.shape
            if lens is not None:
                greys.append(lens.grey(frame.image).copy())
            fitted, view = runner.model.fit(frame.image)
            noise.add(fitted)
            if frame.index % step_every == 0:
                spare.append((len(results) - 1, np.array(fitted), view))
        count = max(1, len(results))
        kept = _repeatability(runner, spare, results, noise.level)
    return DensePass(
        backend=name,
        results=results,
        times_s=times,
        greys=greys,
        cpu_ms=cpu_ms / count,
        wall_ms=wall_ms / count,
        decode_cpu_ms=decode_ms / count,
        shape=shape,
        repeatability=kept,
    )


def _repeatability(
    runner: Runner, spare: list[Any], results: list[Result], level: float
) -> float | None:
    """Kept of the network with itself on the frames that were put aside, with other noise."""
    backend, model = runner.backend, runner.model
    whole: Agreement | None = None
    for index, fitted, view in spare:
        assert backend is not None
        outputs = backend.run(model.feed(noisy(fitted, level, SEED + index)), None)
        whole = whole or agreement_with(results[index])
        whole.add(model.decode(outputs, view), results[index])
    return whole.value if whole is not None and whole.telling else None


def _run(pair: Pair, model: Model, settings: Settings) -> tuple[list[Result], dict[str, Any]]:
    """A run without options; -> its results and what they cost."""
    results: list[Result] = []
    kinds: dict[str, int] = {}
    spent: list[float] = []
    wall = time.perf_counter()
    with SteeredRunner(model, settings) as runner:
        frames = _frames(pair)
        while True:
            began = time.process_time()
            frame = next(frames, None)
            if frame is None:
                break
            step = runner.step(frame)
            spent.append((time.process_time() - began) * 1e3)
            results.append(step.result)
            provenance = step.result.evidence.provenance
            kinds[provenance] = kinds.get(provenance, 0) + 1
        assert runner.controller is not None
        chosen = runner.controller.to_dict()
    count = max(1, len(spent))
    return results, {
        "cpu_ms": sum(spent) / count,
        "later_cpu_ms": sum(spent[count // 2 :]) / max(1, count - count // 2),
        "wall_ms": (time.perf_counter() - wall) * 1e3 / count,
        "kinds": kinds,
        "chosen": chosen,
    }


def _agreement(results: list[Result], dense: DensePass) -> tuple[Agreement, list[float]]:
    """Over the whole clip, and kept in each window in which there was anything to compare."""
    whole = agreement_with(dense.results[0], place=True)
    windows: dict[int, Agreement] = {}
    for result, reference, time_s in zip(results, dense.results, dense.times_s, strict=True):
        whole.add(result, reference)
        number = int((time_s - dense.times_s[0]) / WINDOW_S)
        windows.setdefault(number, agreement_with(reference)).add(result, reference)
    return whole, [each.value for each in windows.values() if each.telling]


def _skipping(every: int, follow: bool, dense: DensePass) -> dict[str, Any]:
    """Every n-th frame computed whole; in between its result stays, or its boxes follow."""
    whole = agreement_with(dense.results[0])
    follower = BoxFollower()
    follows = follow and bool(dense.greys)
    began = time.process_time()
    results: list[Result] = []
    for index, reference in enumerate(dense.results):
        if index % every == 0:
            if follows:
                follower.begin(reference, dense.greys[index])
            results.append(reference)
        elif follows:
            results.append(follower.carry(dense.greys[index], dense.shape))
        else:
            results.append(results[-1])
    followed_ms = (time.process_time() - began) * 1e3 / max(1, len(results))
    for result, reference in zip(results, dense.results, strict=True):
        whole.add(result, reference)
    network_ms = dense.cpu_ms - dense.decode_cpu_ms
    return {
        "every": every,
        "between": "follow" if follows else "keep",
        "kept": whole.value,
        "place": whole.place,
        "cpu_ms": dense.decode_cpu_ms + network_ms / every + followed_ms,
    }


def _frames(pair: Pair) -> Iterator[Frame]:
    """The first frames of the clip, cut to the pair's crop."""
    with open_source(pair.clip) as source:
        for frame in itertools.islice(source, pair.frames):
            yield _cropped(frame, pair.crop) if pair.crop else frame


def _cropped(frame: Frame, text: str) -> Frame:
    size, left, top = text.split("+")
    width, height = map(int, size.split("x"))
    rows, columns = slice(int(top), int(top) + height), slice(int(left), int(left) + width)
    return replace(frame, image=np.ascontiguousarray(frame.image[rows, columns]))


Make = Callable[[Path], Backend]


def _fastest(pair: Pair, model: Model, threads: int) -> tuple[str, Make]:
    """The dense backend that takes the least processor time for the first frames."""
    makes: dict[str, Make] = {"onnxruntime": lambda path: OnnxRuntimeBackend(path, threads)}
    if find_spec("openvino") is not None:
        makes["openvino"] = lambda path: OpenvinoBackend(path, threads)
    costs: dict[str, float] = {}
    for name, make in makes.items():
        slot = BackendSlot(make, incremental=False)
        with Runner(model, Settings("off", max_age_s=0.0), slot=slot) as runner:
            spent = []
            for frame in itertools.islice(_frames(pair), TRIED_FRAMES):
                began = time.process_time()
                runner.step(frame)
                spent.append(time.process_time() - began)
        costs[name] = min(spent, default=0.0)
    name = min(costs, key=lambda each: costs[each])
    return name, makes[name]
