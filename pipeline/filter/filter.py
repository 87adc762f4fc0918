"""Pictures in, pictures out: a model finds things, and an effect hides, marks or replaces them.

    Shot ─to RGB─► Runner ─► Result ─► where ─► effect in the stream's own planes ─► Shot

What no effect touches stays bit for bit as it came. What an effect needs is a row of
`effect_settings.EFFECTS`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.errors import ModelError, UsageError
from stillframe.models import zoo
from stillframe.models.model import Model
from stillframe.models.results import Detections, Mask, Picture, Result
from stillframe.pipeline.filter.box_hold import Boxes, BoxHold, grow_boxes
from stillframe.pipeline.filter.effects import (
    EFFECTS,
    GROW,
    HIDING_CONFIDENCE,
    HOLD_S,
    Effect,
    EffectSettings,
    EffectSpec,
)
from stillframe.pipeline.filter.obscure import (
    BLACK,
    CELLS,
    OBSCURE_METHODS,
    Area,
    ObscureStyle,
    Shape,
    box_area,
    mask_area,
)
from stillframe.pipeline.filter.overlay_yuv import draw_on_planes
from stillframe.pipeline.filter.planes import (
    RGB,
    Colour,
    Colours,
    Planes,
    PlanesToRgb,
    RgbToPlanes,
    Samples,
)
from stillframe.pipeline.filter.source import PlaneFrame
from stillframe.pipeline.inference.frame_skipping import Between
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import TOLERANCE, Reuse, Settings
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame

WIDEN_MASK = 0.01  # of the picture's shorter side: what a mask grows by at the default `grow`
STALE_MASK = 10.0  # times as much a second while it was not looked at


@dataclass(slots=True)
class _Made:
    """What depends on the pictures' layout and size, made again when those change."""

    key: tuple[object, ...] = ()
    to_rgb: PlanesToRgb | None = None
    from_rgb: RgbToPlanes | None = None
    painted: tuple[NDArray[np.uint8], Planes] | None = None


