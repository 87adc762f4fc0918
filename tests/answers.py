"""Small ONNX files that answer any picture with given arrays, as exports of that shape would."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Answers = Mapping[str, NDArray[Any]]
Steps = list[tuple[str, dict[str, Any], list[NDArray[Any]]]]
ELEMENTS = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


def answering(
    path: Path,
    answers: Answers,
    *,
    picture: tuple[int | str, ...] = (1, 3, 64, 96),
    name: str = "images",
    element: str = "float32",
    ends: str | None = None,
    ragged: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write such a file. ends: an operator that each answer comes out of, which must undo nothing.
    ragged: the number of rows of each answer follows from the picture, so no shape can tell it."""
    nodes = [
        helper.make_node("Cast", [name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["float"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "zero"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.array(0, np.float32), "zero")]
    outputs = []
    for place, (output, values) in enumerate(answers.items()):
        constants.append(numpy_helper.from_array(values, f"given{place}"))
        source, last = f"given{place}", output if ends is None else f"plain{place}"
        if ragged:
            constants.append(
                numpy_helper.from_array(np.ones(len(values), np.float32), f"on{place}")
            )
            nodes += [
                helper.make_node("Add", [f"on{place}", "nothing"], [f"live{place}"]),
                helper.make_node("NonZero", [f"live{place}"], [f"found{place}"]),
                helper.make_node("Flatten", [f"found{place}"], [f"row{place}"], axis=0),
                helper.make_node("GatherND", [source, f"which{place}"], [f"ragged{place}"]),
            ]
            nodes.insert(-1, helper.make_node("Transpose", [f"row{place}"], [f"which{place}"]))
            source = f"ragged{place}"
        if values.dtype == np.float32:
            nodes.append(helper.make_node("Add", [source, "nothing"], [last]))
        else:
            nodes.append(helper.make_node("Identity", [source], [last]))
        if ends is not None:
            nodes.append(helper.make_node(ends, [last], [output]))
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        outputs.append(helper.make_tensor_value_info(output, kind, [None] * values.ndim))
    source = helper.make_tensor_value_info(name, ELEMENTS[element], list(picture))
    return save(path, nodes, [source], outputs, constants, metadata)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: list[onnx.TensorProto],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    graph = helper.make_graph(nodes, "answers", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path


def painting(
    path: Path,
    steps: Steps,
    *,
    picture: tuple[int | str, ...] = (1, 3, 64, 96),
) -> Path:
    """A chain of operators from the picture to one output, each with its constants."""
    nodes, constants, last = [], [], "images"
    for place, (op, attributes, values) in enumerate(steps):
        names = [last]
        for i, value in enumerate(values):
            names.append(f"c{place}_{i}" if value.size else "")
            if value.size:
                constants.append(numpy_helper.from_array(value, names[-1]))
        last = "output" if place == len(steps) - 1 else f"step{place}"
        nodes.append(helper.make_node(op, names, [last], **attributes))
    source = helper.make_tensor_value_info("images", TensorProto.FLOAT, list(picture))
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, [None] * 4)
    return save(path, nodes, [source], [output], constants)
