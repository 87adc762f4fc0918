"""What rewriting rules work with: a graph that can be changed, and the sweep that makes a pass.

A rule is given a Draft and one node, changes the draft or not, and says whether it did.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import numpy as np

from stillframe.reuse.ir.graph import ISLAND, Array, Graph, Node, Shape
from stillframe.reuse.ir.ops import OPS

Pass = Callable[[Graph], Graph]


class Draft:
    """A graph under change. Nodes are known by their first output."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[str, Shape] = dict(graph.shapes)
        self.constants: dict[str, Array] = dict(graph.constants)
        self.kept = {port.name for port in graph.outputs}
        self.slots: list[list[Node]] = [[node] for node in graph.nodes]
        self.writer: dict[str, Node] = {}
        self.place: dict[str, int] = {}
        self.readers: dict[str, list[Node]] = {}
        for index, node in enumerate(graph.nodes):
            self.enter(node, index)

    # looking

    def made_by(self, name: str, *ops: str) -> Node | None:
        """The node that writes a tensor, if it is one of these operators (any, if none given)."""
        node = self.writer.get(name)
        return node if node is not None and (not ops or node.op in ops) else None

    def sole(self, name: str) -> bool:
        """Read exactly once, and by nobody outside."""
        return len(self.readers.get(name, ())) == 1 and name not in self.kept

    def position(self, node: Node) -> int:
        return self.place[node.outputs[0]]

    # changing

    def enter(self, node: Node, slot: int) -> None:
        for name in node.outputs:
            self.writer[name] = node
        self.place[node.outputs[0]] = slot
        for name in node.inputs:
            self.readers.setdefault(name, []).append(node)

    def leave(self, node: Node) -> None:
        self.slots[self.position(node)].remove(node)
        for name in node.outputs:
            del self.writer[name]
        for name in node.inputs:
            self.readers[name].remove(node)

    def fresh(self, base: str) -> str:
        """A tensor name that is not in use."""
        base = base.split("~")[0]
        count = len(self.shapes)
        while f"{base}~{count}" in self.shapes:
            count += 1
        return f"{base}~{count}"

    def hold(self, base: str, value: Any) -> str:
        """Keep a float32 constant; returns its name."""
        name = self.fresh(base)
        self.constants[name] = np.array(value, np.float32, order="C")
        self.shapes[name] = self.constants[name].shape
        return name

    def node(
        self, op: str, inputs: Sequence[str], attrs: Mapping[str, Any], output: str = ""
    ) -> Node:
        """A node with its output's shape noted; its output gets a name if none is given.

        It stands nowhere before `replace` puts it in.
        """
        output = output or self.fresh(inputs[0])
        self.shapes[output] = OPS[op].shape(attrs, [self.shapes[name] for name in inputs])
        return Node(op, tuple(inputs), (output,), dict(attrs))

    def replace(self, node: Node, *nodes: Node) -> None:
        """Put nodes in the place of one; the last writes what it wrote. The unread go."""
        slot = self.position(node)
        at = self.slots[slot].index(node)
        self.leave(node)
        self.slots[slot][at:at] = nodes
        for new in nodes:
            self.enter(new, slot)
        self.prune(node.inputs)

    def prune(self, names: Sequence[str]) -> None:
        """Take out the nodes that wrote these tensors, if nothing reads them any more."""
        for name in dict.fromkeys(names):
            writer = self.writer.get(name)
            if writer is None or any(
                self.readers.get(output) or output in self.kept for output in writer.outputs
            ):
                continue
            self.leave(writer)
            self.prune(writer.inputs)

    def fixed(self, name: str) -> bool:
        """Callers or an island know the tensor by this name."""
        fed = name not in self.writer
        island = any(node.op == ISLAND for node in self.readers.get(name, ()))
        return fed or island or name in self.kept or self.writer[name].op == ISLAND

    def forward(self, node: Node) -> bool:
        """Give the node's only input and its output one name, and take the node out.

        False where both names are fixed.
        """
        source, output = node.inputs[0], node.output
        if not self.fixed(output):
            self.rename_reads(output, source)
            self.leave(node)
            self.prune([source])
            return True
        if self.fixed(source):
            return False
        writer = self.writer[source]
        slot = self.position(writer)
        at = self.slots[slot].index(writer)
        self.leave(node)
        self.leave(writer)
        renamed = writer.with_(outputs=(output,))
        self.slots[slot].insert(at, renamed)
        self.enter(renamed, slot)
        self.rename_reads(source, output)
        return True

    def rename_reads(self, old: str, new: str) -> None:
        for reader in {each.outputs[0]: each for each in self.readers.get(old, ())}.values():
            slot = self.position(reader)
            at = self.slots[slot].index(reader)
            inputs = tuple(new if name == old else name for name in reader.inputs)
            self.leave(reader)
            changed = reader.with_(inputs=inputs)
            self.slots[slot].insert(at, changed)
            self.enter(changed, slot)

    def finish(self) -> Graph:
        """The graph as it stands, without what nothing reads."""
        nodes = tuple(node for slot in self.slots for node in slot)
        used = {name for node in nodes for name in (*node.inputs, *node.outputs)}
        used |= self.kept | {port.name for port in self.graph.inputs}
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
    """Make a pass of a rule: it is shown every node of these operators, from first to last."""

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
