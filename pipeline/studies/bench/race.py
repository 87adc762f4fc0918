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
from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.box_flow import Lens
from stillframe.pipeline.inference.cadenced import Cadenced
from stillframe.pipeline.studies.bench.case import Case, Conditions, Image, decoded
from stillframe.pipeline.studies.bench.contenders import (
    CONTENDERS,
    Contender,
    ContenderRow,
    ContenderSetting,
    Outputs,
    UnavailableError,
)
from stillframe.reuse.gate.change_gate import ChangeGate

Told = Callable[[str, int, int], None]  # what is going on, frames done, frames in all

CHECKED = 6  # frames on which answers are compared before anything is timed
CLOSE = 1e-3  # how far an output may lie from ONNX Runtime's, as a share of its largest value
REPEATS = 12  # of an unchanged frame


@dataclass(slots=True)
class Entrant:
    """A contender at work: its gate, its last answer, and what each timed frame took.

    beat: of those that leave out frames, with a lens where boxes are followed. network_ms: finding
    what changed, running the network, following. whole_ms: the way of a frame from its
    decoded picture to its result. work, active: shares of multiply-adds and of pixels, by frame.
    """

    row: ContenderRow
    contender: Contender
    gate: ChangeGate | None
    beat: Cadenced | None = None
    lens: Lens | None = None
    network_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    active: list[float] = field(default_factory=list)
    outputs: Outputs = ()
    result: Result | None = None

    def step(self, model: Model, image: Image, timed: bool = True) -> None:
        """One frame, as `stillframe run` would treat it: an unchanged one keeps its result."""
        start = perf_counter()
        grey = None if self.lens is None else self.lens.grey(image)
        grey_end = perf_counter()
        if self.beat is not None and self.beat.passes():
            self.result = self.beat.passed(grey, image.shape)
            if timed:
                self._note((perf_counter() - start) * 1e3, (perf_counter() - start) * 1e3, 0.0, 0.0)
            return
        fitted, view = model.fit(image)
        fit_end = perf_counter()
        change = None
        if self.gate is not None:
            change = self.gate.step(fitted)
            fitted = self.gate.reference
        gate_end = feed_end = run_end = end = perf_counter()
        unchanged = change is not None and change.kind == "unchanged" and self.result is not None
        if not unchanged:
            feed = model.feed(fitted)
            feed_end = perf_counter()
            self.outputs = self.contender.run(feed, change)
            run_end = perf_counter()
            self.result = model.decode(self.outputs, view)
            if self.beat is not None:
                self.beat.computed(self.result, grey)
            end = perf_counter()
        if timed:
            network = grey_end - start + gate_end - fit_end + run_end - feed_end
            work = 0.0 if unchanged else self.contender.work
            active = 1.0 if change is None else change.active
            self._note(network * 1e3, (end - start) * 1e3, work, active)

    def reset(self) -> None:
        """Forget the frames so far, but not what they took."""
        self.contender.reset()
        if self.gate is not None:
            self.gate.reset()
        if self.beat is not None:
            self.beat.reset()
        self.outputs, self.result = (), None

    def _note(self, network_ms: float, whole_ms: float, work: float, active: float) -> None:
        self.network_ms.append(network_ms)
        self.whole_ms.append(whole_ms)
        self.work.append(work)
        self.active.append(active)


@dataclass(slots=True)
class Race:
    """One case made ready: its frames, the model at their size, and who takes part.

    skipped: contenders that do not, and why.
    """

    case: Case
    conditions: Conditions
    setting: ContenderSetting
    model: Model
    images: list[Image]
    entrants: dict[str, Entrant]
    skipped: dict[str, str]

    @property
    def timed(self) -> list[Image]:
        return self.images[self.conditions.warm_up :]

    def check(self) -> None:
        """Raises QualityError where an answer is wrong.

        Own dense outputs against ONNX Runtime's on the first and last of CHECKED frames; exact ones
        against dense ones on each, bit for bit. OpenVINO, if wrong, is left out and said so.
        """
        images = self.images[:CHECKED]
        for index, image in enumerate(images):
            for entrant in self.entrants.values():
                entrant.step(self.model, image, timed=False)
            if index in (0, len(images) - 1):
                self._compare(index)
            self.check_exact(index)
        for entrant in self.entrants.values():
            entrant.reset()

    def check_exact(self, index: int) -> None:
        """Raises QualityError unless exact outputs are the dense ones, bit for bit."""
        if not {"dense", "exact"} <= self.entrants.keys():
            return
        ours, wanted = (self.entrants[name].outputs for name in ("exact", "dense"))
        for number, (a, b) in enumerate(zip(ours, wanted, strict=True)):
            if a.shape != b.shape or a.tobytes() != b.tobytes():
                raise QualityError(
                    f"{self.case}: frame {index}, output {number} of exact reuse is not bit for bit"
                    " the dense one; its times would mean nothing; this is a fault of stillframe"
                )

    def _compare(self, index: int) -> None:
        if "ort" not in self.entrants:
            return
        wanted = self.entrants["ort"].outputs
        for name in ("dense", "openvino"):
            if name not in self.entrants:
                continue
            fault = difference(self.entrants[name].outputs, wanted)
            if fault is None:
                continue
            told = f"frame {index}: {fault} of ONNX Runtime"
            if name == "dense":
                raise QualityError(
                    f"{self.case}: own dense, {told}; its times would mean nothing; this is a fault"
                    " of stillframe"
                )
            self.entrants.pop(name).contender.close()
            self.skipped[name] = f"wrong answer, {told}"


