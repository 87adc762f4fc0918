"""Tiny ONNX networks written on the fly, so that nothing has to be fetched."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BOX = (10.0, 8.0, 50.0, 40.0)


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def brightness(path: Path, height: int = 64, width: int = 96) -> Path:
    """A detector whose one box is BOX and whose score is the picture's mean brightness, 0..1."""
    picture = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [1]),
    ]
    constants: dict[str, np.ndarray[Any, Any]] = {
        "box": np.array([BOX], np.float32),
        "class": np.array([1], np.int64),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=1),
        helper.make_node("Reshape", ["mean", "one"], ["scores"]),
        helper.make_node("Identity", ["box"], ["boxes"]),
        helper.make_node("Identity", ["class"], ["labels"]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return _save(helper.make_graph(nodes, "brightness", [picture], outputs, weights), path)


def endless(path: Path, above: float = 0.9, height: int = 64, width: int = 96) -> Path:
    """As `brightness`, but a picture brighter than `above` is counted in a loop without end."""
    bool_, float_ = TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["goes_on"], ["goes_on_still"]),
            helper.make_node("Mul", ["before", "one_float"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", bool_, []),
            helper.make_tensor_value_info("before", float_, [1, 1, 1, 1]),
        ],
        [
            helper.make_tensor_value_info("goes_on_still", bool_, []),
            helper.make_tensor_value_info("after", float_, [1, 1, 1, 1]),
        ],
    )
    constants: dict[str, np.ndarray[Any, Any]] = {
        "box": np.array([BOX], np.float32),
        "class": np.array([1], np.int64),
        "one": np.array([1], np.int64),
        "one_float": np.array(1, np.float32),
        "above": np.array(above, np.float32),
        "nothing": np.array([], np.int64),
        "turns": np.array(2**62, np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=1),
        helper.make_node("Greater", ["mean", "above"], ["bright"]),
        helper.make_node("Reshape", ["bright", "nothing"], ["is_bright"]),
        helper.make_node("Loop", ["turns", "is_bright", "mean"], ["counted"], body=body),
        helper.make_node("Reshape", ["counted", "one"], ["scores"]),
        helper.make_node("Identity", ["box"], ["boxes"]),
        helper.make_node("Identity", ["class"], ["labels"]),
    ]
    graph = helper.make_graph(
        nodes,
        "endless",
        [helper.make_tensor_value_info("image", float_, [1, 3, height, width])],
        [
            helper.make_tensor_value_info("boxes", float_, [1, 4]),
            helper.make_tensor_value_info("scores", float_, [1]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _save(graph, path)


def negative(path: Path, height: int | str = "height", width: int | str = "width") -> Path:
    """A network that answers a picture with its negative, at any size."""
    shape = [1, 3, height, width]
    picture = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    painted = helper.make_tensor_value_info("painted", TensorProto.FLOAT, shape)
    one = numpy_helper.from_array(np.array(1, np.float32), "one")
    nodes = [helper.make_node("Sub", ["one", "image"], ["painted"])]
    return _save(helper.make_graph(nodes, "negative", [picture], [painted], [one]), path)


def painter(path: Path, height: int = 64, width: int = 96) -> Path:
    """Two convolutions that answer a picture with a picture."""
    draw = np.random.default_rng(3)
    shapes = {"w0": (8, 3, 3, 3), "w1": (3, 8, 3, 3)}
    weights = [
        numpy_helper.from_array(draw.normal(0, 0.2, shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c1"], ["painted"]),
    ]
    shape = [1, 3, height, width]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("painted", TensorProto.FLOAT, shape)]
    return _save(helper.make_graph(nodes, "painter", inputs, outputs, weights), path)


def deep(path: Path) -> Path:
    """Six convolutions in a row, with a branch around two of them."""
    draw = np.random.default_rng(2)
    nodes, weights, last = [], [], "image"
    for index in range(6):
        shape = (8, 3 if index == 0 else 8, 3, 3)
        values = draw.normal(0, 0.2, shape).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{index}"))
        name = f"c{index}"
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [name], pads=[1, 1, 1, 1]))
        last = name
        if index == 4:
            nodes.append(helper.make_node("Add", [name, "c2"], ["sum"]))
            last = "sum"
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 24, 40])]
    outputs = [helper.make_tensor_value_info("c5", TensorProto.FLOAT, [1, 8, 24, 40])]
    return _save(helper.make_graph(nodes, "deep", inputs, outputs, weights), path)
