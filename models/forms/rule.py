"""FormRule, a row of the table of forms, and what every rule needs: labels, a form for a file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum

from stillframe.models.forms.inspection import InspectedModel
from stillframe.models.labels import COCO
from stillframe.models.model import Decoder, Form, Preprocessing, Sizing, Task

UNIT = Preprocessing(scale=1 / 255)
"""0..255 to 0..1."""
MAX_CLASSES = 256
"""Of maps with an integer for each pixel: a class index is one byte."""
UNKNOWN_CLASSES = 1000
"""Number of classes where a graph lists boxes with class numbers and names no classes."""

NUMBERED = tuple(f"class {number}" for number in range(UNKNOWN_CLASSES))
"""Labels of a model whose outputs do not tell how many classes there are."""

Shape = tuple[int, ...]


class Match(IntEnum):
    """What a form is recognised by. The best match decides; two that are equal do not."""

    NONE = 0
    """The outputs cannot be of this form."""
    POSSIBLE = 1
    """Nothing contradicts the form, and nothing speaks for it: taken only where --task asks."""
    SHAPE = 2
    """Ranks and depths fit, as those of few other forms do."""
    SIZE = 3
    """A size follows from the input's, or the values of a sample run fit."""
    NAMED = 4
    """Names, metadata or operators say so."""


@dataclass(frozen=True, slots=True)
class FormRule:
    """How one form is recognised."""

    name: str
    """Also a value of --task."""
    task: Task
    description: str
    """Of the outputs, for error messages and the table in the documentation."""
    matches: Callable[[InspectedModel], "Match | bool"]
    """True: as `basis` says."""
    form: Callable[[InspectedModel], Form]
    """The form of a file that matches."""
    basis: Match = Match.SHAPE
    """What `matches` looks at, where it does not say itself."""

    def strength(self, model: InspectedModel) -> Match:
        """How well the outputs of the file fit."""
        match = self.matches(model)
        return match if isinstance(match, Match) else (self.basis if match else Match.NONE)


def form_for(
    model: InspectedModel,
    task: Task,
    decoder: Decoder,
    labels: tuple[str, ...],
    preprocessing: Preprocessing,
    *,
    confidence: float = 0.5,
    overlap: float = 0.45,
    multiple: int = 32,
) -> Form:
    """A form with the layout, channels, element type and sizes that the file itself declares."""
    image = model.image_input
    if image.element == "uint8":  # such a graph normalises its input itself
        preprocessing = replace(preprocessing, scale=1.0, mean=(0.0,) * 3, deviation=(1.0,) * 3)
    sizing = Sizing(model.size)
    if model.size_is_free:
        sizing = Sizing(model.size, max(model.size), max(multiple, model.coarsest_stride))
    return Form(
        task=task,
        decoder=decoder,
        sizing=sizing,
        preprocessing=replace(
            preprocessing,
            layout=image.layout,
            order="grey" if image.channels == 1 else preprocessing.order,
            element=image.element,  # type: ignore[arg-type]
        ),
        labels=labels,
        confidence=confidence,
        overlap=overlap,
        open_classes=labels in (NUMBERED, NUMBERED[:MAX_CLASSES]),
        side=model.side,
    )


def labels_for(model: InspectedModel, count: int) -> tuple[str, ...]:
    """Names of that many classes: the file's own, COCO's if there are 80, else numbers."""
    own = own_labels(model)
    if len(own) == count:
        return own
    return COCO if count == len(COCO) else tuple(f"class {i}" for i in range(count))


def labels_or_numbers(model: InspectedModel) -> tuple[str, ...]:
    """The file's own class names, or NUMBERED."""
    return own_labels(model) or NUMBERED


def own_labels(model: InspectedModel) -> tuple[str, ...]:
    """Class names that are stated, or in the metadata: Ultralytics' `names`, RapidAI's `character`;
    () without any."""
    if model.labels is not None:
        return model.labels
    names = model.metadata.get("names", model.metadata.get("character"))
    if isinstance(names, dict):
        names = [names.get(i, i) for i in range(len(names))]
    elif isinstance(names, str):
        names = names.splitlines()
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def fixed_shapes(model: InspectedModel, *ranks: int) -> list[Shape] | None:
    """The outputs' shapes if they have these ranks, batch 1 and every size fixed; else None."""
    shapes = [fixed_shape(shape) for shape in model.shapes]
    fits = tuple(map(len, shapes)) == ranks and all(shape[0] == 1 for shape in shapes)
    return shapes if fits else None


def fixed_shape(shape: tuple[int | None, ...]) -> Shape:
    """The shape, or () if a size depends on the image."""
    return tuple(d for d in shape if d is not None) if None not in shape else ()
