"""The bodies of control-flow nodes (If, Loop, Scan) as graphs of their own, to estimate them."""

from collections.abc import Mapping, Set

import numpy as np
import onnx

from stillframe.reuse.frontend.node_order import captured_by
from stillframe.reuse.frontend.shape_inference import MAX_SHAPE_CONSTANT


def standalone_body(
    body: onnx.GraphProto,
    graph: onnx.GraphProto,
    values: Mapping[str, onnx.ValueInfoProto],
    constants: Set[str],
) -> onnx.GraphProto:
    """A body with what it captures: small constants by value, computed ones with the nodes that
    compute them, and everything else as inputs of the same shape.

    graph: the graph around the body, itself without captured tensors. values: shape and dtype of
    that graph's tensors, as far as they are known. constants: names of its constant tensors.
    """
    nodes = list(graph.node)
    writers = {
        name: index for index, node in enumerate(nodes) for name in node.output if name in constants
    }
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    own = {tensor.name for tensor in body.initializer}
    alone = onnx.GraphProto(name=body.name, output=body.output, initializer=body.initializer)
    alone.input.extend(value for value in body.input if value.name not in own)
    visited: set[str] = set()
    needed: set[int] = set()
    queue = captured_by(body)
    while queue:
        name = queue.pop()
        if name in visited:
            continue
        visited.add(name)
        tensor, writer = tensors.get(name), writers.get(name)
        if tensor is not None and np.prod(tensor.dims) <= MAX_SHAPE_CONSTANT:
            alone.initializer.append(tensor)
        elif tensor is not None:
            alone.input.append(
                onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
            )
        elif writer is not None:
            needed.add(writer)
            queue += [each for each in nodes[writer].input if each]
        elif name in values:
            alone.input.append(values[name])
    alone.node.extend(nodes[index] for index in sorted(needed))
    alone.node.extend(body.node)
    return alone