def difference(outputs: Outputs, wanted: Outputs) -> str | None:
    """In words what is wrong with outputs that should be like others; None: they are."""
    if len(outputs) != len(wanted):
        return f"{len(outputs)} outputs instead of the {len(wanted)}"
    for number, (a, b) in enumerate(zip(outputs, wanted, strict=True)):
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
    told: Told | None = None,
) -> Iterator[Race]:
    """Decode the frames, fix the model at their size, make every contender; closed at the end."""
    say = told or (lambda what, done, total: None)
    say("decoding", 0, 0)
    images, frame_s = decoded(case, conditions.warm_up, conditions.allow_sdist)
    model = zoo.load(
        case.model,
        input_size=case.size,
        confidence=conditions.confidence,
        allow_sdist=conditions.allow_sdist,
    )
    if case.size is None:
        model = model.for_source(*images[0].shape[:2])
    setting = ContenderSetting(
        model.path,
        conditions.threads,
        conditions.tolerance,
        conditions.gate,
        conditions.profile,
        conditions.cadence,
    )
    entrants: dict[str, Entrant] = {}
    skipped: dict[str, str] = {}
    before = cv2.getNumThreads()
    with ExitStack() as stack:
        stack.callback(cv2.setNumThreads, before)
        cv2.setNumThreads(conditions.threads)
        for place, row in enumerate(rows):
            say(f"loading {row.title}", place, len(rows))
            try:
                contender = row.make(setting)
            except UnavailableError as reason:
                skipped[row.name] = str(reason)
                continue
            stack.callback(contender.close)
            gate = ChangeGate(*model.size, row.gate(setting)) if row.gate else None
            paced = row.paced and setting.cadence.every > 1
            beat = Cadenced(setting.cadence, frame_s) if paced else None
            lens = Lens() if paced and setting.cadence.follows else None
            entrants[row.name] = Entrant(row, contender, gate, beat, lens)
        yield Race(case, conditions, setting, model, images, entrants, skipped)


def race(ready: Race, told: Told | None = None, each: Callable[[int], None] | None = None) -> None:
    """Time every contender on every frame. each: called after a timed frame, outside of the clock.

    Raises QualityError as soon as an exact output is not the dense one.
    """
    say = told or (lambda what, done, total: None)
    entrants = list(ready.entrants.values())
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for index, image in enumerate(ready.images):
            timed = index >= ready.conditions.warm_up
            for entrant in order(entrants, index):
                entrant.step(ready.model, image, timed)
            ready.check_exact(index)
            if timed and each is not None:
                each(index - ready.conditions.warm_up)
            say("timing", index + 1, len(ready.images))
    finally:
        if collecting:
            gc.enable()


def order(entrants: Sequence[Entrant], index: int) -> list[Entrant]:
    """Who goes when in a frame: each is first in turn, and every other round runs backwards."""
    rounds, turn = divmod(index, len(entrants))
    rotated = [*entrants[turn:], *entrants[:turn]]
    return rotated[::-1] if rounds % 2 else rotated


def unchanged_ms(ready: Race, name: str = "reuse") -> float | None:
    """What the gate and the network take when the last frame comes again; the median of REPEATS.

    None where the gate renews a part of the picture even then.
    """
    entrant = ready.entrants.get(name)
    if entrant is None or entrant.gate is None:
        return None
    image, _ = ready.model.fit(ready.images[-1])
    entrant.reset()
    times = []
    for turn in range(REPEATS + 2):
        start = perf_counter()
        change = entrant.gate.step(image)
        gate_end = perf_counter()
        feed = ready.model.feed(entrant.gate.reference)
        feed_end = perf_counter()
        entrant.contender.run(feed, change)
        end = perf_counter()
        if turn >= 2:  # the first is all new; the second has cold memory
            times.append((gate_end - start + end - feed_end) * 1e3)
    return float(np.median(times)) if not entrant.contender.work else None
