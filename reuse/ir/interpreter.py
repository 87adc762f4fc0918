"""A graph run plainly, node by node, in NumPy; islands by ONNX Runtime. For tests and checks."""

from collections.abc import Mapping

import numpy as np
import onnxruntime

from stillframe.reuse.ir.graph import ISLAND, Array, Graph, Node, Port
from stillframe.reuse.ir.ops import OPS


def to_region(array: Array, port: Port) -> Array:
    """What stands at the port -> (H, W, C) float32; raw arrays as they are."""
    if port.layout == "raw":
        return np.asarray(array)
    array = np.asarray(array, np.float32)[0]
    return np.ascontiguousarray(array.transpose(1, 2, 0) if port.layout == "NCHW" else array)


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
        tensors[port.name] = to_region(feeds[port.name], port)
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
    reads, writes = node.attrs["reads"], node.attrs["writes"]
    feeds = {
        port.name: from_region(tensors[name], port)
        for name, port in zip(node.inputs, reads, strict=True)
    }
    found = session.run([port.name for port in writes], feeds)
    return {
        name: to_region(array, port)
        for name, port, array in zip(node.outputs, writes, found, strict=True)
    }
