"""A mutable graph for rewriting rules, and the decorator that turns a rule into a pass.

A rule takes a Draft and one node, perhaps changes the draft, and returns whether it did.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np

from stillframe.reuse.ir.graph import ISLAND, Array, Graph, Node, Shape
from stillframe.reuse.ir.ops import OPS

Pass = Callable[[Graph], Graph]


class Draft:
    """A graph that rules change in place."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[str, Shape] = dict(graph.shapes)
        self.constants: dict[str, Array] = dict(graph.constants)
        self.model_outputs = {port.name for port in graph.outputs}
        # One slot per node of the original graph, holding what replaced it, in execution order.
        self.slots: list[list[Node]] = [[node] for node in graph.nodes]
        self.slot_of: dict[str, int] = {}  # by the first output of the node
        self.writer: dict[str, Node] = {}
        self.readers: dict[str, list[Node]] = {}
        for index, node in enumerate(graph.nodes):
            self.link(node, index)

    # --- queries ----------------------------------------------------------------------------

    def producer(self, name: str, *ops: str) -> Node | None:
        """The node that writes a tensor, if it is one of these operators (any, if none given)."""
        node = self.writer.get(name)
        return node if node is not None and (not ops or node.op in ops) else None

    def read_once(self, name: str) -> bool:
        """One node reads the tensor, once, and it is not an output of the model."""
        return len(self.readers.get(name, ())) == 1 and name not in self.model_outputs

    def position(self, node: Node) -> int:
        """The slot of a node: later nodes have higher ones."""
        return self.slot_of[node.outputs[0]]

    # --- changes ----------------------------------------------------------------------------

    def link(self, node: Node, slot: int) -> None:
        """Record a node that stands in a slot as writer and reader of its tensors."""
        for name in node.outputs:
            self.writer[name] = node
        self.slot_of[node.outputs[0]] = slot
        for name in node.inputs:
            self.readers.setdefault(name, []).append(node)

    def remove(self, node: Node) -> None:
        """Take a node out of its slot and unlink it."""
        self.slots[self.position(node)].remove(node)
        for name in node.outputs:
            del self.writer[name]
        for name in node.inputs:
            self.readers[name].remove(node)

    def unused_name(self, base: str) -> str:
        """A tensor name that is not in use."""
        base = base.split("~")[0]
        count = len(self.shapes)
        while f"{base}~{count}" in self.shapes:
            count += 1
        return f"{base}~{count}"

    def add_constant(self, base: str, value: Any) -> str:
        """Add a float32 constant under a new name that begins like `base`; returns the name."""
        name = self.unused_name(base)
        self.constants[name] = np.array(value, np.float32, order="C")
        self.shapes[name] = self.constants[name].shape
        return name

    def node(
        self, op: str, inputs: Sequence[str], attrs: Mapping[str, Any], output: str = ""
    ) -> Node:
        """A new node, not yet in the graph: `replace` puts it there. Records its output's shape.

        output: its name; empty chooses an unused one.
        """
        output = output or self.unused_name(inputs[0])
        self.shapes[output] = OPS[op].shape(attrs, [self.shapes[name] for name in inputs])
        return Node(op, tuple(inputs), (output,), dict(attrs))

    def replace(self, node: Node, *nodes: Node) -> None:
        """Replace a node by others, the last of which writes its output; prune what is unread."""
        slot = self.position(node)
        index = self.slots[slot].index(node)
        self.remove(node)
        self.slots[slot][index:index] = nodes
        for new in nodes:
            self.link(new, slot)
        self.prune(node.inputs)

    def prune(self, names: Sequence[str]) -> None:
        """Remove the nodes that write these tensors if nothing reads them any more."""
        for name in dict.fromkeys(names):
            writer = self.writer.get(name)
            if writer is None or any(
                self.readers.get(output) or output in self.model_outputs
                for output in writer.outputs
            ):
                continue
            self.remove(writer)
            self.prune(writer.inputs)

    def is_external(self, name: str) -> bool:
        """The model's inputs and outputs and the tensors of islands: their names must stay."""
        model_input = name not in self.writer
        island = any(node.op == ISLAND for node in self.readers.get(name, ()))
        return model_input or island or name in self.model_outputs or self.writer[name].op == ISLAND

    def bypass(self, node: Node) -> bool:
        """Remove a node that copies its input: input and output become one tensor.

        False where both names must stay.
        """
        source, output = node.inputs[0], node.output
        if not self.is_external(output):
            self.rename_reads(output, source)
            self.remove(node)
            self.prune([source])
            return True
        if self.is_external(source):
            return False
        writer = self.writer[source]
        slot = self.position(writer)
        index = self.slots[slot].index(writer)
        self.remove(node)
        self.remove(writer)
        renamed = writer.with_(outputs=(output,))
        self.slots[slot].insert(index, renamed)
        self.link(renamed, slot)
        self.rename_reads(source, output)
        return True

    def rename_reads(self, old: str, new: str) -> None:
        """Let every reader of one tensor read another."""
        for reader in {each.outputs[0]: each for each in self.readers.get(old, ())}.values():
            slot = self.position(reader)
            index = self.slots[slot].index(reader)
            inputs = tuple(new if name == old else name for name in reader.inputs)
            self.remove(reader)
            changed = reader.with_(inputs=inputs)
            self.slots[slot].insert(index, changed)
            self.link(changed, slot)

    def finish(self) -> Graph:
        """The changed graph, without tensors that no node reads or writes."""
        nodes = tuple(node for slot in self.slots for node in slot)
        used = {name for node in nodes for name in (*node.inputs, *node.outputs)}
        used |= self.model_outputs | {port.name for port in self.graph.inputs}
        return Graph(
            nodes=nodes,
            inputs=self.graph.inputs,
            outputs=self.graph.outputs,
            shapes={name: shape for name, shape in self.shapes.items() if name in used},
            constants={name: value for name, value in self.constants.items() if name in used},
            notes=self.graph.notes,
        )


Rule = Callable[[Draft, Node], bool]


def rewrites(*ops: str) -> Callable[[Rule], Pass]:
    """Turn a rule into a pass that applies it to every node of these operators, in order."""

    def decorate(rule: Rule) -> Pass:
        @wraps(rule)
        def sweep(graph: Graph) -> Graph:
            if not any(node.op in ops for node in graph.nodes):
                return graph
            draft = Draft(graph)
            changed = False
            for slot in draft.slots:
                for node in list(slot):
                    if node.op in ops and any(node is present for present in slot):
                        changed |= rule(draft, node)
            return draft.finish() if changed else graph

        return sweep

    return decorate
