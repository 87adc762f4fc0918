"""The inputs and outputs that a model file declares, before any shape is fixed."""

from dataclasses import dataclass
from pathlib import Path

import onnx

from stillframe.reuse.frontend.model_errors import model_errors, model_title
from stillframe.reuse.frontend.onnx_loader import load_model
from stillframe.reuse.frontend.shape_inference import dtype_name

Size = int | str | None
"""A number, the name of an open size, or None for an open size without one."""


@dataclass(frozen=True, slots=True)
class DeclaredPort:
    """One input or output; the same attributes as onnxruntime.NodeArg."""

    name: str
    shape: list[Size]
    type: str
    """As ONNX Runtime spells it: "tensor(float)"."""
    dtype: str
    """NumPy's name of it: "float32"."""


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """The inputs (without initializers) and outputs of a model file."""

    inputs: tuple[DeclaredPort, ...]
    outputs: tuple[DeclaredPort, ...]


ORT_TYPES = {
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
"""NumPy's name of a dtype -> ONNX Runtime's."""


def read_signature(source: str | Path | bytes) -> ModelSignature:
    """The signature of an ONNX file, or of its bytes. Raises ModelError."""
    with model_errors(model_title(source)):
        graph = load_model(source).graph
        initializers = {tensor.name for tensor in graph.initializer}
        ports = [value for value in graph.input if value.name not in initializers]
        return ModelSignature(
            inputs=tuple(map(declared, ports)), outputs=tuple(map(declared, graph.output))
        )


def declared(value: onnx.ValueInfoProto) -> DeclaredPort:
    tensor = value.type.tensor_type
    shape: list[Size] = [
        dim.dim_value if dim.dim_value > 0 else dim.dim_param or None for dim in tensor.shape.dim
    ]
    dtype = dtype_name(tensor.elem_type)
    return DeclaredPort(value.name, shape, f"tensor({ORT_TYPES.get(dtype, dtype)})", dtype)
