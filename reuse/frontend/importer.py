"""ONNX nodes -> Graph: converted one by one, partitioned, assembled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stillframe.reuse.frontend.context import (
    FACTORED,
    ImportContext,
    OnnxNode,
    UnsupportedError,
    WrongShapeError,
)
from stillframe.reuse.frontend.convert_nn import CONVERTERS
from stillframe.reuse.frontend.convert_shape import convert_chain, merge_nodes
from stillframe.reuse.frontend.node_work import multiply_adds
from stillframe.reuse.frontend.partition import Partition, Piece, partition, work_us
from stillframe.reuse.ir.graph import ISLAND, Array, Graph, Node, Port, Shape

IslandModel = Callable[[Sequence[OnnxNode], Sequence[str], Sequence[str]], bytes]

UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a converter raises on attributes that it did not foresee. ONNX Runtime has taken the model,
so it knows what they mean: the node becomes an island."""


@dataclass
class Importer:
    """Builds the graph of one model."""

    context: ImportContext
    onnx_nodes: Sequence[OnnxNode]
    """In execution order."""
    outputs: Sequence[str]
    """The model's outputs, in order."""
    dtypes: Mapping[str, str]
    """Dtype of each model input and output, as the file declares it."""
    island_model: IslandModel
    """(nodes, names read, names written) -> the ONNX model of an island."""
    converted: list[list[Node]] = field(default_factory=list)
    """Graph nodes that each group of ONNX nodes became; empty where the engine cannot run it."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    in_region: set[str] = field(default_factory=set)
    """Tensors that a region reads or writes."""

    def graph(self) -> Graph:
        """Convert, partition and assemble; raises ValueError if the result breaks a rule."""
        context = self.context
        onnx_dtypes = dict(context.dtypes)
        groups = merge_nodes(self.onnx_nodes, context, self.outputs)
        pieces = [self.convert(group) for group in groups]
        context.dtypes = onnx_dtypes
        sizes = {
            name: 4 * int(np.prod(np.maximum(shape, 1)))
            for name, shape in context.onnx_shapes.items()
        }
        partitions = self.partitions(pieces, sizes)
        for part in partitions:
            if part.reason is None:
                for node in (node for index in part.pieces for node in self.converted[index]):
                    self.in_region |= {*node.inputs, *node.outputs}
        nodes: list[Node] = []
        for part in partitions:
            if part.reason is None:
                nodes.extend(node for index in part.pieces for node in self.converted[index])
            else:
                members = [node for index in part.pieces for node in groups[index]]
                nodes.append(self.island(members, part.reason))
        constants = {n: value for n, value in self.constants.items() if n in self.in_region}
        written = [name for node in nodes for name in node.outputs]
        shapes = {name: self.shape(name) for name in (*context.input_names, *written)}
        return Graph(
            nodes=tuple(nodes),
            inputs=tuple(self.model_port(name) for name in context.input_names),
            outputs=tuple(self.model_port(name) for name in self.outputs),
            shapes=shapes | {name: value.shape for name, value in constants.items()},
            constants=constants,
        ).check()

    def check_outputs(self, node: OnnxNode) -> None:
        """Raise UnsupportedError where the model returns a tensor that no island could take."""
        layouts = self.context.layouts
        for name in node.outputs:
            if name in self.outputs and name in layouts and layouts[name].order == FACTORED:
                if node.op == "Transpose":
                    shape = list(self.context.onnx_shape(node.inputs[0]))
                    raise UnsupportedError(
                        f"axes {list(node.attrs['perm'])} of {shape}: neither to NHWC nor to NCHW"
                    )
                raise UnsupportedError(f"returns {name!r}, whose axes are no picture's")

    def partitions(self, pieces: list[Piece], sizes: Mapping[str, int]) -> list[Partition]:
        """Regions and islands, with no factored tensor between the two: its writer or reader then
        joins the island."""
        layouts = self.context.layouts
        while True:
            parts = partition(pieces, sizes)
            islands = {index for part in parts if part.reason is not None for index in part.pieces}
            joined = set[int]()
            writer = {name: index for index, piece in enumerate(pieces) for name in piece.outputs}
            for index, piece in enumerate(pieces):
                for name in piece.inputs:
                    layout = layouts.get(name)
                    source = writer.get(name)
                    if source is None or layout is None or layout.order != FACTORED:
                        continue
                    if (index in islands) != (source in islands):
                        joined.add(source if index in islands else index)
            if not joined:
                return parts
            for index in joined:
                pieces[index] = replace(pieces[index], reason="")

    def convert(self, group: Sequence[OnnxNode]) -> Piece:
        """Convert one ONNX node, or a chain that is one operator; the piece says if that failed."""
        context, last = self.context, group[-1]
        context.nodes, context.shapes, context.constants = [], {}, {}
        reason = None
        unknown = [name for name in last.outputs if name and name not in context.onnx_shapes]
        try:
            if last.operator not in CONVERTERS:
                raise UnsupportedError("the engine has no such operator")
            if len(group) > 1:
                convert_chain(context, group)
            else:
                CONVERTERS[last.operator](context, last)
            self.check_outputs(last)
        except (UnsupportedError, *UNREADABLE) as error:
            context.nodes = []
            unforeseen = isinstance(error, UNREADABLE)
            text = f"cannot be read ({type(error).__name__}: {error})" if unforeseen else error
            reason = f"{last.operator}: {text}"
            for name in last.outputs:
                context.layouts.pop(name, None)
        else:
            for name in unknown:  # an operator that ONNX does not know: what follows is inferred
                if name in context.onnx_shapes and context.readers.get(name):
                    raise WrongShapeError(name, context.onnx_shapes[name])
            self.shapes |= context.shapes
            self.constants |= context.constants
        self.converted.append(context.nodes)
        inner = {name for node in group[:-1] for name in node.outputs}
        reads = [name for node in group for name in node.inputs if name and name not in inner]
        reads = [name for name in dict.fromkeys(reads) if name not in context.weights]
        work = sum(work_us(node, self.shapes) for node in context.nodes)
        return Piece(tuple(reads), tuple(filter(None, last.outputs)), reason, work)

    def shape(self, name: str) -> Shape:
        """(H, W, C) of a tensor that a region touches, else its ONNX shape."""
        if name not in self.in_region:
            return self.context.onnx_shapes.get(name, (-1,))
        return self.shapes[name] if name in self.shapes else self.context.layouts[name].shape

    def port(self, name: str) -> Port:
        """A tensor that enters or leaves an island."""
        layout = self.context.layouts[name].order if name in self.in_region else "raw"
        shape = self.context.onnx_shapes.get(name, (-1,))
        return Port(name, shape, self.context.dtypes.get(name, "unknown"), layout)

    def model_port(self, name: str) -> Port:
        """An input or output of the model."""
        port = self.port(name)
        return Port(name, port.shape, self.dtypes[name], port.layout)

    def island(self, members: Sequence[OnnxNode], reason: str) -> Node:
        """One graph node that runs these ONNX nodes as a sub-model."""
        inner = {name for node in members for name in node.outputs}
        indices = {node.index for node in members}
        known = {"", *inner, *self.context.weights}
        reads = [name for node in members for name in node.inputs if name not in known]
        reads = list(dict.fromkeys(reads))
        writes = [
            name
            for node in members
            for name in node.outputs
            if name in self.outputs
            or any(reader.index not in indices for reader in self.context.readers.get(name, ()))
        ]
        attrs = {
            "model": self.island_model(members, reads, writes),
            "reason": reason,
            "reads": tuple(map(self.port, reads)),
            "writes": tuple(map(self.port, writes)),
            "multiply_adds": multiply_adds(members, self.context),
            "nodes": tuple(f"{node.op} {node.name or node.output}" for node in members),
        }
        return Node(ISLAND, tuple(reads), tuple(writes), attrs)
