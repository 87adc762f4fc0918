"""A row of the table of forms, and what every row needs: labels, a form filled in for a file."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from stillframe.models.forms.inspection import Seen
from stillframe.models.labels import COCO
from stillframe.models.model import Decoder, Form, Preprocessing, Sizing, Task

UNIT = Preprocessing(scale=1 / 255)
UNKNOWN_CLASSES = 1000
"""Where a graph lists boxes with the numbers of their classes and does not say of how many."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FormRow:
    """One form. says: its outputs, in words. fits: are these they? form: of such a file."""

    name: str
    task: Task
    says: str
    fits: Callable[[Seen], bool]
    form: Callable[[Seen], Form]


def form_for(
    seen: Seen,
    task: Task,
    decoder: Decoder,
    labels: tuple[str, ...],
    how: Preprocessing,
    *,
    confidence: float = 0.5,
    overlap: float = 0.45,
    multiple: int = 32,
) -> Form:
    """A form for this file: its layout, channels, element and sizes filled in."""
    if seen.picture.element == "uint8":  # such a graph does the rest itself
        how = replace(how, scale=1.0, mean=(0.0,) * 3, deviation=(1.0,) * 3)
    sizing = Sizing(seen.size)
    if seen.open:
        sizing = Sizing(seen.size, max(seen.size), max(multiple, seen.stride))
    return Form(
        task=task,
        decoder=decoder,
        sizing=sizing,
        preprocessing=replace(
            how,
            layout=seen.picture.layout,
            order="grey" if seen.picture.channels == 1 else how.order,
            element=seen.picture.element,  # type: ignore[arg-type]
        ),
        labels=labels,
        confidence=confidence,
        overlap=overlap,
    )


def labels_for(seen: Seen, count: int) -> tuple[str, ...]:
    """Names of that many classes: the file's own, COCO's where there are 80, else numbers."""
    own = own_labels(seen)
    if len(own) == count:
        return own
    return COCO if count == len(COCO) else tuple(f"class {i}" for i in range(count))


def listed_labels(seen: Seen) -> tuple[str, ...]:
    """The file's own names, or as many numbers as a list of boxes is likely to hold."""
    return own_labels(seen) or labels_for(seen, UNKNOWN_CLASSES)


def own_labels(seen: Seen) -> tuple[str, ...]:
    """Class names that the exporter left in the file: Ultralytics' names, RapidAI's character."""
    named = seen.metadata.get("names", seen.metadata.get("character"))
    if isinstance(named, dict):
        named = [named.get(i, i) for i in range(len(named))]
    elif isinstance(named, str):
        named = named.splitlines()
    return tuple(map(str, named)) if isinstance(named, list | tuple) else ()


def known_shapes(seen: Seen, *ranks: int) -> list[Shape] | None:
    """The outputs' shapes when they have those ranks, a batch of one, and every size is known."""
    shapes = [known(shape) for shape in seen.shapes]
    fits = tuple(map(len, shapes)) == ranks and all(shape[0] == 1 for shape in shapes)
    return shapes if fits else None


def known(shape: tuple[int | None, ...]) -> Shape:
    """The shape, or () when a size of it depends on the picture."""
    return tuple(d for d in shape if d is not None) if None not in shape else ()
