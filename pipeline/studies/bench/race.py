"""Measuring: every contender on the same frames, side by side, once their answers were checked.

    decoded frames ─► check: dense against ONNX Runtime, exact against dense ─► warm up ─► time
                       └─ wrong: QualityError, nothing is timed

Frames are decoded beforehand. Each goes through every contender before the next one comes, in an
order that rotates, so that whatever else the machine does hits all of them alike. Shows nothing.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter

import cv2
import numpy as np

from stillframe.errors import QualityError
from stillframe.models import zoo
from stillframe.models.card import ModelCard
from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import BorrowedBackend
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.observer import ObservedFrame
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import StudySettings
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.studies.bench.case import Case, Conditions, decoded
from stillframe.pipeline.studies.bench.contenders import (
    BASELINES,
    CONTENDERS,
    Contender,
    ContenderRow,
    ContenderSetting,
    Outputs,
    UnavailableError,
)

OnProgress = Callable[[str, int, int], None]
"""Takes what is going on, frames done, frames in all."""

CHECKED = 6  # frames on which answers are compared before anything is timed
CLOSE = 1e-3  # how far an output may lie from ONNX Runtime's, as a share of its largest value
REPEATS = 12  # of an unchanged frame
NETWORK = ("grey", "gate", "infer", "follow")  # laps of `network_ms`


@dataclass(slots=True)
class ContenderAtWork:
    """A contender in the loop that `stillframe run` uses, and what each timed frame took."""

    row: ContenderRow
    contender: Contender
    runner: Runner = field(init=False)
    network_ms: list[float] = field(default_factory=list)
    """Finding what changed, running the network, following boxes."""
    whole_ms: list[float] = field(default_factory=list)
    """From a decoded picture to its result."""
    work: list[float] = field(default_factory=list)
    """Share of all multiply-adds."""
    active: list[float] = field(default_factory=list)
    """Share of the picture that was treated as new."""
    outputs: Outputs = field(default_factory=list)
    """Of the last frame that the network ran on."""
    result: Result | None = None
    """Of the last frame."""

    @classmethod
    def begin(
        cls, row: ContenderRow, contender: Contender, model: Model, setting: ContenderSetting
    ) -> "ContenderAtWork":
        """The contender with a runner of its own."""
        at_work = cls(row, contender)
        skipping = setting.frame_skipping if row.skips_frames else FrameSkipping()
        at_work.runner = Runner(
            model,
            row.settings(setting),
            slot=BackendSlot(lambda path: contender, incremental=contender.incremental),
            study=StudySettings(frame_skipping=skipping, scene_cuts=False),
            observer=at_work._observe,
        )
        return at_work

    @property
    def has_gate(self) -> bool:
        """Whether a change gate finds for it which pixels changed."""
        return self.runner.settings.gate is not None

    def step(self, frame: Frame, timed: bool = True) -> None:
        """Analyse one frame; an unchanged one keeps its result."""
        start = perf_counter()
        step = self.runner.step(frame)
        end = perf_counter()
        self.result = step.result
        if timed:
            self.network_ms.append(sum(step.spent_ms.get(part, 0.0) for part in NETWORK))
            self.whole_ms.append((end - start) * 1e3)
            self.work.append(self.contender.work if step.kind == "computed" else 0.0)
            self.active.append(step.active)

    def reset(self) -> None:
        """Forget the frames so far, but not what they took."""
        self.contender.reset()
        self.runner.reset()
        self.outputs, self.result = [], None

    def _observe(self, seen: ObservedFrame) -> None:
        if seen.outputs is not None:
            self.outputs = seen.outputs


@dataclass(slots=True)
class Race:
    """The frames and the contenders of one case, and what was timed."""

    case: Case
    conditions: Conditions
    setting: ContenderSetting
    model: Model
    """At the size of the frames."""
    frames: list[Frame]
    contenders: dict[str, ContenderAtWork]
    """By name."""
    skipped: dict[str, str]
    """Contenders that do not take part, and why."""

    @property
    def timed(self) -> list[Frame]:
        return self.frames[self.conditions.warm_up :]

    def check(self) -> None:
        """Raises QualityError where an answer is wrong.

        Own dense outputs against ONNX Runtime's on the first and last of CHECKED frames; exact ones
        against dense ones on each, bit for bit. OpenVINO, if wrong, goes to `skipped`.
        """
        frames = self.frames[:CHECKED]
        for index, frame in enumerate(frames):
            for contender in self.contenders.values():
                contender.step(frame, timed=False)
            if index in (0, len(frames) - 1):
                self._compare(index)
            self.check_exact(index)
        for contender in self.contenders.values():
            contender.reset()

    def check_exact(self, index: int) -> None:
        """Raises QualityError unless exact outputs are the dense ones, bit for bit."""
        if not {"dense", "exact"} <= self.contenders.keys():
            return
        exact, dense = (self.contenders[name].outputs for name in ("exact", "dense"))
        for number, (a, b) in enumerate(zip(exact, dense, strict=True)):
            if a.shape != b.shape or a.tobytes() != b.tobytes():
                raise QualityError(
                    f"{self.case}: frame {index}, output {number} of exact reuse is not bit for bit"
                    " the dense one; its times would mean nothing; this is a fault of stillframe"
                )

    def _compare(self, index: int) -> None:
        if "ort" not in self.contenders:
            return
        expected = self.contenders["ort"].outputs
        for name in ("dense", *(each for each in BASELINES if each != "ort")):
            if name not in self.contenders:
                continue
            fault = difference(self.contenders[name].outputs, expected)
            if fault is None:
                continue
            text = f"frame {index}: {fault} of ONNX Runtime"
            if name == "dense":
                raise QualityError(
                    f"{self.case}: own dense, {text}; its times would mean nothing; this is a fault"
                    " of stillframe"
                )
            self.contenders.pop(name).runner.close()
            self.skipped[name] = f"wrong answer, {text}"


def difference(outputs: Outputs, expected: Outputs) -> str | None:
    """The first fault of outputs that should be close to the expected ones; None: there is none."""
    if len(outputs) != len(expected):
        return f"{len(outputs)} outputs instead of the {len(expected)}"
    for number, (a, b) in enumerate(zip(outputs, expected, strict=True)):
        if a.shape != b.shape:
            return f"output {number} has shape {a.shape} instead of the {b.shape}"
        if b.dtype.kind != "f":
            if not np.array_equal(a, b):
                return f"output {number} differs from that"
            continue
        ours, theirs = a.astype(np.float64), b.astype(np.float64)
        scale = float(np.max(np.abs(theirs), initial=0.0, where=np.isfinite(theirs))) or 1.0
        if not np.allclose(ours, theirs, rtol=0.0, atol=CLOSE * scale, equal_nan=True):
            with np.errstate(invalid="ignore"):
                worst = float(np.max(np.abs(ours - theirs))) / scale
            return f"output {number} is off by {worst:.2g} of the largest value"
    return None


@contextmanager
def prepare(
    case: Case,
    conditions: Conditions,
    rows: Sequence[ContenderRow] = CONTENDERS,
    on_progress: OnProgress | None = None,
) -> Iterator[Race]:
    """Decode the frames, fix the model at their size, make every contender; closed at the end."""
    report = on_progress or (lambda what, done, total: None)
    report("decoding", 0, 0)
    frames = decoded(case, conditions.warm_up, conditions.allow_sdist)
    own = {"size": case.size, "confidence": conditions.confidence}
    card = (conditions.stated or ModelCard()).model_copy(
        update={name: value for name, value in own.items() if value is not None}
    )
    model = zoo.load_stated(case.model, card, allow_sdist=conditions.allow_sdist)
    if case.size is None:
        model = model.for_source(*frames[0].image.shape[:2])
    setting = ContenderSetting(
        model.path,
        conditions.threads,
        conditions.tolerance,
        conditions.gate,
        conditions.profile,
        conditions.frame_skipping,
    )
    contenders: dict[str, ContenderAtWork] = {}
    skipped: dict[str, str] = {}
    before = cv2.getNumThreads()
    with ExitStack() as stack:
        stack.callback(cv2.setNumThreads, before)
        cv2.setNumThreads(conditions.threads)
        for place, row in enumerate(rows):
            report(f"loading {row.title}", place, len(rows))
            try:
                contender = row.make(setting)
            except UnavailableError as reason:
                skipped[row.name] = str(reason)
                continue
            stack.callback(contender.close)
            contenders[row.name] = ContenderAtWork.begin(row, contender, model, setting)
        yield Race(case, conditions, setting, model, frames, contenders, skipped)


def race(
    ready: Race,
    on_progress: OnProgress | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> None:
    """Time every contender on every frame. on_frame: called after a timed frame, off the clock.

    Raises QualityError as soon as an exact output is not the dense one.
    """
    report = on_progress or (lambda what, done, total: None)
    contenders = list(ready.contenders.values())
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for index, frame in enumerate(ready.frames):
            timed = index >= ready.conditions.warm_up
            for contender in order(contenders, index):
                contender.step(frame, timed)
            ready.check_exact(index)
            if timed and on_frame is not None:
                on_frame(index - ready.conditions.warm_up)
            report("timing", index + 1, len(ready.frames))
    finally:
        if collecting:
            gc.enable()


def order(contenders: Sequence[ContenderAtWork], index: int) -> list[ContenderAtWork]:
    """Who goes when in a frame: each is first in turn, and every other round runs backwards."""
    rounds, turn = divmod(index, len(contenders))
    rotated = [*contenders[turn:], *contenders[:turn]]
    return rotated[::-1] if rounds % 2 else rotated


def unchanged_ms(ready: Race, name: str = "reuse") -> float | None:
    """What the gate and the network take when the last frame comes again; the median of REPEATS.

    None if no such contender takes part, or it has no gate.
    """
    at_work = ready.contenders.get(name)
    if at_work is None or not at_work.has_gate:
        return None
    at_work.reset()
    contender = at_work.contender
    slot = BackendSlot(lambda path: BorrowedBackend(contender), incremental=contender.incremental)
    study = StudySettings(frame_skipping=FrameSkipping(), run_unchanged=True)
    runner = Runner(ready.model, at_work.runner.settings, slot=slot, study=study)
    times = []
    for turn in range(REPEATS + 2):
        spent_ms = runner.step(ready.frames[-1]).spent_ms
        if turn >= 2:  # the first is all new; the second has cold memory
            times.append(spent_ms["gate"] + spent_ms["infer"])
    return float(np.median(times))
