"""Calls of an ONNX model -> Graph: converted one by one, partitioned, put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stillframe.reuse.frontend.context import ImportContext, OnnxNode, UnsupportedError
from stillframe.reuse.frontend.convert_nn import CONVERTERS
from stillframe.reuse.frontend.convert_shape import grouped, rearrange
from stillframe.reuse.frontend.partition import Piece, partition, work_us
from stillframe.reuse.ir.graph import ISLAND, Array, Graph, Node, Port, Shape

IslandModel = Callable[[Sequence[OnnxNode], Sequence[str], Sequence[str]], bytes]


@dataclass
class Importer:
    """One model on its way into a graph.

    outputs: names in order. dtypes: of the model's ports, as callers see them. island_model: makes
    the ONNX model of an island from its calls, what it reads and what it writes. written: the
    nodes that each call, or group of calls, became.
    """

    placing: ImportContext
    calls: Sequence[OnnxNode]
    outputs: Sequence[str]
    dtypes: Mapping[str, str]
    island_model: IslandModel
    written: list[list[Node]] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    in_region: set[str] = field(default_factory=set)

    def graph(self) -> Graph:
        onnx_dtypes = dict(self.placing.dtypes)
        groups = grouped(self.calls, self.placing, self.outputs)
        pieces = [self.convert(group) for group in groups]
        self.placing.dtypes = onnx_dtypes
        sizes = {
            name: 4 * int(np.prod(np.maximum(shape, 1)))
            for name, shape in self.placing.onnx_shapes.items()
        }
        steps = partition(pieces, sizes)
        regions = [index for step in steps if step.reason is None for index in step.pieces]
        for node in (node for index in regions for node in self.written[index]):
            self.in_region |= {*node.inputs, *node.outputs}
        nodes: list[Node] = []
        for step in steps:
            if step.reason is None:
                nodes.extend(node for index in step.pieces for node in self.written[index])
            else:
                calls = [call for index in step.pieces for call in groups[index]]
                nodes.append(self.island(calls, step.reason))
        constants = {n: value for n, value in self.constants.items() if n in self.in_region}
        written = [name for node in nodes for name in node.outputs]
        shapes = {name: self.shape(name) for name in (*self.placing.feeds, *written)}
        return Graph(
            nodes=tuple(nodes),
            inputs=tuple(self.outer_port(name) for name in self.placing.feeds),
            outputs=tuple(self.outer_port(name) for name in self.outputs),
            shapes=shapes | {name: value.shape for name, value in constants.items()},
            constants=constants,
        ).check()

    def convert(self, group: Sequence[OnnxNode]) -> Piece:
        """Write the nodes of a call, or of calls that are one operator; else say why not."""
        placing, last = self.placing, group[-1]
        placing.nodes, placing.shapes, placing.constants = [], {}, {}
        reason = None
        try:
            if last.operator not in CONVERTERS:
                raise UnsupportedError("the engine has no such operator")
            if len(group) > 1:
                rearrange(placing, group)
            else:
                CONVERTERS[last.operator](placing, last)
        except UnsupportedError as error:
            placing.nodes = []
            reason = f"{last.operator}: {error}"
            for name in last.outputs:
                placing.placed.pop(name, None)
        else:
            self.shapes |= placing.shapes
            self.constants |= placing.constants
        self.written.append(placing.nodes)
        inner = {name for call in group[:-1] for name in call.outputs}
        reads = [name for call in group for name in call.inputs if name and name not in inner]
        reads = [name for name in dict.fromkeys(reads) if name not in placing.weights]
        work = sum(work_us(node, self.shapes) for node in placing.nodes)
        return Piece(tuple(reads), tuple(filter(None, last.outputs)), reason, work)

    def shape(self, name: str) -> Shape:
        """(H, W, C) of what a region touches, else the ONNX shape."""
        if name not in self.in_region:
            return self.placing.onnx_shapes.get(name, (-1,))
        return self.shapes[name] if name in self.shapes else self.placing.placed[name].shape

    def port(self, name: str) -> Port:
        """A tensor at the border of an island."""
        layout = self.placing.placed[name].layout if name in self.in_region else "raw"
        shape = self.placing.onnx_shapes.get(name, (-1,))
        return Port(name, shape, self.placing.dtypes.get(name, "unknown"), layout)

    def outer_port(self, name: str) -> Port:
        """A tensor at the border of the model."""
        port = self.port(name)
        return Port(name, port.shape, self.dtypes[name], port.layout)

    def island(self, calls: Sequence[OnnxNode], reason: str) -> Node:
        """One node that runs these calls as an ONNX model of their own."""
        inside = {name for call in calls for name in call.outputs}
        indices = {call.index for call in calls}
        known = {"", *inside, *self.placing.weights}
        reads = [name for call in calls for name in call.inputs if name not in known]
        reads = list(dict.fromkeys(reads))
        writes = [
            name
            for call in calls
            for name in call.outputs
            if name in self.outputs
            or any(reader.index not in indices for reader in self.placing.readers.get(name, ()))
        ]
        attrs = {
            "model": self.island_model(calls, reads, writes),
            "reason": reason,
            "reads": tuple(map(self.port, reads)),
            "writes": tuple(map(self.port, writes)),
            "nodes": tuple(f"{call.op} {call.name or call.output}" for call in calls),
        }
        return Node(ISLAND, tuple(reads), tuple(writes), attrs)
