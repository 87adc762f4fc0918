"""What a model file says of its inputs and outputs, before any shape is fixed."""

from dataclasses import dataclass
from pathlib import Path

from stillframe.reuse.frontend.onnx_loader import declared_ports

Size = int | str | None


@dataclass(frozen=True, slots=True)
class OpenPort:
    """As onnxruntime's NodeArg: a name, a shape that may be open, and a type.

    type: "tensor(float)" and the like. dtype: NumPy's name for it.
    """

    name: str
    shape: list[Size]
    type: str
    dtype: str


@dataclass(frozen=True, slots=True)
class SourceModel:
    inputs: tuple[OpenPort, ...]
    outputs: tuple[OpenPort, ...]


TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "float16",
    "int64": "int64",
    "int32": "int32",
    "uint8": "uint8",
    "int8": "int8",
    "bool": "bool",
    "uint16": "uint16",
    "int16": "int16",
    "uint32": "uint32",
    "uint64": "uint64",
}


def read_source(source: Path | bytes) -> SourceModel:
    """Raises ModelError for what is not an ONNX model."""
    inputs, outputs = (
        tuple(
            OpenPort(name, list(shape), f"tensor({TYPES.get(dtype, dtype)})", dtype)
            for name, shape, dtype in ports
        )
        for ports in declared_ports(source)
    )
    return SourceModel(inputs, outputs)