class Filter(Closing):
    """Applies one effect to the pictures of one stream, in their order.

        with stillframe.Filter(model="centerface", effect="blur") as f:
            out = f(image)

    model: a name, a path to an .onnx file or a Model; None: what suits the effect. grow, shape,
    classes, hold_s, cells and colour are those of `EffectSettings`; reuse, max_age_s, every,
    between, threads and tolerance those of `Settings`. confidence: for effects that
    hide 0.2 unless given. rate: frames a second, for pictures that come without a time.

    After each picture `result` is what the model says about it, and `hidden` the boxes that were
    hidden. Raises UsageError for settings that make no sense, ModelError when the model cannot be
    had, run or used for the effect. A picture that could not be analysed is never given back.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model | None = None,
        effect: Effect = "boxes",
        *,
        grow: float = GROW,
        shape: Shape = "oval",
        classes: Sequence[str] = (),
        hold_s: float = HOLD_S,
        cells: int = CELLS,
        colour: Colour = BLACK,
        task: str | None = None,
        confidence: float | None = None,
        reuse: Reuse = "frame",
        max_age_s: float | None = None,
        every: int | None = None,
        between: Between | None = None,
        threads: int = 0,
        tolerance: float = TOLERANCE,
        rate: Fraction | float = 25,
    ) -> None:
        effect_settings = EffectSettings(effect, grow, shape, tuple(classes), hold_s, cells, colour)
        settings = Settings(reuse, max_age_s, every, threads, tolerance, between=between)
        chosen = EFFECTS[effect].model if model is None else model
        network = None if chosen is None else zoo.resolve(chosen, task)
        self._begin(network, effect_settings, settings, confidence, rate)

    @classmethod
    def from_settings(
        cls,
        model: Model | None,
        effect_settings: EffectSettings,
        settings: Settings,
        confidence: float | None = None,
        rate: Fraction | float = 25,
    ) -> Self:
        """The same from settings that were checked before. model: None for the effect none."""
        made = cls.__new__(cls)
        made._begin(model, effect_settings, settings, confidence, rate)
        return made

    def _begin(
        self,
        model: Model | None,
        effect_settings: EffectSettings,
        settings: Settings,
        confidence: float | None,
        rate: Fraction | float,
    ) -> None:
        if not rate > 0:
            raise UsageError(f"rate: expected more than 0 pictures a second, got {rate}")
        row = EFFECTS[effect_settings.effect]
        self.effect_settings = effect_settings
        self.last_step: StepResult | None = None
        self.hidden: Boxes = np.empty((0, 4), np.float32)
        self._runner: Runner | None = None
        self._style = ObscureStyle(effect_settings.cells, effect_settings.colour)
        self._hold = BoxHold(effect_settings.hold_s if row.hides else 0.0)
        self._made = _Made()
        self._frame_s = 1 / float(rate)
        self._count = 0
        self._damaged = False
        if model is None:
            return
        _check(model, row, effect_settings)
        if confidence is None and row.hides:
            confidence = HIDING_CONFIDENCE
        if confidence is not None:
            model = model.with_confidence(confidence)
        self._runner = Runner(model, settings)

    def __call__(self, image: NDArray[np.uint8] | Frame, time_s: float | None = None) -> Samples:
        """(H, W, 3) uint8 RGB, or a Frame -> the picture with the effect, a copy.

        time_s: when it is shown; by default pictures follow each other at `rate`.
        """
        if isinstance(image, Frame):
            frame = image
        else:
            image = np.asarray(image)
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
                raise UsageError(
                    f"expected a picture (h, w, 3) uint8, got {image.shape} {image.dtype}"
                )
            time_s = self._count * self._frame_s if time_s is None else time_s
            frame = Frame(image, self._count, time_s, self._count, Fraction(1, 25))
        copy = np.array(frame.image, np.uint8, order="C")
        height, width = copy.shape[:2]
        picture: Planes = Planes.over(copy.reshape(-1), RGB, Colours(), (height, width))
        out = self._applied(picture, frame)
        return out.parts[0]

    def filter_planes(self, shot: PlaneFrame) -> Planes:
        """The picture of a shot with the effect, in its own layout; changed where it lies, unless
        the effect makes a new one."""
        picture = shot.picture
        image = self._converted(picture) if self._runner else np.empty((1, 1, 3), np.uint8)
        frame = Frame(
            image=image,
            index=shot.index,
            time_s=shot.time_s,
            pts=shot.pts,
            time_base=shot.time_base,
            corrupt=shot.corrupt,
            discontinuity=shot.discontinuity,
        )
        return self._applied(picture, frame)

    @property
    def result(self) -> Result | None:
        """What the model says about the last picture."""
        return self.last_step.result if self.last_step else None

    def close(self) -> None:
        """Give back the network's memory and threads. Calling it again does nothing."""
        if self._runner is not None:
            self._runner.close()

    def __repr__(self) -> str:
        return f"<Filter {self.effect_settings.effect}, {self._runner!r}>"

    def _applied(self, picture: Planes, frame: Frame) -> Planes:
        self._count += 1
        if self._runner is None:
            return picture
        if EFFECTS[self.effect_settings.effect].hides:
            frame = self._distrusted(frame)
        self.last_step = step = self._runner.step(frame)
        result = _chosen(step.result, self.effect_settings.classes)
        if self.effect_settings.effect == "upscale":
            return self._painted(result, picture)
        if self.effect_settings.effect == "boxes":
            draw_on_planes(picture, result)
        elif self.effect_settings.effect != "none":
            for where in self._areas(picture, result, step):
                OBSCURE_METHODS[self.effect_settings.effect].hide(picture, where, self._style)
        return picture

    def _distrusted(self, frame: Frame) -> Frame:
        """A damaged picture may hide anything, so it is looked at itself, afresh; and the one after
        it does not rest on it."""
        after, self._damaged = self._damaged, frame.corrupt
        if not (after or frame.corrupt):
            return frame
        return replace(frame, corrupt=False, discontinuity=True)

    def _areas(self, picture: Planes, result: Result, step: StepResult) -> list[Area]:
        """What to hide in this frame."""
        effect_settings = self.effect_settings
        fresh = step.kind in ("computed", "unchanged")
        if isinstance(result, Mask):
            age_s = 0.0 if fresh else result.evidence.age_s
            share = (effect_settings.grow / GROW + age_s * STALE_MASK) * WIDEN_MASK
            where = mask_area(picture, hidden_in(result), share)
            return [] if where is None else [where]
        assert isinstance(result, Detections)  # _check lets no other task through
        boxes = self._hold.update(result.xyxy, step.frame.time_s, fresh=fresh)
        self.hidden = grow_boxes(boxes, effect_settings.grow)
        soft = OBSCURE_METHODS[effect_settings.effect].soft
        areas = (
            box_area(picture, tuple(box), effect_settings.shape, soft=soft)
            for box in self.hidden.tolist()
        )
        return [where for where in areas if where is not None]

    def _painted(self, result: Result, picture: Planes) -> Planes:
        """The model's own picture in the stream's layout; made once for frames that share it."""
        if not isinstance(result, Picture):  # _check lets no other task through
            raise ModelError(f"expected a picture, got {type(result).__name__}")
        made = self._made
        if made.painted is None or made.painted[0] is not result.image:
            if made.from_rgb is None:
                made.from_rgb = RgbToPlanes(picture.layout, picture.colours)
            made.painted = result.image, made.from_rgb(result.image)
        return made.painted[1]

    def _converted(self, picture: Planes) -> Samples:
        key = picture.layout, picture.colours, picture.height, picture.width
        if self._made.key != key:
            to_rgb = PlanesToRgb(picture.layout, picture.colours, (picture.height, picture.width))
            self._made = _Made(key, to_rgb)
        assert self._made.to_rgb is not None
        return self._made.to_rgb(picture)


