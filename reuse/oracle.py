"""A graph run plainly, node by node, in NumPy; islands by ONNX Runtime. For tests and checks."""

from collections.abc import Mapping

import numpy as np
import onnxruntime

from stillframe.reuse.graph import ISLAND, Array, Graph, Node, Port
from stillframe.reuse.ops import OPS


def to_region(array: Array, layout: str) -> Array:
    """A fed array -> (H, W, C) float32; raw arrays as they are."""
    if layout == "raw":
        return np.asarray(array)
    array = np.asarray(array, np.float32)
    return np.ascontiguousarray(array[0].transpose(1, 2, 0) if layout == "NCHW" else array[0])


def from_region(array: Array, port: Port) -> Array:
    """(H, W, C) -> what stands at the port."""
    if port.layout == "NCHW":
        array = array.transpose(2, 0, 1)
    if port.layout != "raw":
        array = np.ascontiguousarray(array).reshape(port.shape).astype(port.dtype)
    return array


def run(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Input name -> array as the model declares it, to output name -> array."""
    tensors: dict[str, Array] = dict(graph.constants)
    for port in graph.inputs:
        tensors[port.name] = to_region(feeds[port.name], port.layout)
    for node in graph.nodes:
        if node.op == ISLAND:
            tensors |= run_island(node, tensors)
        else:
            tensors[node.output] = OPS[node.op].reference(node, [tensors[n] for n in node.inputs])
            if tensors[node.output].shape != graph.shapes[node.output]:
                raise ValueError(f"{node.op} -> {node.output!r} has another shape than declared")
    return {port.name: from_region(tensors[port.name], port) for port in graph.outputs}


def run_island(node: Node, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of an island, in the layouts that the graph around it expects."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        node.attrs["model"], options, providers=["CPUExecutionProvider"]
    )
    feeds = {port.name: from_region(tensors[port.name], port) for port in node.attrs["reads"]}
    found = session.run(list(node.outputs), feeds)
    return {
        port.name: to_region(array, port.layout)
        for port, array in zip(node.attrs["writes"], found, strict=True)
    }
