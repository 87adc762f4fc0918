"""The nodes of an ONNX graph in execution order. ONNX Runtime runs and writes them in any order."""

from heapq import heapify, heappop, heappush

import onnx

from stillframe.errors import ModelError


def captured_names(node: onnx.NodeProto) -> list[str]:
    """Outer tensors that the subgraphs of a control-flow node (If, Loop, Scan) read."""
    return list(dict.fromkeys(name for graph in subgraphs(node) for name in captured_by(graph)))


def captured_by(graph: onnx.GraphProto) -> list[str]:
    """Outer tensors that a subgraph reads."""
    own = {value.name for value in [*graph.input, *graph.initializer]}
    own |= {name for inner in graph.node for name in inner.output}
    reads = [name for inner in graph.node for name in [*inner.input, *captured_names(inner)]]
    reads += [value.name for value in graph.output]
    return list(dict.fromkeys(name for name in reads if name and name not in own))


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    return [
        graph
        for attribute in node.attribute
        for graph in (
            [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        )
    ]


def node_title(node: onnx.NodeProto) -> str:
    """How errors name a node: its name, or else its first output, and the operator."""
    shown = node.name or (node.output[0] if node.output else "")
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    return f"node {shown!r} ({operator})"


def sort_nodes(graph: onnx.GraphProto, title: str) -> None:
    """Bring the nodes into execution order, those of subgraphs too; what is in order stays so.

    Raises ModelError if nodes read each other's outputs in a circle.
    """
    nodes = list(graph.node)
    writers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if name:
                writers.setdefault(name, index)
        for inner in subgraphs(node):
            sort_nodes(inner, title)
    readers: list[list[int]] = [[] for _ in nodes]
    missing = [0] * len(nodes)  # how many nodes must still run before this one
    for index, node in enumerate(nodes):
        needed = {writers[name] for name in [*node.input, *captured_names(node)] if name in writers}
        missing[index] = len(needed)
        for writer in needed:
            readers[writer].append(index)
    ready = [index for index, count in enumerate(missing) if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = [node_title(node) for node, count in zip(nodes, missing, strict=True) if count]
        raise ModelError(
            f"{title}: expected nodes that can run one after the other; {', '.join(stuck[:3])}"
            f"{' and more' if len(stuck) > 3 else ''} wait for each other's outputs"
        )
    if order != list(range(len(nodes))):
        del graph.node[:]
        graph.node.extend(nodes[index] for index in order)