def _check(model: Model, row: EffectSpec, effect_settings: EffectSettings) -> None:
    """Raises UsageError where a model's results are of no use for an effect."""
    if row.tasks and model.task not in row.tasks:
        raise UsageError(
            f"effect {effect_settings.effect}: expected a model for {' or '.join(row.tasks)}, got "
            f"{model.name}, which is for {model.task}; see `stillframe models list`"
        )
    unknown = [name for name in effect_settings.classes if name not in model.labels]
    if unknown:
        known = ", ".join(model.labels[:80]) or "none"
        raise UsageError(f"classes: {model.name} knows {known}; got {', '.join(unknown)}")


def hidden_in(result: Mask) -> NDArray[np.bool_]:
    """(H, W): what belongs to any class but the first, which is the background; of a probability,
    what is at least as likely as not."""
    if result.is_probability:
        return np.asarray(result.values >= 0.5)
    return np.asarray(result.values != 0)


def _chosen(result: Result, classes: tuple[str, ...]) -> Result:
    """The result without what is of other classes."""
    if not classes:
        return result
    if isinstance(result, Detections):
        wanted = [number for number, label in enumerate(result.labels) if label in classes]
        keep = np.isin(result.class_id, wanted)
        return replace(
            result,
            xyxy=result.xyxy[keep],
            confidence=result.confidence[keep],
            class_id=result.class_id[keep],
            landmarks=None if result.landmarks is None else result.landmarks[keep],
            masks=None if result.masks is None else result.masks[keep],
        )
    if isinstance(result, Mask) and not result.is_probability:
        table = np.array(
            [n if label in classes else 0 for n, label in enumerate(result.labels)], np.uint8
        )
        return replace(result, values=table[result.values])
    return result
