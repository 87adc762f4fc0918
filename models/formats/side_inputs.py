"""Inputs beside the picture: constants of the input's size, and states fed back from outputs.

Constants become part of the cleaned file, so that every backend sees a network that takes a picture
alone. What exporters of well-known networks ask for is known here; a model card says the rest.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import ModelError

if TYPE_CHECKING:  # slow to load, and a start with cached files needs none of it
    import onnx

MAX_SIDE = 8192
"""Of a picture that a network takes, pixels."""

Constant = float | str | Sequence["Constant"]
"""A number, "height" or "width" of the model's input, or a list of these."""

KNOWN_CONSTANTS: Mapping[str, Constant] = {
    "orig_target_sizes": (("width", "height"),),  # RT-DETR, D-FINE, DEIM: boxes in model pixels
    "im_shape": (("height", "width"),),  # PaddleDetection
    "scale_factor": ((1, 1),),  # PaddleDetection: boxes are divided by it
    "downsample_ratio": (1,),  # Robust Video Matting
}
KNOWN_STATE = re.compile(r"(r\d)o")
"""Robust Video Matting: output r1o is the next frame's input r1i, and so on."""


@dataclass(frozen=True, slots=True)
class SideInputs:
    """What the inputs beside the picture are fed."""

    constants: Mapping[str, Constant] = field(default_factory=dict)
    """By the input's name."""
    state: Mapping[str, str] = field(default_factory=dict)
    """Output -> the input that is fed it with the next frame; zeros at first."""

    @property
    def names(self) -> set[str]:
        """Of the inputs."""
        return {*self.constants, *self.state.values()}


def side_inputs(model: "onnx.ModelProto", stated: SideInputs, title: str) -> SideInputs:
    """What is stated, and what is known of inputs that the model has.

    Raises ModelError where a name is stated that the model does not have.
    """
    inputs = {each.name for each in model.graph.input}
    outputs = {each.name for each in model.graph.output}
    for name in stated.names - inputs:
        raise ModelError(
            f"{title}: expected the name of an input, one of {', '.join(sorted(inputs))}, "
            f"got {name!r}"
        )
    for name in stated.state.keys() - outputs:
        raise ModelError(
            f"{title}: state: expected the name of an output, one of "
            f"{', '.join(sorted(outputs))}, got {name!r}"
        )
    constants = {k: v for k, v in KNOWN_CONSTANTS.items() if k in inputs} | dict(stated.constants)
    known = {m[0]: f"{m[1]}i" for m in map(KNOWN_STATE.fullmatch, outputs) if m}
    state = {k: v for k, v in sorted(known.items()) if v in inputs} | dict(stated.state)
    fed_back = set(state.values())
    return SideInputs({k: v for k, v in constants.items() if k not in fed_back}, state)


def put_constants(
    model: "onnx.ModelProto", side: SideInputs, size: tuple[int, int], title: str
) -> None:
    """Turn the inputs that have constants into initializers. size: (H, W) of the picture."""
    from onnx import numpy_helper

    remaining = []
    for each in model.graph.input:
        if each.name not in side.constants:
            remaining.append(each)
            continue
        value = _array(each, side.constants[each.name], size, title)
        model.graph.initializer.append(numpy_helper.from_array(value, each.name))
    del model.graph.input[:]
    model.graph.input.extend(remaining)


def _array(
    port: "onnx.ValueInfoProto", constant: Constant, size: tuple[int, int], title: str
) -> NDArray[Any]:
    """The constant as the type and rank that the input declares. Raises ModelError."""
    from onnx import helper

    kind = port.type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    where = f"{title}: constant {port.name!r}"
    try:
        numbers = np.array(_resolved(constant, size), np.float64)
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        value = np.asarray(numbers.astype(dtype))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"{where}: expected numbers, height, width, or lists of these of equal length, "
            f"got {constant!r}"
        ) from error
    fits = value.ndim == len(dims) and all(
        d in (None, n) for d, n in zip(dims, value.shape, strict=True)
    )
    if kind.HasField("shape") and not fits:
        expected = "x".join("?" if d is None else str(d) for d in dims) or "a single number"
        got = "x".join(map(str, value.shape)) or "a single number"
        raise ModelError(f"{where}: expected {expected}, as the model declares, got {got}")
    return value


def _resolved(constant: Constant, size: tuple[int, int]) -> Any:
    """Nested lists of numbers."""
    if isinstance(constant, str):
        return {"height": size[0], "width": size[1]}[constant]
    if isinstance(constant, Sequence):
        return [_resolved(each, size) for each in constant]
    return constant
