"""A graph run node by node in NumPy, islands by ONNX Runtime: the oracle for tests and checks."""

from collections.abc import Mapping

import numpy as np
import onnxruntime

from stillframe.reuse.ir.graph import ISLAND, Array, Graph, Node, Port, Shape
from stillframe.reuse.ir.ops import OPS


def to_region(array: Array, port: Port, shape: Shape) -> Array:
    """The ONNX array of a port -> (H, W, C) float32 of that shape; raw arrays unchanged."""
    if port.layout == "raw":
        return np.asarray(array)
    height, width, depth = shape
    sizes = (depth, height, width) if port.layout == "NCHW" else shape
    array = np.asarray(array, np.float32).reshape(sizes)
    return np.ascontiguousarray(array.transpose(1, 2, 0) if port.layout == "NCHW" else array)


def from_region(array: Array, port: Port) -> Array:
    """(H, W, C) float32 -> the ONNX array of a port; raw arrays unchanged."""
    if port.layout == "NCHW":
        array = array.transpose(2, 0, 1)
    if port.layout != "raw":
        array = np.ascontiguousarray(array).reshape(port.shape).astype(port.dtype)
    return array


def run(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Output name -> array, for the model's inputs by name; both in their ONNX shape and dtype."""
    tensors: dict[str, Array] = dict(graph.constants)
    for port in graph.inputs:
        tensors[port.name] = to_region(feeds[port.name], port, graph.shapes[port.name])
    for node in graph.nodes:
        if node.op == ISLAND:
            tensors |= run_island(node, tensors, graph.shapes)
        else:
            tensors[node.output] = OPS[node.op].reference(node, [tensors[n] for n in node.inputs])
            if tensors[node.output].shape != graph.shapes[node.output]:
                raise ValueError(
                    f"{node.op} -> {node.output!r}: declared {graph.shapes[node.output]},"
                    f" got {tensors[node.output].shape}"
                )
    return {port.name: from_region(tensors[port.name], port) for port in graph.outputs}


def run_island(
    node: Node, tensors: Mapping[str, Array], shapes: Mapping[str, Shape]
) -> dict[str, Array]:
    """The outputs of an island as the graph around it reads them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        node.attrs["model"], options, providers=["CPUExecutionProvider"]
    )
    reads, writes = node.attrs["reads"], node.attrs["writes"]
    feeds = {
        port.name: from_region(tensors[name], port)
        for name, port in zip(node.inputs, reads, strict=True)
    }
    outputs = session.run([port.name for port in writes], feeds)
    return {
        name: to_region(array, port, shapes[name])
        for name, port, array in zip(node.outputs, writes, outputs, strict=True)
    }
