"""Filter: a model detects objects in each picture, and an effect hides, draws or replaces them.

    PlaneFrame ─RGB─► SteeredRunner ─► Result ─► areas ─► effect in the stream's planes ─► Planes

Samples that no effect touches stay bit-identical. `effects.EFFECTS` lists what each effect needs.
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
from stillframe.models.results import Detections, Mask, Picture, Result, with_labels
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
from stillframe.pipeline.inference.settings import QUALITY, TOLERANCE, Reuse, Settings
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.quality.auto.runner import SteeredRunner

WIDEN_MASK = 0.01  # mask dilation at the default `grow`, in the picture's shorter side
STALE_MASK = 10.0  # how many times that is added per second of a mask's age


@dataclass(slots=True)
class _Conversions:
    """Converters for the pictures' current layout and size."""

    key: tuple[object, ...] = ()
    """Layout, colours and size that they are for."""
    to_rgb: PlanesToRgb | None = None
    from_rgb: RgbToPlanes | None = None
    last_picture: tuple[NDArray[np.uint8], Planes] | None = None
    """The model's last picture in RGB and in the stream's layout."""


class Filter(Closing):
    """Applies one effect to the pictures of one stream, in their order.

        with stillframe.Filter(model="centerface", effect="blur") as f:
            out = f(image)

    model: a name, a path to an .onnx file or a Model; None: the effect's default model. effect: a
    name in `effects.EFFECTS`. grow, shape, classes, hold_s, cells and colour: as in
    `EffectSettings`. reuse, max_age_s, every, between, threads,
    tolerance and quality: as in `Settings`, by default "auto".
    task: what a model file's outputs mean, if their shapes do not show it. confidence: least score
    of a detection; 0.2 by default for effects that hide. rate: frames per second of pictures
    without a time.

    Raises UsageError for settings that make no sense, ModelError if the model cannot be fetched,
    run or used for the effect. A picture that could not be analysed is never returned.
    """

    effect_settings: EffectSettings
    hidden: Boxes
    """(n, 4) boxes hidden in the last picture: left, top, right, bottom in pixels."""
    last_step: StepResult | None
    """What the runner did with the last picture."""

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
        reuse: Reuse = "auto",
        max_age_s: float | None = None,
        every: int | None = None,
        between: Between | None = None,
        threads: int = 0,
        tolerance: float = TOLERANCE,
        quality: float = QUALITY,
        rate: Fraction | float = 25,
    ) -> None:
        effect_settings = EffectSettings(effect, grow, shape, tuple(classes), hold_s, cells, colour)
        settings = Settings(
            reuse, max_age_s, every, threads, tolerance, between=between, quality=quality
        )
        source = EFFECTS[effect].model if model is None else model
        resolved = None if source is None else zoo.resolve(source, task)
        self._setup(resolved, effect_settings, settings, confidence, rate)

    @classmethod
    def from_settings(
        cls,
        model: Model | None,
        effect_settings: EffectSettings,
        settings: Settings,
        confidence: float | None = None,
        rate: Fraction | float = 25,
    ) -> Self:
        """A filter from checked settings. model: None for an effect without one."""
        self = cls.__new__(cls)
        self._setup(model, effect_settings, settings, confidence, rate)
        return self

    def _setup(
        self,
        model: Model | None,
        effect_settings: EffectSettings,
        settings: Settings,
        confidence: float | None,
        rate: Fraction | float,
    ) -> None:
        if not rate > 0:
            raise UsageError(f"rate: expected more than 0 pictures a second, got {rate}")
        spec = EFFECTS[effect_settings.effect]
        self.effect_settings = effect_settings
        self.last_step = None
        self.hidden = np.empty((0, 4), np.float32)
        self._runner: SteeredRunner | None = None
        self._style = ObscureStyle(effect_settings.cells, effect_settings.colour)
        self._hold = BoxHold(effect_settings.hold_s if spec.hides else 0.0)
        self._conversions = _Conversions()
        self._frame_s = 1 / float(rate)
        self._count = 0
        self._last_corrupt = False
        if model is None:
            return
        _check_model(model, spec, effect_settings)
        if confidence is None and spec.hides:
            confidence = HIDING_CONFIDENCE
        if confidence is not None:
            model = model.with_confidence(confidence)
        self._runner = SteeredRunner(model, settings)

    def __call__(self, image: NDArray[np.uint8] | Frame, time_s: float | None = None) -> Samples:
        """(H, W, 3) uint8 RGB or a Frame -> a copy with the effect.

        time_s: presentation time; by default pictures follow each other at `rate`.
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
        out = self._apply(picture, frame)
        return out.parts[0]

    def filter_planes(self, plane_frame: PlaneFrame) -> Planes:
        """The picture with the effect in its own layout; modified in place where possible."""
        picture = plane_frame.picture
        image = self._to_rgb(picture) if self._runner else np.empty((1, 1, 3), np.uint8)
        frame = Frame(
            image=image,
            index=plane_frame.index,
            time_s=plane_frame.time_s,
            pts=plane_frame.pts,
            time_base=plane_frame.time_base,
            corrupt=plane_frame.corrupt,
            discontinuity=plane_frame.discontinuity,
        )
        return self._apply(picture, frame)

    @property
    def result(self) -> Result | None:
        """The model's result for the last picture."""
        return self.last_step.result if self.last_step else None

    def close(self) -> None:
        """Free the model's memory and threads. May be called twice."""
        if self._runner is not None:
            self._runner.close()

    def __repr__(self) -> str:
        return f"<Filter {self.effect_settings.effect}, {self._runner!r}>"

    def _apply(self, picture: Planes, frame: Frame) -> Planes:
        self._count += 1
        if self._runner is None:
            return picture
        if EFFECTS[self.effect_settings.effect].hides:
            frame = self._replace_after_damage(frame)
        self.last_step = step = self._runner.step(frame)
        result = with_labels(step.result, self.effect_settings.classes)
        if self.effect_settings.effect == "upscale":
            return self._model_picture(result, picture)
        if self.effect_settings.effect == "boxes":
            draw_on_planes(picture, result)
        elif self.effect_settings.effect != "none":
            for area in self._areas(picture, result, step):
                OBSCURE_METHODS[self.effect_settings.effect].hide(picture, area, self._style)
        return picture

    def _replace_after_damage(self, frame: Frame) -> Frame:
        """Have a corrupt frame and the one after it computed without reuse.

        By default a corrupt frame gets the last result; but it may show a face in a new place.
        """
        after_corrupt, self._last_corrupt = self._last_corrupt, frame.corrupt
        if not (after_corrupt or frame.corrupt):
            return frame
        return replace(frame, corrupt=False, discontinuity=True)

    def _areas(self, picture: Planes, result: Result, step: StepResult) -> list[Area]:
        """The areas to hide in this frame."""
        effect_settings = self.effect_settings
        fresh = step.kind in ("computed", "unchanged")
        if isinstance(result, Mask):
            age_s = 0.0 if fresh else result.evidence.age_s
            widen = (effect_settings.grow / GROW + age_s * STALE_MASK) * WIDEN_MASK
            area = mask_area(picture, foreground(result), widen)
            return [] if area is None else [area]
        assert isinstance(result, Detections)  # _check_model accepts no other task
        boxes = self._hold.update(result.xyxy, step.frame.time_s, fresh=fresh)
        self.hidden = grow_boxes(boxes, effect_settings.grow)
        soft = OBSCURE_METHODS[effect_settings.effect].soft
        areas = (
            box_area(picture, tuple(box), effect_settings.shape, soft=soft)
            for box in self.hidden.tolist()
        )
        return [area for area in areas if area is not None]

    def _model_picture(self, result: Result, picture: Planes) -> Planes:
        """The model's own picture in the stream's layout; converted once per result."""
        if not isinstance(result, Picture):  # _check_model accepts no other task
            raise ModelError(f"expected a picture, got {type(result).__name__}")
        cache = self._conversions
        if cache.last_picture is None or cache.last_picture[0] is not result.image:
            if cache.from_rgb is None:
                cache.from_rgb = RgbToPlanes(picture.layout, picture.colours)
            cache.last_picture = result.image, cache.from_rgb(result.image)
        return cache.last_picture[1]

    def _to_rgb(self, picture: Planes) -> Samples:
        key = picture.layout, picture.colours, picture.height, picture.width
        if self._conversions.key != key:
            to_rgb = PlanesToRgb(picture.layout, picture.colours, (picture.height, picture.width))
            self._conversions = _Conversions(key, to_rgb)
        assert self._conversions.to_rgb is not None
        return self._conversions.to_rgb(picture)


def _check_model(model: Model, spec: EffectSpec, effect_settings: EffectSettings) -> None:
    """Raises UsageError if the effect cannot use the model's results."""
    if spec.tasks and model.task not in spec.tasks:
        raise UsageError(
            f"effect {effect_settings.effect}: expected a model for {' or '.join(spec.tasks)}, got "
            f"{model.name}, which is for {model.task}; see `stillframe models list`"
        )
    unknown = [name for name in effect_settings.classes if name not in model.labels]
    if unknown:
        known = ", ".join(model.labels[:80]) or "none"
        raise UsageError(f"classes: {model.name} knows {known}; got {', '.join(unknown)}")


def foreground(result: Mask) -> NDArray[np.bool_]:
    """(H, W): pixels of any class but 0, the background; of a probability, those from 0.5 on."""
    if result.is_probability:
        return np.asarray(result.values >= 0.5)
    return np.asarray(result.values != 0)
