"""The network between ONNX and the plan: a few small frozen classes and a check.

Every tensor of a region is one picture of features, (H, W, C) float32; batch is 1 and has no axis.
Vectors, such as the output of global pooling, are (1, 1, C). Tensors that only islands touch keep
their own ONNX shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Array = NDArray[Any]

ISLAND = "Island"
"""The operator that ONNX Runtime runs. Its attributes: model, the bytes of an ONNX model; reads and
writes, one Port per input and output of the node, in order and by the same names, which are those
inside that model as well; reason, why it is no region; nodes, "operator name" of what it holds."""


@dataclass(frozen=True, slots=True)
class Act:
    """What happens to each number at the end of an operator; `reference.ACTS` lists the kinds.

    a and b are the numbers that some kinds take: leaky (slope), clip (low, high), hardsigmoid
    (alpha, beta), elu (alpha). The slopes of "prelu", one per channel, are the node's last input.
    """

    kind: str
    a: float = 0.0
    b: float = 0.0


@dataclass(frozen=True, slots=True)
class Node:
    """One operator call. Names are tensor names; a graph holds its nodes in execution order."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The only output; every operator of a region has one, only islands may have more."""
        (name,) = self.outputs
        return name

    def with_(self, **changes: Any) -> "Node":
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor at the border: what callers feed or get.

    name, shape and dtype are the model's own, -1 in shape is a size that only a run can tell;
    layout says how the tensor maps to (H, W, C): "raw" not at all, only islands touch it; "NHWC":
    the (H, W, C) array reshaped to shape; "NCHW": its channels first, (C, H, W), reshaped to shape.
    """

    name: str
    shape: Shape
    dtype: str
    layout: str


@dataclass(frozen=True, slots=True)
class Graph:
    """nodes in execution order; shapes of every tensor, constants included; constants' values.

    notes say in words what was done to the model that a user should know.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, Array]
    notes: tuple[str, ...] = ()

    def check(self) -> "Graph":
        """Raise ValueError naming the first node that breaks a rule; return the graph itself."""
        known = set(self.constants) | {port.name for port in self.inputs}
        for index, node in enumerate(self.nodes):
            where = f"node {index} {node.op} -> {', '.join(map(repr, node.outputs))}"
            for name in node.inputs:
                if name not in known:
                    raise ValueError(f"{where} reads {name!r} before anything writes it")
            for name in node.outputs:
                if name in known:
                    raise ValueError(f"{where} writes {name!r}, which is already written")
                if name not in self.shapes:
                    raise ValueError(f"{where}: the shape of {name!r} is not known")
                known.add(name)
        for port in self.outputs:
            if port.name not in known:
                raise ValueError(f"output {port.name!r} is not written by any node")
        for name, value in self.constants.items():
            if tuple(np.shape(value)) != tuple(self.shapes.get(name, ())):
                raise ValueError(f"constant {name!r} is {np.shape(value)}, declared otherwise")
        return self

    def readers(self) -> dict[str, list[int]]:
        """Tensor name -> indices of the nodes that read it, in order."""
        found: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.inputs:
                found.setdefault(name, []).append(index)
        return found
