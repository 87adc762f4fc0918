"""Files of other frameworks: what they are, and the line that exports them to ONNX."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stillframe.errors import ModelError


@dataclass(frozen=True, slots=True)
class ForeignFormat:
    """A format that is not read, by the end of the file's name."""

    what: str
    export: str
    """What to type; {path} and {stem} are those of the file."""


TF2ONNX = "python -m tf2onnx.convert"
FOREIGN: Mapping[str, ForeignFormat] = {
    ".pt": ForeignFormat(
        "a PyTorch checkpoint, which is not opened because it can run code",
        "yolo export model={path} format=onnx (Ultralytics), or torch.onnx.export in the program "
        "that trained it",
    ),
    ".pth": ForeignFormat(
        "a PyTorch checkpoint, which is not opened because it can run code",
        "torch.onnx.export(model, example, '{stem}.onnx') in the program that trained it",
    ),
    ".safetensors": ForeignFormat(
        "weights without a network",
        "optimum-cli export onnx --model FOLDER OUT, with the folder that holds its config.json",
    ),
    ".tflite": ForeignFormat(
        "a TensorFlow Lite model", f"{TF2ONNX} --tflite {{path}} --output {{stem}}.onnx"
    ),
    ".pb": ForeignFormat(
        "a TensorFlow graph", f"{TF2ONNX} --saved-model FOLDER --output {{stem}}.onnx"
    ),
    ".h5": ForeignFormat("a Keras model", f"{TF2ONNX} --keras {{path}} --output {{stem}}.onnx"),
    ".keras": ForeignFormat("a Keras model", f"{TF2ONNX} --keras {{path}} --output {{stem}}.onnx"),
    ".pdmodel": ForeignFormat(
        "a Paddle model",
        "paddle2onnx --model_dir FOLDER --model_filename {path} --save_file {stem}.onnx",
    ),
    ".engine": ForeignFormat(
        "a TensorRT engine, which cannot be turned back", "the model that it was built from"
    ),
    ".xml": ForeignFormat(
        "an OpenVINO model, which cannot be turned back", "the model that it was converted from"
    ),
}


def refuse_foreign(path: Path) -> None:
    """Raise ModelError, with what to type, for a file whose name ends like another format's."""
    foreign = FOREIGN.get(path.suffix.lower())
    if foreign is not None:
        line = foreign.export.format(path=path, stem=path.stem)
        raise ModelError(f"{path}: expected an ONNX file, got {foreign.what}; export: {line}")
