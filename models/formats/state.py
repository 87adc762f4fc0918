"""State that is fed back: outputs that become inputs of the next frame, as in RVM.

In the cleaned file the picture is the first input and states follow it; their next values are the
last outputs, in the same order. So whoever runs the file needs to know no names.
"""

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from stillframe.errors import ModelError, shortened
from stillframe.models.formats.side_inputs import SideInputs

MOST_TRIES = 3
"""Runs in which the shape of a state has to settle."""
MAX_STATE = 1 << 28
"""Numbers in a state, at most."""

Shapes = dict[str, tuple[int, ...]]


def fix_state(model: onnx.ModelProto, side: SideInputs, image: str, title: str) -> None:
    """Order inputs and outputs as the module says, and fix the shapes of states.

    image: the picture's input, whose shape is fixed. An open dimension of a state is that of its
    output, in a run that begins with 1 there. Raises ModelError where that does not settle.
    """
    names = list(side.state.values())
    inputs = {each.name: each for each in model.graph.input}
    outputs = {each.name: each for each in model.graph.output}
    ordered = [inputs[image], *(inputs[name] for name in names)]
    last = [each for each in model.graph.output if each.name not in side.state]
    ordered_outputs = [*last, *(outputs[name] for name in side.state)]
    copies = [onnx.ValueInfoProto.FromString(each.SerializeToString()) for each in ordered]
    del model.graph.input[:]
    model.graph.input.extend(copies)
    copies = [onnx.ValueInfoProto.FromString(each.SerializeToString()) for each in ordered_outputs]
    del model.graph.output[:]
    model.graph.output.extend(copies)
    shapes = _settled_shapes(model, side, title)
    for each in model.graph.input:
        if each.name in shapes:
            _set_shape(each, shapes[each.name])


def _settled_shapes(model: onnx.ModelProto, side: SideInputs, title: str) -> Shapes:
    """The shape of each state input at which its output has the same."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {port.name: _zeros(port) for port in session.get_inputs()}
        for _ in range(MOST_TRIES):
            states: list[NDArray[Any]] = session.run(list(side.state), feeds)
            shapes = {
                name: tuple(state.shape)
                for name, state in zip(side.state.values(), states, strict=True)
            }
            if any(math.prod(shape) > MAX_STATE for shape in shapes.values()):
                raise ModelError(f"{title}: state: expected at most {MAX_STATE} numbers")
            if all(feeds[name].shape == shape for name, shape in shapes.items()):
                return shapes
            feeds |= {name: np.zeros(shape, feeds[name].dtype) for name, shape in shapes.items()}
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        reason = shortened(" ".join(str(error).split()))
        raise ModelError(
            f"{title}: state: its shape is open and cannot be found by running: {reason}; fix the "
            f"shapes of {', '.join(side.state.values())} in the file"
        ) from error
    raise ModelError(
        f"{title}: state: expected outputs {', '.join(side.state)} of the shapes of their inputs, "
        "got others at each run"
    )


def _zeros(port: Any) -> NDArray[Any]:
    """Zeros for an input of a session, 1 where a side is open."""
    sides = [side if isinstance(side, int) and side > 0 else 1 for side in port.shape]
    name = port.type.removeprefix("tensor(").removesuffix(")").upper()
    element = onnx.TensorProto.DataType.Value(name)
    return np.zeros(sides, helper.tensor_dtype_to_np_dtype(element))


def _set_shape(port: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    port.type.tensor_type.ClearField("shape")
    port.type.tensor_type.shape.SetInParent()
    for side in shape:
        port.type.tensor_type.shape.dim.add().dim_value = side


def zero_states(model: onnx.ModelProto, side: SideInputs) -> dict[str, NDArray[Any]]:
    """The states of the first frame, by the name of their input, in the cleaned file's order."""
    states = {}
    for port in model.graph.input:
        if port.name in side.state.values():
            kind = port.type.tensor_type
            shape = [dim.dim_value for dim in kind.shape.dim]
            states[port.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return states
